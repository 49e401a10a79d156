"""All open answers of a server, by stream key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.config.serving import PostprocessorSettings
from backend.errors import InternalError
from backend.postprocess.parser_choice import choose_parsers
from backend.postprocess.stream import Stream
from backend.tokenizer import Tokenizer
from backend.wire import EngineOutput, Event

IDLE_LIMIT_S = 900.0
"""A stream that gets nothing for so long was dropped by its engine."""

_SWEEP_INTERVAL_S = 60.0


@dataclass(slots=True)
class _Entry:
    """`stream` is None for one that was answered with an error and waits for its last output."""

    stream: Stream | None
    last_seen_s: float


class Postprocessor:
    """Used by one thread. `clock` is monotonic, in seconds.

    Raises ConfigError for unknown parser names, CheckpointError for an unusable model folder.
    """

    def __init__(
        self, settings: PostprocessorSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parsers = choose_parsers(settings)
        self._tokenizer = Tokenizer.load(settings.model)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._last_sweep_s = clock()

    @property
    def num_open_streams(self) -> int:
        return len(self._entries)

    def process(self, output: EngineOutput) -> Event | None:
        """The event to send for one engine output; None when there is nothing to send yet."""
        now_s = self._clock()
        self._sweep(now_s)
        entry = self._entries.get(output.stream_key)
        if entry is None:
            if output.post is None:
                return self._reject(output, now_s)
            parser = self._parsers.make(output.post)
            entry = _Entry(Stream(output.post, self._tokenizer, parser), now_s)
            self._entries[output.stream_key] = entry
        entry.last_seen_s = now_s
        if output.is_last:
            del self._entries[output.stream_key]
        return None if entry.stream is None else entry.stream.process(output)

    def wants_stop(self, stream_key: str) -> bool:
        """True when the engine should end this stream: its text has ended, or nobody reads it."""
        entry = self._entries.get(stream_key)
        return entry is not None and (entry.stream is None or entry.stream.is_stopped)

    def _reject(self, output: EngineOutput, now_s: float) -> Event:
        """A failure from before the first token, or the middle of a stream without its start."""
        if output.error is not None:
            return Event(seq=0, error=output.error)
        if not output.is_last:
            self._entries[output.stream_key] = _Entry(None, now_s)
        error = InternalError(
            f"output {output.seq} of request {output.request_id[:64]!r} came without the "
            "stream's first output"
        )
        return Event(seq=0, error=error.info())

    def _sweep(self, now_s: float) -> None:
        if now_s - self._last_sweep_s < _SWEEP_INTERVAL_S:
            return
        self._last_sweep_s = now_s
        oldest_s = now_s - IDLE_LIMIT_S
        self._entries = {k: e for k, e in self._entries.items() if e.last_seen_s >= oldest_s}
