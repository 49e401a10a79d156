"""The native executor: `Ops` over `kernels`, with no framework in the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import kernels
from backend.batch import Batch
from backend.errors import ConfigError
from backend.ops import cuda_attention, cuda_moe, cuda_step
from backend.ops.arrays import FloatArray, IntArray, NumpyArray
from backend.ops.cuda_attention import CudaKvCache
from backend.ops.cuda_linear import CudaLinear
from backend.ops.cuda_moe import CudaMoeWeights, SlotSums
from backend.ops.cuda_step import CudaRope, CudaStep
from backend.ops.cuda_weights import CudaWeightStore, device_weight, turned
from backend.ops.interface import (
    Activation,
    AttentionShape,
    ExpertGroup,
    ParameterKind,
    SharedExperts,
    Tensor,
    Weight,
)
from backend.ops.rope import RopeSpec


@dataclass(frozen=True)
class CudaVisionStep:
    """cos, sin float32 [N, d / 2]; segment_starts int32 [F + 1]; the longest segment's length."""

    cos: Tensor
    sin: Tensor
    segment_starts: Tensor
    max_len: int


class CudaOps:
    """See `Ops` for what each operation computes; the model dtype is bfloat16.

    `device` is "gpu:N". `threads` copy weights from files; 0: a few. Raises ConfigError that says
    what is missing: the built kernels, a driver, such a GPU, or one new enough.

    Keys and values are kept as `kv_dtype`, one of the kernels' dtypes.
    """

    dtype = "bfloat16"
    dtype_bytes = 2

    def __init__(self, device: str, threads: int = 0) -> None:
        kind, _, index = device.partition(":")
        if kind != "gpu" or not (index or "0").isdecimal():
            raise ConfigError(f"executor cuda runs on gpu:N; --device is {device!r}")
        missing = kernels.unavailable_reason(int(index or 0))
        if missing is not None:
            raise ConfigError(f"executor cuda: {missing}")
        try:
            self.context = kernels.Context(int(index or 0))
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"executor cuda: {device}: {error}") from None
        self.device = device
        self.threads = threads
        self.kv_dtype = kernels.bf16
        self._ropes: dict[RopeSpec, CudaRope] = {}

    def from_numpy(self, array: NumpyArray, keep_float32: bool = False) -> Tensor:
        if np.issubdtype(array.dtype, np.floating):
            values = np.ascontiguousarray(array, dtype=np.float32)
            return self.context.upload(values, kernels.f32 if keep_float32 else kernels.bf16)
        return self.context.upload(np.ascontiguousarray(array))

    def to_numpy(self, tensor: Tensor) -> NumpyArray:
        array: NumpyArray = self._plain(tensor).numpy()
        return array

    def parameter(self, array: FloatArray, kind: ParameterKind, keep_float32: bool) -> Weight:
        return device_weight(self.from_numpy(turned(array, kind), keep_float32), kind)

    def weight_store(self, shapes: Mapping[str, tuple[int, ...]]) -> CudaWeightStore:
        return CudaWeightStore(kernels, self.context, shapes, self.threads)

    def slice_rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x.slice(start, stop)

    def concat_rows(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else kernels.concat_rows(list(parts))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return kernels.add(a, b)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return kernels.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor | SlotSums, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        pair: tuple[Tensor, Tensor]
        if isinstance(x, SlotSums):
            pair = kernels.moe_combine_add_rms_norm(x.y, x.weights, residual, weight, eps)
        else:
            pair = kernels.add_rms_norm(x, residual, weight, eps)
        return pair

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return kernels.layer_norm(x, weight, bias, eps)

    def linear(
        self,
        x: Tensor,
        weight: CudaLinear,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        return weight.product(kernels, x, bias, activation)

    def linear_swiglu(self, x: Tensor, weight: CudaLinear) -> Tensor:
        return weight.swiglu_product(kernels, x)

    def moe_weights(
        self, groups: Sequence[ExpertGroup], shared: SharedExperts | None
    ) -> CudaMoeWeights:
        return cuda_moe.moe_weights(kernels, self.context, groups, shared)

    def moe(
        self, x: Tensor, weights: CudaMoeWeights, top_k: int, norm_min: float, step: CudaStep
    ) -> SlotSums:
        return cuda_moe.moe(kernels, self.context, x, weights, top_k, norm_min, step.is_vision)

    def allocate_kv_cache(
        self, shape: AttentionShape, num_layers: int, num_blocks: int, block_size: int
    ) -> CudaKvCache:
        return CudaKvCache.allocate(
            self.context, shape, num_layers, num_blocks, block_size, self.kv_dtype
        )

    def rope(self, spec: RopeSpec) -> CudaRope:
        """Uploaded once per spec."""
        if spec not in self._ropes:
            self._ropes[spec] = CudaRope.upload(self.context, spec)
        return self._ropes[spec]

    def begin_step(self, batch: Batch, rope: RopeSpec, cache: CudaKvCache) -> CudaStep:
        return cuda_step.begin_step(self.context, batch, self.rope(rope))

    def embed_tokens(self, table: Tensor, step: CudaStep) -> Tensor:
        x = kernels.embedding(table, step.token_ids, step.latest)
        return x if step.media is None else kernels.replace_rows(x, *step.media)

    def logit_rows(
        self, x: Tensor | SlotSums, residual: Tensor, step: CudaStep
    ) -> tuple[Tensor | SlotSums, Tensor]:
        if step.logit_rows is None:
            return x, residual
        rows = step.logit_rows
        return cuda_moe.gather_rows(kernels, x, rows), kernels.gather_rows(residual, rows)

    def project_qkv(
        self, x: Tensor, weight: CudaLinear, step: CudaStep, cache: CudaKvCache, layer: int
    ) -> Tensor:
        return cuda_attention.project_qkv(kernels, x, weight, step, cache, layer)

    def paged_attention(self, q: Tensor, step: CudaStep, cache: CudaKvCache, layer: int) -> Tensor:
        return cuda_attention.paged_attention(kernels, q, step, cache, layer)

    def logits(self, x: Tensor, head: Tensor, transposed: bool) -> Tensor:
        # A tied embedding [V, H] and a head of its own have the same order here.
        return kernels.gemm_f32out(x, head)

    def normalize_patches(self, patches: NumpyArray, mean: FloatArray, std: FloatArray) -> Tensor:
        upload = self.context.upload
        return kernels.normalize_patches(upload(patches), upload(mean), upload(std))

    def begin_vision(self, angles: FloatArray, segments: Sequence[int]) -> CudaVisionStep:
        starts = np.concatenate([[0], np.cumsum(segments)]).astype(np.int32)
        upload = self.context.upload
        return CudaVisionStep(
            upload(np.cos(angles)), upload(np.sin(angles)), upload(starts), max(segments)
        )

    def vision_attention(self, qkv: Tensor, num_heads: int, step: CudaVisionStep) -> Tensor:
        return kernels.vision_attention(
            qkv, step.cos, step.sin, step.segment_starts, step.max_len, num_heads
        )

    def pair_rows(self, x: Tensor, first: IntArray, second: IntArray) -> Tensor:
        return kernels.pair_rows(x, self.context.upload(first), self.context.upload(second))

    def group_rows(self, x: Tensor, size: int) -> Tensor:
        return x.view((-1, size * x.shape[1]))

    def _plain(self, x: Tensor | SlotSums) -> Tensor:
        return kernels.moe_combine(x.y, x.weights) if isinstance(x, SlotSums) else x
