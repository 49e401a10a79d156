"""The gRPC side against a small KServe server in this process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from backend import wire
from backend.errors import EngineUnavailableError, ErrorInfo, InternalError
from backend.request import FinishReason
from backend.wire import Delta, EngineOutput, EngineRequest, Event
from openai_frontend.triton_client import MODEL_UNAVAILABLE, TritonClient
from openai_frontend.upstream import RefusedError, Tokens
from tests.unit.frontend.fake_triton import wait_until

Answer = Callable[[Any], Iterable[Any]]


class KServe(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`answers`: model name → function of the request to a list of responses or exceptions."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[Any] = []
        self.num_open = 0
        self.num_cancelled = 0
        self.is_ready = True

    async def ModelStreamInfer(self, request_iterator, context):
        self.num_open += 1
        try:
            async for request in request_iterator:
                self.requests.append(request)
                for response in self.answers[request.model_name](request):
                    if isinstance(response, asyncio.Event):
                        await response.wait()
                    elif isinstance(response, grpc.StatusCode):
                        await context.abort(response, "shm key /dev/shm/secret")
                    else:
                        yield response
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_open -= 1

    async def ServerReady(self, request, context):
        return pb.ServerReadyResponse(ready=self.is_ready)

    async def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)


def output(data: bytes | None) -> Any:
    response = pb.ModelInferResponse(raw_output_contents=[] if data is None else [data])
    return pb.ModelStreamInferResponse(infer_response=response)


def event(seq: int = 0, **fields: Any) -> Any:
    data = wire.encode(Event(seq, **fields))
    return output(len(data).to_bytes(4, "little") + data)


def failure(text: str) -> Any:
    return pb.ModelStreamInferResponse(error_message=text)


@pytest.fixture
async def kserve():
    """Starts a server for `answers`; gives it and a connected client."""
    started = []

    async def start(**answers: Answer) -> tuple[KServe, TritonClient]:
        servicer, server, client = KServe(answers), grpc.aio.server(), TritonClient()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client.url = f"127.0.0.1:{port}"
        client.connect(client.url)
        started.append((server, client))
        return servicer, client

    yield start
    for server, client in started:
        await client.close()
        await server.stop(None)


async def collect(client: TritonClient, media: list[bytes] | None = None) -> list[Event]:
    return [item async for item in client.generate("chatcmpl-1", b'{"prompt": "x"}', media or [])]


async def test_events_come_in_order_and_empty_responses_are_skipped(kserve):
    answers = [event(delta=Delta(content="a")), output(None), event(finish_reason="stop")]
    servicer, client = await kserve(ernie_chat=lambda request: answers)
    events = await collect(client, [b"picture", b""])
    assert [item.delta.content for item in events] == ["a", ""]
    assert events[-1].finish_reason is FinishReason.STOP
    (request,) = servicer.requests
    assert request.id == "chatcmpl-1"
    assert [(item.name, item.datatype, list(item.shape)) for item in request.inputs] == [
        ("REQUEST", "BYTES", [1]),
        ("MEDIA", "BYTES", [2]),
    ]
    assert list(request.raw_input_contents) == [
        b'\x0f\0\0\0{"prompt": "x"}',
        b"\x07\0\0\0picture\0\0\0\0",
    ]
    await wait_until(lambda: servicer.num_open == 0)
    assert servicer.num_cancelled == 0, "a finished stream is read to its end, not dropped"


async def test_media_is_left_out_when_there_is_none(kserve):
    servicer, client = await kserve(ernie_chat=lambda request: [event(finish_reason="stop")])
    await collect(client)
    assert [item.name for item in servicer.requests[0].inputs] == ["REQUEST"]


async def test_stop_and_stats_are_ops_of_the_engine(kserve):
    def engine(request):
        data = wire.encode(EngineOutput("", 0, stats={"running": 2}, finish_reason="stop"))
        return [output(data)]

    servicer, client = await kserve(ernie_engine=engine)
    await client.stop("chatcmpl-7")
    assert await client.stats() == {"running": 2}
    stop, stats = (
        wire.decode(request.raw_input_contents[0], EngineRequest) for request in servicer.requests
    )
    assert (stop.op, stop.request_id) == ("stop", "chatcmpl-7")
    assert stats.op == "stats"
    assert servicer.requests[0].inputs[0].datatype == "UINT8"
    assert list(servicer.requests[0].inputs[0].shape) == [
        len(servicer.requests[0].raw_input_contents[0])
    ]


async def test_a_server_that_is_not_ready_has_no_stats(kserve):
    servicer, client = await kserve()
    servicer.is_ready = False
    with pytest.raises(EngineUnavailableError, match="not ready"):
        await client.stats()
    client.connect("127.0.0.1:1")
    with pytest.raises(EngineUnavailableError):
        await client.stats()


async def test_an_error_of_the_engine_is_unavailability(kserve):
    info = ErrorInfo(503, "server_error", "engine_restarting", "the engine is restarting")
    _, client = await kserve(
        ernie_engine=lambda request: [output(wire.encode(EngineOutput("", 0, error=info)))]
    )
    with pytest.raises(EngineUnavailableError, match="restarting"):
        await client.stats()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Stub process 'eng_0_0' is not healthy.", EngineUnavailableError),
        ("Request for unknown model: 'ernie_chat' is not found", EngineUnavailableError),
        ("Server is exiting", EngineUnavailableError),
        ("unexpected shape, key triton_python_backend_shm_region_1", InternalError),
    ],
)
async def test_tritons_texts_are_classified_and_never_quoted(kserve, text, kind):
    _, client = await kserve(ernie_chat=lambda request: [failure(text)])
    with pytest.raises(kind) as raised:
        await collect(client)
    assert "triton_python" not in raised.value.message
    assert "eng_0" not in raised.value.message
    if kind is EngineUnavailableError:
        assert raised.value.code == MODEL_UNAVAILABLE


async def test_a_failing_call_and_a_missing_server_are_unavailability(kserve):
    _, client = await kserve(ernie_chat=lambda request: [grpc.StatusCode.INTERNAL])
    with pytest.raises(EngineUnavailableError) as raised:
        await collect(client)
    assert "secret" not in raised.value.message
    client.connect("127.0.0.1:1")
    with pytest.raises(EngineUnavailableError):
        await collect(client)
    assert not await client.is_live(1.0)
    with pytest.raises(EngineUnavailableError):
        await collect(TritonClient())


async def test_a_server_that_moved_is_used_after_connect(kserve):
    _, moved = await kserve(ernie_chat=lambda request: [event(finish_reason="stop")])
    client = TritonClient()
    client.connect("127.0.0.1:1")
    with pytest.raises(EngineUnavailableError):
        await collect(client)
    client.connect(moved.url)
    assert len(await collect(client)) == 1
    assert await client.is_live(2.0)
    await client.close()


async def test_a_stream_that_ends_is_not_cancelled_by_close(kserve):
    answer_is_read = asyncio.Event()
    servicer, client = await kserve(
        ernie_chat=lambda request: [event(finish_reason="stop"), answer_is_read]
    )
    await collect(client)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)  # it has begun
    answer_is_read.set()
    await closing
    await wait_until(lambda: servicer.num_open == 0)
    assert servicer.num_cancelled == 0


async def test_a_dropped_stream_is_cancelled(kserve):
    never = asyncio.Event()
    servicer, client = await kserve(ernie_chat=lambda request: [event(), never])
    task = asyncio.create_task(collect(client))
    await wait_until(lambda: servicer.num_open == 1)
    task.cancel()
    await wait_until(lambda: servicer.num_open == 0)


def key_of(request) -> str:
    return request.parameters["event_key"].string_param


async def test_events_of_other_requests_reach_their_owners_in_order(kserve):
    """The first request's call brings nearly everything of the second one."""
    both_asked, first_is_done = asyncio.Event(), asyncio.Event()
    keys: list[str] = []

    def answer(request):
        keys.append(key_of(request))
        if len(keys) == 1:
            return itertools.chain([both_asked], shared_responses())
        both_asked.set()
        last = Event(3, Delta(content="d"), key=keys[1], finish_reason=FinishReason.STOP)
        return [event(bundle=[last]), first_is_done]

    def shared_responses():
        second = [Event(seq, Delta(content=text), key=keys[1]) for seq, text in enumerate("abc")]
        own = [Event(seq, Delta(content=text), key=keys[0]) for seq, text in enumerate("xy")]
        yield event(bundle=[second[0], own[0]])
        yield event(bundle=[own[1], second[2], Event(0, key="gone")])
        yield event(bundle=[second[1]])
        yield event(2, finish_reason="stop", key=keys[0])

    servicer, client = await kserve(ernie_chat=answer)
    first = asyncio.create_task(collect(client))
    await wait_until(lambda: len(keys) == 1)
    second = asyncio.create_task(collect(client))
    assert "".join(item.delta.content for item in await first) == "xy"
    assert "".join(item.delta.content for item in await second) == "abcd"
    first_is_done.set()
    groups = {request.parameters["event_group"].string_param for request in servicer.requests}
    assert len(groups) == 1 and len(groups.pop()) == 32
    assert len(set(keys)) == 2


async def test_a_call_nobody_waits_for_is_read_as_long_as_it_brings_others_events(
    kserve, monkeypatch
):
    monkeypatch.setattr("openai_frontend.triton_client.CLOSE_TIMEOUT_S", 0.2)
    never = asyncio.Event()
    steps = [asyncio.Event() for _ in range(6)]
    keys: list[str] = []

    def answer(request):
        keys.append(key_of(request))
        return carrier() if len(keys) == 1 else [never]

    def carrier():
        for seq, step in enumerate(steps):
            yield step
            reason = FinishReason.STOP if seq == len(steps) - 1 else None
            yield event(bundle=[Event(seq, key=keys[1], finish_reason=reason)])
        yield never

    servicer, client = await kserve(ernie_chat=answer)
    dropped = asyncio.create_task(collect(client))
    await wait_until(lambda: len(keys) == 1)
    kept = asyncio.create_task(collect(client))
    await wait_until(lambda: len(keys) == 2)
    dropped.cancel()
    for step in steps:  # together much longer than the time-out of silence
        step.set()
        await asyncio.sleep(0.1)
    assert len(await kept) == len(steps)
    await wait_until(lambda: servicer.num_cancelled == 2)


async def test_the_probe_is_content_with_any_event_and_with_slowness(kserve, monkeypatch):
    servicer, client = await kserve(
        multimodal_preprocessor=lambda request: [output(b"refused")],
        response_postprocessor=lambda request: [output(None)],
    )
    await client.probe()
    pre, post = servicer.requests
    assert pre.raw_input_contents[0] == b"\x02\0\0\0{}"
    assert wire.decode(post.raw_input_contents[0], EngineOutput).is_last
    monkeypatch.setattr("openai_frontend.triton_client.PROBE_TIMEOUT_S", 0.05)
    servicer.answers["multimodal_preprocessor"] = lambda request: [asyncio.Event()]
    await client.probe()


@pytest.mark.parametrize("model", ["multimodal_preprocessor", "response_postprocessor"])
@pytest.mark.parametrize("text", ["Stub process 'x' is not healthy.", "failed to copy"])
async def test_the_probe_tells_a_dead_model(kserve, text, model):
    answers: dict[str, Answer] = {
        "multimodal_preprocessor": lambda request: [output(b"refused")],
        "response_postprocessor": lambda request: [output(None)],
    }
    answers[model] = lambda request: [failure(text)]
    _, client = await kserve(**answers)
    with pytest.raises(EngineUnavailableError) as raised:
        await client.probe()
    assert raised.value.code == MODEL_UNAVAILABLE


async def test_tokens_are_read_by_the_names_of_the_outputs(kserve):
    def named(**outputs: bytes) -> list[Any]:
        response = output(b"")
        del response.infer_response.raw_output_contents[:]
        for name, data in outputs.items():
            response.infer_response.outputs.add(name=name)
            response.infer_response.raw_output_contents.append(data)
        return [response]

    answer = wire.encode(EngineRequest(op="tokens", text="Hello"))
    ids = b"\x05\0\0\0\x06\0\0\0"
    servicer, client = await kserve(
        multimodal_preprocessor=lambda request: named(PROMPT_IDS=ids, ENGINE_REQUEST=answer)
    )
    assert await client.tokens(b"{}", [b"picture"]) == Tokens([5, 6], "Hello")
    assert [item.name for item in servicer.requests[0].inputs] == ["REQUEST", "MEDIA"]
    refusal = ErrorInfo(400, "invalid_request_error", "invalid_value", "no", "prompt")
    refused = wire.encode(EngineRequest(op="error", error=refusal))
    servicer.answers["multimodal_preprocessor"] = lambda request: named(ENGINE_REQUEST=refused)
    with pytest.raises(RefusedError) as raised:
        await client.tokens(b"{}", [])
    assert raised.value.info() == refusal
