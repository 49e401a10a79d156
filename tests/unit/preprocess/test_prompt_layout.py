"""Placeholders, spans, pixels and positions of a prompt with media."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.chat_template import MediaPlaceholder
from backend.errors import InvalidRequestError, MediaError
from backend.media.item import make_item
from backend.preprocess.prompt import lay_out, text_prompt


def _item(kind, grid, value=0):
    return make_item(kind, grid, np.full((grid[0] * grid[1] * grid[2], 588), value, np.uint8))


def test_items_take_their_places(config):
    items = [_item("image", (1, 4, 6), 1), _item("video", (4, 2, 2), 2)]
    pieces = [
        [1, 2],
        MediaPlaceholder("image", 0),
        [3],
        MediaPlaceholder("video", 1),
        [4, 5],
    ]
    prompt = lay_out(pieces, items, config)
    patch = config.image_token_id
    assert prompt.ids.tolist() == [1, 2, *[patch] * 6, 3, *[patch] * 2, 4, 5]
    assert prompt.ids.dtype == np.int32
    image, video = prompt.spans
    assert (image.offset, image.num_tokens, image.first_row, image.grid) == (2, 6, 0, (1, 4, 6))
    assert (video.offset, video.num_tokens, video.first_row) == (9, 2, 24)
    assert image.digest == items[0].digest
    assert prompt.pixels.shape == (24 + 16, 588)
    assert prompt.pixels[:, 0].tolist() == [1] * 24 + [2] * 16
    assert prompt.positions[:, 2:8].tolist() == [
        [2, 2, 2, 2, 2, 2],
        [2, 2, 2, 3, 3, 3],
        [2, 3, 4, 2, 3, 4],
    ]
    assert prompt.positions[:, 8].tolist() == [5, 5, 5]
    assert prompt.positions[:, 9:11].tolist() == [[6, 7], [6, 6], [6, 6]]
    assert prompt.positions[:, 11].tolist() == [8, 8, 8]


def test_a_template_may_show_them_in_another_order(config):
    items = [_item("image", (1, 2, 2), 1), _item("image", (1, 2, 4), 2)]
    pieces = [MediaPlaceholder("image", 1), MediaPlaceholder("image", 0)]
    prompt = lay_out(pieces, items, config)
    assert [span.digest for span in prompt.spans] == [items[1].digest, items[0].digest]
    assert [span.first_row for span in prompt.spans] == [0, 8]
    assert prompt.pixels[:, 0].tolist() == [2] * 8 + [1] * 4


def test_a_single_items_pixels_are_not_copied(config):
    item = _item("image", (1, 2, 2))
    assert lay_out([MediaPlaceholder("image", 0)], [item], config).pixels is item.patches


@pytest.mark.parametrize("shown", [[], [0], [0, 0], [0, 1, 1]])
def test_every_item_must_have_exactly_one_place(config, shown):
    items = [_item("image", (1, 2, 2))] * 2
    with pytest.raises(MediaError, match="hold 2 pictures and videos, but the chat template"):
        lay_out([MediaPlaceholder("image", index) for index in shown], items, config)


def test_a_placeholder_token_without_its_picture_is_refused(config):
    with pytest.raises(InvalidRequestError, match="stands for a picture or video, without one"):
        lay_out([[1, config.image_token_id]], [], config)


def test_text_counts_up():
    prompt = text_prompt([5, 6, 7])
    assert prompt.ids.tolist() == [5, 6, 7] and prompt.pixels is None and prompt.spans == ()
    assert prompt.positions.tolist() == [[0, 1, 2]] * 3


@given(st.lists(st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 3), st.integers(1, 3)))))
def test_spans_cover_exactly_the_placeholders(config, layout):
    pieces, items = [], []
    for piece in layout:
        if isinstance(piece, int):
            pieces.append([7] * piece)
        else:
            pieces.append(MediaPlaceholder("image", len(items)))
            items.append(_item("image", (1, 2 * piece[0], 2 * piece[1])))
    prompt = lay_out(pieces, items, config)
    covered = [
        row for span in prompt.spans for row in range(span.offset, span.offset + span.num_tokens)
    ]
    assert covered == np.flatnonzero(prompt.ids == config.image_token_id).tolist()
    assert prompt.positions.shape == (3, len(prompt.ids))
    rows = sum(span.grid[0] * span.grid[1] * span.grid[2] for span in prompt.spans)
    assert rows == (0 if prompt.pixels is None else len(prompt.pixels))
