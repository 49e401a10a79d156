"""Loads a checkpoint folder into canonical tensors, one parameter at a time.

Host memory beyond the finished tensors is one parameter: files are mapped, each parameter is put
together in one float32 array and handed over before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from backend.config.model import ModelConfig
from backend.models.parameters import ParameterSpec
from backend.weights.checkpoint import open_checkpoint
from backend.weights.convert import copy_as_float32, copy_transposed_as_float32
from backend.weights.plan import Source, plan_load

T = TypeVar("T")


def load_weights(
    folder: Path,
    config: ModelConfig,
    specs: Mapping[str, ParameterSpec],
    to_tensor: Callable[[np.ndarray[Any, Any], ParameterSpec], T],
    progress: bool = True,
) -> dict[str, T]:
    """Canonical name → what `to_tensor` makes of it, in the order of `specs`.

    `to_tensor` gets a C-contiguous, writable float32 array of spec.shape that is its own to keep.
    `progress` draws a bar on stderr. Raises CheckpointError naming file, tensor, expected and
    found; nothing has been read then.
    """
    with open_checkpoint(folder) as checkpoint:
        plan = plan_load(checkpoint, config, specs)
        weights: dict[str, T] = {}
        with tqdm(
            total=plan.num_bytes,
            desc="Loading Weights",
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar:
            for name, spec in specs.items():
                weights[name] = to_tensor(_read(spec, plan.sources[name]), spec)
                bar.update(plan.num_bytes_of(name))
        return weights


def _read(spec: ParameterSpec, sources: Sequence[Source]) -> np.ndarray[Any, Any]:
    """One parameter, put together from its parts."""
    array = np.empty(spec.shape, np.float32)
    for source in sources:
        values = source.stored.file.view(source.stored.entry)
        region = array[source.part.target]
        if source.part.is_transposed:
            copy_transposed_as_float32(values, region)
        else:
            copy_as_float32(values, region)
    return array
