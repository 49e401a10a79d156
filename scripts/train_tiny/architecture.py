"""The shape of the small model: its config.json and the transformers model of the same shape."""

from __future__ import annotations

from typing import Any

from scripts.tiny_checkpoint import vl_config

VOCAB_MULTIPLE = 16
_BOUNDARIES = ("IMAGE_START", "IMAGE_END", "VIDEO_START", "VIDEO_END")


def flat_config(added_tokens: dict[str, int]) -> dict[str, Any]:
    """config.json of the released layout, without its dtype key.

    About 5.8 M parameters. rope_theta is small because contexts are: with the released 500000 the
    low frequencies, which carry time, would not turn at all within a few hundred positions.
    """
    num_tokens = max(added_tokens.values()) + 1
    vocab_size = -(-num_tokens // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    config = vl_config(vocab_size, added_tokens["<|IMAGE_PLACEHOLDER|>"])
    config.update(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        rope_theta=1000.0,
        freq_allocation=8,
        moe_num_experts=[6, 6],
        moe_intermediate_size=[80, 40],
        moe_num_shared_experts=2,
        moe_layer_end_index=[6, 6],
        pixel_hidden_size=128,
        max_position_embeddings=4096,
    )
    config["vision_config"].update(
        depth=4, embed_dim=128, hidden_size=128, num_heads=4, mlp_ratio=3
    )
    for name in _BOUNDARIES:
        config[f"{name.lower()}_token_id"] = added_tokens[f"<|{name}|>"]
    return config


def transformers_config(config: dict[str, Any]) -> Any:
    """An Ernie4_5_VLMoeConfig that computes what the flat `config` describes."""
    from transformers import Ernie4_5_VLMoeConfig

    pairs = config["head_dim"] // 2
    side = (pairs - config["freq_allocation"]) // 2
    layers = config["num_hidden_layers"]
    dense = config["moe_layer_start_index"][0]
    vision = config["vision_config"]
    text = {
        key: config[key]
        for key in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "rms_norm_eps",
            "initializer_range",
            "tie_word_embeddings",
            "moe_intermediate_size",
            "moe_k",
            "moe_num_shared_experts",
        )
    }
    return Ernie4_5_VLMoeConfig(
        text_config={
            **text,
            "moe_num_experts": config["moe_num_experts"][0],
            "mlp_layer_types": ["dense"] * dense + ["sparse"] * (layers - dense),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config["rope_theta"],
                "mrope_section": [side, side, config["freq_allocation"]],
            },
        },
        vision_config={
            "depth": vision["depth"],
            "hidden_size": vision["hidden_size"],
            "num_heads": vision["num_heads"],
            "intermediate_size": int(vision["hidden_size"] * vision["mlp_ratio"]),
            "initializer_range": config["initializer_range"],
        },
        image_token_id=config["im_patch_id"],
        video_token_id=config["vocab_size"] - 1,
        image_start_token_id=config["image_start_token_id"],
        image_end_token_id=config["image_end_token_id"],
        video_start_token_id=config["video_start_token_id"],
        video_end_token_id=config["video_end_token_id"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )
