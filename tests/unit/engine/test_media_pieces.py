import dataclasses
import itertools

import numpy as np
import pytest

from backend.engine.media_pieces import make_pieces
from backend.errors import InvalidRequestError
from backend.wire import MediaSpan
from tests.unit.engine import fake_model as fake
from tests.unit.engine.requests import Prompt, picture

PROMPT = Prompt(5, picture(2, 4, value=3), 6, picture(2, 6, value=9, frames=4), 7)


def pieces_of(prompt, spans=None, pixels=None, config=fake.CONFIG):
    spans = prompt.media if spans is None else spans
    return make_pieces(spans, prompt.ids, prompt.pixels if pixels is None else pixels, config)


def changed(index, **fields):
    """PROMPT's spans with one of them changed."""
    spans = list(PROMPT.media)
    values = {name: getattr(spans[index], name) for name in spans[index].__struct_fields__}
    spans[index] = MediaSpan(**{**values, **fields})
    return spans


def test_pieces_carry_their_place_their_pixels_and_their_name():
    first, second = pieces_of(PROMPT)
    assert (first.offset, first.num_tokens, first.grid) == (2, 2, (1, 2, 4))
    assert (second.offset, second.num_tokens, second.grid) == (7, 6, (4, 2, 6))
    assert first.pixels[:, 0].tolist() == list(range(3, 11))
    assert second.pixels[:, 0].tolist() == list(range(9, 57))
    assert len({first.digest, second.digest}) == 2


def test_pixels_are_copied_out_of_shared_memory():
    (piece,) = pieces_of(prompt := Prompt(picture(2, 2)))
    assert not np.shares_memory(piece.pixels, prompt.pixels)


def test_equal_pixels_in_another_grid_have_another_name():
    wide, high = Prompt(picture(2, 8)), Prompt(picture(8, 2))
    assert pieces_of(wide)[0].digest == pieces_of(Prompt(1, picture(2, 8)))[0].digest
    assert pieces_of(wide)[0].digest != pieces_of(high)[0].digest


@pytest.mark.parametrize("limit, frames", [(1, [2, 2, 2]), (49, [4, 2]), (72, [6]), (9999, [6])])
def test_videos_are_cut_between_pairs_of_frames(monkeypatch, limit, frames):
    monkeypatch.setattr("backend.engine.media_pieces.MAX_PATCHES_PER_PIECE", limit)
    prompt = Prompt(5, picture(2, 6, value=1, frames=6), 6)
    pieces = pieces_of(prompt)
    assert [piece.grid[0] for piece in pieces] == frames
    assert pieces[0].offset == 2
    for piece, following in itertools.pairwise(pieces):
        assert piece.end == following.offset
    assert np.concatenate([piece.pixels for piece in pieces]).tolist() == prompt.pixels.tolist()
    assert sum(piece.num_tokens for piece in pieces) == 9


@pytest.mark.parametrize(
    "spans, message",
    [
        (changed(0, offset=-1), r"media\[0\] takes tokens -1 to 0 of 15"),
        (changed(1, offset=50), r"media\[1\] takes tokens 50 to 55 of 15"),
        (changed(1, offset=3), r"media\[1\] takes tokens 3 to 8 of 15.*from token 4 on"),
        (changed(0, num_tokens=0), r"takes tokens 2 to 1"),
        (changed(0, num_tokens=3), r"media\[0\] has 3 tokens; its grid \(1, 2, 4\) makes 2"),
        (changed(0, grid=(1, 3, 4)), r"media\[0\] has the grid \(1, 3, 4\)"),
        (changed(0, grid=(2, 2, 4)), r"frames 1 \(image\)"),
        (changed(1, grid=(3, 2, 6)), r"multiples of 2 \(video\)"),
        (changed(1, grid=(0, 2, 6)), r"media\[1\] has the grid"),
        (changed(0, grid=(1, -2, -4)), r"media\[0\] has the grid"),
        (changed(0, grid=(1, 2**40, 2**40)), r"makes"),
        (changed(0, offset=3), r"media\[0\] does not cover placeholder tokens \(90\) only"),
        (changed(1, first_row=0), r"media\[1\] begins at pixel row 0; expected 8"),
        (PROMPT.media[:1], r"8 placeholder tokens; its media take 2"),
        ((), r"8 placeholder tokens; its media take 0"),
    ],
)
def test_spans_that_do_not_fit_the_prompt_are_refused(spans, message):
    with pytest.raises(InvalidRequestError, match=message):
        pieces_of(PROMPT, spans)


@pytest.mark.parametrize(
    "pixels",
    [
        PROMPT.pixels[:-1],
        np.concatenate([PROMPT.pixels, PROMPT.pixels]),
        PROMPT.pixels[:, :-1],
        PROMPT.pixels.astype(np.float32),
        PROMPT.pixels.reshape(-1),
    ],
)
def test_pixels_that_do_not_fit_the_grids_are_refused(pixels):
    with pytest.raises(InvalidRequestError, match=r"expected uint8 \[56, 12\]"):
        pieces_of(PROMPT, pixels=pixels)


def test_missing_and_needless_pixels_are_refused():
    with pytest.raises(InvalidRequestError, match=r"pixels are uint8 \[0, 12\]"):
        make_pieces(PROMPT.media, PROMPT.ids, None, fake.CONFIG)
    with pytest.raises(InvalidRequestError, match=r"expected uint8 \[0, 12\]"):
        make_pieces((), np.array([5], dtype=np.int32), PROMPT.pixels, fake.CONFIG)


def test_a_text_model_takes_no_media():
    config = dataclasses.replace(fake.CONFIG, vision=None, image_token_id=-1, video_token_id=-1)
    assert make_pieces((), np.array([90], dtype=np.int32), None, config) == []
    with pytest.raises(InvalidRequestError, match="takes no pictures"):
        pieces_of(PROMPT, config=config)
