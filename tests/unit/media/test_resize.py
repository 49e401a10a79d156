"""smart_resize against the published vectors and against its own promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import MediaError
from backend.media.resize import smart_resize

IMAGE = (4 * 784, 6177 * 784)
THINKING = (4 * 784, 12_845_056)
VIDEO = (299 * 784, 1196 * 784)


@pytest.mark.parametrize(
    ("size", "resized", "tokens"),
    [
        ((28, 28), (56, 56), 4),
        ((1, 1), (56, 56), 4),
        ((42, 70), (56, 56), 4),
        ((100, 100), (112, 112), 16),
        ((224, 224), (224, 224), 64),
        ((480, 640), (476, 644), 391),
        ((720, 1280), (728, 1288), 1196),
        ((1080, 1920), (1092, 1932), 2691),
        ((2160, 3840), (1624, 2912), 6032),
        ((4000, 3000), (2520, 1904), 6120),
        ((10, 3000), (28, 5600), 200),
        ((868, 1120), (868, 1120), 1240),
    ],
)
def test_images_are_resized_as_the_model_was_trained(size, resized, tokens):
    assert smart_resize(*size, *IMAGE) == resized
    assert resized[0] * resized[1] // 784 == tokens


@pytest.mark.parametrize(
    ("size", "resized", "tokens"),
    [((2160, 3840), (2156, 3836), 10549), ((4000, 3000), (4004, 2996), 15301)],
)
def test_a_larger_image_limit_keeps_more_pixels(size, resized, tokens):
    assert smart_resize(*size, *THINKING) == resized
    assert resized[0] * resized[1] // 784 == tokens


@pytest.mark.parametrize(
    ("size", "resized"),
    [((126, 98), (112, 112)), ((98, 126), (112, 112)), ((182, 238), (168, 224))],
)
def test_a_side_halfway_between_two_grid_steps_goes_to_the_even_one(size, resized):
    assert smart_resize(*size, *IMAGE) == resized


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((480, 640), (476, 644)),
        ((720, 1280), (728, 1288)),
        ((1080, 1920), (700, 1288)),
        ((224, 224), (504, 504)),
        ((868, 1120), (840, 1092)),
    ],
)
def test_video_frames_are_resized_under_their_own_limits(size, resized):
    assert smart_resize(*size, *VIDEO) == resized


def test_a_tall_sliver_is_the_transpose_of_a_wide_one():
    assert smart_resize(3000, 10, *IMAGE) == (5600, 28)


def test_limits_that_no_grid_size_meets_are_refused_with_the_numbers():
    with pytest.raises(MediaError, match="100×100 pixels cannot be resized to between 800 and 900"):
        smart_resize(100, 100, 800, 900)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_every_size_lands_on_the_grid_within_the_limits(height, width):
    for low, high in (IMAGE, THINKING, VIDEO):
        try:
            resized_height, resized_width = smart_resize(height, width, low, high)
        except MediaError:
            # Only slivers can miss: one side of theirs is a handful of grid steps.
            assert max(height, width) / min(height, width) > 50
            continue
        assert resized_height % 28 == 0 and resized_width % 28 == 0
        assert low <= resized_height * resized_width <= high
        ratio = math.log(resized_height * width / (resized_width * height))
        if max(height, width) / min(height, width) < 4 and min(height, width) > 280:
            assert abs(ratio) < 0.2


def test_a_thin_picture_that_fits_no_grid_is_refused_by_its_own_size():
    with pytest.raises(MediaError, match=r"^1×500 pixels cannot be resized"):
        smart_resize(500, 1, 12_544, 50_176)
