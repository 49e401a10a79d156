"""The size a picture is resized to before it is cut into patches (models.md §5.1)."""

from __future__ import annotations

import math

from backend.errors import MediaError

MAX_ASPECT_RATIO = 200


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = 28
) -> tuple[int, int]:
    """(height, width), both multiples of `factor`, with min_pixels ≤ height·width ≤ max_pixels.

    The aspect ratio is kept as far as the grid allows. Pictures thinner than 1:200 are treated as
    1:200 first. Halves round to even, as Python's `round` does.

    Raises MediaError when no size on the grid meets the limits.
    """
    given = f"{width}×{height}"
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        height, width = _limit_aspect_ratio(height, width, factor)
    resized_height = max(factor, round(height / factor) * factor)
    resized_width = max(factor, round(width / factor) * factor)
    if resized_height * resized_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        resized_height = math.floor(height / shrink / factor) * factor
        resized_width = math.floor(width / shrink / factor) * factor
    elif resized_height * resized_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        resized_height = math.ceil(height * grow / factor) * factor
        resized_width = math.ceil(width * grow / factor) * factor
    if not min_pixels <= resized_height * resized_width <= max_pixels or resized_height <= 0:
        raise MediaError(
            f"{given} pixels cannot be resized to between {min_pixels} and {max_pixels} pixels on "
            f"a grid of {factor}"
        )
    return resized_height, resized_width


def _limit_aspect_ratio(height: int, width: int, factor: int) -> tuple[int, int]:
    short = max(factor, round(min(height, width) / factor) * factor)
    long = math.floor(short * MAX_ASPECT_RATIO / factor) * factor
    return (short, long) if height < width else (long, short)
