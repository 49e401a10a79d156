"""Media spans and pixels of an EngineRequest → the pieces that are encoded.

Everything is checked against the prompt and the model: a client can send what it likes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from backend.config.model import ModelConfig, VisionConfig
from backend.errors import InvalidRequestError
from backend.media.item import merged_grid
from backend.scheduler import MediaPiece
from backend.wire import MediaSpan

MAX_PATCHES_PER_PIECE = 8192
"""A video is encoded in pieces of at most this many patches, and of at least one pair of frames.

Attention of the vision model ends at a frame and the resampler's at a pair of frames, so the cut
changes nothing but the work of one step and its memory.
"""


def make_pieces(
    spans: Sequence[MediaSpan],
    prompt_ids: NDArray[np.int32],
    pixels: NDArray[np.uint8] | None,
    config: ModelConfig,
) -> list[MediaPiece]:
    """Pieces in prompt order, with pixels of their own (a copy: shared memory is scarce).

    `pixels` uint8 [sum of t·h·w, patch_dim], items in prompt order. Raises InvalidRequestError
    that names the item, the value and what was expected.
    """
    if config.vision is None:
        if spans or pixels is not None:
            raise InvalidRequestError("this model takes no pictures or videos", param="media")
        return []
    _check_spans(spans, prompt_ids, config)
    rows = np.empty((0, config.vision.patch_dim), np.uint8) if pixels is None else pixels
    _check_pixels(spans, rows, config.vision)
    rows = np.array(rows)
    return [piece for span in spans for piece in _cut(span, rows, config.vision)]


def _check_spans(
    spans: Sequence[MediaSpan], prompt_ids: NDArray[np.int32], config: ModelConfig
) -> None:
    is_placeholder = np.isin(prompt_ids, [config.image_token_id, config.video_token_id])
    end, first_row = 0, 0
    for index, span in enumerate(spans):
        stop = span.offset + span.num_tokens
        if not end <= span.offset < stop <= len(prompt_ids):
            raise _invalid(
                index,
                f"takes tokens {span.offset} to {stop - 1} of {len(prompt_ids)}; expected at "
                f"least one, from token {end} on",
            )
        expected = _num_tokens(index, span, config.vision)
        if span.num_tokens != expected:
            raise _invalid(
                index, f"has {span.num_tokens} tokens; its grid {span.grid} makes {expected}"
            )
        token_id = config.image_token_id if span.kind == "image" else config.video_token_id
        if np.any(prompt_ids[span.offset : stop] != token_id):
            raise _invalid(index, f"does not cover placeholder tokens ({token_id}) only")
        if span.first_row != first_row:
            raise _invalid(index, f"begins at pixel row {span.first_row}; expected {first_row}")
        end, first_row = stop, first_row + math.prod(span.grid)
    covered = sum(span.num_tokens for span in spans)
    if int(is_placeholder.sum()) != covered:
        raise InvalidRequestError(
            f"the prompt has {int(is_placeholder.sum())} placeholder tokens; its media take "
            f"{covered}",
            param="media",
        )


def _num_tokens(index: int, span: MediaSpan, vision: VisionConfig | None) -> int:
    if vision is None:
        return 0
    frames, height, width = span.grid
    merge, pair = vision.spatial_merge_size, vision.temporal_merge_size
    frames_fit = frames == 1 if span.kind == "image" else frames % pair == 0
    if min(span.grid) < 1 or height % merge or width % merge or not frames_fit:
        raise _invalid(
            index,
            f"has the grid {span.grid}; expected rows and columns in multiples of {merge}, and "
            f"frames 1 (image) or in multiples of {pair} (video)",
        )
    return math.prod(merged_grid(span.kind, span.grid, merge, pair))


def _check_pixels(
    spans: Sequence[MediaSpan], pixels: NDArray[np.uint8], vision: VisionConfig
) -> None:
    expected = (sum(math.prod(span.grid) for span in spans), vision.patch_dim)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise InvalidRequestError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; expected uint8 {list(expected)}",
            param="pixels",
        )


def _cut(span: MediaSpan, rows: NDArray[np.uint8], vision: VisionConfig) -> Iterator[MediaPiece]:
    frames, height, width = span.grid
    step = 1
    if span.kind == "video":
        pair = vision.temporal_merge_size
        step = pair * max(1, MAX_PATCHES_PER_PIECE // (pair * height * width))
    for frame in range(0, frames, step):
        grid = (min(step, frames - frame), height, width)
        first = span.first_row + frame * height * width
        pixels = rows[first : first + grid[0] * height * width]
        yield MediaPiece(
            offset=span.offset + span.num_tokens * frame // frames,
            num_tokens=span.num_tokens * grid[0] // frames,
            grid=grid,
            digest=_digest(grid, pixels),
            pixels=pixels,
        )


def _digest(grid: tuple[int, int, int], pixels: NDArray[np.uint8]) -> bytes:
    """SHA-256 over what the model will see. A digest that came with the request is not trusted:
    a wrong one would put one picture's keys and values under another's name, for everybody."""
    content = hashlib.sha256(np.array(grid, dtype="<i8").tobytes())
    content.update(pixels.data)
    return content.digest()


def _invalid(index: int, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"media[{index}] {what}", param="media")
