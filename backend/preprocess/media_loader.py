"""Sources → MediaItems: fetched side by side, decoded a few at a time, kept for the next turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from backend.errors import MediaError
from backend.media.cache import MediaCache, cache_key
from backend.media.fetch import FetchPolicy, fetch, is_attached
from backend.media.image import image_item
from backend.media.item import MediaItem
from backend.media.video import VideoLimits, video_item
from backend.preprocess.media_parts import MediaSource
from backend.wire import MediaReport

FETCH_THREADS: Final = 16
CACHE_BYTES: Final = 256 * 2**20
REQUEST_BYTES: Final = 512 * 2**20
"""Patches of one request; a video of 180 frames at the default size just fits."""


@dataclass(frozen=True, slots=True)
class LoadedMedia:
    item: MediaItem
    report: MediaReport


class MediaLoader:
    """Thread-safe. `decoders` bounds how many files are decoded at a time, server-wide."""

    def __init__(
        self,
        policy: FetchPolicy,
        limits: VideoLimits,
        decoders: int,
        font: str = "",
        cache_bytes: int = CACHE_BYTES,
        request_bytes: int = REQUEST_BYTES,
    ) -> None:
        self.cache = MediaCache(cache_bytes)
        self._policy = policy
        self._limits = limits
        self._font = font
        self._request_bytes = request_bytes
        self._decoding = threading.BoundedSemaphore(decoders)
        self._pool = ThreadPoolExecutor(FETCH_THREADS, "media-fetch")

    def load(self, sources: Sequence[MediaSource], media: Sequence[bytes]) -> list[LoadedMedia]:
        """One item per source, in order, and what it took.

        Raises MediaError or MediaFetchError naming the first source that fails; the others are
        given up.
        """
        budget = _Budget(self._request_bytes)
        if len(sources) == 1:
            return [self._load(sources[0], media, budget)]
        futures: list[Future[LoadedMedia]] = [
            self._pool.submit(self._load, source, media, budget) for source in sources
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, source: MediaSource, media: Sequence[bytes], budget: _Budget) -> LoadedMedia:
        start = time.monotonic()
        decode_s = None
        try:
            data = fetch(source.url, source.kind, media, self._policy)
            fetch_s = time.monotonic() - start
            key = cache_key(data, source.kind, source.options)
            item = self.cache.get(key)
            if item is not None:
                budget.reserve(item.size_bytes)
            else:
                with self._decoding:
                    start = time.monotonic()
                    item = self._decode(data, source, budget)
                    decode_s = time.monotonic() - start
                self.cache.put(key, item)
        except MediaError as error:
            raise source.named(error) from None
        report = MediaReport(
            item.kind,
            num_bytes=len(data),
            num_pixels=item.size_bytes // 3,
            num_tokens=item.num_tokens,
            fetch_s=None if is_attached(source.url) else round(fetch_s, 6),
            decode_s=None if decode_s is None else round(decode_s, 6),
        )
        return LoadedMedia(item, report)

    def _decode(self, data: bytes, source: MediaSource, budget: _Budget) -> MediaItem:
        if source.kind == "image":
            return image_item(data, source.options, self._limits.max_pixels, budget.reserve)
        return video_item(data, source.options, self._limits, self._font, budget.reserve)


class _Budget:
    """What the patches of one request may take together, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def reserve(self, size_bytes: int) -> None:
        with self._lock:
            self._used += size_bytes
            if self._used > self._limit:
                raise MediaError(
                    f"the request's media take more than {self._limit} bytes when decoded; "
                    "send fewer or smaller ones, or videos with fewer frames",
                    code="media_too_large",
                )
