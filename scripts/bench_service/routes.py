"""The same requests through HTTP, through gRPC and straight in the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .clients import TritonClient, http_events, timed
from .server import ROOT, running

WORDS = "river stone light paper north green seven quiet market window cloud train".split()


@dataclass(frozen=True)
class Load:
    num_requests: int
    num_tokens: int
    num_words: int


@dataclass(frozen=True)
class Timing:
    """Seconds: to the first token, between tokens, in all."""

    first: float
    between: float
    total: float


@dataclass(frozen=True)
class Row:
    route: str
    concurrency: int
    timings: list[Timing]
    tokens_per_s: float


Ask = Callable[[dict[str, Any]], Awaitable[tuple[float, float]]]


def measure(model: str, executor: str, concurrencies: list[int], load: Load) -> None:
    """Print the table."""
    rows = []
    seeds = iter(range(10**6))
    flags = ["--executor", executor, "--max-num-seqs", str(max(concurrencies))]
    with running(model, flags) as server:
        rows += asyncio.run(
            _through_service(server.http_port, server.grpc_port, concurrencies, load, seeds)
        )
    folder = Path(model) if model else _default_model()
    rows += _through_engine(folder, executor, concurrencies, load, seeds)
    _print(rows)


def _default_model() -> Path:
    """The folder that the launcher serves without --model."""
    from openai_frontend.launch.checkpoint import default_checkpoint
    from openai_frontend.launch.parsing import parse_options

    return default_checkpoint(ROOT, parse_options([], folder=ROOT).cache_folder).folder


def _bodies(load: Load, seeds: Iterator[int]) -> list[dict[str, Any]]:
    """Prompts that share no prefix, so that no cache answers."""
    bodies = []
    for _ in range(load.num_requests):
        random = np.random.default_rng(next(seeds))
        words = [WORDS[i] for i in random.integers(len(WORDS), size=load.num_words)]
        bodies.append(
            {
                "prompt": " ".join(words),
                "max_tokens": load.num_tokens,
                "ignore_eos": True,
                "temperature": 0,
            }
        )
    return bodies


async def _through_service(
    http_port: int, grpc_port: int, concurrencies: list[int], load: Load, seeds: Iterator[int]
) -> list[Row]:
    triton = TritonClient(grpc_port)

    async def http(body: dict[str, Any]) -> tuple[float, float]:
        return await timed(http_events(http_port, "/v1/completions", body))

    async def grpc(body: dict[str, Any]) -> tuple[float, float]:
        return await timed(triton.events(body))

    rows = []
    for name, ask in (("HTTP", http), ("gRPC", grpc)):
        await _run(ask, 1, _bodies(Load(2, load.num_tokens, load.num_words), seeds), load)
        for concurrency in concurrencies:
            timings, seconds = await _run(ask, concurrency, _bodies(load, seeds), load)
            rows.append(_row(name, concurrency, timings, seconds, load))
    await triton.close()
    return rows


async def _run(
    ask: Ask, concurrency: int, bodies: list[dict[str, Any]], load: Load
) -> tuple[list[Timing], float]:
    """`concurrency` clients that ask one after the other until all bodies are answered."""
    waiting = iter(bodies)
    timings = []

    async def client() -> None:
        for body in waiting:
            began = time.monotonic()
            first, last = await ask(body)
            timings.append(_timing(began, first, last, load))

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return timings, time.monotonic() - began


def _through_engine(
    model: Path, executor: str, concurrencies: list[int], load: Load, seeds: Iterator[int]
) -> list[Row]:
    from backend.config.serving import EngineSettings, PreprocessorSettings
    from backend.engine.core import EngineCore
    from backend.preprocess import Preprocessor
    from backend.wire import GenerateRequest
    from openai_frontend.launch.native_executor import with_native_defaults

    serving = with_native_defaults({"executor": executor, "max_num_seqs": max(concurrencies)})
    core = EngineCore.from_settings(EngineSettings(model=model, **serving))
    preprocessor = Preprocessor(PreprocessorSettings(model=model))

    def run(concurrency: int, bodies: list[dict[str, Any]]) -> tuple[list[Timing], float]:
        prepared = [preprocessor.prepare(GenerateRequest(**body), [], "bench") for body in bodies]
        began: dict[str, float] = {}
        first: dict[str, float] = {}
        timings: list[Timing] = []
        start = time.monotonic()
        while len(timings) < len(bodies):
            while prepared and len(began) - len(timings) < concurrency:
                item = prepared.pop()
                began[item.engine.stream_key] = time.monotonic()
                core.add(item.engine, item.prompt_ids, item.positions, None)
            for output in core.step():
                now, key = time.monotonic(), output.stream_key
                if output.error is not None:
                    raise RuntimeError(output.error.message)
                first.setdefault(key, now)
                if output.is_last:
                    timings.append(_timing(began[key], first[key], now, load))
        return timings, time.monotonic() - start

    rows = []
    run(1, _bodies(Load(2, load.num_tokens, load.num_words), seeds))
    for concurrency in concurrencies:
        timings, seconds = run(concurrency, _bodies(load, seeds))
        rows.append(_row("engine", concurrency, timings, seconds, load))
    preprocessor.close()
    return rows


def _timing(began: float, first: float, last: float, load: Load) -> Timing:
    return Timing(first - began, (last - first) / max(1, load.num_tokens - 1), last - began)


def _row(route: str, concurrency: int, timings: list[Timing], seconds: float, load: Load) -> Row:
    return Row(route, concurrency, timings, load.num_requests * load.num_tokens / seconds)


def _print(rows: list[Row]) -> None:
    alone = {row.concurrency: row for row in rows if row.route == "engine"}
    print(
        "| route | at a time | TTFT p50 / p99 ms | between tokens ms | tokens/s | of the engine |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        firsts = np.array([timing.first for timing in row.timings]) * 1e3
        between = np.mean([timing.between for timing in row.timings]) * 1e3
        share = row.tokens_per_s / alone[row.concurrency].tokens_per_s
        print(
            f"| {row.route} | {row.concurrency} | {np.median(firsts):.1f} / "
            f"{np.percentile(firsts, 99):.1f} | {between:.2f} | {row.tokens_per_s:.0f} "
            f"| {share:.2f} |"
        )
