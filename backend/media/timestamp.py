"""The time that is written into every video frame, as the model saw it in training."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

FONT_NAME: Final = "Roboto-Regular.ttf"
FONT_FOLDERS: Final = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts"),
    Path("~/.fonts"),
)
SIZE_RATIO: Final = 0.1
STROKE_RATIO: Final = 0.1


def find_font(model: Path, folders: Iterable[Path] = FONT_FOLDERS) -> str:
    """Path of Roboto-Regular: in the checkpoint folder or where systems keep fonts; else ""."""
    if (model / FONT_NAME).is_file():
        return str(model / FONT_NAME)
    for folder in folders:
        try:
            found = sorted(folder.expanduser().rglob(FONT_NAME))
        except (OSError, RuntimeError):  # unreadable folder; no home directory
            continue
        if found:
            return str(found[0])
    return ""


def timestamp_text(seconds: float) -> str:
    """Seconds → `time: HH:MM:SS.ss`. As in training, 59.999 reads 60.00."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"time: {int(hours):02d}:{int(minutes):02d}:{rest:05.2f}"


def stamp(frame: Image.Image, seconds: float, font: str) -> None:
    """Write the time into the frame's upper left corner, black on a white outline, in place.

    `font` is a file; "" takes Pillow's own.
    """
    size = max(1, int(min(frame.size) * SIZE_RATIO))
    ImageDraw.Draw(frame).text(
        (0, 0),
        timestamp_text(seconds),
        font=_font(font, size),
        fill=(0, 0, 0),
        stroke_width=int(size * STROKE_RATIO),
        stroke_fill=(255, 255, 255),
    )


@functools.lru_cache(maxsize=16)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not path:
        return ImageFont.load_default(size)
    # The other layout engine needs a system library (FriBidi) and puts digits elsewhere.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
