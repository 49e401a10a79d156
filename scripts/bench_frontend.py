"""How many stream events one core of the frontend delivers, with nothing behind it.

    python scripts/bench_frontend.py [--streams 64] [--events 400] [--grpc [--bundle 32]]

A server process runs the real application under the real HTTP protocol class; its upstream emits
events as fast as they are taken. With --grpc the events come from a small KServe server in a third
process through the real gRPC client instead, one message per event as Triton sends them, or one
with an event of each of --bundle streams, as the engine makes them under load. With --events 1 it
is requests that cost.

Printed: events per second of wall time and, the number to compare, per second of the server
process's own CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import uvloop

from backend import wire
from backend.request import FinishReason, Usage
from backend.wire import Delta, Event
from openai_frontend.app import create_app
from openai_frontend.launch.http_server import ApiServer
from openai_frontend.service import Service, ServiceSettings
from openai_frontend.triton_client import TritonClient
from openai_frontend.upstream import Upstream

TEXT = " tokens"


def _events(number: int) -> list[Event]:
    body = [Event(seq=index, delta=Delta(content=TEXT)) for index in range(number)]
    usage = Usage(prompt_tokens=8, completion_tokens=number)
    return [*body, Event(seq=number, finish_reason=FinishReason.LENGTH, usage=usage)]


class EagerUpstream:
    """Emits `num_events` events per request, letting other streams run in between."""

    def __init__(self, num_events: int) -> None:
        self._events = _events(num_events)

    async def generate(
        self, request_id: str, request: bytes, media: Sequence[bytes]
    ) -> AsyncIterator[Event]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event

    async def stop(self, request_id: str) -> None:
        return

    async def stats(self) -> dict[str, Any]:
        return {}

    async def probe(self) -> None:
        return


class Bundles:
    """Streams wait here until `size` of them are there; the last to come carries all their events
    but the last ones."""

    def __init__(self, num_events: int, size: int) -> None:
        self._events = _events(num_events)
        self._size = size
        self._lock = threading.Lock()
        self._keys: list[str] = []
        self._is_over = threading.Event()

    def events(self, key: str) -> Iterator[Event]:
        *body, last = self._events
        with self._lock:
            self._keys.append(key)
            keys, is_over = self._keys, self._is_over
            is_carrier = len(keys) == self._size
            if is_carrier:
                self._keys, self._is_over = [], threading.Event()
        if is_carrier:
            for event in body:
                bundle = [msgspec.structs.replace(event, key=owner) for owner in keys]
                yield Event(seq=-1, bundle=bundle)
            is_over.set()
        is_over.wait()
        yield msgspec.structs.replace(last, key=key)


def serve_grpc(num_events: int, bundle_size: int, parent: Connection) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    def message(event: Event) -> Any:
        data = wire.encode(event)
        output = service_pb2.ModelInferResponse(
            raw_output_contents=[len(data).to_bytes(4, "little") + data]
        )
        return service_pb2.ModelStreamInferResponse(infer_response=output)

    messages = [message(event) for event in _events(num_events)]
    bundles = Bundles(num_events, bundle_size)

    class KServe(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelStreamInfer(self, request_iterator, context):
            for request in request_iterator:
                if bundle_size > 1:
                    key = request.parameters["event_key"].string_param
                    yield from map(message, bundles.events(key))
                else:
                    yield from messages

    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(256))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(KServe(), server)
    parent.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    parent.recv()
    server.stop(None)


def serve_http(num_events: int, grpc_port: int, parent: Connection) -> None:
    async def run() -> None:
        upstream: Upstream = EagerUpstream(num_events)
        if grpc_port:
            client = TritonClient()
            client.connect(f"127.0.0.1:{grpc_port}")
            upstream = client
        service = Service(upstream, ServiceSettings(max_concurrency=4096))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = ApiServer(create_app(service), [sock], "127.0.0.1")
        task = asyncio.create_task(server.run_until_stopped())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        parent.send(sock.getsockname()[1])
        before = await asyncio.to_thread(parent.recv)
        start = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.to_thread(parent.recv)
        end = resource.getrusage(resource.RUSAGE_SELF)
        parent.send(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
        server.should_exit = before
        await task

    uvloop.run(run())


async def _one_stream(port: int, body: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    count = 0
    while data := await reader.read(1 << 18):
        count += data.count(b'"delta":{"content"')
    writer.close()
    return count


async def _load(port: int, streams: int, rounds: int) -> int:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    counts = 0
    for _ in range(rounds):
        counts += sum(await asyncio.gather(*(_one_stream(port, body) for _ in range(streams))))
    return counts


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench_frontend.py", description=__doc__)
    parser.add_argument("--streams", type=int, default=64, help="concurrent streams")
    parser.add_argument("--events", type=int, default=400, help="events per stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grpc", action="store_true", help="events come over gRPC")
    parser.add_argument("--bundle", type=int, default=1, help="streams that share a gRPC message")
    options = parser.parse_args(arguments)
    if options.streams % options.bundle:
        parser.error("--streams must be a multiple of --bundle")
    context = multiprocessing.get_context("spawn")
    processes = []

    def start(target: Any, *args: Any) -> tuple[Connection, int]:
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(*args, theirs), daemon=True)
        process.start()
        processes.append(process)
        return ours, ours.recv()

    grpc_end, grpc_port = (
        start(serve_grpc, options.events, options.bundle) if options.grpc else (None, 0)
    )
    http_end, port = start(serve_http, options.events, grpc_port)
    uvloop.run(_load(port, options.streams, 1))  # warm
    http_end.send(True)
    begin = time.perf_counter()
    events = uvloop.run(_load(port, options.streams, options.rounds))
    seconds = time.perf_counter() - begin
    http_end.send(None)
    cpu_seconds = http_end.recv()
    for end in filter(None, (grpc_end,)):
        end.send(None)
    for process in processes:
        process.join(5)
    expected = (options.events + 1) * options.streams * options.rounds
    print(f"{os.cpu_count()} cores, {options.streams} streams x {options.events} events")
    print(f"delivered {events} of {expected} events in {seconds:.2f} s: {events / seconds:,.0f}/s")
    print(f"frontend CPU {cpu_seconds:.2f} s: {events / cpu_seconds:,.0f} events/s per core")
    return 0 if events == expected else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
