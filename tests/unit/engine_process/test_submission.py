import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.engine.submission import MAX_PROMPT_TOKENS, check_prompt, check_request
from backend.errors import InvalidRequestError, RequestTooLargeError
from backend.wire import EngineRequest, MediaSpan, PixelHandle


def span(offset=2, num_tokens=3, grid=(1, 4, 4), first_row=0):
    return MediaSpan("image", offset, num_tokens, grid, first_row, "")


def with_media(*spans, num_rows=None):
    rows = num_rows or sum(math.prod(item.grid) for item in spans)
    return EngineRequest(media=spans, pixels=PixelHandle("x", rows, 588))


PROMPT = np.arange(10, dtype=np.int32)
POSITIONS = np.tile(PROMPT, (3, 1))


def test_a_prompt_with_or_without_positions_and_media_is_accepted():
    check_prompt(EngineRequest(), PROMPT, None)
    check_prompt(EngineRequest(), PROMPT, POSITIONS)
    check_prompt(with_media(span(), span(offset=5, first_row=16)), PROMPT, POSITIONS)


@pytest.mark.parametrize(
    ("prompt", "positions", "name"),
    [
        (None, None, "PROMPT_IDS"),
        (PROMPT[:0], None, "PROMPT_IDS"),
        (PROMPT.reshape(2, 5), None, "PROMPT_IDS"),
        (-PROMPT, None, "PROMPT_IDS"),
        (PROMPT, POSITIONS[:, :9], "POSITIONS"),
        (PROMPT, POSITIONS[:2], "POSITIONS"),
        (PROMPT, POSITIONS[:, :0], "POSITIONS"),
        (PROMPT, -POSITIONS, "POSITIONS"),
        (PROMPT, POSITIONS + np.int32(2**31 - 20), "POSITIONS"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(prompt, positions, name):
    with pytest.raises(InvalidRequestError) as caught:
        check_prompt(EngineRequest(), prompt, positions)
    assert caught.value.param == name


def test_a_prompt_beyond_every_model_is_too_large():
    with pytest.raises(RequestTooLargeError):
        check_prompt(EngineRequest(), np.zeros(MAX_PROMPT_TOKENS + 1, np.int32), None)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (with_media(span(offset=-1)), "media[0]"),
        (with_media(span(offset=8)), "media[0]"),
        (with_media(span(num_tokens=0)), "media[0]"),
        (with_media(span(), span(offset=4, first_row=16)), "media[1]"),
        (with_media(span(first_row=1)), "media[0]"),
        (with_media(span(), span(offset=5)), "media[1]"),
        (with_media(span(grid=(1, 0, 4))), "media[0]"),
        (with_media(span(grid=(-1, -4, 4))), "media[0]"),
        (with_media(span(), num_rows=15), "pixels"),
        (EngineRequest(media=(span(),)), "pixels"),
        (EngineRequest(pixels=PixelHandle("x", 1, 588)), "pixels"),
        (with_media(span(grid=(2**62, 2**62, 2**62)), num_rows=16), "pixels"),
    ],
)
def test_media_that_do_not_fit_are_refused_by_name(request_, name):
    with pytest.raises(InvalidRequestError) as caught:
        check_prompt(request_, PROMPT, None)
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (EngineRequest(stream_key="k" * 129), "stream_key"),
        (EngineRequest(request_id="i" * 513), "request_id"),
        (EngineRequest(op="stop"), "request_id"),
        (EngineRequest(op="error"), "error"),
    ],
)
def test_fields_that_do_not_fit_are_refused_by_name(request_, name):
    with pytest.raises(InvalidRequestError) as caught:
        check_request(request_)
    assert caught.value.param == name


@given(
    hnp.arrays(np.int32, st.integers(0, 5)),
    hnp.arrays(np.int32, hnp.array_shapes(max_dims=3, max_side=5)),
    st.lists(
        st.builds(
            MediaSpan,
            st.just("image"),
            st.integers(-5, 5),
            st.integers(-5, 5),
            st.tuples(*[st.integers(-2, 5)] * 3),
            st.integers(-5, 5),
            st.just(""),
        ),
        max_size=3,
    ),
)
def test_nothing_but_a_refusal_comes_of_nonsense(prompt, positions, spans):
    request = EngineRequest(media=tuple(spans), pixels=PixelHandle("x", 8, 588))
    try:
        check_prompt(request, prompt, positions)
    except InvalidRequestError:
        return
    assert positions.shape == (3, prompt.size)
