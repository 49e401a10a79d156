"""Where a pass's time goes, operation by operation: events around each call into `kernels`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import kernels
from backend.batch import Batch
from backend.config.model import ModelConfig
from backend.models import Model

_TIMED = (
    "embedding",
    "add_rms_norm",
    "rms_norm",
    "linear",
    "skinny_linear_swiglu",
    "swiglu",
    "rope_table",
    "rope_kv_write",
    "decode_attention",
    "prefill_attention",
    "moe_route",
    "moe_up_small",
    "moe_down_small",
    "moe_up_large",
    "moe_down_large",
    "moe_combine_add_rms_norm",
    "gather_rows",
    "gemm_f32out",
)
_BLOCK_SIZE = 64


def profile_pass(
    model: Model, config: ModelConfig, num_seqs: int, context: int, num_new: int = 1
) -> None:
    """Print the share of each operation in a pass of `num_seqs` sequences with `num_new` tokens.

    Launched kernel by kernel, so small kernels look longer than they are in a recorded graph.
    """
    batch = _batch(config, num_seqs, context, num_new)
    cache = model.allocate_kv_cache(int(batch.block_tables.max()) + 1, _BLOCK_SIZE)
    for _ in range(2):
        model.forward(batch, cache)
    marks: list[tuple[str, Any, Any]] = []
    with _timed(model, marks):
        model.forward(batch, cache)
    model.ops.context.synchronize()
    totals: dict[str, list[float]] = defaultdict(list)
    for name, begin, end in marks:
        totals[name].append(begin.elapsed_ms(end))
    whole = sum(map(sum, totals.values()))
    print(f"\n{num_seqs} x {num_new} new of {context}: {whole:.2f} ms, by operation")
    for name, times in sorted(totals.items(), key=lambda item: -sum(item[1])):
        print(
            f"  {name:26s} {len(times):4d} x {1e3 * sum(times) / len(times):9.1f} µs "
            f"{sum(times) / whole:6.1%}"
        )


@contextmanager
def _timed(model: Model, marks: list[tuple[str, Any, Any]]) -> Iterator[None]:
    context = model.ops.context
    originals = {name: getattr(kernels, name) for name in _TIMED}

    def wrap(name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            begin, end = context.event(), context.event()
            begin.record()
            result = function(*arguments, **keywords)
            end.record()
            marks.append((name, begin, end))
            return result

        return call

    try:
        for name, function in originals.items():
            setattr(kernels, name, wrap(name, function))
        yield
    finally:
        for name, function in originals.items():
            setattr(kernels, name, function)


def _batch(config: ModelConfig, num_seqs: int, context: int, num_new: int) -> Batch:
    blocks = -(-context // _BLOCK_SIZE)
    tables = 1 + np.arange(num_seqs * blocks, dtype=np.int32).reshape(num_seqs, blocks)
    places = np.arange(context - num_new, context)
    slots = tables[:, places // _BLOCK_SIZE].astype(np.int64) * _BLOCK_SIZE + places % _BLOCK_SIZE
    nothing = np.zeros(0, dtype=np.int32)
    random = np.random.default_rng(0)
    starts = np.arange(num_seqs + 1, dtype=np.int32) * num_new
    return Batch(
        token_ids=random.integers(0, config.vocab_size, num_seqs * num_new).astype(np.int32),
        positions=np.tile(places.astype(np.int32), (3, num_seqs)),
        slot_mapping=slots.reshape(-1),
        query_starts=starts,
        context_lens=np.full(num_seqs, context, dtype=np.int32),
        block_tables=tables,
        logit_rows=starts[1:] - 1,
        vision_rows=nothing,
        media_rows=nothing,
    )
