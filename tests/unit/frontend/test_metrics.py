"""Media, aborts and errors in /metrics; buckets; the engine's counters over a restart."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from backend.errors import EngineUnavailableError, InvalidRequestError, MediaFetchError
from backend.request import EngineTimes, Usage
from backend.wire import Event, MediaReport, PreparationReport
from openai_frontend.engine_gauges import EngineGauges
from openai_frontend.metric_families import MetricFamilies
from tests.unit.frontend.fake_triton import FakeTriton, finish, forever, text, wait_until

CHAT = "/v1/chat/completions"
REPORT = PreparationReport(
    0.25,
    (
        MediaReport("image", 5_000, 784, 1, decode_s=0.01),
        MediaReport("image", 6_000, 1568, 2, fetch_s=0.5),
        MediaReport("video", 7_000_000, 50_000, 30, fetch_s=3.0, decode_s=2.0),
    ),
)


def values_of(metrics: bytes) -> dict[str, float]:
    found = re.findall(r"^fastdeploy:(\S+) (\S+)$", metrics.decode(), re.M)
    return {name: float(value) for name, value in found}


async def scrape(client) -> dict[str, float]:
    return values_of((await client.get("/metrics")).content)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engines_times_are_counted_for_each_choice(make_client, chat_body, stream):
    last = finish()
    last.usage = msgspec.structs.replace(last.usage or Usage(), times=EngineTimes(0.5, 0.25, 2.0))
    client = make_client(FakeTriton([text("a"), last]))
    await client.post(CHAT, json={**chat_body, "stream": stream, "n": 2})
    values = await scrape(client)
    for name, seconds in (("queue", 0.5), ("prefill", 0.25), ("inference", 2.25)):
        assert values[f"request_{name}_time_seconds_count"] == 2
        assert values[f"request_{name}_time_seconds_sum"] == 2 * seconds


@pytest.mark.parametrize("stream", [False, True])
async def test_media_are_counted_as_the_preprocessor_reports_them(make_client, chat_body, stream):
    first = text("a")
    first.report = REPORT
    client = make_client(FakeTriton([first, text("b"), finish()]))
    assert (await scrape(client))['media_items_total{kind="image"}'] == 0
    assert (await client.post(CHAT, json={**chat_body, "stream": stream})).status_code == 200
    values = await scrape(client)
    expected = {
        'media_items_total{kind="image"}': 2,
        'media_items_total{kind="video"}': 1,
        'media_bytes_total{kind="image"}': 11_000,
        'media_bytes_total{kind="video"}': 7_000_000,
        'media_pixels_total{kind="image"}': 2352,
        'media_pixels_total{kind="video"}': 50_000,
        'media_cache_hits_total{kind="image"}': 1,
        'media_cache_hits_total{kind="video"}': 0,
        'media_fetch_time_seconds_sum{kind="image"}': 0.5,
        'media_fetch_time_seconds_count{kind="video"}': 1,
        'media_decode_time_seconds_count{kind="image"}': 1,
        'media_decode_time_seconds_sum{kind="video"}': 2.0,
        "request_preprocess_time_seconds_sum": 0.25,
    }
    assert {name: values[name] for name in expected} == expected


async def test_text_too_tells_how_long_it_was_prepared(make_client, chat_body):
    event = finish("x")
    event.report = PreparationReport(0.002)
    client = make_client(FakeTriton([event]))
    await client.post(CHAT, json=chat_body)
    values = await scrape(client)
    assert values["request_preprocess_time_seconds_count"] == 1
    assert 'media_fetch_time_seconds_count{kind="image"}' not in values


@pytest.mark.parametrize(
    ("path", "body", "settings", "code"),
    [
        (CHAT, {"messages": "x"}, {}, "invalid_value"),
        (CHAT, {}, {}, "missing_required_parameter"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 99}]}, {"max_body_bytes": 50}, 413),
        ("/tokenize", {"prompt": 5}, {}, "invalid_value"),
        ("/v1/messages", {"messages": []}, {}, "missing_required_parameter"),
        ("/v1/models", None, {"api_keys": ("k",)}, "invalid_api_key"),
    ],
)
async def test_what_is_refused_at_the_door_is_counted_by_its_code(
    make_client, path, body, settings, code
):
    client = make_client(FakeTriton(), **settings)
    reply = await (client.get(path) if body is None else client.post(path, json=body))
    assert reply.is_error
    code = "request_too_large" if code == 413 else code
    values = values_of(client.service.metrics.text())
    assert values[f'request_errors_total{{code="{code}"}}'] == 1


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (EngineUnavailableError("gone"), "engine_unavailable"),
        (Event(0, error=MediaFetchError("no").info()), "media_fetch_failed"),
        (Event(0, error=InvalidRequestError("no", code="grammar_error").info()), "grammar_error"),
    ],
)
async def test_what_fails_behind_the_door_is_counted_once(make_client, chat_body, step, code):
    client = make_client(FakeTriton([step]))
    await client.post(CHAT, json=chat_body)
    assert (await scrape(client))[f'request_errors_total{{code="{code}"}}'] == 1


async def test_the_end_of_time_and_a_full_house_are_counted(make_client, chat_body):
    triton = FakeTriton(forever())
    client = make_client(triton, max_concurrency=1)
    first = asyncio.create_task(client.post(CHAT, json={**chat_body, "timeout": 0.3}))
    await wait_until(lambda: triton.sent)
    assert (await client.post(CHAT, json=chat_body)).status_code == 429
    assert (await first).status_code == 504
    values = await scrape(client)
    assert values['request_errors_total{code="rate_limit_exceeded"}'] == 1
    assert values['request_errors_total{code="deadline_exceeded"}'] == 1


async def test_a_client_that_leaves_while_it_sends_is_an_abort(serve):
    async with serve(FakeTriton()) as (service, url):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{".encode())
        await writer.drain()
        await wait_until(lambda: service.admission.running)
        writer.close()
        await wait_until(lambda: b'{stage="receiving"} 1.0' in service.metrics.text())


def test_the_engines_numbers_have_fastdeploys_names():
    families = MetricFamilies()
    EngineGauges(families).set(
        {
            "running": 3,
            "waiting": 2,
            "max_num_seqs": 8,
            "kv_blocks_total": 10,
            "kv_blocks_free": 4,
            "kv_blocks_cached": 5,
            "cached_tokens_total": 30,
            "prefix_queried_tokens_total": 120,
        },
        is_up=True,
    )
    expected = {
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "batch_size": 3,
        "max_batch_size": 8,
        "available_batch_size": 5,
        "max_gpu_block_num": 10,
        "free_gpu_block_num": 4,
        "available_gpu_block_num": 9,
        "gpu_cache_usage_perc": 0.6,
        "hit_token_rate": 0.25,
        "engine_up": 1,
    }
    values = values_of(families.text())
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_the_engines_counters_go_on_after_a_restart():
    families = MetricFamilies()
    engine = EngineGauges(families)
    for runs in (5, 7, 7, 2, 3):
        engine.set({"encoder_runs_total": runs}, is_up=True)
    assert values_of(families.text())["media_encoder_runs_total"] == 10


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("time_to_first_token_seconds", 0.001, 1000),
        ("time_per_output_token_seconds", 0.0001, 10),
        ("media_fetch_time_seconds", 0.005, 60),
        ("media_decode_time_seconds", 0.005, 60),
        ("request_preprocess_time_seconds", 0.0005, 60),
        ("media_size_bytes", 1024, 256 * 2**20),
    ],
)
async def test_buckets_reach_from_the_fastest_to_the_slowest(
    make_client, chat_body, name, low, high
):
    first = text("a")
    first.report = REPORT
    client = make_client(FakeTriton([first, text("b"), finish()]))
    await client.post(CHAT, json={**chat_body, "stream": True})
    page = (await client.get("/metrics")).text
    bounds = {float(x) for x in re.findall(rf'{name}_bucket{{.*?le="([\d.e+]+)"', page)}
    assert min(bounds) <= low and max(bounds) >= high
