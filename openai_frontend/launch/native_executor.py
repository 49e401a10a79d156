"""What `--executor cuda` means for the other settings, and what it needs of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import ConfigError

_ONE_GPU = "runs on one GPU; several are not supported yet, so start one server per GPU"
UNSERVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "--quantization": ((), "computes with bfloat16 weights, no other format is supported yet"),
    "--kv-cache-dtype": (
        ("auto", "bfloat16"),
        "keeps keys and values in bfloat16, no other format is supported yet",
    ),
    "--tensor-parallel-size": ((1,), _ONE_GPU),
    "--data-parallel-size": ((1,), _ONE_GPU),
    "--enable-expert-parallel": ((False,), _ONE_GPU),
    "--kv-cache-gib": ((), "takes what --gpu-memory-utilization leaves; give that one"),
}
"""Flag → values that ask for nothing else than what happens, and why others are refused."""

DEFAULTS = {"device": "gpu:0", "block_size": 64}
BLOCK_MULTIPLE = 16
_ASK = "import sys, kernels; print(kernels.unavailable_reason(int(sys.argv[1])) or '')"
_ASK_TIMEOUT_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]


def refuse_unserved(given: Mapping[str, Any]) -> None:
    """`given`: values of the command line by flag, `tensor_parallel_size`. Raises ConfigError for
    one that executor `cuda` would have to leave undone."""
    for flag, (harmless, reason) in UNSERVED.items():
        value = given.get(flag.lstrip("-").replace("-", "_"))
        if value is not None and value not in harmless:
            shown = "" if value is True else f" {value}"
            raise ConfigError(f"{flag}{shown}: --executor cuda {reason}")


def with_native_defaults(serving: dict[str, Any]) -> dict[str, Any]:
    """Settings for the Triton models, where executor `cuda` has defaults of its own.

    Raises ConfigError for a device or a block size that it has no use for.
    """
    if serving.get("executor") != "cuda":
        return serving
    serving = {**DEFAULTS, **serving}
    if not re.fullmatch(r"gpu(:\d+)?", str(serving["device"])):
        raise ConfigError(
            f"--device {serving['device']}: --executor cuda runs on an NVIDIA GPU; give gpu:N or "
            "leave it out"
        )
    block_size = serving["block_size"]
    # Of another type it came from ERNIE_SERVING, and whoever reads that checks it.
    if isinstance(block_size, int) and block_size % BLOCK_MULTIPLE:
        raise ConfigError(
            f"--block-size {block_size}: --executor cuda needs a multiple of {BLOCK_MULTIPLE}"
        )
    return serving


def check_native_executor(serving: dict[str, Any]) -> None:
    """Raises ConfigError that says what is missing for executor `cuda`, if that is asked for."""
    if serving.get("executor") != "cuda":
        return
    _, _, index = str(serving.get("device", "")).partition(":")
    reason = missing_for_kernels(int(index or 0))
    if reason:
        raise ConfigError(f"--executor cuda: {reason}")


def missing_for_kernels(device: int = 0) -> str:
    """What the package `kernels` lacks here to run on `device`; empty when it can.

    Asked in a process of its own: the launcher has no business with drivers.
    """
    try:
        asked = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _ASK, str(device)],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the driver of device {device} did not answer within {_ASK_TIMEOUT_S:g} s"
    return asked.stdout.strip() if asked.returncode == 0 else "the kernels cannot be asked"
