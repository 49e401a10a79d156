"""Practised names are valid and fresh, and none is one of those kept for measuring."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from scripts.train_tiny.judging import Case, Reply, judge, report_names
from scripts.train_tiny.mixture import held_out_sample, make_sample, random_of
from scripts.train_tiny.naming import fresh_name, like, normal, parts_of
from scripts.train_tiny.pool import LONGEST_SEQUENCE, Limits
from scripts.train_tiny.prompt import Prompter
from scripts.train_tiny.sample import Sample, ToolCall
from scripts.train_tiny.shown import names_in, shown
from scripts.train_tiny.tasks.domains import DOMAINS, RESERVED

VALID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _practised(count: int) -> list[Sample]:
    made = (
        make_sample("practice_calls", random_of(20, index, False), False, index % 2 == 0)
        for index in range(count)
    )
    return list(made)


def test_practised_names_are_valid_and_hardly_ever_the_same() -> None:
    names = [fresh_name(random_of(21, index, False)) for index in range(500)]
    assert all(VALID.fullmatch(name) for name in names)
    assert len(set(names)) > 430


@pytest.mark.parametrize("name", ["get_weather", "getUserData", "poux-rocket-phone", "q", "a_1"])
def test_a_twin_shares_a_part_with_the_name_that_it_is_like(name: str) -> None:
    for index in range(50):
        twin = like(random_of(22, index, False), name)
        assert VALID.fullmatch(twin)
        assert set(parts_of(twin)) & set(parts_of(name)), twin


def test_a_name_kept_for_measuring_is_practised_in_no_spelling() -> None:
    kept = set(map(normal, RESERVED))
    assert {"control_light", "stock_symbol", "getUserData"} <= RESERVED
    assert normal("controlLight") in kept
    for sample in _practised(600):
        assert not kept & set(map(normal, names_in(sample)))


def test_measured_names_that_training_leaves_out_are_the_reserved_ones() -> None:
    topics = {domain.description for domain in DOMAINS}
    found = 0
    for index in range(80):
        sample = held_out_sample("tools", 23, index, "en", False, excluded=True)
        for tool in sample.tools:
            function = tool["function"]
            if function.get("description") in topics:
                assert {function["name"], *function["parameters"]["properties"]} <= RESERVED
                found += 1
    assert found


def test_a_practised_call_names_a_listed_tool_and_fits_its_schema() -> None:
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}
    lists = set()
    for sample in _practised(300):
        tools = {tool["function"]["name"]: tool["function"] for tool in sample.tools}
        assert len(tools) == len(sample.tools)
        lists.add(len(tools))
        assert isinstance(sample.answer, ToolCall)
        properties = tools[sample.answer.name]["parameters"]["properties"]
        for key, value in sample.answer.arguments.items():
            assert isinstance(value, types[properties[key]["type"]])
    assert lists == {1, 2, 3, 4}


def test_no_practised_question_leaves_open_which_tool_is_right() -> None:
    for sample in _practised(400):
        told = [tool["function"].get("description", "") for tool in sample.tools]
        shown = [text for text in told if text]
        assert len(shown) == len(set(shown))
        (right,) = (t for t in sample.tools if t["function"]["name"] == sample.answer.name)  # type: ignore[union-attr]
        content = sample.messages[-1]["content"]
        question = content if isinstance(content, str) else content[0]["text"]
        if not right["function"].get("description") and sample.answer.name not in question:  # type: ignore[union-attr]
            assert len(told) - len(shown) == 1


def test_practised_samples_fit_into_the_pools_longest_sequence(prompter: Prompter) -> None:
    longest = max(
        len(prompter.example(replace(sample, thinking=True)).token_ids)
        for sample in _practised(300)
    )
    assert 400 < longest < LONGEST_SEQUENCE


def test_a_smaller_share_of_media_leaves_its_room_to_text() -> None:
    usual, less = Limits(40_960), Limits(40_960, media_share=0.5)
    assert (usual.text, usual.vision, usual.patches) == (25_600, 17_920, 102_400)
    assert (less.vision, less.patches) == (8_960, 51_200)
    assert less.text == 40_960 - 15_360 // 2


def test_calls_with_a_name_never_shown_are_told_apart() -> None:
    names = set(shown(3, "calls", 60))
    assert len(names) > 100
    case = Case("tools", 0, held_out_sample("tools", 24, 2, "en", False))
    right = Reply("", "", case.sample.answer) if isinstance(case.sample.answer, ToolCall) else None
    right = right or Reply("", str(case.sample.answer))
    verdicts = [judge(case, right), judge(case, Reply("", "no"))]
    told = report_names(verdicts, lambda sample: not names.issuperset(names_in(sample)))
    assert told.splitlines()[-1] == f"| {case.sample.task} | 0 of 0 (100.0%) | 1 of 2 (50.0%) |"
