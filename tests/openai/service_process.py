"""The whole service as a user starts it: launcher, tritonserver, engine, HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from openai_frontend.tritonserver import free_port
from tests.serving_settings import serving_settings

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 180.0
SHARED_MEMORY = Path("/dev/shm")


class ServiceProcess:
    """Use as a context manager; whatever happens, nothing stays behind."""

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._shm_before = {file.name for file in SHARED_MEMORY.iterdir()}
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "openai_frontend.api_server"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--triton-grpc-port", str(self.grpc_port)),
                *flags,
            ],
            cwd=ROOT,
            env={**os.environ, "ERNIE_SERVING": json.dumps(serving_settings(**settings))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As a shell does for a foreground job, so that a Ctrl-C can be imitated.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.children: list[psutil.Process] = []

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        for patience_s in (1, 15):  # the second signal ends also what would have to be drained
            if self.is_running:
                self.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience_s)
        self.note_children()
        for process in [psutil.Process(self.pid), *self.children] if self.is_running else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        self._reader.join(5)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return "".join(self._lines)

    def wait_ready(self) -> ServiceProcess:
        self.wait_for(lambda: "Uvicorn running on" in self.log(), READY_TIMEOUT_S)
        self.note_children()
        return self

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 10.0) -> float:
        """Seconds until `condition` held; fails with the log when it does not."""
        start = time.monotonic()
        while not condition():
            assert self.is_running, f"the service ended:\n{self.log()}"
            assert time.monotonic() - start < timeout_s, f"it did not happen:\n{self.log()}"
            time.sleep(0.02)
        return time.monotonic() - start

    def note_children(self) -> None:
        if self.is_running:
            self.children = psutil.Process(self.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """The descendant whose command line contains `name`."""
        self.note_children()
        found = []
        for process in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        assert found, f"no process {name!r} under the launcher"
        return found[0]

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def press_ctrl_c(self) -> None:
        """SIGINT to the whole foreground group, as a terminal sends it."""
        os.killpg(self.pid, signal.SIGINT)

    def wait_exit(self, timeout_s: float) -> int:
        status = self._process.wait(timeout_s)
        self._reader.join(5)
        return status

    def assert_nothing_is_left(self) -> None:
        """No process, no port, no shared memory of ours."""
        assert [child for child in self.children if _is_alive(child)] == []
        for port in (self.port, self.grpc_port):
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}", timeout=2)
                raise AssertionError(f"port {port} is still served")
        names = {file.name for file in SHARED_MEMORY.iterdir()} - self._shm_before
        pids = "|".join(str(child.pid) for child in self.children) or "none"
        assert [name for name in names if re.match(rf"ernie-\w+-({pids})-", name)] == []

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        match = re.search(rf"^fastdeploy:{re.escape(name)} (\S+)$", text, re.M)
        assert match, f"no metric {name}"
        return float(match[1])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.append(line)


def _is_alive(process: psutil.Process) -> bool:
    """An orphan that has ended is not: its new parent may be slow to collect it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stream_lines(service: ServiceProcess, body: dict[str, Any]) -> Iterator[str]:
    """The `data:` payloads of a streamed chat; closing the iterator disconnects."""
    url = f"{service.url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: "):
                yield line[6:]
