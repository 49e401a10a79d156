"""Checks of flag values beyond their type. Each raises ValueError with the value and the fix."""

from __future__ import annotations

import json
import re
from typing import Any

REASONING_PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1", "auto", "none")
TOOL_CALL_PARSERS = ("ernie-45-vl-thinking", "ernie-x1", "auto", "none")
EXECUTORS = ("paddle", "cuda", "paced")

QUANTIZATIONS = (
    "wint8",
    "wint4",
    "wint2",
    "w8a8",
    "w4a8",
    "w4afp8",
    "wfp8afp8",
    "block_wise_fp8",
    "tensor_wise_fp8",
    "mix_quant",
)

_MEDIA_KINDS = ("image", "video", "audio")
_PROCESSOR_RANGES = {
    "spatial_conv_size": (1, 16),
    "temporal_conv_size": (1, 16),
    "image_min_pixels": (1, 2**31),
    "image_max_pixels": (1, 2**31),
    "video_min_pixels": (1, 2**31),
    "video_max_pixels": (1, 2**31),
    "video_target_frames": (-1, 10_000),
    "video_min_frames": (1, 10_000),
    "video_max_frames": (1, 10_000),
    "video_fps": (-1, 1_000),
}
_FRAME_CHOICES = ("leading", "middle", "rand")


def check_executor(name: str) -> None:
    if name not in EXECUTORS:
        raise ValueError(f"{name!r} is unknown; choose one of {', '.join(EXECUTORS)}")


def check_device(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z_]*(:\d{1,3})?", name):
        raise ValueError(f"{name!r} is no device name; give one such as cpu, gpu:0 or xpu:0")


def check_quantization(text: str) -> None:
    """A name in any case, or a JSON object with the name under `quantization`, as FastDeploy's."""
    name: Any = text
    if text.lstrip().startswith("{"):
        try:
            name = json.loads(text).get("quantization", "mix_quant")
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is not JSON ({error.msg})") from None
    if not isinstance(name, str) or name.lower() not in QUANTIZATIONS:
        raise ValueError(f"{name!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}")


def check_mm_limits(limits: dict[str, Any]) -> None:
    for kind, limit in limits.items():
        if kind not in _MEDIA_KINDS:
            raise ValueError(f"{kind!r} is unknown; the keys are {', '.join(_MEDIA_KINDS)}")
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= 10_000:
            raise ValueError(f"{kind} is {limit!r}; give a whole number from 0 to 10000")


def check_mm_processor_kwargs(kwargs: dict[str, Any]) -> None:
    """Unknown keys pass: FastDeploy ignores them with a warning, and so does the preprocessor."""
    for name, value in kwargs.items():
        if name == "video_frames_sample":
            if value not in _FRAME_CHOICES:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(_FRAME_CHOICES)}")
        elif name in _PROCESSOR_RANGES:
            low, high = _PROCESSOR_RANGES[name]
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not low <= value <= high
            ):
                raise ValueError(f"{name} is {value!r}; give a number from {low} to {high}")
    for kind, unit in (("image", "pixels"), ("video", "pixels"), ("video", "frames")):
        least, most = (kwargs.get(f"{kind}_{end}_{unit}") for end in ("min", "max"))
        if least is not None and most is not None and least > most:
            raise ValueError(f"{kind}_min_{unit} {least} is above {kind}_max_{unit} {most}")


def check_api_key(key: str) -> None:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("a key must be printable ASCII without spaces and not empty")


def read_names(text: str) -> list[str]:
    """A JSON list of texts, as vLLM writes it, or names with commas between."""
    if text.lstrip().startswith("["):
        try:
            names: list[str] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is not JSON ({error.msg})") from None
    else:
        names = [name.strip() for name in text.split(",")]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f'{text!r} is no list of names; give one such as a,b or \'["a", "b"]\'')
    return names


def check_origins(text: str) -> None:
    for origin in read_names(text):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", origin):
            raise ValueError(
                f"{origin!r} is no origin; give * or a scheme and a host, such as "
                "https://chat.example.org or http://localhost:3000, without a path"
            )


def check_tokens(text: str) -> None:
    """Names of methods or headers."""
    for name in read_names(text):
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"{name!r} is no name of a method or header")


def check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > 256:
        raise ValueError(f"{name!r} is no model name; give 1 to 256 printable characters")
