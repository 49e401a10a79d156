"""Frames by number: any order, damaged packets, a lying index; and substitutes for lost ones."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import MediaError
from backend.media.sampling import VideoLength
from backend.media.video_reader import FrameReader
from backend.media.video_worker import read_or_substitute


def _shade(index):
    return 20 + 8 * (index % 29)


def _reads(reader, index):
    frame = reader.read(index)
    return frame is not None and abs(int(np.median(frame)) - _shade(index)) < 4


@pytest.fixture(scope="module")
def files(make_video):
    """By name: 30 frames, a keyframe every 6."""
    forms = {
        "mp4": ("libx264", "yuv420p"),
        "matroska": ("libx264", "yuv420p"),
        "webm": ("libvpx-vp9", "yuv420p"),
        "mpegts": ("libx264", "yuv420p"),
        "avi": ("mpeg4", "yuv420p"),
        "flv": ("flv", "yuv420p"),
    }
    return {
        container: make_video(
            30, container=container, codec=codec, pixel_format=pixels, gop=6, shade=_shade
        )
        for container, (codec, pixels) in forms.items()
    }


CONTAINERS = ["mp4", "matroska", "webm", "mpegts", "avi", "flv"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_length_and_rate(files, container):
    assert FrameReader(files[container], 10**6).length == VideoLength(30, 10.0)


@pytest.mark.parametrize("container", CONTAINERS)
def test_frames_are_read_in_any_order(files, container):
    @settings(max_examples=8)
    @given(order=st.lists(st.integers(0, 29), min_size=1, max_size=8))
    def check(order):
        reader = FrameReader(files[container], 10**6)
        assert [index for index in order if not _reads(reader, index)] == []

    check()


def _spoil(data, index):
    """Overwrite one frame's packet with zeros; the container around it stays."""
    with av.open(io.BytesIO(data)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    place = data.index(packets[index])
    size = len(packets[index])
    return data[:place] + b"\0" * size + data[place + size :]


def test_a_damaged_frame_is_missing_and_those_before_and_of_later_groups_are_not(files):
    reader = FrameReader(_spoil(files["webm"], 13), 10**6)
    assert reader.length.num_frames == 30
    assert reader.read(13) is None
    assert reader.read(13) is None  # remembered
    assert _reads(reader, 11) and _reads(reader, 18) and _reads(reader, 5)


def test_a_damaged_keyframe_takes_its_group_with_it_and_no_more(files):
    reader = FrameReader(_spoil(files["webm"], 12), 10**6)
    assert [reader.read(index) is None for index in (14, 12, 17)] == [True] * 3
    assert _reads(reader, 18) and _reads(reader, 11) and _reads(reader, 0)


@pytest.mark.parametrize(
    ("container", "options"),
    [("webm", {"live": "1"}), ("mp4", {"movflags": "frag_keyframe+empty_moov"})],
)
def test_files_written_without_an_index_can_be_read_in_any_order(make_video, container, options):
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    data = make_video(29, container=container, codec=codec, gop=6, shade=_shade, options=options)
    reader = FrameReader(data, 10**6)
    assert all(_reads(reader, index) for index in (20, 3, 28, 13, 12, 0, 27))


def test_frames_that_grow_beyond_the_limit_later_on_are_refused(make_video):
    small = make_video(5, (48, 64), container="mpegts")
    reader = FrameReader(small + make_video(5, (480, 640), container="mpegts"), 64 * 48)
    assert reader.read(4).shape == (48, 64, 3)
    with pytest.raises(MediaError, match="640×480 frames have 307200 pixels; at most 3072 are"):
        reader.read(9)


def test_a_lost_tail_is_missing(files):
    data = files["flv"]
    reader = FrameReader(data[: len(data) * 2 // 3], 10**6)
    last = reader.length.num_frames - 1
    assert 10 < last < 29
    assert _reads(reader, last - 1)


class Lossy:
    """Only the frames in `readable` can be read; each is an array that holds its number."""

    def __init__(self, num_frames, readable):
        self.length = VideoLength(num_frames, 10.0)
        self.asked = []
        self._readable = readable

    def read(self, index):
        self.asked.append(index)
        return np.full((1, 1, 3), index, np.uint8) if index in self._readable else None


def test_a_readable_frame_is_itself():
    source = Lossy(100, {50})
    assert read_or_substitute(source, 50)[0] == 50 and source.asked == [50]


def test_neighbours_are_tried_in_turn_backwards_first():
    source = Lossy(100, {47, 53})
    index, pixels = read_or_substitute(source, 50)
    assert index == 47 and pixels[0, 0, 0] == 47
    assert source.asked == [50, 49, 51, 48, 52, 47]
    assert read_or_substitute(Lossy(100, {53}), 50)[0] == 53


def test_the_search_is_twice_as_wide_at_both_ends():
    assert read_or_substitute(Lossy(100, {40}), 50)[0] == 40
    with pytest.raises(MediaError, match="frame 50 of the video cannot be decoded, nor any of the"):
        read_or_substitute(Lossy(100, {39}), 50)
    assert read_or_substitute(Lossy(100, {20}), 0)[0] == 20
    assert read_or_substitute(Lossy(100, {79}), 99)[0] == 79
    with pytest.raises(MediaError, match="the 20 around it"):
        read_or_substitute(Lossy(100, {21}), 0)
