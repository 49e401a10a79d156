"""The header of a safetensors file, trusted in nothing.

A file is 8 bytes of header length N (little endian), N bytes of JSON, then the data. Each entry of
the JSON is a tensor: dtype, shape, and [begin, end) counted from the start of the data. Tensors
must tile the data exactly: no overlap, no hole, nothing beyond the end.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from backend.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 8
LENGTH_BYTES = 8
_METADATA = "__metadata__"
_SHOWN_CHARACTERS = 120

ITEM_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one value of each dtype of the format; which of them can be loaded is decided later."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file; `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


def header_length(prefix: bytes, file_bytes: int, where: str) -> int:
    """N, from the first 8 bytes of a file of `file_bytes`. Raises CheckpointError."""
    if len(prefix) < LENGTH_BYTES:
        raise CheckpointError(
            f"{where}: {file_bytes} bytes is too short for a safetensors file; is it truncated?"
        )
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{where}: header length {length} exceeds {MAX_HEADER_BYTES} bytes; "
            "this is no safetensors file or it is damaged"
        )
    if LENGTH_BYTES + length > file_bytes:
        raise CheckpointError(
            f"{where}: header length {length} exceeds the file's {file_bytes} bytes; "
            "is it truncated?"
        )
    return length


def parse_header(header: bytes, file_bytes: int, where: str) -> dict[str, TensorEntry]:
    """Entries by name, in the order of their data.

    `header` is the JSON, `file_bytes` the size of the whole file. Raises CheckpointError naming
    the file (`where`), the tensor, what was expected and what was found.
    """
    data_start = LENGTH_BYTES + len(header)
    raw = _parse_json(header, where)
    metadata = raw.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{where}: {_METADATA} is {shown(metadata)}; expected an object")
    entries = [_entry(name, value, data_start, where) for name, value in raw.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_tiling(entries, data_start, file_bytes, where)
    return {entry.name: entry for entry in entries}


def _parse_json(header: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            raise CheckpointError(
                f"{where}: {shown(counts.most_common(1)[0][0])} is in the header twice"
            )
        return values

    try:
        raw = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{where}: the header is not valid JSON; this is no safetensors file or it is damaged"
        ) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where}: the header is {shown(raw)}; expected an object")
    return raw


def _entry(name: str, value: Any, data_start: int, where: str) -> TensorEntry:
    what = f"{where}: tensor {shown(name)}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise CheckpointError(
            f"{what}: header entry is {shown(value)}; expected dtype, shape, data_offsets"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise CheckpointError(f"{what}: dtype is {shown(dtype)}; expected one of the format's")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{what}: shape is {shown(shape)}; expected at most {MAX_DIMENSIONS} sizes"
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{what}: data_offsets is {shown(offsets)}; expected [begin, end], 0 ≤ begin ≤ end"
        )
    begin, end = offsets
    bits = math.prod(shape) * ITEM_BITS[dtype]
    if (end - begin) * 8 != bits:
        raise CheckpointError(
            f"{what}: {shown(shape)} of {dtype} needs {shown(bits // 8)} bytes; "
            f"data_offsets give {shown(end - begin)}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(item) is int and item >= 0 for item in values)


def _check_tiling(entries: list[TensorEntry], data_start: int, file_bytes: int, where: str) -> None:
    """Every byte of data belongs to one tensor; `entries` are sorted by offset."""
    position = data_start
    previous = None
    for entry in entries:
        what = f"{where}: tensor {shown(entry.name)}"
        if entry.end > file_bytes:
            raise CheckpointError(
                f"{what} ends at byte {shown(entry.end)}; the file has {file_bytes}; "
                "is it truncated?"
            )
        if entry.begin < position and previous is not None:
            raise CheckpointError(
                f"{what} begins at byte {entry.begin}, inside tensor {shown(previous.name)}, "
                f"which ends at {previous.end}"
            )
        if entry.begin > position:
            raise CheckpointError(
                f"{what} begins at byte {entry.begin}; "
                f"bytes {position} to {entry.begin} belong to no tensor"
            )
        position, previous = entry.end, entry
    if position != file_bytes:
        raise CheckpointError(
            f"{where}: tensors end at byte {position}; the file has {file_bytes} bytes"
        )


def shown(value: Any) -> str:
    """A value from a file, short and printable enough for a message."""
    try:
        text = value if isinstance(value, str) and value.isprintable() else repr(value)
    except ValueError:
        return "a number of too many digits"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
