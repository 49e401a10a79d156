"""Pictures and videos made on the spot."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
from PIL import Image


def encode_image(array_or_image, format="PNG", **options) -> bytes:
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def encode_video(
    num_frames=20,
    size=(64, 96),
    fps=10,
    container="mp4",
    codec="libx264",
    pixel_format="yuv420p",
    gop=250,
    shade: Callable[[int], int] = lambda index: 40 + 8 * (index % 20),
    options=None,
) -> bytes:
    """Frame i is one grey: shade(i)."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.gop_size = gop
        for index in range(num_frames):
            pixels = np.full((*size, 3), shade(index), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


@pytest.fixture(scope="session")
def make_image():
    return encode_image


@pytest.fixture(scope="session")
def make_video():
    return encode_video
