"""What a model needs from an executor: about twenty operations over opaque tensors.

A model is written once over `Ops`. `PaddleOps` is the portable implementation; a native one can
make each operation a single kernel, which is why norms take the residual, `linear` takes its
activation, a mixture of experts is one call, and the query, key and value projection ends in the
KV cache. Weights are objects that the executor makes for itself (`parameter`, `moe_weights`), in
whatever layout and number format suits it; shapes given for them here are those of the mathematics,
[in, out]. Nothing here names a device or a framework.

Sizes below: T token rows, H hidden, nq / nkv query / KV heads, d head size, V vocabulary. "Model
dtype" is float32 on a CPU and bfloat16 elsewhere; norms, rope, softmax and routing are computed in
float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from backend.batch import Batch
from backend.ops.arrays import FloatArray, IntArray, NumpyArray
from backend.ops.rope import RopeSpec

Tensor = Any
"""A tensor of the executor; models pass it on and never look inside."""

KvCache = Any
"""Keys and values of all layers, paged, in the executor's number format; made by
`allocate_kv_cache`, changed by `project_qkv`. It has the int `num_bytes`, the memory that it takes
with all that belongs to its format."""

Weight = Any
"""A weight of the checkpoint in the executor's own form, number format included; made by
`parameter` or a store. Whoever holds one gives it back to an operation and never looks inside."""

Step = Any
"""A Batch made ready for the executor once per forward pass; made by `begin_step`. It has the ints
`num_tokens` and `num_logit_rows`."""

VisionStep = Any
"""Angles and segments of one vision pass, made ready by `begin_vision`."""

Activation = Literal["gelu", "quick_gelu"]

ParameterKind = Literal[
    "vector",
    "embedding",
    "head",
    "linear",
    "qkv",
    "gate_up",
    "router",
    "experts_gate_up",
    "experts_down",
]
"""What a checkpoint's tensor is; backend.models.parameters says how each is stored."""

Region = tuple[int | slice, ...]
"""An index into a canonical array."""


class WeightStore(Protocol):
    """Takes a checkpoint's tensors piece by piece, as the files hold them.

    One tensor after another, in the order of their specs: all pieces of one are placed before the
    next begins, so that it can become a weight at once and its room be used again.
    """

    def begin(
        self, name: str, shape: tuple[int, ...], kind: ParameterKind, keep_float32: bool
    ) -> None:
        """Make room for a canonical tensor."""

    def place(self, name: str, values: NumpyArray, target: Region, is_transposed: bool) -> None:
        """canonical[target] = values, or their transpose. bfloat16 comes as uint16 bits; `values`
        is not kept after the call."""

    def finish(self) -> dict[str, Weight]:
        """All weights by canonical name; nothing more is placed."""


@dataclass(frozen=True)
class AttentionShape:
    """Heads of one decoder layer. Query head h reads KV head h // (num_heads / num_kv_heads)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class ExpertGroup:
    """Experts of one modality: router float32 [H, E], correction_bias float32 [1, E], up_gate
    [E, H, 2 m] (gate first), down [E, m, H]."""

    router: Weight
    correction_bias: Weight
    up_gate: Weight
    down: Weight


@dataclass(frozen=True)
class SharedExperts:
    """Experts that see every row, as one SwiGLU: up_gate [H, 2 · shared width], down [.., H]."""

    up_gate: Weight
    down: Weight


MoeWeights = Any
"""All experts of a layer; made by `moe_weights`."""


class Ops(Protocol):
    """The operations. Inputs are never changed, except the KV cache by `project_qkv`."""

    dtype_bytes: int
    """Of a value of the model dtype."""

    def from_numpy(self, array: NumpyArray, keep_float32: bool = False) -> Tensor:
        """Copy to the device. Floats become the model dtype unless `keep_float32`."""

    def to_numpy(self, tensor: Tensor) -> NumpyArray:
        """Copy to the host; floats arrive as float32."""

    def parameter(self, array: FloatArray, kind: ParameterKind, keep_float32: bool) -> Weight:
        """A float32 array of the checkpoint's canonical shape as a weight of that kind."""

    def weight_store(self, shapes: Mapping[str, tuple[int, ...]]) -> WeightStore | None:
        """Where a loader puts values as files hold them; None: it gives arrays to `parameter`.

        `shapes`: canonical names and shapes of all tensors that will come.
        """

    def slice_rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """x[start:stop] of the first axis."""

    def concat_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts end to end along the first axis."""

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of two tensors of one shape."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x²) + eps) in float32, back to x's dtype, then · weight. [T, H]."""

    def add_rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual); without a residual the sum is x."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Layer norm over the last axis, in float32, back to x's dtype."""

    def linear(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        """activation(x @ weight + bias): [T, in], [in, out], [out] → [T, out].

        gelu is the exact one (erf); quick_gelu(t) = t · sigmoid(1.702 t).
        """

    def linear_swiglu(self, x: Tensor, weight: Weight) -> Tensor:
        """silu(x @ weight[:, :m]) · (x @ weight[:, m:]): [T, H], [H, 2 m] → [T, m]."""

    def moe_weights(
        self, groups: Sequence[ExpertGroup], shared: SharedExperts | None
    ) -> MoeWeights:
        """Join a layer's experts: one group for text, then one for vision rows if there is one."""

    def moe(
        self, x: Tensor, weights: MoeWeights, top_k: int, norm_min: float, step: Step
    ) -> Tensor:
        """Mixture of SwiGLU experts over all rows: [T, H] → [T, H].

        The step tells text rows from vision rows, which have their own group. p = softmax(x @
        router) in float32; the top_k experts by p + correction_bias (the lower index wins a tie)
        are summed with weights p, divided by max(sum of the chosen p, norm_min). The correction
        bias takes part in the choice only. Shared experts are added with weight 1.
        """

    def allocate_kv_cache(
        self, shape: AttentionShape, num_layers: int, num_blocks: int, block_size: int
    ) -> KvCache:
        """Zeroed keys and values of every layer, num_blocks · block_size tokens each."""

    def begin_step(self, batch: Batch, rope: RopeSpec, cache: KvCache) -> Step:
        """Upload what every layer of a pass shares: token ids, rope angles, slots, block tables."""

    def embed_tokens(self, table: Weight, step: Step) -> Tensor:
        """Rows of table [V, H] for the step's token ids; its media rows are its media embeddings:
        [T, H]."""

    def logit_rows(self, x: Tensor, residual: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Both cut to the step's R rows whose logits are wanted; R is at least 1."""

    def project_qkv(
        self, x: Tensor, weight: Weight, step: Step, cache: KvCache, layer: int
    ) -> Tensor:
        """x @ weight, turn q and k by the step's angles, write k and v to the batch's slots.

        x [T, H], weight [H, (nq + 2 nkv) d] with columns all q, all k, all v → q [T, nq, d].
        """

    def paged_attention(self, q: Tensor, step: Step, cache: KvCache, layer: int) -> Tensor:
        """Causal grouped-query attention over each sequence's blocks: [T, nq, d] → [T, nq · d].

        The last query of sequence s sees context_lens[s] keys, each earlier one a key less. Scores
        are scaled by d^-0.5; softmax is float32. Decode and prefill rows mix freely.
        """

    def logits(self, x: Tensor, head: Weight, transposed: bool) -> Tensor:
        """x @ head, or x @ head.T when `transposed` (a tied embedding [V, H]); float32 [R, V]."""

    def normalize_patches(self, patches: NumpyArray, mean: FloatArray, std: FloatArray) -> Tensor:
        """(uint8 patches / 255 - mean) / std in float32, then the model dtype: [N, values].

        mean and std are per value, float32 [values].
        """

    def begin_vision(self, angles: FloatArray, segments: Sequence[int]) -> VisionStep:
        """Upload what every vision block shares: angles [N, d / 2] and segment lengths (sum N)."""

    def vision_attention(self, qkv: Tensor, num_heads: int, step: VisionStep) -> Tensor:
        """Full attention inside each segment, half-rotation rope: [N, 3 heads d] → [N, heads d].

        Columns of qkv are [q, k, v][head][d]; scores are scaled by d^-0.5.
        """

    def pair_rows(self, x: Tensor, first: IntArray, second: IntArray) -> Tensor:
        """concat(x[first], x[second]) along columns: [N, W] → [M, 2 W]."""

    def group_rows(self, x: Tensor, size: int) -> Tensor:
        """Lay `size` consecutive rows end to end: [N, W] → [N / size, size · W]."""
