"""Bytes of a picture → one RGB frame → MediaItem.

The order is the defence: the format must be on the list, the size in the header must fit, and only
then are pixels decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from backend.errors import MediaError
from backend.media.item import MediaItem, make_item
from backend.media.options import ProcessorOptions
from backend.media.patches import patch_grid, patch_rows
from backend.media.resize import smart_resize

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own guard warns at 89 MP and refuses at 179 MP. `decode_image` has a stricter one, set
# by the operator, and applies it at the same point: after the header, before the pixels.
Image.MAX_IMAGE_PIXELS = None

_WHITE = (255, 255, 255, 255)


def image_item(
    data: bytes,
    options: ProcessorOptions,
    max_pixels: int,
    reserve: Callable[[int], None] = lambda size_bytes: None,
) -> MediaItem:
    """Decode, resize (bicubic) and cut a picture.

    `reserve` is told the size of the patches in bytes before anything is decoded; it may refuse by
    raising. Raises MediaError: unknown format, too many pixels, damaged file, no size on the grid.
    """
    image = _open(data, max_pixels)
    width, height = image.size
    size = _resized(height, width, options)
    reserve(size[0] * size[1] * 3)
    rgb = to_rgb(image)
    if rgb.size != (width, height):  # EXIF turned it by a quarter
        size = _resized(rgb.height, rgb.width, options)
    resized = rgb.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    frames = np.asarray(resized)[np.newaxis]
    return make_item(
        "image",
        patch_grid(1, *size, options.patch_size),
        patch_rows(frames, options.patch_size, options.spatial_conv_size),
        options.spatial_conv_size,
        options.temporal_conv_size,
    )


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """The picture as RGB, upright, on white. Raises MediaError as `image_item` does."""
    return to_rgb(_open(data, max_pixels))


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened picture: first frame, EXIF orientation applied, transparency on white,
    16-bit grey scaled down to 8 bits. Raises MediaError when the file is damaged."""
    try:
        image.load()
        upright = _upright(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            return _deep_grey(upright).convert("RGB")
        if upright.has_transparency_data:
            layer = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert(
                "RGB"
            )
        return upright.convert("RGB")
    except MemoryError:
        raise MediaError(
            "the picture needs more memory than there is", code="media_too_complex"
        ) from None
    except Exception:  # Pillow's plugins raise anything at all on a damaged file
        raise MediaError("the picture is damaged or incomplete and cannot be decoded") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Exception:  # as in to_rgb
        raise MediaError(
            f"not a picture that can be read; known formats: {', '.join(IMAGE_FORMATS)}"
        ) from None
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise MediaError(
            f"{image.width}×{image.height} is {pixels} pixels; at most {max_pixels} are allowed",
            code="media_too_large",
        )
    if not pixels:
        raise MediaError("the picture has no pixels")
    return image


def _resized(height: int, width: int, options: ProcessorOptions) -> tuple[int, int]:
    return smart_resize(
        height, width, options.image_min_pixels, options.image_max_pixels, options.factor
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data: the pixels are still good
        return image


def _deep_grey(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits: integers keep their high byte, floats are taken as 0..255."""
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8))
    return Image.fromarray((np.clip(values, 0, 65535).astype(np.uint32) >> 8).astype(np.uint8))
