"""Short films of moving, appearing and vanishing objects, frame by frame."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from backend.media.sampling import VideoLength, select_frames

from .drawing import paint_background, paint_shape
from .lexicon import DIRECTION_STEPS
from .processing import OPTIONS
from .sample import Clip, Pixels
from .scene import Item, Random, background_colour, item_rgb

_NEVER = math.inf
# (width, height): some that are not resized at all, some that are.
_NATIVE_SIZES = ((196, 196), (224, 224), (168, 224), (252, 196), (224, 168), (196, 252))
_USUAL_SIZES = ((320, 240), (240, 320), (320, 180), (256, 256), (256, 192), (180, 240))


@dataclass(frozen=True, slots=True)
class Track:
    """An object from `start` to `end`, both (x, y) as fractions of the frame; radius likewise
    of the shorter side. It is seen from `appears_s` until before `vanishes_s`."""

    item: Item
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    rgb: tuple[int, int, int]
    appears_s: float = 0.0
    vanishes_s: float = _NEVER

    def position(self, progress: float) -> tuple[float, float]:
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + (x1 - x0) * progress, y0 + (y1 - y0) * progress


@dataclass(frozen=True)
class Film:
    """A whole film; any of its frames can be painted."""

    background: Image.Image
    tracks: tuple[Track, ...]
    length: VideoLength

    def paint(self, index: int) -> Image.Image:
        """Source frame `index`, without a time stamp."""
        frame = self.background.copy()
        draw = ImageDraw.Draw(frame)
        width, height = frame.size
        last = max(1, self.length.num_frames - 1)
        seconds = index / self.length.fps
        for track in self.tracks:
            if track.appears_s <= seconds < track.vanishes_s:
                x, y = track.position(index / last)
                radius = track.radius * min(width, height)
                paint_shape(draw, track.item.shape, x * width, y * height, radius, track.rgb)
        return frame

    def clip(self, random: Random) -> Clip:
        """What the frame sampler picks of it; half of the films lose detail as in compression."""
        picked = tuple(select_frames(self.length, OPTIONS.sampling))
        quality = int(random.integers(60, 95)) if random.random() < 0.5 else 0
        frames = tuple(_through_jpeg(self.paint(index), quality) for index in picked)
        times = tuple(index / self.length.fps for index in picked)
        return Clip(frames, times, self)


def _through_jpeg(frame: Image.Image, quality: int) -> Pixels:
    if not quality:
        return np.asarray(frame)
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def film_length(random: Random) -> VideoLength:
    """2 seconds to a minute and a half at common frame rates."""
    fps = float((5, 8, 10, 15, 24, 25, 30)[int(random.integers(7))])
    duration = math.exp(
        random.uniform(math.log(2.2), math.log(24 if random.random() < 0.85 else 90))
    )
    return VideoLength(max(4, round(duration * fps)), fps)


def film_background(random: Random, used: set[int]) -> Image.Image:
    """A backdrop of a size that shrinks to what the model sees, or is already that."""
    kind = random.random()
    if kind < 0.55:
        size = _NATIVE_SIZES[int(random.integers(len(_NATIVE_SIZES)))]
    elif kind < 0.92:
        size = _USUAL_SIZES[int(random.integers(len(_USUAL_SIZES)))]
    else:
        scale = random.uniform(1.2, 2.0)
        ratio = math.exp(random.uniform(-0.45, 0.45))
        size = int(160 * scale * ratio), int(160 * scale / ratio)
    return paint_background(random, size, background_colour(random, used, light=True))


def light_background(random: Random) -> Image.Image:
    """Plain and bright, of a size that is not resized: where a stamp is learnt most easily."""
    size = _NATIVE_SIZES[int(random.integers(len(_NATIVE_SIZES)))]
    shade = int(random.uniform(200, 255))
    return Image.new("RGB", size, (shade, shade, shade))


def cell_center(random: Random, place: int, spread: float = 0.04) -> tuple[float, float]:
    """A point near the middle of a place of the 3 × 3 grid, as fractions of the frame."""
    row, column = divmod(place, 3)
    return (
        (column + 0.5) / 3 + random.uniform(-spread, spread),
        (row + 0.5) / 3 + random.uniform(-spread, spread),
    )


def still(random: Random, item: Item, appears_s: float = 0.0, vanishes_s: float = _NEVER) -> Track:
    """An object that stays in its place."""
    spot = cell_center(random, item.place)
    radius = random.uniform(0.1, 0.15)
    return Track(item, spot, spot, radius, item_rgb(random, item.colour), appears_s, vanishes_s)


def moving(random: Random, item: Item, direction: int) -> tuple[Track, int]:
    """An object that crosses two thirds of the frame; also the place where it ends."""
    step_x, step_y = DIRECTION_STEPS[direction]
    row, column = divmod(item.place, 3)
    first_column = column if step_x == 0 else (0 if step_x > 0 else 2)
    first_row = row if step_y == 0 else (0 if step_y > 0 else 2)
    start_place = first_row * 3 + first_column
    end_place = (first_row + 2 * step_y) * 3 + first_column + 2 * step_x
    start, end = cell_center(random, start_place), cell_center(random, end_place)
    if step_x:
        end = (end[0], start[1])
    else:
        end = (start[0], end[1])
    track = Track(item, start, end, random.uniform(0.1, 0.15), item_rgb(random, item.colour))
    return track, end_place
