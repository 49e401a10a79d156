"""Clients' own names of media: `uuid` of a part → the file that was sent under it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from backend.wire import Kind

MAX_NAMES = 16_384


class MediaNames:
    """Thread-safe. The least recently used go first beyond `max_names`.

    Only the file's digest is kept; whether there is still something to be had for it is the
    cache's question. Names are shared by all clients of the server.
    """

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._digests: OrderedDict[tuple[Kind, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._digests)

    def get(self, kind: Kind, name: str) -> bytes | None:
        with self._lock:
            digest = self._digests.get((kind, name))
            if digest is not None:
                self._digests.move_to_end((kind, name))
            return digest

    def put(self, kind: Kind, name: str, digest: bytes) -> None:
        """`name` means this file from now on."""
        with self._lock:
            self._digests[kind, name] = digest
            self._digests.move_to_end((kind, name))
            while len(self._digests) > self._max_names:
                self._digests.popitem(last=False)
