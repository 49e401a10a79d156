"""Videos through the real decoding child: what is shown, what is refused, what a limit does."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from backend.errors import MediaError
from backend.media import video
from backend.media.options import ProcessorOptions
from backend.media.video import VideoLimits, receive_item, video_item

SMALL = ProcessorOptions(
    video_min_pixels=784, video_max_pixels=64 * 784, video_min_frames=4, video_max_frames=64
)


def _shades(item):
    """Median grey of every frame: the time stamp covers less than half of it."""
    frames = item.grid[0]
    return [int(np.median(rows)) for rows in item.patches.reshape(frames, -1)]


def _near(found, expected, tolerance=4):
    return len(found) == len(expected) and all(
        abs(one - other) <= tolerance for one, other in zip(found, expected, strict=True)
    )


def test_frames_are_sampled_and_the_last_repeated_to_an_even_count(make_video):
    # 25 frames at 10 per second and 2 per second shown: 0, 5, 10, 15, 20 and 20 again.
    data = make_video(25, shade=lambda index: 20 + 9 * index)
    item = video_item(data, SMALL)
    assert item.kind == "video" and item.grid == (6, 4, 6)
    assert item.num_tokens == 6 * 4 * 6 // 8
    assert _near(_shades(item), [20, 65, 110, 155, 200, 200])
    rows = item.patches.reshape(6, -1)
    np.testing.assert_array_equal(rows[4], rows[5])


def test_every_frame_carries_its_time(make_video):
    data = make_video(20, size=(196, 392), shade=lambda index: 128)
    item = video_item(data, SMALL)
    frames = item.patches.reshape(item.grid[0], -1)
    assert all((frame < 10).any() and (frame > 245).any() for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_the_trained_defaults_show_a_short_clip_in_sixteen_frames(make_video):
    item = video_item(make_video(24, size=(224, 224)), ProcessorOptions())
    assert item.grid == (16, 36, 36)
    assert item.num_tokens == 16 * 36 * 36 // 8


def test_the_same_bytes_give_the_same_item_even_at_random(make_video):
    data = make_video(40)
    options = SMALL.override({"video_frames_sample": "rand"}, "x")
    assert video_item(data, options).digest == video_item(data, options).digest


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format"),
    [
        ("mp4", "mpeg4", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("matroska", "libx264", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("gif", "gif", "gray"),
    ],
)
def test_other_containers_and_codecs(make_video, container, codec, pixel_format):
    data = make_video(30, container=container, codec=codec, pixel_format=pixel_format, gop=12)
    item = video_item(data, SMALL)
    assert item.grid[0] == 6
    assert _near(_shades(item), [40 + 8 * (index % 20) for index in (0, 5, 10, 15, 20, 25)], 8)


def test_a_phones_upright_video_is_turned(make_video):
    data = bytearray(make_video(8, size=(64, 96)))
    # The track header's matrix: identity → a quarter turn.
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + 36] = turned
    assert video_item(bytes(data), SMALL).grid == (4, 6, 4)


def test_a_file_cut_short_shows_what_it_has(make_video):
    data = make_video(60, container="matroska", gop=10, size=(128, 128))
    item = video_item(data[: len(data) * 2 // 3], SMALL)
    assert item.grid[0] >= 4


def test_unreadable_frames_are_replaced_by_their_neighbours(make_video):
    data = bytearray(make_video(30, container="avi", codec="mjpeg", pixel_format="yuvj420p"))
    place = data.index(b"00dc")
    for _ in range(10):
        place = data.index(b"00dc", place + 4)
    size = struct.unpack("<I", data[place + 4 : place + 8])[0]
    data[place + 8 : place + 8 + size] = b"\0" * size  # frame 10
    item = video_item(bytes(data), SMALL)
    assert item.grid[0] == 6
    assert len(_shades(item)) == 6


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_jpeg_2000_is_refused(make_video, container):
    data = make_video(8, container=container, codec="jpeg2000")
    with pytest.raises(MediaError, match="codec jpeg2000 is not decoded here; known: h264"):
        video_item(data, SMALL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    ],
)
def test_what_is_no_video_is_refused(data):
    with pytest.raises(MediaError, match="not a video that can be read; known containers: mov"):
        video_item(data, SMALL)


def test_too_many_frames_are_refused_before_decoding(make_video):
    options = SMALL.override({"video_fps": 10, "video_max_frames": 40}, "x")
    with pytest.raises(MediaError, match="ask for 30 frames of this video; at most 16 are") as info:
        video_item(make_video(30), options, VideoLimits(max_frames=16))
    assert info.value.code == "media_too_large"


def test_frames_of_too_many_pixels_are_refused(make_video):
    with pytest.raises(MediaError, match="96×64 frames have 6144 pixels; at most 5000"):
        video_item(make_video(8), SMALL, VideoLimits(max_pixels=5000))


def test_the_budget_may_refuse(make_video):
    asked = []

    def reserve(size_bytes):
        asked.append(size_bytes)
        raise MediaError("too much")

    with pytest.raises(MediaError, match="too much"):
        video_item(make_video(25), SMALL, reserve=reserve)
    assert asked == [6 * 4 * 6 * 588]


def _is_running(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(VideoLimits(timeout_s=0.05), id="wall clock"),
        pytest.param(VideoLimits(memory_bytes=120 * 2**20), id="memory"),
        pytest.param(VideoLimits(cpu_s=1), id="processor time"),
    ],
)
def test_a_child_that_meets_a_limit_fails_its_request_alone(make_video, limits, monkeypatch):
    children = []
    real = video.subprocess.Popen

    def popen(*args, **kwargs):
        children.append(real(*args, **kwargs))
        return children[-1]

    monkeypatch.setattr(video.subprocess, "Popen", popen)
    heavy = make_video(100, size=(720, 1280), codec="mpeg4", fps=25)
    options = ProcessorOptions(video_fps=25, video_max_frames=400)
    with pytest.raises(MediaError) as info:
        video_item(heavy, options, limits)
    assert info.value.code == "media_too_complex"
    assert [_is_running(child.pid) for child in children] == [False]
    assert video_item(make_video(8), SMALL).grid[0] == 4


def test_the_child_inherits_no_secrets(make_video, monkeypatch):
    monkeypatch.setenv("FD_API_KEY", "secret")
    seen = {}
    real = video.subprocess.Popen

    def popen(*args, **kwargs):
        seen.update(kwargs["env"])
        return real(*args, **kwargs)

    monkeypatch.setattr(video.subprocess, "Popen", popen)
    video_item(make_video(8), SMALL)
    assert "FD_API_KEY" not in seen and "secret" not in seen.values()


def test_no_file_descriptor_is_left_open(make_video):
    data = make_video(8)
    video_item(data, SMALL)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        video_item(data, SMALL)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_decoder_that_was_taken_over_fails_its_request_alone():
    def frame(kind, payload):
        return struct.pack("<cI", kind, len(payload)) + payload

    for said in (
        b"",
        b"garbage that is long enough",
        frame(b"H", b"no JSON"),
        frame(b"H", b'{"grid": [-1, 2, 2]}'),
        frame(b"H", b'{"grid": [0, 2, 2]}'),
        frame(b"H", b'{"grid": [-1, -1, 2]}') + frame(b"R", b"x" * 588 * 2),
        frame(b"H", b'{"grid": [2, 2]}'),
        frame(b"H", b'{"grid": [2, 2, 2]}') + frame(b"R", b"x" * 588 * 9),
        frame(b"H", b'{"grid": [2, 2, 2]}') + frame(b"R", b"x" * 588),
        frame(b"H", b'{"grid": [2, 2, 2]}') + frame(b"H", b"{}"),
        frame(b"R", b"x" * 588),
        frame(b"E", b"{}"),
        struct.pack("<cI", b"E", 2**32 - 1),
    ):
        with pytest.raises(MediaError) as info:
            receive_item(io.BytesIO(said), SMALL, lambda size_bytes: None)
        assert info.value.code == "media_too_complex"


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_decoded_or_refused_in_our_own_words(make_video, seed):
    container, codec = [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")][seed % 3]
    data = bytearray(make_video(12, container=container, codec=codec, gop=6))
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(data), 20):
        data[place] ^= int(rng.integers(1, 256))
    try:
        video_item(bytes(data), SMALL, VideoLimits(timeout_s=20))
    except MediaError as error:
        assert "0x" not in error.message and "/" not in error.message
