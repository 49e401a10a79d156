"""config.json of each kind of tiny model, and the canonical tensors that belong to a config.json.

Canonical names are the Paddle layout's without `ernie.`, weights [in, out], experts stacked per
modality; they are what `backend.weights` hands to the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Config = dict[str, Any]
Shape = tuple[int, ...]

_COMMON: Config = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_bias": False,
    "use_cache": True,
    "compression_ratio": 1.0,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
}
_MOE: Config = {
    "moe_gate": "topk",
    "moe_use_aux_free": True,
    "moe_k": 2,
    "moe_layer_interval": 1,
}


def dense_config(vocab_size: int) -> Config:
    """ERNIE-4.5-0.3B in small; query width 256 differs from hidden_size, as there."""
    return {
        "architectures": ["Ernie4_5_ForCausalLM"],
        "model_type": "ernie4_5",
        **_COMMON,
        "num_attention_heads": 8,
        "vocab_size": vocab_size,
    }


def moe_config(vocab_size: int) -> Config:
    """ERNIE-4.5-21B-A3B in small."""
    return {
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "model_type": "ernie4_5_moe",
        **_COMMON,
        **_MOE,
        "moe_num_experts": 8,
        "moe_intermediate_size": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "vocab_size": vocab_size,
    }


def vl_config(vocab_size: int, image_token_id: int) -> Config:
    """ERNIE-4.5-VL-28B-A3B in small: flat, lists are [text, vision]."""
    return {
        "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
        "model_type": "ernie4_5_moe_vl",
        **_COMMON,
        **_MOE,
        "moe_num_experts": [8, 8],
        "moe_intermediate_size": [64, 32],
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [5, 4],
        "vocab_size": vocab_size,
        "rope_3d": True,
        "freq_allocation": 4,
        "im_patch_id": image_token_id,
        "pixel_hidden_size": 64,
        "spatial_conv_size": 2,
        "temporal_conv_size": 2,
        "use_temporal_conv": True,
        "vision_config": {
            "model_type": "DFNRope_vision_transformer",
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "hidden_act": "quick_gelu",
            "mlp_ratio": 4,
            "num_heads": 2,  # of 32 values, the fewest that the CUDA kernels are compiled for
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
    }


def is_moe_layer(config: Config, layer: int) -> bool:
    if "moe_num_experts" not in config:
        return False
    start = min(_per_modality(config, "moe_layer_start_index"))
    end = max(_per_modality(config, "moe_layer_end_index"))
    last = config["num_hidden_layers"] - 1 if end < 0 else end
    return start <= layer <= last and (layer + 1) % config["moe_layer_interval"] == 0


def num_modalities(config: Config) -> int:
    return 2 if "vision_config" in config else 1


def _per_modality(config: Config, key: str) -> list[int]:
    value = config[key]
    return list(value) if isinstance(value, list) else [value] * num_modalities(config)


def canonical_shapes(config: Config) -> Iterator[tuple[str, Shape]]:
    """Every tensor of the model that a flat config.json describes, in file order."""
    hidden = config["hidden_size"]
    yield "embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in _layer_shapes(config, layer):
            yield f"layers.{layer}.{name}", shape
    yield "norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (hidden, config["vocab_size"])
    if "vision_config" in config:
        yield from _vision_shapes(config["vision_config"])
        yield from _resampler_shapes(config)


def _layer_shapes(config: Config, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    head_dim = config["head_dim"]
    queries = config["num_attention_heads"] * head_dim
    keys = config["num_key_value_heads"] * head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "self_attn.qkv_proj.weight", (hidden, queries + 2 * keys)
    yield "self_attn.o_proj.weight", (queries, hidden)
    yield "post_attention_layernorm.weight", (hidden,)
    if not is_moe_layer(config, layer):
        yield "mlp.up_gate_proj.weight", (hidden, 2 * width)
        yield "mlp.down_proj.weight", (width, hidden)
        return
    experts = _per_modality(config, "moe_num_experts")
    widths = _per_modality(config, "moe_intermediate_size")
    yield "mlp.gate.weight", (hidden, experts[0])
    if len(experts) == 2:
        yield "mlp.gate.weight_1", (hidden, experts[1])
    yield "mlp.moe_statics.e_score_correction_bias", (len(experts), experts[0])
    for modality, count, size in zip(("text", "vision"), experts, widths, strict=False):
        yield f"mlp.experts.{modality}.up_gate_proj", (count, hidden, 2 * size)
        yield f"mlp.experts.{modality}.down_proj", (count, size, hidden)
    shared = config["moe_num_shared_experts"] * widths[0]
    if shared:
        yield "mlp.shared_experts.up_gate_proj.weight", (hidden, 2 * shared)
        yield "mlp.shared_experts.down_proj.weight", (shared, hidden)


def _vision_shapes(vision: Config) -> Iterator[tuple[str, Shape]]:
    width = vision["hidden_size"]
    inner = int(width * vision["mlp_ratio"])
    patch = vision["in_channels"] * vision["patch_size"] ** 2
    yield "vision_model.patch_embed.proj.weight", (patch, width)
    for block in range(vision["depth"]):
        name = f"vision_model.blocks.{block}"
        yield from _norm(f"{name}.norm1", width)
        yield from _linear(f"{name}.attn.qkv", width, 3 * width)
        yield from _linear(f"{name}.attn.proj", width, width)
        yield from _norm(f"{name}.norm2", width)
        yield from _linear(f"{name}.mlp.fc1", width, inner)
        yield from _linear(f"{name}.mlp.fc2", inner, width)
    yield from _norm("vision_model.ln", width)


def _resampler_shapes(config: Config) -> Iterator[tuple[str, Shape]]:
    width = config["vision_config"]["hidden_size"] * config["spatial_conv_size"] ** 2
    for name, factor in (("spatial", 1), ("temporal", config["temporal_conv_size"])):
        yield from _linear(f"resampler_model.{name}_linear.0", width * factor, width)
        yield from _linear(f"resampler_model.{name}_linear.2", width, width)
        yield from _norm(f"resampler_model.{name}_linear.3", width)
    yield from _linear("resampler_model.mlp", width, config["hidden_size"])
    yield "resampler_model.after_norm.weight", (config["hidden_size"],)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (inputs, outputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
