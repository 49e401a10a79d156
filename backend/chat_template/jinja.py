"""A checkpoint's own Jinja template, rendered out of process with user text hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backend.chat_template.conversation import MediaPart, Turn
from backend.chat_template.markers import Markers
from backend.chat_template.prompt import PromptBuilder, RenderedPrompt
from backend.chat_template.worker_process import WorkerProcess
from backend.errors import InternalError, InvalidRequestError
from backend.wire import Kind

_PLACEHOLDERS: dict[str, Kind] = {
    "<|image@placeholder|>": "image",
    "<|video@placeholder|>": "video",
    "<|IMAGE_PLACEHOLDER|>": "image",
    "<|VIDEO_PLACEHOLDER|>": "video",
    "<|image_pad|>": "image",
    "<|video_pad|>": "video",
}
_PLACEHOLDER = re.compile("|".join(map(re.escape, _PLACEHOLDERS)))
_LABEL = {"image": "Picture", "video": "Video"}


class JinjaLayout:
    """`variables`: names of special tokens as templates know them (`bos_token`, …)."""

    def __init__(self, template: str, variables: Mapping[str, str]) -> None:
        self._worker = WorkerProcess(template, dict(variables))

    def close(self) -> None:
        self._worker.close()

    def render(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], thinking: bool
    ) -> RenderedPrompt:
        """Raises InvalidRequestError when the template refuses the messages or has no place for
        their media, InternalError when it fails."""
        markers = Markers()
        reply = self._worker.render(
            {
                "messages": list(_messages(turns, markers)),
                "tools": [markers.hide_json(tool) for tool in tools] or None,
                "variables": {
                    "add_generation_prompt": True,
                    "enable_thinking": thinking,
                    "options": {"thinking_mode": "open" if thinking else "close"},
                },
            }
        )
        if reply.get("error") == "refused":
            reason = "".join(text if own else "…" for text, own in markers.reveal(reply["message"]))
            raise InvalidRequestError(
                f"the chat template refuses these messages: {reason[:300]}", param="messages"
            )
        if "text" not in reply:
            raise InternalError(
                f"the checkpoint's chat template failed: {reply.get('message', '')}",
                code="chat_template_failed",
            )
        return _to_prompt(markers.reveal(reply["text"]), turns)


def _messages(turns: Sequence[Turn], markers: Markers) -> Iterator[dict[str, Any]]:
    counts = {"image": 0, "video": 0}
    for turn in turns:
        content: list[dict[str, str]] = []
        for part in turn.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": markers.hide(part)})
                continue
            counts[part.kind] += 1
            content.append({"type": part.kind, "label": _label(part.kind, counts[part.kind])})
        message: dict[str, Any] = {"role": turn.role, "content": content}
        if turn.reasoning:
            message["reasoning_content"] = markers.hide(turn.reasoning)
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": markers.hide_json(call.id or ""),
                    "type": "function",
                    "function": {
                        "name": markers.hide_json(call.name),
                        "arguments": markers.hide_json(call.arguments),
                    },
                }
                for call in turn.calls
            ]
        for key, value in (("tool_call_id", turn.tool_call_id), ("name", turn.name)):
            if value is not None:
                message[key] = markers.hide_json(value)
        yield message


def _label(kind: Kind, number: int) -> str:
    """What a template gets that takes content as one string: the format of training."""
    name = kind.upper()
    return f"{_LABEL[kind]} {number}:<|{name}_START|><|{kind}@placeholder|><|{name}_END|>"


def _to_prompt(texts: Iterator[tuple[str, bool]], turns: Sequence[Turn]) -> RenderedPrompt:
    media = [part for turn in turns for part in turn.parts if isinstance(part, MediaPart)]
    waiting = {kind: [part.index for part in media if part.kind == kind] for kind in _LABEL}
    num_wanted = {kind: len(indices) for kind, indices in waiting.items()}
    num_placed = {kind: 0 for kind in _LABEL}
    prompt = PromptBuilder()
    own_text = ""
    for text, is_own in texts:
        if not is_own:
            prompt.user(text)
            continue
        own_text += text
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            kind = _PLACEHOLDERS[match[0]]
            prompt.control(text[end : match.start()])
            if num_placed[kind] < num_wanted[kind]:
                prompt.media(kind, waiting[kind][num_placed[kind]])
            num_placed[kind] += 1
            end = match.end()
        prompt.control(text[end:])
    if num_placed != num_wanted:
        raise InvalidRequestError(
            f"the messages hold {num_wanted['image']} image(s) and {num_wanted['video']} video(s); "
            f"the chat template has places for {num_placed['image']} and {num_placed['video']}",
            param="messages",
        )
    return prompt.build(own_text.rfind("<think>") > own_text.rfind("</think>"))
