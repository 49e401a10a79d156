"""Pictures and videos in numbers, which FastDeploy has none of; its style of names.

They are the preprocessor's reports, which come with a request's first event: media of a request
that was refused or left before it are not counted. With n choices a request's media are processed,
and counted, n times.
"""

from __future__ import annotations

from backend.wire import PreparationReport
from openai_frontend.metric_families import REQUEST_S, STEP_S, MetricFamilies

_KINDS = ("image", "video")
_BYTES = tuple(4**power * 1024 for power in range(11))


class MediaMetrics:
    def __init__(self, families: MetricFamilies) -> None:
        self._items = families.counter("media_items_total", "Pictures and videos", "kind")
        self._bytes = families.counter("media_bytes_total", "Bytes of their files", "kind")
        self._pixels = families.counter(
            "media_pixels_total", "Pixels given to the model, all frames", "kind"
        )
        self._hits = families.counter(
            "media_cache_hits_total", "Media found decoded in the cache", "kind"
        )
        self._sizes = families.histogram("media_size_bytes", "Bytes of one file", _BYTES, "kind")
        self._fetch = families.histogram(
            "media_fetch_time_seconds", "Fetching one file by its URL", REQUEST_S, "kind"
        )
        self._decode = families.histogram(
            "media_decode_time_seconds", "Decoding and resizing one file", REQUEST_S, "kind"
        )
        self._preprocess = families.histogram(
            "request_preprocess_time_seconds", "Preparing a request, media included", STEP_S
        )
        # So that dashboards see a zero, not nothing, before the first picture.
        for kind in _KINDS:
            for counter in (self._items, self._bytes, self._pixels, self._hits):
                counter.labels(kind)

    def prepared(self, report: PreparationReport) -> None:
        self._preprocess.observe(report.seconds)
        for item in report.media:
            self._items.labels(item.kind).inc()
            self._bytes.labels(item.kind).inc(item.num_bytes)
            if item.num_bytes:
                self._sizes.labels(item.kind).observe(item.num_bytes)
            self._pixels.labels(item.kind).inc(item.num_pixels)
            if item.fetch_s is not None:
                self._fetch.labels(item.kind).observe(item.fetch_s)
            if item.decode_s is None:
                self._hits.labels(item.kind).inc()
            else:
                self._decode.labels(item.kind).observe(item.decode_s)
