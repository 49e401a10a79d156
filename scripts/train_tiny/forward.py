"""The training-time forward pass of transformers' model: same modules and sums, fewer kernels.

transformers runs each picture's attention by itself and sorts tokens by boolean masks, which makes
a step of thousands of small kernels and host synchronisations. Here all sequences of a batch lie
packed in one row of tokens, indices come ready from the host, and every expert is computed for
every token of its group with a weight that is zero where the router did not choose it.
`tests/unit/train_tiny` holds this equal to transformers' own forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SPOTS = 3 * 7 * 7
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Ragged:
    """Sequences that lie one after the other: int32 `starts` [n + 1] and a bound of their lengths.

    `rectangles` serve where there is no ragged kernel: rows [b, s] of b sequences of one length.
    """

    starts: Tensor
    longest: int
    rectangles: list[Tensor]


@dataclass
class Step:
    """One batch. T tokens, M media tokens, N patches, R answer tokens.

    token_ids [T], positions [3, T], text_rows and vision_rows (which token belongs to which expert
    group), media_rows [M] (placeholders, in the order of the resampler's output), patch_rows [N]
    (where the pool keeps each patch), patch_positions [N, 2], first_slots and second_slots [M]
    (cells that each media token joins), answer_rows [R] (tokens whose successor is learnt),
    labels [R], tasks [R].

    Padding, where a batch is filled up to a fixed size: the last token row is nobody's and takes
    whatever is not wanted; labels of padding are -1.
    """

    token_ids: Tensor
    positions: Tensor
    sequences: Ragged
    text_rows: Tensor
    vision_rows: Tensor
    media_rows: Tensor
    patch_rows: Tensor
    patch_positions: Tensor
    frames: Ragged
    first_slots: Tensor
    second_slots: Tensor
    answer_rows: Tensor
    labels: Tensor
    tasks: Tensor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors but the rectangles, by name."""
        for item in fields(self):
            value = getattr(self, item.name)
            yield item.name, value.starts if isinstance(value, Ragged) else value

    def to(self, device: torch.device) -> Step:
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Ragged):
                rectangles = [rows.to(device) for rows in value.rectangles]
                value = Ragged(value.starts.to(device), value.longest, rectangles)
            else:
                value = value.to(device)
            moved[item.name] = value
        return Step(**moved)

    def pinned(self) -> Step:
        """In page-locked memory, from which copies to a GPU run beside other work."""
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Ragged):
                value = Ragged(value.starts.pin_memory(), value.longest, value.rectangles)
            else:
                value = value.pin_memory()
            moved[item.name] = value
        return Step(**moved)

    def overwrite(self, other: Step) -> None:
        """Copy a batch of the same sizes into this one's memory."""
        for (_, mine), (_, theirs) in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)


class TrainingForward(nn.Module):
    """Wraps an Ernie4_5_VLMoeForConditionalGeneration; its parameters are the model's own.

    `loads` counts, per sparse layer and modality [L, 2, E], how many tokens each expert got since
    they were last read.
    """

    def __init__(self, model: nn.Module, ragged_kernel: bool) -> None:
        super().__init__()
        self.model = model
        self._ragged_kernel = ragged_kernel
        text = model.config.text_config
        self._heads, self._kv_heads = text.num_attention_heads, text.num_key_value_heads
        self._head_dim = text.head_dim
        self.sparse_layers = [i for i, kind in enumerate(text.mlp_layer_types) if kind == "sparse"]
        shape = (len(self.sparse_layers), 2, text.moe_num_experts)
        self.register_buffer("loads", torch.zeros(shape), persistent=False)
        scale = torch.tensor(IMAGE_STD).repeat_interleave(196) * 255
        shift = torch.tensor(IMAGE_MEAN).repeat_interleave(196) * 255
        self.register_buffer("_pixel_scale", 1 / scale, persistent=False)
        self.register_buffer("_pixel_shift", shift, persistent=False)
        # Two slots of four patches, each patch in 7 × 7 spots of 3 colours.
        self.painter = nn.Linear(text.hidden_size, 2 * 4 * _SPOTS)

    def forward(self, step: Step, pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(loss per answer token [R] float32, is it the top guess [R] bool, repainting loss []).

        Padding counts 0. The repainting loss asks a linear layer, thrown away after training, to
        tell a media token's pixels. Without it the first steps, in which nothing can be read from
        the pictures yet, teach the model to shut them out, and it never recovers.
        """
        hidden, repainting = self._embed_and_repaint(step, pool)
        hidden = self.decode(hidden, step).index_select(0, step.answer_rows)
        logits = F.linear(hidden, self.model.lm_head.weight).float()
        losses = F.cross_entropy(logits, step.labels, reduction="none", ignore_index=-1)
        return losses, logits.detach().argmax(dim=-1) == step.labels, repainting

    def embed(self, step: Step, pool: Tensor) -> Tensor:
        """Token embeddings [T, H] with media put in; `pool` holds patches uint8 [·, 588]."""
        table = self.model.model.language_model.embed_tokens.weight
        hidden = table.index_select(0, step.token_ids)
        if not len(step.media_rows):
            return hidden
        media = self.encode(step, self._pixels(step, pool))
        return hidden.index_copy(0, step.media_rows, media.to(hidden.dtype))

    def _embed_and_repaint(self, step: Step, pool: Tensor) -> tuple[Tensor, Tensor]:
        table = self.model.model.language_model.embed_tokens.weight
        hidden = table.index_select(0, step.token_ids)
        if not len(step.media_rows):
            return hidden, hidden.new_zeros(())
        pixels = self._pixels(step, pool)
        media = self.encode(step, pixels)
        spots = F.avg_pool2d(pixels.view(-1, 3, 14, 14), 2).reshape(-1, 4 * _SPOTS)
        slots = (step.first_slots, step.second_slots)
        wanted = torch.cat([spots.index_select(0, slot) for slot in slots], dim=-1)
        is_token = (step.media_rows != len(hidden) - 1).float()
        error = (self.painter(media).float() - wanted).square().mean(dim=-1)
        repainting = (error * is_token).sum() / is_token.sum().clamp(min=1)
        return hidden.index_copy(0, step.media_rows, media.to(hidden.dtype)), repainting

    def _pixels(self, step: Step, pool: Tensor) -> Tensor:
        """Normalised patches, float32 [N, 588]."""
        pixels = pool.index_select(0, step.patch_rows).float()
        return (pixels - self._pixel_shift) * self._pixel_scale

    def encode(self, step: Step, pixels: Tensor) -> Tensor:
        """Media tokens [M, H] of normalised patches [N, 588]."""
        core = self.model.model
        tower, resampler = core.vision_tower, core.resampler_model
        hidden = tower.patch_embed.proj(pixels)
        cos, sin = tower.rotary_pos_emb(hidden, step.patch_positions)
        cos, sin = cos[:, None, :], sin[:, None, :]
        for block in tower.blocks:
            normed = block.norm1(hidden)
            hidden = hidden + self._vision_attention(block.attn, normed, cos, sin, step.frames)
            hidden = hidden + block.mlp(block.norm2(hidden))
        cells = tower.ln(hidden).reshape(-1, 4 * hidden.shape[-1])
        cells = resampler.spatial_linear(cells)
        slots = (step.first_slots, step.second_slots)
        pairs = torch.cat([cells.index_select(0, slot) for slot in slots], dim=-1)
        return resampler.after_norm(resampler.mlp(resampler.temporal_linear(pairs)))

    def decode(self, hidden: Tensor, step: Step) -> Tensor:
        """Final hidden states [T, H]."""
        language = self.model.model.language_model
        cos, sin = language.rotary_emb(hidden, step.positions[:, None, :])
        # transformers repeats each pair's angle; one copy is enough here.
        cos, sin = cos[0, :, None, ::2], sin[0, :, None, ::2]
        for index, layer in enumerate(language.layers):
            normed = _rms_norm(layer.input_layernorm, hidden)
            hidden = hidden + self._attention(layer.self_attn, normed, cos, sin, step.sequences)
            normed = _rms_norm(layer.post_attention_layernorm, hidden)
            if index in self.sparse_layers:
                place = self.sparse_layers.index(index)
                hidden = hidden + self._experts(layer.mlp, normed, step, place)
            else:
                hidden = hidden + _swiglu(layer.mlp, normed)
        return _rms_norm(language.norm, hidden)

    def _attention(
        self, module: Any, hidden: Tensor, cos: Tensor, sin: Tensor, sequences: Ragged
    ) -> Tensor:
        tokens = hidden.shape[0]
        weights = (module.q_proj.weight, module.k_proj.weight, module.v_proj.weight)
        qkv = F.linear(hidden, torch.cat(weights)).view(tokens, -1, self._head_dim)
        query, key, value = qkv.split((self._heads, self._kv_heads, self._kv_heads), dim=1)
        query, key = _turn_pairs(query, cos, sin), _turn_pairs(key, cos, sin)
        groups = self._heads // self._kv_heads
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        mixed = self._attend(query, key, value, sequences, causal=True)
        return module.o_proj(mixed.reshape(tokens, -1))

    def _vision_attention(
        self, module: Any, hidden: Tensor, cos: Tensor, sin: Tensor, frames: Ragged
    ) -> Tensor:
        tokens = hidden.shape[0]
        qkv = module.qkv(hidden).view(tokens, 3, module.num_heads, module.head_dim)
        query, key, value = qkv.unbind(1)
        query, key = _turn_halves(query, cos, sin), _turn_halves(key, cos, sin)
        mixed = self._attend(query, key, value, frames, causal=False)
        return module.proj(mixed.reshape(tokens, -1))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, causal: bool
    ) -> Tensor:
        """Attention inside each sequence, [T, heads, head_dim]."""
        if self._ragged_kernel:
            half = torch.bfloat16
            mixed = torch.ops.aten._flash_attention_forward(
                query.to(half).contiguous(), key.to(half).contiguous(), value.to(half).contiguous(),
                ragged.starts, ragged.starts, ragged.longest, ragged.longest, 0.0, causal, False,
            )[0]  # fmt: skip
            return mixed
        result = torch.empty_like(query)
        for rows in ragged.rectangles:
            q, k, v = (tensor[rows].transpose(1, 2) for tensor in (query, key, value))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            mixed = mixed.transpose(1, 2).reshape(-1, *query.shape[1:])
            result = result.index_copy(0, rows.reshape(-1), mixed.to(result.dtype))
        return result

    def _experts(self, module: Any, hidden: Tensor, step: Step, place: int) -> Tensor:
        shared = _swiglu(module.shared_experts, hidden)
        result = shared
        groups = ((module.text_moe, step.text_rows), (module.vision_moe, step.vision_rows))
        for modality, (group, rows) in enumerate(groups):
            if len(rows):
                routed = self._routed(group, hidden, rows, place, modality)
                result = result.index_add(0, rows, routed.to(shared.dtype))
        return result

    def _routed(
        self, module: Any, tokens: Tensor, rows: Tensor, place: int, modality: int
    ) -> Tensor:
        gate, experts = module.gate, module.experts
        hidden = tokens.index_select(0, rows)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), gate.weight.float())
            scores = logits.detach().softmax(dim=-1)
            bias = gate.moe_statics.e_score_correction_bias
            chosen = (scores + bias).topk(gate.top_k, dim=-1).indices
            mask = torch.zeros_like(scores).scatter(1, chosen, 1.0)
            # Renormalised scores are a softmax over the chosen logits. Written so, their gradient
            # stays bounded where the bias forces a choice among experts with scores near zero.
            weights = logits.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
            weights = weights * ((scores * mask).sum(-1, keepdim=True) / gate.norm_min).clamp(max=1)
        if self.training:
            is_token = (rows != len(tokens) - 1).to(mask.dtype)
            self.loads[place, modality] += is_token @ mask
        count, width = experts.num_experts, experts.intermediate_dim
        both = F.linear(hidden, experts.gate_up_proj.reshape(-1, hidden.shape[-1]))
        opened, up = both.view(-1, count, 2, width).unbind(2)
        inner = F.silu(opened) * up * weights.to(both.dtype)[:, :, None]
        down = experts.down_proj.transpose(1, 2).reshape(count * width, -1)
        return inner.reshape(-1, count * width) @ down.to(inner.dtype)


def _rms_norm(module: Any, hidden: Tensor) -> Tensor:
    normed = F.rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # once here instead of in every linear that follows
        return normed.to(torch.get_autocast_dtype(device))
    return normed


def _swiglu(module: Any, hidden: Tensor) -> Tensor:
    weights = torch.cat((module.gate_proj.weight, module.up_proj.weight))
    opened, up = F.linear(hidden, weights).chunk(2, dim=-1)
    return module.down_proj(F.silu(opened) * up)


def _turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of the last axis."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _turn_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the last axis."""
    low, high = x.float().chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)
