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
from backend.media.names import MediaNames
from backend.media.video import VideoLimits, video_item
from backend.preprocess.media_parts import MediaSource
from backend.wire import MediaReport

FETCH_THREADS: Final = 16
REQUEST_BYTES: Final = 512 * 2**20
"""Patches of one request; a video of 180 frames at the default size just fits."""


@dataclass(frozen=True, slots=True)
class LoadedMedia:
    """`file_digest`: SHA-256 of the file that `item` was made of."""

    item: MediaItem
    report: MediaReport
    file_digest: bytes


class MediaLoader:
    """Thread-safe. `decoders` bounds how many files are decoded at a time, server-wide."""

    def __init__(
        self,
        policy: FetchPolicy,
        limits: VideoLimits,
        decoders: int,
        font: str = "",
        cache_bytes: int = 256 * 2**20,
        request_bytes: int = REQUEST_BYTES,
    ) -> None:
        self.cache = MediaCache(cache_bytes)
        self._names = MediaNames()
        self._policy = policy
        self._limits = limits
        self._font = font
        self._request_bytes = request_bytes
        self._decoding = threading.BoundedSemaphore(decoders)
        self._pool = ThreadPoolExecutor(FETCH_THREADS, "media-fetch")

    def load(self, sources: Sequence[MediaSource], media: Sequence[bytes]) -> list[LoadedMedia]:
        """One item per source, in order, and what it took.

        A source with a URL and a `uuid` can be had by that alone from then on, also in the same
        request, for as long as the cache holds it. Raises MediaError (code media_not_cached when
        it does not) or MediaFetchError naming the first source that fails; the others are given up.
        """
        budget = _Budget(self._request_bytes)
        sent = iter(self._load_all([s for s in sources if s.url], media, budget))
        pairs = [(source, next(sent) if source.url else None) for source in sources]
        for source, loaded in pairs:
            if loaded is not None and source.uuid is not None:
                self._names.put(source.kind, source.uuid, loaded.file_digest)
        return [loaded or self._recall(source, budget) for source, loaded in pairs]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load_all(
        self, sources: Sequence[MediaSource], media: Sequence[bytes], budget: _Budget
    ) -> list[LoadedMedia]:
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

    def _recall(self, source: MediaSource, budget: _Budget) -> LoadedMedia:
        """What was sent under the source's `uuid`, processed with the same options."""
        digest = self._names.get(source.kind, source.uuid or "")
        item = digest and self.cache.get((digest, source.kind, source.options))
        if not digest or not item:
            raise source.named(
                MediaError(
                    f"nothing is kept under the uuid {(source.uuid or '')[:64]!r} with these "
                    f"options; send the {source.kind} itself again",
                    code="media_not_cached",
                )
            )
        try:
            budget.reserve(item.size_bytes)
        except MediaError as error:
            raise source.named(error) from None
        return LoadedMedia(item, _report(item), digest)

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
        report = _report(
            item,
            num_bytes=len(data),
            fetch_s=None if is_attached(source.url) else round(fetch_s, 6),
            decode_s=None if decode_s is None else round(decode_s, 6),
        )
        return LoadedMedia(item, report, key[0])

    def _decode(self, data: bytes, source: MediaSource, budget: _Budget) -> MediaItem:
        if source.kind == "image":
            return image_item(data, source.options, self._limits.max_pixels, budget.reserve)
        return video_item(data, source.options, self._limits, self._font, budget.reserve)


def _report(
    item: MediaItem,
    num_bytes: int = 0,
    fetch_s: float | None = None,
    decode_s: float | None = None,
) -> MediaReport:
    pixels = item.size_bytes // 3
    return MediaReport(item.kind, num_bytes, pixels, item.num_tokens, fetch_s, decode_s)


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
