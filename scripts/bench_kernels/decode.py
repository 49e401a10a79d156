"""Decode kernels against the memory's rate, at the sizes of the 21B model.

Every kernel runs in a replayed graph over weights that rotate past the L2; bytes are those of the
weights a call must read. The last table chains a layer's kernels as a step does.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import kernels
from scripts.kernel_timing import PEAK_BYTES, median_seconds

HIDDEN, WIDTH, EXPERTS, TOP_K, SHARED = 2560, 1536, 64, 6, 2
GROUPS, SLOTS = EXPERTS + SHARED, TOP_K + SHARED
TOKENS = (1, 8, 32, 64, 128, 256)
DENSE = {"qkv": (3584, 2560), "o": (2560, 2560), "lm_head": (103424, 2560)}


def _random(context: Any, rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Any:
    """bf16 of normal values: one random block, repeated."""
    block = (rng.standard_normal((1 << 20) + 7) * scale).astype(np.float32)
    bits = (block.view(np.uint32) >> 16).astype(np.uint16)
    return context.upload(np.resize(bits, shape), kernels.bf16)


def _line(name: str, seconds: float, nbytes: float) -> None:
    rate = nbytes / seconds
    print(
        f"{name:26s} {seconds * 1e6:8.2f} us {nbytes / 1e6:8.1f} MB {rate / 1e12:6.2f} TB/s "
        f"{rate / PEAK_BYTES:6.1%}",
        flush=True,
    )


def _active(routing: Any) -> int:
    return int(np.count_nonzero(np.diff(routing.offsets.numpy())))


def bench_dense(context: Any, rng: np.random.Generator) -> None:
    """skinny_linear, and linear where it has another kernel for these rows."""
    for name, (n, k) in DENSE.items():
        nbytes = 2.0 * n * k
        weights = [
            _random(context, rng, n, k, scale=0.02) for _ in range(max(2, int(3e8 / nbytes)))
        ]
        dtype = kernels.f32 if name == "lm_head" else kernels.bf16
        for tokens in (1, 8, 16, 32, 64):
            x = _random(context, rng, tokens, k)

            def call(w: Any, x: Any = x, dtype: Any = dtype) -> object:
                return kernels.skinny_linear(x, w, out_dtype=dtype)

            seconds = median_seconds(context, [lambda w=w, f=call: f(w) for w in weights])
            _line(f"{name} {tokens}", seconds, nbytes)
    for tokens in (1, 8, 32):
        weights = [_random(context, rng, 24576, HIDDEN, scale=0.02) for _ in range(3)]
        x = _random(context, rng, tokens, HIDDEN)
        calls = [lambda w=w, x=x: kernels.skinny_linear_swiglu(x, w) for w in weights]
        _line(f"dense swiglu {tokens}", median_seconds(context, calls), 2.0 * 24576 * HIDDEN)


def _experts(context: Any, rng: np.random.Generator, rows: int, columns: int) -> Any:
    """Tables of every group, filled on the device from a few random ones."""
    block = _random(context, rng, 3, rows, columns, scale=0.02)
    table = context.empty((GROUPS, rows, columns), kernels.bf16)
    for g in range(0, GROUPS, 3):
        kernels.copy(table.slice(g, g + 3), block)
    return table


class Layer:
    """One MoE layer's weights."""

    def __init__(self, context: Any, rng: np.random.Generator) -> None:
        self.up = _experts(context, rng, 2 * WIDTH, HIDDEN)
        self.down = _experts(context, rng, HIDDEN, WIDTH)
        gate = rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32) * HIDDEN**-0.5
        self.gate = context.upload(gate)
        self.bias = context.upload(np.zeros(EXPERTS, np.float32))
        self.norm = context.upload(np.ones(HIDDEN, np.float32), kernels.bf16)

    def route(self, x: Any) -> Any:
        return kernels.moe_route(x, self.gate, self.bias, TOP_K, 1e-12, SHARED)


def bench_experts(context: Any, rng: np.random.Generator, tokens: tuple[int, ...]) -> None:
    """moe_route, moe_up_small, moe_down_small, the combination, and all four as a chain."""
    layers = [Layer(context, rng) for _ in range(3)]
    for count in tokens:
        x = context.upload(rng.standard_normal((count, HIDDEN)).astype(np.float32), kernels.bf16)
        routings = [layer.route(x) for layer in layers]
        pairs = [*zip(layers, routings, strict=True)]
        active = statistics.mean(_active(routing) for routing in routings)
        up_bytes = active * 4.0 * WIDTH * HIDDEN
        h = kernels.moe_up_small(x, routings[0], layers[0].up, 0, GROUPS)
        y = context.empty((count * SLOTS, HIDDEN), kernels.bf16)

        def chain(layer: Layer, x: Any = x, y: Any = y) -> None:
            routing = layer.route(x)
            h = kernels.moe_up_small(x, routing, layer.up, 0, GROUPS)
            kernels.moe_down_small(h, routing, layer.down, 0, GROUPS, y)
            kernels.moe_combine_add_rms_norm(y, routing.weights, x, layer.norm, 1e-5)

        calls: dict[str, tuple[list[Callable[[], object]], float]] = {
            "route": ([lambda n=n, x=x: n.route(x) for n in layers * 5], 4.0 * EXPERTS * HIDDEN),
            "up": (
                [
                    lambda n=n, r=r, x=x: kernels.moe_up_small(x, r, n.up, 0, GROUPS)
                    for n, r in pairs
                ],
                up_bytes,
            ),
            "down": (
                [
                    lambda n=n, r=r, h=h, y=y: kernels.moe_down_small(h, r, n.down, 0, GROUPS, y)
                    for n, r in pairs
                ],
                up_bytes / 2,
            ),
            "combine + norm": (
                [
                    lambda n=n, r=r, x=x, y=y: kernels.moe_combine_add_rms_norm(
                        y, r.weights, x, n.norm, 1e-5
                    )
                    for n, r in pairs * 5
                ],
                2.0 * count * SLOTS * HIDDEN,
            ),
            "layer": ([lambda n=n, f=chain: f(n) for n in layers], 1.5 * up_bytes),
        }
        for name, (functions, nbytes) in calls.items():
            _line(f"{name} {count} ({active:.0f})", median_seconds(context, functions), nbytes)


def bench_dense_tiles(context: Any, rng: np.random.Generator) -> None:
    """Every tile height that a number of tokens allows; the kernels' own choice rests on these."""
    heights = {1: (16, 32), 8: (16, 32), 16: (32, 64), 32: (32, 64), 64: (64, 128)}
    for name, (n, k) in DENSE.items():
        nbytes = 2.0 * n * k
        weights = [
            _random(context, rng, n, k, scale=0.02) for _ in range(max(2, int(3e8 / nbytes)))
        ]
        for tokens, choices in heights.items():
            x = _random(context, rng, tokens, k)
            for rows in choices:
                calls = [
                    lambda w=w, x=x, rows=rows: kernels.skinny_linear(x, w, tile_rows=rows)
                    for w in weights
                ]
                _line(f"{name} {tokens} rows {rows}", median_seconds(context, calls), nbytes)
            calls = [lambda w=w, x=x: kernels.gemm(x, w) for w in weights]
            _line(f"{name} {tokens} gemm", median_seconds(context, calls), nbytes)


def bench_tuning(context: Any, rng: np.random.Generator) -> None:
    """Route, up and down as a chain under several tunings of the expert kernels."""
    layers = [Layer(context, rng) for _ in range(3)]
    tunings = {  # tile_rows, blocks_per_sm, stage_kb
        1: ((32, 1), (32, 2), (16, 1), (16, 2), (64, 1)),
        8: ((32, 1), (32, 2), (16, 1), (64, 1), (64, 2)),
        32: ((64, 1), (64, 2), (32, 1), (128, 1), (128, 1, 32)),
        64: ((128, 1), (128, 2), (64, 1), (128, 1, 32)),
        256: ((128, 1), (128, 2), (64, 1), (128, 1, 32)),
    }
    for count, choices in tunings.items():
        x = context.upload(rng.standard_normal((count, HIDDEN)).astype(np.float32), kernels.bf16)
        y = context.empty((count * SLOTS, HIDDEN), kernels.bf16)
        active = statistics.mean(_active(layer.route(x)) for layer in layers)
        for choice in choices:
            tuning = kernels.ExpertTuning(*choice)

            def experts(layer: Layer, x: Any = x, y: Any = y, tuning: Any = tuning) -> None:
                routing = layer.route(x)
                h = kernels.moe_up_small(x, routing, layer.up, 0, GROUPS, tuning=tuning)
                kernels.moe_down_small(h, routing, layer.down, 0, GROUPS, y, tuning)

            seconds = median_seconds(context, [lambda n=n, f=experts: f(n) for n in layers * 2])
            _line(f"experts {count} {choice}", seconds, active * 6.0 * WIDTH * HIDDEN)


def bench_paths(context: Any, rng: np.random.Generator) -> None:
    """Route, up and down, streamed past the tokens or as a grouped product: where the second is as
    fast, kernels.moe_prefers_small ends."""
    layers = [Layer(context, rng) for _ in range(3)]
    paths = {
        "streamed": (kernels.moe_up_small, kernels.moe_down_small),
        "grouped": (kernels.moe_up_large, kernels.moe_down_large),
    }
    for count in (4, 8, 16, 32, 64, 128, 256, 512):
        x = context.upload(rng.standard_normal((count, HIDDEN)).astype(np.float32), kernels.bf16)
        y = context.empty((count * SLOTS, HIDDEN), kernels.bf16)
        active = statistics.mean(_active(layer.route(x)) for layer in layers)
        for name, (up, down) in paths.items():

            def experts(
                layer: Layer, x: Any = x, y: Any = y, up: Any = up, down: Any = down
            ) -> None:
                routing = layer.route(x)
                down(up(x, routing, layer.up, 0, GROUPS), routing, layer.down, 0, GROUPS, y)

            seconds = median_seconds(context, [lambda n=n, f=experts: f(n) for n in layers * 2])
            _line(f"experts {count} {name}", seconds, active * 6.0 * WIDTH * HIDDEN)


def bench_prefill(context: Any, rng: np.random.Generator) -> None:
    """moe_route and the combination for chunks of a prompt; bytes are those of their inputs."""
    layer = Layer.__new__(Layer)
    layer.gate = context.upload(rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32))
    layer.bias = context.upload(np.zeros(EXPERTS, np.float32))
    for count in (512, 1024, 2048, 8192, 16384):
        x = _random(context, rng, count, HIDDEN)
        seconds = median_seconds(context, [lambda x=x: layer.route(x)] * 4)
        _line(f"route {count}", seconds, 2.0 * count * HIDDEN)
        y, weights = _random(context, rng, count * SLOTS, HIDDEN), layer.route(x).weights
        norm = _random(context, rng, HIDDEN)
        calls = [
            lambda x=x, y=y, weights=weights, norm=norm: kernels.moe_combine_add_rms_norm(
                y, weights, x, norm, 1e-5
            )
        ] * 4
        nbytes = 2.0 * count * (SLOTS + 3) * HIDDEN
        _line(f"combine + norm {count}", median_seconds(context, calls), nbytes)


def main(areas: list[str]) -> None:
    context = kernels.Context()
    rng = np.random.default_rng(0)
    if not areas or "dense" in areas:
        bench_dense(context, rng)
    if not areas or "experts" in areas:
        bench_experts(context, rng, TOKENS)
    if "tiles" in areas:
        bench_dense_tiles(context, rng)
    if "tuning" in areas:
        bench_tuning(context, rng)
    if "paths" in areas:
        bench_paths(context, rng)
    if not areas or "route" in areas:
        bench_prefill(context, rng)


if __name__ == "__main__":
    main(sys.argv[1:])
