"""Every command and request of the guides is accepted; their clients can read the answers."""

from __future__ import annotations

import json
import shlex

import httpx
import openai
import pytest

from backend.request import Usage
from openai_frontend.launch.parsing import parse_options
from tests.unit.frontend.fake_triton import FakeTriton, finish, text
from tests.unit.frontend.guide_examples import CHAT_REQUESTS, COMMANDS, COMPLETION_REQUESTS

SCRIPT = [
    text(reasoning="Hmm."),
    text("\n\nTang"),
    text(" dynasty"),
    finish(usage=Usage(prompt_tokens=5, completion_tokens=4)),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command):
    options = parse_options(shlex.split(command), environ={})
    assert options.model == shlex.split(command)[1]
    assert options.port in (8180, 8188)


def test_the_424b_command_means_what_it_says():
    options = parse_options(shlex.split(COMMANDS[0]), environ={})
    assert options.serving == {
        "max_model_len": 32768,
        "max_num_seqs": 32,
        "mm_processor_kwargs": {"video_max_frames": 30},
        "limit_mm_per_prompt": {"image": 10, "video": 3},
        "reasoning_parser": "ernie-45-vl",
    }
    assert options.metrics_port == 8182
    warned = {warning.split()[0] for warning in options.warnings}
    assert warned == {
        "--engine-worker-queue-port",
        "--cache-queue-port",
        "--tensor-parallel-size",
        "--quantization",
        "--enable-mm",
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CHAT_REQUESTS)
async def test_every_chat_request_is_accepted(make_client, name, stream):
    body = {**CHAT_REQUESTS[name], "stream": stream}
    reply = await make_client(FakeTriton(SCRIPT)).post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("name", COMPLETION_REQUESTS)
async def test_every_completion_request_is_accepted(make_client, name):
    body = COMPLETION_REQUESTS[name]
    reply = await make_client(FakeTriton(SCRIPT)).post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text


@pytest.fixture
async def client(serve):
    async with serve(FakeTriton(SCRIPT)) as (_, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="null") as client:
            yield client


async def test_the_client_that_prints_every_delta_prints_no_none(client):
    stream = await client.chat.completions.create(
        model="null", messages=CHAT_REQUESTS["image"]["messages"], stream=True
    )
    printed = ""
    async for chunk in stream:
        if chunk.choices[0].delta:
            printed += str(chunk.choices[0].delta.content)
    assert printed == "\n\nTang dynasty"


async def test_the_client_that_skips_the_assistant_chunk_loses_nothing(client):
    body = {**CHAT_REQUESTS["detail"]}
    stream = await client.chat.completions.create(**body, stream=True)
    printed = ""
    async for chunk in stream:
        delta = chunk.choices[0].delta
        if delta is not None and delta.role != "assistant":
            printed += (delta.reasoning_content or "") + (delta.content or "")
    assert printed == "Hmm.\n\nTang dynasty"


async def test_the_client_that_splits_lines_can_parse_each(serve):
    body = {**CHAT_REQUESTS["text"], "stream": True}
    printed = ""
    async with serve(FakeTriton(SCRIPT)) as (_, url), httpx.AsyncClient() as client:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                line = line.replace("data: ", "")
                if line and line.strip() != "[DONE]":
                    printed += json.loads(line)["choices"][0]["delta"].get("content", "")
    assert printed == "\n\nTang dynasty"


async def test_the_completions_client_prints_the_text(client):
    stream = await client.completions.create(
        model="null", prompt="Where is the capital of China?", stream=True
    )
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hmm.\n\nTang dynasty"


async def test_the_official_client_reads_a_collected_answer(client):
    reply = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "Hi"}], seed=1
    )
    assert reply.choices[0].message.content == "\n\nTang dynasty"
    assert reply.choices[0].message.reasoning_content == "Hmm."
    assert reply.usage.total_tokens == 9
    assert reply._request_id


async def test_the_official_client_gets_typed_errors_and_does_not_retry_a_bad_request(serve):
    triton = FakeTriton(SCRIPT)
    async with serve(triton, enforce_model_name=True, model_name="ernie") as (_, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="null") as client:
            with pytest.raises(openai.NotFoundError) as raised:
                await client.chat.completions.create(
                    model="gpt-4", messages=[{"role": "user", "content": "Hi"}]
                )
            assert raised.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as raised:
                await client.chat.completions.create(model="ernie", messages=[])
            assert raised.value.param == "messages"
            models = await client.models.list()
            assert [model.id for model in models.data] == ["ernie"]
    assert triton.sent == []
