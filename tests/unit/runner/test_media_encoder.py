import numpy as np
import pytest

from backend.runner import MediaEncoder
from backend.scheduler import MediaPiece


class CountingModel:
    def __init__(self):
        self.num_calls = 0

    def encode_media(self, patches, grids):
        self.num_calls += 1
        return np.full((2, 1), self.num_calls)


def make_piece(name):
    return MediaPiece(0, 2, (1, 2, 4), name * 32, np.zeros((8, 12), dtype=np.uint8))


def make_encoder(max_cached_bytes=24):
    """Room for three pieces of two tokens."""
    model = CountingModel()
    return model, MediaEncoder(
        model, embedding_bytes_per_token=4, max_cached_bytes=max_cached_bytes
    )


def test_a_piece_keeps_its_embedding_until_it_is_let_go():
    model, encoder = make_encoder(max_cached_bytes=0)
    piece = make_piece(b"a")
    assert encoder.embedding(piece) is encoder.embedding(piece)
    assert model.num_calls == 1
    piece.embedding = None
    encoder.embedding(piece)
    assert model.num_calls == 2


def test_equal_content_is_encoded_once():
    model, encoder = make_encoder()
    encoder.embedding(make_piece(b"a"))
    encoder.embedding(make_piece(b"a"))
    assert (model.num_calls, encoder.num_encoded, encoder.num_hits) == (1, 1, 1)


def test_the_least_recently_used_goes_first_when_bytes_run_out():
    model, encoder = make_encoder()
    for name in (b"a", b"b", b"c", b"a", b"d"):
        encoder.embedding(make_piece(name))
    assert encoder.num_cached_bytes == 24
    assert model.num_calls == 4
    encoder.embedding(make_piece(b"a"))
    assert model.num_calls == 4
    encoder.embedding(make_piece(b"b"))
    assert model.num_calls == 5


def test_what_is_larger_than_the_cache_pushes_nothing_out():
    model, encoder = make_encoder(max_cached_bytes=8)
    encoder.embedding(make_piece(b"a"))
    large = make_piece(b"b")
    large.num_tokens = 3
    encoder.embedding(large)
    encoder.embedding(make_piece(b"a"))
    assert (model.num_calls, encoder.num_cached_bytes) == (2, 8)


def test_a_failure_is_raised_and_not_remembered():
    class FailingModel(CountingModel):
        def encode_media(self, patches, grids):
            if self.num_calls == 0:
                self.num_calls += 1
                raise RuntimeError("once")
            return super().encode_media(patches, grids)

    encoder = MediaEncoder(FailingModel(), 4, 24)
    piece = make_piece(b"a")
    with pytest.raises(RuntimeError):
        encoder.embedding(piece)
    assert encoder.embedding(piece) is not None
