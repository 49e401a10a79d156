"""Ids of the tokens that stand for pictures and videos, and of those around them.

Paddle repositories name the placeholder's id in config.json (`im_patch_id`) and leave the others to
added_tokens.json; converted repositories name all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.config.keys import Keys, read_json_object
from backend.errors import CheckpointError

IMAGE_PLACEHOLDER = "<|IMAGE_PLACEHOLDER|>"
VIDEO_PLACEHOLDER = "<|VIDEO_PLACEHOLDER|>"
RELEASED_IMAGE_ID = 100295
BOUNDARIES = {
    "image_start_token_id": ("<|IMAGE_START|>", 101304),
    "image_end_token_id": ("<|IMAGE_END|>", 101305),
    "video_start_token_id": ("<|VIDEO_START|>", 101306),
    "video_end_token_id": ("<|VIDEO_END|>", 101307),
}
"""config.json key → (name in added_tokens.json, id in the released vocabulary)."""


@dataclass(frozen=True)
class MediaTokenIds:
    """`boundary` is image start, image end, video start, video end; text-only models have none."""

    image: int = -1
    video: int = -1
    boundary: tuple[int, ...] = ()


def read_added_tokens(path: Path) -> dict[str, int]:
    """Ids by name from an added_tokens.json; empty if there is none. Raises CheckpointError."""
    tokens = read_json_object(path) or {}
    for name, token_id in tokens.items():
        if type(token_id) is not int or token_id < 0:
            raise CheckpointError(f"{path}: {name} is {token_id!r}; expected a token id")
    return tokens


def media_token_ids(config: Keys, vocab_size: int, added: Mapping[str, int]) -> MediaTokenIds:
    """Each id is config.json's, else the tokenizer's by name, else the released vocabulary's.

    Raises CheckpointError for an id beyond `vocab_size` and for two tokens of one id.
    """

    def find(key: str, name: str, default: int) -> int:
        token_id = config.integer(key, default, minimum=0)
        if token_id >= vocab_size:
            raise CheckpointError(
                f"{config.where}: token {name} has id {token_id}, beyond vocab_size {vocab_size}; "
                f"expected {key} here or {name} in added_tokens.json"
            )
        return token_id

    key = "image_token_id" if config.get("image_token_id") is not None else "im_patch_id"
    image = find(key, IMAGE_PLACEHOLDER, added.get(IMAGE_PLACEHOLDER, RELEASED_IMAGE_ID))
    # Not looked up by name: without a key of its own a video shares the pictures' placeholder.
    video = find("video_token_id", VIDEO_PLACEHOLDER, image)
    boundary = tuple(
        find(key, name, added.get(name, released)) for key, (name, released) in BOUNDARIES.items()
    )
    if len({image, *boundary}) != 1 + len(boundary):
        raise CheckpointError(
            f"{config.where}: image placeholder {image} and boundary tokens {list(boundary)} "
            "must be different tokens"
        )
    return MediaTokenIds(image, video, boundary)
