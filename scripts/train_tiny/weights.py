"""Between the transformers model's parameters and the canonical tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.tiny_checkpoint import canonical_shapes, write_checkpoint

Config = dict[str, Any]
# How a canonical tensor is made of its parts: as it is, transposed (its last two axes), parts
# stacked by rows and then transposed, or parts stacked by rows.
_SAME, _TURNED, _JOINED, _ROWS = "same", "turned", "joined", "rows"
Recipe = tuple[str, list[str], str]


def export_weights(model: Any, config: Config, folder: Path, layout: str = "paddle") -> None:
    """Write config.json and the weights of `model` in bfloat16; routers stay float32."""
    write_checkpoint(folder, layout, config, canonical_tensors(model, config))


def canonical_tensors(model: Any, config: Config) -> dict[str, np.ndarray]:
    """Float32 arrays by canonical name, in file order, checked against the config's shapes."""
    state = model.state_dict()
    made = {
        name: _make([state[part] for part in parts], how) for name, parts, how in _recipes(config)
    }
    tensors = {}
    for name, shape in canonical_shapes(config):
        array = made.pop(name).detach().float().cpu().numpy()
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; the config says {shape}")
        tensors[name] = np.ascontiguousarray(array)
    if made:
        raise ValueError(f"parameters that the config does not know: {', '.join(made)}")
    return tensors


def load_weights(model: Any, config: Config, folder: Path) -> None:
    """Put an exported Paddle-layout checkpoint back into `model`, as it was rounded."""
    from safetensors.torch import load_file

    files = load_file(str(folder / "model.safetensors"))
    stored = {name.removeprefix("ernie."): tensor.float() for name, tensor in files.items()}
    text_experts = config["moe_num_experts"][0]
    state = model.state_dict()
    with torch.no_grad():
        for name, parts, how in _recipes(config):
            tensor = stored[name] if name in stored else _stack(stored, name, text_experts)
            sizes = [state[part].shape for part in parts]
            for part, value in zip(parts, _split(tensor, sizes, how), strict=True):
                state[part].copy_(value.reshape(state[part].shape))


def _stack(stored: dict[str, Tensor], name: str, text_experts: int) -> Tensor:
    """Experts of one modality from their released names."""
    prefix, modality, projection = name.rsplit(".", 2)
    first = text_experts if modality == "vision" else 0
    return torch.stack(
        [stored[f"{prefix}.{first + i}.{projection}.weight"] for i in range(text_experts)]
    )


def _make(parts: list[Tensor], how: str) -> Tensor:
    if how == _SAME:
        return parts[0]
    if how == _TURNED:
        return parts[0].transpose(-1, -2)
    joined = torch.cat(parts)
    return joined if how == _ROWS else joined.transpose(-1, -2)


def _split(tensor: Tensor, sizes: list[torch.Size], how: str) -> list[Tensor]:
    if how == _SAME:
        return [tensor]
    if how == _TURNED:
        return [tensor.transpose(-1, -2)]
    rows = tensor if how == _ROWS else tensor.transpose(-1, -2)
    return list(rows.split([size[0] for size in sizes]))


def _recipes(config: Config) -> Iterator[Recipe]:
    language = "model.language_model"
    yield "embed_tokens.weight", [f"{language}.embed_tokens.weight"], _SAME
    for layer in range(config["num_hidden_layers"]):
        yield from _layer(config, layer, f"{language}.layers.{layer}")
    yield "norm.weight", [f"{language}.norm.weight"], _SAME
    yield from _vision(config)
    resampler = "model.resampler_model"
    for stage in ("spatial_linear", "temporal_linear"):
        for index, module in ((0, "fc1"), (2, "fc2")):
            yield from _linear(f"resampler_model.{stage}.{index}", f"{resampler}.{stage}.{module}")
        yield from _norm(f"resampler_model.{stage}.3", f"{resampler}.{stage}.ln")
    yield from _linear("resampler_model.mlp", f"{resampler}.mlp")
    yield "resampler_model.after_norm.weight", [f"{resampler}.after_norm.weight"], _SAME


def _layer(config: Config, layer: int, module: str) -> Iterator[Recipe]:
    name = f"layers.{layer}"
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{name}.{norm}.weight", [f"{module}.{norm}.weight"], _SAME
    attention = f"{module}.self_attn"
    yield (
        f"{name}.self_attn.qkv_proj.weight",
        [f"{attention}.{letter}_proj.weight" for letter in "qkv"],
        _JOINED,
    )
    yield f"{name}.self_attn.o_proj.weight", [f"{attention}.o_proj.weight"], _TURNED
    if layer < config["moe_layer_start_index"][0]:
        yield from _gated(f"{name}.mlp", f"{module}.mlp")
        return
    groups = [f"{module}.mlp.{modality}_moe" for modality in ("text", "vision")]
    for suffix, group in zip(("weight", "weight_1"), groups, strict=True):
        yield f"{name}.mlp.gate.{suffix}", [f"{group}.gate.weight"], _TURNED
    bias = "gate.moe_statics.e_score_correction_bias"
    yield f"{name}.mlp.moe_statics.e_score_correction_bias", [f"{g}.{bias}" for g in groups], _ROWS
    for modality, group in zip(("text", "vision"), groups, strict=True):
        experts = f"{name}.mlp.experts.{modality}"
        yield f"{experts}.up_gate_proj", [f"{group}.experts.gate_up_proj"], _TURNED
        yield f"{experts}.down_proj", [f"{group}.experts.down_proj"], _TURNED
    yield from _gated(f"{name}.mlp.shared_experts", f"{module}.mlp.shared_experts")


def _gated(name: str, module: str) -> Iterator[Recipe]:
    halves = [f"{module}.gate_proj.weight", f"{module}.up_proj.weight"]
    yield f"{name}.up_gate_proj.weight", halves, _JOINED
    yield f"{name}.down_proj.weight", [f"{module}.down_proj.weight"], _TURNED


def _vision(config: Config) -> Iterator[Recipe]:
    tower = "model.vision_tower"
    yield "vision_model.patch_embed.proj.weight", [f"{tower}.patch_embed.proj.weight"], _TURNED
    for block in range(config["vision_config"]["depth"]):
        for norm in ("norm1", "norm2"):
            yield from _norm(
                f"vision_model.blocks.{block}.{norm}", f"{tower}.blocks.{block}.{norm}"
            )
        for linear in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            yield from _linear(
                f"vision_model.blocks.{block}.{linear}", f"{tower}.blocks.{block}.{linear}"
            )
    yield from _norm("vision_model.ln", f"{tower}.ln")


def _linear(name: str, module: str) -> Iterator[Recipe]:
    yield f"{name}.weight", [f"{module}.weight"], _TURNED
    yield f"{name}.bias", [f"{module}.bias"], _SAME


def _norm(name: str, module: str) -> Iterator[Recipe]:
    yield f"{name}.weight", [f"{module}.weight"], _SAME
    yield f"{name}.bias", [f"{module}.bias"], _SAME
