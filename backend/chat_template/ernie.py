"""Built-in layout of the text, VL and VL-Thinking models: `User: …` / `Assistant: …` turns.

The tool layout is the one VL-Thinking was trained with; the other two are given the same, since
they have none of their own. Several results of one round share a user turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.chat_template.conversation import MediaPart, Turn, dump_json
from backend.chat_template.family import Family
from backend.chat_template.prompt import PromptBuilder, RenderedPrompt

DEFAULT_SYSTEM = (
    "You are a multimodal AI assistant called ERNIE developed by Baidu "
    "based on the PaddlePaddle framework."
)
_MEDIA_LABEL = {"image": "Picture", "video": "Video"}
_THINK = {Family.VL: "<think>", Family.VL_THINKING: "\n<think>\n"}
_NO_THINK = {
    Family.VL: "<think>\n\n</think>\n\n",
    Family.VL_THINKING: "\n<think>\n\n</think>\n\n",
}


class ErnieLayout:
    def __init__(self, family: Family) -> None:
        self._family = family

    def render(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], thinking: bool
    ) -> RenderedPrompt:
        prompt = _Prompt()
        prompt.control("<|begin_of_sentence|>")
        has_system = turns[0].role == "system"
        if not has_system and (tools or self._family is Family.VL_THINKING):
            # The default text is the template's own, but is encoded like any text.
            prompt.system((DEFAULT_SYSTEM,) if self._family is Family.VL_THINKING else (), tools)
        last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
        for i, turn in enumerate(turns):
            if turn.role == "system":
                prompt.system(turn.parts, tools if i == 0 else ())
            elif turn.role == "user":
                prompt.control("User: ")
                prompt.parts(turn.parts)
                prompt.control("\n")
            elif turn.role == "assistant":
                self._assistant(prompt, turn, in_tool_loop=i > last_user)
            else:
                follows_result = i > 0 and turns[i - 1].role == "tool"
                is_last_result = i + 1 == len(turns) or turns[i + 1].role != "tool"
                prompt.tool_result(turn, opens=not follows_result, closes=is_last_result)
        prompt.control("Assistant: ")
        has_think = self._family in _THINK
        if has_think:
            prompt.control((_THINK if thinking else _NO_THINK)[self._family])
        return prompt.build(opens_reasoning=has_think and thinking)

    def _assistant(self, prompt: _Prompt, turn: Turn, in_tool_loop: bool) -> None:
        """Reasoning belongs to the tool loop it was made in; later turns are told the answer."""
        prompt.control("Assistant: ")
        reasoning = turn.reasoning.strip("\n") if in_tool_loop else ""
        if reasoning and self._family in _THINK:
            prompt.control("\n<think>\n" if self._family is Family.VL_THINKING else "<think>\n")
            prompt.user(reasoning)
            prompt.control("\n</think>\n" if turn.calls and not turn.text else "\n</think>\n\n")
        # Answers begin with the blank line that followed `</think>`; clients send it back.
        parts = turn.parts
        if parts and isinstance(parts[0], str):
            parts = (parts[0].lstrip("\n"), *parts[1:])
        prompt.parts(parts)
        for call in turn.calls:
            prompt.control("\n<tool_call>\n")
            prompt.user(dump_json({"name": call.name, "arguments": call.arguments}))
            prompt.control("\n</tool_call>")
        prompt.control("\n<|end_of_sentence|>" if turn.calls else "<|end_of_sentence|>")


class _Prompt(PromptBuilder):
    """Adds what the turns of this layout are made of; numbers pictures and videos."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = {"image": 0, "video": 0}

    def parts(self, parts: Sequence[str | MediaPart]) -> None:
        for part in parts:
            if isinstance(part, str):
                self.user(part)
                continue
            self._counts[part.kind] += 1
            name = part.kind.upper()
            label = f"{_MEDIA_LABEL[part.kind]} {self._counts[part.kind]}:"
            self.control(f"{label}<|{name}_START|>")
            self.media(part.kind, part.index)
            self.control(f"<|{name}_END|>")

    def system(self, parts: Sequence[str | MediaPart], tools: Sequence[dict[str, Any]]) -> None:
        self.parts(parts)
        if tools:
            self.control("\n<tool_list>\n[")
            self.user(", ".join(dump_json(tool) for tool in tools))
            self.control("]\n</tool_list>\n")
        self.control("\n")

    def tool_result(self, turn: Turn, opens: bool, closes: bool) -> None:
        self.control("User: <tool_output>\n" if opens else "<tool_output>\n")
        self.parts(turn.parts)
        self.control("\n</tool_output>\n")
        if closes:
            self.control("\n")
