"""/tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

import base64

import pytest

from backend.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from openai_frontend.upstream import RefusedError, Tokens
from tests.unit.frontend.fake_triton import FakeTriton, finish

PICTURE = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"


async def test_a_prompt_is_tokenized(make_client):
    triton = FakeTriton(answer=Tokens([5, 6, 7]))
    body = {"prompt": "Hello", "add_special_tokens": True}
    reply = await make_client(triton).post("/tokenize", json=body)
    assert reply.json() == {
        "count": 3,
        "max_model_len": 4096,
        "tokens": [5, 6, 7],
        "token_strs": None,
    }
    (asked,) = triton.asked
    assert (asked.request.op, asked.request.prompt) == ("tokenize", "Hello")
    assert triton.sent == []


async def test_messages_are_tokenized_with_their_media(make_client):
    triton = FakeTriton(answer=Tokens(list(range(9))))
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": PICTURE}]
    body = {"messages": [{"role": "user", "content": parts}]}
    reply = await make_client(triton).post("/tokenize", json=body)
    assert reply.json()["count"] == 9
    assert triton.asked[0].media == [b"png"]
    assert triton.asked[0].request.messages[0].content[1].image_url == "media:0"


async def test_tokens_become_text_again(make_client):
    triton = FakeTriton(answer=Tokens(text="Hello"))
    reply = await make_client(triton).post("/detokenize", json={"tokens": [5, 6]})
    assert reply.json() == {"prompt": "Hello"}
    request = triton.asked[0].request
    assert (request.op, request.prompt) == ("detokenize", [5, 6])
    assert request.skip_special_tokens is False


@pytest.mark.parametrize(
    ("path", "body", "failure", "status"),
    [
        ("/tokenize", {"prompt": 5}, None, 400),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, None, 400),
        ("/tokenize", {"prompt": ""}, InvalidRequestError("prompt is empty"), 400),
        ("/tokenize", {"prompt": "a"}, RefusedError(ModelNotFoundError("no").info()), 404),
        ("/tokenize", {"prompt": "a"}, EngineUnavailableError("gone"), 503),
        ("/tokenize", {"prompt": "a", "model": "other"}, None, 404),
        ("/detokenize", {}, None, 400),
        ("/detokenize", {"tokens": "a"}, None, 400),
    ],
)
async def test_what_cannot_be_answered_is_refused(make_client, path, body, failure, status):
    client = make_client(
        FakeTriton(answer=failure or Tokens()), model_name="m", enforce_model_name=True
    )
    reply = await client.post(path, json=body)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_generating_request_cannot_smuggle_an_op_in(make_client, chat_body):
    triton = FakeTriton([finish()])
    await make_client(triton).post("/v1/chat/completions", json={**chat_body, "op": "tokenize"})
    assert triton.sent[0].request.op == "generate"
