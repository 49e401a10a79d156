from __future__ import annotations

from typing import Any

import pytest

from backend.chat_template.conversation import MediaPart, read_conversation, read_tools
from backend.errors import InvalidRequestError
from tests.unit.chat_template.messages import IMAGE, VIDEO, messages, text, tools, user


def refusal(*items: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        read_conversation(messages(*items))
    return caught.value


def call(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }


def test_an_unknown_role_is_named() -> None:
    error = refusal(user("a"), {"role": "wizard", "content": "b"})
    assert error.param == "messages[1].role"
    assert "'wizard'" in error.message
    assert "system, user, assistant, tool" in error.message


def test_other_names_of_roles_are_understood() -> None:
    turns = read_conversation(
        messages({"role": "developer", "content": "a"}, {"role": "bot", "content": "b"})
    )
    assert [turn.role for turn in turns] == ["system", "assistant"]


def test_no_messages_is_an_error() -> None:
    assert refusal().param == "messages"


def test_an_unknown_part_is_named() -> None:
    error = refusal(user([text("a"), {"type": "input_audio"}]))
    assert error.param == "messages[0].content[1].type"
    assert "'input_audio'" in error.message


def test_a_text_part_without_text_is_named() -> None:
    assert refusal(user([{"type": "text"}])).param == "messages[0].content[0].text"


def test_content_may_be_missing_null_a_text_a_part_or_parts() -> None:
    turns = read_conversation(
        messages(
            {"role": "assistant"},
            {"role": "assistant", "content": None},
            user("a"),
            user(text("b")),
            user([text("c"), IMAGE, text("")]),
            user([VIDEO]),
        )
    )
    assert [turn.parts for turn in turns] == [
        (),
        (),
        ("a",),
        ("b",),
        ("c", MediaPart("image", 0)),
        (MediaPart("video", 1),),
    ]


@pytest.mark.parametrize(
    ("sent", "read"),
    [("", {}), ('{"a": [1.5, null]}', {"a": [1.5, None]}), ({"a": 1}, {"a": 1}), ("[1]", [1])],
)
def test_arguments_are_read_as_json(sent: Any, read: Any) -> None:
    [turn] = read_conversation(messages(call(sent)))
    assert turn.calls[0].arguments == read


DEEP = "[" * 100 + "]" * 100


@pytest.mark.parametrize("sent", ["{", "{'a': 1}", "NaN", '{"a": 1e999}', "[" * 10**6, DEEP])
def test_arguments_that_are_no_json_are_named(sent: str) -> None:
    assert refusal(call(sent)).param == "messages[0].tool_calls[0].function.arguments"


def test_calls_of_a_user_are_refused() -> None:
    assert refusal({**call("{}"), "role": "user"}).param == "messages[0].tool_calls"


def test_reasoning_left_in_an_answer_is_taken_out() -> None:
    [turn] = read_conversation(
        messages({"role": "assistant", "content": "<think>\nWhy?\n</think>\n\nSo."})
    )
    assert (turn.parts, turn.reasoning) == (("\n\nSo.",), "\nWhy?")
    parts = [text("Why?</th"), text("ink>So.")]
    [turn] = read_conversation(messages({"role": "assistant", "content": parts}))
    assert (turn.parts, turn.reasoning) == (("So.",), "Why?")
    [turn] = read_conversation(messages(user("a</think>b")))
    assert turn.parts == ("a</think>b",)


def test_tools_keep_name_description_and_parameters_only() -> None:
    function = {"strict": True, "parameters": {}, "description": "d", "name": "f"}
    assert read_tools(tools({"function": function})) == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    ]
    assert read_tools(None) == []


def test_bad_tools_are_named() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    for tool, param in (
        ({"function": {"name": "f"}, "type": "code"}, "tools[0].type"),
        ({"function": {"name": ""}}, "tools[0].function.name"),
        ({"function": {"name": "f", "parameters": deep}}, "tools[0].function.parameters"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            read_tools(tools(tool))
        assert caught.value.param == param
