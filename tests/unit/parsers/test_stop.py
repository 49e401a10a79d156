from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.parsers import StopMatcher


def run(matcher: StopMatcher, pieces: list[str]) -> str:
    return "".join([*map(matcher.push, pieces), matcher.finish()])


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """The plain way: the first end of any stop string, the longest that ends there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            return end, max(ending, key=len)
    return None


@settings(deadline=None)
@given(
    text=st.text("ab<", max_size=30),
    stops=st.lists(st.text("ab<", min_size=1, max_size=5), max_size=5),
    include=st.booleans(),
    size=st.integers(1, 7),
)
def test_it_finds_what_a_plain_search_finds(
    text: str, stops: list[str], include: bool, size: int
) -> None:
    matcher = StopMatcher(stops, include)
    output = run(matcher, [text[i : i + size] for i in range(0, len(text), size)])
    expected = first_stop(text, stops)
    if expected is None:
        assert (output, matcher.matched) == (text, None)
    else:
        end, stop = expected
        assert matcher.matched == stop
        assert output == text[: end if include else end - len(stop)]


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["END", "\n\n"])
    assert [matcher.push(p) for p in ("a", "E", "N", "x\n", "b", "E", "ND")] == [
        "a", "", "", "ENx", "\nb", "", "",
    ]  # fmt: skip
    assert matcher.matched == "END"
    assert matcher.push("more") == ""
    assert matcher.finish() == ""


def test_what_is_held_back_at_the_end_comes_out() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("theEN") == "the"
    assert matcher.finish() == "EN"


@pytest.mark.parametrize("stops", [[], [""]])
def test_nothing_to_find_passes_everything(stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    assert run(matcher, ["a", "b"]) == "ab"
    assert matcher.matched is None


def test_hostile_stops_take_linear_time() -> None:
    matcher = StopMatcher(["a" * n + "b" for n in range(200)])
    started = time.process_time()
    assert run(matcher, ["a" * 100] * 2000) == "a" * 200_000
    assert time.process_time() - started < 20
