"""Token ids, positions and media spans of a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.chat_template import MediaPlaceholder
from backend.config.model import ModelConfig
from backend.errors import InternalError, InvalidRequestError, MediaError
from backend.media.item import MediaItem, merged_grid
from backend.media.positions import rotary_positions
from backend.tokenizer import Tokenizer
from backend.wire import Kind, MediaSpan


@dataclass(frozen=True)
class Prompt:
    """`ids` int32 [n]; `positions` int32 [3, n]; `pixels` uint8 [rows, 588], items in `spans`'
    order, None for text."""

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    spans: tuple[MediaSpan, ...] = ()
    pixels: NDArray[np.uint8] | None = None


def text_prompt(token_ids: Sequence[int] | NDArray[np.int32]) -> Prompt:
    return Prompt(np.array(token_ids, dtype=np.int32), rotary_positions(len(token_ids), ()))


def lay_out(
    pieces: Sequence[list[int] | MediaPlaceholder],
    items: Sequence[MediaItem],
    config: ModelConfig,
) -> Prompt:
    """Put every item's placeholder tokens in its place. `items` by the placeholders' index.

    Every item must have exactly one place, and no other token may be a placeholder: the engine
    replaces placeholder rows by pixels, in order. Raises MediaError when the template shows
    something else (one written without media in mind drops them), InternalError for the rest.
    """
    token_ids: list[int] = []
    spans: list[MediaSpan] = []
    places: list[tuple[int, tuple[int, int, int]]] = []
    order: list[int] = []
    num_rows = 0
    for piece in pieces:
        if not isinstance(piece, MediaPlaceholder):
            check_no_placeholders(piece, config)
            token_ids += piece
            continue
        item = items[piece.index]
        if item.kind != piece.kind:
            raise InternalError(f"the template shows {item.kind} {piece.index} as {piece.kind}")
        places.append((len(token_ids), _merged(item, config)))
        spans.append(
            MediaSpan(item.kind, len(token_ids), item.num_tokens, item.grid, num_rows, item.digest)
        )
        token_id = config.image_token_id if item.kind == "image" else config.video_token_id
        token_ids += [token_id] * item.num_tokens
        num_rows += len(item.patches)
        order.append(piece.index)
    if sorted(order) != list(range(len(items))):
        raise MediaError(
            f"the messages hold {len(items)} pictures and videos, but the chat template shows "
            f"{len(set(order))} of them, in {len(order)} places",
            param="messages",
        )
    ids = np.array(token_ids, dtype=np.int32)
    return Prompt(ids, rotary_positions(len(ids), places), tuple(spans), _pixels(items, order))


def split_at_placeholders(
    token_ids: Sequence[int], kinds: Sequence[Kind], config: ModelConfig
) -> list[list[int] | MediaPlaceholder]:
    """A prompt of tokens whose runs of placeholder tokens stand for the media, in their order.

    Raises MediaError when there are not as many runs as media.
    """
    placeholders: tuple[int | None, ...] = ()
    if config.is_multimodal:
        placeholders = (config.image_token_id, config.video_token_id)
    pieces: list[list[int] | MediaPlaceholder] = []
    num_runs = 0
    for is_media, run in itertools.groupby(token_ids, key=lambda i: i in placeholders):
        if not is_media:
            pieces.append(list(run))
            continue
        if num_runs < len(kinds):
            pieces.append(MediaPlaceholder(kinds[num_runs], num_runs))
        num_runs += 1
    if num_runs != len(kinds):
        raise MediaError(
            f"prompt_token_ids has {num_runs} runs of placeholder tokens; the messages hold "
            f"{len(kinds)} pictures and videos",
            param="prompt_token_ids",
        )
    return pieces


def ends_in_reasoning(token_ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """The last `<think>` is not followed by `</think>`.

    The tokens are looked for, which user text never yields; their texts only in a vocabulary
    without them.
    """
    start, end = tokenizer.token_id("<think>"), tokenizer.token_id("</think>")
    if start is None or end is None:
        text = tokenizer.decode(token_ids)
        return text.rfind("<think>") > text.rfind("</think>")
    last = next((i for i in reversed(token_ids) if i in (start, end)), end)
    return last == start


def check_no_placeholders(token_ids: Sequence[int], config: ModelConfig) -> None:
    """Raises InvalidRequestError: such a token without its picture has no meaning."""
    if not config.is_multimodal:
        return
    for token_id in (config.image_token_id, config.video_token_id):
        if token_id in token_ids:
            raise InvalidRequestError(
                f"the prompt holds token {token_id}, which stands for a picture or video, without "
                "one"
            )


def _merged(item: MediaItem, config: ModelConfig) -> tuple[int, int, int]:
    if config.vision is None:
        raise InternalError("a text-only model has no media")
    return merged_grid(
        item.kind, item.grid, config.vision.spatial_merge_size, config.vision.temporal_merge_size
    )


def _pixels(items: Sequence[MediaItem], order: Sequence[int]) -> NDArray[np.uint8] | None:
    if not order:
        return None
    if len(order) == 1:
        return items[order[0]].patches  # not copied: the largest thing around
    return np.concatenate([items[index].patches for index in order])
