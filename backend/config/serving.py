"""What a server is told: one section per Triton model, from `config.pbtxt` parameters.

Every value is a string in `config.pbtxt` (`parameters { key: "max_num_seqs" value { string_value:
"8" } }`). The launcher overrides them with one environment variable, ERNIE_SERVING, a JSON object
of the same names; ERNIE_MODEL names the checkpoint folder and is all a plain tritonserver needs.
This is the only module of the backend that reads the environment.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from backend.errors import ConfigError

MODEL_VARIABLE = "ERNIE_MODEL"
OVERRIDES_VARIABLE = "ERNIE_SERVING"


@dataclass(frozen=True)
class PreprocessorSettings:
    """Limits are per request unless said otherwise.

    `reasoning_parser` is the postprocessor's: its name also tells which built-in prompt to use.
    `media_cache_gib` bounds the processed pictures and videos that are kept for later requests.
    """

    model: Path
    limit_mm_per_prompt: dict[str, Any] = field(default_factory=dict)
    mm_processor_kwargs: dict[str, Any] = field(default_factory=dict)
    allowed_local_media_path: str = ""
    allow_private_media_hosts: bool = False
    chat_template: str = ""
    reasoning_parser: str = ""
    max_image_bytes: int = 32 * 2**20
    max_image_pixels: int = 50_000_000
    max_video_bytes: int = 256 * 2**20
    max_video_frames: int = 512
    media_timeout_s: float = 10.0
    preprocess_threads: int = 4
    media_cache_gib: float = 0.25
    max_model_len: int = 0


@dataclass(frozen=True)
class EngineSettings:
    """`max_model_len` 0 means what the model allows; `num_kv_blocks` 0 means what memory allows.

    `max_num_batched_tokens` is the budget of one step, prefill chunks and decodes together.
    `tokens_per_s` paces every stream of executor `paced`, which computes nothing: it is there to
    load the rest of the pipeline in benchmarks. `media_memory_gib` bounds the pixels of all
    requests in the engine, `encoder_cache_gib` the embeddings of pictures that may come again.
    """

    model: Path
    executor: str = "paddle"
    device: str = "cpu"
    max_model_len: int = 0
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048
    max_num_waiting: int = 256
    block_size: int = 16
    num_kv_blocks: int = 0
    kv_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True
    seed: int = 0
    threads: int = 0
    hang_timeout_s: float = 120.0
    tokens_per_s: float = 100.0
    media_memory_gib: float = 4.0
    encoder_cache_gib: float = 0.25


@dataclass(frozen=True)
class PostprocessorSettings:
    model: Path
    reasoning_parser: str = ""
    tool_call_parser: str = ""


S = TypeVar("S", PreprocessorSettings, EngineSettings, PostprocessorSettings)


def load_settings(
    kind: type[S], parameters: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> S:
    """Settings of one Triton model. `parameters` are the pbtxt's; unknown names are an error.

    Raises ConfigError naming the parameter, its value and what was expected.
    """
    overrides = _parse_overrides(environ.get(OVERRIDES_VARIABLE, ""))
    hints = get_type_hints(kind)
    names = {item.name for item in dataclasses.fields(kind)}
    unknown = sorted(set(parameters) - names)
    if unknown:
        raise ConfigError(
            f"config.pbtxt: unknown parameter {unknown[0]!r}; known: {', '.join(sorted(names))}"
        )
    values = {**parameters, **{name: overrides[name] for name in names & set(overrides)}}
    model = environ.get(MODEL_VARIABLE) or values.get("model", "")
    if not model:
        raise ConfigError(
            f"no model: set the environment variable {MODEL_VARIABLE} to a checkpoint folder"
        )
    values["model"] = model
    return kind(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def _parse_overrides(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{OVERRIDES_VARIABLE} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{OVERRIDES_VARIABLE} must be a JSON object")
    return values


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Turn a string (or a JSON value) into a setting's type."""
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if kind in (int, float, str, Path):
            return kind(value)
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, dict):
            raise ValueError
        return parsed
    except (KeyError, TypeError, ValueError):
        expected = "a JSON object" if kind not in (bool, int, float, str, Path) else kind.__name__
        raise ConfigError(f"{name} is {value!r}; expected {expected}") from None
