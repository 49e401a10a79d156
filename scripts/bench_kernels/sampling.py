"""Sampling: microseconds per launch against one read of the logits."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

import kernels
from kernels import sampling
from scripts.kernel_timing import PEAK_BYTES, median_seconds

VOCABULARY = 103_424
ROTATION_BYTES = 256 << 20  # several times the L2
KINDS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    "top_p 0.8": {"top_p": 0.8},
    "top_p 0.95": {"top_p": 0.95},
    "top_k 50": {"top_k": 50},
    "top_k 50 top_p 0.8": {"top_k": 50, "top_p": 0.8},
    "min_p 0.05": {"min_p": 0.05},
    "greedy, 20 logprobs": {"temperature": 0.0, "num_top": 20},
    "penalties, 5 logprobs": {"repetition": 1.1, "presence": 0.5, "num_top": 5},
}
SHAPES = ("peaked", "normal", "flat")


def logits_of(rng: np.random.Generator, rows: int, shape: str) -> np.ndarray:
    """float32 [rows, V]: N(0, 3²), with eight tokens between 18 and 25 in each row when peaked;
    N(0, 1) when flat."""
    block = rng.standard_normal(1 << 20).astype(np.float32)
    values = np.resize(block, (rows, VOCABULARY)) * np.float32(1 if shape == "flat" else 3)
    if shape == "peaked":
        for row in values:
            row[rng.choice(VOCABULARY, 8, replace=False)] = rng.uniform(18, 25, 8)
    return values


def settings(count: int, fields: dict[str, float]) -> np.ndarray:
    """`count` rows, each with its own seat."""
    rows = sampling.padding_rows(count)
    rows["position"] = np.arange(count)
    rows["temperature"] = 1.0
    rows["seat"] = np.arange(count)
    for name, value in fields.items():
        rows[name] = value
    return rows


def main(counts: list[int]) -> None:
    context = kernels.Context()
    rng = np.random.default_rng(0)
    for count in counts or [1, 8, 64, 256]:
        nbytes = 4 * count * VOCABULARY
        words = -(-VOCABULARY // 32)
        tables = {
            "latest": context.zeros([count], kernels.i32),
            "counts": context.zeros([count, VOCABULARY], kernels.u16),
            "prompt_seen": context.zeros([count, words], kernels.i32),
        }
        copies = max(2, min(32, ROTATION_BYTES // nbytes))
        logits = {
            shape: [context.upload(logits_of(rng, count, shape)) for _ in range(copies)]
            for shape in SHAPES
        }
        for name, fields in KINDS.items():
            rows = context.upload(sampling.row_bytes(settings(count, fields)))
            line = f"sample {count:3} {name:22}"
            for shape in SHAPES:
                calls: list[Callable[[], object]] = [
                    lambda x=x, rows=rows, tables=tables: kernels.sample(x, rows, **tables)
                    for x in logits[shape]
                ]
                seconds = median_seconds(context, calls)
                line += f" {shape} {seconds * 1e6:7.1f} us {nbytes / seconds / PEAK_BYTES:4.0%}"
            print(line, flush=True)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]])
