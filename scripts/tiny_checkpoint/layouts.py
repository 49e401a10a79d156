"""Canonical tensors under the names and shapes of the released files, in both layouts.

The two layouts differ in more than names: HF splits q/k/v and gate/up and transposes linear
weights, except that the routers of VL models stay [H, E].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from .shapes import Config, num_modalities

Tensors = Mapping[str, np.ndarray]
LAYOUTS = ("paddle", "hf")

_EXPERTS = re.compile(r"(layers\.\d+\.mlp\.experts)\.(text|vision)\.(up_gate_proj|down_proj)")
_ROUTER = re.compile(r"layers\.\d+\.mlp\.gate\.weight(_1)?")


def file_tensors(layout: str, config: Config, tensors: Tensors) -> dict[str, np.ndarray]:
    """What a checkpoint's files hold for canonical `tensors`; order follows theirs."""
    rename = _paddle if layout == "paddle" else _hf
    return {
        name: np.ascontiguousarray(value)
        for canonical, tensor in tensors.items()
        for released, value in _unstacked(config, canonical, tensor)
        for name, value in rename(config, released, value)
    }


def _unstacked(config: Config, name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Experts leave their stack: text experts count from 0, vision experts after them."""
    match = _EXPERTS.fullmatch(name)
    if match is None:
        yield name, tensor
        return
    prefix, modality, projection = match.groups()
    first = config["moe_num_experts"][0] if modality == "vision" else 0
    for index, expert in enumerate(tensor):
        yield f"{prefix}.{first + index}.{projection}.weight", expert


def _paddle(config: Config, name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    outside = name.startswith(("lm_head.", "vision_model."))
    yield (name if outside else f"ernie.{name}"), tensor


def _hf(config: Config, name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    outside = name.startswith(("lm_head.", "vision_model."))
    full = name if outside else f"model.{name}"
    if name.endswith("self_attn.qkv_proj.weight"):
        head_dim = config["head_dim"]
        queries = config["num_attention_heads"] * head_dim
        keys = config["num_key_value_heads"] * head_dim
        parts = np.split(tensor, [queries, queries + keys], axis=1)
        for letter, part in zip("qkv", parts, strict=True):
            yield full.replace("qkv_proj", f"{letter}_proj"), part.T
    elif name.endswith("up_gate_proj.weight"):
        for part, half in zip(("gate", "up"), np.split(tensor, 2, axis=1), strict=True):
            yield full.replace("up_gate_proj", f"{part}_proj"), half.T
    elif _ROUTER.fullmatch(name) and num_modalities(config) == 2:
        yield full, tensor
    elif tensor.ndim == 2 and not name.endswith(("embed_tokens.weight", "e_score_correction_bias")):
        yield full, tensor.T
    else:
        yield full, tensor
