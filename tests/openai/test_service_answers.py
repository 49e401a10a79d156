"""Questions to the whole service: HTTP, ensemble, engine and model, on a small checkpoint.

Its weights are random, so texts mean nothing; shapes, counts and equalities do.
"""

from __future__ import annotations

import base64
import json

import httpx
import openai
import pytest

from tests.openai.service_process import stream_lines
from tests.serving_settings import computes_in_bfloat16
from tests.unit.frontend.guide_examples import CHAT_REQUESTS, COMPLETION_REQUESTS

pytestmark = pytest.mark.triton

USER = {"role": "user", "content": "Tell me about bridges."}


def data_url(file, kind):
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def with_local_media(value, media_folder):
    """The body with the guides' remote and placeholder URLs replaced by files that exist."""
    if isinstance(value, dict):
        return {key: with_local_media(item, media_folder) for key, item in value.items()}
    if isinstance(value, list):
        return [with_local_media(item, media_folder) for item in value]
    picture, video = media_folder / "picture.jpg", media_folder / "video.mp4"
    replacements = {
        "data:image/jpg;base64,this/is/an/example": data_url(picture, "image/jpg"),
        "data:video/mp4;base64,this/is/an/example": data_url(video, "video/mp4"),
        "file:///a/b": f"file://{picture}",
        "https://example.com/demo/example2.jpg": f"file://{picture}",
        "https://example.com/demo/video.mp4": f"file://{video}",
    }
    return replacements.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", CHAT_REQUESTS)
def test_every_chat_request_of_the_guides_is_answered(ask, media_folder, name):
    body = with_local_media(CHAT_REQUESTS[name], media_folder)
    reply = ask(**{**body, "max_tokens": 6})
    (choice,) = reply["choices"]
    assert set(choice["message"]) == {
        "role",
        "content",
        "multimodal_content",
        "reasoning_content",
        "tool_calls",
    }
    assert choice["finish_reason"] in ("stop", "length", "tool_calls")
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    details = usage["prompt_tokens_details"]
    assert bool(details["image_tokens"]) == ("image_url" in json.dumps(body))
    assert bool(details["video_tokens"]) == ("video_url" in json.dumps(body))


@pytest.mark.parametrize("name", COMPLETION_REQUESTS)
def test_every_completion_request_of_the_guides_is_answered(service, name):
    body = {**COMPLETION_REQUESTS[name], "max_tokens": 6}
    reply = httpx.post(f"{service.url}/v1/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["usage"]["completion_tokens"] <= 6


def test_a_streamed_greedy_answer_is_the_collected_one(service, ask):
    body = {"messages": [USER], "temperature": 0, "max_tokens": 40, "return_token_ids": True}
    collected = ask(**body)
    message = collected["choices"][0]["message"]
    *chunks, done = stream_lines(service, {**body, "stream_options": {"include_usage": True}})
    assert done == "[DONE]"
    *chunks, usage = map(json.loads, chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta["content"] for delta in deltas) == message["content"]
    reasoning = "".join(delta["reasoning_content"] for delta in deltas)
    assert reasoning == (message["reasoning_content"] or "")
    token_ids = [id for delta in deltas for id in delta["completion_token_ids"] or ()]
    assert token_ids == message["completion_token_ids"]
    assert deltas[0]["prompt_token_ids"] == message["prompt_token_ids"]
    assert chunks[-1]["choices"][0]["finish_reason"] == collected["choices"][0]["finish_reason"]
    assert usage["choices"] == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage["usage"][count] == collected["usage"][count]


def test_a_data_url_and_a_file_url_of_one_picture_give_one_answer(ask, media_folder):
    picture = media_folder / "picture.jpg"
    contents = []
    for url in (data_url(picture, "image/jpeg"), f"file://{picture}"):
        part = {"type": "image_url", "image_url": {"url": url}}
        question = {"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}
        reply = ask(messages=[question], temperature=0, seed=1)
        assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == 6
        contents.append(reply["choices"][0]["message"])
    assert contents[0] == contents[1]


def test_a_picture_sent_once_can_be_named_by_its_uuid(service, ask, media_folder):
    url = data_url(media_folder / "picture.jpg", "image/jpeg")
    question = {"type": "text", "text": "What is it?"}
    answers = []
    for part in ({"image_url": {"url": url}, "uuid": "bars-7"}, {"uuid": "bars-7"}):
        content = [{"type": "image_url", **part}, question]
        reply = ask(messages=[{"role": "user", "content": content}], temperature=0, seed=1)
        assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == 6
        answers.append(reply["choices"][0]["message"])
    assert answers[0] == answers[1]
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "uuid": "never"}]}]}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "media_not_cached"


@pytest.mark.parametrize("spelling", ["metadata", "chat_template_kwargs"])
def test_thinking_is_on_unless_switched_off(ask, spelling):
    body = {"messages": [USER], "temperature": 0, "max_tokens": 4, "return_token_ids": True}
    thinking = ask(**body)["choices"][0]["message"]
    silent = ask(**body, **{spelling: {"enable_thinking": False}})["choices"][0]["message"]
    assert thinking["reasoning_content"]
    assert silent["reasoning_content"] is None
    assert thinking["prompt_token_ids"] != silent["prompt_token_ids"]


def test_choices_of_one_request_differ_by_their_seeds_and_can_be_repeated(ask):
    def choices(n):
        body = {"messages": [USER], "temperature": 1.0, "top_p": 1.0, "seed": 5}
        return [choice["message"] for choice in ask(**body, n=n)["choices"]]

    assert len({json.dumps(message) for message in choices(3)}) > 1
    # Choices enter the batch as they come. Where its size changes logits by a bit of bfloat16, a
    # draw between two such tokens may change too, and random weights have many; alone none may.
    repeated = 1 if computes_in_bfloat16() else 3
    assert choices(repeated) == choices(repeated)


def test_logprobs_are_reported_for_every_token(ask):
    reply = ask(messages=[USER], logprobs=True, top_logprobs=2, temperature=0, max_tokens=5)
    content = reply["choices"][0]["logprobs"]["content"]
    assert len(content) == reply["usage"]["completion_tokens"]
    for item in content:
        assert len(item["top_logprobs"]) == 2
        assert item["top_logprobs"][0]["logprob"] >= item["top_logprobs"][1]["logprob"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"messages": [USER], "max_tokens": 0}, "invalid_value"),
        ({"messages": [USER], "temperature": -1}, "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "context_length_exceeded"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}}
                        ],
                    }
                ]
            },
            "invalid_media",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}],
                    }
                ]
            },
            None,
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": "http://127.0.0.1/x.png"}],
                    }
                ]
            },
            "media_fetch_failed",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_clients_mistake_is_400_and_leaks_nothing(service, body, code, stream):
    url = f"{service.url}/v1/chat/completions"
    reply = httpx.post(url, json={**body, "stream": stream}, timeout=60)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    if code is not None:
        assert error["code"] == code
    for leak in ("Traceback", "0x", "root:", "site-packages", "/dev/shm"):
        assert leak not in error["message"]


def test_the_official_client_streams_and_lists_models(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="null") as client:
        stream = client.chat.completions.create(
            model="null", messages=[USER], stream=True, max_tokens=6, temperature=0
        )
        texts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta]
        (model,) = client.models.list().data
    assert None not in texts
    assert model.id == "tiny"
    assert model.max_model_len > 0


def test_health_and_metrics_of_a_running_service(service, ask):
    reply = httpx.get(f"{service.url}/health", timeout=10)
    assert (reply.status_code, reply.content) == (200, b"")
    before = service.metric("generation_tokens_total")
    usage = ask(messages=[USER])["usage"]
    assert service.metric("generation_tokens_total") == before + usage["completion_tokens"]
    assert service.metric("engine_up") == 1
    assert service.metric("max_gpu_block_num") > 0


def test_pictures_and_videos_are_counted(service, ask, media_folder):
    names = ["items_total", "bytes_total", "pixels_total", "tokens_total"]
    labels = [f'media_{name}{{kind="{kind}"}}' for name in names for kind in ("image", "video")]
    before = [service.metric(label) for label in labels]
    files = media_folder / "picture.jpg", media_folder / "video.mp4"
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(files[0], "image/jpeg")}},
        {"type": "video_url", "video_url": {"url": f"file://{files[1]}", "max_frames": 2,
                                            "min_frames": 2}},
    ]  # fmt: skip
    usage = ask(messages=[{"role": "user", "content": parts}], max_tokens=1)["usage"]
    details = usage["prompt_tokens_details"]
    counted = [service.metric(label) - old for label, old in zip(labels, before, strict=True)]
    sizes = [file.stat().st_size for file in files]
    tokens = [details["image_tokens"], details["video_tokens"]]
    assert counted[:4] == [1, 1, *sizes]
    assert counted[4] == tokens[0] * 28 * 28
    assert counted[5] == tokens[1] * 28 * 28 * 2
    assert counted[6:] == tokens
    assert service.metric('media_fetch_time_seconds_count{kind="video"}') > 0
    assert service.metric("request_preprocess_time_seconds_count") > 0


def test_the_ready_lines_are_those_of_the_guides(service):
    log = service.log()
    lines = [
        "Worker processes are launched with ",
        f"Launching metrics service at {service.url}/metrics",
        f"Launching chat completion service at {service.url}/v1/chat/completions",
        f"Launching completion service at {service.url}/v1/completions",
        f"INFO:     Started server process [{service.pid}]",
        "INFO:     Waiting for application startup.",
        "INFO:     Application startup complete.",
        f"INFO:     Uvicorn running on {service.url} (Press CTRL+C to quit)",
    ]
    positions = [log.find(line) for line in lines]
    assert -1 not in positions, log
    assert positions == sorted(positions)
