"""One answer on its way from token ids to events."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from backend.parsers import OutputParser, StopMatcher
from backend.postprocess.collector import DeltaCollector
from backend.postprocess.logprobs import describe
from backend.request import FinishReason, Usage
from backend.tokenizer import IncrementalDetokenizer, Tokenizer
from backend.wire import Delta, EngineOutput, Event, EventLogprob, PostprocessSpec


class Stream:
    """Tokens → text → up to a stop string → reasoning, content, tool calls.

    Stop strings are matched on the whole text in the order of generation, reasoning and tags
    included. After one, the stream waits for the engine's last output and ignores the others.
    """

    def __init__(self, spec: PostprocessSpec, tokenizer: Tokenizer, parser: OutputParser) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._parser = parser
        self._detokenizer = IncrementalDetokenizer(tokenizer, spec.skip_special_tokens)
        self._stop = StopMatcher(spec.stop, spec.include_stop_str_in_output) if spec.stop else None
        self._collector = None if spec.stream else DeltaCollector()
        self._seq = 0
        self._echo_text = spec.echo_text
        # Not yet sent, because no event has been due since.
        self._token_ids: list[int] = []
        self._logprobs: list[EventLogprob] | None = None

        self._num_tokens = 0
        self._num_chars = 0
        # Where each token's text ends, for as long as the reasoning is open.
        self._token_ends: list[int] = []
        self._reasoning_tokens: int | None = None

    @property
    def is_stopped(self) -> bool:
        """A stop string was found, or the last tool call that may be made has ended: the engine's
        further tokens are not wanted."""
        return self._parser.is_done or (self._stop is not None and self._stop.matched is not None)

    def process(self, output: EngineOutput) -> Event | None:
        delta = Delta()
        for part in _single_tokens(output) if self._spec.max_tool_calls else (output,):
            if self.is_stopped:
                break
            text = self._read_tokens(part)
            _append(delta, self._parse(text, is_end=part.is_last or self.is_stopped))
        if self._echo_text:
            delta.content, self._echo_text = self._echo_text + delta.content, ""
        if self._collector is not None:
            self._collector.add(delta)
        if output.is_last:
            return self._last_event(output, delta)
        if self._collector is not None or not delta:
            return None
        return self._event(delta)

    def _read_tokens(self, output: EngineOutput) -> str:
        """Text that the output's tokens add, up to a stop string."""
        if self._stop is None and self._reasoning_tokens is not None:
            text = self._detokenizer.push(output.token_ids)
            num_read = len(output.token_ids)
        else:
            pieces: list[str] = []
            num_read = 0
            for token_id in output.token_ids:
                num_read += 1
                piece = self._detokenizer.push((token_id,))
                self._num_chars += len(piece)
                if self._reasoning_tokens is None:
                    self._token_ends.append(self._num_chars)
                pieces.append(self._stop.push(piece) if self._stop else piece)
                if self.is_stopped:
                    break
            text = "".join(pieces)
        self._num_tokens += num_read
        if self._spec.return_token_ids:
            self._token_ids += output.token_ids[:num_read]
        if output.logprobs is not None:
            self._logprobs = self._logprobs or []
            self._logprobs += [describe(x, self._tokenizer) for x in output.logprobs[:num_read]]
        if output.is_last and not self.is_stopped:
            rest = self._detokenizer.finish()
            text += self._stop.push(rest) + self._stop.finish() if self._stop else rest
        return text

    def _parse(self, text: str, is_end: bool) -> Delta:
        delta = self._parser.push(text) if text else Delta()
        if is_end:
            _append(delta, self._parser.finish())
        if self._reasoning_tokens is None:
            self._count_reasoning(is_end)
        return delta

    def _count_reasoning(self, is_end: bool) -> None:
        end = self._parser.reasoning_end
        if end is not None:
            # The token whose text completes `</think>` is the last one that counts.
            self._reasoning_tokens = bisect_left(self._token_ends, end) + 1 if end else 0
            self._token_ends.clear()
        elif is_end:
            self._reasoning_tokens = self._num_tokens

    def _last_event(self, output: EngineOutput, delta: Delta) -> Event:
        if output.error is not None and not self.is_stopped:
            return Event(self._seq, error=output.error)
        event = self._event(delta if self._collector is None else self._collector.whole())
        event.finish_reason = self._finish_reason(output)
        event.stop_reason = self._stop_reason(output)
        event.usage = self._usage(output)
        return event

    def _finish_reason(self, output: EngineOutput) -> FinishReason:
        reason = output.finish_reason or FinishReason.STOP
        if self.is_stopped:
            reason = FinishReason.STOP
        if reason is FinishReason.STOP and self._parser.num_tool_calls:
            reason = FinishReason.TOOL_CALLS
        return reason

    def _stop_reason(self, output: EngineOutput) -> str | int | None:
        if self._stop is not None and self._stop.matched is not None:
            return self._stop.matched
        stop_id = output.stop_token_id
        return None if stop_id in self._tokenizer.eos_token_ids else stop_id

    def _usage(self, output: EngineOutput) -> Usage:
        usage = output.usage or Usage(completion_tokens=self._num_tokens)
        counts = {"reasoning_tokens": self._reasoning_tokens or 0}
        if self.is_stopped:
            counts["completion_tokens"] = self._num_tokens
        return msgspec.structs.replace(usage, **counts)

    def _event(self, delta: Delta) -> Event:
        event = Event(self._seq, delta, logprobs=self._logprobs)
        if self._seq == 0:
            event.report = self._spec.report
            event.num_echoed = len(self._spec.echo_text)
            if self._spec.prompt_token_ids is not None:
                event.prompt_token_ids = list(self._spec.prompt_token_ids)
        if self._spec.return_token_ids:
            event.token_ids = self._token_ids
        self._seq += 1
        self._token_ids, self._logprobs = [], None
        return event


def _append(delta: Delta, rest: Delta) -> None:
    delta.reasoning += rest.reasoning
    delta.content += rest.content
    delta.tool_calls += rest.tool_calls


def _single_tokens(output: EngineOutput) -> Iterator[EngineOutput]:
    """One output per token, then the rest of what `output` says."""
    logprobs = output.logprobs
    for i, token_id in enumerate(output.token_ids):
        yield EngineOutput(
            stream_key=output.stream_key,
            seq=output.seq,
            token_ids=[token_id],
            logprobs=None if logprobs is None else logprobs[i : i + 1],
        )
    if output.is_last:
        yield msgspec.structs.replace(output, token_ids=[], logprobs=None)
