"""ModelRunner: runs a model over what the scheduler chose."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.batch import Batch
from backend.errors import ErnieError, InternalError
from backend.runner.batch_builder import build_batch, filling_batch, media_rows_of
from backend.runner.media_encoder import EncoderModel, MediaEncoder
from backend.sampler import SampledToken, Sampler
from backend.scheduler import Chunk, Request

log = logging.getLogger("ernie_engine")

_BLOCKS_PER_PASS = 64

ChunkResult = SampledToken | ErnieError | None
"""Of one chunk: the next token, why there is none, or None when its prefill goes on."""


class HostOps(Protocol):
    """What the runner itself does with tensors."""

    def to_numpy(self, tensor: Any) -> NDArray[Any]: ...
    def slice_rows(self, x: Any, start: int, stop: int) -> Any: ...
    def concat_rows(self, parts: Sequence[Any]) -> Any: ...


class RunnableModel(EncoderModel, Protocol):
    """What the runner needs of backend.models.Model."""

    @property
    def ops(self) -> HostOps: ...
    @property
    def media_bytes_per_token(self) -> int: ...
    def allocate_kv_cache(self, num_blocks: int, block_size: int) -> Any: ...
    def kv_block_bytes(self, block_size: int) -> int: ...
    def forward(self, batch: Batch, kv_cache: Any) -> Any: ...


class Computation(Protocol):
    """A step that was submitted."""

    def results(self) -> list[ChunkResult]:
        """Wait for it: a result per chunk, in order."""


@dataclass(frozen=True)
class Computed:
    """A step that is over."""

    outcome: list[ChunkResult]

    def results(self) -> list[ChunkResult]:
        return self.outcome


class ModelRunner:
    """Owns the KV memory, whose block 0 belongs to no request.

    `submit` computes at once and on the host's own time, so nothing is gained by submitting a step
    before the one before it has told its tokens: `runs_ahead` is False.

    `num_token_ids`: ids that the tokenizer knows; logits beyond, of a padded table, are cut off.
    """

    runs_ahead = False

    def __init__(
        self,
        model: RunnableModel,
        encoder: MediaEncoder,
        num_blocks: int,
        block_size: int,
        num_token_ids: int,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._sampler = Sampler()
        self._block_size = block_size
        self._num_token_ids = num_token_ids
        self._kv_cache = model.allocate_kv_cache(num_blocks + 1, block_size)

    def may_run_ahead(self, request: Request) -> bool:
        """Whether a request's next token can be sampled while its last one is on the way; asked
        when `runs_ahead`."""
        return False

    def forget(self, request: Request) -> None:
        """It has ended, perhaps in a step that is being computed: nothing may keep its memory."""

    def submit(self, chunks: Sequence[Chunk]) -> Computation:
        """Begin a step; see `run`."""
        return Computed(self.run(chunks))

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Results in the order of `chunks`; a failure is a result and never raised.

        A chunk whose media cannot be encoded is left out and fails alone. When the forward pass
        itself fails, all chunks in it do.
        """
        results: dict[Chunk, ChunkResult] = {}
        parts: list[Any] = []
        ready: list[Chunk] = []
        for chunk in chunks:
            try:
                parts += self._media_parts(chunk)
                ready.append(chunk)
            except Exception:
                log.exception("cannot encode the media of %s", chunk.request.stream_key)
                results[chunk] = InternalError("a picture or video could not be encoded")
        if ready:
            try:
                results.update(self._forward(ready, parts))
            except Exception:
                log.exception("a step of %d requests failed", len(ready))
                error = InternalError("the model failed while it computed this request")
                results.update(dict.fromkeys(ready, error))
        return [results[chunk] for chunk in chunks]

    def overwrite_blocks(self, block_ids: Sequence[int]) -> None:
        """Fill blocks with finite keys and values.

        Attention may multiply what lies behind a sequence's end by zero, and zero times NaN is
        NaN. So blocks that a NaN may have reached are overwritten, in every layer, before anybody
        else gets them: each is computed once as a sequence of its own, of token 0.
        """
        for start in range(0, len(block_ids), _BLOCKS_PER_PASS):
            blocks = np.array(block_ids[start : start + _BLOCKS_PER_PASS], dtype=np.int32)
            self._model.forward(filling_batch(blocks, self._block_size), self._kv_cache)

    def _media_parts(self, chunk: Chunk) -> list[Any]:
        """Embedding rows of the chunk's placeholders. Pieces that it completes are let go."""
        parts = []
        for piece, first, last in media_rows_of(chunk):
            embedding = self._encoder.embedding(piece)
            if last - first < piece.num_tokens:
                embedding = self._model.ops.slice_rows(embedding, first, last)
            if last == piece.num_tokens:
                piece.embedding = None
            parts.append(embedding)
        return parts

    def _forward(self, chunks: list[Chunk], parts: list[Any]) -> dict[Chunk, ChunkResult]:
        ops = self._model.ops
        embeddings = ops.concat_rows(parts) if len(parts) > 1 else (parts or [None])[0]
        batch = build_batch(chunks, self._block_size, embeddings)
        logits = ops.to_numpy(self._model.forward(batch, self._kv_cache))
        last = [chunk for chunk in chunks if chunk.is_last]
        tokens = self._sampler.sample(
            logits[:, : self._num_token_ids], [chunk.request.sampling for chunk in last]
        )
        return {**dict.fromkeys(chunks), **dict(zip(last, tokens, strict=True))}
