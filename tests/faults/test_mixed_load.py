"""Everything a client may do, at once and at random; afterwards nothing may be left of it."""

import random
import threading
import time

import psutil
import pytest

from tests.triton.triton_chat import token_ids_of

pytestmark = pytest.mark.triton

DURATION_S = 6.0
GREEDY = {"prompt": "hello", "temperature": 0, "max_tokens": 8, "stream": True}


# Triton 24.10 leaks a request, and then cannot unload its model, when a gRPC stream is cancelled at
# the moment of its last response. While the engine is down every response is the last one.
GENTLE = ("read", "collect", "stop", "bad", "stats")
ALL = (*GENTLE, "cancel", "direct")


def client(chat, index, deadline, problems, actions):
    choice = random.Random(index)
    try:
        while time.monotonic() < deadline:
            action = choice.choice(actions)
            body = {**GREEDY, "prompt": "x " * choice.randint(1, 60), "ignore_eos": True}
            body["max_tokens"] = choice.choice((1, 5, 400))
            request_id = f"{index}-{choice.randint(0, 3)}"
            if action == "read":
                events = chat.events(body, request_id=request_id)
                assert [event["seq"] for event in events] == list(range(len(events)))
            elif action == "collect":
                assert len(chat.events({**body, "stream": False, "max_tokens": 5})) == 1
            elif action == "stop":
                stream = chat.stream(body, request_id=request_id)
                time.sleep(choice.random() * 0.05)
                chat.ask_engine({"op": "stop", "request_id": request_id})
                stream.rest()
                stream.close()
            elif action == "cancel":
                stream = chat.stream({**body, "max_tokens": 2000})
                time.sleep(choice.random() * 0.1)
                stream.cancel()
            elif action == "direct":
                stream = chat.engine_stream({"sampling": {"max_tokens": 2000}}, [5, 6, 7])
                stream.next()
                stream.cancel()
            elif action == "bad":
                assert chat.events(b"{]")[0]["error"]["status"] == 400
            else:
                chat.stats()
    except Exception as error:
        problems.append(f"client {index}: {error!r}")


def test_random_clients_leave_nothing_behind(chat):
    expected = token_ids_of(chat.events({**GREEDY, "return_token_ids": True}))
    deadline = time.monotonic() + DURATION_S
    problems = []
    clients = [
        threading.Thread(target=client, args=(chat, index, deadline, problems, ALL))
        for index in range(8)
    ]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    assert problems == []
    stats = chat.until_stats(
        lambda stats: stats["open_streams"] == stats["running"] == stats["waiting"] == 0
    )
    assert stats["kv_blocks_held"] == 0
    assert stats["kv_blocks_free"] + stats["kv_blocks_cached"] == stats["kv_blocks_total"]
    assert (stats["integrity_failures"], stats["engine_restarts"]) == (0, 0)
    assert token_ids_of(chat.events({**GREEDY, "return_token_ids": True})) == expected


def test_random_clients_survive_an_engine_that_is_killed_under_them(chat):
    expected = token_ids_of(chat.events({**GREEDY, "return_token_ids": True}))
    restarts = chat.stats()["engine_restarts"]
    deadline = time.monotonic() + 2 * DURATION_S
    problems = []
    clients = [
        threading.Thread(target=client, args=(chat, index, deadline, problems, GENTLE))
        for index in range(8)
    ]
    for thread in clients:
        thread.start()
    for _ in range(2):
        time.sleep(2.0)
        stats = chat.until_stats(lambda stats: stats["state"] == "ready")
        psutil.Process(stats["engine_pid"]).kill()
    for thread in clients:
        thread.join(60)
    assert problems == []
    stats = chat.until_stats(
        lambda stats: stats["state"] == "ready" and stats["open_streams"] == stats["running"] == 0
    )
    assert stats["engine_restarts"] == restarts + 2
    assert stats["kv_blocks_held"] == 0
    assert token_ids_of(chat.events({**GREEDY, "return_token_ids": True})) == expected
