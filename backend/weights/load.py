"""Loads a checkpoint folder into canonical tensors, one parameter at a time.

Files are mapped. Either each parameter is put together in one float32 array and handed over before
the next begins (`load_weights`), or the files' tensors go to a store as they are (`store_weights`);
host memory beyond the finished tensors is one parameter, or what the store buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from backend.config.model import ModelConfig
from backend.models.parameters import ParameterSpec
from backend.ops.interface import Weight, WeightStore
from backend.weights.checkpoint import open_checkpoint
from backend.weights.convert import copy_as_float32, copy_transposed_as_float32
from backend.weights.plan import LoadPlan, Source, plan_load

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
        with _progress_bar(plan, progress) as bar:
            for name, spec in specs.items():
                weights[name] = to_tensor(_read(spec, plan.sources[name]), spec)
                bar.update(plan.num_bytes_of(name))
        return weights


def store_weights(
    folder: Path,
    config: ModelConfig,
    specs: Mapping[str, ParameterSpec],
    store: WeightStore,
    progress: bool = True,
) -> dict[str, Weight]:
    """Canonical name → what `store` made of it. Raises as `load_weights` does, before the first
    tensor is placed."""
    with open_checkpoint(folder) as checkpoint:
        plan = plan_load(checkpoint, config, specs)
        with _progress_bar(plan, progress) as bar:
            for name, spec in specs.items():
                store.begin(name, spec.shape, spec.kind, spec.keep_float32)
                for source in plan.sources[name]:
                    values = source.stored.file.view(source.stored.entry)
                    store.place(name, values, source.part.target, source.part.is_transposed)
                    bar.update(source.stored.entry.num_bytes)
        return store.finish()


def _progress_bar(plan: LoadPlan, is_shown: bool) -> tqdm[Any]:
    return tqdm(
        total=plan.num_bytes,
        desc="Loading Weights",
        unit="B",
        unit_scale=True,
        disable=not is_shown,
    )


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
