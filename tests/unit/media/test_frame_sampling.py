"""Which frames are picked: published vectors, both modes, contradictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import MediaError
from backend.media.sampling import (
    FRAME_SAMPLES,
    FrameSampling,
    VideoLength,
    count_frames,
    select_frames,
)


def test_ten_seconds_by_rate():
    assert select_frames(VideoLength(300, 30), FrameSampling()) == list(range(0, 300, 15))


def test_a_short_video_is_raised_to_the_minimum():
    picks = select_frames(VideoLength(150, 25), FrameSampling())
    assert len(picks) == 16
    assert picks[:6] == [0, 9, 18, 28, 37, 46] and picks[-1] == 140


def test_a_long_video_is_cut_to_the_maximum():
    assert select_frames(VideoLength(9000, 30), FrameSampling()) == list(range(0, 9000, 50))


def test_a_video_with_fewer_frames_than_the_minimum_shows_all():
    assert select_frames(VideoLength(10, 10), FrameSampling()) == list(range(10))


def test_broadcast_rate():
    picks = select_frames(VideoLength(1798, 29.97), FrameSampling())
    assert len(picks) == 120
    assert picks[:2] == [0, 15] and picks[-1] == 1783


def test_the_middle_of_each_interval():
    by_count = FrameSampling(-1, 0, 0, 4, "middle")
    assert select_frames(VideoLength(100, 25), by_count) == [12, 37, 62, 87]
    assert select_frames(VideoLength(40, 25), by_count) == [4, 14, 24, 34]  # (0 + 10 - 1) // 2
    by_rate = FrameSampling(1, 0, 0, -1, "middle")
    assert select_frames(VideoLength(100, 25), by_rate) == [12, 38, 62, 88]  # halves to even


def test_rand_stays_inside_its_intervals_and_follows_the_seed():
    sampling = FrameSampling(-1, 0, 0, 10, "rand")
    picks = select_frames(VideoLength(100, 25), sampling, seed=7)
    assert all(10 * place <= pick < 10 * place + 10 for place, pick in enumerate(picks))
    assert picks == select_frames(VideoLength(100, 25), sampling, seed=7)
    assert picks != select_frames(VideoLength(100, 25), sampling, seed=8)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (FrameSampling(2, 16, 180, 32), "fps 2 and target_frames 32 are both given"),
        (FrameSampling(-1, 16, 180, 8), "target_frames 8 is not between min_frames 16 and"),
        (FrameSampling(-1, 16, 180, 181), "target_frames 181 is not between"),
        (FrameSampling(-1, 16, 180), "fps is -1; without target_frames it must be positive"),
        (FrameSampling(0, 0, 180), "fps is 0; without target_frames"),
        (FrameSampling(2, 60, 30), "min_frames 60 is greater than max_frames 30"),
    ],
)
def test_options_that_contradict_each_other_are_named(sampling, message):
    with pytest.raises(MediaError, match=message):
        select_frames(VideoLength(100, 25), sampling)


@given(
    st.integers(1, 5000),
    st.floats(0.5, 120),
    st.floats(0.01, 60),
    st.integers(-1, 200),
    st.sampled_from(FRAME_SAMPLES),
    st.integers(0, 1000),
)
def test_picks_are_frames_of_the_video_in_order_and_never_more_than_announced(
    num_frames, source_fps, fps, target, sample, seed
):
    video = VideoLength(num_frames, source_fps)
    sampling = FrameSampling(-1 if target > 0 else fps, 0, 0, target, sample)
    picks = select_frames(video, sampling, seed)
    assert picks and picks == sorted(picks)
    assert 0 <= picks[0] and picks[-1] < num_frames
    assert len(picks) <= count_frames(video, sampling)


def test_a_slow_video_shown_at_a_higher_rate_counts_every_repetition():
    video, sampling = VideoLength(60, 1), FrameSampling(fps=4, min_frames=0, max_frames=0)
    assert select_frames(video, sampling)[:6] == [0, 0, 0, 1, 1, 1]
    assert 238 <= len(select_frames(video, sampling)) <= count_frames(video, sampling) <= 241
