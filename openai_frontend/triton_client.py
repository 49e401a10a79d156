"""Triton over gRPC: one ModelStreamInfer stream per request, over a few channels.

    client = TritonClient()
    client.connect("127.0.0.1:8001")
    async for event in client.generate("chatcmpl-1", request, []):
        ...

The end of a stream is in-band (`Event.is_last`). All requests of a connection form one group (see
`wire.Delivery`): under load one response brings the events of many of them.

Text that Triton reports goes to the log, never to a client: it may name paths and shared-memory
keys.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import logging
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from backend import wire
from backend.errors import (
    EngineUnavailableError,
    ErnieError,
    InternalError,
    InvalidRequestError,
)
from backend.wire import EngineOutput, EngineRequest, Event
from openai_frontend.inbox import Inbox
from openai_frontend.upstream import RefusedError, Tokens

logger = logging.getLogger(__name__)

ENSEMBLE = "ernie_chat"
ENGINE = "ernie_engine"
PREPROCESSOR = "multimodal_preprocessor"
POSTPROCESSOR = "response_postprocessor"
NUM_CHANNELS = 4
CLOSE_TIMEOUT_S = 2.0
LINGER_S = 0.5
PROBE_TIMEOUT_S = 5.0
READY_TIMEOUT_S = 2.0

Tensor = tuple[str, str, list[int], bytes]
"""Name, datatype, shape, content."""

MODEL_UNAVAILABLE = "model_unavailable"
"""Code of an EngineUnavailableError that came as an answer of a running server."""

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Without a pool of its own, channels of one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
# Texts of Triton that mean "not now" rather than "not ever".
_UNAVAILABLE = re.compile(
    r"not healthy|unhealthy|not ready|unknown model|unavailable|exiting|Stub process", re.I
)
# What the two helper models answer with an error at once, without bothering the engine.
_REFUSED = wire.encode(EngineOutput("probe", 0, error=InvalidRequestError("probe").info()))
_PROBES: tuple[tuple[str, Tensor], ...] = (
    (PREPROCESSOR, ("REQUEST", "BYTES", [1], b"\x02\0\0\0{}")),
    (POSTPROCESSOR, ("ENGINE_OUTPUT", "UINT8", [len(_REFUSED)], _REFUSED)),
)


class TritonClient:
    """Implements `Upstream`. `connect` must be called first, and again when the server moved."""

    def __init__(self, num_channels: int = NUM_CHANNELS) -> None:
        self._num_channels = num_channels
        self._channels: list[Any] = []
        self._stubs: itertools.cycle[Any] = itertools.cycle(())
        self._group = ""
        self._keys = itertools.count()
        self._inboxes: dict[str, Inbox] = {}
        self._reading: set[asyncio.Task[None]] = set()

    def connect(self, url: str) -> None:
        """Use the server at `url` (host:port) for requests from now on."""
        self._channels = [
            grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
            for _ in range(self._num_channels)
        ]
        self._stubs = itertools.cycle(
            [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        )
        self._group = uuid.uuid4().hex

    async def close(self) -> None:
        """Close all connections; streams still open on them fail.

        Those that are about to end may do so: Triton 24.10 keeps a request for ever whose cancel
        meets its end, and then waits for it when it is stopped.
        """
        channels, self._channels = self._channels, []
        if self._reading:
            await asyncio.wait(self._reading, timeout=LINGER_S)
        for channel in channels:
            await channel.close(grace=None)

    async def generate(
        self, request_id: str, request: bytes, media: Sequence[bytes]
    ) -> AsyncIterator[Event]:
        # The message may hold many pictures: nothing here refers to it while the answer comes.
        message = _infer_request(ENSEMBLE, request_id, _tensors(request, media))
        del request, media
        key, inbox = str(next(self._keys)), Inbox()
        message.parameters["event_group"].string_param = self._group
        message.parameters["event_key"].string_param = key
        self._inboxes[key] = inbox
        try:
            call = await self._send(message)
            del message
            # A task of its own: the responses also bring other requests' events, which must not
            # wait for the reader of this one's.
            reading = asyncio.create_task(self._read(call, inbox))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
            try:
                async with contextlib.aclosing(inbox.events()) as events:
                    async for event in events:
                        yield event
            finally:
                self._end_when_silent(call, inbox)
        finally:
            del self._inboxes[key]

    async def _read(self, call: Any, inbox: Inbox) -> None:
        """Hand out the events of a call's responses until the server ends it."""
        try:
            async with contextlib.aclosing(_outputs(call)) as outputs:
                async for output in outputs:
                    inbox.num_responses += 1
                    # BYTES: a 4-byte length before the text
                    event = wire.decode(output.raw_output_contents[0][4:], Event)
                    for item in event.bundle or (event,):
                        # Who has gone needs no events any more.
                        owner = self._inboxes.get(item.key) if item.key else inbox
                        if owner is not None:
                            owner.put(item)
            inbox.end()
        except ErnieError as error:
            inbox.fail(error)
        except asyncio.CancelledError:  # the connection was closed
            inbox.fail(EngineUnavailableError("the inference server is not connected any more"))
            raise
        except Exception:
            logger.exception("reading from Triton failed")
            inbox.fail(InternalError("internal error; the server's log has the cause"))

    def _end_when_silent(self, call: Any, inbox: Inbox, num_responses: int = -1) -> None:
        """Nobody waits for this call's own events any more; as long as it brings others', it is
        read on. A call dropped before its end is a cancellation to the server."""
        if call.done():
            return
        if inbox.num_responses == num_responses:
            call.cancel()
            return
        asyncio.get_running_loop().call_later(
            CLOSE_TIMEOUT_S, self._end_when_silent, call, inbox, inbox.num_responses
        )

    async def tokens(self, request: bytes, media: Sequence[bytes]) -> Tokens:
        message = _infer_request(
            PREPROCESSOR, f"tokens-{uuid.uuid4().hex}", _tensors(request, media)
        )
        async with contextlib.aclosing(_outputs(await self._send(message))) as outputs:
            async for output in outputs:
                names = [tensor.name for tensor in output.outputs]
                tensors = dict(zip(names, output.raw_output_contents, strict=True))
                answer = wire.decode(tensors["ENGINE_REQUEST"], EngineRequest)
                if answer.error is not None:
                    raise RefusedError(answer.error)
                ids = array.array("i", tensors["PROMPT_IDS"])
                return Tokens(ids.tolist(), answer.text)
        raise EngineUnavailableError("the preprocessor did not answer")

    async def stop(self, request_id: str) -> None:
        await self._ask_engine(EngineRequest(op="stop", request_id=request_id))

    async def stats(self) -> dict[str, Any]:
        await self._check_ready()
        output = await self._ask_engine(EngineRequest(op="stats"))
        if output.error is not None:
            raise EngineUnavailableError(output.error.message)
        return output.stats or {}

    async def probe(self) -> None:
        """Ask the preprocessor and the postprocessor something they refuse at once."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._probe(), PROBE_TIMEOUT_S)

    async def is_live(self, timeout_s: float) -> bool:
        """Whether the server's own process answers, whatever its models do."""
        try:
            await self._stub().ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def _check_ready(self) -> None:
        """Newer servers turn unready when the process of any model has died."""
        try:
            reply = await self._stub().ServerReady(
                service_pb2.ServerReadyRequest(), timeout=READY_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from None
        if not reply.ready:
            raise EngineUnavailableError("a model of the inference server is not ready")

    async def _probe(self) -> None:
        for model, tensor in _PROBES:
            message = _infer_request(model, f"probe-{uuid.uuid4().hex}", [tensor])
            try:
                async with contextlib.aclosing(_outputs(await self._send(message))) as outputs:
                    async for _ in outputs:
                        pass
            except InternalError:
                raise EngineUnavailableError(
                    "a model of the inference server failed", code=MODEL_UNAVAILABLE
                ) from None

    async def _ask_engine(self, request: EngineRequest) -> EngineOutput:
        request_id = request.request_id or f"{request.op}-{uuid.uuid4().hex}"
        data = wire.encode(request)
        message = _infer_request(
            ENGINE, request_id, [("ENGINE_REQUEST", "UINT8", [len(data)], data)]
        )
        async with contextlib.aclosing(_outputs(await self._send(message))) as outputs:
            async for output in outputs:
                return wire.decode(output.raw_output_contents[0], EngineOutput)
        raise EngineUnavailableError("the engine did not answer")

    async def _send(self, message: Any) -> Any:
        """The call that answers `message`, for `_outputs` to read."""
        call = self._stub().ModelStreamInfer()
        try:
            await call.write(message)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise _lost(error) from None
        return call

    def _stub(self) -> Any:
        if not self._channels:
            raise EngineUnavailableError("the inference server is not connected")
        return next(self._stubs)


async def _outputs(call: Any) -> AsyncGenerator[Any, None]:
    """The ModelInferResponse messages that hold an output; those without one are skipped."""
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.error_message:
                raise _server_error(response.error_message)
            if response.infer_response.raw_output_contents:
                yield response.infer_response
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise _lost(error) from None
    finally:
        await _finish(call)


async def _finish(call: Any) -> None:
    """Let the server end the stream; a call dropped before that is a cancellation to it."""
    if call.done():
        return
    try:
        await asyncio.wait_for(call.read(), CLOSE_TIMEOUT_S)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.TimeoutError):
        call.cancel()


def _infer_request(model: str, request_id: str, inputs: Sequence[Tensor]) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, datatype, shape, data in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(data)
    return message


def _tensors(request: bytes, media: Sequence[bytes]) -> list[Tensor]:
    tensors: list[Tensor] = [("REQUEST", "BYTES", [1], _pack([request]))]
    if media:
        tensors.append(("MEDIA", "BYTES", [len(media)], _pack(media)))
    return tensors


def _pack(items: Sequence[bytes]) -> bytes:
    """Triton's BYTES tensor: each element after its length as 4 little-endian bytes."""
    return b"".join(part for item in items for part in (len(item).to_bytes(4, "little"), item))


def _lost(error: Exception) -> EngineUnavailableError:
    logger.warning("Triton: %s", _one_line(error))
    return EngineUnavailableError("the inference server is not available")


def _server_error(text: str) -> EngineUnavailableError | InternalError:
    logger.warning("Triton: %s", _one_line(text))
    if _UNAVAILABLE.search(text):
        return EngineUnavailableError(
            "a model of the inference server is not available", code=MODEL_UNAVAILABLE
        )
    return InternalError("the inference server failed; its log has the cause")


def _one_line(text: object) -> str:
    if isinstance(text, grpc.aio.AioRpcError):
        text = f"{text.code().name}: {text.details()}"
    return repr(str(text))[:500]
