"""The child process that decodes one video and then ends: `python -m backend.media.video_worker`.

stdin: one JSON line (`VideoJob`), then the file's bytes.
stdout: frames of a type byte and a 4-byte length: `H` JSON {grid}, `R` patch rows of one frame,
`E` JSON {code, message} instead of what would follow.

Its memory, processor time and files are limited, and it dies with its parent, whatever a hostile
file does to the decoder.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.errors import MediaError
from backend.media.options import ProcessorOptions
from backend.media.patches import patch_grid, patch_rows
from backend.media.resize import smart_resize
from backend.media.sampling import VideoLength, count_frames, select_frames
from backend.media.timestamp import stamp

NEIGHBOURS = 10
"""How far from an unreadable frame a substitute is searched; twice as far at both ends."""

THREADS = min(4, os.cpu_count() or 1)

_PR_SET_PDEATHSIG = 1


class VideoJob(msgspec.Struct):
    """`max_frames` bounds the frames shown, `max_pixels` those of one frame as stored."""

    options: ProcessorOptions
    max_pixels: int
    max_frames: int
    memory_bytes: int
    cpu_s: int
    parent_pid: int
    font: str = ""
    seed: int = 0


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=VideoJob)
    _confine(job)
    out = sys.stdout.buffer
    try:
        _decode(job, sys.stdin.buffer.read(), out)
    except MediaError as error:
        _send(out, b"E", msgspec.json.encode({"code": error.code, "message": error.message}))
    except MemoryError:
        text = f"decoding the video needs more than {job.memory_bytes} bytes of memory"
        _send(out, b"E", msgspec.json.encode({"code": "media_too_complex", "message": text}))
    out.flush()


def _confine(job: VideoJob) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent_pid:  # it died before the line above
        os._exit(1)
    for kind, limit in (
        (resource.RLIMIT_AS, job.memory_bytes),
        (resource.RLIMIT_CPU, job.cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _decode(job: VideoJob, data: bytes, out: BinaryIO) -> None:
    # Imported under the limits, and nowhere else: it brings FFmpeg into the process.
    from backend.media.video_reader import FrameReader

    reader = FrameReader(data, job.max_pixels)
    sampling, options = job.options.sampling, job.options
    expected = count_frames(reader.length, sampling)
    expected += expected % 2
    if expected > job.max_frames:
        raise MediaError(
            f"the options ask for {expected} frames of this video; at most {job.max_frames} are "
            "allowed",
            code="media_too_large",
        )
    indices = select_frames(reader.length, sampling, job.seed)
    # The model merges frames in pairs: the last one is shown again when it has no partner.
    repeats = -len(indices) % options.temporal_conv_size
    size: tuple[int, int] | None = None
    rows = b""
    with ThreadPoolExecutor(THREADS) as pool:
        pending: deque[Future[bytes]] = deque()
        for index in indices:
            shown, pixels = read_or_substitute(reader, index)
            if size is None:
                size = smart_resize(
                    pixels.shape[0],
                    pixels.shape[1],
                    options.video_min_pixels,
                    options.video_max_pixels,
                    options.factor,
                )
                grid = patch_grid(len(indices) + repeats, *size, options.patch_size)
                _send(out, b"H", msgspec.json.encode({"grid": grid}))
            seconds = shown / reader.length.fps
            pending.append(pool.submit(_frame_rows, pixels, seconds, size, job))
            if len(pending) > THREADS:  # bounds the frames held in memory
                _send(out, b"R", pending.popleft().result())
        for rows in (future.result() for future in pending):
            _send(out, b"R", rows)
    for _ in range(repeats):
        _send(out, b"R", rows)


def _frame_rows(
    pixels: NDArray[np.uint8], seconds: float, size: tuple[int, int], job: VideoJob
) -> bytes:
    """Stamp, resize and cut one frame. Pillow leaves other threads running meanwhile."""
    frame = Image.fromarray(np.ascontiguousarray(pixels))
    stamp(frame, seconds, job.font)
    resized = frame.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return patch_rows(
        np.asarray(resized)[np.newaxis], job.options.patch_size, job.options.spatial_conv_size
    ).tobytes()


class FrameSource(Protocol):
    length: VideoLength

    def read(self, index: int) -> NDArray[np.uint8] | None: ...


def read_or_substitute(reader: FrameSource, index: int) -> tuple[int, NDArray[np.uint8]]:
    """Frame `index`, or the nearest one that can be read: one before, one after, two before, ...

    Returns the index that was read and its pixels. Raises MediaError when there is none nearby.
    """
    pixels = reader.read(index)
    if pixels is not None:
        return index, pixels
    last = reader.length.num_frames - 1
    tolerance = NEIGHBOURS * 2 if index in (0, last) else NEIGHBOURS
    for distance in range(1, tolerance + 1):
        for neighbour in (index - distance, index + distance):
            if 0 <= neighbour <= last:
                pixels = reader.read(neighbour)
                if pixels is not None:
                    return neighbour, pixels
    raise MediaError(
        f"frame {index} of the video cannot be decoded, nor any of the {tolerance} around it"
    )


def _send(out: BinaryIO, kind: bytes, payload: bytes) -> None:
    out.write(struct.pack("<cI", kind, len(payload)))
    out.write(payload)


if __name__ == "__main__":
    main()
