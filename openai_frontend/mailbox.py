"""Where the event streams of one HTTP request meet their reader.

Several pumps put events in (n choices, several prompts), one reader takes out everything that has
arrived: under load events pile up for a moment and go to the client in one write. A pump waits
while MAX_EVENTS are unread, so a stalled client holds a bounded amount of memory.

The reader is woken by anything that needs its attention besides events: `interrupt` (client gone,
deadline, shutdown) raises in `take`, `tick` returns an empty list.
"""

from __future__ import annotations

import asyncio

from backend.wire import Event

MAX_EVENTS = 64


class Mailbox:
    def __init__(self) -> None:
        self._events: list[tuple[int, Event]] = []
        self._error: Exception | None = None
        self._ticked = False
        self._is_closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []

    async def put(self, index: int, event: Event) -> None:
        """Hand over an event of choice `index`; after an interruption or `close` it is dropped."""
        while len(self._events) >= MAX_EVENTS and not self._drops:
            space = asyncio.get_running_loop().create_future()
            self._writers.append(space)
            await space
        if not self._drops:
            self._events.append((index, event))
            self._wake_reader()

    async def take(self) -> list[tuple[int, Event]]:
        """All events so far, waiting for the first. Then raises what `interrupt` was given."""
        while not self._events and self._error is None and not self._ticked:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._ticked = False
        if self._error is not None and not self._events:
            raise self._error
        events, self._events = self._events, []
        self._wake_writers()
        return events

    def tick(self) -> None:
        self._ticked = True
        self._wake_reader()

    def interrupt(self, error: Exception) -> None:
        """Make `take` raise once it has given out what is there. The first interruption stays."""
        self._error = self._error or error
        self._wake_reader()
        self._wake_writers()

    def close(self) -> None:
        self._is_closed = True
        self._events.clear()
        self._wake_writers()

    @property
    def _drops(self) -> bool:
        return self._is_closed or self._error is not None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)
