"""Random weights of a real shape, whose routing is balanced: made on the device's own path.

Every matrix has entries of N(0, 1 / inputs), so that each layer keeps the scale of what it gets,
norms are 1, biases and the correction bias 0, routers N(0, 1) over inputs of unit scale divided by
their root: each expert is as likely as any other. Values are windows of one pool of random bits;
windows start at places of their own.
"""

from __future__ import annotations

import math

import numpy as np
from tqdm import tqdm

from backend.config.model import ModelConfig
from backend.models import Model, build_model, parameter_specs
from backend.ops.cuda_ops import CudaOps

_POOL_VALUES = 2**26
_ROWS_AT_ONCE = 2**25


def build_random_model(config: ModelConfig, ops: CudaOps, seed: int) -> tuple[Model, float]:
    """The model, and the rate at which its weights were stored, in GB/s."""
    import time

    random = np.random.default_rng(seed)
    pool = random.standard_normal(_POOL_VALUES, dtype=np.float32)
    pool[np.abs(pool) < 1e-6] = 1e-6  # exponents are lowered below, which a zero has not
    specs = parameter_specs(config)
    store = ops.weight_store({name: spec.shape for name, spec in specs.items()})
    num_bytes, began = 0, time.perf_counter()
    bits = _bits(pool)
    for name, spec in tqdm(specs.items(), desc="Storing random weights"):
        store.begin(name, spec.shape, spec.kind, spec.keep_float32)
        if spec.kind == "vector":
            is_norm = "norm" in name or name.endswith(("ln.weight", ".3.weight"))
            value = 1.0 if is_norm and name.endswith("weight") else 0.0
            store.place(name, np.full(spec.shape, value, np.float32), (slice(None),), False)
            continue
        outer = spec.shape[0] if len(spec.shape) == 3 else 1
        rows, columns = spec.shape[-2:]
        inputs = columns if spec.kind == "embedding" else rows
        shift = round(math.log2(math.sqrt(inputs)))
        for index in range(outer):
            target = (index,) if len(spec.shape) == 3 else (slice(None), slice(None))
            values = _window(bits, random, rows * columns, shift).reshape(rows, columns)
            store.place(name, values, target, False)
            num_bytes += values.nbytes
    weights = store.finish()
    rate = num_bytes / (time.perf_counter() - began) / 1e9
    return build_model(config, ops, weights), rate


def _bits(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits, uint16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _window(bits: np.ndarray, random: np.random.Generator, count: int, shift: int) -> np.ndarray:
    """`count` values divided by 2 ** shift: a power of two only changes the exponent."""
    pieces = []
    while count:
        start = int(random.integers(0, len(bits) // 2))
        piece = bits[start : start + min(count, _ROWS_AT_ONCE)]
        pieces.append(piece)
        count -= len(piece)
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return values - np.uint16(shift << 7)
