"""Who may still send how much: slots of the counter file that the postprocessor bumps.

A slot serves one stream at a time. Its counter is never reset: late acknowledgements of the stream
before would be counted for the new one, so a slot rests until all of them arrived.
"""

from __future__ import annotations

import collections
import time

from backend.shared_memory import CreditFile
from backend.wire import Credit

NUM_SLOTS = 4096
MAX_REST_S = 60.0
MAX_LOOKS = 4
"""At slots that rest, for each slot asked for: none that has to rest long keeps others back."""
LOST_S = 0.1
"""Outputs that nobody acknowledged while nothing else was acknowledged either for so long are
lost: their postprocessor died, or Triton dropped their cancelled request."""
OVERDUE_S = 0.5
"""A stream's outputs that nobody acknowledged for so long after the last of them are lost, whatever
the others' do."""
RECOUNT_S = 0.25


class CreditLease:
    """One stream's slot. `num_lost` of its `num_sent` outputs are not waited for any more."""

    def __init__(self, file: CreditFile, slot: int) -> None:
        self.credit = Credit(name=file.name, slot=slot)
        self.num_sent = 0
        self.num_lost = 0
        self.sent_at = 0.0
        self.is_over = False
        self._file = file
        self._base = file.count(slot)

    def num_acknowledged(self) -> int:
        return self._file.count(self.credit.slot) - self._base


class CreditSlots:
    """Used by the sender's thread alone."""

    def __init__(self, num_slots: int = NUM_SLOTS) -> None:
        self._file = CreditFile.create(num_slots)
        self._free = list(range(num_slots - 1, -1, -1))
        self._resting: collections.deque[tuple[CreditLease, int, float]] = collections.deque()
        self._counted: dict[CreditLease, None] = {}
        self._next_recount = 0.0
        self._num_sent = 0
        self._num_acknowledged = 0
        self._acknowledged_at = time.monotonic()

    def lease(self) -> CreditLease | None:
        """A slot nobody acknowledges to any more, or None: the stream then goes unthrottled."""
        self._wake()
        if not self._free:
            return None
        lease = CreditLease(self._file, self._free.pop())
        self._counted[lease] = None
        return lease

    def release(self, lease: CreditLease, num_sent: int) -> None:
        """The stream has sent its last output, `num_sent` in all."""
        lease.is_over = True
        self._resting.append((lease, num_sent, time.monotonic()))

    def count_sent(self, lease: CreditLease, number: int = 1) -> None:
        """Outputs of a stream went out; negative: they did not after all."""
        lease.num_sent += number
        lease.sent_at = time.monotonic()
        self._num_sent += number

    def num_outstanding(self) -> int:
        """Outputs of all streams that are on their way to the postprocessor."""
        now = time.monotonic()
        num_acknowledged = self._file.total()
        if now >= self._next_recount:
            self._next_recount = now + RECOUNT_S
            self._num_sent = num_acknowledged + self._num_awaited(now)
        if num_acknowledged != self._num_acknowledged or num_acknowledged >= self._num_sent:
            self._num_acknowledged, self._acknowledged_at = num_acknowledged, now
        elif now - self._acknowledged_at > LOST_S:
            self._num_sent = num_acknowledged
        # Outputs taken for lost may only have been late: they must not widen the window for ever.
        self._num_sent = max(self._num_sent, num_acknowledged)
        return self._num_sent - num_acknowledged

    def remove(self) -> None:
        """Remove the file; for the end, when the sender may still be using its map."""
        self._file.remove()

    def _num_awaited(self, now: float) -> int:
        """Of all streams, counted one by one: while others' acknowledgements keep coming, a few
        that never do would narrow the window for good, and close it in the end."""
        total = 0
        for lease in list(self._counted):
            number = lease.num_sent - lease.num_acknowledged()
            if now - lease.sent_at > OVERDUE_S:
                lease.num_lost = number
            number = max(0, number - lease.num_lost)
            if lease.is_over and not number:
                del self._counted[lease]
            total += number
        return total

    def _wake(self) -> None:
        now = time.monotonic()
        for _ in range(min(len(self._resting), MAX_LOOKS)):
            lease, num_sent, released_at = rest = self._resting.popleft()
            # A postprocessor that died acknowledges no more; its slots come back after a while.
            if lease.num_acknowledged() < num_sent and now - released_at < MAX_REST_S:
                self._resting.append(rest)
            else:
                self._free.append(lease.credit.slot)
