"""Bytes of a video → MediaItem, decoded in a child process that can be killed.

One child per video (video_worker): whatever a hostile file does to FFmpeg happens there, under
limits of memory, processor time and wall-clock time, and is reported as `media_too_complex`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

import backend
from backend.errors import MediaError
from backend.media.item import MediaItem, make_item
from backend.media.options import ProcessorOptions
from backend.media.video_worker import VideoJob

WORKER: Final = "backend.media.video_worker"
MAX_TEXT_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class VideoLimits:
    """What one video may cost. `max_frames` counts frames shown, `max_pixels` those of a frame."""

    max_pixels: int = 50_000_000
    max_frames: int = 512
    memory_bytes: int = 4 * 2**30
    cpu_s: int = 60
    timeout_s: float = 60.0


def video_item(
    data: bytes,
    options: ProcessorOptions,
    limits: VideoLimits = VideoLimits(),
    font: str = "",
    reserve: Callable[[int], None] = lambda size_bytes: None,
) -> MediaItem:
    """Decode, sample, time-stamp, resize and cut a video.

    `font`: see timestamp.stamp. `reserve` is told the size of all patches in bytes before the
    first is kept; it may refuse by raising. The same bytes and options give the same item, also
    with `frames_sample` "rand".

    Raises MediaError: unknown container or codec, contradicting options, too large, damaged; code
    `media_too_complex` when the child met a limit or was killed.
    """
    job = VideoJob(
        options=options,
        max_pixels=limits.max_pixels,
        max_frames=limits.max_frames,
        memory_bytes=limits.memory_bytes,
        cpu_s=limits.cpu_s,
        parent_pid=os.getpid(),
        font=font,
        seed=int.from_bytes(hashlib.sha256(data).digest()[:4], "little"),
    )
    child = subprocess.Popen(  # noqa: S603 - a fixed command
        [os.path.join(sys.prefix, "bin", "python3"), "-m", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        close_fds=True,
    )
    # Killing the child ends every blocking read and write below.
    timer = threading.Timer(limits.timeout_s, child.kill)
    timer.daemon = True
    timer.start()
    try:
        return _converse(child, job, data, reserve)
    finally:
        timer.cancel()
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                _close(pipe)
        child.wait()


def _environment() -> dict[str, str]:
    """Nothing of the server's own (it may hold keys): where the code and the interpreter are."""
    return {
        "PYTHONPATH": str(Path(backend.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR") or ""),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def _converse(
    child: subprocess.Popen[bytes],
    job: VideoJob,
    data: bytes,
    reserve: Callable[[int], None],
) -> MediaItem:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(msgspec.json.encode(job) + b"\n")
        child.stdin.write(data)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it ended early; what it wrote, or did not, says why
    return receive_item(child.stdout, job.options, reserve)


def receive_item(
    pipe: IO[bytes], options: ProcessorOptions, reserve: Callable[[int], None]
) -> MediaItem:
    """What the child writes → an item. A child that was taken over may write anything at all.

    Raises MediaError: the child's own, or `media_too_complex` for an end too early and for bytes
    that break the protocol.
    """
    try:
        return _receive(pipe, options, reserve)
    except (msgspec.MsgspecError, struct.error, ValueError, KeyError):
        raise _killed() from None


def _receive(
    pipe: IO[bytes], options: ProcessorOptions, reserve: Callable[[int], None]
) -> MediaItem:
    grid: tuple[int, int, int] = (0, 0, 0)
    rows: NDArray[np.uint8] | None = None
    filled = 0
    while rows is None or filled < rows.nbytes:
        kind, size = struct.unpack("<cI", _read_exactly(pipe, 5))
        if kind == b"R" and rows is not None:
            target = rows.data.cast("B")[filled : filled + size]
            if len(target) != size or pipe.readinto(target) != size:  # type: ignore[attr-defined]
                raise _killed()
            filled += size
            continue
        text = _read_exactly(pipe, min(size, MAX_TEXT_BYTES))
        if kind == b"E":
            problem = msgspec.json.decode(text, type=dict[str, str])
            raise MediaError(problem["message"], code=problem["code"])
        grid = msgspec.json.decode(text, type=_Header).grid
        if min(grid) < 1:
            raise _killed()
        row_size = 3 * options.patch_size**2
        num_rows = grid[0] * grid[1] * grid[2]
        reserve(num_rows * row_size)
        rows = np.empty((num_rows, row_size), dtype=np.uint8)
    return make_item("video", grid, rows, options.spatial_conv_size, options.temporal_conv_size)


class _Header(msgspec.Struct):
    grid: tuple[int, int, int]


def _read_exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise _killed()
    return data


def _killed() -> MediaError:
    return MediaError(
        "decoding the video takes more time or memory than is allowed, or the file breaks the "
        "decoder",
        code="media_too_complex",
    )


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        pass  # unsent input of a killed child
