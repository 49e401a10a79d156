"""The decision for one step."""

from __future__ import annotations

from dataclasses import dataclass

from backend.scheduler.request import Request


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens start..stop-1 of one request. Blocks for all of them are in its table."""

    request: Request
    start: int
    stop: int
    is_last: bool
    """The chunk ends with the newest known token: the step samples the next one."""

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    chunks: tuple[Chunk, ...]
    num_preempted: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)
