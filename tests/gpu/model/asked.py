"""What the shipped checkpoint is asked on a GPU: the same prompts for the engine and the oracle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from backend.engine.core import EngineCore
from backend.media.item import merged_grid
from backend.media.positions import rotary_positions
from backend.request import SamplingParams
from backend.wire import EngineOutput, EngineRequest, MediaSpan
from scripts.train_tiny.judging import Case
from scripts.train_tiny.mixture import held_out_sample
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.prompt import Example, Prompter
from tests.oracle.prompts import Prompt

SEED = 11
SKILLS = ("pictures", "chat", "comparing", "films", "reading", "tools")


@dataclass(frozen=True)
class Asked:
    case: Case
    example: Example

    @property
    def ids(self) -> np.ndarray:
        return self.example.token_ids[: self.example.num_prompt]

    def arguments(self, key: str, sampling: dict[str, Any]) -> tuple:
        """For EngineCore.add; greedy unless `sampling` says otherwise."""
        request = EngineRequest(
            stream_key=key,
            request_id=key,
            sampling=SamplingParams(**{"temperature": 0.0, "max_tokens": 64, **sampling}),
            media=self._spans(),
        )
        patches = [item.patches for item in self.example.items]
        pixels = np.concatenate(patches) if patches else None
        return request, self.ids, self.example.positions[:, : self.example.num_prompt], pixels

    def prompt(self, answer: Sequence[int], placeholder: int, video_id: int, boundary) -> Prompt:
        """Prompt and answer for the oracle, which wants an id of its own for films."""
        ids = np.array([*self.ids, *answer], dtype=np.int32)
        is_media = ids == placeholder
        is_vision = is_media | np.isin(ids, boundary)
        grids = [(span.offset, merged_grid(span.kind, span.grid)) for span in self._spans()]
        positions = rotary_positions(len(ids), grids)
        for span in self._spans():
            if span.kind == "video":
                ids[span.offset : span.offset + span.num_tokens] = video_id
        patches = [item.patches for item in self.example.items]
        return Prompt(
            ids=ids,
            positions=positions,
            is_media=is_media,
            is_vision=is_vision,
            grids=tuple(item.grid for item in self.example.items),
            patches=np.concatenate(patches) if patches else np.zeros((0, 588), np.uint8),
        )

    def _spans(self) -> tuple[MediaSpan, ...]:
        spans, row = [], 0
        for item, offset in zip(self.example.items, self.example.offsets, strict=True):
            span = MediaSpan(item.kind, offset, item.num_tokens, item.grid, row, item.digest)
            spans.append(span)
            row += len(item.patches)
        return tuple(spans)


@cache
def prompter() -> Prompter:
    return Prompter(CHECKPOINT)


def ask_about(case: Case) -> Asked:
    return Asked(case, prompter().example(case.sample))


@cache
def asked(count: int) -> tuple[Asked, ...]:
    """Text, pictures, several pictures and films by turns, English and Chinese, thinking or not."""
    cases = []
    for index in range(count):
        skill = SKILLS[index % len(SKILLS)]
        turn = index // len(SKILLS)
        language = ("en", "zh")[turn % 2]
        sample = held_out_sample(skill, SEED, turn, language, thinking=bool(turn // 2 % 2))
        cases.append(Case(skill, turn, sample))
    return tuple(map(ask_about, cases))


def answers(core: EngineCore, questions: Iterable[Asked], **sampling: Any) -> list[list[int]]:
    """Token ids of each greedy answer, all in the engine at once."""
    keys = []
    for index, question in enumerate(questions):
        keys.append(f"q{index}")
        core.add(*question.arguments(keys[-1], sampling))
    tokens = drain(core)
    return [[token_id for output in tokens[key] for token_id in ids_of(output)] for key in keys]


def drain(core: EngineCore) -> dict[str, list[EngineOutput]]:
    """Step until nothing is left: outputs by stream."""
    outputs: dict[str, list[EngineOutput]] = defaultdict(list)
    while core.has_work():
        for output in core.step():
            assert output.error is None, output.error
            outputs[output.stream_key].append(output)
    core.check_integrity()
    return outputs


def ids_of(output: EngineOutput) -> list[int]:
    """With the token that stopped the answer."""
    stop = output.stop_token_id
    return output.token_ids if stop is None else [*output.token_ids, stop]
