"""Is the engine up, and how busy: its `stats` answer, kept for a second.

Health checks, /metrics and /v1/models ask here, so that a flood of them costs the engine one
question per second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from backend.errors import EngineUnavailableError
from openai_frontend.upstream import Upstream

MAX_AGE_S = 1.0
TIMEOUT_S = 3.0


class EngineStatus:
    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._clock = clock
        self._asked_at = float("-inf")
        self._stats: dict[str, Any] = {}
        self._error: EngineUnavailableError | None = None
        self._lock = asyncio.Lock()

    @property
    def last_stats(self) -> dict[str, Any]:
        """What the engine said last; empty before its first answer."""
        return self._stats

    async def check(self) -> dict[str, Any]:
        """The engine's stats, at most MAX_AGE_S old. Raises EngineUnavailableError when down."""
        async with self._lock:
            if self._clock() - self._asked_at >= MAX_AGE_S:
                await self._ask()
        if self._error is not None:
            raise self._error
        return self._stats

    async def _ask(self) -> None:
        try:
            stats = await asyncio.wait_for(self._upstream.stats(), TIMEOUT_S)
            self._stats, self._error = stats, _fault(stats)
        except asyncio.TimeoutError:
            self._error = EngineUnavailableError(f"the engine did not answer within {TIMEOUT_S} s")
        except EngineUnavailableError as error:
            self._error = error
        self._asked_at = self._clock()


def _fault(stats: dict[str, Any]) -> EngineUnavailableError | None:
    if not stats.get("engine_up", 1):
        state = stats.get("state", "down")
        return EngineUnavailableError(f"the engine is {state}", code=f"engine_{state}")
    if failures := stats.get("integrity_failures", 0):
        return EngineUnavailableError(
            f"the engine's KV cache failed {failures} integrity checks; restart the server",
            code="integrity_failure",
        )
    return None
