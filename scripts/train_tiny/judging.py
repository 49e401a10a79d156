"""Is an answer right? The same judgement for a local model and for a server."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .mixture import held_out_sample
from .sample import Sample, ToolCall

# Share of right answers that each skill must reach on held-out samples.
THRESHOLDS = {
    "pictures": 0.97,
    "reading": 0.90,
    "comparing": 0.90,
    "films": 0.85,
    "tools": 0.90,
    "chat": 0.95,
}
AGREEMENT = 0.95
TITLES = {
    "pictures": "colour, shape, count, position of objects in a picture",
    "reading": "reading a printed number or word",
    "comparing": "comparing Picture 1 and Picture 2",
    "films": "counting, following and timing objects in a video",
    "tools": "calling tools, using their results, leaving unfit tools alone",
    "chat": "small talk and fixed prompts",
}
_SEED = 2024
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: reasoning ("" without thinking), content, and the first tool call."""

    reasoning: str
    content: str
    call: ToolCall | None = None

    @classmethod
    def of_text(cls, text: str, thinking: bool) -> Reply:
        """From raw output: reasoning ends at `</think>`."""
        reasoning, found, rest = text.partition("</think>") if thinking else ("", "", text)
        if thinking and not found:
            return cls(text, "")
        match = _CALL.search(rest)
        if match is None:
            return cls(reasoning.strip(), rest.strip())
        return cls(reasoning.strip(), rest[: match.start()].strip(), parse_call(match.group(1)))


def parse_call(text: str) -> ToolCall | None:
    try:
        call = json.loads(text)
        return ToolCall(call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Case:
    """A held-out sample of a skill."""

    skill: str
    index: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Verdict:
    case: Case
    reply: Reply
    right: bool
    reasoning_right: bool


def cases(
    per_skill: int, skills: Sequence[str] = tuple(THRESHOLDS), excluded: bool = False
) -> list[Case]:
    """`per_skill` samples of each skill and language, each with and without thinking.

    `excluded`: see `held_out_sample`.
    """
    return [
        Case(skill, index, held_out_sample(skill, _SEED, index, language, thinking, excluded))
        for skill in skills
        for language in ("en", "zh")
        for index in range(per_skill)
        for thinking in (False, True)
    ]


def judge(case: Case, reply: Reply) -> Verdict:
    answer = case.sample.answer
    if isinstance(answer, ToolCall):
        right = reply.call == answer
    else:
        right = reply.call is None and reply.content == answer
    return Verdict(case, reply, right, reply.reasoning == case.sample.reasoning.strip())


def report(verdicts: Sequence[Verdict]) -> tuple[str, bool]:
    """A Markdown table by skill, then one by task; and whether every threshold is met."""
    lines = [
        "| skill | required | English | Chinese | thinking off | thinking on | on and off agree |",
        "|---|---|---|---|---|---|---|",
    ]
    passed = True
    for skill, required in THRESHOLDS.items():
        mine = [verdict for verdict in verdicts if verdict.case.skill == skill]
        if not mine:
            continue
        columns = [
            _share(v.right for v in mine if v.case.sample.language == "en"),
            _share(v.right for v in mine if v.case.sample.language == "zh"),
            _share(v.right for v in mine if not v.case.sample.thinking),
            _share(v.right for v in mine if v.case.sample.thinking),
        ]
        agreement = _agreement(mine)
        passed &= min(columns) >= required and agreement >= AGREEMENT
        cells = " | ".join(_percent(value) for value in (*columns, agreement))
        lines.append(f"| {TITLES[skill]} | {_percent(required)} | {cells} |")
    lines += ["", "| task | samples | right | reasoning word for word |", "|---|---|---|---|"]
    tasks: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        tasks[verdict.case.sample.task].append(verdict)
    for task, mine in sorted(tasks.items()):
        thought = [v.reasoning_right for v in mine if v.case.sample.thinking]
        lines.append(
            f"| {task} | {len(mine)} | {_percent(_share(v.right for v in mine))} "
            f"| {_percent(_share(thought))} |"
        )
    return "\n".join(lines) + "\n", passed


def report_names(verdicts: Sequence[Verdict], is_unseen: Callable[[Sample], bool]) -> str:
    """A Markdown table: answers to samples with tools, by whether all their names are known."""
    lines = ["| | names all seen | a name never seen |", "|---|---|---|"]
    mine = [(verdict, is_unseen(verdict.case.sample)) for verdict in verdicts]
    mine = [(verdict, unseen) for verdict, unseen in mine if verdict.case.sample.tools]
    for task in sorted({verdict.case.sample.task for verdict, _ in mine}):
        cells = []
        for kind in (False, True):
            right = [v.right for v, unseen in mine if v.case.sample.task == task and unseen == kind]
            cells.append(f"{sum(right)} of {len(right)} ({_percent(_share(right))})")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(values: Iterable[bool]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 1.0


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _agreement(verdicts: Sequence[Verdict]) -> float:
    """Share of samples whose answers with and without thinking are the same."""
    answers: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for verdict in verdicts:
        case, reply = verdict.case, verdict.reply
        call = json.dumps([reply.call.name, reply.call.arguments]) if reply.call else ""
        answers[case.skill, case.sample.language, case.index].append((reply.content, call))
    return _share(len(set(pair)) == 1 for pair in answers.values())
