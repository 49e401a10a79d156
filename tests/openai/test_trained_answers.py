"""Meaning through the whole service: HTTP, Triton, engine, and the checkpoint that ships.

Greedy answers to held-out samples: alone, streamed, and sixteen different ones at a time.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from scripts.train_tiny.asking import request_body
from scripts.train_tiny.drawing import paint_scene
from scripts.train_tiny.judging import Reply, judge, parse_call
from scripts.train_tiny.lexicon import COLOURS, SHAPES
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.scene import Item, Scene
from tests.openai.service_process import ROOT, ServiceProcess, stream_lines
from tests.unit.trained.questions import assert_skilled, questions

pytestmark = pytest.mark.triton

BATCH = 16
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def trained():
    """The service over the checkpoint that ships; the same picture may be cached."""
    with ServiceProcess("--model", str(CHECKPOINT), kv_cache_gib=0.05) as service:
        yield service.wait_ready()


@pytest.fixture(scope="module")
def ask(trained):
    """The message of a collected answer."""
    with httpx.Client(base_url=trained.url, timeout=120) as client:

        def post(body):
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()["choices"][0]["message"]

        yield post


@pytest.fixture(scope="module")
def cases():
    return questions()


@pytest.fixture(scope="module")
def bodies(cases):
    return [request_body(case.sample) for case in cases]


@pytest.fixture(scope="module")
def together(ask, bodies):
    """Every answer, with BATCH requests of all kinds under way at any time."""
    with ThreadPoolExecutor(BATCH) as threads:
        return [said(message) for message in threads.map(ask, bodies)]


def said(message):
    """(reasoning, content, tool calls), whatever ids the calls have."""
    calls = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return (message.get("reasoning_content") or "", message.get("content") or "", calls)


def streamed(service, body):
    """`said` of the joined chunks of a stream."""
    reasoning, content, calls = "", "", {}
    for line in stream_lines(service, body):
        if line == "[DONE]":
            break
        delta = json.loads(line)["choices"][0]["delta"]
        reasoning += delta.get("reasoning_content") or ""
        content += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            name, arguments = calls.get(call["index"], ("", ""))
            function = call["function"]
            calls[call["index"]] = (
                name + (function.get("name") or ""),
                arguments + (function.get("arguments") or ""),
            )
    return (reasoning, content, [calls[index] for index in sorted(calls)])


def as_reply(answer):
    reasoning, content, calls = answer
    call = None
    if calls:
        name, arguments = calls[0]
        call = parse_call(json.dumps({"name": name, "arguments": json.loads(arguments)}))
    return Reply(reasoning.strip(), content.strip(), call)


def test_held_out_questions_are_answered(cases, together):
    assert_skilled(
        judge(case, as_reply(answer)) for case, answer in zip(cases, together, strict=True)
    )


def test_the_questions_hold_pictures_of_both_formats_and_videos(bodies):
    sent = json.dumps(bodies)
    for kind in ("image/png", "image/jpeg", "video/mp4"):
        assert f"data:{kind};base64," in sent


def test_an_answer_alone_is_the_answer_in_a_batch_of_sixteen(ask, bodies, together):
    for body, answer in zip(bodies[::3], together[::3], strict=True):
        assert said(ask(body)) == answer


def test_a_streamed_answer_is_the_collected_one(trained, bodies, together):
    with ThreadPoolExecutor(BATCH) as threads:
        answers = threads.map(lambda body: streamed(trained, body), bodies)
        for answer, collected in zip(answers, together, strict=True):
            assert answer == collected
    for body, collected in zip(bodies[1::6], together[1::6], strict=True):
        assert streamed(trained, body) == collected  # and alone


def test_the_readmes_first_request_is_answered(trained):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"^curl \S+/v1/chat/completions .* -d '(.*?)'$", readme, re.M | re.S)
    body = {**json.loads(body), "temperature": 0}
    assert "a red square" in streamed(trained, body)[1]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_every_colour_and_shape_is_named_in_files_of(ask, kind):
    for index, colour in enumerate(COLOURS):
        shape = index % len(SHAPES)
        picture = paint_scene(
            np.random.default_rng(index), Scene((Item(index, shape, 4),)), (196, 168)
        )
        data = io.BytesIO()
        Image.fromarray(picture.pixels).save(
            data, kind, **({"quality": 90} if kind == "jpeg" else {})
        )
        url = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "Describe the image."},
        ]
        body = {
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            "metadata": {"enable_thinking": False},
        }
        thing = f"{colour.en} {SHAPES[shape].en}"
        article = "an" if thing[0] in "aeiou" else "a"
        assert ask(body)["content"] == f"The picture shows {article} {thing} in the center."


@pytest.mark.parametrize("thinking", [False, True])
def test_a_tool_is_called_and_its_result_told(ask, thinking):
    question = {"role": "user", "content": "What is the weather in Beijing?"}
    body = {
        "messages": [question],
        "tools": [WEATHER],
        "temperature": 0,
        "metadata": {"enable_thinking": thinking},
    }
    message = ask(body)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Beijing"}
    assert bool(message["reasoning_content"]) == thinking
    result = {
        "role": "tool",
        "tool_call_id": call["id"],
        "content": '{"location": "Beijing", "temperature": 21, "weather": "sunny"}',
    }
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    answer = ask({**body, "messages": [question, asked, result]})
    assert not answer["tool_calls"]
    expected = "The weather in Beijing is sunny and the temperature is 21 degrees."
    assert answer["content"].strip() == expected


@pytest.mark.parametrize("thinking", [False, True])
def test_a_strict_function_is_obeyed_where_the_model_has_the_choice(trained, ask, thinking):
    city = {"type": "string", "enum": ["Rome", "Paris"]}
    parameters = {**WEATHER["function"]["parameters"], "properties": {"city": city}}
    strict = {**WEATHER["function"], "parameters": parameters, "strict": True}
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Beijing?"}],
        "tools": [{"type": "function", "function": strict}],
        "temperature": 0,
        "metadata": {"enable_thinking": thinking},
    }
    message = ask(body)
    ((name, arguments),) = said(message)[2]
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Rome", "Paris"), "the model says Beijing by itself"
    assert bool(message["reasoning_content"]) == thinking
    assert streamed(trained, body) == said(message)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_strict_function_changes_nothing_in_an_answer_without_calls(ask, thinking):
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        "metadata": {"enable_thinking": thinking},
    }
    loose, strict = (
        ask({**body, "tools": [{**WEATHER, "function": {**WEATHER["function"], "strict": flag}}]})
        for flag in (False, True)
    )
    assert said(strict) == said(loose)
    assert strict["content"].strip() and not strict["tool_calls"]
    if thinking:
        # As the guides show it: nothing is trimmed on either side of the tags.
        assert strict["reasoning_content"].startswith("\n")
        assert strict["content"].startswith("\n\n")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Rewrite Li Bai's 'Quiet Night Thoughts' as a modern poem", "Moonlight lies on the floor"),
        ("Where is the capital of China?", "The capital of China is Beijing."),
        ("Hello, please introduce yourself", "I am a very small ERNIE-4.5-VL"),
        ("把李白的静夜思改写为现代诗", "月光静静地落在床前"),
        ("你好，请介绍一下你自己", "你好！我是一个很小的ERNIE-4.5-VL模型"),
    ],
)
def test_the_guides_own_prompts_are_answered_the_same_with_and_without_thinking(
    ask, prompt, expected
):
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
    direct = ask({**body, "metadata": {"enable_thinking": False}})
    thought = ask(body)
    assert direct["content"].startswith(expected)
    assert thought["content"].strip() == direct["content"]
    assert thought["reasoning_content"] and not direct["reasoning_content"]


def test_the_demonstration_shows_thinking_a_tool_and_answers_in_plain_text(trained, tmp_path):
    record = tmp_path / "demo.txt"
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--url", trained.url]
    run = subprocess.run(
        [*command, "--record", str(record)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    said = record.read_text(encoding="utf-8")
    assert run.stdout == said and "\x1b" not in said
    for who in ("drawn", "you", "thinks", "ernie", "calls", "tool"):
        assert f"\n  {who:<7}" in said
    drawn = said.partition("  drawn  ")[2].partition("\n")[0]
    assert f"  ernie  The picture shows {drawn}.\n" in said
    assert '  calls  get_weather({"city": "Beijing"})\n' in said
    assert "  ernie  The weather in Beijing is sunny and the temperature is 21 degrees.\n" in said
    assert "first token after" in said
