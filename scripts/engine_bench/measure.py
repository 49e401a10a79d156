"""Runs an EngineCore the way a service does and takes the time of its steps."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from backend.engine.core import EngineCore
from backend.ops.cuda_step import are_long
from backend.request import SamplingParams
from backend.wire import EngineRequest
from scripts.engine_bench.routing import mean_distinct, recorded_layers


@dataclass(frozen=True)
class DecodeFigures:
    """step_ms: median; tokens_per_s: of all steps in which every stream decoded."""

    batch: int
    step_ms: float
    tokens_per_s: float
    total_tokens_per_s: float


def decode(
    core: EngineCore, vocab_size: int, batch: int, num_prompt: int, num_output: int
) -> DecodeFigures:
    """`batch` streams of num_prompt random tokens, num_output sampled ones each (temperature 1)."""
    _add(core, vocab_size, batch, num_prompt, num_output)
    began = time.perf_counter()
    times, produced, total = [], [], 0
    while core.has_work():
        outputs = core.step()
        times.append(time.perf_counter())
        produced.append(len(outputs))
        total += sum(len(output.token_ids) for output in outputs)
    ended = times[-1]
    # From the first step that brought a token to every stream to the last such.
    full = [index for index, count in enumerate(produced) if count == batch]
    first, last = full[1], full[-1]
    steps = [times[i + 1] - times[i] for i in range(first, last)]
    seconds = times[last] - times[first]
    return DecodeFigures(
        batch=batch,
        step_ms=statistics.median(steps) * 1e3,
        tokens_per_s=batch * (last - first) / seconds,
        total_tokens_per_s=total / (ended - began),
    )


def prefill_seconds(core: EngineCore, vocab_size: int, num_tokens: int, repeats: int = 3) -> float:
    """Median time from a prompt's arrival at an idle engine to its first token."""
    seconds = []
    for repeat in range(repeats):
        _add(core, vocab_size, 1, num_tokens, 1, seed=repeat)
        began = time.perf_counter()
        while core.has_work():
            core.step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _add(
    core: EngineCore, vocab_size: int, batch: int, num_prompt: int, num_output: int, seed: int = 0
) -> None:
    random = np.random.default_rng([seed, batch, num_prompt])
    for index in range(batch):
        ids = random.integers(200, vocab_size - 5000, num_prompt).astype(np.int32)
        sampling = SamplingParams(
            temperature=1.0, top_p=1.0, top_k=0, max_tokens=num_output, ignore_eos=True, seed=index
        )
        request = EngineRequest(
            stream_key=f"{seed}-{batch}-{num_prompt}-{index}",
            request_id=str(index),
            sampling=sampling,
        )
        core.add(request, ids, None, None)


@dataclass(frozen=True)
class RecordedFigures:
    """A recorded decode step alone, launched again and again: median ms on the device. Of its
    routing, means over the layers: routed experts with a token, and the largest's number of tokens;
    None for a model without experts."""

    device_ms: float
    distinct: float | None
    largest: float | None


def recorded(
    core: EngineCore, vocab_size: int, batch: int, num_prompt: int, num_output: int
) -> RecordedFigures:
    """The step of `batch` streams while all of them decode: later, ended ones are padding, which
    repeats a row and its experts."""
    _add(core, vocab_size, batch, num_prompt, num_output)
    num_full = 0
    while num_full < 2:
        num_full += len(core.step()) == batch
    is_long = are_long(np.full(batch, num_prompt, np.int32))
    distinct, largest = _routing(core, batch, is_long)
    figures = RecordedFigures(_replayed_ms(core, batch, is_long), distinct, largest)
    while core.has_work():
        core.step()
    return figures


def _replayed_ms(core: EngineCore, batch: int, is_long: bool, repeats: int = 20) -> float:
    runner = core._runner
    graphs = runner._graphs
    graph = graphs._recorded[graphs.size_for(batch), is_long]
    context = runner._context
    times = []
    for _ in range(repeats):
        begin, end = context.event(), context.event()
        begin.record()
        graph.launch()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_ms(end))
    return statistics.median(times)


def _routing(core: EngineCore, batch: int, is_long: bool) -> tuple[float | None, float | None]:
    graphs = core._runner._graphs
    with recorded_layers() as layers:
        graphs.run(graphs.size_for(batch), is_long)
    if not layers:
        return None, None
    largest = float(np.mean([layer.counts()[0].max() for layer in layers]))
    return mean_distinct(layers)[0], largest
