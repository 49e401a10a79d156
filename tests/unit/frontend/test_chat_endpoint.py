"""/v1/chat/completions over the ASGI interface, with a scripted server behind it."""

from __future__ import annotations

import base64
import re

import pytest

from backend.errors import ErrorInfo, OverloadedError
from backend.request import FinishReason, Usage
from backend.wire import Event, EventLogprob, EventTopLogprob
from tests.unit.frontend.fake_triton import FakeTriton, call, finish, text

URL = "/v1/chat/completions"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def test_a_collected_answer_has_exactly_the_fields_of_the_guides(make_client, chat_body):
    usage = Usage(
        prompt_tokens=1290,
        completion_tokens=391,
        image_tokens=1240,
        reasoning_tokens=217,
    )
    triton = FakeTriton(
        [
            text(reasoning="Think"),
            text(reasoning="ing\n"),
            text("\n\nIt "),
            finish("is.", usage=usage),
        ]
    )
    reply = (await make_client(triton).post(URL, json=chat_body)).json()
    assert re.fullmatch(f"chatcmpl-{UUID4}", reply.pop("id"))
    assert reply.pop("created") > 1_700_000_000
    assert reply.pop("system_fingerprint").startswith("fp_")
    assert reply == {
        "object": "chat.completion",
        "model": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "\n\nIt is.",
                    "multimodal_content": None,
                    "reasoning_content": "Thinking\n",
                    "tool_calls": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 1290,
            "total_tokens": 1681,
            "completion_tokens": 391,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 1240, "video_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 217, "image_tokens": 0},
        },
    }


async def test_without_thinking_reasoning_content_is_null(make_client, chat_body):
    reply = await make_client(FakeTriton([text("Hello"), finish()])).post(URL, json=chat_body)
    assert reply.json()["choices"][0]["message"]["reasoning_content"] is None


async def test_tool_calls_are_put_together_from_their_deltas(make_client, chat_body):
    triton = FakeTriton(
        [
            text(reasoning="I zoom.\n"),
            call(0, "", "chatcmpl-tool-1", "zoom"),
            call(0, '{"bbox": '),
            call(0, "[1, 2]}"),
            call(1, '{"city": "北京"}', "chatcmpl-tool-2", "get_weather"),
            finish(reason=FinishReason.TOOL_CALLS),
        ]
    )
    choice = (await make_client(triton).post(URL, json=chat_body)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    assert choice["message"]["tool_calls"] == [
        {
            "id": "chatcmpl-tool-1",
            "type": "function",
            "function": {"name": "zoom", "arguments": '{"bbox": [1, 2]}'},
        },
        {
            "id": "chatcmpl-tool-2",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "北京"}'},
        },
    ]


async def test_streamed_chunks_have_the_role_first_and_never_a_null_text(
    make_client, chat_body, parse_stream
):
    triton = FakeTriton([text(reasoning="R"), text("Hel"), Event(seq=2), finish("lo")])
    reply = await make_client(triton).post(URL, json={**chat_body, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = parse_stream(reply.text)
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": None},
        {"content": "", "reasoning_content": "R", "tool_calls": None},
        {"content": "Hel", "reasoning_content": "", "tool_calls": None},
        {"content": "lo", "reasoning_content": "", "tool_calls": None},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    times = [chunk["choices"][0]["arrival_time"] for chunk in chunks]
    assert times == sorted(times)
    assert "usage" not in chunks[-1]


async def test_streamed_tool_calls_carry_their_index_and_name_once(
    make_client, chat_body, parse_stream
):
    triton = FakeTriton(
        [
            call(0, "", "chatcmpl-tool-1", "f"),
            call(0, '{"a": 1}'),
            finish(reason=FinishReason.TOOL_CALLS),
        ]
    )
    reply = await make_client(triton).post(URL, json={**chat_body, "stream": True})
    calls = [chunk["choices"][0]["delta"]["tool_calls"] for chunk in parse_stream(reply.text)[:-1]]
    assert calls == [
        None,
        [
            {
                "index": 0,
                "type": "function",
                "id": "chatcmpl-tool-1",
                "function": {"name": "f", "arguments": ""},
            }
        ],
        [{"index": 0, "function": {"arguments": '{"a": 1}'}}],
        None,
    ]


async def test_usage_ends_the_stream_only_when_asked_for(make_client, chat_body, parse_stream):
    body = {**chat_body, "stream": True, "stream_options": {"include_usage": True}}
    reply = await make_client(FakeTriton([text("a"), finish()])).post(URL, json=body)
    chunks = parse_stream(reply.text)
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["total_tokens"] == 10
    assert all(chunk["usage"] is None for chunk in chunks[:-2])


async def test_continuous_usage_counts_tokens_as_they_come(make_client, chat_body, parse_stream):
    options = {"include_usage": False, "continuous_usage_stats": True}
    triton = FakeTriton(
        [
            text("a", token_ids=[1, 2], prompt_token_ids=[9] * 5),
            text("b", token_ids=[3]),
            finish(usage=Usage(prompt_tokens=5, completion_tokens=4)),
        ]
    )
    body = {**chat_body, "stream": True, "stream_options": options}
    reply = await make_client(triton).post(URL, json=body)
    chunks = parse_stream(reply.text)[:-1]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [2, 2, 3, 4]
    assert triton.sent[0].request.return_token_ids
    assert "completion_token_ids" not in chunks[1]["choices"][0]["delta"]


async def test_token_ids_are_returned_when_asked_for(make_client, chat_body, parse_stream):
    script = [text("a", token_ids=[1], prompt_token_ids=[7, 8]), text(token_ids=[2]), finish()]
    body = {**chat_body, "return_token_ids": True}
    message = (await make_client(FakeTriton(script)).post(URL, json=body)).json()["choices"][0][
        "message"
    ]
    assert (message["prompt_token_ids"], message["completion_token_ids"]) == ([7, 8], [1, 2])
    reply = await make_client(FakeTriton(script)).post(URL, json={**body, "stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in parse_stream(reply.text)[:-1]]
    assert deltas[0]["prompt_token_ids"] == [7, 8]
    assert [delta["completion_token_ids"] for delta in deltas] == [None, [1], [2], []]


async def test_logprobs_have_openai_shape_streamed_and_collected(
    make_client, chat_body, parse_stream
):
    logprob = EventLogprob("a", -0.5, 1, (97,), (EventTopLogprob("b", -1.5, 2, (98,)),))
    script = [text("a", logprobs=[logprob]), finish()]
    expected = {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}],
    }
    body = {**chat_body, "logprobs": True, "top_logprobs": 1}
    reply = (await make_client(FakeTriton(script)).post(URL, json=body)).json()
    assert reply["choices"][0]["logprobs"] == {"content": [expected], "refusal": None}
    reply = await make_client(FakeTriton(script)).post(URL, json={**body, "stream": True})
    streamed = [chunk["choices"][0]["logprobs"] for chunk in parse_stream(reply.text)[:-1]]
    assert streamed == [None, {"content": [expected], "refusal": None}, None]


async def test_n_choices_are_n_requests_with_their_own_seeds(make_client, chat_body, parse_stream):
    scripts = [[text("one"), finish()], [text("two"), finish()]]
    body = {**chat_body, "n": 2, "seed": 41}
    triton = FakeTriton(scripts=scripts)
    reply = (await make_client(triton).post(URL, json=body)).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["one", "two"]
    assert reply["usage"]["prompt_tokens"] == 7, "the prompt is one prompt"
    assert reply["usage"]["completion_tokens"] == 6
    assert [sent.request.seed for sent in triton.sent] == [41, 42]
    assert len({sent.request_id for sent in triton.sent}) == 1, "one STOP must end both"
    reply = await make_client(FakeTriton(scripts=scripts)).post(URL, json={**body, "stream": True})
    chunks = parse_stream(reply.text)[:-1]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"]["content"]
    assert texts == {0: "one", 1: "two"}
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 2


async def test_choices_differ_with_a_seed_in_metadata_too(make_client, chat_body):
    triton = FakeTriton([text("one"), finish()])
    client = make_client(triton)
    for fields in ({"metadata": {"seed": 41}}, {"metadata": {"seed": 1}, "seed": 41}):
        await client.post(URL, json={**chat_body, "n": 2, **fields})
    assert [sent.request.seed for sent in triton.sent] == [41, 42, 41, 42]
    for seed in ("41", True, -1):
        await client.post(URL, json={**chat_body, "metadata": {"seed": seed}})
        assert triton.sent[-1].request.seed is None, "a label, or refused further on"


async def test_data_urls_travel_as_bytes_and_other_urls_untouched(make_client):
    picture = base64.b64encode(b"\xff\xd8picture").decode()
    parts = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpg;base64,{picture}", "detail": "high"},
        },
        {"type": "image_url", "image_url": "file:///tmp/a.png"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA", "fps": 1}},
        {"type": "text", "text": "What?"},
    ]
    triton = FakeTriton([finish()])
    body = {"messages": [{"role": "user", "content": parts}]}
    assert (await make_client(triton).post(URL, json=body)).status_code == 200
    sent = triton.sent[0]
    assert sent.media == [b"\xff\xd8picture", b"\0\0\0"]
    urls = [part.image_url or part.video_url for part in sent.request.messages[0].content[:3]]
    assert [getattr(url, "url", url) for url in urls] == ["media:0", "file:///tmp/a.png", "media:1"]
    assert urls[0].detail == "high"
    assert urls[2].fps == 1


@pytest.mark.parametrize("spelling", ["/9j+aGU=", "%2F9j%2BaGU%3D", "%2f9j+aGU", "/9j+\naGU="])
async def test_base64_may_be_percent_encoded_as_in_any_url(make_client, spelling):
    url = f"data:image/png;base64,{spelling}"
    part = {"type": "image_url", "image_url": {"url": url}}
    triton = FakeTriton([finish()])
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert (await make_client(triton).post(URL, json=body)).status_code == 200
    assert triton.sent[0].media == [b"\xff\xd8\xfehe"]


async def test_the_asked_model_name_is_echoed(make_client, chat_body):
    client = make_client(FakeTriton([finish()]))
    for name in ("null", "default", "anything at all"):
        reply = await client.post(URL, json={**chat_body, "model": name})
        assert reply.json()["model"] == name
    assert (await client.post(URL, json={**chat_body, "model": None})).json()["model"] == "default"


async def test_a_served_name_is_enforced(make_client, chat_body):
    settings = {"model_name": "ernie", "enforce_model_name": True}
    client = make_client(FakeTriton([finish()]), **settings)
    for name in ("ernie", "default"):
        reply = await client.post(URL, json={**chat_body, "model": name})
        assert reply.json()["model"] == "ernie"
    reply = await client.post(URL, json={**chat_body, "model": "gpt-4"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


async def test_a_refusal_before_the_first_token_has_its_status(make_client, chat_body):
    info = ErrorInfo(
        400, "invalid_request_error", "context_length_exceeded", "5000 > 4096", "messages"
    )
    for stream in (False, True):
        triton = FakeTriton([Event(seq=0, error=info)])
        reply = await make_client(triton).post(URL, json={**chat_body, "stream": stream})
        assert reply.status_code == 400
        assert reply.json() == {
            "error": {
                "message": "5000 > 4096",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        }


async def test_an_overloaded_engine_gives_429_with_retry_after_and_detail(make_client, chat_body):
    info = OverloadedError("the queue is full", retry_after_s=2.4).info()
    reply = await make_client(FakeTriton([Event(seq=0, error=info)])).post(URL, json=chat_body)
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "3"
    assert reply.json()["detail"] == "the queue is full"
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"


async def test_an_error_in_mid_stream_follows_the_text_and_ends_with_done(
    make_client, chat_body, parse_stream
):
    info = ErrorInfo(503, "server_error", "engine_restarting", "the engine is restarting")
    triton = FakeTriton([text("a"), Event(seq=1, error=info)])
    reply = await make_client(triton).post(URL, json={**chat_body, "stream": True})
    chunks = parse_stream(reply.text)
    assert chunks[1]["choices"][0]["delta"]["content"] == "a"
    assert chunks[-2]["error"]["code"] == "engine_restarting"
    assert chunks[-1] == "[DONE]"


async def test_a_stream_that_breaks_off_is_an_error_not_an_end(
    make_client, chat_body, parse_stream
):
    reply = await make_client(FakeTriton([text("a")])).post(URL, json={**chat_body, "stream": True})
    assert parse_stream(reply.text)[-2]["error"]["code"] == "engine_unavailable"
    reply = await make_client(FakeTriton([text("a")])).post(URL, json=chat_body)
    assert reply.status_code == 503
