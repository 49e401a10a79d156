"""Keeps finished calls to other models until Triton's stub has forgotten them.

A stub holds the responses of a decoupled call as well and lets go of them in a thread of its own,
which has no GIL (Triton 24.10). If that is the last reference, their tensors' Python objects are
freed there: Python 3.12 dies of it, older ones risk their memory. So ours has to be the last.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

HOLD_S = 5.0


class FinishedCalls:
    """`hold_s`: much longer than the stub's thread needs, short enough for what the responses hold.

    `clock` returns seconds. Calls are let go when later ones come.
    """

    def __init__(self, hold_s: float = HOLD_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold_s = hold_s
        self._clock = clock
        self._calls: deque[tuple[float, object]] = deque()

    def keep(self, responses: object) -> None:
        """Hold the iterator of a call whose responses have been read."""
        now = self._clock()
        self._calls.append((now + self._hold_s, responses))
        while self._calls[0][0] <= now:
            self._calls.popleft()
