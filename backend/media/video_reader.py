"""Frames of a video by their number. Runs in the decoding child only; the one user of PyAV.

A first pass over the packets, without decoding, numbers the frames by presentation time and finds
the keyframes. Reading then decodes forward, and seeks when a later keyframe is closer.
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Iterator
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from backend.errors import MediaError
from backend.media.sampling import VideoLength

CONTAINERS: Final = ("mov", "matroska", "avi", "gif", "mpegts", "mpeg", "flv")
"""FFmpeg's demuxers. Those that follow references to other files (hls, concat, ...) stay out."""

CODECS: Final = (
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "libdav1d",
    "mpeg4",
    "mpeg2video",
    "mpeg1video",
    "mjpeg",
    "gif",
    "flv",
)
"""FFmpeg's decoders. JPEG 2000 stays out: an overflow in it has been used to run code."""

SEEKABLE_CONTAINERS: Final = ("mov", "matroska")
"""Those whose index makes a seek land exactly on a keyframe."""

MAX_CONTAINER_FRAMES: Final = 500_000
"""4.6 hours at 30 frames per second: bounds the first pass."""

MAX_FPS: Final = 1000


class FrameReader:
    """Raises MediaError on opening what is not on the lists, has no frames, or is too large, and on
    reading from where the frames become too large."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        self._max_pixels = max_pixels
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next_index = 0
        self._container, self._stream = self._open()
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width <= 0 or height <= 0:
            raise MediaError("the video does not say how large its frames are")
        self._check_size(width, height)
        self._times, self._keyframes = self._scan()
        self.length = VideoLength(self._num_frames, self._frame_rate())
        self._unreadable: set[int] = set()
        names = str(self._container.format.name).split(",")
        self._can_seek = self._times is not None and not set(names).isdisjoint(SEEKABLE_CONTAINERS)
        self._restart()

    def read(self, index: int) -> NDArray[np.uint8] | None:
        """Frame `index` as RGB [h, w, 3], upright; None when it cannot be decoded."""
        if index in self._unreadable:
            return None
        if index < self._next_index or self._is_keyframe_ahead(index):
            self._seek(index)
        for number, frame in self._frames:
            if number < index:
                continue
            if number == index:
                self._next_index = number + 1
                return self._to_rgb(frame)
            # The one asked for is gone. This one is kept: it may be asked for next.
            self._frames = itertools.chain([(number, frame)], self._frames)
            self._next_index = number
            self._unreadable.update(range(index, number))
            return None
        self._next_index = self._num_frames
        self._unreadable.update(range(index, self._num_frames))
        return None

    # ---- opening ----------------------------------------------------------------------------

    def _open(self) -> tuple[Any, Any]:
        """(container, its video stream)"""
        try:
            container = av.open(
                io.BytesIO(self._data),
                options={
                    "format_whitelist": ",".join(CONTAINERS),
                    "codec_whitelist": ",".join(CODECS),
                    "protocol_whitelist": "",
                },
            )
        except MemoryError:
            raise
        except Exception:  # FFmpeg's errors, and PyAV's own on inconsistent headers
            raise MediaError(
                f"not a video that can be read; known containers: {', '.join(CONTAINERS)}"
            ) from None
        pictures = av.stream.Disposition.attached_pic
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & pictures and stream.codec_context is not None
        ]
        if not streams:
            raise MediaError("the file has no video stream that can be decoded")
        stream = streams[0]
        codec = stream.codec_context.codec.name
        if codec not in CODECS:
            raise MediaError(
                f"the video's codec {codec} is not decoded here; known: {', '.join(CODECS)}"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
        return container, stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise MediaError(
                f"{width}×{height} frames have {width * height} pixels; at most "
                f"{self._max_pixels} are allowed",
                code="media_too_large",
            )

    def _scan(self) -> tuple[list[int] | None, list[int]]:
        """(presentation time of every frame, indices of keyframes); sets `_num_frames`.

        Without distinct times (old AVI files) the first is None: frames count as they come out.
        """
        packets: list[tuple[int | None, bool]] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_keyframe))
                    if len(packets) > MAX_CONTAINER_FRAMES:
                        raise MediaError(
                            f"the video has more than {MAX_CONTAINER_FRAMES} frames",
                            code="media_too_large",
                        )
        except av.FFmpegError:
            pass  # a file cut short: what came before can be shown
        if not packets:
            raise MediaError("the video has no frames")
        self._num_frames = len(packets)
        times = sorted({time for time, _ in packets if time is not None})
        if len(times) < len(packets):
            return None, []
        keyframes = sorted(time for time, is_key in packets if is_key and time is not None)
        return times, [bisect.bisect_left(times, time) for time in keyframes]

    def _frame_rate(self) -> float:
        stream = self._stream
        for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
            if rate is not None and 0 < float(rate) <= MAX_FPS:
                return float(rate)
        if self._times is not None and len(self._times) > 1 and stream.time_base:
            span = float((self._times[-1] - self._times[0]) * stream.time_base)
            if span > 0 and (len(self._times) - 1) / span <= MAX_FPS:
                return (len(self._times) - 1) / span
        raise MediaError("the video does not say how many frames it has per second")

    # ---- moving -----------------------------------------------------------------------------

    def _is_keyframe_ahead(self, index: int) -> bool:
        """Is there a keyframe, not reached yet, from which `index` is closer than from here?"""
        return self._can_seek and self._keyframe_before(index) > self._next_index

    def _keyframe_before(self, index: int) -> int:
        place = bisect.bisect_right(self._keyframes, index)
        return self._keyframes[place - 1] if place else 0

    def _seek(self, index: int) -> None:
        """Stand so that decoding forward meets frame `index`."""
        if not self._can_seek or self._times is None:
            self._restart()
            return
        keyframe = self._keyframe_before(index)
        try:
            self._container.seek(self._times[keyframe], stream=self._stream, backward=True)
        except av.FFmpegError:  # no usable index: read the file in order from here on
            self._can_seek = False
            self._restart()
            return
        self._frames = self._decode()
        self._next_index = keyframe

    def _restart(self) -> None:
        self._container.close()
        self._container, self._stream = self._open()
        self._frames = self._decode()
        self._next_index = 0

    def _decode(self) -> Iterator[tuple[int, Any]]:
        """(index, frame) from the current place on; damaged packets are passed over."""
        count = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except EOFError:
                return
            except av.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise MemoryError from None
                continue
            for frame in frames:
                self._check_size(frame.width, frame.height)  # it can change within a file
                number = self._number(frame, count)
                count += 1
                if number is not None:
                    yield number, frame

    def _number(self, frame: Any, count: int) -> int | None:
        if self._times is None:
            return count if count < self._num_frames else None
        if frame.pts is None:
            return None
        place = bisect.bisect_left(self._times, frame.pts)
        if place < len(self._times) and self._times[place] == frame.pts:
            return place
        return None

    def _to_rgb(self, frame: Any) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        quarter_turns = round(frame.rotation / 90) % 4
        return np.rot90(pixels, quarter_turns) if quarter_turns else pixels
