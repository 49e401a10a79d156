"""One request's events on their way from Triton, put in order.

Requests of one client share Triton's responses (see `wire.Delivery`), so an event may come with the
response to another request, on another connection, and overtake. `seq` restores the order. The
inbox never makes the deliverer wait, who delivers to others as well; its size is bounded by the
answer's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from backend.errors import EngineUnavailableError, ErnieError
from backend.wire import Event

GAP_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class Inbox:
    """`num_responses`: that the request's own call has brought, for whomever."""

    def __init__(self) -> None:
        self.num_responses = 0
        self._events: list[Event] = []
        self._early: dict[int, Event] = {}
        self._next_seq = 0
        self._error: ErnieError | None = None
        self._is_ended = False
        self._reader: asyncio.Future[None] | None = None
        self._gap_timer: asyncio.TimerHandle | None = None

    def put(self, event: Event) -> None:
        """Events without a `key` come with their own response, in order. An error waits for none
        before it."""
        if event.key and event.error is None:
            self._early[event.seq] = event
            while (following := self._early.pop(self._next_seq, None)) is not None:
                self._next_seq += 1
                self._events.append(following)
            self._watch_gap()
        else:
            self._events.append(event)
        self._wake()

    def end(self) -> None:
        """The request's own responses have ended; what came before is still given out."""
        self._is_ended = True
        self._wake()

    def fail(self, error: ErnieError) -> None:
        self._error = self._error or error
        self._wake()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Events up to the last, once. Raises what `fail` was given."""
        try:
            while True:
                while not (self._events or self._error or (self._is_ended and not self._early)):
                    self._reader = asyncio.get_running_loop().create_future()
                    await self._reader
                events, self._events = self._events, []
                for event in events:
                    yield event
                    if event.is_last:
                        return
                if not events:
                    if self._error is not None:
                        raise self._error
                    return
        finally:
            if self._gap_timer is not None:
                self._gap_timer.cancel()

    def _watch_gap(self) -> None:
        if bool(self._early) is (self._gap_timer is not None):
            return
        if self._gap_timer is not None:
            self._gap_timer.cancel()
            self._gap_timer = None
        else:
            loop = asyncio.get_running_loop()
            self._gap_timer = loop.call_later(GAP_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        logger.error("event %d did not come, but %s", self._next_seq, sorted(self._early)[:8])
        self._early.clear()
        self.fail(EngineUnavailableError("a part of the answer was lost"))

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
