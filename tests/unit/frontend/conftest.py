from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvloop

from openai_frontend.app import create_app
from openai_frontend.launch.http_server import ApiServer
from openai_frontend.service import Service, ServiceSettings
from tests.unit.frontend.fake_triton import FakeTriton, wait_until

MakeClient = Callable[..., httpx.AsyncClient]
ServeOnLoopback = Callable[[FakeTriton], AbstractAsyncContextManager[tuple[Service, str]]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that serves in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def make_client() -> MakeClient:
    """A client of the application itself: no socket. `service` is reachable as an attribute."""

    def make(triton: FakeTriton, **settings: Any) -> httpx.AsyncClient:
        service = Service(triton, ServiceSettings(**settings))
        # ServerErrorMiddleware answers and raises again, for the log.
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        client.service = service  # type: ignore[attr-defined]
        return client

    return make


@asynccontextmanager
async def _serve(triton: FakeTriton, **settings: Any) -> AsyncIterator[tuple[Service, str]]:
    service = Service(triton, ServiceSettings(**settings))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = ApiServer(create_app(service), [sock], "127.0.0.1")
    task = asyncio.create_task(server.run_until_stopped())
    await wait_until(lambda: server.started)
    try:
        yield service, f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def serve() -> ServeOnLoopback:
    """A real uvicorn with our protocol class, for what needs a connection that can break."""
    return _serve


@pytest.fixture
def chat_body() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}]}


def chunks_of(body: str) -> list[Any]:
    """The JSON of each `data:` line; "[DONE]" stays a string, comment lines are left out."""
    lines = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.fixture
def parse_stream() -> Callable[[str], list[Any]]:
    return chunks_of
