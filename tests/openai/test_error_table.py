"""The error table of the service that this one replaces, row by row, against a running service.

Each case names its row: the situation as FastDeploy's documents and source have it, and the status
that it answers there. Here a client's mistake is 4xx with a stable code, the field's name, and a
message that has the value and the limit; nothing tells a traceback, and nothing is 500.
"""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.openai.service_process import ServiceProcess

pytestmark = pytest.mark.triton

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object"}
VALIDATION = "pydantic validation (400 there)"
OTHER = "every other bad client input (500 there)"
ODD = "other oddities (500, or silently wrong, there)"
OVERLOAD = "overload (429 there)"
DEAD = "engine dead (404 or 500 there)"
STREAMING = "error while streaming (200, then an error with a traceback, there)"


@dataclass(frozen=True)
class Case:
    """`words`: texts that the message must hold, the value and the limit among them."""

    row: str
    name: str
    body: dict[str, Any]
    param: str | None
    words: tuple[str, ...]
    code: str = "invalid_value"
    status: int = 400
    path: str = CHAT

    def __str__(self) -> str:
        return f"{self.row.partition(' (')[0]}: {self.name}"


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], **fields}


def with_part(**part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}


def image(url: str) -> dict[str, Any]:
    return with_part(type="image_url", image_url={"url": url})


NO_PICTURE = base64.b64encode(b"this is no picture").decode()
PART = "messages[0].content[1]"

CASES = [
    Case(VALIDATION, "wrong type", chat(temperature="hot"), "temperature", ("float", "str")),
    Case(VALIDATION, "wrong type deep down", {"messages": [{"role": 1}]}, "messages[0].role", ()),
    Case(VALIDATION, "temperature", chat(temperature=-1), "temperature", ("-1", "[0.0, 100.0]")),
    Case(VALIDATION, "top_p", chat(top_p=1.5), "top_p", ("1.5", "[0.0, 1.0]")),
    Case(VALIDATION, "penalty", chat(presence_penalty=3), "presence_penalty", ("3", "[-2.0, 2.0]")),
    Case(VALIDATION, "penalty", chat(frequency_penalty=-9), "frequency_penalty", ("-9", "-2.0")),
    Case(VALIDATION, "seed", chat(seed=-1), "seed", ("-1",)),
    Case(VALIDATION, "n", chat(n=0), "n", ("n is 0", "[1, 16]")),
    Case(
        VALIDATION,
        "missing messages",
        {"model": "default"},
        "messages",
        ("missing",),
        "missing_required_parameter",
    ),
    Case(VALIDATION, "messages is a text", {"messages": "Hi"}, "messages", ("array", "str")),
    Case(
        VALIDATION,
        "stream_options without stream",
        chat(stream_options={"include_usage": True}, stream=False),
        "stream_options",
        ("stream: true",),
    ),
    Case(
        VALIDATION,
        "two guided kinds",
        chat(guided_json=SCHEMA, guided_regex="a"),
        "guided_regex",
        ("guided_json and guided_regex", "only one"),
    ),
    Case(
        VALIDATION,
        "top_logprobs without logprobs",
        chat(top_logprobs=2),
        "top_logprobs",
        ("logprobs: true",),
    ),
    Case(OTHER, "max_tokens 0", chat(max_tokens=0), "max_tokens", ("is 0", "at least 1")),
    Case(
        OTHER,
        "max_completion_tokens below 0",
        chat(max_completion_tokens=-5),
        "max_completion_tokens",
        ("is -5", "at least 1"),
    ),
    Case(
        OTHER,
        "reasoning_max_tokens",
        chat(reasoning_max_tokens=-1),
        "reasoning_max_tokens",
        ("is -1", "at least 0"),
    ),
    Case(OTHER, "too many stops", chat(stop=list("abcdefghijklmnopq")), "stop", ("17", "16")),
    Case(OTHER, "a stop too long", chat(stop=["x" * 1025]), "stop", ("stop[0]", "1025", "1024")),
    Case(
        OTHER,
        "top_logprobs above its maximum",
        chat(logprobs=True, top_logprobs=21),
        "top_logprobs",
        ("21", "[0, 20]"),
    ),
    Case(
        OTHER,
        "logprobs above its maximum",
        {"prompt": "Hi", "logprobs": 21},
        "logprobs",
        ("21", "[0, 20]"),
        path="/v1/completions",
    ),
    Case(
        OTHER,
        "empty messages",
        {"messages": []},
        "messages",
        ("empty",),
        "missing_required_parameter",
    ),
    Case(
        OTHER,
        "bad media: broken base64",
        image("data:image/png;base64,@@"),
        PART,
        (PART, "base64 is broken"),
        "invalid_media",
    ),
    Case(
        OTHER,
        "bad media: no picture",
        image(f"data:image/png;base64,{NO_PICTURE}"),
        PART,
        (PART, "image 1", "known formats"),
        "invalid_media",
    ),
    Case(
        OTHER,
        "bad media: a host that is not for clients",
        image("http://127.0.0.1:9/x.png"),
        PART,
        (PART, "127.0.0.1"),
        "media_fetch_failed",
    ),
    Case(
        OTHER,
        "bad media: a file outside the folder",
        image("file:///etc/passwd"),
        PART,
        (PART, "no such file in the folder"),
        "media_fetch_failed",
    ),
    Case(
        OTHER,
        "bad media: neither url nor uuid",
        with_part(type="image_url"),
        f"{PART}.image_url",
        ("image_url.url is missing", "uuid"),
    ),
    Case(
        OTHER,
        "too many pictures (never limited there)",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}] * 11,
                }
            ]
        },
        "messages",
        ("11 images", "at most 10", "--limit-mm-per-prompt"),
        "too_many_media",
    ),
    Case(
        OTHER,
        "unknown part type",
        with_part(type="input_audio", input_audio={}),
        f"{PART}.type",
        ("'input_audio'", "text, image_url or video_url"),
    ),
    Case(
        ODD,
        "a URL scheme that nobody knows (no picture, no error, there)",
        image("ftp://example.org/x.png"),
        PART,
        (PART, "http:, https:, data: or file:"),
        "invalid_media",
    ),
    Case(
        ODD,
        "a request id of strange signs",
        chat(request_id="a b"),
        "request_id",
        ("'a b'", "128"),
    ),
]


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


def assert_error(reply: httpx.Response, case: Case) -> None:
    assert reply.status_code == case.status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        case.code,
        case.param,
    )
    for word in case.words:
        assert word in error["message"]
    assert_nothing_leaks(error["message"])


def assert_nothing_leaks(text: str) -> None:
    for leak in ("Traceback", 'File "', ".py", "site-packages", "/dev/shm", "root:", " at 0x"):
        assert leak not in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_clients_mistake(client, case, stream):
    assert_error(client.post(case.path, json={"stream": stream, **case.body}), case)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_too_long_is_told_with_its_true_length(client, stream):
    row = f"{OTHER}; the length in the message is cut there"
    limit = client.get("/v1/models").json()["data"][0]["max_model_len"]
    body = chat(messages=[{"role": "user", "content": "word " * limit}])
    count = client.post("/tokenize", json=body).json()["count"]
    assert count > limit
    case = Case(
        row,
        "prompt too long",
        body,
        "messages",
        (f"the prompt has {count} tokens", f"context of {limit} tokens"),
        "context_length_exceeded",
    )
    assert_error(client.post(CHAT, json={**body, "stream": stream}), case)


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (f"{OTHER}: logprobs when not enabled", {"logprobs": True, "top_logprobs": 20}),
        (f"{ODD}: a request_id with an underscore", {"request_id": "my_own_7"}),
        (f"{ODD}: unknown fields are ignored", {"speculate_metrics_please": {"a": [1]}}),
    ],
)
def test_what_is_no_mistake_here_is_answered(ask, row, fields):
    reply = ask(messages=[USER], max_tokens=2, **fields)
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    if "request_id" in fields:
        assert reply["id"] == "chatcmpl-my_own_7"
    if "logprobs" in fields:
        assert len(reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 20


@pytest.fixture(scope="module")
def narrow(checkpoint):
    """One request at a time, one token every 20 ms, a name of its own, strict at the door."""
    flags = (
        *("--model", checkpoint, "--executor", "paced", "--max-concurrency", "1"),
        *("--served-model-name", "ernie", "--strict-fields"),
        *("--allowed-origins", "https://chat.example.org"),
    )
    with ServiceProcess(*flags, tokens_per_s=50) as service:
        yield service.wait_ready()


def test_an_unknown_model_is_404(narrow):
    case = Case(
        f"{OTHER}: unsupported model",
        "model",
        {},
        "model",
        ("'gpt-4'", "'ernie'", "'default'"),
        "model_not_found",
        404,
    )
    reply = httpx.post(narrow.url + CHAT, json=chat(model="gpt-4"), timeout=30)
    assert_error(reply, case)
    for name in ("ernie", "default"):
        reply = httpx.post(narrow.url + CHAT, json=chat(model=name, max_tokens=1), timeout=30)
        assert reply.status_code == 200


def test_the_flags_of_the_door_reach_it(narrow):
    case = Case(
        f"{ODD}: unknown fields are silently ignored",
        "strict",
        chat(temprature=1),
        "temprature",
        ("--strict-fields",),
        "unknown_field",
    )
    assert_error(httpx.post(narrow.url + CHAT, json=case.body, timeout=30), case)
    preflight = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    reply = httpx.options(narrow.url + CHAT, headers=preflight, timeout=30)
    assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_is_504_and_the_engine_stops_at_once(narrow, engine_stats, stream):
    """Row "Beat" of the table: 504 for time-out."""
    body = chat(max_tokens=2000, ignore_eos=True, timeout=0.7, stream=stream)
    started = time.monotonic()
    reply = httpx.post(narrow.url + CHAT, json=body, timeout=30)
    took_s = time.monotonic() - started
    assert 0.7 <= took_s < 2.5, "2000 tokens would take 40 s"
    if stream:
        *_, error, done = [line[6:] for line in reply.text.split("\n") if line[:6] == "data: "]
        assert (reply.status_code, done) == (200, "[DONE]")
        assert json.loads(error)["error"]["code"] == "deadline_exceeded"
    else:
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "deadline_exceeded"
    narrow.wait_for(lambda: engine_stats(narrow)["running"] == 0, 1.0)


class Streaming:
    """A long stream in a thread of its own; `lines` holds what has come."""

    def __init__(self, service: ServiceProcess) -> None:
        self.lines: list[str] = []
        self.status = 0
        self._service = service
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        service.wait_for(lambda: len(self.lines) > 2)

    def _read(self) -> None:
        body = chat(stream=True, max_tokens=2000, ignore_eos=True)
        with httpx.stream("POST", self._service.url + CHAT, json=body, timeout=60) as reply:
            self.status = reply.status_code
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    self.lines.append(line[6:])

    def join(self) -> list[str]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.lines


def test_overload_and_a_dead_engine(narrow, engine_stats):
    """Rows OVERLOAD, STREAMING and DEAD: one stream fills the house, then its engine is killed."""
    stream = Streaming(narrow)
    full = httpx.post(narrow.url + CHAT, json=chat(), timeout=30)
    assert full.status_code == 429, OVERLOAD
    assert full.json() == {
        "error": {
            "message": "Too many requests,current max concurrency is 1",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        },
        "detail": "Too many requests,current max concurrency is 1",
    }
    assert int(full.headers["retry-after"]) >= 1

    psutil.Process(engine_stats(narrow)["engine_pid"]).send_signal(signal.SIGKILL)
    *_, error, done = stream.join()
    assert (stream.status, done) == (200, "[DONE]"), STREAMING
    told = json.loads(error)["error"]
    assert (told["type"], told["code"], told["param"]) == (
        "server_error",
        "engine_restarting",
        None,
    )
    assert_nothing_leaks(told["message"])

    dead = httpx.post(narrow.url + CHAT, json=chat(), timeout=30)
    assert dead.status_code == 503, DEAD
    assert dead.json()["error"]["code"] == "engine_restarting"
    assert int(dead.headers["retry-after"]) >= 1
    assert_nothing_leaks(dead.text)
    narrow.wait_for(
        lambda: httpx.post(narrow.url + CHAT, json=chat(max_tokens=1)).status_code == 200, 60
    )
