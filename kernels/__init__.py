"""CUDA kernels behind a small device tensor; framework-free, DLPack both ways.

Importable everywhere: `unavailable_reason()` says why nothing can run here, or None. Everything
else comes from the extension module `kernels._kernels` (scripts/build_kernels.sh), whose docstrings
give shapes and dtypes:

    ctx = kernels.Context()
    x = ctx.upload(numpy_array, kernels.bf16)
    y = kernels.rms_norm(x, weight, 1e-5)
    y.numpy()

Work is queued on the context's own stream and runs in order; nothing but `numpy()` and
`synchronize()` waits. Use a context from one thread at a time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import types
from pathlib import Path
from typing import Any

_extension: types.ModuleType | None
_import_error: str | None
try:
    from kernels import _kernels as _extension

    _import_error = None
except ImportError as error:
    _extension = None
    _import_error = str(error)

MIN_CAPABILITY = (8, 0)
"""Compute capability of the oldest devices the kernels run on."""
MIN_SHARED_BYTES = 163 * 1024
"""Of a block. Decode attention and the streamed products take more than the 99 KiB of 8.6, 8.9 and
12.0."""


def unavailable_reason(device: int = 0) -> str | None:
    """What is missing to run kernels on `device` in this process; None when nothing is."""
    if _extension is None:
        if importlib.util.find_spec("kernels._kernels") is not None:
            return f"the CUDA extension cannot be loaded: {_import_error}"
        reason = "the CUDA extension is not built; run scripts/build_kernels.sh"
        return reason if _has_driver() else f"{reason}; {_NO_DRIVER}"
    try:
        count = _extension.device_count()
    except _extension.CudaError as error:
        return f"no usable NVIDIA driver or device: {error}" if _has_driver() else _NO_DRIVER
    if count == 0:
        return "no CUDA device is visible"
    if not 0 <= device < count:
        return f"there is no CUDA device gpu:{device}; {count} visible, counted from 0"
    capability = _extension.device_capability(device)
    if capability < MIN_CAPABILITY:
        return (
            f"device {device} has compute capability {capability[0]}.{capability[1]}; "
            f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or newer is needed"
        )
    shared_bytes = _extension.device_shared_bytes(device)
    if shared_bytes < MIN_SHARED_BYTES:
        return (
            f"device {device} (compute capability {capability[0]}.{capability[1]}) has "
            f"{shared_bytes} bytes of shared memory for a block; {MIN_SHARED_BYTES} are needed"
        )
    return None


_NO_DRIVER = "no NVIDIA driver is installed (libcuda.so.1)"


def _has_driver() -> bool:
    """The runtime calls an absent driver "insufficient for the runtime version"."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def library_folders() -> list[str]:
    """Folders of NVIDIA's own Python packages that may hold cuBLASLt."""
    spec = importlib.util.find_spec("nvidia")
    parts = ("cu13/lib", "cublas/lib")
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    return [
        str(Path(root) / part) for root in roots for part in parts if (Path(root) / part).is_dir()
    ]


if _extension is not None:

    class Context(_extension.Context):  # type: ignore[misc,name-defined]
        """One device, one stream, one memory pool; knows where optional libraries may lie."""

        def __init__(self, device: int = 0) -> None:
            super().__init__(device, library_folders())


def __getattr__(name: str) -> Any:
    if _extension is not None and hasattr(_extension, name):
        return getattr(_extension, name)
    if _extension is None and not name.startswith("_"):
        raise AttributeError(f"kernels.{name}: {unavailable_reason()}")
    raise AttributeError(f"module 'kernels' has no attribute {name!r}")
