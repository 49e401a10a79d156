"""Norms and row movements against the memory's rate; linear layers against cuBLAS's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import kernels
from scripts.kernel_timing import PEAK_BYTES, PEAK_FLOPS, median_seconds

HIDDEN, VOCABULARY = 2560, 103_424
ROTATION_BYTES = 200 << 20  # several times the L2


def _random(context: Any, rng: np.random.Generator, *shape: int) -> Any:
    block = rng.standard_normal(1 << 20).astype(np.float32)
    bits = (block.view(np.uint32) >> 16).astype(np.uint16)
    return context.upload(np.resize(bits, shape), kernels.bf16)


def _copies(nbytes: int) -> int:
    return max(2, min(64, ROTATION_BYTES // max(1, nbytes)))


def _bytes_line(name: str, seconds: float, nbytes: float) -> None:
    rate = nbytes / seconds
    share = rate / PEAK_BYTES
    print(f"{name:32} {seconds * 1e6:9.2f} us {rate / 1e12:7.2f} TB/s {share:6.0%}", flush=True)


def bench_norms(context: Any, rng: np.random.Generator) -> None:
    weight = _random(context, rng, HIDDEN)
    for count in (1, 32, 256, 8192):
        nbytes = 2 * count * HIDDEN
        xs = [_random(context, rng, count, HIDDEN) for _ in range(_copies(nbytes))]
        calls: list[Callable[[], object]] = [
            lambda x=x: kernels.add_rms_norm(x, x, weight, 1e-5) for x in xs
        ]
        _bytes_line(f"add_rms_norm {count}", median_seconds(context, calls), 4 * nbytes)
        calls = [lambda x=x: kernels.swiglu(x) for x in xs]
        _bytes_line(f"swiglu {count}", median_seconds(context, calls), 1.5 * nbytes)


def bench_linear(context: Any, rng: np.random.Generator) -> None:
    kernels.tune_linear(context, True)
    for tokens, width, depth in (
        (64, 3584, HIDDEN),
        (256, 3584, HIDDEN),
        (256, VOCABULARY, HIDDEN),
        (2048, 3584, HIDDEN),
        (8192, 3584, HIDDEN),
        (8192, HIDDEN, HIDDEN),
        (4960, 5120, 1280),
    ):
        weights = [
            _random(context, rng, width, depth) for _ in range(_copies(2 * width * depth) // 4 + 1)
        ]
        x = _random(context, rng, tokens, depth)
        calls = [lambda w=w, x=x: kernels.linear(x, w) for w in weights]
        seconds = median_seconds(context, calls)
        flops = 2.0 * tokens * width * depth
        nbytes = 2.0 * (width * depth + tokens * (width + depth))
        limit = max(flops / PEAK_FLOPS, nbytes / PEAK_BYTES)
        print(
            f"{f'linear {tokens}x{width}x{depth}':32} {seconds * 1e6:9.2f} us "
            f"{flops / seconds / 1e12:7.0f} TFLOP/s {limit / seconds:6.0%} of the limit",
            flush=True,
        )


def bench_few_rows(context: Any, rng: np.random.Generator) -> None:
    """Where the skinny kernel and cuBLASLt meet: microseconds of both."""
    for width, depth in ((3584, HIDDEN), (HIDDEN, HIDDEN), (24576, HIDDEN), (VOCABULARY, HIDDEN)):
        copies = max(2, _copies(2 * width * depth) // 4)
        weights = [_random(context, rng, width, depth) for _ in range(copies)]
        for tokens in (4, 8, 16, 32, 64):
            x = _random(context, rng, tokens, depth)
            times = []
            for rows in (64, 0):
                kernels.set_max_skinny_rows(context, rows)
                calls = [lambda w=w, x=x: kernels.linear(x, w) for w in weights]
                times.append(median_seconds(context, calls) * 1e6)
            name = f"linear {tokens}x{width}x{depth}"
            print(f"{name:32} {times[0]:9.2f} us skinny {times[1]:9.2f} us cuBLASLt", flush=True)


PARTS = {
    "norms": bench_norms,
    "linear": bench_linear,
    "few_rows": bench_few_rows,
}


def main(names: list[str]) -> None:
    context = kernels.Context()
    rng = np.random.default_rng(0)
    for name in names or PARTS:
        PARTS[name](context, rng)


if __name__ == "__main__":
    main(sys.argv[1:])
