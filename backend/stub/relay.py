"""The postprocessor's duties towards the engine: acknowledge outputs, relay what ends a stream.

A cancel of an ensemble request never reaches the engine step that is running. The postprocessor's
steps do see it, so they tell the engine. Asking Triton costs a round trip through one thread of
the server, as much as half an output: hence not for every output, and the more streams there are,
the less often for each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.errors import ErnieError
from backend.shared_memory import CreditFile
from backend.wire import Credit, EngineOutput

MIN_POLL_S = 0.05
MAX_POLL_S = 0.5
"""Of one stream. With the credits' delay a cancel still reaches the engine within a second."""
MAX_POLLS_PER_S = 500
MAX_SILENCE_S = 3600.0
"""A stream whose engine stub died never ends; its state is dropped after this."""

log = logging.getLogger("response_postprocessor")


@dataclass
class _Open:
    credit: Credit | None
    next_poll: float
    touched_at: float
    was_stopped: bool = False


class StreamRelay:
    """State per open stream, made by its first output and dropped with its last."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._files: dict[str, CreditFile] = {}
        self._next_purge = 0.0

    @property
    def num_open_streams(self) -> int:
        return len(self._open)

    def should_stop(
        self, output: EngineOutput, is_cancelled: Callable[[], bool], wants_stop: bool
    ) -> bool:
        """Whether to send `stop` for this output's stream now; True at most once per stream."""
        if output.is_last:
            return False
        now = time.monotonic()
        stream = self._open.get(output.stream_key)
        if stream is None:
            stream = self._open[output.stream_key] = _Open(output.credit, 0.0, now)
            self._purge(now)
        stream.touched_at = now
        if stream.was_stopped:
            return False
        if not wants_stop and now >= stream.next_poll:
            stream.next_poll = now + self._poll_interval_s()
            wants_stop = is_cancelled()
        stream.was_stopped = wants_stop
        return wants_stop

    def acknowledge(self, output: EngineOutput) -> None:
        """Tell the engine's stub that an output was worked off. Never raises."""
        if output.is_last:
            stream = self._open.pop(output.stream_key, None)
        else:
            stream = self._open.get(output.stream_key)
        if stream is None or stream.credit is None:
            return
        file = self._file(stream.credit.name)
        if file is not None:
            file.bump(stream.credit.slot)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _poll_interval_s(self) -> float:
        return min(max(len(self._open) / MAX_POLLS_PER_S, MIN_POLL_S), MAX_POLL_S)

    def _file(self, name: str) -> CreditFile | None:
        file = self._files.get(name)
        if file is None:
            try:
                file = CreditFile.open(name)
            except ErnieError as error:
                log.debug("%s", error.message)
                return None
            # One engine stub, one file: another name means that the stub was started anew.
            self.close()
            self._files[name] = file
        return file

    def _purge(self, now: float) -> None:
        if now < self._next_purge:
            return
        self._next_purge = now + 60.0
        for key in [k for k, s in self._open.items() if now - s.touched_at > MAX_SILENCE_S]:
            del self._open[key]
