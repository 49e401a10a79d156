"""transformers' classes as the oracle: the same weights under their names, float32, eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    Ernie4_5_MoeConfig,
    Ernie4_5_MoeForCausalLM,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
)

from backend.config.model import ModelConfig
from backend.models.vision import PIXEL_MEAN, PIXEL_STD
from tests.oracle.models import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    VIDEO,
    VIDEO_END,
    VIDEO_START,
)
from tests.oracle.prompts import Prompt


class MediaIds(NamedTuple):
    """Token ids. transformers wants other placeholders for videos than for images."""

    image: int = IMAGE
    video: int = VIDEO
    image_start: int = IMAGE_START
    image_end: int = IMAGE_END
    video_start: int = VIDEO_START
    video_end: int = VIDEO_END


class Oracle:
    """logits(prompt) of every token, float32 [n, V], by one uncached pass over the prompt alone.

    `weights` are canonical, of NumPy or torch. Computed on `device` in `dtype`; routers stay in
    float32, as in every released checkpoint.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, Any],
        media_ids: MediaIds = MediaIds(),  # noqa: B008 - a constant
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Two thread pools on few cores wait for each other longer than they compute.
        torch.set_num_threads(1)
        self._config = config
        self._media_ids = media_ids
        self._device = device
        self._dtype = dtype
        with torch.device(device):
            self._model = _make_model(config, media_ids)
        tensors = {name: torch.as_tensor(array) for name, array in weights.items()}
        state = _rename(config, tensors)
        missing, unexpected = self._model.load_state_dict(state, strict=False)
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        assert set(missing) <= tied and not unexpected, (missing, unexpected)
        self._model.tie_weights()
        self._model.eval()
        for name, parameter in self._model.named_parameters():
            if ".gate." not in name:
                parameter.data = parameter.data.to(dtype)

    @torch.no_grad()
    def logits(self, prompt: Prompt) -> np.ndarray:
        ids = torch.from_numpy(prompt.ids.astype(np.int64))[None]
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self._config.vision is not None:
            inputs |= self._vision_inputs(prompt)
        else:
            inputs["position_ids"] = torch.from_numpy(prompt.positions[0].astype(np.int64))[None]
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                is_float = value.is_floating_point()
                inputs[name] = value.to(self._device, self._dtype if is_float else None)
        return self._model(**inputs).logits[0].float().cpu().numpy()

    def save(self, folder: Path) -> None:
        self._model.save_pretrained(folder)

    def _vision_inputs(self, prompt: Prompt) -> dict[str, Any]:
        ids = self._media_ids
        is_video = np.isin(prompt.ids, (ids.video, ids.video_start, ids.video_end))
        routing = np.where(prompt.is_vision, np.where(is_video, 2, 1), 0)
        inputs = {
            "position_ids": torch.from_numpy(prompt.positions.astype(np.int64))[:, None],
            "mm_token_type_ids": torch.from_numpy(routing * prompt.is_media)[None],
            "moe_mm_token_type_ids": torch.from_numpy(routing)[None],
        }
        mean, std = (np.repeat(np.float64(v), 196) for v in (PIXEL_MEAN, PIXEL_STD))
        pixels = ((prompt.patches / 255.0 - mean) / std).astype(np.float32)
        bounds = np.cumsum([0, *(t * h * w for t, h, w in prompt.grids)])
        for name, key, wanted in (
            ("pixel_values", "image_grid_thw", False),
            ("pixel_values_videos", "video_grid_thw", True),
        ):
            items = [i for i, grid in enumerate(prompt.grids) if (grid[0] > 1) == wanted]
            if items:
                parts = [pixels[bounds[i] : bounds[i + 1]] for i in items]
                inputs[name] = torch.from_numpy(np.concatenate(parts))
                inputs[key] = torch.tensor([prompt.grids[i] for i in items])
        return inputs


def _make_model(config: ModelConfig, media_ids: MediaIds) -> Any:
    text = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": 0,
    }
    common = {"attn_implementation": "eager", "dtype": torch.float32}
    if config.moe is None:
        return Ernie4_5ForCausalLM._from_config(Ernie4_5Config(**text), **common)
    moe = config.moe
    text |= {
        "moe_k": moe.top_k,
        "moe_num_experts": moe.num_experts[0],
        "moe_num_shared_experts": moe.num_shared_experts,
        "moe_norm_min": moe.norm_min,
    }
    if config.vision is None:
        text |= {
            "moe_intermediate_size": moe.intermediate_size[0],
            "moe_layer_start_index": moe.layer_start,
            "moe_layer_end_index": moe.layer_end,
            "moe_layer_interval": moe.layer_interval,
        }
        return Ernie4_5_MoeForCausalLM._from_config(Ernie4_5_MoeConfig(**text), **common)
    text["moe_intermediate_size"] = list(moe.intermediate_size)
    text["rope_parameters"] = {
        **text["rope_parameters"],
        "mrope_section": list(config.rope_sections),
    }
    text["mlp_layer_types"] = [
        "sparse" if moe.is_moe_layer(layer) else "dense" for layer in range(config.num_layers)
    ]
    vision = {
        "depth": config.vision.depth,
        "hidden_size": config.vision.hidden_size,
        "num_heads": config.vision.num_heads,
        "intermediate_size": config.vision.intermediate_size,
        "patch_size": config.vision.patch_size,
        "spatial_merge_size": config.vision.spatial_merge_size,
        "temporal_merge_size": config.vision.temporal_merge_size,
    }
    full = Ernie4_5_VLMoeConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=media_ids.image,
        video_token_id=media_ids.video,
        image_start_token_id=media_ids.image_start,
        image_end_token_id=media_ids.image_end,
        video_start_token_id=media_ids.video_start,
        video_end_token_id=media_ids.video_end,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    return Ernie4_5_VLMoeForConditionalGeneration._from_config(full, **common)


def _rename(config: ModelConfig, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Canonical names and [in, out] matrices → transformers' names and [out, in] matrices."""
    result: dict[str, torch.Tensor] = {}
    for name, array in weights.items():
        if name.startswith("vision_model."):
            result["model.vision_tower." + name.removeprefix("vision_model.")] = _linear(array)
        elif name.startswith("resampler_model."):
            result["model." + _resampler_name(name)] = _linear(array)
        elif name == "lm_head.weight":
            result[name] = array.T
        else:
            result |= _decoder(config, name, array)
    return result


def _decoder(config: ModelConfig, name: str, array: torch.Tensor) -> dict[str, torch.Tensor]:
    root = "model.language_model." if config.vision is not None else "model."
    if name.endswith("qkv_proj.weight"):
        prefix = root + name.removesuffix("qkv_proj.weight")
        query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        parts = torch.tensor_split(array.T, [query, query + key])
        return {f"{prefix}{p}_proj.weight": a for p, a in zip("qkv", parts, strict=True)}
    if name.endswith("up_gate_proj.weight"):
        prefix = root + name.removesuffix("up_gate_proj.weight")
        gate, up = torch.chunk(array.T, 2)
        return {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}
    if ".mlp.gate." in name or ".mlp.moe_statics." in name or ".mlp.experts." in name:
        prefix, rest = name.split(".mlp.")
        return {f"{root}{prefix}.mlp.{k}": a for k, a in _moe(config, rest, array).items()}
    if name == "embed_tokens.weight":
        return {root + name: array}
    return {root + name: _linear(array)}


def _moe(config: ModelConfig, rest: str, array: torch.Tensor) -> dict[str, torch.Tensor]:
    is_vl = config.vision is not None
    groups = ("text_moe.", "vision_moe.") if is_vl else ("",)
    if rest.startswith("moe_statics"):
        # The text model keeps the statics beside its router, the VL model inside each router.
        inner = "gate.moe_statics.e_score_correction_bias"
        return {f"{group}{inner}": array[i : i + 1] for i, group in enumerate(groups)}
    if rest.startswith("gate."):
        return {f"{groups[rest.endswith('weight_1')]}gate.weight": array.T}
    _, group_name, matrix = rest.split(".")
    matrix = {"up_gate_proj": "gate_up_proj", "down_proj": "down_proj"}[matrix]
    return {f"{groups[group_name == 'vision']}experts.{matrix}": array.transpose(1, 2)}


def _resampler_name(name: str) -> str:
    for index, theirs in (("0", "fc1"), ("2", "fc2"), ("3", "ln")):
        for stage in ("spatial_linear", "temporal_linear"):
            name = name.replace(f"{stage}.{index}.", f"{stage}.{theirs}.")
    return name


def _linear(array: torch.Tensor) -> torch.Tensor:
    return array.T if array.ndim == 2 else array
