"""What the endpoints share: the upstream, its status, the door, the metrics, the settings."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.errors import (
    EngineUnavailableError,
    ErnieError,
    InvalidRequestError,
    ModelNotFoundError,
)
from openai_frontend import __version__
from openai_frontend.admission import Admission
from openai_frontend.engine_status import EngineStatus
from openai_frontend.frontend_metrics import FrontendMetrics
from openai_frontend.generation import Generation
from openai_frontend.upstream import Upstream

ANY_NAME = "default"
GOODBYE_S = 1.0
"""For clients to take the error that ends their request at shutdown."""


@dataclass(frozen=True)
class CorsSettings:
    """Whose web pages may call the API from a browser; "*" stands for all."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True)
class ServiceSettings:
    """`model_name` is what /v1/models lists; it is enforced only if `enforce_model_name`.

    `checkpoint`: the model folder's name. `effective`: what /config-info tells besides these.
    `strict_fields`: unknown fields are refused, not ignored. `cors`: None for no CORS headers.
    """

    model_name: str = ANY_NAME
    checkpoint: str = ""
    effective: Mapping[str, Any] = field(default_factory=dict)
    enforce_model_name: bool = False
    api_keys: tuple[str, ...] = ()
    max_concurrency: int = 512
    max_body_bytes: int = 32 * 2**20
    request_timeout_s: float = 3600.0
    ping_interval_s: float = 15.0
    serve_metrics: bool = True
    strict_fields: bool = False
    cors: CorsSettings | None = None

    @property
    def system_fingerprint(self) -> str:
        """The same as long as model and version are."""
        identity = f"{self.checkpoint or self.model_name}\n{__version__}"
        return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


class Service:
    def __init__(self, upstream: Upstream, settings: ServiceSettings) -> None:
        self.upstream = upstream
        self.settings = settings
        self.status = EngineStatus(upstream)
        self.metrics = FrontendMetrics()
        self.admission = Admission(settings.max_concurrency)
        self._generations: set[Generation] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._open_ids: set[str] = set()

    def model_name(self, asked: str) -> str:
        """The name to answer with. Raises ModelNotFoundError when only one name is served."""
        if not self.settings.enforce_model_name:
            return asked or ANY_NAME
        if asked not in (self.settings.model_name, ANY_NAME, ""):
            raise ModelNotFoundError(
                f"there is no model {asked[:200]!r} here; the model is "
                f"{self.settings.model_name!r} (or 'default')",
                param="model",
            )
        return self.settings.model_name

    def open(self, request_id: str, requests: list[bytes], media: list[bytes]) -> Generation:
        """Raises InvalidRequestError while another generation of this id is open: STOP goes by
        the id and would end both."""
        if request_id in self._open_ids:
            raise InvalidRequestError(
                f"a request with the id {request_id!r} is still open",
                param="request_id",
                code="duplicate_request_id",
            )
        self._open_ids.add(request_id)
        generation = Generation(self.upstream, request_id, requests, media)
        self._generations.add(generation)
        return generation

    def close(self, generation: Generation) -> None:
        """End a generation; what is still running is stopped in the background."""
        self._generations.discard(generation)
        stopping = generation.finish()
        if stopping is None:
            self._open_ids.discard(generation.request_id)
            return

        def stopped(task: asyncio.Task[None]) -> None:
            self._stopping.discard(task)
            self._open_ids.discard(generation.request_id)

        self._stopping.add(stopping)
        stopping.add_done_callback(stopped)

    def interrupt_all(self, error: ErnieError) -> None:
        """Answer all running requests with `error`."""
        for generation in self._generations:
            generation.interrupt(error)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones; those left over get an error.

        Returns whether all finished by themselves.
        """
        self.admission.drain()
        finished = await self.admission.wait_idle(timeout_s)
        if not finished:
            self.interrupt_all(
                EngineUnavailableError("the server is shutting down", code="shutting_down")
            )
            await self.admission.wait_idle(GOODBYE_S)
        if self._stopping:
            await asyncio.wait(self._stopping)
        return finished
