"""The one thread of the stub that sends responses, in the order in which streams got something.

Sends of several threads would overtake each other inside Triton, and there is no back pressure
between the engine and the postprocessor: a response is "sent" when it is queued. So at most
MAX_UNACKNOWLEDGED outputs of a stream, and WINDOW of all streams, are on their way; what the engine
brings meanwhile merges into the next one. Under load outputs grow instead of queues. A stream's
first output overtakes everything: it is what a user waits for.

A response costs the processes it passes far more than what is in it. So streams of one group (see
`wire.Delivery`) that are ready together share one: it goes out as a response to whichever of them
waited longest.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterable

from backend.engine.credits import CreditSlots
from backend.engine.stream import Stream
from backend.wire import EngineOutput

MAX_UNACKNOWLEDGED = 4
WINDOW = 16
"""Enough to keep Triton busy. What waits in Triton's queue is older than what waits here, where it
still merges: 256 streams with four outputs each on their way were half a second late."""
MAX_BUNDLE = 32
"""Outputs in one response. The postprocessor does nothing else meanwhile: about a millisecond."""
MAX_BUNDLED_PER_S = 5000
"""Outputs of groups. Nothing comes back from behind the postprocessor that tells how fast a client
takes them, and a frontend has room for twice as many on one core before they queue up."""
MAX_CATCH_UP_S = 0.01
POLL_S = 0.002
"""How often streams without credit are looked at."""
STALL_S = 5.0
"""A stream that got no acknowledgement for this long sends anyway: better slow than stuck."""

log = logging.getLogger("ernie_engine")


class Sender:
    def __init__(self, on_lost: Callable[[Stream], None]) -> None:
        """`on_lost` is told of a stream whose client cannot be reached any more."""
        self._on_lost = on_lost
        self._slots = CreditSlots()
        self._condition = threading.Condition()
        self._first: collections.deque[Stream] = collections.deque()
        self._ready: collections.deque[Stream] = collections.deque()
        self._grouped: collections.deque[Stream] = collections.deque()
        self._next_grouped = 0.0
        self._blocked: list[Stream] = []
        self._next_poll = 0.0
        self._is_closed = False
        self.num_outputs = 0
        self.num_responses = 0
        self._thread = threading.Thread(target=self._run, name="engine-sender", daemon=True)
        self._thread.start()

    def push(self, items: Iterable[tuple[Stream, EngineOutput]]) -> None:
        with self._condition:
            for stream, output in items:
                stream.add(output)
                if not stream.is_queued and stream.is_sendable:
                    self._queue(stream)
            self._condition.notify()

    def push_tokens(self, items: Iterable[tuple[Stream | None, list[int]]]) -> None:
        """The short way for outputs that are nothing but tokens; None is a stream that is gone."""
        with self._condition:
            for stream, token_ids in items:
                if stream is None:
                    continue
                stream.add_tokens(token_ids)
                if not stream.is_queued and not stream.request.collect:
                    self._queue(stream)
            self._condition.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is pending, as far as `timeout_s` allows, and end the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join(timeout_s)
        self._slots.remove()

    def _queue(self, stream: Stream) -> None:
        stream.is_queued = True
        if not stream.num_sent:
            self._first.append(stream)
        else:
            (self._grouped if stream.group else self._ready).append(stream)

    def _run(self) -> None:
        while True:
            with self._condition:
                stream = self._next()
                if stream is None:
                    return
                streams = [stream, *self._companions(stream)] if stream.is_bundleable else [stream]
                outputs = []
                for item in streams:
                    item.is_queued = False
                    outputs.append(item.take())
            if len(streams) == 1:
                self._deliver(stream, outputs[0])
            else:
                self._deliver_bundle(streams, outputs)

    def _next(self) -> Stream | None:
        """The stream to send for; waits until there is one. None: closed and nothing left."""
        while True:
            if self._first:
                return self._first.popleft()
            self._unblock()
            if self._is_closed or self._slots.num_outstanding() < WINDOW:
                # Groups first: their rate is bounded, so they cannot keep the others waiting.
                is_due = self._is_closed or time.monotonic() >= self._next_grouped
                stream = self._pop(self._grouped) if is_due else None
                stream = stream or self._pop(self._ready)
                if stream is not None:
                    return stream
            is_waiting = self._blocked or self._ready or self._grouped
            if self._is_closed and not is_waiting:
                return None
            self._condition.wait(POLL_S if is_waiting else None)

    def _pop(self, queue: collections.deque[Stream]) -> Stream | None:
        """The first stream that has credit; those before it go to the blocked ones."""
        while queue:
            stream = queue.popleft()
            if self._is_closed or _may_send(stream):
                return stream
            self._blocked.append(stream)
        return None

    def _companions(self, stream: Stream) -> list[Stream]:
        """Streams whose outputs go with this one's, out of the queue."""
        found: list[Stream] = []
        others: list[Stream] = []
        while len(found) < MAX_BUNDLE - 1 and (other := self._pop(self._grouped)):
            is_fit = other.group == stream.group and other.is_bundleable
            (found if is_fit else others).append(other)
        self._grouped.extendleft(reversed(others))
        now = time.monotonic()
        began = max(self._next_grouped, now - MAX_CATCH_UP_S)
        self._next_grouped = began + (1 + len(found)) / MAX_BUNDLED_PER_S
        return found

    def _unblock(self) -> None:
        """Give streams without credit another look, but not more often than every POLL_S."""
        now = time.monotonic()
        if self._blocked and (now >= self._next_poll or self._is_closed):
            self._next_poll = now + POLL_S
            for stream in self._blocked:
                self._queue(stream)
            self._blocked.clear()

    def _deliver(self, stream: Stream, output: EngineOutput) -> None:
        is_last = output.is_last
        if stream.request.acknowledged and output.seq == 0 and not is_last:
            stream.lease = self._slots.lease()
            output.credit = stream.lease.credit if stream.lease else None
        if stream.lease is not None:
            self._slots.count_sent(stream.lease)
        stream.last_sent_at = time.monotonic()
        self.num_outputs += 1
        self.num_responses += 1
        try:
            if is_last or not stream.is_lost:  # Triton wants its FINAL flag in any case
                stream.send(output)
        except Exception as error:
            # Whatever Triton says here, one stream's client is gone and the others must go on.
            log.warning("stream %s: cannot send: %s", stream.key, error)
            stream.is_lost = True
            if not is_last:
                self._on_lost(stream)
        if is_last and stream.lease is not None:
            self._slots.release(stream.lease, stream.num_sent)

    def _deliver_bundle(self, streams: list[Stream], outputs: list[EngineOutput]) -> None:
        """Send all as a response to the first."""
        carrier = streams[0]
        leases = [stream.lease for stream in streams if stream.lease is not None]
        for lease in leases:
            self._slots.count_sent(lease)
        try:
            carrier.send(EngineOutput(carrier.key, -1, bundle=outputs))
        except Exception as error:
            log.warning("stream %s: cannot send: %s", carrier.key, error)
            for lease in leases:
                self._slots.count_sent(lease, -1)
            carrier.is_lost = True
            self._on_lost(carrier)
            with self._condition:
                for stream, output in zip(streams[1:], outputs[1:], strict=True):
                    stream.put_back(output)
                    if not stream.is_queued:
                        self._queue(stream)
            return
        now = time.monotonic()
        for stream in streams:
            stream.last_sent_at = now
        self.num_outputs += len(streams)
        self.num_responses += 1


def _may_send(stream: Stream) -> bool:
    if stream.lease is None:
        return True
    if stream.num_sent - stream.lease.num_acknowledged() < MAX_UNACKNOWLEDGED:
        return True
    return time.monotonic() - stream.last_sent_at > STALL_S
