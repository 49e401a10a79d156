"""Streaming clients that cost little: HTTP over bare asyncio streams, Triton over grpc.aio."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np


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
        # Chunk sizes and blank lines are skipped: only lines of events begin with "data:".
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                yield line[6:]
            elif line.startswith(b"data: [DONE]"):
                return
    finally:
        writer.close()


class TritonClient:
    """`ernie_chat` through gRPC."""

    def __init__(self, port: int) -> None:
        import tritonclient.grpc.aio as triton

        self._triton = triton
        self._client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    async def events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        tensor = self._triton.InferInput("REQUEST", [1], "BYTES")
        request = json.dumps({**body, "stream": True}).encode()
        tensor.set_data_from_numpy(np.array([request], dtype=np.object_))

        async def once() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "ernie_chat", "inputs": [tensor]}

        async for result, error in self._client.stream_infer(once()):
            if error is not None:
                raise RuntimeError(str(error))
            event = result.as_numpy("EVENT")
            if event is not None and event.size:
                yield event[0]

    async def close(self) -> None:
        await self._client.close()


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
