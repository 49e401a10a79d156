"""Small configurations in the released models' proportions, with weights from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.config.model import ModelConfig, parse_model_config
from backend.models import Model, ParameterSpec, build_model, parameter_specs
from backend.ops import Ops

IMAGE, VIDEO, IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END = 150, 151, 152, 153, 154, 155

# 0.3B: queries wider than the hidden size (8 · 16 > 64), 4 query heads per KV head, tied.
DENSE: dict[str, Any] = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}

# 21B: 5 query heads per KV head, shared experts, first layer dense.
TEXT_MOE: dict[str, Any] = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "vocab_size": 160,
    "hidden_size": 80,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "moe_num_experts": 16,
    "moe_k": 4,
    "moe_intermediate_size": 24,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
}

# 300B: 8 query heads per KV head, no shared experts, several dense layers first, untied.
LARGE_MOE: dict[str, Any] = {
    **TEXT_MOE,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 2,
}

# VL-28B: expert groups 3 : 1 in width, rope pairs of height, width and time, tied.
VL: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "vocab_size": 160,
    "hidden_size": 80,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "moe_num_experts": [8, 8],
    "moe_k": 3,
    "moe_intermediate_size": [48, 16],
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
    "freq_allocation": 2,
    "im_patch_id": IMAGE,
    "image_start_token_id": IMAGE_START,
    "image_end_token_id": IMAGE_END,
    "video_start_token_id": VIDEO_START,
    "video_end_token_id": VIDEO_END,
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 4,
        "mlp_ratio": 4,
        "patch_size": 14,
    },
}

# VL-424B: no shared experts, untied.
LARGE_VL: dict[str, Any] = {
    **VL,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "moe_num_shared_experts": 0,
    "freq_allocation": 4,
}

CONFIGS = {
    "dense": DENSE,
    "text_moe": TEXT_MOE,
    "large_moe": LARGE_MOE,
    "vl": VL,
    "large_vl": LARGE_VL,
}

ROUTER_GAIN = 4.0
"""Spreads routing scores, so that rounding does not decide which expert is chosen."""


def make_config(name: str) -> ModelConfig:
    return parse_model_config(CONFIGS[name], name)


def random_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Canonical float32 weights; every norm, bias and correction bias is away from its neutral."""
    # RandomState: its streams are frozen, so that stored goldens stay valid.
    random = np.random.RandomState(seed)
    return {name: _random(random, spec) for name, spec in parameter_specs(config).items()}


def _random(random: np.random.RandomState, spec: ParameterSpec) -> np.ndarray:
    values = random.standard_normal(spec.shape).astype(np.float32)
    if spec.name.endswith("e_score_correction_bias"):
        return values * np.float32(0.2)
    if spec.kind == "vector":
        centre = np.float32(0.0 if spec.name.endswith(".bias") else 1.0)
        return centre + values * np.float32(0.3)
    if spec.kind == "embedding":
        return values
    gain = ROUTER_GAIN if spec.kind == "router" else 1.5
    return values * np.float32(gain / np.sqrt(spec.shape[-2]))


def load_model(config: ModelConfig, weights: dict[str, np.ndarray], ops: Ops) -> Model:
    specs = parameter_specs(config)
    tensors = {
        name: ops.parameter(array, specs[name].kind, specs[name].keep_float32)
        for name, array in weights.items()
    }
    return build_model(config, ops, tensors)
