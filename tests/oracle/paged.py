"""Runs prompts through a Model the way an engine does: scattered blocks, chunks, mixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.batch import Batch
from backend.models import Model
from tests.oracle.prompts import Prompt


@dataclass
class PagedPrompt:
    prompt: Prompt
    blocks: np.ndarray
    media: object | None
    done: int = 0
    logits: list[np.ndarray] = field(default_factory=list)


class PagedRunner:
    """Feeds prompts in the given portions and collects the logits of every token."""

    def __init__(
        self, model: Model, prompts: Sequence[Prompt], block_size: int = 4, seed: int = 0
    ) -> None:
        self._model = model
        self._block_size = block_size
        counts = [-(-len(prompt) // block_size) for prompt in prompts]
        # Shuffled and with one unused block more, so that no identity mapping can hide a mistake.
        order = np.random.RandomState(seed).permutation(sum(counts) + 1)
        self._cache = model.allocate_kv_cache(len(order), block_size)
        starts = np.cumsum([0, *counts])
        self.seqs = [
            PagedPrompt(
                prompt=prompt,
                blocks=order[start : start + count],
                media=model.encode_media(prompt.patches, prompt.grids) if prompt.grids else None,
            )
            for prompt, start, count in zip(prompts, starts, counts, strict=False)
        ]

    def step(self, portions: Sequence[int]) -> None:
        """Run the next portions[i] tokens of prompt i, all in one batch; 0 leaves it out."""
        members = [(s, n) for s, n in zip(self.seqs, portions, strict=True) if n]
        batch = self._batch(members)
        logits = self._model.ops.to_numpy(self._model.forward(batch, self._cache))
        start = 0
        for seq, count in members:
            seq.logits.append(logits[start : start + count])
            seq.done += count
            start += count

    def run(self, chunk: int) -> list[np.ndarray]:
        """All prompts to their ends, `chunk` tokens of each per batch: logits [n, V] of each."""
        while any(seq.done < len(seq.prompt) for seq in self.seqs):
            self.step([min(chunk, len(seq.prompt) - seq.done) for seq in self.seqs])
        return [np.concatenate(seq.logits) for seq in self.seqs]

    def _batch(self, members: list[tuple[PagedPrompt, int]]) -> Batch:
        spans = [(seq, np.arange(seq.done, seq.done + count)) for seq, count in members]
        lens = [len(span) for _, span in spans]
        tables = np.zeros((len(members), max(len(seq.blocks) for seq, _ in members)), np.int32)
        for row, (seq, _) in enumerate(members):
            tables[row, : len(seq.blocks)] = seq.blocks
        slots = [
            seq.blocks[span // self._block_size] * self._block_size + span % self._block_size
            for seq, span in spans
        ]
        is_media = np.concatenate([seq.prompt.is_media[span] for seq, span in spans])
        is_vision = np.concatenate([seq.prompt.is_vision[span] for seq, span in spans])
        return Batch(
            token_ids=np.concatenate([seq.prompt.ids[span] for seq, span in spans]),
            positions=np.concatenate([seq.prompt.positions[:, span] for seq, span in spans], 1),
            slot_mapping=np.concatenate(slots).astype(np.int64),
            query_starts=np.cumsum([0, *lens]).astype(np.int32),
            context_lens=np.array([span[-1] + 1 for _, span in spans], dtype=np.int32),
            block_tables=tables,
            logit_rows=np.arange(sum(lens), dtype=np.int32),
            vision_rows=np.flatnonzero(is_vision).astype(np.int32),
            media_rows=np.flatnonzero(is_media).astype(np.int32),
            media_embeddings=self._media(spans) if is_media.any() else None,
        )

    def _media(self, spans: list[tuple[PagedPrompt, np.ndarray]]) -> object:
        ops, parts = self._model.ops, []
        for seq, span in spans:
            before = int(seq.prompt.is_media[: span[0]].sum())
            count = int(seq.prompt.is_media[span].sum())
            if count:
                parts.append(ops.slice_rows(seq.media, before, before + count))
        return ops.concat_rows(parts)
