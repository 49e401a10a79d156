"""The engine process: `python -m backend.engine.process <fd> <parent pid>`.

Owns an EngineCore. A reader thread turns frames into a queue; the main thread alone touches the
core: take what arrived, `core.step()`, send what came out, again. A failure that the core does not
turn into one request's error, such as a device's, ends the process: the supervisor in the stub
starts a new one.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from backend import shared_memory
from backend.config.serving import EngineSettings
from backend.engine.protocol import (
    Configure,
    Connection,
    ConnectionClosed,
    Failed,
    Heartbeat,
    Message,
    Outputs,
    Ready,
    StopStream,
    Submit,
    unpack_arrays,
)
from backend.errors import ErnieError, ErrorInfo, InternalError
from backend.wire import EngineOutput, EngineRequest

HEARTBEAT_S = 0.5
EXIT_FAULT = 1
EXIT_LOAD_FAILED = 3

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

log = logging.getLogger("ernie_engine")


class Core(Protocol):
    """What the loop needs of backend.engine.core.EngineCore."""

    def add(self, request: EngineRequest, prompt_ids: Any, positions: Any, pixels: Any) -> None: ...
    def stop_stream(self, stream_key: str) -> bool: ...
    def has_work(self) -> bool: ...
    def step(self) -> list[EngineOutput]: ...
    def check_integrity(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...


class _Received(NamedTuple):
    """`pixels` of a Submit, or why there are none."""

    message: Message
    blobs: list[bytearray]
    pixels: NDArray[np.uint8] | ErnieError | None


class EngineLoop:
    """Moves messages between a connection and a core until the connection ends."""

    def __init__(self, core: Core, connection: Connection) -> None:
        self._core = core
        self._connection = connection
        self._inbox: queue.SimpleQueue[_Received | None] = queue.SimpleQueue()
        self._next_heartbeat = 0.0
        self._integrity_failures = 0
        self._num_steps = 0
        self._is_open = True

    def run(self) -> None:
        """Returns when the stub closed the connection. Raises what the core raised."""
        reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        reader.start()
        try:
            self._connection.send(Ready(stats=self._stats()))
            while self._is_open:
                self._take_messages()
                if self._core.has_work():
                    self._step()
                self._heartbeat()
        except ConnectionClosed:
            log.info("the stub closed the connection")

    def _read(self) -> None:
        try:
            while True:
                message, blobs = self._connection.receive()
                pixels = _open_pixels(message) if isinstance(message, Submit) else None
                self._inbox.put(_Received(message, blobs, pixels))
        except ConnectionClosed:
            pass
        except InternalError as error:
            log.error("connection to the stub: %s", error)
        finally:
            self._inbox.put(None)

    def _take_messages(self) -> None:
        """Handle everything that arrived; when there is nothing to compute, wait for it."""
        try:
            if self._core.has_work():
                item = self._inbox.get_nowait()
            else:
                item = self._inbox.get(timeout=max(0.0, self._next_heartbeat - time.monotonic()))
            while True:
                self._handle(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _handle(self, item: _Received | None) -> None:
        if item is None:
            self._is_open = False
            return
        message = item.message
        if isinstance(message, Submit):
            self._submit(message.request, item)
        elif isinstance(message, StopStream):
            self._core.stop_stream(message.stream_key)

    def _submit(self, request: EngineRequest, item: _Received) -> None:
        try:
            if isinstance(item.pixels, ErnieError):
                raise item.pixels
            prompt_ids, positions = unpack_arrays(item.blobs)
            self._core.add(request, prompt_ids, positions, item.pixels)
        except ErnieError as error:
            refusal = EngineOutput(stream_key=request.stream_key, seq=0, error=error.info())
            self._connection.send(Outputs([refusal]))

    def _step(self) -> None:
        outputs = self._core.step()
        self._num_steps += 1
        if outputs:
            self._connection.send(Outputs.of_step(outputs))
        if not self._core.has_work():
            self._check_integrity()
            self._next_heartbeat = 0.0  # whoever waits for "idle" learns it now

    def _check_integrity(self) -> None:
        try:
            self._core.check_integrity()
        except InternalError as error:
            self._integrity_failures += 1
            log.error("integrity check failed: %s", error)

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            self._connection.send(Heartbeat(stats=self._stats()))

    def _stats(self) -> dict[str, Any]:
        return {
            **self._core.stats(),
            "engine_steps": self._num_steps,
            "integrity_failures": self._integrity_failures,
        }


def _open_pixels(submit: Submit) -> NDArray[np.uint8] | ErnieError | None:
    """The request's pixels, whose file is unlinked. By the reader, for the file is swept after a
    while, and the step that is being computed may take longer."""
    handle = submit.request.pixels
    try:
        return shared_memory.read_pixels(handle) if handle else None
    except ErnieError as error:
        return error


def settings_from(fields: dict[str, Any]) -> EngineSettings:
    return EngineSettings(**{**fields, "model": Path(fields["model"])})


def load_core(settings: EngineSettings) -> Core:
    """Import and load the engine; the import alone takes seconds."""
    if settings.executor == "paced":
        from backend.engine.paced_core import PacedCore

        return PacedCore.from_settings(settings)
    from backend.engine.core import EngineCore

    return EngineCore.from_settings(settings)


def main(arguments: list[str]) -> int:
    descriptor, parent = int(arguments[0]), int(arguments[1])
    _tie_to_parent(parent)
    _ignore_signals()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    connection = Connection(socket.socket(fileno=descriptor))
    try:
        return _serve(connection)
    except ConnectionClosed:
        return 0
    except Exception:
        log.critical("the engine cannot go on", exc_info=True)
        return EXIT_FAULT


def end(status: int) -> NoReturn:
    """End this process at once: taking down a device that has failed may hang, and clients wait."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(connection: Connection) -> int:
    first, _ = connection.receive()
    if not isinstance(first, Configure):
        raise InternalError(f"the first frame is {type(first).__name__}, expected Configure")
    loading = threading.Event()
    ticker = threading.Thread(
        target=_tick_while, args=(connection, loading), name="load-heartbeat", daemon=True
    )
    ticker.start()
    try:
        started = time.monotonic()
        core = load_core(settings_from(first.settings))
        _ignore_signals()  # Paddle takes SIGTERM for itself when it is imported
        log.info("engine loaded in %.1f s", time.monotonic() - started)
    except Exception as error:
        if not isinstance(error, ErnieError):
            log.exception("the engine cannot start")
        connection.send(Failed(error=_describe(error)))
        return EXIT_LOAD_FAILED
    finally:
        loading.set()
        ticker.join()
    EngineLoop(core, connection).run()
    return 0


def _describe(error: Exception) -> ErrorInfo:
    if isinstance(error, ErnieError):
        return error.info()
    return InternalError(f"{type(error).__name__} while loading the engine: {error}").info()


def _tick_while(connection: Connection, loading: threading.Event) -> None:
    try:
        while not loading.wait(HEARTBEAT_S):
            connection.send(Heartbeat())
    except ConnectionClosed:
        # The stub died while a checkpoint of many gigabytes is being read: nobody waits for it.
        os._exit(0)


def _ignore_signals() -> None:
    """The terminal's Ctrl-C and a container's SIGTERM reach the whole group; the stub decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _tie_to_parent(parent: int) -> None:
    """Have the kernel kill this process with the stub's; the accelerator must not stay occupied."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, b"ernie-engine")
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above


if __name__ == "__main__":
    end(main(sys.argv[1:]))
