"""Random weights of a real model's width, made on the GPU and shared by the executor and torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import kernels
from backend.config.model import ModelConfig
from backend.models import parameter_specs
from backend.ops.cuda_ops import CudaOps
from backend.ops.cuda_weights import UNTURNED, device_shape, device_weight
from scripts.engine_bench.shapes import SHAPES
from tests.oracle.models import IMAGE, IMAGE_END, IMAGE_START, VIDEO, VIDEO_END, VIDEO_START

ROUTER_GAIN = 4.0
"""Spreads routing scores, so that rounding decides less often which expert is chosen."""


def two_layers(shape: str) -> ModelConfig:
    """One dense layer and one of experts, two blocks of vision, everything else as released; media
    tokens are those of the oracle's prompts."""
    config = SHAPES[shape]
    vision = config.vision and dataclasses.replace(config.vision, depth=2)
    return dataclasses.replace(
        config,
        num_layers=2,
        moe=config.moe and dataclasses.replace(config.moe, layer_end=1),
        vision=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_boundary_token_ids=(IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END),
    )


def random_weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """In the executor's order, bfloat16 but for what stays float32; all values are bfloat16's."""
    generator = torch.Generator("cuda").manual_seed(seed)
    weights = {}
    for name, spec in parameter_specs(config).items():
        shape = device_shape(spec.shape, spec.kind)
        values = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        if name.endswith("e_score_correction_bias"):
            values *= 0.02
        elif spec.kind == "vector":
            values = values * 0.1 + (0.0 if name.endswith(".bias") else 1.0)
        elif spec.kind == "router":
            values *= ROUTER_GAIN * spec.shape[-2] ** -0.5
        elif spec.kind != "embedding":
            values *= spec.shape[-2] ** -0.5
        weights[name] = values.float() if spec.keep_float32 else values
    return weights


def as_canonical(config: ModelConfig, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same memory with canonical axes."""
    specs = parameter_specs(config)
    return {
        name: tensor if specs[name].kind in UNTURNED else tensor.mT
        for name, tensor in weights.items()
    }


def shared(config: ModelConfig, ops: CudaOps, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same memory as the executor's weights."""
    specs = parameter_specs(config)
    torch.cuda.synchronize()
    return {
        name: device_weight(kernels.from_dlpack(ops.context, tensor), specs[name].kind)
        for name, tensor in weights.items()
    }
