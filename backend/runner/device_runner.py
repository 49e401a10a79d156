"""DeviceRunner: steps on a device that feeds its own tokens back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import kernels
from backend.errors import InternalError
from backend.models import Model
from backend.ops.cuda_ops import CudaOps
from backend.runner.batch_builder import build_batch
from backend.runner.decode_graphs import DecodeGraphs
from backend.runner.decode_rows import DecodeRows
from backend.runner.device_sampler import DeviceSampler, SampledRows
from backend.runner.media_encoder import MediaEncoder
from backend.runner.runner import ChunkResult, Computation, Computed, ModelRunner
from backend.runner.seats import Seats
from backend.scheduler import Chunk, Request

log = logging.getLogger("ernie_engine")

MAX_GRAPH_ROWS = 256


class DeviceRunner(ModelRunner):
    """A step of nothing but decodes is one recorded graph; any other is launched kernel by kernel,
    which its prefill hides. Tokens are sampled on the device, stay there for the next step, and
    come to the host meanwhile.
    """

    runs_ahead = True

    def __init__(
        self,
        model: Model,
        encoder: MediaEncoder,
        num_blocks: int,
        block_size: int,
        num_token_ids: int,
        *,
        max_num_seqs: int,
        max_model_len: int,
    ) -> None:
        super().__init__(model, encoder, num_blocks, block_size, num_token_ids)
        ops = model.ops
        if not isinstance(ops, CudaOps):
            raise TypeError(f"DeviceRunner needs CudaOps; the model has {type(ops).__name__}")
        self._context = ops.context
        self._ops = ops
        self._device_model = model
        # Twice as many: the seats of a step that just ended are still taken.
        num_seats = 2 * max_num_seqs
        self._seats = Seats(num_seats)
        self._latest = self._context.zeros((num_seats,), kernels.i32)
        self._device_sampler = DeviceSampler(
            kernels,
            self._context,
            self._latest,
            max_rows=max_num_seqs,
            vocab_size=model.config.vocab_size,
            num_token_ids=num_token_ids,
        )
        max_blocks = -(-max_model_len // block_size)
        max_rows = min(max_num_seqs, MAX_GRAPH_ROWS)
        self._rows = DecodeRows(max_rows, max_blocks, block_size)
        self._graphs = DecodeGraphs(
            kernels,
            model,
            self._kv_cache,
            self._device_sampler,
            self._latest,
            max_rows,
            max_blocks,
            block_size,
        )
        self._graphs.record_all()

    def may_run_ahead(self, request: Request) -> bool:
        return self._device_sampler.may_run_ahead(request.sampling)

    def forget(self, request: Request) -> None:
        self._seats.forget(request)
        self._rows.forget(request)
        self._device_sampler.forget(request.sampling)

    def submit(self, chunks: Sequence[Chunk]) -> Computation:
        """Launch a step. One that does not fit the device's memory fails, and nothing else does.

        Raises CudaError for any other failure of the device: its context is then lost, and with it
        the weights. `results` raises it too.
        """
        try:
            return self._submit(chunks)
        except kernels.OutOfMemoryError:
            log.exception("a step of %d requests does not fit the device's memory", len(chunks))
        # Only here: the traceback has let go of the step's tensors.
        self._context.trim()
        error = InternalError("the device ran out of memory while it computed this request")
        return Computed([error] * len(chunks))

    def _submit(self, chunks: Sequence[Chunk]) -> Computation:
        size = self._graphs.size_for(len(chunks))
        if size is not None and all(_is_plain_decode(chunk) for chunk in chunks):
            return self._submit_decode(chunks, size)
        return self._submit_mixed(chunks)

    def _submit_decode(self, chunks: Sequence[Chunk], size: int) -> Computation:
        rows = self._rows.fill(chunks, size)
        seats = self._seats.take(rows.requests)
        token_ids = np.empty(size, dtype=np.int32)
        token_ids[: len(chunks)] = list(map(_input_token, rows.requests, seats))
        # Rows that repeat row 0 take its token too.
        token_ids[len(chunks) :] = token_ids[0]
        states = [request.sampling for request in rows.requests]
        prepared = self._device_sampler.prepare(states, seats, size)
        self._graphs.launch(size, rows, token_ids, prepared.settings)
        order = {request: row for row, request in enumerate(rows.requests)}
        sampled = self._device_sampler.read_back(prepared)
        return _OnDevice(sampled, [order[chunk.request] for chunk in chunks])

    def _submit_mixed(self, chunks: Sequence[Chunk]) -> Computation:
        failed: dict[Chunk, ChunkResult] = {}
        parts: list[Any] = []
        ready: list[Chunk] = []
        for chunk in chunks:
            try:
                parts += self._media_parts(chunk)
                ready.append(chunk)
            except Exception as error:
                if _is_fatal(error):
                    raise
                log.exception("cannot encode the media of %s", chunk.request.stream_key)
                failed[chunk] = InternalError("a picture or video could not be encoded")
        if not ready:
            return Computed([failed[chunk] for chunk in chunks])
        logits = self._forward_on_device(ready, parts)
        last = [chunk for chunk in ready if chunk.is_last]
        sampled = self._sample(last, logits) if last else None
        order = {chunk: row for row, chunk in enumerate(last)}
        return _OnDevice(sampled, [order.get(chunk) for chunk in chunks], failed, chunks)

    def _sample(self, chunks: Sequence[Chunk], logits: Any) -> SampledRows:
        """One row of logits for each chunk."""
        sampler = self._device_sampler
        seats = self._seats.take(chunk.request for chunk in chunks)
        states = [chunk.request.sampling for chunk in chunks]
        prepared = sampler.prepare(states, seats, len(chunks))
        sampler.run(logits, self._context.upload(prepared.settings))
        return sampler.read_back(prepared)

    def _forward_on_device(self, chunks: list[Chunk], parts: list[Any]) -> Any:
        """Logits of the chunks that are last; tokens that are pending come from their seats."""
        embeddings = self._ops.concat_rows(parts) if parts else None
        batch = build_batch(chunks, self._block_size, embeddings)
        for chunk, row in zip(chunks, batch.query_starts.tolist(), strict=False):
            if chunk.request.num_pending:
                [seat] = self._seats.take([chunk.request])
                batch.token_ids[row] = _input_token(chunk.request, seat)
        step = self._device_model.begin_step(batch, self._kv_cache)
        return self._device_model.run(replace(step, latest=self._latest), self._kv_cache)


@dataclass(frozen=True)
class _OnDevice:
    """`row_of` each chunk among the sampled rows; None without a token. `sampled`: None without
    rows."""

    sampled: SampledRows | None
    row_of: Sequence[int | None]
    failed: dict[Chunk, ChunkResult] | None = None
    chunks: Sequence[Chunk] = ()

    def results(self) -> list[ChunkResult]:
        tokens = [] if self.sampled is None else self.sampled.tokens()
        results: list[ChunkResult] = [None if row is None else tokens[row] for row in self.row_of]
        if self.failed:
            results = [self.failed.get(c, r) for c, r in zip(self.chunks, results, strict=True)]
        return results


def _is_fatal(error: Exception) -> bool:
    """The device's context is lost."""
    is_device = isinstance(error, kernels.CudaError)
    return is_device and not isinstance(error, kernels.OutOfMemoryError)


def _input_token(request: Request, seat: int) -> int:
    """The newest token, or where the device has it (see CudaStep)."""
    if request.num_pending:
        return -1 - seat
    return int(request.token_ids(request.num_tokens - 1, request.num_tokens)[0])


def _is_plain_decode(chunk: Chunk) -> bool:
    """One token, with a result, that is no placeholder of a picture."""
    request = chunk.request
    return (
        chunk.num_tokens == 1
        and chunk.is_last
        and (chunk.start >= request.num_prompt_tokens or not request.is_vision[chunk.start])
    )
