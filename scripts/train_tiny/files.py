"""The checkpoint's small files: how it generates, and how its pictures are prepared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from scripts.tiny_checkpoint.command import PREPROCESSOR_CONFIG
from scripts.tiny_checkpoint.tokenizer import write_json

from .processing import CHECKPOINT, OPTIONS

GENERATION_CONFIG: dict[str, Any] = {
    "do_sample": False,
    "temperature": 0.0,
    "top_p": 1.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TOKENIZER_FILES = (
    "tokenizer.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "Roboto-Regular.ttf",
    "Roboto-LICENSE.txt",
)


def preprocessor_config() -> dict[str, Any]:
    """Sizes under both the HF names (pictures) and FastDeploy's."""
    return {
        **PREPROCESSOR_CONFIG,
        "min_pixels": OPTIONS.image_min_pixels,
        "max_pixels": OPTIONS.image_max_pixels,
        "image_min_pixels": OPTIONS.image_min_pixels,
        "image_max_pixels": OPTIONS.image_max_pixels,
        "video_min_pixels": OPTIONS.video_min_pixels,
        "video_max_pixels": OPTIONS.video_max_pixels,
        "video_min_frames": OPTIONS.video_min_frames,
        "video_max_frames": OPTIONS.video_max_frames,
        "video_fps": OPTIONS.video_fps,
    }


def write_settings(folder: Path) -> None:
    """generation_config.json and preprocessor_config.json, and the tokenizer's files."""
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(folder / "preprocessor_config.json", preprocessor_config())
    if folder.resolve() != CHECKPOINT.resolve():
        for name in _TOKENIZER_FILES:
            shutil.copyfile(CHECKPOINT / name, folder / name)
