import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest

from backend import shared_memory
from backend.engine import protocol
from backend.engine.client import EngineClient
from backend.errors import EngineUnavailableError, ErrorInfo
from backend.request import FinishReason
from backend.wire import EngineRequest, MediaSpan
from scripts.train_tiny.processing import CHECKPOINT


@pytest.fixture
def make_client(settings):
    made = []

    def make(**changes):
        client = EngineClient(dataclasses.replace(settings, **changes), min_backoff_s=0.05)
        made.append(client)
        client.start()
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def ask(client, make_responder):
    """Send one request; its responder."""

    def ask_client(request, prompt=None, positions=None):
        responder = make_responder()
        client.submit(request, prompt, positions, responder)
        return responder

    return ask_client


def test_a_request_streams_to_its_end(ask, make_request, prompt):
    responder = ask(make_request(max_tokens=20), prompt)
    last = responder.wait()
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage.completion_tokens == len(responder.token_ids) == 20
    assert len(responder.outputs) > 1


def test_equal_prompts_get_equal_tokens_whatever_runs_beside_them(ask, make_request, prompt):
    responders = [ask(make_request(f"k{index}", max_tokens=10), prompt) for index in range(4)]
    for responder in responders:
        responder.wait()
    assert len({tuple(responder.token_ids) for responder in responders}) == 1


def test_a_request_without_a_key_is_given_one(ask, make_request, prompt):
    responders = [ask(make_request("", max_tokens=2), prompt) for _ in range(2)]
    keys = {responder.wait().stream_key for responder in responders}
    assert len(keys) == 2
    assert "" not in keys


def test_a_key_in_use_is_refused_and_its_owner_goes_on(ask, make_request, prompt):
    owner = ask(make_request("same", max_tokens=50), prompt)
    refused = ask(make_request("same"), prompt)
    assert refused.wait().error.param == "stream_key"
    assert owner.wait().finish_reason is FinishReason.LENGTH


def test_a_request_too_large_for_the_engines_socket_fails_alone(
    client, ask, make_request, prompt, monkeypatch
):
    other = ask(make_request("other", max_tokens=30), prompt)
    monkeypatch.setattr(protocol, "MAX_HEADER_BYTES", 10_000)
    refused = ask(make_request("large", text="x" * 10_000), prompt)
    assert refused.wait().error.status == 413
    assert other.wait().finish_reason is FinishReason.LENGTH
    assert ask(make_request("large"), prompt).wait().finish_reason is FinishReason.LENGTH
    assert client.stats()["open_streams"] == 0


def test_overload_is_the_engines_word(ask, make_request, prompt):
    # 4 may run and 4 may wait.
    responders = [ask(make_request(f"k{index}", max_tokens=10**6), prompt) for index in range(9)]
    assert responders[8].wait().error.status == 429
    assert not any(responder.is_complete.is_set() for responder in responders[:8])


def test_stop_ends_every_stream_with_that_request_id(ask, make_request, prompt):
    first = ask(make_request("a", request_id="id", max_tokens=10**6), prompt)
    second = ask(make_request("b", request_id="id", max_tokens=10**6), prompt)
    other = ask(make_request("c", request_id="other", max_tokens=30), prompt)
    answer = ask(EngineRequest(op="stop", request_id="id")).wait()
    assert answer.stats == {"stopped": 2}
    assert first.wait().finish_reason is FinishReason.ABORT
    assert second.wait().finish_reason is FinishReason.ABORT
    assert other.wait().finish_reason is FinishReason.LENGTH


def test_stop_by_stream_key_ends_only_that_stream(ask, make_request, prompt):
    first = ask(make_request("a", request_id="id", max_tokens=10**6), prompt)
    second = ask(make_request("b", request_id="id", max_tokens=10), prompt)
    assert ask(EngineRequest(op="stop", stream_key="a")).wait().stats == {"stopped": 1}
    assert first.wait().finish_reason is FinishReason.ABORT
    assert second.wait().finish_reason is FinishReason.LENGTH


def test_stopping_the_unknown_or_the_finished_or_twice_has_no_effect(ask, make_request, prompt):
    responder = ask(make_request(request_id="id", max_tokens=2), prompt)
    responder.wait()
    for request_id in ("id", "id", "unknown"):
        answer = ask(EngineRequest(op="stop", request_id=request_id)).wait()
        assert (answer.stats, answer.error) == ({"stopped": 0}, None)
    later = make_request("later", request_id="id", received_at=time.monotonic(), max_tokens=2)
    assert ask(later, prompt).wait().finish_reason is FinishReason.LENGTH


def test_a_stop_that_overtook_the_preprocessor_still_counts(ask, make_request, prompt):
    received_at = time.monotonic()
    ask(EngineRequest(op="stop", request_id="id")).wait()
    late = ask(make_request(request_id="id", received_at=received_at), prompt)
    last = late.wait()
    assert last.finish_reason is FinishReason.ABORT
    assert last.usage.prompt_tokens == prompt.size
    assert late.token_ids == []


def test_a_cancelled_direct_client_is_seen_within_a_second(client, ask, make_request, prompt):
    responder = ask(make_request(max_tokens=10**6), prompt)
    responder.cancelled = True
    started = time.monotonic()
    assert responder.wait().finish_reason is FinishReason.ABORT
    assert time.monotonic() - started < 1.0
    assert client.stats()["requests_aborted"] == 1


def test_an_engine_that_reads_no_more_is_found_out_whoever_waits_to_tell_it_something(
    make_client, make_responder, make_request, until
):
    client = make_client(hang_timeout_s=0.8)
    first = client.stats()["engine_pid"]
    os.kill(first, signal.SIGSTOP)
    cancelled = make_responder()
    client.submit(make_request("cancelled"), np.ones(8, np.int32), None, cancelled)
    waiting = make_responder()
    long_prompt = np.ones(2**20, np.int32)  # more than a socket holds
    arguments = (make_request("waiting"), long_prompt, None, waiting)
    submitter = threading.Thread(target=client.submit, args=arguments, daemon=True)
    submitter.start()
    until(lambda: client.stats()["open_streams"] == 2)
    cancelled.cancelled = True
    assert cancelled.wait().error.status == 503
    assert waiting.wait().error.status == 503
    submitter.join()
    until(lambda: client.is_ready and client.stats()["engine_pid"] != first)


def test_a_request_that_arrives_cancelled_never_reaches_the_engine(
    client, responder, make_request, prompt
):
    responder.cancelled = True
    client.submit(make_request(acknowledged=True), prompt, None, responder)
    assert responder.wait().finish_reason is FinishReason.ABORT
    assert client.stats()["prompt_tokens_total"] == 0


def test_a_client_that_is_gone_stops_its_request(client, ask, make_request, prompt, until):
    responder = ask(make_request(max_tokens=10**6), prompt)
    responder.error = RuntimeError("gone")
    until(lambda: client.stats()["requests_aborted"] == 1)


def test_the_preprocessors_errors_pass_through(ask):
    info = ErrorInfo(status=400, type="t", code="invalid_media", message="image 0 is no image")
    last = ask(EngineRequest(op="error", stream_key="k", request_id="id", error=info)).wait()
    assert (last.error, last.seq, last.request_id) == (info, 0, "id")


def test_stats_tell_the_state_and_the_numbers(client, ask, make_request, prompt, until):
    ask(make_request(max_tokens=3), prompt).wait()
    until(lambda: client.stats().get("generation_tokens_total") == 3)
    stats = ask(EngineRequest(op="stats")).wait().stats
    assert (stats["state"], stats["engine_up"], stats["running"]) == ("ready", 1, 0)
    assert (stats["requests"], stats["open_streams"]) == (1, 0)
    assert all(isinstance(value, (int, float, str)) for value in stats.values())


def test_a_killed_engine_ends_every_stream_with_an_error(client, ask, make_request, prompt, until):
    responders = [ask(make_request(f"k{index}", max_tokens=10**6), prompt) for index in range(3)]
    until(lambda: all(responder.outputs for responder in responders))
    os.kill(client.stats()["engine_pid"], signal.SIGKILL)
    for responder in responders:
        error = responder.wait().error
        assert (error.status, error.code) == (503, "engine_restarting")
    until(lambda: client.is_ready)
    assert ask(make_request("again", max_tokens=2), prompt).wait().error is None
    assert client.stats()["engine_restarts"] == 1
    assert client.stats()["requests_failed"] == 3


def test_requests_while_the_engine_is_down_are_refused(client, ask, make_request, prompt, until):
    client._supervisor._min_backoff_s = 30.0
    os.kill(client.stats()["engine_pid"], signal.SIGKILL)
    until(lambda: client.stats()["engine_up"] == 0)
    handle = shared_memory.write_pixels(np.zeros((4, 588), np.uint8))
    span = MediaSpan(kind="image", offset=0, num_tokens=1, grid=(1, 2, 2), first_row=0, digest="")
    error = ask(make_request(media=(span,), pixels=handle), prompt).wait().error
    assert (error.status, error.code) == (503, "engine_restarting")


@pytest.mark.parametrize(
    ("op", "param"), [("stop", "request_id"), ("error", "error"), ("generate", "PROMPT_IDS")]
)
def test_an_op_without_what_it_needs_is_refused(ask, op, param):
    error = ask(EngineRequest(op=op)).wait().error
    assert (error.status, error.param) == (400, param)


def test_close_ends_open_streams_with_an_error(make_client, make_responder, make_request, prompt):
    client = make_client()
    responder = make_responder()
    client.submit(make_request(max_tokens=10**6), prompt, None, responder)
    client.close()
    assert responder.wait().error.code == "shutting_down"


def test_an_executor_that_cannot_run_here_says_why_at_once(make_client, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # whatever this machine has
    with pytest.raises(EngineUnavailableError, match=r"executor cuda: .*(built|driver|device)"):
        make_client(model=CHECKPOINT, executor="cuda", device="gpu:0")
