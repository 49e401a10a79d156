"""`ernie_engine` called directly, and how streams through the ensemble are ended from outside."""

import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.triton.triton_chat import TritonStream, is_last

pytestmark = pytest.mark.triton

ENDLESS = {"prompt": "hello", "stream": True, "max_tokens": 4000, "ignore_eos": True}


def sampling(max_tokens):
    return {"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True}


def test_a_direct_request_streams_token_ids(paced_chat):
    stream = paced_chat.engine_stream({"sampling": sampling(7)}, [1, 2, 3])
    outputs = stream.rest()
    stream.close()
    assert [token for item in outputs for token in item.get("token_ids", [])] == list(
        range(306, 313)
    )
    assert [item["seq"] for item in outputs] == list(range(len(outputs)))
    assert outputs[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 7}


def test_collect_answers_with_exactly_one_output(paced_chat):
    stream = paced_chat.engine_stream({"sampling": sampling(7), "collect": True}, [1, 2, 3])
    [output] = stream.rest()
    assert len(output["token_ids"]) == 7
    assert stream.close() == 0


def test_sixteen_streams_beside_each_other_are_complete_and_in_order(paced_chat):
    def run(index):
        stream = paced_chat.engine_stream({"sampling": sampling(40)}, [index + 1])
        outputs = stream.rest()
        stream.close()
        return outputs

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(run, range(16)))
    for index, outputs in enumerate(results):
        tokens = [token for item in outputs for token in item.get("token_ids", [])]
        assert tokens == [300 + (index + 1 + step) % 200 for step in range(40)]
        assert [item["seq"] for item in outputs] == list(range(len(outputs)))


def test_stats_tell_the_state(paced_chat):
    stats = paced_chat.stats()
    assert (stats["state"], stats["engine_up"]) == ("ready", 1)


def test_stop_by_request_id_ends_the_stream_through_the_ensemble(paced_chat):
    stream = paced_chat.stream(ENDLESS, request_id="to-stop")
    stream.next()
    started = time.monotonic()
    answer = paced_chat.ask_engine({"op": "stop", "request_id": "to-stop"})
    assert answer["stats"] == {"stopped": 1}
    assert stream.rest()[-1]["finish_reason"] == "abort"
    assert time.monotonic() - started < 1.0
    stream.close()


def test_stop_takes_the_id_of_the_triton_request_too(paced_chat):
    stream = paced_chat.stream(ENDLESS, request_id="to-stop-too")
    stream.next()
    answer = paced_chat.ask_engine({"op": "stop"}, request_id="to-stop-too")
    assert answer["stats"] == {"stopped": 1}
    stream.rest()
    stream.close()


def test_equal_request_ids_are_stopped_together_and_then_nothing_is_left(paced_chat):
    streams = [paced_chat.stream(ENDLESS, request_id="twice") for _ in range(2)]
    for stream in streams:
        stream.next()
    counts = [
        paced_chat.ask_engine({"op": "stop", "request_id": "twice"})["stats"]["stopped"]
        for _ in range(2)
    ]
    for stream in streams:
        assert stream.rest()[-1]["finish_reason"] == "abort"
        stream.close()
    assert counts[0] == 2
    assert counts[1] in (0, 2)  # a stream is open until its last output left the engine
    assert paced_chat.ask_engine({"op": "stop", "request_id": "twice"})["stats"]["stopped"] == 0


def test_a_cancelled_direct_client_is_seen_within_a_second(paced_chat):
    aborted = paced_chat.stats()["requests_aborted"]
    stream = paced_chat.engine_stream({"sampling": sampling(4000)}, [1, 2, 3])
    stream.next()
    started = time.monotonic()
    stream.cancel()
    paced_chat.until_stats(lambda stats: stats["requests_aborted"] == aborted + 1)
    assert time.monotonic() - started < 1.0


def test_a_cancelled_ensemble_client_is_relayed_within_a_second(paced_chat):
    aborted = paced_chat.stats()["requests_aborted"]
    stream = paced_chat.stream(ENDLESS)
    stream.next()
    started = time.monotonic()
    stream.cancel()
    paced_chat.until_stats(lambda stats: stats["requests_aborted"] == aborted + 1)
    assert time.monotonic() - started < 1.0


def test_a_closed_http_connection_is_relayed_within_a_second(paced_chat):
    aborted = paced_chat.stats()["requests_aborted"]
    address = urlsplit(paced_chat.server.http_url)
    body = b'{"REQUEST": "{\\"prompt\\": \\"hi\\", \\"stream\\": true, \\"max_tokens\\": 4000}"}'
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v2/models/ernie_chat/generate_stream HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert b"data:" in connection.recv(4096) + connection.recv(4096)
    started = time.monotonic()
    paced_chat.until_stats(lambda stats: stats["requests_aborted"] == aborted + 1)
    assert time.monotonic() - started < 1.0


def test_numbers_of_the_engine_are_on_the_metrics_page(paced_chat):
    paced_chat.ask_engine({"sampling": sampling(5)}, [1, 2])
    deadline = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(paced_chat.server.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        if float(values.get("ernie_generation_tokens_total", 0)) >= 5:
            break
        assert time.monotonic() < deadline, values
        time.sleep(0.2)
    assert float(values["ernie_engine_up"]) == 1
    assert 'nv_trt_llm_request_metrics{request_type="waiting"}' in values


BAD_REQUESTS = [
    (b"", None, None, "JSON"),
    (b"{", None, None, "JSON"),
    (b"\x00" * 10, None, None, "JSON"),
    (b'{"op": "launch"}', None, None, "op"),
    (b'{"sampling": {"max_tokens": 9223372036854775808}}', [1], None, "max_tokens"),
    (b'{"sampling": {"temperature": 1e999}}', [1], None, ""),
    (b"{}", None, None, "PROMPT_IDS"),
    (b"{}", [], None, "PROMPT_IDS"),
    (b"{}", [-1], None, "PROMPT_IDS"),
    (b"{}", [1, 2], [[0], [0], [0]], "POSITIONS"),
    (b'{"pixels": {"name": "../../etc/passwd", "num_rows": 1, "row_size": 1}}', [1], None, ""),
    (b'{"op": "stop"}', None, None, "request_id"),
    (b'{"op": "error"}', None, None, "error"),
]


@pytest.mark.parametrize(("request_", "prompt_ids", "positions", "words"), BAD_REQUESTS)
def test_contents_that_break_the_contract_are_refused_as_data(
    paced_chat, request_, prompt_ids, positions, words
):
    output = paced_chat.ask_engine(request_, prompt_ids, positions)
    assert output["error"]["status"] == 400, output
    assert words in output["error"]["message"]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([("ENGINE_REQUEST", "INT32", np.ones(2, np.int32))], "data-type"),
        ([("ENGINE_REQUEST", "UINT8", np.ones((1, 2), np.uint8))], "shape"),
        ([("OTHER", "INT32", np.ones(2, np.int32))], "OTHER"),
        (
            [
                ("ENGINE_REQUEST", "UINT8", np.ones(2, np.uint8)),
                ("POSITIONS", "INT32", np.ones((2, 4), np.int32)),
            ],
            "shape",
        ),
    ],
)
def test_tensors_that_break_the_contract_are_refused_by_triton(paced_chat, tensors, words):
    stream = TritonStream(paced_chat.grpc_url, "ernie_engine", tensors, "ENGINE_OUTPUT")
    with pytest.raises(RuntimeError, match=words):
        stream.next()
    stream.close()
    assert paced_chat.stats()["engine_up"] == 1


def test_a_call_without_a_request_is_refused_as_data(paced_chat):
    tensors = [("PROMPT_IDS", "INT32", np.ones(2, np.int32))]
    stream = TritonStream(paced_chat.grpc_url, "ernie_engine", tensors, "ENGINE_OUTPUT")
    assert stream.next()["error"]["message"] == "ENGINE_REQUEST is missing"
    stream.close()
    for tensors in ([("MEDIA", "BYTES", np.array([b"x"], np.object_))], []):
        stream = TritonStream(paced_chat.grpc_url, "ernie_chat", tensors, "EVENT")
        assert stream.next(10)["error"]["code"] == "invalid_json"
        stream.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\xff\xff\xff\xff",
        b"\x05\x00\x00\x00ab",
        b"\x02\x00\x00\x00{}\x02\x00\x00\x00{}",
        b"\xff\xff\xff\x7f{}",
    ],
)
def test_bytes_tensors_with_wrong_lengths_leave_the_stub_alive(paced_chat, payload):

    message = service_pb2.ModelInferRequest(model_name="ernie_chat")
    message.inputs.add(name="REQUEST", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(payload)
    with grpc.insecure_channel(paced_chat.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        responses = list(stub.ModelStreamInfer(iter([message]), timeout=30))
    assert responses
    events = paced_chat.events({**ENDLESS, "max_tokens": 3})
    assert is_last(events[-1])
