"""One choice's answer, put together from its events. The same sums serve streamed requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.request import FinishReason, Usage
from backend.wire import Event, EventLogprob, ToolCallDelta


@dataclass
class ToolCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass
class Answer:
    """`num_token_ids`: completion tokens seen so far, where events carry token ids."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] | None = None
    logprobs: list[EventLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage = field(default_factory=Usage)
    num_echoed: int = 0

    def add(self, event: Event) -> None:
        delta = event.delta
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        if delta.content:
            self.content.append(delta.content)
        for call in delta.tool_calls:
            self._add_tool_call(call)
        if event.logprobs:
            self.logprobs = [*(self.logprobs or ()), *event.logprobs]
        self.track(event)

    def track(self, event: Event) -> None:
        """Keep only what the end of a stream needs: ids, finish and usage."""
        self.num_echoed += event.num_echoed
        if event.token_ids:
            self.token_ids.extend(event.token_ids)
        if event.prompt_token_ids is not None:
            self.prompt_token_ids = event.prompt_token_ids
        if event.finish_reason is not None:
            self.finish_reason = event.finish_reason
            self.stop_reason = event.stop_reason
        if event.usage is not None:
            self.usage = event.usage

    def _add_tool_call(self, delta: ToolCallDelta) -> None:
        call = self.tool_calls.setdefault(delta.index, ToolCall())
        call.id = delta.id or call.id
        call.name = delta.name or call.name
        if delta.arguments:
            call.arguments.append(delta.arguments)

    def usage_so_far(self) -> Usage:
        """Counted from token ids while the stream runs; the engine's own count at its end."""
        if self.finish_reason is not None:
            return self.usage
        return Usage(
            prompt_tokens=len(self.prompt_token_ids or ()), completion_tokens=len(self.token_ids)
        )
