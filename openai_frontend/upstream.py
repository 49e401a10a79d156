"""What the HTTP side needs of the inference server, so that tests can put a scripted one there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from backend.wire import Event


class Upstream(Protocol):
    def generate(
        self, request_id: str, request: bytes, media: Sequence[bytes]
    ) -> AsyncIterator[Event]:
        """Events of one request, the last of which has `finish_reason` or `error`.

        `request` is an encoded GenerateRequest. Raises EngineUnavailableError when the server
        cannot be reached or goes away, InternalError when it fails otherwise.
        """
        ...

    async def stop(self, request_id: str) -> None:
        """End generation of all requests with this id; their events run on to a last one."""
        ...

    async def stats(self) -> dict[str, Any]:
        """The engine's state. Raises EngineUnavailableError when it does not answer."""
        ...

    async def probe(self) -> None:
        """Check the models around the engine by something they refuse at once.

        Raises EngineUnavailableError when one of them is dead; a slow one is not an error.
        """
        ...
