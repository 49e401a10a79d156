"""The engine process dies or hangs: streams end with an error, service comes back by itself."""

import signal
import time

import pytest

from tests.triton.triton_chat import token_ids_of

pytestmark = pytest.mark.triton

GREEDY = {
    "messages": [{"role": "user", "content": "Say something."}],
    "temperature": 0,
    "max_tokens": 8,
    "stream": True,
    "return_token_ids": True,
}
LONG = {**GREEDY, "max_tokens": 3000, "metadata": {"min_tokens": 2999}}


def assert_restarting(event):
    assert (event["error"]["status"], event["error"]["code"]) == (503, "engine_restarting"), event
    assert event["error"]["retry_after_s"] > 0


def test_a_killed_engine_ends_streams_with_an_error_and_comes_back(chat, engine_process):
    expected = token_ids_of(chat.events(GREEDY))
    restarts = chat.stats()["engine_restarts"]
    streams = [chat.stream(LONG, request_id=f"long-{index}") for index in range(3)]
    for stream in streams:
        assert "error" not in stream.next()
    killed_at = time.monotonic()
    engine_process.send_signal(signal.SIGKILL)
    for stream in streams:
        assert_restarting(stream.rest()[-1])
        assert stream.close() == 0
    assert time.monotonic() - killed_at < 1.0
    [refused] = chat.events(GREEDY)
    assert_restarting(refused)
    stats = chat.until_stats(lambda stats: stats["state"] == "ready")
    assert stats["engine_restarts"] == restarts + 1
    assert "SIGKILL" in stats["last_failure"]
    assert token_ids_of(chat.events(GREEDY)) == expected
    assert chat.server.is_ready()


def test_a_hanging_engine_is_found_killed_and_replaced(chat, engine_process):
    expected = token_ids_of(chat.events(GREEDY))
    stream = chat.stream(LONG)
    stream.next()
    engine_process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    last = stream.rest(timeout_s=20)[-1]
    assert_restarting(last)
    assert "gave no sign of life" in last["error"]["message"]
    assert time.monotonic() - stopped_at < 3 + 2  # hang_timeout_s and the stacks' half second
    stream.close()
    chat.until_stats(lambda stats: stats["state"] == "ready")
    assert token_ids_of(chat.events(GREEDY)) == expected


def test_stop_and_stats_are_answered_while_the_engine_hangs(chat, engine_process):
    stream = chat.stream(LONG, request_id="hanging")
    stream.next()
    engine_process.send_signal(signal.SIGSTOP)
    started_at = time.monotonic()
    assert chat.ask_engine({"op": "stop", "request_id": "hanging"})["stats"] == {"stopped": 1}
    assert chat.stats()["open_streams"] >= 1
    assert time.monotonic() - started_at < 2.0
    engine_process.send_signal(signal.SIGCONT)
    assert stream.rest()[-1]["finish_reason"] == "abort"
    stream.close()


def test_a_polite_kill_is_no_death(chat, engine_process):
    """Ctrl-C and a container's SIGTERM reach the whole process group."""
    for number in (signal.SIGTERM, signal.SIGINT):
        engine_process.send_signal(number)
    assert "error" not in chat.events(GREEDY)[-1]
    assert chat.stats()["engine_pid"] == engine_process.pid
