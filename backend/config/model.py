"""What `config.json` says about a model, in one spelling for both checkpoint layouts.

Paddle repositories have a flat file (VL lists are [text, vision]); HF repositories of VL models may
nest `text_config` and `vision_config`. Values always come from the file; the defaults below are
those of transformers' and FastDeploy's configuration classes, for keys that files leave out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import CheckpointError

DENSE_ARCHITECTURES = ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM")
MOE_ARCHITECTURES = ("Ernie4_5_MoeForCausalLM",)
VL_ARCHITECTURES = (
    "Ernie4_5_VLMoeForConditionalGeneration",
    "Ernie4_5_VLForConditionalGeneration",
)


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
    checkpoints; converted ones use `video_token_id` for videos.
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

    @property
    def kv_bytes_per_token_f32(self) -> int:
        return 2 * 4 * self.num_layers * self.num_kv_heads * self.head_dim


def load_model_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json. Raises CheckpointError naming the file, the key and the value."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: {folder} is not a model folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return parse_model_config(raw, str(path))


def parse_model_config(raw: dict[str, Any], where: str) -> ModelConfig:
    """Build a ModelConfig from a parsed config.json; `where` starts every error message."""
    names = raw.get("architectures") or [None]
    architecture = names[0]
    known = DENSE_ARCHITECTURES + MOE_ARCHITECTURES + VL_ARCHITECTURES
    if architecture not in known:
        raise CheckpointError(
            f"{where}: architecture {architecture!r} is not served; known: {', '.join(known)}"
        )
    is_vl = architecture in VL_ARCHITECTURES
    text = _Keys({**raw, **raw.get("text_config", {})}, where)
    hidden_size = text.integer("hidden_size")
    num_heads = text.integer("num_attention_heads")
    head_dim = text.integer("head_dim", hidden_size // num_heads)
    num_kv_heads = text.integer("num_key_value_heads", num_heads)
    num_layers = text.integer("num_hidden_layers")
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"{where}: num_attention_heads {num_heads} is not a multiple of "
            f"num_key_value_heads {num_kv_heads}"
        )
    if head_dim % 2:
        raise CheckpointError(f"{where}: head_dim {head_dim} is odd; rotary embedding needs pairs")
    has_experts = architecture not in DENSE_ARCHITECTURES
    rope = text.mapping("rope_parameters")
    return ModelConfig(
        architecture=architecture,
        vocab_size=text.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=text.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=text.number("rms_norm_eps", 1e-5),
        rope_theta=float(rope.get("rope_theta") or text.number("rope_theta", 500000.0)),
        max_position_embeddings=text.integer("max_position_embeddings", 131072),
        tie_word_embeddings=bool(
            raw.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
        ),
        use_bias=bool(text.get("use_bias", False)),
        rope_sections=_rope_sections(text, head_dim, is_vl),
        moe=_moe_config(text, num_layers, is_vl) if has_experts else None,
        vision=_vision_config(raw, where) if is_vl else None,
        image_token_id=_Keys(raw, where).integer("image_token_id", raw.get("im_patch_id", 100295)),
        video_token_id=_Keys(raw, where).integer("video_token_id", raw.get("im_patch_id", 100295)),
        vision_boundary_token_ids=tuple(
            int(raw[key])
            for key in (
                "image_start_token_id",
                "image_end_token_id",
                "video_start_token_id",
                "video_end_token_id",
            )
            if raw.get(key) is not None
        ),
    )


def _rope_sections(text: _Keys, head_dim: int, is_vl: bool) -> tuple[int, int, int]:
    pairs = head_dim // 2
    if not is_vl:
        return (0, 0, pairs)
    scaling = text.mapping("rope_parameters") or text.mapping("rope_scaling")
    sections = scaling.get("mrope_section")
    if sections is None:
        time_pairs = text.integer("freq_allocation", 20)
        rest = pairs - time_pairs
        if rest < 0 or rest % 2:
            raise CheckpointError(
                f"{text.where}: freq_allocation {time_pairs} leaves {rest} of {pairs} rotary pairs "
                "to height and width; it must be even and not negative"
            )
        return (rest // 2, rest // 2, time_pairs)
    if len(sections) != 3 or sum(sections) != pairs or sections[0] != sections[1]:
        raise CheckpointError(
            f"{text.where}: mrope_section {sections} must be [h, w, t] with h = w and sum {pairs}"
        )
    return (int(sections[0]), int(sections[1]), int(sections[2]))


def _moe_config(text: _Keys, num_layers: int, is_vl: bool) -> MoeConfig:
    groups = 2 if is_vl else 1
    start = text.integers("moe_layer_start_index", groups, [1] * groups)[0]
    end = text.integers("moe_layer_end_index", groups, [-1] * groups)[0]
    return MoeConfig(
        num_experts=text.integers("moe_num_experts", groups),
        intermediate_size=text.integers("moe_intermediate_size", groups),
        top_k=text.integers("moe_k", 1, [6])[0],
        num_shared_experts=text.integer("moe_num_shared_experts", 0),
        layer_start=start,
        layer_end=num_layers - 1 if end < 0 else min(end, num_layers - 1),
        layer_interval=text.integer("moe_layer_interval", 1),
        norm_min=text.number("moe_norm_min", 1e-12),
    )


def _vision_config(raw: dict[str, Any], where: str) -> VisionConfig:
    vision = raw.get("vision_config")
    if not isinstance(vision, dict):
        raise CheckpointError(f"{where}: vision_config is missing")
    keys = _Keys(vision, f"{where}: vision_config")
    hidden_size = keys.integer("hidden_size", vision.get("embed_dim"))
    ratio = keys.number("mlp_ratio", 4.0)
    return VisionConfig(
        depth=keys.integer("depth"),
        hidden_size=hidden_size,
        num_heads=keys.integer("num_heads"),
        intermediate_size=keys.integer("intermediate_size", int(hidden_size * ratio)),
        patch_size=keys.integer("patch_size", 14),
        in_channels=keys.integer("in_channels", vision.get("in_chans", 3)),
        spatial_merge_size=keys.integer("spatial_merge_size", raw.get("spatial_conv_size", 2)),
        temporal_merge_size=keys.integer("temporal_merge_size", raw.get("temporal_conv_size", 2)),
        layer_norm_eps=keys.number("rms_norm_eps", 1e-6),
    )


class _Keys:
    """Typed look-ups that name the file and the key when they fail."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; expected an object")
        return value

    def integer(self, key: str, default: Any = None) -> int:
        return self.integers(key, 1, None if default is None else [default])[0]

    def integers(self, key: str, count: int, default: list[int] | None = None) -> tuple[int, ...]:
        """`count` integers; a single number stands for all of them, longer lists are cut."""
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.where}: {key} is missing")
        items = value if isinstance(value, list) else [value] * count
        if len(items) < count or not all(type(item) is int for item in items):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; expected {count} integer(s)")
        return tuple(items[:count])

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; expected a number")
        return float(value)
