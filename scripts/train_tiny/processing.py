"""Pictures and clips → patches, through the functions that serving uses."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from backend.media.item import MediaItem, make_item
from backend.media.options import ProcessorOptions
from backend.media.patches import patch_grid, patch_rows
from backend.media.resize import smart_resize
from backend.media.timestamp import SIZE_RATIO, stamp

from .sample import Clip, Picture

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "ernie-4.5-vl-tiny"
FONT = CHECKPOINT / "Roboto-Regular.ttf"

# 16 to 64 tokens a picture or for each two frames of a film, of which there are at most 8. So much
# leaves the time stamp of a film as wide as 16:9 about 17 pixels high.
OPTIONS = ProcessorOptions(
    image_min_pixels=112 * 112,
    image_max_pixels=224 * 224,
    video_min_pixels=112 * 112,
    video_max_pixels=224 * 224,
    video_min_frames=4,
    video_max_frames=8,
    video_fps=2.0,
)


def media_item(media: Picture | Clip) -> MediaItem:
    """The patches of a decoded picture, or of a clip after stamping its frames with their time."""
    if isinstance(media, Picture):
        return picture_item(media)
    return clip_item(media)


def picture_item(picture: Picture) -> MediaItem:
    height, width = picture.pixels.shape[:2]
    size = smart_resize(height, width, OPTIONS.image_min_pixels, OPTIONS.image_max_pixels)
    frames = _resized(Image.fromarray(picture.pixels), size)[np.newaxis]
    return make_item("image", patch_grid(1, *size), patch_rows(frames))


def clip_item(clip: Clip) -> MediaItem:
    height, width = clip.frames[0].shape[:2]
    size = smart_resize(height, width, OPTIONS.video_min_pixels, OPTIONS.video_max_pixels)
    frames = np.stack(
        [
            _resized(Image.fromarray(_stamped(frame, seconds)), size)
            for frame, seconds in zip(clip.frames, clip.times_s, strict=True)
        ]
    )
    if len(frames) % 2:
        frames = np.concatenate([frames, frames[-1:]])
    return make_item("video", patch_grid(len(frames), *size), patch_rows(frames))


def _stamped(frame: np.ndarray, seconds: float) -> np.ndarray:
    """The frame with its time as `backend.media.timestamp.stamp` writes it, from a cache.

    Drawing text blends each pixel: new = keep · old + add. The same text in the same font size
    always has the same `keep` and `add`, and one drawing costs more than the rest of a frame.
    """
    height, width = frame.shape[:2]
    keep, add = _blend(max(1, int(min(height, width) * SIZE_RATIO)), round(seconds, 6))
    rows, columns = min(height, keep.shape[0]), min(width, keep.shape[1])
    result = frame.copy()
    corner = result[:rows, :columns]
    corner[...] = corner * keep[:rows, :columns] + add[:rows, :columns]
    return result


@functools.lru_cache(maxsize=20_000)
def _blend(points: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """(keep, add + ½), float32 [rows, columns, 1], of the corner that the time covers."""
    # `stamp` writes black and white, so one drawing can cover two shades of ground at once.
    canvas = Image.new("RGB", (points * 20, points * 10), (0, 255, 0))
    stamp(canvas, seconds, str(FONT))
    on_black, on_white = (np.asarray(canvas)[:, :, i].astype(np.float32) for i in (0, 1))
    keep = (on_white - on_black) / 255
    rows, columns = np.argwhere(keep < 1).max(axis=0) + 1
    return keep[:rows, :columns, None].copy(), on_black[:rows, :columns, None] + 0.5


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 [h, w, 3] at `size` (height, width), bicubic."""
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))
