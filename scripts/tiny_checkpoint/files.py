"""Writes tensors as safetensors, single or sharded, byte for byte the same for the same input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .layouts import LAYOUTS, file_tensors
from .shapes import Config
from .tokenizer import write_json

DTYPES = ("bfloat16", "float32")
# Routing is decided in float32 and stored so.
_KEPT_FLOAT32 = (".mlp.gate.weight", ".mlp.gate.weight_1", ".e_score_correction_bias")


def write_checkpoint(
    folder: Path,
    layout: str,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    shards: int = 1,
    dtype: str = "bfloat16",
) -> None:
    """Write config.json and the weights into `folder`, an existing folder.

    `config` is a flat config.json without its dtype key; `tensors` are canonical float32 arrays.
    Routers and correction biases stay float32 whatever `dtype` is.
    """
    if layout not in LAYOUTS or dtype not in DTYPES:
        raise ValueError(f"layout {layout!r} of {LAYOUTS}, dtype {dtype!r} of {DTYPES}")
    key = "dtype" if layout == "paddle" else "torch_dtype"
    write_json(folder / "config.json", {**config, key: dtype})
    named = file_tensors(layout, config, tensors)
    encoded = {
        name: _encode(tensor, "float32" if name.endswith(_KEPT_FLOAT32) else dtype)
        for name, tensor in named.items()
    }
    metadata = {"format": "np" if layout == "paddle" else "pt"}
    groups = _split(encoded, shards)
    if len(groups) == 1:
        write_safetensors(folder / "model.safetensors", groups[0], metadata)
        return
    weight_map = {}
    for index, group in enumerate(groups, start=1):
        file = f"model-{index:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / file, group, metadata)
        weight_map.update(dict.fromkeys(group, file))
    total = sum(len(data) for _, _, data in encoded.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


Encoded = tuple[str, list[int], bytes]


def write_safetensors(path: Path, tensors: Mapping[str, Encoded], metadata: dict[str, str]) -> None:
    """One file: 8 bytes of header length, a JSON header padded to 8 bytes, then the data."""
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, (dtype, shape, data) in tensors.items():
        end = start + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, _, data in tensors.values():
            file.write(data)


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits (uint16) of finite float32 `values` rounded to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _encode(tensor: np.ndarray, dtype: str) -> Encoded:
    if dtype == "bfloat16":
        return "BF16", list(tensor.shape), round_to_bfloat16(tensor).astype("<u2").tobytes()
    return "F32", list(tensor.shape), tensor.astype("<f4").tobytes()


def _split(tensors: Mapping[str, Encoded], shards: int) -> list[dict[str, Encoded]]:
    """`shards` groups of about equal bytes, in order; none is empty."""
    groups: list[dict[str, Encoded]] = [{} for _ in range(min(shards, len(tensors)))]
    total = sum(len(data) for _, _, data in tensors.values())
    start, index = 0, 0
    for position, (name, value) in enumerate(tensors.items()):
        due = start * len(groups) >= total * (index + 1)
        must = len(tensors) - position == len(groups) - index - 1
        if groups[index] and index + 1 < len(groups) and (due or must):
            index += 1
        groups[index][name] = value
        start += len(value[2])
    return groups
