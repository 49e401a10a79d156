"""What a device's bandwidth and arithmetic allow: seconds per decode step, prefill and picture.

A step reads each weight it needs once: attention and dense layers, shared experts, the distinct
routed experts that B tokens choose (E · (1 - (1 - k / E)^B) when routing is balanced, of text's and
of vision's experts each), routers, the output table, and the KV of every context. Each class of
work takes the longer of bytes over bandwidth and operations over rate; the classes add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.config.model import ModelConfig, MoeConfig

_FP32_SHARE = 1 / 8
"""Rate of float32 arithmetic, which routers use, against bfloat16 matrix products."""


@dataclass(frozen=True)
class Ceilings:
    """Measured, not the vendor's: bytes/s of a copy, operations/s of a large bf16 product."""

    bytes_per_s: float = 4.3e12
    flops_per_s: float = 790e12

    def seconds(self, num_bytes: float, flops: float) -> float:
        return max(num_bytes / self.bytes_per_s, flops / self.flops_per_s)


def decode_seconds(config: ModelConfig, batch: int, context: int, ceilings: Ceilings) -> float:
    """One step of `batch` sequences, each with `context` tokens before it."""
    pairs = float(batch * context)
    return _pass_seconds(config, batch, batch, pairs, batch * (context + 1.0), ceilings)


def prefill_seconds(
    config: ModelConfig,
    num_tokens: int,
    ceilings: Ceilings,
    num_vision_tokens: int = 0,
    distinct: tuple[float, float] | None = None,
) -> float:
    """One prompt alone, in one chunk; `num_vision_tokens` of it take the experts for vision.
    `distinct`: how many routed experts of text and of vision a layer reads, where that is known."""
    pairs = num_tokens * (num_tokens + 1) / 2
    return _pass_seconds(
        config, num_tokens, 1, pairs, 2.0 * num_tokens, ceilings, num_vision_tokens, distinct
    )


def vision_seconds(config: ModelConfig, num_patches: int, ceilings: Ceilings) -> float:
    """Vision transformer and resampler of one picture."""
    vision = config.vision
    if vision is None:
        raise ValueError(f"{config.architecture} has no vision model")
    width = vision.hidden_size
    linear = vision.depth * (4 * width * width + 2 * width * vision.intermediate_size)
    linear += vision.patch_dim * width
    flops = 2.0 * linear * num_patches + 4.0 * vision.depth * num_patches**2 * width
    inner = width * vision.spatial_merge_size**2
    resampler = 2 * inner * inner + 2 * inner * inner + inner * inner + inner * config.hidden_size
    flops += 2.0 * resampler * num_patches / vision.spatial_merge_size**2
    return ceilings.seconds(2.0 * (linear + resampler), flops)


def _pass_seconds(
    config: ModelConfig,
    num_tokens: int,
    num_logits: int,
    score_pairs: float,
    kv_tokens: float,
    ceilings: Ceilings,
    num_vision_tokens: int = 0,
    distinct: tuple[float, float] | None = None,
) -> float:
    hidden, layers = config.hidden_size, config.num_layers
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = layers * (hidden * (queries + 2 * keys) + queries * hidden)
    moe = config.moe
    num_sparse = sum(moe.is_moe_layer(layer) for layer in range(layers)) if moe else 0
    dense = (layers - num_sparse) * 3 * hidden * config.intermediate_size

    def product(weights: float, rows: float) -> float:
        return ceilings.seconds(2.0 * weights, 2.0 * weights * rows)

    seconds = product(attention, num_tokens) + product(dense, num_tokens)
    seconds += product(config.vocab_size * hidden, num_logits)
    if moe:
        seconds += product(num_sparse * 3 * hidden * moe.shared_intermediate_size, num_tokens)
        of_groups = (num_tokens - num_vision_tokens, num_vision_tokens)
        for group, tokens in enumerate(of_groups):
            if tokens:
                read = distinct[group] if distinct else _balanced(moe, group, tokens)
                routed = _routed_seconds(moe, group, hidden, tokens, read, ceilings)
                seconds += num_sparse * routed
    kv_bytes = kv_tokens * layers * 2 * keys * 2
    return seconds + ceilings.seconds(kv_bytes, 4.0 * score_pairs * layers * queries)


def _balanced(moe: MoeConfig, group: int, num_tokens: int) -> float:
    """Distinct experts that these tokens choose when each is as likely as any other."""
    count = moe.num_experts[group]
    return count * (1.0 - (1.0 - moe.top_k / count) ** num_tokens)


def _routed_seconds(
    moe: MoeConfig, group: int, hidden: int, num_tokens: int, distinct: float, ceilings: Ceilings
) -> float:
    """A layer's router and routed experts of one group: 0 of text, 1 of vision."""
    expert = 3 * hidden * moe.intermediate_size[group]
    router = moe.num_experts[group] * hidden
    return ceilings.seconds(
        2.0 * distinct * expert, 2.0 * moe.top_k * expert * num_tokens
    ) + ceilings.seconds(4.0 * router, 2.0 * router * num_tokens / _FP32_SHARE)
