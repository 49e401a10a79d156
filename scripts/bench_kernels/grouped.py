"""Prefill products against the matrix units' rate: experts of the 21B shape, and dense layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import kernels
from scripts.kernel_timing import PEAK_FLOPS, median_seconds

HIDDEN, WIDTH, EXPERTS, TOP_K, SHARED = 2560, 1536, 64, 6, 2
TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
DENSE = {  # name: (T, N, K)
    "qkv 2k": (2048, 3584, 2560),
    "qkv 8k": (8192, 3584, 2560),
    "o 8k": (8192, 2560, 2560),
    "dense FFN up 8k": (8192, 24576, 2560),
    "dense FFN down 8k": (8192, 2560, 12288),
    "ViT qkv": (4960, 3840, 1280),
    "ViT MLP up": (4960, 5120, 1280),
    "ViT MLP down": (4960, 1280, 5120),
    "lm_head 256": (256, 103424, 2560),
}


class Pool:
    """bf16 of normal values, far more than the L2 holds; hands out views, one behind the other."""

    ELEMENTS = 1 << 29

    def __init__(self, context: Any, rng: np.random.Generator) -> None:
        block = (rng.standard_normal((1 << 20) + 7) * 0.05).astype(np.float32)
        bits = (block.view(np.uint32) >> 16).astype(np.uint16)
        self._values = context.upload(np.resize(bits, self.ELEMENTS), kernels.bf16)
        self._next = 0

    def take(self, *shape: int) -> Any:
        """A view of this shape; views come around again when the values are used up."""
        count = int(np.prod(shape))
        if self._next + count > self.ELEMENTS:
            self._next = 0
        start, self._next = self._next, self._next + count
        return self._values.slice(start, start + count).view(shape)


def balanced_routing(context: Any, rng: np.random.Generator, tokens: int) -> Any:
    """Every token takes TOP_K random experts and all shared ones."""
    scores = rng.random((tokens, EXPERTS), dtype=np.float32)
    chosen = np.argpartition(scores, TOP_K, axis=1)[:, :TOP_K]
    shared = np.broadcast_to(np.arange(EXPERTS, EXPERTS + SHARED), (tokens, SHARED))
    ids = np.concatenate([chosen, shared], axis=1).astype(np.int32)
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    counts = np.bincount(flat, minlength=EXPERTS + SHARED)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    weights = np.ones(ids.shape, np.float32)
    return kernels.Routing(
        *(context.upload(a) for a in (ids, weights, order, offsets)), EXPERTS, SHARED
    )


def _report(name: str, seconds: float, flops: float) -> None:
    rate = flops / seconds / 1e12
    print(
        f"{name:38s} {seconds * 1e6:9.1f} us {rate:7.1f} TFLOP/s {rate * 1e12 / PEAK_FLOPS:6.1%}",
        flush=True,
    )


def bench_experts(context: Any, pool: Pool, rng: np.random.Generator) -> None:
    """moe_up_large and moe_down_large at several numbers of tokens."""
    groups, slots = EXPERTS + SHARED, TOP_K + SHARED
    up = pool.take(groups, 2 * WIDTH, HIDDEN)
    down = pool.take(groups, HIDDEN, WIDTH)
    for tokens in TOKENS:
        x = pool.take(tokens, HIDDEN)
        routing = balanced_routing(context, rng, tokens)
        h = kernels.moe_up_large(x, routing, up, 0, groups, slots)
        y = context.empty((tokens * slots, HIDDEN), kernels.bf16)
        flops = 2.0 * tokens * slots * HIDDEN * WIDTH

        def run_up(x: Any = x, routing: Any = routing) -> object:
            return kernels.moe_up_large(x, routing, up, 0, groups, slots)

        def run_down(h: Any = h, routing: Any = routing, y: Any = y) -> object:
            return kernels.moe_down_large(h, routing, down, 0, groups, y)

        _report(f"moe_up_large {tokens}", median_seconds(context, [run_up] * 3), 2 * flops)
        _report(f"moe_down_large {tokens}", median_seconds(context, [run_down] * 3), flops)


def bench_dense(context: Any, pool: Pool) -> None:
    """gemm and linear (cuBLASLt) on the model's dense shapes, inputs rotated past the L2."""
    for name, (t, n, k) in DENSE.items():
        copies = math.ceil(180e6 / (2 * (t * k + n * k)))
        inputs = [(pool.take(t, k), pool.take(n, k)) for _ in range(copies)]
        for label, function in (("gemm", kernels.gemm), ("linear", kernels.linear)):
            calls = [lambda f=function, x=x, w=w: f(x, w) for x, w in inputs]
            seconds = median_seconds(context, calls)
            _report(f"{label} {name} {t}x{n}x{k}", seconds, 2.0 * t * n * k)


def main() -> None:
    context = kernels.Context()
    rng = np.random.default_rng(0)
    pool = Pool(context, rng)
    bench_experts(context, pool, rng)
    bench_dense(context, pool)


if __name__ == "__main__":
    main()
