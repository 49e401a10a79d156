import threading

import pytest

from backend.engine import credits
from backend.engine import sender as sender_module
from backend.engine.sender import MAX_UNACKNOWLEDGED, WINDOW, Sender
from backend.engine.stream import Stream
from backend.request import FinishReason
from backend.shared_memory import CreditFile
from backend.wire import EngineOutput, EngineRequest


@pytest.fixture
def lost():
    return []


@pytest.fixture
def sender(lost):
    sender = Sender(on_lost=lost.append)
    yield sender
    sender.close()


@pytest.fixture
def make_stream(make_responder):
    def make(key="k", **fields):
        return Stream(EngineRequest(stream_key=key, **fields), make_responder())

    return make


def token(value, last=False, key="k"):
    reason = FinishReason.STOP if last else None
    return EngineOutput(stream_key=key, seq=0, token_ids=[value], finish_reason=reason)


def test_outputs_arrive_in_order_and_complete(sender, make_stream):
    streams = [make_stream(str(index)) for index in range(20)]
    for value in range(50):
        sender.push((stream, token(value, last=value == 49)) for stream in streams)
    for stream in streams:
        stream.responder.wait()
        assert stream.responder.token_ids == list(range(50))
        numbers = [output.seq for output in stream.responder.outputs]
        assert numbers == list(range(len(numbers)))


def test_bare_tokens_merge_with_whole_outputs_in_order(sender, make_stream):
    stream, gone = make_stream(), None
    for value in range(0, 50, 2):
        sender.push_tokens([(stream, [value]), (gone, [7])])
        sender.push([(stream, token(value + 1, last=value == 48))])
    stream.responder.wait()
    assert stream.responder.token_ids == list(range(50))


def test_bare_tokens_of_a_collected_stream_wait_for_its_end(sender, make_stream):
    stream = make_stream(collect=True)
    for value in range(10):
        sender.push_tokens([(stream, [value])])
    sender.push([(stream, token(10, last=True))])
    stream.responder.wait()
    assert [output.token_ids for output in stream.responder.outputs] == [list(range(11))]


def test_only_one_thread_ever_sends(sender, make_stream):
    threads = set()
    streams = [make_stream(str(index)) for index in range(8)]
    for stream in streams:
        original = stream.responder.send

        def send(output, original=original):
            threads.add(threading.get_ident())
            original(output)

        stream.responder.send = send
    pushers = [
        threading.Thread(target=sender.push, args=([(stream, token(1, last=True))],))
        for stream in streams
    ]
    for pusher in pushers:
        pusher.start()
    for stream in streams:
        stream.responder.wait()
    assert len(threads) == 1
    assert threads.isdisjoint({pusher.ident for pusher in pushers})


def test_without_acknowledgement_only_four_outputs_are_on_their_way(sender, make_stream, until):
    stream = make_stream(acknowledged=True)
    outputs = stream.responder.outputs
    for value in range(MAX_UNACKNOWLEDGED):
        sender.push([(stream, token(value))])
        until(lambda value=value: len(outputs) == value + 1)
    for value in range(MAX_UNACKNOWLEDGED, 20):
        sender.push([(stream, token(value))])
    probe = make_stream("probe")
    sender.push([(probe, token(0, last=True))])
    probe.responder.wait()
    assert len(outputs) == MAX_UNACKNOWLEDGED
    credit = outputs[0].credit
    assert all(output.credit is None for output in outputs[1:])
    file = CreditFile.open(credit.name)
    file.bump(credit.slot)
    until(lambda: len(outputs) == MAX_UNACKNOWLEDGED + 1)
    file.close()
    assert outputs[-1].token_ids == list(range(MAX_UNACKNOWLEDGED, 20))


def test_all_streams_together_have_a_bounded_number_on_their_way(
    sender, make_stream, until, monkeypatch
):
    monkeypatch.setattr(sender_module, "WINDOW", 6)
    monkeypatch.setattr(credits, "LOST_S", 60.0)
    monkeypatch.setattr(credits, "OVERDUE_S", 60.0)
    streams = [make_stream(str(index), acknowledged=True) for index in range(6)]
    sender.push((stream, token(0)) for stream in streams)
    until(lambda: all(stream.responder.outputs for stream in streams))
    sender.push((stream, token(1)) for stream in streams)
    first = make_stream("first", acknowledged=True)
    sender.push([(first, token(0, last=True))])
    first.responder.wait()  # first outputs do not wait for the window
    sender.push((stream, token(2)) for stream in streams)
    assert [len(stream.responder.outputs) for stream in streams] == [1] * 6
    credit = streams[0].responder.outputs[0].credit
    file = CreditFile.open(credit.name)
    file.bump(credit.slot)
    until(lambda: sum(len(stream.responder.outputs) for stream in streams) == 7)
    file.close()
    assert streams[0].responder.outputs[-1].token_ids == [1, 2]


def test_streams_nobody_acknowledges_do_not_hold_up_the_others(sender, make_stream, until):
    """While new streams come, whose acknowledgements show that the postprocessor lives."""
    unheard = [make_stream(f"unheard{index}", acknowledged=True) for index in range(WINDOW // 4)]
    for value in range(MAX_UNACKNOWLEDGED):
        sender.push((stream, token(value)) for stream in unheard)
        until(lambda: all(s.pending is None and not s.is_queued for s in unheard))
    until(lambda: all(len(s.responder.outputs) == MAX_UNACKNOWLEDGED for s in unheard))
    file = CreditFile.open(unheard[0].lease.credit.name)
    stream = make_stream("stream", acknowledged=True)
    sender.push([(stream, token(0)), (stream, token(1))])
    until(lambda: stream.responder.outputs)
    file.bump(stream.lease.credit.slot)

    def is_over():
        new = make_stream("new", acknowledged=True)
        sender.push([(new, token(0)), (stream, token(1))])
        until(lambda: new.responder.outputs)
        file.bump(new.lease.credit.slot)
        return len(stream.responder.outputs) > 1

    until(is_over)
    file.close()


def test_a_stream_nobody_acknowledges_goes_on_slowly(sender, make_stream, monkeypatch):
    monkeypatch.setattr(sender_module, "STALL_S", 0.05)
    stream = make_stream(acknowledged=True)
    for value in range(30):
        sender.push([(stream, token(value, last=value == 29))])
    stream.responder.wait()
    assert stream.responder.token_ids == list(range(30))


def test_a_stream_nobody_needs_to_acknowledge_is_not_held_back(sender, make_stream, until):
    stream = make_stream(acknowledged=False)
    for value in range(10):
        sender.push([(stream, token(value))])
        until(lambda value=value: stream.responder.token_ids[-1:] == [value])
    assert all(output.credit is None for output in stream.responder.outputs)


def test_a_first_token_overtakes_what_waits(sender, make_stream):
    order = []
    old = [make_stream(str(index)) for index in range(3)]
    sender.push((stream, token(0)) for stream in old)
    blocker = make_stream("blocker")
    blocker.responder.gate.clear()
    entered = threading.Event()
    original = blocker.responder.send

    def send(output):
        entered.set()
        original(output)

    blocker.responder.send = send
    sender.push([(blocker, token(0, last=True))])
    assert entered.wait(5)
    for stream in old:
        stream.responder.send = lambda output, key=stream.key: order.append(key)
    new = make_stream("new")
    new.responder.send = lambda output: order.append("new")
    sender.push((stream, token(1)) for stream in old)
    sender.push([(new, token(1))])
    blocker.responder.gate.set()
    probe = make_stream("probe")
    sender.push((stream, token(2, last=True)) for stream in old)
    sender.push([(probe, token(0, last=True))])
    sender.close()
    assert order[0] == "new"


def test_a_collected_stream_gets_exactly_one_output(sender, make_stream):
    stream = make_stream(collect=True, acknowledged=True)
    for value in range(10):
        sender.push([(stream, token(value, last=value == 9))])
    stream.responder.wait()
    assert [output.token_ids for output in stream.responder.outputs] == [list(range(10))]


def test_a_client_that_cannot_be_reached_does_not_disturb_others(sender, make_stream, lost, until):
    broken, healthy = make_stream("broken"), make_stream("healthy")
    broken.responder.error = RuntimeError("gone")
    sender.push([(broken, token(1)), (healthy, token(1))])
    until(lambda: lost == [broken])
    sender.push([(broken, token(2)), (healthy, token(2, last=True))])
    healthy.responder.wait()
    broken.responder.error = None
    sender.push([(broken, token(3, last=True))])
    assert broken.responder.wait().is_last
    assert lost == [broken]


def test_closing_sends_what_is_pending(make_stream):
    sender = Sender(on_lost=lambda stream: None)
    stream = make_stream(acknowledged=True)
    for value in range(10):
        sender.push([(stream, token(value, last=value == 9))])
    sender.close()
    assert stream.responder.token_ids == list(range(10))
