"""Requests whose grammar is being compiled: they have no seat and no blocks yet."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait

from backend.engine.generation import Generation
from backend.errors import ErnieError, InternalError
from backend.structured import Matcher

_WAIT_S = 0.02


class CompilingRequests:
    """Kept apart from the scheduler, so that a slow grammar holds up nobody behind it."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Generation, Future[Matcher]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stream_key: str) -> bool:
        return stream_key in self._entries

    def add(self, generation: Generation, matcher: Future[Matcher]) -> None:
        self._entries[generation.key] = (generation, matcher)

    def remove(self, stream_key: str) -> None:
        _, matcher = self._entries.pop(stream_key)
        matcher.cancel()

    def done(self, may_wait: bool) -> list[tuple[Generation, Matcher | ErnieError]]:
        """Requests whose compiling has ended, with its result; they stay here until removed.

        `may_wait`: there is nothing else to do, so that a moment may be spent on waiting for one.
        """
        if may_wait and self._entries:
            wait([matcher for _, matcher in self._entries.values()], _WAIT_S, FIRST_COMPLETED)
        return [
            (generation, _result(matcher))
            for generation, matcher in self._entries.values()
            if matcher.done()
        ]


def _result(matcher: Future[Matcher]) -> Matcher | ErnieError:
    error = matcher.exception()
    if error is None:
        return matcher.result()
    return error if isinstance(error, ErnieError) else InternalError("a grammar failed to compile")
