"""The clients' programs do tell a wrong answer from a right one."""

from __future__ import annotations

import pytest

from tests.conformance.clients.conversation import (
    QUESTIONS,
    Streamed,
    ToolRound,
    WrongAnswer,
    check,
)

pytestmark = pytest.mark.conformance

RIGHT = {
    "chat": "I am ERNIE.",
    "vision": "The picture shows a red star.",
    "tools": ToolRound({"city": "Beijing"}, "It is sunny at 21 degrees."),
    "streaming": Streamed(["The moon", " and my home"]),
    "structured": {"colour": "red", "shape": "star"},
}
WRONG = [
    ("chat", ""),
    ("vision", "The picture shows a blue star."),
    ("tools", ToolRound({"city": "Paris"}, "It is sunny at 21 degrees.")),
    ("tools", ToolRound({}, "It is sunny at 21 degrees.")),
    ("tools", ToolRound({"city": "Beijing"}, "I do not know.")),
    ("streaming", Streamed(["The moon and my home"])),
    ("streaming", Streamed(["The moon", "", " and my home"])),
    ("streaming", Streamed(["The sun", " and my home"])),
    ("structured", {"colour": "red"}),
    ("structured", {"colour": "red", "shape": "star", "size": 1}),
    ("structured", {"colour": "red", "shape": "house"}),
    ("structured", '{"colour": "red", "shape": "star"}'),
]


def test_right_answers_pass():
    assert RIGHT.keys() == QUESTIONS.keys()
    for name, answer in RIGHT.items():
        check(name, answer)


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_a_wrong_answer_is_refused(name, answer):
    with pytest.raises(WrongAnswer):
        check(name, answer)
