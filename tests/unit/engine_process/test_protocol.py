import math
import socket
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.engine.protocol import (
    Configure,
    Connection,
    ConnectionClosed,
    Heartbeat,
    Outputs,
    Submit,
    pack_arrays,
    unpack_arrays,
)
from backend.errors import InternalError
from backend.request import FinishReason
from backend.wire import LOWEST_LOGPROB, EngineOutput, EngineRequest, TokenLogprob


@pytest.fixture
def pair():
    ends = [Connection(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def raw():
    """A bare socket and the connection that listens to it."""
    ours, theirs = socket.socketpair()
    connection = Connection(theirs)
    yield ours, connection
    ours.close()
    connection.close()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.binary(max_size=3000), max_size=4),
    st.text(max_size=50),
    st.lists(st.integers(0, 2**31 - 1), max_size=50),
)
def test_every_message_arrives_as_it_was_sent(blobs, key, token_ids):
    left, right = (Connection(end) for end in socket.socketpair())
    message = Outputs([EngineOutput(stream_key=key, seq=1, token_ids=token_ids)])
    left.send(message, blobs)
    left.send(Heartbeat({"running": 1}))
    assert right.receive() == (message, [bytearray(blob) for blob in blobs])
    assert right.receive() == (Heartbeat({"running": 1}), [])
    left.close()
    right.close()


def test_only_what_is_nothing_but_tokens_travels_as_such():
    logprob = TokenLogprob(5, -0.5)
    plain = [EngineOutput("a", 0, token_ids=[1]), EngineOutput("b", 0, token_ids=[2, 3])]
    others = [
        EngineOutput("c", 0, token_ids=[4], finish_reason=FinishReason.STOP),
        EngineOutput("d", 0, token_ids=[5], logprobs=[logprob]),
        EngineOutput("e", 0, error=InternalError("broken").info()),
    ]
    message = Outputs.of_step([plain[0], *others, plain[1]])
    assert message.tokens == {"a": [1], "b": [2, 3]}
    assert message.outputs == others


def test_a_forced_token_of_no_probability_at_all_arrives(pair):
    left, right = pair
    logprob = TokenLogprob(5, -math.inf, ((6, -0.25),))
    left.send(Outputs([EngineOutput("a", 0, token_ids=[5], logprobs=[logprob])]))
    message, _ = right.receive()
    assert message.outputs[0].logprobs == [TokenLogprob(5, LOWEST_LOGPROB, ((6, -0.25),))]


@pytest.mark.parametrize("num_tokens", [1, 100_000])
def test_arrays_travel_as_blobs(pair, num_tokens):
    prompt_ids = np.arange(num_tokens, dtype=np.int32)
    positions = np.arange(3 * num_tokens, dtype=np.int32).reshape(3, num_tokens)
    request = EngineRequest(stream_key="k")
    sender = threading.Thread(
        target=pair[0].send, args=(Submit(request), pack_arrays(prompt_ids, positions))
    )
    sender.start()
    message, blobs = pair[1].receive()
    sender.join()
    assert message == Submit(request)
    received = unpack_arrays(blobs)
    assert np.array_equal(received[0], prompt_ids)
    assert received[1] is not None
    assert np.array_equal(received[1], positions)


def test_a_prompt_without_positions_arrives_without(pair, prompt):
    pair[0].send(Submit(EngineRequest()), pack_arrays(prompt, None))
    received = unpack_arrays(pair[1].receive()[1])
    assert np.array_equal(received[0], prompt)
    assert received[1] is None


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<II", 2**31, 0),
        struct.pack("<II", 2, 5),
        struct.pack("<IIQ", 2, 1, 2**40) + b"{}",
        struct.pack("<II", 2, 0) + b"{}",
        struct.pack("<II", 2, 0) + b"\xff\xff",
        struct.pack("<II", 20, 0) + b'{"type": "Unknown" } ',
    ],
    ids=["long header", "many blobs", "long blob", "no type", "not JSON", "unknown type"],
)
def test_what_is_not_a_frame_is_refused(raw, data):
    raw[0].sendall(data)
    with pytest.raises(InternalError, match="frame"):
        raw[1].receive()


def test_the_end_of_the_other_side_is_noticed(pair):
    pair[0].close()
    with pytest.raises(ConnectionClosed):
        pair[1].receive()
    with pytest.raises(ConnectionClosed):
        pair[1].send(Configure({"x": "y" * 10**6}))


def test_a_frame_cut_off_in_the_middle_is_an_end(raw):
    raw[0].sendall(struct.pack("<II", 100, 0) + b"{")
    raw[0].close()
    with pytest.raises(ConnectionClosed):
        raw[1].receive()


def test_shutdown_wakes_a_sender_that_waits_for_room(pair):
    failed = threading.Event()

    def send():
        try:
            while True:
                pair[0].send(Heartbeat({"padding": "x" * 100_000}))
        except ConnectionClosed:
            failed.set()

    thread = threading.Thread(target=send)
    thread.start()
    pair[0].shutdown()
    assert failed.wait(5)
    thread.join()
