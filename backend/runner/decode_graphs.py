"""Decode steps recorded once per batch size and launched as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from backend.models import Model
from backend.ops.cuda_ops import CudaOps
from backend.ops.cuda_step import CudaStep, are_long
from backend.runner.decode_inputs import DecodeInputs
from backend.runner.decode_rows import FilledRows
from backend.runner.device_sampler import DeviceSampler

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Batch sizes that are recorded; a batch runs as the next larger one. Those whose contexts can be
long (see are_long) are recorded once more for that."""


class DecodeGraphs:
    """Owns the device arrays that recorded steps read. One step at a time is on its way in the
    device's stream, so all batch sizes share the block tables, which seldom change; what every step
    brings anew each size has for itself, so that it comes in one copy.

    `latest` int32 [seats]: each request's newest token, fed back without the host.
    """

    def __init__(
        self,
        kernels: Any,
        model: Model,
        kv_cache: Any,
        sampler: DeviceSampler,
        latest: Any,
        max_rows: int,
        max_blocks: int,
        block_size: int,
    ) -> None:
        ops = model.ops
        if not isinstance(ops, CudaOps):
            raise TypeError(f"decode graphs need CudaOps; the model has {type(ops).__name__}")
        self._context = ops.context
        self._rope = ops.rope(model.rope)
        self._model = model
        self._kv_cache = kv_cache
        self._sampler = sampler
        self._latest = latest
        self._max_blocks = max_blocks
        self._max_context = max_blocks * block_size
        self.sizes = (*(size for size in BUCKETS if size < max_rows), max_rows)
        self._tables = self._context.zeros((max_rows * max_blocks,), kernels.i32)
        self._inputs = {size: DecodeInputs(kernels, self._context, size) for size in self.sizes}
        self._recorded: dict[tuple[int, bool], Any] = {}

    def size_for(self, num_rows: int) -> int | None:
        """The smallest recorded batch that holds `num_rows`; None beyond the largest."""
        return next((size for size in self.sizes if size >= num_rows), None)

    def record_all(self) -> None:
        """Record every size, the largest first: the others then find its memory idle."""
        shared = None
        kinds = [
            (size, is_long)
            for size in self.sizes[::-1]
            for is_long in (False, True)
            if not is_long or are_long(np.full(size, self._max_context, dtype=np.int32))
        ]
        for kind in tqdm(kinds, desc="Capturing CUDA graphs"):
            self.run(*kind)  # kernels and their settings are loaded outside of a recording
            self._context.synchronize()
            graph = self._context.capture(shared)
            with graph:
                self.run(*kind)
            self._recorded[kind] = graph
            shared = shared or graph

    def launch(
        self,
        size: int,
        rows: FilledRows,
        token_ids: NDArray[np.int32],
        settings: NDArray[np.uint8],
    ) -> None:
        """Fill the arrays and launch.

        token_ids int32 [size]: see CudaStep. settings uint8 [size, 64]: what the sampler prepared.
        """
        for update in rows.updates:
            start = update.row * self._max_blocks + update.start
            self._tables.slice(start, start + len(update.block_ids)).copy_from(update.block_ids)
        self._inputs[size].fill(
            settings=settings,
            slots=rows.slots,
            positions=rows.positions,
            context_lens=rows.context_lens,
            token_ids=token_ids,
        )
        self._recorded[size, are_long(rows.context_lens[: len(rows.requests)])].launch()

    def run(self, size: int, has_long_contexts: bool) -> None:
        """What is recorded, launched kernel by kernel."""
        inputs = self._inputs[size]
        step = CudaStep(
            rope=self._rope,
            token_ids=inputs.token_ids,
            latest=self._latest,
            positions=inputs.positions,
            slots=inputs.slots,
            context_lens=inputs.context_lens,
            block_tables=self._tables.slice(0, size * self._max_blocks).view(
                (size, self._max_blocks)
            ),
            num_logit_rows=size,
            has_long_contexts=has_long_contexts,
        )
        self._sampler.run(self._model.run(step, self._kv_cache), inputs.settings)
