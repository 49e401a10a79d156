"""/v1/completions over the ASGI interface."""

from __future__ import annotations

from typing import Any

import pytest

from backend.request import FinishReason
from backend.wire import Event, EventLogprob, EventTopLogprob
from tests.unit.frontend.fake_triton import FakeTriton, finish, text

URL = "/v1/completions"


async def test_a_collected_completion_is_plain_text(make_client):
    triton = FakeTriton([text("Bei"), finish("jing", FinishReason.LENGTH)])
    reply = (await make_client(triton).post(URL, json={"prompt": "Capital?"})).json()
    assert reply["id"].startswith("cmpl-")
    assert reply["object"] == "text_completion"
    assert reply["choices"] == [
        {"index": 0, "text": "Beijing", "logprobs": None, "finish_reason": "length"}
    ]
    assert triton.sent[0].request.prompt == "Capital?"
    assert triton.sent[0].request.messages is None


async def test_a_streamed_completion_has_no_empty_chunks(make_client, parse_stream):
    triton = FakeTriton([text("Bei"), text(""), finish("jing")])
    reply = await make_client(triton).post(URL, json={"prompt": "x", "stream": True})
    *chunks, done = parse_stream(reply.text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Bei", "jing"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", ["one"]),
        ([1, 2, 3], [[1, 2, 3]]),
        (["one", "two"], ["one", "one", "two", "two"]),
        ([[1], [2, 3]], [[1], [1], [2, 3], [2, 3]]),
    ],
)
async def test_each_prompt_becomes_n_requests_in_order(make_client, prompt, expected):
    n = len(expected) // (len(prompt) if len(expected) > 1 else 1)
    triton = FakeTriton([finish("x")])
    reply = (await make_client(triton).post(URL, json={"prompt": prompt, "n": n})).json()
    assert [sent.request.prompt for sent in triton.sent] == expected
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(expected)))
    num_prompts = len(expected) // n
    assert reply["usage"]["prompt_tokens"] == 7 * num_prompts
    assert reply["usage"]["completion_tokens"] == 3 * len(expected)


@pytest.mark.parametrize("prompt", [None, [], {}, 3, ["a", 1], [["a"]], [[]], [True]])
async def test_other_prompts_are_refused(make_client, prompt):
    reply = await make_client(FakeTriton([finish()])).post(URL, json={"prompt": prompt})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "prompt"


async def test_logprobs_have_the_completions_shape(make_client):
    tops = (EventTopLogprob("b", -1.5, 2),)
    script = [
        text("ab", logprobs=[EventLogprob("a", -0.5, 1, None, tops), EventLogprob("b", -0.1, 2)]),
        finish("c", logprobs=[EventLogprob("c", -0.2, 3)]),
    ]
    reply = await make_client(FakeTriton(script)).post(URL, json={"prompt": "x", "logprobs": 1})
    assert reply.json()["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-0.5, -0.1, -0.2],
        "top_logprobs": [{"b": -1.5}, {}, {}],
        "text_offset": [0, 1, 2],
    }


async def test_token_ids_are_returned_when_asked_for(make_client, parse_stream):
    script = [text("a", token_ids=[1], prompt_token_ids=[7, 8]), finish(token_ids=[2])]
    body = {"prompt": "x", "return_token_ids": True}
    choice = (await make_client(FakeTriton(script)).post(URL, json=body)).json()["choices"][0]
    assert (choice["prompt_token_ids"], choice["completion_token_ids"]) == ([7, 8], [1, 2])
    reply = await make_client(FakeTriton(script)).post(URL, json={**body, "stream": True})
    choices = [chunk["choices"][0] for chunk in parse_stream(reply.text)[:-1]]
    assert [choice["completion_token_ids"] for choice in choices] == [[1], [2]]
    assert choices[0]["prompt_token_ids"] == [7, 8]


async def test_usage_chunk_and_stop_reason(make_client, parse_stream):
    body = {"prompt": "x", "stream": True, "stream_options": {}}
    triton = FakeTriton([text("a"), finish(stop_reason="END")])
    chunks = parse_stream((await make_client(triton).post(URL, json=body)).text)
    assert chunks[-2]["usage"]["total_tokens"] == 10
    assert chunks[-3]["choices"][0]["stop_reason"] == "END"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "the end"}, "suffix"),
        ({"suffix": {"temperature": 1}}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
    ],
)
async def test_what_completions_cannot_do_is_refused(make_client, fields, param):
    triton = FakeTriton([finish()])
    reply = await make_client(triton).post(URL, json={"prompt": "x", **fields})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert triton.sent == []


@pytest.mark.parametrize("fields", [{"suffix": ""}, {"suffix": None}, {"best_of": 2, "n": 2}])
async def test_what_asks_for_nothing_more_is_answered(make_client, fields):
    reply = await make_client(FakeTriton([finish()])).post(URL, json={"prompt": "x", **fields})
    assert reply.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_offsets_of_tokens_count_the_echoed_prompt(make_client, parse_stream, stream):
    def part(content: str, token: str, **fields: Any) -> Event:
        return text(content, logprobs=[EventLogprob(token, -0.5, 7)], **fields)

    last = finish("c", logprobs=[EventLogprob("c", -0.5, 7)])
    triton = FakeTriton([part("Once a", " a", num_echoed=4), part("b", "b"), last])
    body = {"prompt": "Once", "echo": True, "logprobs": 0, "stream": stream}
    reply = await make_client(triton).post(URL, json=body)
    replies = parse_stream(reply.text)[:-1] if stream else [reply.json()]
    choices = [choice for one in replies for choice in one["choices"]]
    assert "".join(choice["text"] for choice in choices) == "Once abc"
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert offsets == [4, 6, 7]


@pytest.mark.parametrize("stream", [False, True])
async def test_offsets_count_characters_however_tokens_and_chunks_cut_them(
    make_client, parse_stream, stream
):
    """An é is two tokens, and the b is held back until the c has come."""
    logprobs = [
        EventLogprob(token, -0.5, 7, tuple(data))
        for token, data in [("a", b"a"), ("\ufffd", b"\xc3"), ("\ufffd", b"\xa9"), ("b", b"b")]
    ]
    script = [text("a", logprobs=logprobs[:2]), text("é", logprobs=logprobs[2:])]
    last = finish("bc", logprobs=[EventLogprob("c", -0.5, 7, (99,))])
    body = {"prompt": "x", "logprobs": 0, "stream": stream}
    reply = await make_client(FakeTriton([*script, last])).post(URL, json=body)
    replies = parse_stream(reply.text)[:-1] if stream else [reply.json()]
    choices = [choice for one in replies for choice in one["choices"]]
    assert "".join(choice["text"] for choice in choices) == "aébc"
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("prompt", [["a", ""], [[5], []]])
async def test_an_empty_prompt_among_others_is_named_by_its_place(make_client, prompt):
    triton = FakeTriton([finish()])
    error = (await make_client(triton).post(URL, json={"prompt": prompt})).json()["error"]
    assert (error["message"], error["param"]) == ("prompt[1] is empty", "prompt")
    assert triton.sent == []


async def test_too_many_choices_are_told_as_prompts_times_n(make_client):
    body = {"prompt": ["a"] * 9, "n": 16}
    reply = await make_client(FakeTriton([finish()])).post(URL, json=body)
    assert reply.status_code == 400
    message = "9 prompts with n 16 are 144 choices; the limit is 128"
    assert reply.json()["error"]["message"] == message
