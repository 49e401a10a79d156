"""Sample → token ids, positions and patches, by the code that serves requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.chat_template import ChatTemplate, Family
from backend.media.item import MediaItem, merged_grid
from backend.media.positions import rotary_positions
from backend.tokenizer import Tokenizer
from backend.wire import Message, Tool

from .processing import media_item
from .sample import Sample


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the right answer as the model sees them.

    `token_ids` int32 [n]: prompt then answer with its end token; `num_prompt` of them are prompt.
    `positions` int32 [3, n]. `items` in prompt order; their placeholders start at `offsets`.
    """

    token_ids: NDArray[np.int32]
    num_prompt: int
    positions: NDArray[np.int32]
    items: tuple[MediaItem, ...]
    offsets: tuple[int, ...]


class Prompter:
    """Loads the checkpoint's tokenizer and the built-in template that it is served with."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.load(folder)
        self._template = ChatTemplate.load(
            folder, self.tokenizer, is_multimodal=True, setting=Family.VL.value
        )
        placeholder = self.tokenizer.token_id("<|IMAGE_PLACEHOLDER|>")
        if placeholder is None:
            raise ValueError(f"{folder}: the tokenizer has no <|IMAGE_PLACEHOLDER|>")
        self.placeholder_id = placeholder

    def example(self, sample: Sample) -> Example:
        """The whole exchange."""
        items = tuple(media_item(media) for media in sample.media)
        prompt, offsets = self.prompt_ids(sample, items)
        ids = [*prompt, *self.target_ids(sample)]
        spans = [
            (offset, merged_grid(item.kind, item.grid))
            for offset, item in zip(offsets, items, strict=True)
        ]
        return Example(
            np.array(ids, np.int32),
            len(prompt),
            rotary_positions(len(ids), spans),
            items,
            tuple(offsets),
        )

    def prompt_ids(
        self, sample: Sample, items: tuple[MediaItem, ...]
    ) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and where each item's placeholders start."""
        if sample.messages[0]["role"] == "completion":
            return self.tokenizer.encode_text(sample.messages[0]["content"]), []
        rendered = self._template.render(
            msgspec.convert(sample.messages, list[Message]),
            msgspec.convert(sample.tools, list[Tool]),
            {"enable_thinking": sample.thinking},
        )
        ids: list[int] = []
        offsets: list[int] = []
        for piece in rendered.tokenize(self.tokenizer):
            if isinstance(piece, list):
                ids += piece
                continue
            offsets.append(len(ids))
            ids += [self.placeholder_id] * items[piece.index].num_tokens
        return ids, offsets

    def target_ids(self, sample: Sample) -> list[int]:
        """Token ids of what the model writes, ending with the end-of-text token."""
        text = self.tokenizer.encode_template(sample.target_text())
        return [*text, self.tokenizer.eos_token_id]
