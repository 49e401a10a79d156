"""Where a device keeps the latest token of each request."""

from __future__ import annotations

from collections.abc import Iterable

from backend.errors import InternalError
from backend.scheduler import Request


class Seats:
    """Gives requests numbers below `count`. A request that holds no KV blocks has lost its seat as
    soon as another one needs it: it has ended, or starts again with a token the host knows."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._taken: dict[Request, int] = {}

    def take(self, requests: Iterable[Request]) -> list[int]:
        """The seat of each; raises InternalError when there are more than seats."""
        return [self._take(request) for request in requests]

    def forget(self, request: Request) -> None:
        """It has ended: its seat is free, and nothing keeps the request."""
        seat = self._taken.pop(request, None)
        if seat is not None:
            self._free.append(seat)

    def _take(self, request: Request) -> int:
        seat = self._taken.get(request)
        if seat is None:
            if not self._free:
                self._clear()
            if not self._free:
                raise InternalError(f"all {len(self._taken)} seats are taken by running requests")
            seat = self._taken[request] = self._free.pop()
        return seat

    def _clear(self) -> None:
        for request in [r for r in self._taken if not len(r.block_table)]:
            self._free.append(self._taken.pop(request))
