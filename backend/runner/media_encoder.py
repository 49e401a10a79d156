"""Pixels → embeddings, each piece once while anybody needs it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.scheduler import MediaPiece


class EncoderModel(Protocol):
    def encode_media(
        self, patches: NDArray[np.uint8], grids: Sequence[tuple[int, int, int]]
    ) -> Any: ...


class MediaEncoder:
    """Two places keep embeddings [num_tokens, H]: a piece itself, from the first chunk that needs
    it until the prefill has passed it, and a cache by content, which drops the least recently used
    beyond `max_cached_bytes`. So a picture that spans chunks is encoded once whatever else comes,
    and one that is sent again is not encoded at all.
    """

    def __init__(
        self, model: EncoderModel, embedding_bytes_per_token: int, max_cached_bytes: int
    ) -> None:
        self._model = model
        self._bytes_per_token = embedding_bytes_per_token
        self._max_cached_bytes = max_cached_bytes
        self._cached: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self.num_cached_bytes = 0
        self.num_encoded = 0
        self.num_hits = 0

    def embedding(self, piece: MediaPiece) -> Any:
        """Tensor [num_tokens, H]; also left on the piece. Raises what the model raises."""
        if piece.embedding is None:
            entry = self._cached.get(piece.digest)
            if entry is not None:
                self._cached.move_to_end(piece.digest)
                self.num_hits += 1
                piece.embedding = entry[0]
            else:
                piece.embedding = self._model.encode_media(piece.pixels, [piece.grid])
                self.num_encoded += 1
                self._keep(piece)
        return piece.embedding

    def _keep(self, piece: MediaPiece) -> None:
        size = piece.num_tokens * self._bytes_per_token
        if size > self._max_cached_bytes:
            return
        self._cached[piece.digest] = (piece.embedding, size)
        self.num_cached_bytes += size
        while self.num_cached_bytes > self._max_cached_bytes:
            _, (_, dropped) = self._cached.popitem(last=False)
            self.num_cached_bytes -= dropped
