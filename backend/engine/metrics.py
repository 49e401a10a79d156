"""The engine's numbers as metric families on Triton's /metrics page.

Every call into Triton's metric interface is a round trip of 66 µs, so numbers are gathered in
Python and written by one thread, once a second, and only those that changed. The
`nv_trt_llm_*` families repeat four of them under the names that Kubernetes' inference gateway and
Triton's ORCA header read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Labels = dict[str, str]


class Metric(Protocol):
    def set(self, value: float) -> None: ...
    def increment(self, value: float) -> None: ...


Kind = Literal["gauge", "counter"]
MakeFamily = Callable[[Kind, str, str, Sequence[Labels]], list[Metric]]
"""(kind, name, description, labels of each metric) → one metric per labels."""


@dataclass(frozen=True)
class Family:
    """`keys`: for each metric of the family, its label's value and its key in `stats`."""

    kind: Kind
    name: str
    description: str
    label: str
    keys: Mapping[str, str]


def _plain(kind: Kind, name: str, key: str, description: str) -> Family:
    return Family(kind, f"ernie_{name}", description, "", {"": key})


FAMILIES = (
    _plain("gauge", "engine_up", "engine_up", "1 while the engine process serves"),
    _plain("counter", "engine_restarts_total", "engine_restarts", "Starts after the first"),
    _plain("counter", "engine_steps_total", "engine_steps", "Forward passes"),
    _plain("counter", "integrity_failures_total", "integrity_failures", "KV blocks miscounted"),
    _plain("gauge", "requests_running", "running", "Requests in the batch"),
    _plain("gauge", "requests_waiting", "waiting", "Requests in the queue"),
    _plain("gauge", "open_streams", "open_streams", "Requests not answered to the end"),
    _plain("counter", "requests_total", "requests", "Requests that reached the engine"),
    _plain("counter", "requests_failed_total", "requests_failed", "Requests ended by an error"),
    _plain("counter", "requests_aborted_total", "requests_aborted", "Requests stopped early"),
    _plain("counter", "outputs_total", "outputs_sent", "Responses of the engine's stub"),
    _plain("counter", "prompt_tokens_total", "prompt_tokens_total", "Tokens of prompts"),
    _plain("counter", "cached_tokens_total", "cached_tokens_total", "Prompt tokens not computed"),
    _plain("counter", "generation_tokens_total", "generation_tokens_total", "Tokens generated"),
    _plain("counter", "preemptions_total", "preemptions_total", "Requests set back to waiting"),
    _plain("counter", "encoder_runs_total", "encoder_runs_total", "Media encoded"),
    _plain("counter", "encoder_cache_hits_total", "encoder_cache_hits_total", "Media not encoded"),
    _plain("gauge", "kv_cache_usage", "kv_cache_usage", "Share of KV blocks in use, 0 to 1"),
    Family(
        "gauge",
        "ernie_kv_blocks",
        "KV cache blocks",
        "state",
        {"total": "kv_blocks_total", "free": "kv_blocks_free", "cached": "kv_blocks_cached"},
    ),
    Family(
        "gauge",
        "nv_trt_llm_request_metrics",
        "Requests, named as the TensorRT-LLM backend does",
        "request_type",
        {"waiting": "waiting", "scheduled": "running"},
    ),
    Family(
        "gauge",
        "nv_trt_llm_kv_cache_block_metrics",
        "KV cache blocks, named as the TensorRT-LLM backend does",
        "kv_cache_block_type",
        {
            "max": "kv_blocks_total",
            "used": "kv_blocks_used",
            "free": "kv_blocks_free",
            "tokens_per": "block_size",
            "fraction": "kv_cache_usage",
        },
    ),
)


class EngineMetrics:
    """Writes `stats` to the families; one instance, one thread."""

    def __init__(self, make: MakeFamily, families: Sequence[Family] = FAMILIES) -> None:
        self._metrics: list[tuple[Kind, str, Metric]] = []
        for family in families:
            labels = [{family.label: value} if family.label else {} for value in family.keys]
            made = make(family.kind, family.name, family.description, labels)
            keys = family.keys.values()
            self._metrics += [
                (family.kind, key, metric) for key, metric in zip(keys, made, strict=True)
            ]
        self._last: dict[int, float] = {}

    def publish(self, stats: Mapping[str, Any]) -> None:
        values = {**stats, **_derived(stats)}
        for index, (kind, key, metric) in enumerate(self._metrics):
            # An engine that is down reports nothing: its gauges fall to 0, its counters stay.
            value = float(values.get(key, 0.0 if kind == "gauge" else self._last.get(index, 0.0)))
            last = self._last.get(index, 0.0)
            if value == last:
                continue
            self._last[index] = value
            if kind == "gauge":
                metric.set(value)
            else:
                # A new engine process counts from zero again.
                metric.increment(value - last if value > last else value)


def _derived(stats: Mapping[str, Any]) -> dict[str, float]:
    total = float(stats.get("kv_blocks_total", 0))
    if total <= 0:
        return {}
    used = total - float(stats.get("kv_blocks_free", 0)) - float(stats.get("kv_blocks_cached", 0))
    return {"kv_blocks_used": used, "kv_cache_usage": used / total}
