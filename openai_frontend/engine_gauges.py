"""The engine's numbers, filled from its stats on a scrape, under FastDeploy's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openai_frontend.metric_families import MetricFamilies

Stats = Mapping[str, Any]

_GAUGES: dict[str, tuple[str, Callable[[Stats], float]]] = {
    "num_requests_running": ("Sequences being computed", lambda s: s.get("running", 0)),
    "num_requests_waiting": ("Sequences waiting in the engine", lambda s: s.get("waiting", 0)),
    "batch_size": ("Sequences being computed", lambda s: s.get("running", 0)),
    "max_batch_size": ("Most sequences computed together", lambda s: s.get("max_num_seqs", 0)),
    "available_batch_size": (
        "Sequences that could be computed besides",
        lambda s: s.get("max_num_seqs", 0) - s.get("running", 0),
    ),
    "max_gpu_block_num": ("Blocks of the KV cache", lambda s: s.get("kv_blocks_total", 0)),
    "free_gpu_block_num": ("Free blocks of the KV cache", lambda s: s.get("kv_blocks_free", 0)),
    "available_gpu_block_num": (
        "Blocks that a request could have: free ones, and cached ones that give way",
        lambda s: s.get("kv_blocks_free", 0) + s.get("kv_blocks_cached", 0),
    ),
    "gpu_cache_usage_perc": (
        "Share of the KV cache's blocks in use, 0 to 1",
        lambda s: _share(
            s.get("kv_blocks_total", 0) - s.get("kv_blocks_free", s.get("kv_blocks_total", 0)),
            s.get("kv_blocks_total", 0),
        ),
    ),
    "hit_token_rate": (
        "Share of prompt tokens found in the prefix cache since the engine's start, 0 to 1",
        lambda s: _share(s.get("cached_tokens_total", 0), s.get("prefix_queried_tokens_total", 0)),
    ),
}
_COUNTERS = {
    "media_encoder_runs_total": ("Media that the vision encoder computed", "encoder_runs_total"),
    "media_encoder_cache_hits_total": (
        "Media whose embeddings the engine still had",
        "encoder_cache_hits_total",
    ),
    "preemptions_total": ("Sequences set back to waiting", "preemptions_total"),
}


class EngineGauges:
    def __init__(self, families: MetricFamilies) -> None:
        self._up = families.gauge("engine_up", "1 when the engine answers")
        self._gauges = [
            (families.gauge(name, text), value) for name, (text, value) in _GAUGES.items()
        ]
        self._counters = [
            (families.counter(name, text), key) for name, (text, key) in _COUNTERS.items()
        ]
        self._last: dict[str, float] = {}

    def set(self, stats: Stats, is_up: bool) -> None:
        """`stats`: the engine's, by the names of its `stats` op."""
        self._up.set(is_up)
        for gauge, value in self._gauges:
            gauge.set(value(stats))
        for counter, key in self._counters:
            value_now, last = float(stats.get(key, 0)), self._last.get(key, 0.0)
            # A new engine process counts from zero again.
            counter.inc(value_now - last if value_now >= last else value_now)
            self._last[key] = value_now


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
