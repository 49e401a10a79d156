"""The ERNIE-4.5 decoder, with its vision model when the configuration has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.batch import Batch
from backend.config.model import ModelConfig
from backend.errors import InternalError
from backend.layers.decoder_layer import DecoderLayer
from backend.layers.resampler import Grid
from backend.layers.weights import Weights
from backend.models.vision import VisionModel
from backend.ops import AttentionShape, KvCache, Ops, RopeSpec, Step, Tensor
from backend.ops.arrays import NumpyArray
from backend.ops.rope import alternating_pair_axes


class Model:
    """Dense, text MoE or VL MoE by its configuration. Holds weights, no state of any sequence.

    `weights` are the tensors that `parameter_specs(config)` names, made by `ops.parameter`.
    """

    def __init__(self, config: ModelConfig, ops: Ops, weights: Mapping[str, Tensor]) -> None:
        self.config = config
        self.ops = ops
        named = Weights(weights)
        self._embedding = named["embed_tokens.weight"]
        self._layers = [
            DecoderLayer(ops, config, layer, named.under(f"layers.{layer}"))
            for layer in range(config.num_layers)
        ]
        self._norm = named["norm.weight"]
        tied = config.tie_word_embeddings
        self._head = self._embedding if tied else named["lm_head.weight"]
        self._vision = VisionModel(config, ops, weights) if config.is_multimodal else None
        self._attention = AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim)
        self.rope = RopeSpec(
            head_dim=config.head_dim,
            theta=config.rope_theta,
            pair_axes=alternating_pair_axes(config.rope_sections),
            interleaved=True,
        )

    def allocate_kv_cache(self, num_blocks: int, block_size: int) -> KvCache:
        """Paged keys and values of every layer for num_blocks · block_size tokens."""
        return self.ops.allocate_kv_cache(
            self._attention, self.config.num_layers, num_blocks, block_size
        )

    def kv_block_bytes(self, block_size: int) -> int:
        """What a block takes in all layers, measured on one."""
        return int(self.allocate_kv_cache(1, block_size).num_bytes)

    @property
    def media_bytes_per_token(self) -> int:
        """What `encode_media` returns for a token takes."""
        return self.config.hidden_size * self.ops.dtype_bytes

    def forward(self, batch: Batch, kv_cache: KvCache) -> Tensor:
        """Run the batch's tokens, write their keys and values: float32 logits [R, V]."""
        return self.run(self.begin_step(batch, kv_cache), kv_cache)

    def begin_step(self, batch: Batch, kv_cache: KvCache) -> Step:
        """Upload a batch for `run`."""
        return self.ops.begin_step(batch, self.rope, kv_cache)

    def run(self, step: Step, kv_cache: KvCache) -> Tensor:
        """`forward` on what `begin_step` made: float32 logits [R, V]."""
        ops = self.ops
        x = ops.embed_tokens(self._embedding, step)
        residual: Tensor | None = None
        for layer in self._layers:
            x, residual = layer(x, residual, step, kv_cache)
        if not step.num_logit_rows:
            empty = np.zeros((0, self.config.vocab_size), dtype=np.float32)
            return ops.from_numpy(empty, keep_float32=True)
        x, residual = ops.logit_rows(x, residual, step)
        x, _ = ops.add_rms_norm(x, residual, self._norm, self.config.rms_norm_eps)
        return ops.logits(x, self._head, transposed=self.config.tie_word_embeddings)

    def encode_media(self, patches: NumpyArray, grids: Sequence[Grid]) -> Tensor:
        """Pictures and videos → embeddings [tokens, H], items end to end in the given order.

        patches: uint8 [N, 588], a row per 14×14 patch (channel-major), rows in merge-block order.
        grids: (frames, rows, columns) of patches per item; frames 1 for a picture, else even.
        A picture gives rows · columns / 4 tokens, a video frames · rows · columns / 8. The result
        can be cut with `ops.slice_rows` and joined with `ops.concat_rows`.
        """
        if self._vision is None:
            raise InternalError(f"{self.config.architecture} takes no pictures or videos")
        return self._vision(patches, grids)


def build_model(config: ModelConfig, ops: Ops, weights: Mapping[str, Tensor]) -> Model:
    """The model of `config` over `weights`, the tensors that `parameter_specs(config)` names."""
    return Model(config, ops, weights)
