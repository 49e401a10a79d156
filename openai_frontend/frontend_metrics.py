"""Prometheus metrics under FastDeploy's names, so that its dashboards work; buckets are wider.

Counted here: what the HTTP side sees. `media_metrics` and `engine_gauges` hold the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.request import Usage
from openai_frontend.engine_gauges import EngineGauges
from openai_frontend.media_metrics import MediaMetrics
from openai_frontend.metric_families import REQUEST_S, STEP_S, MetricFamilies

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000),
)
_TOKENS = tuple(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))


class FrontendMetrics:
    def __init__(self) -> None:
        self._families = families = MetricFamilies()
        self._http_requests = families.counter(
            "http_requests_total", "HTTP requests", "method", "path", "status_code"
        )
        self._http_seconds = families.histogram(
            "http_request_duration_seconds", "HTTP requests", REQUEST_S, "method", "path"
        )
        self.requests = families.counter("requests_number", "Generation requests received")
        self._successes = families.counter(
            "request_success_total", "Choices completed", "finished_reason"
        )
        self._errors = families.counter(
            "request_errors_total", "Requests that failed or were refused", "code"
        )
        self._aborts = families.counter(
            "request_aborts_total", "Requests whose client left before the end", "stage"
        )
        self._prompt_tokens = families.counter("prompt_tokens_total", "Prompt tokens")
        self._generated_tokens = families.counter("generation_tokens_total", "Generated tokens")
        self._cached_tokens = families.counter(
            "prefix_cache_token_num", "Prompt tokens found in the prefix cache"
        )
        self._media_tokens = families.counter(
            "media_tokens_total", "Prompt tokens of pictures and videos", "kind"
        )
        self._first_token = families.histogram(
            "time_to_first_token_seconds", "From request to first token", _FIRST_TOKEN_S
        )
        self._per_token = families.histogram(
            "time_per_output_token_seconds", "Mean time per token after the first", STEP_S
        )
        self._latency = families.histogram(
            "e2e_request_latency_seconds", "From request to the end of its answer", REQUEST_S
        )
        self._request_prompt = families.histogram(
            "request_prompt_tokens", "Prompt tokens of a request", _TOKENS
        )
        self._request_generated = families.histogram(
            "request_generation_tokens", "Generated tokens of a choice", _TOKENS
        )
        self._decode_time = families.histogram(
            "request_decode_time_seconds", "From the first token to the last, streamed", REQUEST_S
        )
        self._queue_time = families.histogram(
            "request_queue_time_seconds", "In the engine, before the first step", _FIRST_TOKEN_S
        )
        self._prefill_time = families.histogram(
            "request_prefill_time_seconds", "In the engine, to the first token", _FIRST_TOKEN_S
        )
        self._inference_time = families.histogram(
            "request_inference_time_seconds", "In the engine, prefill and decode", REQUEST_S
        )
        self.media = MediaMetrics(families)
        self._engine = EngineGauges(families)

    def http_request(self, method: str, path: str, status: int, seconds: float) -> None:
        self._http_requests.labels(method, path, str(status)).inc()
        self._http_seconds.labels(method, path).observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def failed(self, code: str) -> None:
        self._errors.labels(code).inc()

    def aborted(self, stage: str) -> None:
        """`stage`: what the server was doing: `receiving` the body, `waiting` (no token yet) or
        `generating`."""
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
        if first_token_s is not None:
            self._decode_time.observe(total_s - first_token_s)
        for usage, reason in zip(usages, reasons, strict=True):
            self._successes.labels(reason).inc()
            self._prompt_tokens.inc(usage.prompt_tokens)
            self._generated_tokens.inc(usage.completion_tokens)
            self._cached_tokens.inc(usage.cached_tokens)
            self._media_tokens.labels("image").inc(usage.image_tokens)
            self._media_tokens.labels("video").inc(usage.video_tokens)
            self._request_prompt.observe(usage.prompt_tokens)
            self._request_generated.observe(usage.completion_tokens)
            if (times := usage.times) is not None:
                self._queue_time.observe(times.queue_s)
                self._prefill_time.observe(times.prefill_s)
                self._inference_time.observe(times.prefill_s + times.decode_s)
            if first_token_s is not None and usage.completion_tokens > 1:
                self._per_token.observe((total_s - first_token_s) / (usage.completion_tokens - 1))

    def set_engine(self, stats: dict[str, Any], is_up: bool) -> None:
        """`stats`: the engine's, by the names of its `stats` op."""
        self._engine.set(stats, is_up)

    def text(self) -> bytes:
        return self._families.text()
