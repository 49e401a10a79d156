"""The tensors of each model: canonical names, shapes and how checkpoints store them.

Canonical names are those of the Paddle layout without the `ernie.` prefix, except that the experts
of one modality are stacked: `layers.3.mlp.experts.text.up_gate_proj`. Every matrix is [in, out]
(y = x @ W). `up_gate_proj` holds gate first, up second, despite its name. MTP tensors are not
parameters of these models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.config.model import ModelConfig, MoeConfig, VisionConfig
from backend.errors import CheckpointError
from backend.layers.moe import EXPERT_GROUPS
from backend.ops.interface import ParameterKind


@dataclass(frozen=True)
class ParameterSpec:
    """One canonical tensor.

    `kind` says how the two checkpoint layouts store it (Paddle / HF):

    - vector: norm weights, biases, correction bias; the same in both
    - embedding [V, H]: the same in both
    - linear [in, out]: as is / transposed
    - head [H, V]: as linear
    - qkv [H, (nq + 2 nkv) d]: fused, columns all q, all k, all v / three transposed matrices
    - gate_up [H, 2 I]: fused, gate then up / two transposed matrices
    - router [H, E]: as is / transposed for text models, as is for VL models
    - experts_gate_up [E, H, 2 m], experts_down [E, m, H]: one gate_up or linear per expert

    `keep_float32` marks the tensors that stay float32 whatever the model's dtype is.
    """

    name: str
    shape: tuple[int, ...]
    kind: ParameterKind
    keep_float32: bool = False


def parameter_specs(config: ModelConfig) -> dict[str, ParameterSpec]:
    """Canonical name → spec, in the order of the forward pass.

    Raises CheckpointError for what a config.json may ask for and no model here computes.
    """
    _check_supported(config)
    specs: dict[str, ParameterSpec] = {}
    for spec in _all_specs(config):
        specs[spec.name] = spec
    return specs


def _check_supported(config: ModelConfig) -> None:
    if config.use_bias:
        raise CheckpointError(
            "config.json: use_bias is true; only models without biases on the decoder's linear "
            "layers are served (all released ERNIE-4.5 models are)"
        )
    moe, vision = config.moe, config.vision
    if moe is not None:
        if len(set(moe.num_experts)) > 1:
            raise CheckpointError(
                f"config.json: moe_num_experts is {list(moe.num_experts)}; "
                "the expert groups must be of one size"
            )
        if not 0 < moe.top_k <= min(moe.num_experts):
            raise CheckpointError(
                f"config.json: moe_k is {moe.top_k}; expected 1 to {min(moe.num_experts)} "
                "(moe_num_experts)"
            )
    if vision is not None and vision.temporal_merge_size != 2:
        raise CheckpointError(
            f"config.json: temporal_conv_size is {vision.temporal_merge_size}; "
            "the resampler joins frames in pairs (2)"
        )
    if vision is not None and (vision.hidden_size % vision.num_heads or vision.head_dim % 4):
        raise CheckpointError(
            f"config.json: vision hidden_size {vision.hidden_size} over {vision.num_heads} heads; "
            "2-D rotary embedding needs a head size that is a multiple of 4"
        )


def _all_specs(config: ModelConfig) -> Iterator[ParameterSpec]:
    hidden = config.hidden_size
    yield ParameterSpec("embed_tokens.weight", (config.vocab_size, hidden), "embedding")
    for layer in range(config.num_layers):
        yield from _decoder_layer(config, layer)
    yield ParameterSpec("norm.weight", (hidden,), "vector")
    if not config.tie_word_embeddings:
        yield ParameterSpec("lm_head.weight", (hidden, config.vocab_size), "head")
    if config.vision is not None:
        yield from _vision_model(config.vision)
        yield from _resampler(config.vision, hidden)


def _decoder_layer(config: ModelConfig, layer: int) -> Iterator[ParameterSpec]:
    prefix = f"layers.{layer}"
    hidden = config.hidden_size
    query_width = config.num_heads * config.head_dim
    qkv_width = query_width + 2 * config.num_kv_heads * config.head_dim
    yield ParameterSpec(f"{prefix}.input_layernorm.weight", (hidden,), "vector")
    yield ParameterSpec(f"{prefix}.self_attn.qkv_proj.weight", (hidden, qkv_width), "qkv")
    yield ParameterSpec(f"{prefix}.self_attn.o_proj.weight", (query_width, hidden), "linear")
    yield ParameterSpec(f"{prefix}.post_attention_layernorm.weight", (hidden,), "vector")
    if config.moe is not None and config.moe.is_moe_layer(layer):
        yield from _moe(config.moe, f"{prefix}.mlp", hidden)
    else:
        yield from _swiglu(f"{prefix}.mlp", hidden, config.intermediate_size)


def _swiglu(prefix: str, hidden: int, width: int) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{prefix}.up_gate_proj.weight", (hidden, 2 * width), "gate_up")
    yield ParameterSpec(f"{prefix}.down_proj.weight", (width, hidden), "linear")


def _moe(moe: MoeConfig, prefix: str, hidden: int) -> Iterator[ParameterSpec]:
    groups = len(moe.num_experts)
    for suffix, count in zip(("weight", "weight_1"), moe.num_experts, strict=False):
        yield ParameterSpec(f"{prefix}.gate.{suffix}", (hidden, count), "router", True)
    bias = f"{prefix}.moe_statics.e_score_correction_bias"
    yield ParameterSpec(bias, (groups, moe.num_experts[0]), "vector", True)
    for group in range(groups):
        name = f"{prefix}.experts.{EXPERT_GROUPS[group]}"
        count, width = moe.num_experts[group], moe.intermediate_size[group]
        yield ParameterSpec(f"{name}.up_gate_proj", (count, hidden, 2 * width), "experts_gate_up")
        yield ParameterSpec(f"{name}.down_proj", (count, width, hidden), "experts_down")
    if moe.num_shared_experts:
        yield from _swiglu(f"{prefix}.shared_experts", hidden, moe.shared_intermediate_size)


def _vision_model(vision: VisionConfig) -> Iterator[ParameterSpec]:
    width = vision.hidden_size
    yield ParameterSpec("vision_model.patch_embed.proj.weight", (vision.patch_dim, width), "linear")
    for block in range(vision.depth):
        prefix = f"vision_model.blocks.{block}"
        yield from _layer_norm(f"{prefix}.norm1", width)
        yield from _linear(f"{prefix}.attn.qkv", width, 3 * width)
        yield from _linear(f"{prefix}.attn.proj", width, width)
        yield from _layer_norm(f"{prefix}.norm2", width)
        yield from _linear(f"{prefix}.mlp.fc1", width, vision.intermediate_size)
        yield from _linear(f"{prefix}.mlp.fc2", vision.intermediate_size, width)
    yield from _layer_norm("vision_model.ln", width)


def _resampler(vision: VisionConfig, hidden: int) -> Iterator[ParameterSpec]:
    inner = vision.hidden_size * vision.spatial_merge_size**2
    pair = inner * vision.temporal_merge_size
    for name, width in (("spatial_linear", inner), ("temporal_linear", pair)):
        yield from _linear(f"resampler_model.{name}.0", width, inner)
        yield from _linear(f"resampler_model.{name}.2", inner, inner)
        yield from _layer_norm(f"resampler_model.{name}.3", inner)
    yield from _linear("resampler_model.mlp", inner, hidden)
    yield ParameterSpec("resampler_model.after_norm.weight", (hidden,), "vector")


def _linear(name: str, inputs: int, outputs: int) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{name}.weight", (inputs, outputs), "linear")
    yield ParameterSpec(f"{name}.bias", (outputs,), "vector")


def _layer_norm(name: str, width: int) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{name}.weight", (width,), "vector")
    yield ParameterSpec(f"{name}.bias", (width,), "vector")
