"""What the HTTP side needs of the inference server, so that tests can put a scripted one there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backend.errors import ErnieError, ErrorInfo
from backend.wire import Event


class RefusedError(ErnieError):
    """What another process refused a request with."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, param=info.param, code=info.code)
        self._info = info

    def info(self) -> ErrorInfo:
        return self._info


@dataclass(frozen=True)
class Tokens:
    """`ids`: of a prompt, with the placeholders of its media. `text`: of ids."""

    ids: Sequence[int] = ()
    text: str = ""


class Upstream(Protocol):
    def generate(
        self, request_id: str, request: bytes, media: Sequence[bytes]
    ) -> AsyncIterator[Event]:
        """Events of one request, the last of which has `finish_reason` or `error`.

        `request` is an encoded GenerateRequest. Raises EngineUnavailableError when the server
        cannot be reached or goes away, InternalError when it fails otherwise.
        """
        ...

    async def tokens(self, request: bytes, media: Sequence[bytes]) -> Tokens:
        """The answer to an encoded GenerateRequest of op `tokenize` or `detokenize`.

        Raises what the request is refused with, and what `generate` raises.
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
