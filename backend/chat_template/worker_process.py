"""Keeps one `jinja_worker` process alive and asks it, with a deadline."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from backend.errors import ConfigError, InternalError

START_LIMIT_S = 60.0
RENDER_LIMIT_S = 5.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """One request at a time. A worker that dies, hangs or uses too much memory is replaced."""

    def __init__(self, template: str, variables: dict[str, str]) -> None:
        """Start it. Raises ConfigError when the template does not compile."""
        self._lock = threading.Lock()
        self._setup = {"template": template, "variables": variables}
        self._process: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._start()

    def render(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply. Raises InternalError when the limits of time or memory are passed."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()
            reply = self._ask(request, RENDER_LIMIT_S)
            if reply.get("error") == "memory":
                self._stop()
                reply = {}
        if not reply:
            raise InternalError(
                f"the checkpoint's chat template took more than {RENDER_LIMIT_S:g} s or too much "
                "memory for these messages",
                code="chat_template_failed",
            )
        return reply

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [_interpreter(), "-m", "backend.chat_template.jinja_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_PACKAGE_ROOT,
            env=environment,
        )
        reply = self._ask(self._setup, START_LIMIT_S)
        if not reply.get("ok"):
            self._stop()
            reason = reply.get("message") or "the process that renders it does not start"
            raise ConfigError(f"the chat template cannot be used: {reason}")

    def _ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Send one line and read one; {} (and no process) when it fails."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return {}
        deadline = time.monotonic() + limit_s
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout.fileno(), deadline)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self._stop()
            return {}
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # an unsent rest of a request to a dead worker


def _read_line(descriptor: int, deadline: float) -> bytes:
    chunks: list[bytes] = []
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            return b""
        chunk = os.read(descriptor, 1 << 16)
        chunks.append(chunk)
        if not chunk or chunk.endswith(b"\n"):
            return b"".join(chunks)


def _interpreter() -> str:
    """Inside Triton's Python stub, sys.executable is empty or the stub itself."""
    for prefix in (sys.prefix, sys.base_prefix):
        path = Path(prefix) / "bin" / "python3"
        if path.exists():
            return str(path)
    return sys.executable
