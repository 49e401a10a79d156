"""Held-out samples that the shipped checkpoint is asked about, and how often it must be right.

The same list for the engine alone and for the whole service. It is the first samples of every task,
whatever their answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from scripts.train_tiny.judging import THRESHOLDS, Case, Verdict
from scripts.train_tiny.mixture import held_out_sample
from scripts.train_tiny.sample import Sample

SEED = 7
MAX_INDEX = 200


@dataclass(frozen=True, slots=True)
class Quota:
    """`asked` samples in each language, about half of them thinking.

    `required` is the share of right answers, by default what the whole skill must reach; of so few
    that is all of them. `lower` where one of these few is wrong although the skill reaches its
    level; the number behind it is what the checkpoint's card tells of the task on many samples.
    """

    skill: str
    asked: int
    lower: float | None = None

    @property
    def required(self) -> float:
        return THRESHOLDS[self.skill] if self.lower is None else self.lower


QUOTAS = {
    "picture_colour": Quota("pictures", 4),
    "picture_shape": Quota("pictures", 2),
    "picture_position": Quota("pictures", 2),
    "picture_what_at": Quota("pictures", 2),
    "picture_describe": Quota("pictures", 2),
    "picture_count": Quota("pictures", 3, 0.8),  # 90.0 %
    "picture_presence": Quota("pictures", 2),
    "read_number": Quota("reading", 3),
    "read_word": Quota("reading", 4),
    "compare_more": Quota("comparing", 2),
    "compare_which": Quota("comparing", 2),
    "compare_in_one": Quota("comparing", 2),
    "compare_difference": Quota("comparing", 2, 0.75),  # 100.0 %
    "film_follow": Quota("films", 2),
    "film_ends": Quota("films", 2),
    "film_count": Quota("films", 2),
    "film_time": Quota("films", 3),
    "tool_call": Quota("tools", 8),
    "tool_result": Quota("tools", 3),
    "tool_unneeded": Quota("tools", 1),
    "chat": Quota("chat", 4),
}


def questions() -> list[Case]:
    """English and Chinese, thinking and not, in an order that mixes the tasks."""
    by_task: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for skill in dict.fromkeys(quota.skill for quota in QUOTAS.values()):
        for language in ("en", "zh"):
            _collect(by_task, skill, language)
    turns = max(map(len, by_task.values()))
    return [cases[turn] for turn in range(turns) for cases in by_task.values() if turn < len(cases)]


# Calls whose everyday functions and parameters have the names that training leaves out.
UNSEEN_CALLS = Quota("tools", 24)


def unseen_calls() -> list[Case]:
    """The first of them in each language."""
    cases = []
    for first, language in ((0, "en"), (MAX_INDEX, "zh")):
        found = [
            Case("tools", index, sample)
            for index in range(first, first + MAX_INDEX)
            if (sample := _reserved(index, language)).task == "tool_call"
        ]
        cases += found[: UNSEEN_CALLS.asked]
    return cases


def _reserved(index: int, language: str) -> Sample:
    thinking = bool(index % 2)
    return held_out_sample("tools", SEED, index, language, thinking, excluded=True)


def _collect(by_task: dict[tuple[str, str], list[Case]], skill: str, language: str) -> None:
    left = {task: quota.asked for task, quota in QUOTAS.items() if quota.skill == skill}
    first = 0 if language == "en" else MAX_INDEX  # other pictures than in English
    for index in range(first, first + MAX_INDEX):
        if not any(left.values()):
            return
        sample = held_out_sample(skill, SEED, index, language, thinking=bool(index % 2))
        if left.get(sample.task, 0):
            left[sample.task] -= 1
            by_task[sample.task, language].append(Case(skill, index, sample))
    raise AssertionError(f"{MAX_INDEX} samples of {skill} hold too few of {left}")


def assert_skilled(verdicts: Iterable[Verdict]) -> None:
    """Every task reaches its share; a failure shows what was asked, expected and answered."""
    by_task: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_task[verdict.case.sample.task].append(verdict)
    assert by_task.keys() == QUOTAS.keys()
    poor = []
    for task, mine in by_task.items():
        wrong = [verdict for verdict in mine if not verdict.right]
        if len(mine) - len(wrong) < QUOTAS[task].required * len(mine):
            poor.append(f"{task}: {len(wrong)} of {len(mine)} wrong")
            poor += [
                f"    expected {verdict.case.sample.answer_text()!r}, got {verdict.reply}"
                for verdict in wrong
            ]
    assert not poor, "\n".join(poor)
