"""Keeps one engine process alive: starts it, listens to it, kills it when it hangs, and again.

    starting ──Ready──▶ ready ──death, hang──▶ restarting ──Ready──▶ ready
        └──Failed──▶ failed      5 restarts in 10 minutes ──▶ failed

One thread does all of it, and it must live as long as the stub: the kernel kills the child with
the *thread* that made it. A hang (no heartbeat) is turned into a death by a kill, so that there is
one way down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from backend.config.serving import EngineSettings
from backend.engine.protocol import (
    Blob,
    Configure,
    Connection,
    ConnectionClosed,
    Failed,
    Heartbeat,
    Message,
    Outputs,
    Ready,
)
from backend.errors import EngineUnavailableError, ErrorInfo, InternalError
from backend.wire import EngineOutput

MAX_RESTARTS = 5
RESTART_WINDOW_S = 600.0
MIN_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
SHUTDOWN_GRACE_S = 3.0

State = Literal["starting", "ready", "restarting", "failed", "stopped"]

log = logging.getLogger("ernie_engine")


class Listener(Protocol):
    """Called by the supervisor's thread; must not block."""

    def on_outputs(self, outputs: list[EngineOutput]) -> None: ...
    def on_tokens(self, tokens: dict[str, list[int]]) -> None: ...
    def on_down(self, error: EngineUnavailableError) -> None: ...


# `python -m` would look for the package in the server's working directory first.
_RUN_PROCESS = (
    "import runpy,sys;sys.path.insert(0,sys.argv.pop(1));"
    "runpy.run_module('backend.engine.process',run_name='__main__',alter_sys=True)"
)


def engine_command(descriptor: int) -> list[str]:
    """The child's command line. In a stub sys.executable is the stub itself."""
    python = str(Path(sys.prefix, "bin", "python3"))
    root = str(Path(__file__).parents[2])
    return [python, "-I", "-c", _RUN_PROCESS, root, str(descriptor), str(os.getpid())]


class Supervisor:
    def __init__(
        self,
        settings: EngineSettings,
        listener: Listener,
        command: Callable[[int], list[str]] = engine_command,
        min_backoff_s: float = MIN_BACKOFF_S,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._command = command
        self._min_backoff_s = min_backoff_s
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stats: dict[str, Any] = {}
        self._last_heartbeat = time.monotonic()
        self._last_check = 0.0
        self._watched_since = 0.0
        self._load_time_s = 1.0
        self._deaths: list[float] = []
        self._load_error: ErrorInfo | None = None
        self._hang = ""
        self._stopping = threading.Event()
        self._first_outcome = threading.Event()
        self._was_loaded = False
        self.state: State = "starting"
        self.num_restarts = 0
        self.last_failure = ""
        self._thread = threading.Thread(target=self._run, name="engine-supervisor", daemon=True)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    def start(self) -> None:
        """Start the engine and wait until it serves, however long the checkpoint takes.

        Raises EngineUnavailableError with the engine's own words when it cannot.
        """
        self._thread.start()
        self._first_outcome.wait()
        if not self._was_loaded:  # its state may have moved on already
            raise EngineUnavailableError(self.last_failure)

    def send(self, message: Message, blobs: Sequence[Blob] = ()) -> None:
        """Raises EngineUnavailableError when the engine is not there to take it, and
        RequestTooLargeError."""
        connection = self._connection
        if self.state != "ready" or connection is None:
            raise self.unavailable()
        try:
            connection.send(message, blobs)
        except ConnectionClosed:
            raise self.unavailable() from None

    def unavailable(self) -> EngineUnavailableError:
        """The error for a request that comes while the engine is down."""
        if self.state == "failed":
            return EngineUnavailableError(
                f"the engine failed {len(self._deaths)} times in {RESTART_WINDOW_S / 60:.0f} "
                f"minutes and is not restarted any more: {self.last_failure}",
                code="engine_failed",
            )
        if self.state == "stopped":
            return EngineUnavailableError("the server is shutting down", code="shutting_down")
        return EngineUnavailableError(
            f"the engine is restarting: {self.last_failure or 'its process ended'}",
            code="engine_restarting",
            retry_after_s=round(self._backoff_s() + self._load_time_s, 1),
        )

    def check(self) -> None:
        """Kill an engine whose main loop gave no sign of life for too long. Call now and then.

        A time in which this was not called counts as none: a frozen container's engine was frozen
        too, and its next heartbeat is on its way.
        """
        now = time.monotonic()
        if now - self._last_check > self._settings.hang_timeout_s / 2:
            self._watched_since = now
        self._last_check = now
        silence_s = now - max(self._last_heartbeat, self._watched_since)
        process = self._process
        if process is None or process.poll() is not None or self._connection is None:
            return
        if silence_s > self._settings.hang_timeout_s:
            self._hang = f"the engine gave no sign of life for {silence_s:.0f} s and was killed"
            log.error("%s", self._hang)
            # The engine prints the stacks of all its threads first: it is the only clue left.
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGUSR1)
                self._stopping.wait(0.5)
                process.kill()

    def stats(self) -> dict[str, Any]:
        """The engine's last reported numbers with the supervisor's own; flat."""
        return {
            **self._stats,
            "state": self.state,
            "engine_up": int(self.is_ready),
            "engine_restarts": self.num_restarts,
            "engine_pid": self.pid or 0,
            "heartbeat_age_s": round(time.monotonic() - self._last_heartbeat, 3),
            "last_failure": self.last_failure,
        }

    def stop(self) -> None:
        """End the engine process, by force after a while. No restart after this."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.shutdown()
        if self._thread.is_alive():
            self._thread.join()
        self.state = "stopped"

    # ---- the supervisor's thread ----------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._live_once()
            if self._stopping.is_set():
                break
            self._note_death()
            if not self._was_loaded or self._has_given_up():
                self.state = "failed"
                log.error("the engine stays down: %s", self.last_failure)
                self._listener.on_down(self.unavailable())
                break
            self.state = "restarting"
            log.error("the engine is down and will be restarted: %s", self.last_failure)
            self._listener.on_down(self.unavailable())
            self._stopping.wait(self._backoff_s())
            self.num_restarts += 1
        self._first_outcome.set()

    def _live_once(self) -> None:
        """One life of the engine process, from its start to its end."""
        self._load_error, self._hang = None, ""
        self._last_heartbeat = time.monotonic()
        try:
            ours = self._spawn()
        except OSError as error:  # no memory, no process or no descriptor left: this may pass
            self._load_error = InternalError(f"the engine process cannot be made: {error}").info()
            return
        self._connection = connection = Connection(ours)
        started = time.monotonic()
        try:
            if self._stopping.is_set():
                return  # `stop` came while the process was being made, and could not tell it
            connection.send(Configure(_fields(self._settings)))
            while True:
                message, _ = connection.receive()
                self._last_heartbeat = time.monotonic()
                if isinstance(message, Outputs):
                    self._listener.on_tokens(message.tokens)
                    self._listener.on_outputs(message.outputs)
                elif isinstance(message, Heartbeat):
                    self._stats = message.stats or self._stats
                elif isinstance(message, Ready):
                    self._load_time_s = time.monotonic() - started
                    self._stats = message.stats
                    self.state = "ready"
                    self._was_loaded = True
                    self._first_outcome.set()
                elif isinstance(message, Failed):
                    self._load_error = message.error
        except ConnectionClosed:
            pass
        except InternalError as error:
            log.error("connection to the engine: %s", error)
        finally:
            self._connection = None
            connection.close()
            if self._process is not None:
                _reap(self._process)

    def _spawn(self) -> socket.socket:
        """Our end of the new process's connection. Raises OSError when there can be none."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    self._command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError:
                ours.close()
                raise
        return ours

    def _note_death(self) -> None:
        now = time.monotonic()
        self._deaths = [when for when in self._deaths if now - when < RESTART_WINDOW_S] + [now]
        self._stats = {}
        status = self._process.returncode if self._process else 0
        if self._load_error is not None:
            self.last_failure = self._load_error.message
        elif self._hang:
            self.last_failure = self._hang
        elif status is not None and status < 0:
            self.last_failure = f"the engine process was ended by {_signal_name(-status)}"
        else:
            self.last_failure = f"the engine process ended with status {status}"

    def _has_given_up(self) -> bool:
        return len(self._deaths) > MAX_RESTARTS

    def _backoff_s(self) -> float:
        return min(MAX_BACKOFF_S, self._min_backoff_s * 2.0 ** max(0, len(self._deaths) - 1))


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(SHUTDOWN_GRACE_S)  # its socket is closed: it is about to exit
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _fields(settings: EngineSettings) -> dict[str, Any]:
    return {**dataclasses.asdict(settings), "model": str(settings.model)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
