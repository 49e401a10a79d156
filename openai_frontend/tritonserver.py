"""A tritonserver as a child process: started with the right environment, watched, stopped for sure.

    server = TritonProcess()
    server.start([f"--model-repository={folder}"], {"ERNIE_MODEL": "checkpoints/tiny"})
    server.wait_ready(timeout_s=600)        # server.grpc_url, server.http_url
    server.stop(grace_s=30)

`python -m openai_frontend.tritonserver --model-repository=model_repository` runs the server in the
foreground with exactly the arguments given: plain tritonserver, also from the wheel.

After `stop` (or the death of the process that called `start`) nothing is left: no stub, no engine,
no file in /dev/shm, no temporary folder.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from backend.errors import ConfigError, EngineUnavailableError
from openai_frontend.triton_installation import TritonInstallation, find_tritonserver

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
MIN_SHARED_MEMORY_BYTES = 32 * 2**20
FOLDER_PREFIX = "ernie-tritonserver-"

# Runs in the child before the server: die (by a clean SIGTERM) with the thread that started it.
# A `preexec_fn` would do the same but is not safe in a process with threads.
_EXEC_WITH_PARENT = (
    "import ctypes,os,signal,sys;"
    "ctypes.CDLL(None).prctl(1,int(signal.SIGTERM));"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)

# What a model's initialize raised; Triton adds the place, which is for the log alone.
_LOAD_FAILURE = re.compile(
    r"""failed to load '(\w+)' version \d+: [\w ]+: (?:TritonModelException: )?(.*?)(?:\\n|"\n)"""
)


class TritonProcess:
    """One tritonserver. `start` must be called from a thread that lives as long as the server.

    The three ports are on `host`; 0 means a free one. `echo` receives the server's log as it
    comes; the last `log_lines` lines are kept for error messages.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        echo: TextIO | None = None,
        log_lines: int = 5000,
        installation: TritonInstallation | None = None,
    ) -> None:
        self.host = host
        self.http_port = http_port or free_port(host)
        self.grpc_port = grpc_port or free_port(host)
        self.metrics_port = metrics_port or free_port(host)
        self._echo = echo
        self._lines: collections.deque[str] = collections.deque(maxlen=log_lines)
        self._installation = installation
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._folder: Path | None = None
        self._shm_prefix = f"ernie-triton-{uuid.uuid4().hex[:12]}-"

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """Exit status once the server ended (negative: the signal that ended it)."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """The last lines of the server's, the stubs' and the engine's output."""
        return "".join(list(self._lines))

    def start(self, args: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the server with `args` besides addresses and ports, `env` added to this process's.

        Raises ConfigError when no server is installed, its Python backend cannot work here, or
        /dev/shm is too small.
        """
        if self._process is not None:
            raise ConfigError("this tritonserver was started before; make a new TritonProcess")
        environ = {**os.environ, **(env or {})}
        command = [
            *(f"--{name}-address={self.host}" for name in ("http", "grpc", "metrics")),
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            *args,
        ]
        self._launch(command, environ, capture=True)

    def run_plain(self, args: Sequence[str]) -> None:
        """Start the server with `args` alone, its output going where this process's goes."""
        self._launch([*args], dict(os.environ), capture=False)

    def wait_ready(self, timeout_s: float) -> None:
        """Block until every model is loaded.

        Raises EngineUnavailableError with the server's reason when it ends, or does not get ready
        in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if not self.is_running:
                self._join_reader()
                raise EngineUnavailableError(
                    f"tritonserver ended with status {self.returncode}: {self.failure_reason()}"
                )
            if time.monotonic() > deadline:
                raise EngineUnavailableError(f"tritonserver was not ready within {timeout_s:.0f} s")
            time.sleep(0.1)

    def is_ready(self, timeout_s: float = 2.0) -> bool:
        """Whether /v2/health/ready answers 200."""
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=timeout_s)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def failure_reason(self) -> str:
        """Why the server could not start, in the words of the models that failed to load."""
        text = self.log()
        failures = [f"{model}: {reason}" for model, reason in _LOAD_FAILURE.findall(text)]
        if failures:
            return "; ".join(dict.fromkeys(failures))
        lines = text.splitlines()
        errors = [line for line in lines if line.startswith("E") or "rror: " in line]
        return (errors or lines or ["it printed nothing"])[-1]

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the server to end by itself; None when it did not within `timeout_s`."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """Ask the server to end (SIGTERM): it refuses new requests and finishes direct ones."""
        if self.is_running and self._process is not None:
            self._process.terminate()

    def stop(self, grace_s: float = 30.0) -> int | None:
        """SIGTERM, after `grace_s` SIGKILL, then remove what a killed server leaves behind.

        Returns the exit status; None when the server was never started. May be called twice.
        """
        if self._process is None:
            self._remove_files()
            return None
        self.terminate()
        if self.wait(grace_s) is None:
            self._process.kill()
            self._process.wait()
        # Stubs notice within 300 ms that their server is gone; a stopped one never would.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._join_reader()
        self._remove_files()
        return self._process.returncode

    def _launch(self, arguments: list[str], environ: dict[str, str], capture: bool) -> None:
        _check_shared_memory()
        _sweep_folders()
        installation = self._installation or find_tritonserver(environ)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        try:
            more, libraries = installation.prepare(self._folder)
        except ConfigError:
            self._remove_files()
            raise
        environ["PATH"] = os.pathsep.join([str(Path(sys.prefix, "bin")), environ.get("PATH", "")])
        known = environ.get("LD_LIBRARY_PATH")
        if libraries:
            environ["LD_LIBRARY_PATH"] = os.pathsep.join(
                [*map(str, libraries), *([known] if known else [])]
            )
        command = [str(installation.executable), *more, *arguments]
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _EXEC_WITH_PARENT, str(os.getpid()), *command],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.STDOUT if capture else None,
            text=True,
            errors="replace",
            # A group of its own: Ctrl-C must reach the launcher alone, which drains first.
            start_new_session=True,
        )
        if capture:
            self._reader = threading.Thread(
                target=self._read_log, name="tritonserver-log", daemon=True
            )
            self._reader.start()

    def _read_log(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self._process.stdout as output:
            for line in output:
                self._lines.append(line)
                if self._echo is not None:
                    with contextlib.suppress(OSError, ValueError):
                        self._echo.write(line)
                        self._echo.flush()

    def _join_reader(self) -> None:
        if self._reader is not None:
            self._reader.join(timeout=2.0)

    def _remove_files(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        for file in SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
            file.unlink(missing_ok=True)


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on, below the range the kernel gives to outgoing connections.

    tritonserver binds its ports only when all models are loaded, minutes later perhaps; a port of
    the ephemeral range could be gone by then.
    """
    for port in random.sample(range(20000, 32000), 200):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no free port on {host} in 20000-32000")


def _check_shared_memory() -> None:
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        raise ConfigError(f"{SHARED_MEMORY} is missing; Triton's Python backend needs it") from None
    if free < MIN_SHARED_MEMORY_BYTES:
        raise ConfigError(
            f"{SHARED_MEMORY} has {free // 2**20} MiB free and needs at least "
            f"{MIN_SHARED_MEMORY_BYTES // 2**20} (container: --shm-size=1g)"
        )


def _sweep_folders() -> None:
    """Remove the folders of links that killed processes left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    server = TritonProcess()

    def forward(number: int, frame: FrameType | None) -> None:
        server.terminate()

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    try:
        server.run_plain(arguments)
    except ConfigError as error:
        print(f"tritonserver: {error}", file=sys.stderr)
        return 2
    status = server.wait()
    server.stop(grace_s=0)
    return status if status is not None and status >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
