"""The Jinja template in the shipped folder makes the prompts that the checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chat_template import ChatTemplate, Family
from backend.tokenizer import Tokenizer
from backend.wire import Message, Tool
from scripts.train_tiny.mixture import make_sample, random_of
from scripts.train_tiny.processing import CHECKPOINT

TOKENIZER = Tokenizer.load(CHECKPOINT)
PIECES = (
    "Hi", "你好", " ", "\n", "\t", '"', "\\", "{", "'", "User: ", "<think>", "</think>", "</s>",
    "<|IMAGE_START|>", "<|image@placeholder|>", "<tool_call>", "<|end_of_sentence|>", "{{ 1 }}",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
NAMES = st.sampled_from(["get_weather", "a b", "名", "type", "</think>", '"'])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
ARGUMENTS = st.dictionaries(NAMES, JSON, max_size=3)
MEDIA = st.sampled_from(["image_url", "video_url"]).map(
    lambda kind: {"type": kind, kind: {"url": "media:0"}}
)
PARTS = st.lists(MEDIA | TEXTS.map(lambda text: {"type": "text", "text": text}), max_size=4)


@st.composite
def assistant_messages(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(TEXTS | st.none())}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(TEXTS)
    calls = draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=2))
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{i}", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]
    return message


MESSAGES = st.lists(
    st.one_of(
        TEXTS.map(lambda text: {"role": "system", "content": text}),
        (TEXTS | PARTS).map(lambda content: {"role": "user", "content": content}),
        assistant_messages(),
        (TEXTS | PARTS).map(lambda content: {"role": "tool", "content": content}),
    ),
    min_size=1,
    max_size=6,
)
TOOLS = st.lists(
    st.tuples(NAMES, TEXTS | st.none(), ARGUMENTS | st.none()).map(
        lambda tool: {
            "type": "function",
            "function": {"name": tool[0], "description": tool[1], "parameters": tool[2]},
        }
    ),
    max_size=2,
)


@pytest.fixture(scope="module")
def shipped() -> Iterator[ChatTemplate]:
    template = ChatTemplate.load(CHECKPOINT, TOKENIZER, is_multimodal=True)
    yield template
    template.close()


@pytest.fixture(scope="module")
def built_in() -> ChatTemplate:
    """What training used."""
    setting = Family.VL.value
    return ChatTemplate.load(CHECKPOINT, TOKENIZER, is_multimodal=True, setting=setting)


def assert_same_prompt(
    shipped: ChatTemplate,
    built_in: ChatTemplate,
    messages: Any,
    tools: Any = (),
    thinking: bool = True,
) -> None:
    request = (
        msgspec.convert(messages, list[Message]),
        msgspec.convert(tools, list[Tool]),
        {"enable_thinking": thinking},
    )
    mine, expected = shipped.render(*request), built_in.render(*request)
    assert mine.text == expected.text
    assert mine.tokenize(TOKENIZER) == expected.tokenize(TOKENIZER)
    assert mine.opens_reasoning == expected.opens_reasoning


def test_the_folder_brings_a_template() -> None:
    assert "<|begin_of_sentence|>" in (CHECKPOINT / "chat_template.jinja").read_text("utf-8")


@pytest.mark.parametrize(
    ("task", "count"),
    [("tools", 40), ("chat", 12), ("pictures", 4), ("comparing", 3), ("films", 2)],
)
def test_prompts_of_training_are_kept_token_by_token(
    shipped: ChatTemplate, built_in: ChatTemplate, task: str, count: int
) -> None:
    for index in range(count):
        sample = make_sample(task, random_of(11, index, True), False, bool(index % 2))
        assert_same_prompt(shipped, built_in, sample.messages, sample.tools, sample.thinking)


USER = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "function": {"name": "f", "arguments": {"a": "é", "b": [1.0, None]}}}
RESULT = {"role": "tool", "content": "7", "tool_call_id": "call_1"}
CORNERS: dict[str, list[dict[str, Any]]] = {
    "an answer with the blank line that clients send back": [
        {"role": "assistant", "content": "\n\nHello.\n"},
        USER,
    ],
    "reasoning of a tool loop, then a call": [
        {"role": "assistant", "content": "", "reasoning_content": "\nHm.\n", "tool_calls": [CALL]},
        RESULT,
    ],
    "reasoning of a tool loop, then a blank line and a call": [
        {"role": "assistant", "content": "\n", "reasoning_content": "Hm.", "tool_calls": [CALL]},
        RESULT,
    ],
    "reasoning of a tool loop, then words and two calls": [
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "Hm.",
            "tool_calls": [CALL, CALL],
        },
        RESULT,
        RESULT,
    ],
    "reasoning of an earlier loop": [
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]},
        RESULT,
        {"role": "assistant", "content": "7.", "reasoning_content": "So."},
        USER,
    ],
    "reasoning and nothing else": [{"role": "assistant", "reasoning_content": "Hm."}],
    "a later system message": [{"role": "system", "content": "Be kind."}, USER],
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners_of_a_conversation_are_kept(
    shipped: ChatTemplate, built_in: ChatTemplate, name: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for tools in ([], [tool], [tool, tool]):
        assert_same_prompt(shipped, built_in, [USER, *CORNERS[name]], tools)


@settings(deadline=None, max_examples=60)  # another process renders: its share of a core varies
@given(messages=MESSAGES, tools=TOOLS, thinking=st.booleans())
def test_any_conversation_gives_the_same_tokens(
    shipped: ChatTemplate, built_in: ChatTemplate, messages: Any, tools: Any, thinking: bool
) -> None:
    assert_same_prompt(shipped, built_in, messages, tools, thinking)


def test_transformers_renders_it_to_the_same_text(built_in: ChatTemplate) -> None:
    """With content as transformers' users write it, and plain Jinja instead of the worker."""
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "\n\nA circle."},
        {"role": "user", "content": "And now?"},
    ]
    (text,), _ = chat.render_jinja_template(
        conversations=[messages],
        chat_template=(CHECKPOINT / "chat_template.jinja").read_text("utf-8"),
        add_generation_prompt=True,
        enable_thinking=False,
    )
    expected = built_in.render(
        msgspec.convert(messages, list[Message]), kwargs={"enable_thinking": False}
    )
    assert text == expected.text
