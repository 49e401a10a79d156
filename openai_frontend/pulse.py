"""The clock of one stream: a ping after silence, the end after a stall.

A client that stops reading blocks `send` for ever, since the server may not drop what it has
written: after `stall_timeout_s` in one `send` the connection is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Message, Scope, Send

STALL_TIMEOUT_S = 30.0
PERIOD_S = 1.0
ABORT_EXTENSION = "ernie.abort_connection"


class Pulse:
    """Wraps `send`; `on_silence` is called when nothing was sent for `ping_interval_s` (0: never).

    `stop` must be called at the end.
    """

    def __init__(
        self,
        scope: Scope,
        send: Send,
        on_silence: Callable[[], None],
        ping_interval_s: float,
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        self._send = send
        self._on_silence = on_silence
        self._ping_interval_s = ping_interval_s
        self._stall_timeout_s = stall_timeout_s
        self._abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT_EXTENSION)
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._sending_since: float | None = None
        self._period_s = min(PERIOD_S, ping_interval_s or PERIOD_S, stall_timeout_s) / 2
        self._timer = self._loop.call_later(self._period_s, self._beat)

    async def send(self, message: Message) -> None:
        self._sending_since = self._loop.time()
        await self._send(message)
        self._sending_since = None
        self._sent_at = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        now = self._loop.time()
        if self._sending_since is not None:
            if now - self._sending_since >= self._stall_timeout_s and self._abort is not None:
                self._abort()
                return
        elif self._ping_interval_s and now - self._sent_at >= self._ping_interval_s:
            self._on_silence()
        self._timer = self._loop.call_later(self._period_s, self._beat)
