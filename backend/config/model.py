"""What `config.json` says about a model, in one spelling for both checkpoint layouts.

Paddle repositories have a flat file (VL lists are [text, vision]); HF repositories of VL models may
nest `text_config` and `vision_config`. Values always come from the file; the defaults below are
those of transformers' and FastDeploy's configuration classes, for keys that files leave out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config.keys import Keys, read_json_object
from backend.config.media_tokens import MediaTokenIds, media_token_ids, read_added_tokens
from backend.errors import CheckpointError

DENSE_ARCHITECTURES = ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM")
MOE_ARCHITECTURES = ("Ernie4_5_MoeForCausalLM",)
VL_ARCHITECTURES = (
    "Ernie4_5_VLMoeForConditionalGeneration",
    "Ernie4_5_VLForConditionalGeneration",
)

_COMPUTED = {
    "hidden_act": "silu",
    "use_rmsnorm": True,
    "compression_ratio": 1.0,
    "moe_norm_gate_logits": True,
}
"""What every served model computes; a config.json that asks for something else is refused."""


@dataclass(frozen=True)
class MoeConfig:
    """Experts of one modality group are all of one width; index 0 is text, 1 is vision.

    A layer l is MoE iff layer_start ≤ l ≤ layer_end and (l + 1) mod layer_interval == 0.
    """

    num_experts: tuple[int, ...]
    intermediate_size: tuple[int, ...]
    top_k: int
    num_shared_experts: int
    layer_start: int
    layer_end: int
    layer_interval: int
    norm_min: float

    def is_moe_layer(self, layer: int) -> bool:
        in_range = self.layer_start <= layer <= self.layer_end
        return in_range and (layer + 1) % self.layer_interval == 0

    @property
    def shared_intermediate_size(self) -> int:
        return self.num_shared_experts * self.intermediate_size[0]


@dataclass(frozen=True)
class VisionConfig:
    """The vision transformer and the resampler behind it."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    in_channels: int
    spatial_merge_size: int
    temporal_merge_size: int
    layer_norm_eps: float

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values per patch row, 588 for 3 channels of 14×14."""
        return self.in_channels * self.patch_size**2


@dataclass(frozen=True)
class ModelConfig:
    """One ERNIE-4.5 model. `moe` is None for dense models, `vision` for text-only ones.

    `rope_sections` counts the rotary pairs that take their position from (H, W, T); their sum is
    head_dim / 2. `image_token_id` is the placeholder of both pictures and videos in Paddle
    checkpoints; converted ones use `video_token_id` for videos. `vision_boundary_token_ids` are
    those of image start, image end, video start, video end. Text-only models have -1 and ().
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    use_bias: bool
    rope_sections: tuple[int, int, int]
    moe: MoeConfig | None
    vision: VisionConfig | None
    image_token_id: int
    video_token_id: int
    vision_boundary_token_ids: tuple[int, ...]

    @property
    def is_multimodal(self) -> bool:
        return self.vision is not None


def load_model_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json, and added_tokens.json beside it for ids that it leaves out.

    Raises CheckpointError naming the file, the key, the value and what was expected.
    """
    path = folder / "config.json"
    raw = read_json_object(path)
    if raw is None:
        raise CheckpointError(f"{path} does not exist: {folder} is not a model folder")
    added_path = folder / "added_tokens.json"
    added = read_added_tokens(added_path)
    config = parse_model_config(raw, str(path), added)
    for name, token_id in added.items():
        if token_id >= config.vocab_size:
            raise CheckpointError(
                f"{added_path}: {name} has id {token_id}, beyond vocab_size {config.vocab_size} "
                f"of {path}; expected a tokenizer of the same model"
            )
    return config


def parse_model_config(
    raw: Mapping[str, Any], where: str, token_ids: Mapping[str, int] | None = None
) -> ModelConfig:
    """Build a ModelConfig from a parsed config.json; `where` starts every error message.

    `token_ids` are the tokenizer's added tokens by name. Raises CheckpointError.
    """
    architecture = _architecture(raw, where)
    is_vl = architecture in VL_ARCHITECTURES
    top = Keys(raw, where)
    text = Keys({**raw, **top.mapping("text_config")}, where)
    _check_computed(text)
    vocab_size = text.integer("vocab_size")
    hidden_size = text.integer("hidden_size")
    num_layers = text.integer("num_hidden_layers")
    num_heads = text.integer("num_attention_heads")
    num_kv_heads = text.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise text.fail("num_attention_heads", f"a multiple of num_key_value_heads {num_kv_heads}")
    head_dim = text.integer("head_dim", max(1, hidden_size // num_heads))
    if head_dim % 2:
        raise CheckpointError(f"{where}: head_dim is {head_dim}; rotary embedding needs pairs")
    tokens = media_token_ids(top, vocab_size, token_ids or {}) if is_vl else MediaTokenIds()
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=text.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=text.positive_number("rms_norm_eps", 1e-5),
        rope_theta=_rope_theta(text),
        max_position_embeddings=text.integer("max_position_embeddings", 131072),
        tie_word_embeddings=top.boolean(
            "tie_word_embeddings", text.boolean("tie_word_embeddings", True)
        ),
        use_bias=text.boolean("use_bias", False),
        rope_sections=_rope_sections(text, head_dim, is_vl),
        moe=None if architecture in DENSE_ARCHITECTURES else _moe_config(text, num_layers, is_vl),
        vision=_vision_config(top) if is_vl else None,
        image_token_id=tokens.image,
        video_token_id=tokens.video,
        vision_boundary_token_ids=tokens.boundary,
    )


def _architecture(raw: Mapping[str, Any], where: str) -> str:
    names = raw.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else names
    known = DENSE_ARCHITECTURES + MOE_ARCHITECTURES + VL_ARCHITECTURES
    if architecture not in known:
        raise CheckpointError(
            f"{where}: architecture {architecture!r} is not served; known: {', '.join(known)}"
        )
    return str(architecture)


def _check_computed(text: Keys) -> None:
    for key, value in _COMPUTED.items():
        if text.get(key, value) != value:
            raise text.fail(key, f"{json.dumps(value)}; nothing else is served")
    if text.get("quantization_config") is not None:
        raise CheckpointError(
            f"{text.where}: quantization_config is set; checkpoints that are already quantised "
            "are not served, only bfloat16, float16 and float32 ones"
        )


def _rope(text: Keys) -> Keys:
    """The rotary settings' object, wherever this spelling of config.json keeps it."""
    name = "rope_parameters" if text.mapping("rope_parameters") else "rope_scaling"
    rope = Keys(text.mapping(name), f"{text.where}: {name}")
    for key in ("rope_type", "type"):
        if rope.get(key, "default") not in ("default", "mrope"):
            raise rope.fail(key, '"default"; nothing else is served')
    return rope


def _rope_theta(text: Keys) -> float:
    return _rope(text).positive_number("rope_theta", text.positive_number("rope_theta", 500000.0))


def _rope_sections(text: Keys, head_dim: int, is_vl: bool) -> tuple[int, int, int]:
    pairs = head_dim // 2
    if not is_vl:
        return (0, 0, pairs)
    rope = _rope(text)
    if rope.get("mrope_section") is None:
        time_pairs = text.integer("freq_allocation", 20, minimum=0)
        rest = pairs - time_pairs
        if rest < 0 or rest % 2:
            raise CheckpointError(
                f"{text.where}: freq_allocation {time_pairs} leaves {rest} of {pairs} rotary pairs "
                "to height and width; it must be even and not negative"
            )
        return (rest // 2, rest // 2, time_pairs)
    height, width, time = rope.integers("mrope_section", 3, minimum=0)
    if height + width + time != pairs or height != width:
        raise rope.fail("mrope_section", f"[h, w, t] with h = w and sum {pairs}")
    return (height, width, time)


def _moe_config(text: Keys, num_layers: int, is_vl: bool) -> MoeConfig:
    groups = 2 if is_vl else 1
    num_experts = text.integers("moe_num_experts", groups)
    top_k = text.integers("moe_k", 1, [6])[0]
    if top_k > min(num_experts):
        raise text.fail("moe_k", f"1 to {min(num_experts)} (moe_num_experts)")
    start, end, interval = _moe_layers(text, num_layers, groups)
    return MoeConfig(
        num_experts=num_experts,
        intermediate_size=text.integers("moe_intermediate_size", groups),
        top_k=top_k,
        num_shared_experts=text.integer("moe_num_shared_experts", 0, minimum=0),
        layer_start=start,
        layer_end=end,
        layer_interval=interval,
        norm_min=text.positive_number("moe_norm_min", 1e-12),
    )


def _moe_layers(text: Keys, num_layers: int, groups: int) -> tuple[int, int, int]:
    """First and last MoE layer and their interval; both modalities must have the same layers."""
    kinds = text.get("mlp_layer_types")
    if kinds is not None:
        return _moe_layers_of_list(text, kinds, num_layers)
    starts = text.integers("moe_layer_start_index", groups, [1] * groups, minimum=0)
    ends = tuple(
        num_layers - 1 if end < 0 else min(end, num_layers - 1)
        for end in text.integers("moe_layer_end_index", groups, [-1] * groups, minimum=-1)
    )
    if len(set(starts)) > 1 or len(set(ends)) > 1:
        raise CheckpointError(
            f"{text.where}: MoE layers start at {list(starts)} and end at {list(ends)}; "
            "expected the same layers for text and vision"
        )
    return starts[0], ends[0], text.integer("moe_layer_interval", 1)


def _moe_layers_of_list(text: Keys, kinds: Any, num_layers: int) -> tuple[int, int, int]:
    """The converted spelling: one of "dense", "sparse" for each layer."""
    key = "mlp_layer_types"
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise text.fail(key, f"a list of {num_layers} (num_hidden_layers)")
    sparse = [layer for layer, kind in enumerate(kinds) if kind == "sparse"]
    if not sparse or sparse != list(range(sparse[0], sparse[-1] + 1)):
        raise text.fail(key, "one unbroken run of sparse layers")
    if kinds.count("dense") + len(sparse) != num_layers:
        raise text.fail(key, '"dense" or "sparse" for each layer')
    return sparse[0], sparse[-1], 1


def _vision_config(top: Keys) -> VisionConfig:
    if not top.mapping("vision_config"):
        raise CheckpointError(f"{top.where}: vision_config is missing")
    keys = Keys(top.mapping("vision_config"), f"{top.where}: vision_config")
    if keys.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise keys.fail("hidden_act", '"quick_gelu"; nothing else is served')
    hidden_size = keys.integer("hidden_size", keys.get("embed_dim"))
    num_heads = keys.integer("num_heads")
    if hidden_size % num_heads:
        raise CheckpointError(
            f"{keys.where}: hidden_size {hidden_size} over {num_heads} heads (num_heads) "
            "does not divide"
        )
    inner = int(hidden_size * keys.positive_number("mlp_ratio", 4.0))
    return VisionConfig(
        depth=keys.integer("depth"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        intermediate_size=keys.integer("intermediate_size", inner),
        patch_size=keys.integer("patch_size", 14),
        in_channels=keys.integer("in_channels", keys.get("in_chans", 3)),
        spatial_merge_size=keys.integer("spatial_merge_size", top.integer("spatial_conv_size", 2)),
        temporal_merge_size=keys.integer(
            "temporal_merge_size", top.integer("temporal_conv_size", 2)
        ),
        layer_norm_eps=keys.positive_number("rms_norm_eps", 1e-6),
    )
