"""What a checkpoint says about requests: sampling defaults, and how pictures are cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from backend.config.keys import Keys, read_json_object
from backend.config.model import VisionConfig
from backend.errors import CheckpointError, InvalidRequestError
from backend.media.options import ProcessorOptions
from backend.request import SamplingParams

_LIMITS: Final = ("image_", "video_")
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class SamplingDefaults:
    """For requests that say nothing. These values are FastDeploy's, for files that say nothing."""

    temperature: float = 1.0
    top_p: float = 0.7
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


def load_sampling_defaults(folder: Path) -> SamplingDefaults:
    """From `folder`/generation_config.json. Raises CheckpointError naming file, key and value."""
    path = folder / "generation_config.json"
    keys = Keys(read_json_object(path) or {}, str(path))
    values: dict[str, Any] = {}
    for name, default in vars(SamplingDefaults()).items():
        value = keys.get(name, default)
        if not _is_number(value):
            raise keys.fail(name, "a number")
        values[name] = type(default)(value)
    values["top_k"] = max(0, values["top_k"])
    try:
        SamplingParams(**values)
    except InvalidRequestError as error:
        raise CheckpointError(f"{path}: {error.message}") from None
    return SamplingDefaults(**values)


def _is_number(value: Any) -> bool:
    """One that a float holds: Python reads nan, inf and integers of any size as JSON too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def load_processor_options(folder: Path, vision: VisionConfig) -> ProcessorOptions:
    """Options with the model's own sizes.

    The limits of pixels are the serving defaults, as in FastDeploy: `min_pixels` and `max_pixels`
    in preprocessor_config.json are another program's. Limits under FastDeploy's own names
    (`image_max_pixels`, `video_fps`, ...) are the checkpoint's wish and replace the defaults. What
    the file says about patches and normalisation must be what the model computes;
    CheckpointError otherwise.
    """
    path = folder / "preprocessor_config.json"
    raw = read_json_object(path) or {}
    keys = Keys(raw, str(path))
    for name, expected in (
        ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size),
        ("spatial_conv_size", vision.spatial_merge_size),
        ("temporal_conv_size", vision.temporal_merge_size),
    ):
        if keys.integer(name, expected) != expected:
            raise keys.fail(name, f"{expected}, as config.json says")
    for name, normal in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
        value = keys.get(name, normal)
        is_triple = isinstance(value, Sequence) and len(value) == 3 and all(map(_is_number, value))
        if not is_triple or not np.allclose(value, normal, atol=1e-6):
            raise keys.fail(name, f"{list(normal)}; nothing else is served")
    if vision.in_channels != 3:
        raise CheckpointError(f"{folder}: vision_config.in_channels is not 3")
    options = ProcessorOptions(
        patch_size=vision.patch_size,
        spatial_conv_size=vision.spatial_merge_size,
        temporal_conv_size=vision.temporal_merge_size,
    )
    limits = [name for name in vars(options) if name.startswith(_LIMITS)]
    wishes = {name: raw[name] for name in limits if raw.get(name) is not None}
    return options.override(wishes, str(path), CheckpointError)
