"""The ensemble requests behind one HTTP request: n choices of each of its prompts.

All of them carry the same request id, so one STOP ends them together. Pumps move events from
Triton's streams into the mailbox and are never cancelled while a stop may still work: cancelling
an ensemble does not reach the engine (the STOP op does), and only a stream read to its last event
is known to have left the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from backend.errors import EngineUnavailableError, ErnieError, InternalError
from backend.wire import Event
from openai_frontend.mailbox import Mailbox
from openai_frontend.upstream import Upstream

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0
STOP_INTERVAL_S = 0.2


class Generation:
    """Started by its constructor; must be ended with `finish`, which never blocks."""

    def __init__(
        self,
        upstream: Upstream,
        request_id: str,
        requests: Sequence[bytes],
        media: Sequence[bytes],
    ) -> None:
        self.request_id = request_id
        self._upstream = upstream
        self._mailbox = Mailbox()
        self._incomplete = set(range(len(requests)))
        self._stopping: asyncio.Task[None] | None = None
        self._pumps = [
            asyncio.create_task(self._pump(index, upstream.generate(request_id, request, media)))
            for index, request in enumerate(requests)
        ]

    @property
    def is_complete(self) -> bool:
        """Whether every choice has had its last event."""
        return not self._incomplete

    async def take(self) -> list[tuple[int, Event]]:
        """(choice, event) pairs that have arrived; empty after `tick`.

        Raises the upstream's ErnieError, or what `interrupt` was given.
        """
        return await self._mailbox.take()

    def tick(self) -> None:
        self._mailbox.tick()

    def interrupt(self, error: Exception) -> None:
        self._mailbox.interrupt(error)

    def stop(self) -> asyncio.Task[None] | None:
        """Begin to end choices still running, whatever the reader does; events go on to arrive."""
        is_running = not self.is_complete and not all(pump.done() for pump in self._pumps)
        if self._stopping is None and is_running:
            self._stopping = asyncio.create_task(self._stop())
        return self._stopping

    def finish(self) -> asyncio.Task[None] | None:
        """The reader is done. Choices still running are stopped by the returned task."""
        self._mailbox.close()
        return self.stop()

    async def _pump(self, index: int, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                if event.is_last:
                    self._incomplete.discard(index)
                await self._mailbox.put(index, event)
            if index in self._incomplete:
                raise _gone()
        except ErnieError as error:
            self._fail(index, error)
        except asyncio.CancelledError:
            # Also raised when the connection under the stream is closed.
            self._fail(index, _gone())
            raise
        except Exception:
            logger.exception("request %s failed", self.request_id)
            self._fail(index, InternalError("internal error; the server's log has the cause"))

    def _fail(self, index: int, error: ErnieError) -> None:
        if index in self._incomplete:
            self._mailbox.interrupt(error)

    async def _stop(self) -> None:
        """STOP until every stream has ended: it may still be in the preprocessor at first, where
        the engine does not know it yet."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_TIMEOUT_S
        while (left := deadline - loop.time()) > 0:
            with contextlib.suppress(ErnieError, asyncio.TimeoutError):
                await asyncio.wait_for(self._upstream.stop(self.request_id), left)
            _, running = await asyncio.wait(self._pumps, timeout=STOP_INTERVAL_S)
            if not running:
                return
        for pump in self._pumps:
            pump.cancel()
        await asyncio.wait(self._pumps)


def _gone() -> EngineUnavailableError:
    return EngineUnavailableError("the engine went away before the answer was complete")
