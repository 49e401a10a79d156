"""Which frames of a video the model sees (models.md §5.2)."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from backend.errors import MediaError

FRAME_SAMPLES: Final = ("leading", "middle", "rand")


@dataclass(frozen=True)
class FrameSampling:
    """`fps` frames per second of video, or `target_frames` in all when that is positive.

    By rate, the count is held within [min_frames, max_frames]; non-positive bounds are off.
    `frames_sample`: where in its interval a frame is taken.
    """

    fps: float = 2.0
    min_frames: int = 16
    max_frames: int = 180
    target_frames: int = -1
    frames_sample: str = "leading"


@dataclass(frozen=True)
class VideoLength:
    """What a container says about its video: frames in all, and frames per second."""

    num_frames: int
    fps: float

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


def select_frames(video: VideoLength, sampling: FrameSampling, seed: int = 0) -> list[int]:
    """Indices of the frames to show, ascending, at least one.

    `seed` decides "rand" alone. Raises MediaError naming the options that contradict each other.
    """
    fps, target = _resolve(video, sampling)
    draw = random.Random(seed)
    if target > 0:
        return _by_count(video.num_frames, target, sampling.frames_sample, draw)
    return _by_rate(video, fps, sampling.frames_sample, draw)


def count_frames(video: VideoLength, sampling: FrameSampling) -> int:
    """An upper bound of len(select_frames(...)), without building the list.

    By rate that can be more than the video has: one slower than `fps` has its frames repeated.
    """
    fps, target = _resolve(video, sampling)
    if target > 0:
        return min(video.num_frames, target)
    return max(1, math.ceil(video.duration_s / (1 / fps)))  # as numpy counts _by_rate's times


def _resolve(video: VideoLength, sampling: FrameSampling) -> tuple[float, int]:
    """(fps, target): exactly one of them is positive."""
    fps, target = sampling.fps, sampling.target_frames
    low, high = sampling.min_frames, sampling.max_frames
    if low > high > 0:
        raise MediaError(f"min_frames {low} is greater than max_frames {high}")
    if target > 0:
        if fps >= 0:
            raise MediaError(
                f"fps {fps:g} and target_frames {target} are both given; fps must be negative "
                "when target_frames is used"
            )
        if (low > 0 and target < low) or (high > 0 and target > high):
            raise MediaError(
                f"target_frames {target} is not between min_frames {low} and max_frames {high}"
            )
        return fps, target
    if fps < 0:
        raise MediaError(f"fps is {fps:g}; without target_frames it must be positive")
    wanted = int(video.duration_s * fps)
    if low > 0 and wanted < low:
        return -1.0, low
    if high > 0 and wanted > high:
        return -1.0, high
    if fps == 0:
        raise MediaError("fps is 0; without target_frames it must be positive")
    return fps, -1


def _by_count(num_frames: int, target: int, sample: str, draw: random.Random) -> list[int]:
    edges = np.linspace(0, num_frames, min(target, num_frames) + 1).astype(int).tolist()
    pairs = list(itertools.pairwise(edges))
    if sample == "leading":
        return [start for start, _ in pairs]
    if sample == "middle":
        return [(start + end - 1) // 2 for start, end in pairs]
    return [draw.randrange(start, end) for start, end in pairs]


def _by_rate(video: VideoLength, fps: float, sample: str, draw: random.Random) -> list[int]:
    step = 1 / fps
    times = np.arange(0, video.duration_s, step)
    if sample == "middle":
        times = times + step / 2
    elif sample == "rand":
        times = times + np.array([draw.random() * step for _ in times])
    indices = np.around(times * video.fps).astype(int)
    kept: list[int] = indices[indices < video.num_frames].tolist()
    return kept or [video.num_frames - 1]
