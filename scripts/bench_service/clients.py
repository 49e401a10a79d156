"""Streaming clients that cost little: HTTP over bare asyncio streams, Triton over bare grpc.aio.

They share the cores with the service under test, so what they cost is taken from it.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

_BYTES_LENGTH = struct.Struct("<I")
"""Before the one element of a BYTES tensor."""


async def http_events(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The `data:` payloads of one streamed answer, [DONE] left out."""
    data = json.dumps({**body, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await reader.read(4096)).decode()}")
        rest = b""
        while data := await reader.read(2**16):
            *lines, rest = (rest + data).split(b"\n")
            # Chunk sizes and blank lines are skipped: only lines of events begin with "data:".
            for line in lines:
                if line.startswith(b"data: {"):
                    yield line[6:]
                elif line.startswith(b"data: [DONE]"):
                    return
    finally:
        writer.close()


class TritonClient:
    """`ernie_chat` through gRPC."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        data = json.dumps({**body, "stream": True}).encode()
        request = service_pb2.ModelInferRequest(model_name="ernie_chat")
        request.inputs.add(name="REQUEST", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(_BYTES_LENGTH.pack(len(data)) + data)
        call = self._stub.ModelStreamInfer()
        await call.write(request)
        await call.done_writing()
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.error_message:
                raise RuntimeError(response.error_message)
            for tensor in response.infer_response.raw_output_contents:
                yield tensor[_BYTES_LENGTH.size :]

    async def close(self) -> None:
        await self._channel.close()


async def timed(events: AsyncIterator[bytes]) -> tuple[float, float]:
    """When the first event with tokens and when the last event came, on the monotonic clock."""
    first = last = 0.0
    async for event in events:
        last = time.monotonic()
        if b'"error"' in event:
            raise RuntimeError(event.decode())
        # The role-only chunk of a chat is no token; completions and EVENTs have none.
        first = first or last
    return first, last
