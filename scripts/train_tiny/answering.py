"""Greedy answers of the transformers model to held-out samples, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .chunk import Chunk
from .forward import Step, TrainingForward
from .judging import Case, Reply
from .pool import Pool
from .prompt import Example, Prompter


class TorchAnswerer:
    """`model`: an Ernie4_5_VLMoeForConditionalGeneration; its own forward pass decodes."""

    def __init__(
        self, model: Any, prompter: Prompter, vision_ids: tuple[int, ...], device: torch.device
    ) -> None:
        self._model = model.to(device).eval()
        self._prompter = prompter
        self._vision_ids = vision_ids
        self._device = device
        self._forward = TrainingForward(model, ragged_kernel=False).to(device).eval()

    @torch.inference_mode()
    def answers(
        self, cases: Sequence[Case], batch_size: int, max_new_tokens: int = 320
    ) -> Iterator[tuple[Case, Reply]]:
        """Each case with its reply; cases of like length are answered together."""
        examples = [self._prompter.example(case.sample) for case in cases]
        order = sorted(range(len(cases)), key=lambda i: examples[i].num_prompt)
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            texts = self._generate([_prompt_only(examples[i]) for i in chosen], max_new_tokens)
            for i, text in zip(chosen, texts, strict=True):
                yield cases[i], Reply.of_text(text, cases[i].sample.thinking)

    def _generate(self, examples: Sequence[Example], max_new_tokens: int) -> list[str]:
        embeddings, mask, positions, kinds = self._prompts(examples)
        language, head = self._model.model.language_model, self._model.lm_head
        output = language(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            moe_mm_token_type_ids=kinds,
            use_cache=True,
        )
        following = positions.amax(dim=(0, 2)) + 1
        eos = self._prompter.tokenizer.eos_token_id
        written: list[list[int]] = [[] for _ in examples]
        done = np.zeros(len(examples), bool)
        for _ in range(max_new_tokens):
            ids = head(output.last_hidden_state[:, -1]).argmax(dim=-1)
            for row, token in enumerate(ids.tolist()):
                if token == eos:
                    done[row] = True
                elif not done[row]:
                    written[row].append(token)
            if done.all():
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            output = language(
                input_ids=ids[:, None],
                attention_mask=mask,
                position_ids=following[None, :, None].expand(3, -1, 1),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
            following = following + 1
        return [self._prompter.tokenizer.decode(ids, False) for ids in written]

    def _prompts(self, examples: Sequence[Example]) -> tuple[torch.Tensor, ...]:
        """Left-padded embeddings [b, s, H], mask [b, s], positions [3, b, s], expert kinds."""
        chunk, patches = Chunk.of(examples, [0] * len(examples))
        # A pool's room for tokens counts on short examples; tool lists are three times as long.
        room = 3 * len(examples)
        pool = Pool(len(patches) + 1, room, self._device, self._vision_ids, rectangles=True)
        pool.add(chunk, patches)
        step = pool.step(np.arange(len(examples))).to(self._device)
        rows = self._forward.embed(step, pool.patches)
        return self._padded(step, rows, np.array([len(e.token_ids) for e in examples]))

    def _padded(
        self, step: Step, rows: torch.Tensor, lengths: np.ndarray
    ) -> tuple[torch.Tensor, ...]:
        longest, count = int(lengths.max()), len(lengths)
        vision = torch.zeros(len(rows), dtype=torch.int32, device=self._device)
        vision[step.vision_rows] = 1
        embeddings = rows.new_zeros((count, longest, rows.shape[-1]))
        mask = torch.zeros((count, longest), dtype=torch.long, device=self._device)
        positions = torch.zeros((3, count, longest), dtype=torch.long, device=self._device)
        kinds = torch.zeros((count, longest), dtype=torch.int32, device=self._device)
        start = 0
        for row, size in enumerate(lengths.tolist()):
            span = slice(start, start + size)
            embeddings[row, -size:] = rows[span]
            mask[row, -size:] = 1
            positions[:, row, -size:] = step.positions[:, span]
            kinds[row, -size:] = vision[span]
            start += size
        return embeddings, mask, positions, kinds


def _prompt_only(example: Example) -> Example:
    count = example.num_prompt
    return dataclasses.replace(
        example, token_ids=example.token_ids[:count], positions=example.positions[:, :count]
    )
