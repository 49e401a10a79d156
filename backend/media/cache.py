"""Processed pictures and videos, kept for the next turn of the same conversation."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TypeAlias

from backend.media.item import MediaItem
from backend.media.options import ProcessorOptions
from backend.wire import Kind

CacheKey: TypeAlias = tuple[bytes, Kind, ProcessorOptions]


def cache_key(data: bytes, kind: Kind, options: ProcessorOptions) -> CacheKey:
    """What the result depends on: SHA-256 of the file, and how it is processed."""
    return (hashlib.sha256(data).digest(), kind, options)


class MediaCache:
    """Least recently used items go first when the patches exceed `max_bytes`. Thread-safe.

    Invariant: size_bytes is the sum over what is kept, and at most max_bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.num_hits = 0
        self._items: OrderedDict[CacheKey, MediaItem] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: CacheKey) -> MediaItem | None:
        with self._lock:
            item = self._items.get(key)
            if item is not None:
                self._items.move_to_end(key)
                self.num_hits += 1
            return item

    def put(self, key: CacheKey, item: MediaItem) -> None:
        """Keep `item`, unless it alone is larger than the whole cache."""
        if item.size_bytes > self.max_bytes:
            return
        with self._lock:
            replaced = self._items.pop(key, None)
            if replaced is not None:
                self.size_bytes -= replaced.size_bytes
            self._items[key] = item
            self.size_bytes += item.size_bytes
            while self.size_bytes > self.max_bytes:
                _, oldest = self._items.popitem(last=False)
                self.size_bytes -= oldest.size_bytes
