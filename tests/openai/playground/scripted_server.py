"""The real HTTP application before a scripted inference server, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from openai_frontend.app import create_app
from openai_frontend.launch.http_server import ApiServer
from openai_frontend.service import Service, ServiceSettings
from tests.unit.frontend.fake_triton import FakeTriton, Step


class ScriptedServer:
    """Use as a context manager; `play` writes down what the next requests are answered with."""

    def __init__(self, **settings: Any) -> None:
        self.triton = FakeTriton()
        self._service = Service(self.triton, ServiceSettings(**settings))
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = ApiServer(create_app(self._service), [self._socket], "127.0.0.1")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def play(self, *scripts: list[Step]) -> None:
        """One script per request to come."""
        self.triton.sent.clear()
        self.triton.stopped.clear()
        self.triton.scripts = scripts

    def release(self, gate: asyncio.Event) -> None:
        """Let a script go on that waits for `gate`."""
        self._loop.call_soon_threadsafe(gate.set)

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 5.0) -> bool:
        """Whether the condition came true in time."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(condition())

    def last_request(self) -> Any:
        return self.triton.sent[-1].request

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.run_until_stopped())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
