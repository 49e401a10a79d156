"""Which template a checkpoint is served with, and rendering with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from backend.chat_template.chatml import STOP_TOKEN, ChatMLLayout
from backend.chat_template.checkpoint import read_checkpoint_template
from backend.chat_template.conversation import MediaPart, Turn, read_conversation, read_tools
from backend.chat_template.ernie import ErnieLayout
from backend.chat_template.family import Family, detect_family
from backend.chat_template.jinja import JinjaLayout
from backend.chat_template.options import wants_thinking
from backend.chat_template.prompt import RenderedPrompt
from backend.errors import ConfigError, MediaError
from backend.tokenizer import Tokenizer
from backend.wire import Message, Tool


class Layout(Protocol):
    def render(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], thinking: bool
    ) -> RenderedPrompt: ...


class ChatTemplate:
    """Safe to use from several threads.

    `stop_tokens`: names of tokens that end an answer of this family besides the tokenizer's eos.
    """

    def __init__(
        self, layout: Layout, is_multimodal: bool, stop_tokens: tuple[str, ...] = ()
    ) -> None:
        self._layout = layout
        self._is_multimodal = is_multimodal
        self.stop_tokens = stop_tokens

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Tokenizer,
        is_multimodal: bool,
        setting: str = "",
        reasoning_parser: str = "",
    ) -> ChatTemplate:
        """Choose the template by `setting`:

        - "": the checkpoint's own Jinja template; without one, the built-in layout of its family
          (see `detect_family`, which `reasoning_parser` may decide);
        - the name of a family: that built-in layout;
        - otherwise a Jinja template, as a text (with `{` in it) or as the path of a file.

        Raises ConfigError for a setting that is none of these or a template that does not compile,
        CheckpointError for unreadable files of the checkpoint.
        """
        text = read_checkpoint_template(folder) if not setting else None
        family = detect_family(folder, is_multimodal, reasoning_parser)
        if setting in {family.value for family in Family}:
            family = Family(setting)
        elif setting:
            text = _read_setting(setting)
        stop_tokens = (STOP_TOKEN,) if family is Family.X1 else ()
        layout: Layout
        if text is not None:
            layout = JinjaLayout(text, tokenizer.role_tokens)
        else:
            layout = ChatMLLayout() if family is Family.X1 else ErnieLayout(family)
        return cls(layout, is_multimodal, stop_tokens)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RenderedPrompt:
        """`kwargs` and `metadata` are the request's chat_template_kwargs and metadata.

        Raises InvalidRequestError naming the field that is wrong.
        """
        turns = read_conversation(messages)
        has_media = any(isinstance(part, MediaPart) for turn in turns for part in turn.parts)
        if has_media and not self._is_multimodal:
            raise MediaError("this model takes text only; the messages hold media")
        thinking = wants_thinking(kwargs, metadata)
        return self._layout.render(turns, read_tools(tools), thinking)

    def close(self) -> None:
        """End the process that renders a Jinja template, if there is one."""
        if isinstance(self._layout, JinjaLayout):
            self._layout.close()


def _read_setting(setting: str) -> str:
    if "{" in setting:
        return setting
    try:
        return Path(setting).read_text(encoding="utf-8")
    except (OSError, ValueError):
        names = ", ".join(family.value for family in Family)
        raise ConfigError(
            f"chat_template is {setting[:200]!r}; expected a Jinja template, the path of a "
            f"readable file, or one of {names}"
        ) from None
