"""The door: how many generations run at a time, how many bytes they may hold, and whether new
ones are let in at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from backend.errors import EngineUnavailableError, OverloadedError


class Admission:
    """Refuses at once instead of queueing: the engine behind has the only queue."""

    def __init__(self, max_concurrency: int, max_buffered_bytes: int = 2**30) -> None:
        self.max_concurrency = max_concurrency
        self.max_buffered_bytes = max_buffered_bytes
        self.running = 0
        self.buffered_bytes = 0
        self.is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Raises OverloadedError when full, EngineUnavailableError after `drain`."""
        if self.is_draining:
            raise EngineUnavailableError(
                "the server is shutting down", code="shutting_down", retry_after_s=5.0
            )
        if self.running >= self.max_concurrency:
            # FastDeploy's text, which its clients look for.
            raise OverloadedError(
                f"Too many requests,current max concurrency is {self.max_concurrency}",
                retry_after_s=1.0,
            )
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if self.running == 0:
                self._idle.set()

    @contextlib.contextmanager
    def lease_bytes(self) -> Iterator[ByteLease]:
        """Memory for one request's body, given back at the end of the block."""
        lease = ByteLease(self)
        try:
            yield lease
        finally:
            self.buffered_bytes -= lease.size

    def drain(self) -> None:
        """Let nobody in from now on."""
        self.is_draining = True

    async def wait_idle(self, timeout_s: float) -> bool:
        """Whether everyone has left within `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True


class ByteLease:
    """Bytes of one request; grows as its body arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.size = 0

    def grow(self, num_bytes: int) -> None:
        """Raises OverloadedError when all requests together would hold too much."""
        if self._admission.buffered_bytes + num_bytes > self._admission.max_buffered_bytes:
            raise OverloadedError(
                "too many large requests at a time; try again, or name pictures by URL",
                retry_after_s=1.0,
            )
        self.size += num_bytes
        self._admission.buffered_bytes += num_bytes
