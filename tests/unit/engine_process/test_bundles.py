import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.engine import sender as sender_module
from backend.engine.sender import MAX_BUNDLE, MAX_UNACKNOWLEDGED, Sender
from backend.engine.stream import Stream
from backend.request import FinishReason
from backend.shared_memory import CreditFile
from backend.wire import Delivery, EngineOutput, EngineRequest


class Client:
    """Takes responses apart as the postprocessor does, and acknowledges what is in them."""

    def __init__(self):
        self.responses = []
        self.token_ids = {}
        self.ended = set()
        self.acknowledges = True
        self.failing = set()
        self._slots = {}
        self._files = {}

    def send(self, key, output):
        if key in self.failing:
            self.failing.remove(key)
            raise RuntimeError("gone")
        self.responses.append((key, output))
        for item in output.bundle or [output]:
            self._take(item)

    def close(self):
        for file in self._files.values():
            file.close()

    def _take(self, output):
        assert output.event_key == f"event of {output.stream_key}"
        self.token_ids.setdefault(output.stream_key, []).extend(output.token_ids)
        if output.is_last:
            self.ended.add(output.stream_key)
        if output.credit is not None:
            self._slots[output.stream_key] = output.credit
        credit = self._slots.get(output.stream_key)
        if self.acknowledges and credit is not None:
            if credit.name not in self._files:
                self._files[credit.name] = CreditFile.open(credit.name)
            self._files[credit.name].bump(credit.slot)


class Responder:
    def __init__(self, client, key):
        self._client, self._key = client, key

    def send(self, output):
        self._client.send(self._key, output)

    def is_cancelled(self):
        return False


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


@pytest.fixture
def lost():
    return []


@pytest.fixture
def sender(lost):
    sender = Sender(on_lost=lost.append)
    yield sender
    sender.close()


@pytest.fixture
def begun(client, sender, until):
    """Streams whose first output has been sent."""

    def begin(*keys, group="g", **fields):
        streams = [make_stream(client, key, group, **fields) for key in keys]
        sender.push((stream, EngineOutput(stream.key, 0, token_ids=[0])) for stream in streams)
        until(lambda: all(key in client.token_ids for key in keys))
        client.responses.clear()
        return streams

    return begin


def make_stream(client, key, group="g", acknowledged=True):
    request = EngineRequest(
        stream_key=key,
        acknowledged=acknowledged,
        delivery=Delivery(event_group=group, event_key=f"event of {key}"),
    )
    return Stream(request, Responder(client, key))


def last(stream):
    return (stream, EngineOutput(stream.key, 0, finish_reason=FinishReason.STOP))


def sizes(client):
    return [len(output.bundle) for _, output in client.responses]


def test_streams_of_a_group_share_responses(client, sender, begun, until):
    streams = begun(*map(str, range(MAX_BUNDLE + 8)))
    sender.push_tokens((stream, [1]) for stream in streams)
    until(lambda: all(ids == [0, 1] for ids in client.token_ids.values()))
    assert sizes(client) == [MAX_BUNDLE, 8]
    assert [key for key, _ in client.responses] == ["0", str(MAX_BUNDLE)]


def test_groups_do_not_mix_and_streams_without_one_stay_alone(client, sender, begun, until):
    streams = begun("a1", "a2", group="a") + begun("b1", "b2", group="b") + begun("c", group="")
    raw = begun("d1", "d2", group="a", acknowledged=False)  # nobody would take a bundle apart
    client.responses.clear()
    sender.push_tokens((stream, [1]) for stream in [*streams, *raw])
    until(lambda: all(ids == [0, 1] for ids in client.token_ids.values()))
    bundles = [{item.stream_key for item in output.bundle} for _, output in client.responses]
    assert sorted(map(sorted, filter(None, bundles))) == [["a1", "a2"], ["b1", "b2"]]
    assert len(client.responses) == 5


def test_first_and_last_outputs_go_alone(client, sender, begun, until):
    old = begun("a", "b", "c")
    new = make_stream(client, "new")
    sender.push([(new, EngineOutput("new", 0, token_ids=[0])), last(old[0])])
    sender.push_tokens((stream, [1]) for stream in old[1:])
    until(lambda: client.token_ids.get("c") == [0, 1] and "a" in client.ended)
    alone = {key for key, output in client.responses if not output.bundle}
    assert {"new", "a"} <= alone


def test_a_stream_without_credit_does_not_ride_along(client, sender, begun, until):
    client.acknowledges = False
    stuck, *others = begun("stuck", "a", "b")
    for _ in range(MAX_UNACKNOWLEDGED - 1):
        number = len(client.token_ids["stuck"])
        sender.push_tokens([(stuck, [1])])
        until(lambda number=number: len(client.token_ids["stuck"]) > number)
    client.responses.clear()
    sender.push_tokens((stream, [1]) for stream in [stuck, *others])
    until(lambda: client.token_ids["b"] == [0, 1])
    assert len(client.token_ids["stuck"]) == MAX_UNACKNOWLEDGED
    assert "stuck" not in {item.stream_key for _, o in client.responses for item in o.bundle}


def test_a_carrier_that_cannot_be_reached_takes_nobody_with_it(client, sender, begun, until, lost):
    streams = begun("a", "b", "c")
    client.failing = {"a"}
    sender.push_tokens((stream, [1]) for stream in streams)
    until(lambda: client.token_ids["c"] == [0, 1])
    sender.push_tokens((stream, [2]) for stream in streams)
    until(lambda: client.token_ids["c"] == [0, 1, 2])
    assert client.token_ids["b"] == [0, 1, 2]
    assert [stream.key for stream in lost] == ["a"]
    numbers = [item.seq for _, output in client.responses for item in output.bundle]
    assert numbers == [1, 1, 2, 2]


def test_the_outputs_of_groups_are_bounded_in_time(client, sender, begun, until, monkeypatch):
    monkeypatch.setattr(sender_module, "MAX_BUNDLED_PER_S", 100)
    monkeypatch.setattr(sender_module, "MAX_CATCH_UP_S", 0.0)
    streams = begun("a", "b")
    started = time.monotonic()
    for value in range(1, 40):
        sender.push_tokens((stream, [value]) for stream in streams)
        time.sleep(0.005)
    sender.push(map(last, streams))
    until(lambda: client.ended == {"a", "b"})
    elapsed_s = time.monotonic() - started
    assert sum(sizes(client)) <= 2 + 100 * elapsed_s
    assert client.token_ids["a"] == client.token_ids["b"] == list(range(40))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "g", "h"]), st.integers(1, 20)), min_size=1, max_size=12
    ),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_every_token_of_every_stream_arrives_once_and_in_order(kinds, pauses):
    client = Client()
    lost = []
    sender = Sender(on_lost=lost.append)
    streams = [make_stream(client, str(i), group) for i, (group, _) in enumerate(kinds)]
    counts = [count for _, count in kinds]
    for value in range(max(counts)):
        open_streams = [s for s, count in zip(streams, counts, strict=True) if value < count]
        sender.push_tokens((stream, [value]) for stream in open_streams)
        if pauses[value]:
            time.sleep(0.001)
    sender.push(map(last, streams))
    sender.close()
    client.close()
    assert lost == []
    assert client.ended == {stream.key for stream in streams}
    for stream, count in zip(streams, counts, strict=True):
        assert client.token_ids.get(stream.key, []) == list(range(count))
