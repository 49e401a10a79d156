"""The portable executor: `Ops` with PaddlePaddle tensors on any device that Paddle drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F

from backend.batch import Batch
from backend.errors import ConfigError
from backend.ops import paddle_attention, paddle_moe, paddle_step, paddle_vision
from backend.ops.arrays import FloatArray, IntArray, NumpyArray
from backend.ops.interface import (
    Activation,
    AttentionShape,
    ExpertGroup,
    ParameterKind,
    SharedExperts,
    Tensor,
)
from backend.ops.paddle_cache import PaddleKvCache
from backend.ops.paddle_moe import PaddleMoeWeights
from backend.ops.rope import RopeSpec


class PaddleOps:
    """See `Ops` for what each operation computes.

    `device` is Paddle's own name: "cpu", "gpu:0", "xpu:0". The model dtype is float32 on a CPU,
    whose Paddle build has no bfloat16 products, and bfloat16 elsewhere. Raises ConfigError when
    this Paddle has no such device.
    """

    def __init__(self, device: str, threads: int = 0) -> None:
        try:
            paddle.set_device(device)
        except (ValueError, RuntimeError, OSError):
            raise ConfigError(
                f"device {device!r} is not available: the installed PaddlePaddle "
                f"{paddle.__version__} is built for {_built_for()} (an NVIDIA GPU needs the wheel "
                "paddlepaddle-gpu, a Kunlunxin card paddlepaddle-xpu)"
            ) from None
        if threads and device == "cpu":
            paddle.base.core.set_num_threads(threads)
        self.device = device
        self.dtype, self.dtype_bytes = ("float32", 4) if device == "cpu" else ("bfloat16", 2)

    def from_numpy(self, array: NumpyArray, keep_float32: bool = False) -> Tensor:
        tensor = paddle.to_tensor(np.ascontiguousarray(array))
        if np.issubdtype(array.dtype, np.floating) and not keep_float32:
            return tensor.astype(self.dtype)
        return tensor

    def parameter(self, array: FloatArray, kind: ParameterKind, keep_float32: bool) -> Tensor:
        return self.from_numpy(array, keep_float32)

    def weight_store(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        return None

    def to_numpy(self, tensor: Tensor) -> NumpyArray:
        if tensor.is_floating_point():
            tensor = tensor.astype("float32")
        array: NumpyArray = tensor.numpy()
        return array

    def slice_rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[start:stop]

    def concat_rows(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else paddle.concat(list(parts))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.astype("float32")
        scale = paddle.rsqrt((wide * wide).mean(axis=-1, keepdim=True) + eps)
        return (wide * scale).astype(x.dtype) * weight

    def add_rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = x if residual is None else x + residual
        return self.rms_norm(total, weight, eps), total

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        y = F.linear(x, weight, bias)
        if activation == "gelu":
            return F.gelu(y)
        if activation == "quick_gelu":
            return y * F.sigmoid(y * 1.702)
        return y

    def linear_swiglu(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.swiglu(paddle.matmul(x, weight))

    def moe_weights(
        self, groups: Sequence[ExpertGroup], shared: SharedExperts | None
    ) -> PaddleMoeWeights:
        return PaddleMoeWeights(tuple(groups), shared)

    def moe(
        self,
        x: Tensor,
        weights: PaddleMoeWeights,
        top_k: int,
        norm_min: float,
        step: paddle_step.PaddleStep,
    ) -> Tensor:
        routed = paddle_moe.moe(x, weights, top_k, norm_min, step.split)
        if weights.shared is None:
            return routed
        return routed + self.linear(
            self.linear_swiglu(x, weights.shared.up_gate), weights.shared.down
        )

    def allocate_kv_cache(
        self, shape: AttentionShape, num_layers: int, num_blocks: int, block_size: int
    ) -> PaddleKvCache:
        return PaddleKvCache.allocate(shape, num_layers, num_blocks, block_size, self.dtype)

    def begin_step(
        self, batch: Batch, rope: RopeSpec, cache: PaddleKvCache
    ) -> paddle_step.PaddleStep:
        return paddle_step.begin_step(batch, rope, cache)

    def embed_tokens(self, table: Tensor, step: paddle_step.PaddleStep) -> Tensor:
        x = F.embedding(step.token_ids, table)
        if step.media is None:
            return x
        rows, embeddings = step.media
        return paddle.scatter(x, rows, embeddings.astype(x.dtype))

    def logit_rows(
        self, x: Tensor, residual: Tensor, step: paddle_step.PaddleStep
    ) -> tuple[Tensor, Tensor]:
        return paddle.gather(x, step.logit_rows), paddle.gather(residual, step.logit_rows)

    def project_qkv(
        self,
        x: Tensor,
        weight: Tensor,
        step: paddle_step.PaddleStep,
        cache: PaddleKvCache,
        layer: int,
    ) -> Tensor:
        return paddle_attention.project_qkv(x, weight, step, cache, layer)

    def paged_attention(
        self, q: Tensor, step: paddle_step.PaddleStep, cache: PaddleKvCache, layer: int
    ) -> Tensor:
        return paddle_attention.paged_attention(q, step, cache, layer)

    def logits(self, x: Tensor, head: Tensor, transposed: bool) -> Tensor:
        return paddle.matmul(x, head, transpose_y=transposed).astype("float32")

    def normalize_patches(self, patches: NumpyArray, mean: FloatArray, std: FloatArray) -> Tensor:
        raw = paddle.to_tensor(patches).astype("float32")
        scaled = (raw / 255.0 - paddle.to_tensor(mean)) / paddle.to_tensor(std)
        return scaled.astype(self.dtype)

    def begin_vision(
        self, angles: FloatArray, segments: Sequence[int]
    ) -> paddle_vision.PaddleVisionStep:
        return paddle_vision.begin_vision(angles, segments)

    def vision_attention(
        self, qkv: Tensor, num_heads: int, step: paddle_vision.PaddleVisionStep
    ) -> Tensor:
        return paddle_vision.vision_attention(qkv, num_heads, step)

    def pair_rows(self, x: Tensor, first: IntArray, second: IntArray) -> Tensor:
        halves = [paddle.gather(x, paddle.to_tensor(rows)) for rows in (first, second)]
        return paddle.concat(halves, axis=1)

    def group_rows(self, x: Tensor, size: int) -> Tensor:
        return x.reshape([-1, size * x.shape[1]])


def _built_for() -> str:
    devices = ["cpu"]
    if paddle.device.is_compiled_with_cuda():
        devices.append("gpu")
    if paddle.device.is_compiled_with_xpu():
        devices.append("xpu")
    return ", ".join(devices)
