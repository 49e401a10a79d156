"""The life of the service: load, serve, drain, stop.

SIGTERM or SIGINT: /health turns 503, new requests are refused, running ones may finish, then
tritonserver is stopped (it would break their streams). A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from starlette.types import ASGIApp

from backend.errors import ConfigError, EngineUnavailableError
from openai_frontend.app import ByPort, create_app, create_metrics_app
from openai_frontend.launch.checkpoint import Checkpoint
from openai_frontend.launch.http_server import ApiServer
from openai_frontend.launch.options import Options, effective_settings
from openai_frontend.launch.supervisor import TritonSupervisor
from openai_frontend.service import CorsSettings, Service, ServiceSettings
from openai_frontend.triton_client import TritonClient

logger = logging.getLogger(__name__)

MAX_FILES = 65_536
CLOSE_TIMEOUT_S = 5.0
STOP_GRACE_S = 10.0
ABORT_GRACE_S = 3.0

Announce = Callable[[float], None]


class Launcher:
    """`announce` is called with the loading time in seconds just before serving starts."""

    def __init__(
        self,
        options: Options,
        checkpoint: Checkpoint,
        repository: Path,
        api_socket: socket.socket,
        metrics_socket: socket.socket | None,
        announce: Announce,
    ) -> None:
        self._options = options
        self._checkpoint = checkpoint
        self._repository = repository
        self._api_socket = api_socket
        self._metrics_socket = metrics_socket
        self._announce = announce
        self._signals: list[int] = []

    def run(self) -> int:
        """The process's exit status: 0 after a drained stop, 1 when the server could not go on,
        128 + signal when it was told to end before it was ready or twice."""
        _allow_many_files()
        return uvloop.run(self._run())

    async def _run(self) -> int:
        self._stop_asked, self._abort_asked = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        client = TritonClient()
        supervisor = TritonSupervisor(
            self._options, self._checkpoint.folder, self._repository, client
        )
        try:
            return await self._live(supervisor, client)
        except (ConfigError, EngineUnavailableError) as error:
            logger.error("%s", error.message)
            return 2 if isinstance(error, ConfigError) else 1
        finally:
            await client.close()
            await supervisor.stop(ABORT_GRACE_S if self._abort_asked.is_set() else STOP_GRACE_S)

    async def _live(self, supervisor: TritonSupervisor, client: TritonClient) -> int:
        started = time.monotonic()
        supervisor.start()
        ready = asyncio.create_task(supervisor.wait_ready())
        if not await _first_of(ready, self._stop_asked):
            await supervisor.stop(1.0)
            with contextlib.suppress(EngineUnavailableError):
                await ready
            return 128 + self._signals[0]
        await ready
        self._announce(time.monotonic() - started)
        service = Service(client, self._service_settings())
        server = self._server(service)
        serving = asyncio.create_task(server.run_until_stopped())
        watching = asyncio.create_task(supervisor.watch())
        ending = asyncio.create_task(_why_it_ended(watching, serving))
        is_broken = await _first_of(ending, self._stop_asked)
        if is_broken:
            logger.error("giving up: %s", ending.result())
        draining = asyncio.create_task(
            service.drain(0.0 if is_broken else self._options.drain_timeout_s)
        )
        if not await _first_of(draining, self._abort_asked):
            # Requests are stopped first even now: an idle server ends at once and cleans up.
            await service.drain(0.0)
        watching.cancel()
        server.should_exit = True
        server.force_exit = self._abort_asked.is_set()
        await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S)
        if self._abort_asked.is_set():
            return 128 + self._signals[-1]
        return 1 if is_broken else 0

    def _server(self, service: Service) -> ApiServer:
        app: ASGIApp = create_app(service)
        sockets = [self._api_socket]
        if self._metrics_socket is not None:
            sockets.append(self._metrics_socket)
            port = self._metrics_socket.getsockname()[1]
            app = ByPort(app, port, create_metrics_app(service))
        return ApiServer(app, sockets, self._options.host)

    def _service_settings(self) -> ServiceSettings:
        options = self._options
        return ServiceSettings(
            model_name=options.served_model_name or self._checkpoint.name,
            checkpoint=self._checkpoint.name,
            effective=effective_settings(options),
            enforce_model_name=options.served_model_name is not None,
            api_keys=options.api_keys,
            max_concurrency=options.max_concurrency,
            max_body_bytes=options.max_body_bytes,
            request_timeout_s=options.request_timeout_s,
            ping_interval_s=options.ping_interval_s,
            serve_metrics=self._metrics_socket is None,
            strict_fields=options.strict_fields,
            cors=_cors(options),
        )

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)
        if self._stop_asked.is_set():
            self._abort_asked.set()
        elif self._options.drain_timeout_s:
            logger.info("finishing running requests; a second signal ends them at once")
        self._stop_asked.set()


def _cors(options: Options) -> CorsSettings | None:
    if not options.allowed_origins:
        return None
    return CorsSettings(
        options.allowed_origins,
        options.allowed_methods,
        options.allowed_headers,
        options.allow_credentials,
    )


def _allow_many_files() -> None:
    """Each connection is a file; the usual soft limit of 1024 is below what one server accepts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _why_it_ended(watching: asyncio.Task[str], serving: asyncio.Task[None]) -> str:
    await asyncio.wait({watching, serving}, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        return watching.result()
    return f"the HTTP server ended: {serving.exception() or 'without an error'}"


async def _first_of(task: asyncio.Task[object], event: asyncio.Event) -> bool:
    """Whether `task` ended before `event` was set."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
    return task.done()
