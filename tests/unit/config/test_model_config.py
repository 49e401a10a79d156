"""config.json of the released models in every spelling, and every way it can be wrong."""

import json
from typing import Any

import pytest

from backend.config.model import load_model_config, parse_model_config
from backend.errors import CheckpointError

DENSE: dict[str, Any] = {
    "architectures": ["Ernie4_5_ForCausalLM"],
    "model_type": "ernie4_5",
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000,
    "max_position_embeddings": 131072,
    "use_bias": False,
    "tie_word_embeddings": True,
    "compression_ratio": 1.0,
    "dtype": "bfloat16",
}
MOE: dict[str, Any] = {
    **DENSE,
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": None,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_intermediate_size": 1536,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 27,
    "moe_layer_interval": 1,
}
LARGE: dict[str, Any] = {
    **MOE,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 54,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "moe_k": 8,
    "moe_intermediate_size": 3584,
    "moe_num_shared_experts": 0,
    "moe_layer_start_index": 3,
    "moe_layer_end_index": 53,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {
    "model_type": "DFNRope_vision_transformer",
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 1280,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
}
VL: dict[str, Any] = {
    **MOE,
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "model_type": "ernie4_5_moe_vl",
    "moe_num_experts": [64, 64],
    "moe_intermediate_size": [1536, 512],
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
    "rope_3d": True,
    "freq_allocation": 20,
    "im_patch_id": 100295,
    "spatial_conv_size": 2,
    "temporal_conv_size": 2,
    "vision_config": VISION,
}
VL_LARGE: dict[str, Any] = {
    **VL,
    **{key: LARGE[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")},
    **{key: LARGE[key] for key in ("num_attention_heads", "num_key_value_heads", "moe_k")},
    "moe_num_shared_experts": None,
    "moe_intermediate_size": [3584, 1536],
    "moe_layer_start_index": [3, 3],
    "moe_layer_end_index": [54, 53],
    "tie_word_embeddings": False,
}
NESTED: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "model_type": "ernie4_5_vl_moe",
    "image_token_id": 100295,
    "video_token_id": 103367,
    "image_start_token_id": 101304,
    "image_end_token_id": 101305,
    "video_start_token_id": 101306,
    "video_end_token_id": 101307,
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 103424,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_intermediate_size": [1536, 512],
        "moe_num_shared_experts": 2,
        "mlp_layer_types": ["dense"] + ["sparse"] * 27,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500000.0,
            "mrope_section": [22, 22, 20],
        },
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_heads": 16,
        "patch_size": 14,
        "in_channels": 3,
        "hidden_act": "quick_gelu",
        "spatial_merge_size": 2,
        "temporal_merge_size": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    },
}
MEDIA_TOKENS = {
    "<|IMAGE_PLACEHOLDER|>": 50,
    "<|IMAGE_START|>": 61,
    "<|IMAGE_END|>": 62,
    "<|VIDEO_START|>": 63,
    "<|VIDEO_END|>": 64,
}


def _parse(raw, change=None, tokens=None):
    return parse_model_config({**raw, **(change or {})}, "config.json", tokens)


@pytest.mark.parametrize(
    ("raw", "layers", "heads", "head_dim", "experts", "widths", "top_k", "moe_layers", "shared"),
    [
        pytest.param(MOE, 28, 20, 128, (64,), (1536,), 6, range(1, 28), 3072, id="21B"),
        pytest.param(LARGE, 54, 64, 128, (64,), (3584,), 8, range(3, 54), 0, id="300B"),
        pytest.param(VL, 28, 20, 128, (64, 64), (1536, 512), 6, range(1, 28), 3072, id="VL-28B"),
        pytest.param(
            VL_LARGE, 54, 64, 128, (64, 64), (3584, 1536), 8, range(3, 54), 0, id="VL-424B"
        ),
        pytest.param(
            NESTED, 28, 20, 128, (64, 64), (1536, 512), 6, range(1, 28), 3072, id="VL-28B-nested"
        ),
    ],
)
def test_released_moe_configs_are_understood(
    raw, layers, heads, head_dim, experts, widths, top_k, moe_layers, shared
):
    config = _parse(raw)
    assert (config.num_layers, config.num_heads, config.head_dim) == (layers, heads, head_dim)
    assert config.moe is not None
    assert (config.moe.num_experts, config.moe.intermediate_size) == (experts, widths)
    assert config.moe.top_k == top_k
    assert [n for n in range(layers) if config.moe.is_moe_layer(n)] == list(moe_layers)
    assert config.moe.shared_intermediate_size == shared


def test_the_dense_config_has_wider_queries_than_hidden_states_and_no_media():
    config = _parse(DENSE)
    assert config.num_heads * config.head_dim == 2048
    assert config.hidden_size == 1024
    assert config.moe is None and config.vision is None and not config.is_multimodal
    assert config.rope_sections == (0, 0, 64)
    assert (config.image_token_id, config.vision_boundary_token_ids) == (-1, ())


@pytest.mark.parametrize("spelling", ["Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM"])
def test_both_spellings_of_the_dense_architecture_are_known(spelling):
    assert _parse(DENSE, {"architectures": [spelling]}).architecture == spelling


def test_flat_and_nested_spellings_of_one_model_agree():
    flat, nested = _parse(VL), _parse(NESTED)
    assert flat.vision == nested.vision
    assert flat.moe == nested.moe
    assert flat.rope_sections == nested.rope_sections == (22, 22, 20)
    assert flat.vision_boundary_token_ids == nested.vision_boundary_token_ids
    assert (flat.video_token_id, nested.video_token_id) == (100295, 103367)


def test_end_index_minus_one_means_the_last_layer():
    assert _parse(MOE, {"moe_layer_end_index": -1}).moe.layer_end == 27


def test_an_interval_makes_every_second_layer_an_moe_layer():
    moe = _parse(MOE, {"moe_layer_interval": 2}).moe
    assert [n for n in range(28) if moe.is_moe_layer(n)] == list(range(1, 28, 2))


def test_width_of_the_tower_may_be_spelt_embed_dim():
    vision = {key: value for key, value in VISION.items() if key != "hidden_size"}
    assert _parse(VL, {"vision_config": vision}).vision.hidden_size == 1280


def test_ids_that_config_leaves_out_come_from_the_tokenizer_by_name():
    change = {"vocab_size": 100, "im_patch_id": None}
    config = _parse(VL, change, MEDIA_TOKENS)
    assert (config.image_token_id, config.video_token_id) == (50, 50)
    assert config.vision_boundary_token_ids == (61, 62, 63, 64)


def test_ids_in_config_win_over_the_tokenizers_names():
    config = _parse(VL, {"image_start_token_id": 7, "im_patch_id": 8}, MEDIA_TOKENS)
    assert config.image_token_id == 8
    assert config.vision_boundary_token_ids == (7, 62, 63, 64)


@pytest.mark.parametrize(
    ("raw", "change", "message"),
    [
        (DENSE, {"architectures": ["LlamaForCausalLM"]}, "'LlamaForCausalLM' is not served; known"),
        (DENSE, {"architectures": None}, "architecture None is not served"),
        (DENSE, {"architectures": []}, r"architecture \[\] is not served"),
        (DENSE, {"hidden_size": None}, "hidden_size is missing"),
        (DENSE, {"hidden_size": "1024"}, "hidden_size is '1024'; expected an integer"),
        (DENSE, {"hidden_size": 0}, "hidden_size is 0; expected 1 or more"),
        (DENSE, {"vocab_size": -5}, "vocab_size is -5; expected 1 or more"),
        (DENSE, {"num_hidden_layers": True}, "num_hidden_layers is True; expected an integer"),
        (DENSE, {"num_key_value_heads": 3}, "is 16; expected a multiple of num_key_value_heads 3"),
        (DENSE, {"head_dim": 127}, "head_dim is 127; rotary embedding needs pairs"),
        (DENSE, {"rms_norm_eps": 0}, "rms_norm_eps is 0; expected a number above 0"),
        (DENSE, {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; expected a number above 0"),
        (DENSE, {"rope_theta": 10**400}, "rope_theta is 10"),
        (DENSE, {"rope_theta": "5e5"}, "rope_theta is '5e5'; expected a number"),
        (DENSE, {"use_bias": "no"}, "use_bias is 'no'; expected true or false"),
        (DENSE, {"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected true or false"),
        (DENSE, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected \"silu\"; nothing else"),
        (DENSE, {"compression_ratio": 2.0}, "compression_ratio is 2.0; expected 1.0"),
        (DENSE, {"rope_scaling": {"type": "yarn"}}, "rope_scaling: type is 'yarn'; expected \"def"),
        (DENSE, {"rope_scaling": [1]}, r"rope_scaling is \[1\]; expected an object"),
        (DENSE, {"text_config": 3}, "text_config is 3; expected an object"),
        (DENSE, {"quantization_config": {"quantization": "wint8"}}, "already quantised"),
        (MOE, {"moe_num_experts": None}, "moe_num_experts is missing"),
        (MOE, {"moe_k": 65}, "moe_k is 65; expected 1 to 64"),
        (MOE, {"moe_num_shared_experts": -1}, "moe_num_shared_experts is -1; expected 0 or more"),
        (MOE, {"moe_layer_interval": 0}, "moe_layer_interval is 0; expected 1 or more"),
        (MOE, {"moe_norm_gate_logits": False}, "moe_norm_gate_logits is False; expected true"),
        (VL, {"moe_num_experts": [64]}, r"moe_num_experts is \[64\]; expected 2 integers"),
        (VL, {"moe_layer_start_index": [1, 3]}, r"start at \[1, 3\].*same layers for text and vis"),
        (VL, {"moe_layer_end_index": [20, 27]}, r"end at \[20, 27\].*same layers for text and vis"),
        (VL, {"freq_allocation": 21}, "freq_allocation 21 leaves 43 of 64"),
        (VL, {"freq_allocation": 66}, "freq_allocation 66 leaves -2 of 64"),
        (VL, {"rope_scaling": {"mrope_section": [22, 20, 22]}}, "mrope_section is .* with h = w"),
        (VL, {"rope_scaling": {"mrope_section": [22, 22]}}, "mrope_section is .* 3 integers"),
        (VL, {"vision_config": None}, "vision_config is missing"),
        (VL, {"vision_config": {**VISION, "depth": None}}, "vision_config: depth is missing"),
        (VL, {"vision_config": {**VISION, "num_heads": 7}}, "hidden_size 1280 over 7 heads"),
        (VL, {"vision_config": {**VISION, "hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
        (VL, {"vocab_size": 100}, "IMAGE_PLACEHOLDER.* has id 100295, beyond vocab_size 100"),
        (VL, {"vocab_size": 101306}, "VIDEO_START.*expected video_start_token_id here or"),
        (VL, {"image_start_token_id": 100295}, "must be different tokens"),
        (VL, {"video_token_id": 999999}, "VIDEO_PLACEHOLDER.*999999, beyond"),
    ],
)
def test_a_wrong_value_is_refused_by_name(raw, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        _parse(raw, change)
    assert caught.value.message.startswith("config.json: ")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["sparse"] * 27, "expected a list of 28"),
        ("sparse", "expected a list of 28"),
        (["dense"] * 28, "one unbroken run"),
        ((["sparse", "dense"] * 14), "one unbroken run"),
        (["dense"] + ["sparse"] * 26 + ["odd"], '"dense" or "sparse" for each layer'),
    ],
)
def test_a_wrong_list_of_layer_kinds_is_refused(kinds, message):
    raw = {**NESTED, "text_config": {**NESTED["text_config"], "mlp_layer_types": kinds}}
    with pytest.raises(CheckpointError, match=message):
        _parse(raw)


def _write(folder, config, tokens=None):
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokens is not None:
        (folder / "added_tokens.json").write_text(json.dumps(tokens), encoding="utf-8")


def test_a_folder_is_read_with_its_added_tokens(tmp_path):
    _write(tmp_path, {**VL, "vocab_size": 100, "im_patch_id": 50}, MEDIA_TOKENS)
    assert load_model_config(tmp_path).vision_boundary_token_ids == (61, 62, 63, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is not valid JSON"),
        (b"\xff\xfe", "config.json is not valid JSON"),
        (b"[" * 100_000, "config.json is not valid JSON"),
        (b"[]", "expected a JSON object, got list"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_model_config(tmp_path)


def test_a_folder_without_config_is_no_model_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist: .* is not a model"):
        load_model_config(tmp_path)


def test_a_config_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: Is a directory"):
        load_model_config(tmp_path)


@pytest.mark.parametrize("token_id", ["7", -1, True, None])
def test_an_added_token_without_a_proper_id_is_refused(tmp_path, token_id):
    _write(tmp_path, DENSE, {"<x>": token_id})
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: <x> is .*expected a token id"):
        load_model_config(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    _write(tmp_path, {**DENSE, "vocab_size": 100}, {"<x>": 99, "<y>": 100})
    with pytest.raises(CheckpointError, match="<y> has id 100, beyond vocab_size 100"):
        load_model_config(tmp_path)
