"""Prometheus metrics under FastDeploy's names, so that its dashboards work; buckets are wider.

Counted here: what the HTTP side sees. The engine's gauges are filled from its stats on a scrape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backend.request import Usage

PREFIX = "fastdeploy:"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000),
)
_PER_TOKEN_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_REQUEST_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50),
    *(100, 250, 500, 1000, 2500, 5000, 7680),
)
_TOKENS = tuple(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))

_GAUGES = {
    "num_requests_running": ("Sequences being computed", "running"),
    "num_requests_waiting": ("Sequences waiting in the engine", "waiting"),
    "max_gpu_block_num": ("Blocks of the KV cache", "kv_blocks_total"),
    "free_gpu_block_num": ("Free blocks of the KV cache", "kv_blocks_free"),
}


class FrontendMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._http_requests = self._counter(
            "http_requests_total", "HTTP requests", "method", "path", "status_code"
        )
        self._http_seconds = self._histogram(
            "http_request_duration_seconds", "HTTP requests", _REQUEST_S, "method", "path"
        )
        self.requests = self._counter("requests_number", "Generation requests received")
        self._successes = self._counter(
            "request_success_total", "Choices completed", "finished_reason"
        )
        self._errors = self._counter("request_errors_total", "Requests that failed", "code")
        self._aborts = self._counter(
            "request_aborts_total", "Requests whose client left before the end", "stage"
        )
        self._prompt_tokens = self._counter("prompt_tokens_total", "Prompt tokens")
        self._generated_tokens = self._counter("generation_tokens_total", "Generated tokens")
        self._cached_tokens = self._counter(
            "prefix_cache_token_num", "Prompt tokens found in the prefix cache"
        )
        self._media_tokens = self._counter(
            "media_tokens_total", "Prompt tokens of pictures and videos", "kind"
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From request to first token", _FIRST_TOKEN_S
        )
        self._per_token = self._histogram(
            "time_per_output_token_seconds", "Mean time per token after the first", _PER_TOKEN_S
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds", "From request to the end of its answer", _REQUEST_S
        )
        self._request_prompt = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request", _TOKENS
        )
        self._request_generated = self._histogram(
            "request_generation_tokens", "Generated tokens of a choice", _TOKENS
        )
        self._engine_up = self._gauge("engine_up", "1 when the engine answers")
        self._cache_usage = self._gauge(
            "gpu_cache_usage_perc", "Share of the KV cache's blocks in use, 0 to 1"
        )
        self._gauges = {key: self._gauge(name, text) for name, (text, key) in _GAUGES.items()}

    def http_request(self, method: str, path: str, status: int, seconds: float) -> None:
        self._http_requests.labels(method, path, str(status)).inc()
        self._http_seconds.labels(method, path).observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def failed(self, code: str) -> None:
        self._errors.labels(code).inc()

    def aborted(self, stage: str) -> None:
        """`stage`: what the server was doing, `waiting` (no token yet) or `generating`."""
        self._aborts.labels(stage).inc()

    def succeeded(
        self,
        usages: Sequence[Usage],
        reasons: Sequence[str],
        first_token_s: float | None,
        total_s: float,
    ) -> None:
        """`usages`, `reasons`: of each choice. Seconds count from the request's arrival;
        `first_token_s` is None where nobody can tell."""
        self._latency.observe(total_s)
        for usage, reason in zip(usages, reasons, strict=True):
            self._successes.labels(reason).inc()
            self._prompt_tokens.inc(usage.prompt_tokens)
            self._generated_tokens.inc(usage.completion_tokens)
            self._cached_tokens.inc(usage.cached_tokens)
            self._media_tokens.labels("image").inc(usage.image_tokens)
            self._media_tokens.labels("video").inc(usage.video_tokens)
            self._request_prompt.observe(usage.prompt_tokens)
            self._request_generated.observe(usage.completion_tokens)
            if first_token_s is not None and usage.completion_tokens > 1:
                self._per_token.observe((total_s - first_token_s) / (usage.completion_tokens - 1))

    def set_engine(self, stats: dict[str, Any], is_up: bool) -> None:
        """`stats`: the engine's, by the names of its `stats` op."""
        self._engine_up.set(is_up)
        for key, gauge in self._gauges.items():
            gauge.set(stats.get(key, 0))
        total = stats.get("kv_blocks_total", 0)
        self._cache_usage.set(1 - stats.get("kv_blocks_free", total) / total if total else 0)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(PREFIX + name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)
