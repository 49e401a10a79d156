import pytest

from backend import shared_memory
from backend.request import FinishReason
from backend.shared_memory import CreditFile
from backend.stub import relay as relay_module
from backend.stub.relay import StreamRelay
from backend.wire import Credit, EngineOutput


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)


@pytest.fixture
def credits():
    file = CreditFile.create(4)
    yield file
    file.close()


@pytest.fixture
def relay():
    relay = StreamRelay()
    yield relay
    relay.close()


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(relay_module.time, "monotonic", lambda: now[0])
    return now


class Client:
    def __init__(self):
        self.cancelled = False
        self.num_asked = 0

    def is_cancelled(self):
        self.num_asked += 1
        return self.cancelled


def output(seq, key="k", credit=None, last=False):
    reason = FinishReason.STOP if last else None
    return EngineOutput(stream_key=key, seq=seq, credit=credit, finish_reason=reason)


def test_every_output_of_a_stream_is_acknowledged_in_its_slot(relay, credits):
    for key, slot in (("a", 1), ("b", 2)):
        for seq in range(5):
            credit = Credit(credits.name, slot) if seq == 0 else None
            item = output(seq, key, credit, last=seq == 4)
            relay.should_stop(item, lambda: False, False)
            relay.acknowledge(item)
    assert [credits.count(slot) for slot in range(4)] == [0, 5, 5, 0]
    assert relay.num_open_streams == 0


def test_a_stream_of_one_output_leaves_nothing_behind(relay):
    item = output(0, last=True)
    assert not relay.should_stop(item, lambda: True, True)
    relay.acknowledge(item)
    assert relay.num_open_streams == 0


def test_counters_that_are_gone_do_no_harm(relay):
    item = output(0, credit=Credit(f"ernie-credit-1-{'0' * 16}", 0))
    relay.should_stop(item, lambda: False, False)
    relay.acknowledge(item)


def test_a_new_engine_stub_brings_a_new_file(relay, credits):
    other = CreditFile.create(4)
    for key, file in (("a", credits), ("b", other)):
        item = output(0, key, Credit(file.name, 3))
        relay.should_stop(item, lambda: False, False)
        relay.acknowledge(item)
    relay.acknowledge(output(1, "a"))
    assert (credits.count(3), other.count(3)) == (2, 1)
    other.close()


def test_a_cancel_is_relayed_once(relay, clock):
    client = Client()
    assert not relay.should_stop(output(0), client.is_cancelled, False)
    client.cancelled = True
    answers = []
    for seq in range(1, 5):
        clock[0] += 0.06
        answers.append(relay.should_stop(output(seq), client.is_cancelled, False))
    assert answers == [True, False, False, False]
    assert client.num_asked == 2


def test_triton_is_asked_at_most_every_50_ms_per_stream(relay, clock):
    clients = {"a": Client(), "b": Client()}
    for seq in range(100):
        clock[0] += 0.01
        for key, client in clients.items():
            relay.should_stop(output(seq, key), client.is_cancelled, False)
    assert all(15 <= client.num_asked <= 21 for client in clients.values())


def test_many_streams_together_ask_no_more_than_500_times_a_second(relay, clock):
    client = Client()
    for seq in range(100):  # 200 streams for 2 s
        clock[0] += 0.02
        for key in range(200):
            relay.should_stop(output(seq, str(key)), client.is_cancelled, False)
    first_outputs = 200
    assert 800 <= client.num_asked - first_outputs <= 1000


def test_a_cancel_among_very_many_streams_is_seen_within_half_a_second(relay, clock):
    client = Client()
    for key in range(2000):
        relay.should_stop(output(0, str(key)), lambda: False, False)
    relay.should_stop(output(0), client.is_cancelled, False)
    client.cancelled = True
    clock[0] += 0.5
    assert relay.should_stop(output(1), client.is_cancelled, False)


def test_a_stream_that_ended_by_its_text_is_stopped_once(relay):
    client = Client()
    answers = [relay.should_stop(output(seq), client.is_cancelled, True) for seq in range(3)]
    assert answers == [True, False, False]


def test_streams_without_an_end_are_forgotten_after_an_hour(relay, clock):
    relay.should_stop(output(0, "dead"), lambda: False, False)
    clock[0] += 3601
    relay.should_stop(output(0, "new"), lambda: False, False)
    assert relay.num_open_streams == 1
