"""Shapes of the released models, checked against their published sizes."""

import math
from typing import Any

import pytest

from backend.config.model import parse_model_config
from backend.errors import CheckpointError
from backend.models import parameter_specs

VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}
WIDTH_2560 = {
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "moe_k": 6,
    "moe_num_shared_experts": 2,
}
WIDTH_8192 = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_k": 8,
    "tie_word_embeddings": False,
}
DENSE = {
    "architectures": ["Ernie4_5_ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
TEXT_MOE = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "moe_num_experts": 64,
    "moe_intermediate_size": 1536,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
    **WIDTH_2560,
}
LARGE_MOE = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "moe_num_experts": 64,
    "moe_intermediate_size": 3584,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
    **WIDTH_8192,
}
VL_28B = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "moe_num_experts": [64, 64],
    "moe_intermediate_size": [1536, 512],
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
    "vision_config": VISION,
    **WIDTH_2560,
}
VL_424B = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "moe_num_experts": [64, 64],
    "moe_intermediate_size": [3584, 1536],
    "moe_layer_start_index": [3, 3],
    "moe_layer_end_index": [54, 53],
    "vision_config": VISION,
    **WIDTH_8192,
}


def _specs(raw: dict[str, Any]) -> dict[str, Any]:
    return parameter_specs(parse_model_config({"vocab_size": 103424, **raw}, "config.json"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(DENSE, 360_748_032, id="0.3B"),
        pytest.param(TEXT_MOE, 21_825_437_888, id="21B"),
        pytest.param(LARGE_MOE, 299_484_163_264, id="300B"),
        pytest.param(VL_28B, 29_399_294_336, id="VL-28B"),
        pytest.param(VL_424B, 423_526_285_184, id="VL-424B"),
    ],
)
def test_released_models_have_their_published_number_of_parameters(raw, expected):
    assert sum(math.prod(spec.shape) for spec in _specs(raw).values()) == expected


def test_only_routers_and_correction_biases_stay_float32():
    kept = {name.split(".", 2)[2] for name, spec in _specs(VL_28B).items() if spec.keep_float32}
    assert kept == {
        "mlp.gate.weight",
        "mlp.gate.weight_1",
        "mlp.moe_statics.e_score_correction_bias",
    }


def test_names_are_the_keys_and_every_shape_is_positive():
    for name, spec in _specs(VL_28B).items():
        assert spec.name == name
        assert all(size > 0 for size in spec.shape), name


def test_untied_models_have_a_head_and_tied_ones_do_not():
    assert "lm_head.weight" in _specs(LARGE_MOE)
    assert "lm_head.weight" not in _specs(VL_28B)


@pytest.mark.parametrize(
    ("raw", "change", "message"),
    [
        (DENSE, {"use_bias": True}, "use_bias"),
        (VL_28B, {"moe_num_experts": [64, 32]}, "one size"),
        (TEXT_MOE, {"moe_k": 65}, "moe_k is 65; expected 1 to 64"),
        (VL_28B, {"temporal_conv_size": 3}, "temporal_conv_size is 3"),
        (VL_28B, {"vision_config": {**VISION, "num_heads": 7}}, "over 7 heads"),
    ],
)
def test_what_no_model_computes_is_refused_by_name(raw, change, message):
    with pytest.raises(CheckpointError, match=message):
        _specs({**raw, **change})
