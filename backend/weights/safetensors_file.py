"""One safetensors file, mapped into memory: its tensors are read-only views, nothing is copied."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import CheckpointError
from backend.weights.header import LENGTH_BYTES, TensorEntry, header_length, parse_header

DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: the bits
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
"""Dtypes of weights that can be loaded, and the numpy dtype of their views."""


class SafetensorsFile:
    """A checked file; `entries` are its tensors by name.

    Raises CheckpointError naming the file for anything that is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                file_bytes = file.seek(0, 2)
                file.seek(0)
                length = header_length(file.read(LENGTH_BYTES), file_bytes, str(path))
                header = file.read(length)
                if len(header) < length:
                    raise CheckpointError(f"{path}: the header could not be read to its end")
                self.entries = parse_header(header, file_bytes, str(path))
                self._data = mmap.mmap(file.fileno(), file_bytes, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it changed meanwhile"
            raise CheckpointError(f"{path} cannot be read: {reason}") from None

    def view(self, entry: TensorEntry) -> np.ndarray[Any, Any]:
        """The tensor's values as stored; bfloat16 as uint16 bits.

        Raises CheckpointError for a dtype that is not loaded.
        """
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: tensor {entry.name} has dtype {entry.dtype}; "
                f"expected one of {', '.join(DTYPES)}"
            )
        count = math.prod(entry.shape)
        flat = np.frombuffer(self._data, dtype, count, entry.begin)
        return flat.reshape(entry.shape)

    def close(self) -> None:
        """Unmap the file; if views are still held, that happens when the last of them goes."""
        with suppress(BufferError):
            self._data.close()
