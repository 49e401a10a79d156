"""Executors: the operations a model is written in, and what runs them."""

from __future__ import annotations

import warnings

from backend.errors import ConfigError
from backend.ops.interface import (
    AttentionShape,
    ExpertGroup,
    KvCache,
    Ops,
    SharedExperts,
    Step,
    Tensor,
)
from backend.ops.rope import RopeSpec

__all__ = [
    "AttentionShape",
    "ExpertGroup",
    "KvCache",
    "Ops",
    "RopeSpec",
    "SharedExperts",
    "Step",
    "Tensor",
    "create_ops",
]

EXECUTORS = ("paddle", "cuda")


def create_ops(executor: str, device: str, threads: int) -> Ops:
    """The executor named `executor` on `device` ("cpu", "gpu:0", "xpu:0").

    `threads` bounds a CPU's compute threads, or with `cuda` those that copy weights while they are
    loaded; 0 leaves the choice to the executor. Raises ConfigError for an executor or a device that
    this installation does not have.
    """
    if threads < 0:
        raise ConfigError(f"threads is {threads}; expected 0 (automatic) or more")
    if executor == "paddle":
        return _create_paddle_ops(device, threads)
    if executor == "cuda":
        from backend.ops.cuda_ops import CudaOps

        return CudaOps(device, threads)
    raise ConfigError(f"executor is {executor!r}; expected one of {', '.join(EXECUTORS)}")


def _create_paddle_ops(device: str, threads: int) -> Ops:
    if device == "cpu":
        # Must come before Paddle's first use: its BLAS and the allocator decide once.
        from backend.ops.cpu_process import tune_cpu_process

        tune_cpu_process()
    try:
        with warnings.catch_warnings():
            # Paddle looks for a compiler cache at import; nothing is compiled here.
            warnings.filterwarnings("ignore", message="No ccache found")
            from backend.ops.paddle_ops import PaddleOps
    except ImportError:
        raise ConfigError(
            f"executor paddle needs a PaddlePaddle wheel for device {device}, and none is installed"
        ) from None
    return PaddleOps(device, threads)
