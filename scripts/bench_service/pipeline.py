"""Everything but the model under load: streams of a fixed pace, and how late their tokens come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np

from .clients import TritonClient, http_events
from .cpu import CpuMeter
from .server import Server, running

PROBE_EVERY = 16
"""One stream in so many carries the due times; asking all would load the service with logprobs."""
SPREAD_S = 2.0
"""Streams begin over this time: the burst of their prompts is another measurement."""


async def measure(model: str, num_streams: int, pace: float, seconds: float, is_grpc: bool) -> None:
    """Print tokens delivered per second and the latency added to them."""
    num_tokens = round(pace * seconds)
    settings = {"executor": "paced", "tokens_per_s": pace}
    flags = ["--max-num-seqs", str(num_streams), "--max-num-batched-tokens", str(8 * num_streams)]
    with running(model, flags, settings) as server:
        open_stream = _GrpcRoute(server) if is_grpc else _HttpRoute(server)
        [quiet] = await _streams(open_stream, 1, min(num_tokens, 200))
        meter = CpuMeter(server.pid)
        results = await _streams(open_stream, num_streams, num_tokens)
        used = meter.used()
    began = max(result.first for result in results)
    ended = min(result.last for result in results)
    count = sum(result.count_between(began, ended) for result in results)
    late = [s for result in results for when, s in result.late if began < when <= ended]
    late_ms = np.array(late) * 1e3
    alone_ms = np.array([s for _, s in quiet.late]) * 1e3
    num_events = sum(len(result.arrivals) for result in results)
    missing = sum(num_tokens - result.num_tokens for result in results)
    wanted = num_streams * pace
    print(
        f"{num_streams} streams of {pace:g} tokens/s, {ended - began:.1f} s with all of them open"
    )
    print(f"delivered {count / (ended - began):.0f} tokens/s of {wanted:.0f}; {missing} missing")
    print(
        f"added latency p50 {np.median(late_ms):.1f} ms, p99 {np.percentile(late_ms, 99):.1f} ms "
        f"(one stream alone: p50 {np.median(alone_ms):.1f} ms)"
    )
    print(
        f"{num_events} events of {num_streams * num_tokens / num_events:.1f} tokens, "
        f"{sum(used.values()) / num_events * 1e6:.0f} us of CPU each: "
        + ", ".join(
            f"{role} {s / num_events * 1e6:.0f}"
            for role, s in sorted(used.items(), key=lambda item: -item[1])
        )
    )


class _Result:
    def __init__(self) -> None:
        self.arrivals: list[tuple[float, int]] = []
        self.late: list[tuple[float, float]] = []
        """(arrival, how much later than due) of each token, s."""

    @property
    def first(self) -> float:
        return self.arrivals[0][0]

    @property
    def last(self) -> float:
        return self.arrivals[-1][0]

    @property
    def num_tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    def count_between(self, began: float, ended: float) -> int:
        return sum(count for when, count in self.arrivals if began < when <= ended)


class _HttpRoute:
    """(token ids, due times negated) of each chunk of /v1/completions."""

    def __init__(self, server: Server) -> None:
        self._port = server.http_port

    async def __call__(self, body: dict[str, Any]) -> AsyncIterator[tuple[int, list[float]]]:
        async for data in http_events(self._port, "/v1/completions", body):
            choice = msgspec.json.decode(data)["choices"][0]
            logprobs = choice.get("logprobs") or {"token_logprobs": []}
            yield len(choice.get("completion_token_ids") or ()), logprobs["token_logprobs"]


class _GrpcRoute:
    """The same of each EVENT of `ernie_chat`."""

    def __init__(self, server: Server) -> None:
        self._client = TritonClient(server.grpc_port)

    async def __call__(self, body: dict[str, Any]) -> AsyncIterator[tuple[int, list[float]]]:
        async for data in self._client.events(body):
            event = msgspec.json.decode(data)
            due = [item["logprob"] for item in event.get("logprobs") or ()]
            yield len(event.get("token_ids") or ()), due


Route = Callable[[dict[str, Any]], AsyncIterator[tuple[int, list[float]]]]


async def _streams(route: Route, num_streams: int, num_tokens: int) -> list[_Result]:
    tasks = []
    for index in range(num_streams):
        is_probe = index % PROBE_EVERY == 0
        tasks.append(asyncio.create_task(_stream(route, index, num_tokens, is_probe)))
        await asyncio.sleep(SPREAD_S / num_streams)
    return await asyncio.gather(*tasks)


async def _stream(route: Route, index: int, num_tokens: int, is_probe: bool) -> _Result:
    body = {"prompt": f"stream {index}", "max_tokens": num_tokens, "return_token_ids": True}
    if is_probe:
        body["logprobs"] = 0
    result = _Result()
    async for count, negated in route(body):
        now = time.monotonic()
        if count:
            result.arrivals.append((now, count))
        result.late += [(now, now + moment) for moment in negated]
    return result
