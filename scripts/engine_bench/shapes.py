"""Configurations of the released models, as their config.json give them."""

from __future__ import annotations

import dataclasses

from backend.config.model import ModelConfig, MoeConfig, VisionConfig

_MOE = MoeConfig(
    num_experts=(64,),
    intermediate_size=(1536,),
    top_k=6,
    num_shared_experts=2,
    layer_start=1,
    layer_end=27,
    layer_interval=1,
    norm_min=1e-12,
)

_21B = ModelConfig(
    architecture="Ernie4_5_MoeForCausalLM",
    vocab_size=103424,
    hidden_size=2560,
    intermediate_size=12288,
    num_layers=28,
    num_heads=20,
    num_kv_heads=4,
    head_dim=128,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    max_position_embeddings=131072,
    tie_word_embeddings=True,
    use_bias=False,
    rope_sections=(0, 0, 64),
    moe=_MOE,
    vision=None,
    image_token_id=-1,
    video_token_id=-1,
    vision_boundary_token_ids=(),
)

SHAPES: dict[str, ModelConfig] = {
    "21b-a3b": _21B,
    "vl-28b-a3b": dataclasses.replace(
        _21B,
        architecture="Ernie4_5_VLMoeForConditionalGeneration",
        rope_sections=(22, 22, 20),
        moe=dataclasses.replace(_MOE, num_experts=(64, 64), intermediate_size=(1536, 512)),
        vision=VisionConfig(
            depth=32,
            hidden_size=1280,
            num_heads=16,
            intermediate_size=5120,
            patch_size=14,
            in_channels=3,
            spatial_merge_size=2,
            temporal_merge_size=2,
            layer_norm_eps=1e-6,
        ),
        image_token_id=100295,
        video_token_id=100295,
        vision_boundary_token_ids=(101304, 101305, 101306, 101307),
    ),
    "0.3b": dataclasses.replace(
        _21B,
        architecture="Ernie4_5_ForCausalLM",
        hidden_size=1024,
        intermediate_size=3072,
        num_layers=18,
        num_heads=16,
        num_kv_heads=2,
        moe=None,
    ),
}
