"""Built-in layout of ERNIE-4.5-21B-A3B-Thinking and ERNIE-X1: ChatML with setting blocks.

These models always think: the request's switch changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.chat_template.conversation import Turn, dump_json
from backend.chat_template.prompt import PromptBuilder, RenderedPrompt

STOP_TOKEN = "<|im_end|>"  # noqa: S105


class ChatMLLayout:
    def render(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], thinking: bool
    ) -> RenderedPrompt:
        prompt = PromptBuilder()
        self._system(prompt, turns[0] if turns[0].role == "system" else None, tools)
        last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
        for i, turn in enumerate(turns):
            if turn.role == "system":
                if i > 0:
                    self._block(prompt, "system", "<system_setting>\n", turn, "\n</system_setting>")
            elif turn.role == "user":
                self._block(prompt, "user", "", turn, "")
            elif turn.role == "assistant":
                self._assistant(prompt, turn, in_tool_loop=i > last_user)
            else:
                self._block(prompt, "user", "<tool_response>\n", turn, "\n</tool_response>")
        prompt.control("<|im_start|>assistant\n<think>\n")
        return prompt.build(opens_reasoning=True)

    def _system(
        self, prompt: PromptBuilder, turn: Turn | None, tools: Sequence[dict[str, Any]]
    ) -> None:
        prompt.control("<|im_start|>system\n")
        if turn is not None and turn.parts:
            prompt.control("<system_setting>\n")
            prompt.user(turn.text)
            prompt.control("\n</system_setting>\n\n")
        prompt.control("<global_setting>\nthink_mode=True\n</global_setting>")
        if tools:
            prompt.control("\n\n<tool_list>\n[")
            prompt.user(", ".join(dump_json(tool) for tool in tools))
            prompt.control("]\n</tool_list>")
        prompt.control("<|im_end|>\n\n")

    def _block(self, prompt: PromptBuilder, role: str, before: str, turn: Turn, after: str) -> None:
        prompt.control(f"<|im_start|>{role}\n{before}")
        prompt.user(turn.text)
        prompt.control(f"{after}<|im_end|>\n\n")

    def _assistant(self, prompt: PromptBuilder, turn: Turn, in_tool_loop: bool) -> None:
        prompt.control("<|im_start|>assistant\n")
        text = turn.text.strip("\n")
        reasoning = turn.reasoning.strip("\n") if in_tool_loop else ""
        if reasoning:
            prompt.control("<think>\n")
            prompt.user(reasoning)
            prompt.control("\n</think>\n\n" if text or not turn.calls else "\n</think>\n")
        if text or not turn.calls:
            prompt.control("<response>\n")
            prompt.user(text)
            prompt.control("\n</response>\n")
        for call in turn.calls:
            prompt.control("\n<tool_call>\n")
            prompt.user(dump_json({"name": call.name, "arguments": call.arguments}))
            prompt.control("\n</tool_call>")
        prompt.control("\n<|im_end|>\n\n" if turn.calls else "<|im_end|>\n\n")
