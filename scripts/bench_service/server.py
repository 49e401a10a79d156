"""The service under test, as a child process on loopback ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Server:
    pid: int
    http_port: int
    grpc_port: int


@contextlib.contextmanager
def running(
    model: str, flags: list[str], settings: dict[str, Any] | None = None
) -> Iterator[Server]:
    """`openai_frontend.api_server`, ready. Its log is shown when it does not start."""
    http_port, grpc_port = _free_port(), _free_port()
    command = [sys.executable, "-m", "openai_frontend.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(http_port), "--triton-grpc-port", str(grpc_port)]
    command += ["--max-concurrency", "2048", *flags]
    if model:
        command += ["--model", model]
    environment = {**os.environ, "ERNIE_SERVING": json.dumps(settings or {})}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_ready(process, http_port)
            yield Server(process.pid, http_port, grpc_port)
        except RuntimeError:
            log.seek(0)
            sys.stderr.buffer.write(log.read())
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{port}/health"
            with urllib.request.urlopen(url, timeout=1):
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {START_TIMEOUT_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
