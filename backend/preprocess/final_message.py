"""Prompts that no template ends: `continue_final_message`, where the answer goes on where the last
message, an assistant's, ends, and `disable_chat_template`, where the only message is the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from backend.chat_template import ControlText, RenderedPrompt, UserText
from backend.errors import InvalidRequestError
from backend.wire import Message

_CLOSE: Final = "\n</think>\n\n"


def render_unfinished(
    messages: Sequence[Message], render: Callable[[Sequence[Message], bool], RenderedPrompt]
) -> RenderedPrompt:
    """`render(messages, thinking)` renders all but the last message; its text is put behind.

    With `reasoning_content` and no content, the reasoning is continued.
    Raises InvalidRequestError naming the message.
    """
    where = f"messages[{len(messages) - 1}]"
    if len(messages) < 2 or messages[-1].role not in ("assistant", "bot"):
        raise InvalidRequestError(
            "continue_final_message needs messages that end with an assistant's, behind others",
            param="continue_final_message",
        )
    last = messages[-1]
    if not (last.content is None or isinstance(last.content, str)) or last.tool_calls:
        raise InvalidRequestError(
            f"{where} is to be continued: it may hold text only", param="continue_final_message"
        )
    content, reasoning = last.content or "", last.reasoning_content or ""
    rendered = render(messages[:-1], bool(reasoning))
    if not rendered.opens_reasoning:
        return RenderedPrompt((*rendered.segments, UserText(content)), False)
    segments = (*rendered.segments, UserText(reasoning))
    if reasoning and not content:
        return RenderedPrompt(segments, True)
    return RenderedPrompt((*segments, ControlText(_CLOSE), UserText(content)), False)


def render_plain(messages: Sequence[Message]) -> RenderedPrompt:
    """The text of the only message, without anything around it. Raises InvalidRequestError."""
    content = messages[0].content if len(messages) == 1 else None
    if not isinstance(content, str):
        raise InvalidRequestError(
            "disable_chat_template needs exactly one message, of text",
            param="disable_chat_template",
        )
    return RenderedPrompt((UserText(content),), False)
