"""Pictures: formats, modes, orientation, and hostile files."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from backend.errors import MediaError
from backend.media.image import decode_image, image_item
from backend.media.options import ProcessorOptions
from backend.media.patches import patch_rows

CAP = 50_000_000
LEAKS = re.compile(r"0x[0-9a-f]|/|object at|Error")


def _noise(height, width, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _png(width, height, body=b""):
    """A PNG whose header claims any size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_a_picture_on_the_grid_passes_through_unchanged(make_image):
    pixels = _noise(112, 168)
    item = image_item(make_image(pixels), ProcessorOptions(), CAP)
    assert item.kind == "image" and item.grid == (1, 8, 12) and item.num_tokens == 24
    np.testing.assert_array_equal(item.patches, patch_rows(pixels[np.newaxis]))
    assert not item.patches.flags.writeable


def test_other_sizes_are_resized_with_pillows_bicubic(make_image):
    pixels = _noise(100, 130)
    item = image_item(make_image(pixels), ProcessorOptions(), CAP)
    expected = Image.fromarray(pixels).resize((140, 112), Image.Resampling.BICUBIC)
    assert item.grid == (1, 8, 10)
    np.testing.assert_array_equal(item.patches, patch_rows(np.asarray(expected)[np.newaxis]))


def test_the_digest_names_content_and_kind(make_image):
    one = image_item(make_image(_noise(56, 56)), ProcessorOptions(), CAP)
    same = image_item(make_image(_noise(56, 56), compress_level=1), ProcessorOptions(), CAP)
    other = image_item(make_image(_noise(56, 56, seed=1)), ProcessorOptions(), CAP)
    assert one.digest == same.digest != other.digest
    assert re.fullmatch("[0-9a-f]{64}", one.digest)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_the_six_formats_are_read(make_image, format):
    grey = np.full((40, 60, 3), 128, dtype=np.uint8)
    decoded = np.asarray(decode_image(make_image(grey, format=format), CAP)).astype(int)
    assert decoded.shape == (40, 60, 3)
    assert abs(decoded - 128).max() <= 3


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "EPS", "PDF", "JPEG2000", "PCX"])
def test_other_formats_are_not(make_image, format):
    with pytest.raises(MediaError, match="not a picture that can be read; known formats: PNG"):
        decode_image(make_image(np.full((40, 60, 3), 128, np.uint8), format=format), CAP)


def test_transparency_is_laid_on_white(make_image):
    pixels = np.zeros((30, 40, 4), dtype=np.uint8)
    pixels[:, 20:, 3] = 255
    pixels[:10, :, 3] = 128
    decoded = np.asarray(decode_image(make_image(pixels), CAP))
    assert decoded[20, 5].tolist() == [255] * 3
    assert decoded[20, 30].tolist() == [0] * 3
    assert abs(int(decoded[5, 5, 0]) - 127) <= 1


def test_a_transparent_palette_and_grey_with_alpha(make_image):
    palette = Image.new("P", (30, 30), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(0, (0, 0, 10, 30))
    decoded = np.asarray(decode_image(make_image(palette, transparency=0), CAP))
    assert decoded[5, 5].tolist() == [255] * 3 and decoded[5, 20].tolist() == [200, 100, 50]
    decoded = np.asarray(decode_image(make_image(Image.new("LA", (30, 30), (9, 0))), CAP))
    assert (decoded == 255).all()


def test_16_bit_grey_keeps_its_high_byte(make_image):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for format in ("PNG", "TIFF"):
        decoded = np.asarray(decode_image(make_image(ramp, format=format), CAP))
        np.testing.assert_array_equal(decoded[..., 0], (ramp >> 8).astype(np.uint8))


def test_32_bit_and_float_grey_are_clipped(make_image):
    wide = np.array([[-5, 0, 256, 65535, 10**6] * 6] * 30, dtype=np.int32)
    decoded = np.asarray(decode_image(make_image(wide, format="TIFF"), CAP))
    assert decoded[0, :5, 0].tolist() == [0, 0, 1, 255, 255]
    floats = np.array([[-1, 0, 99.9, 300, np.nan] * 6] * 30, dtype=np.float32)
    decoded = np.asarray(decode_image(make_image(floats, format="TIFF"), CAP))
    assert decoded[0, :5, 0].tolist() == [0, 0, 99, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(make_image, mode):
    image = Image.new("RGB", (40, 30), (255, 255, 255)).convert(mode)
    format = "PNG" if mode in ("1", "L") else "JPEG"
    decoded = np.asarray(decode_image(make_image(image, format=format), CAP))
    assert decoded.shape == (30, 40, 3) and decoded.min() >= 250


def test_exif_orientation_turns_the_picture_and_its_grid(make_image):
    pixels = _noise(112, 168)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = make_image(pixels, exif=exif.tobytes())
    item = image_item(data, ProcessorOptions(), CAP)
    assert item.grid == (1, 12, 8)
    np.testing.assert_array_equal(item.patches, patch_rows(np.rot90(pixels, -1)[np.newaxis]))


def test_broken_exif_does_not_spoil_good_pixels(make_image):
    data = make_image(_noise(56, 56), exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    assert image_item(data, ProcessorOptions(), CAP).grid == (1, 4, 4)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(out.getvalue(), CAP))[0, 0].tolist() == [255, 0, 0]


def test_too_many_pixels_are_refused_from_the_header_alone():
    with pytest.raises(MediaError, match="60000×60000 is 3600000000 pixels; at most 50000000 are"):
        decode_image(_png(60000, 60000), CAP)


def test_the_budget_is_asked_before_anything_is_decoded():
    class Refused(Exception):
        pass

    asked = []

    def reserve(size_bytes):
        asked.append(size_bytes)
        raise Refused

    with pytest.raises(Refused):
        image_item(_png(1000, 1000, b"not a zlib stream"), ProcessorOptions(), CAP, reserve)
    assert asked == [1008 * 1008 * 3]


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1), (3, 4000)])
def test_dots_and_slivers_have_a_grid(make_image, size):
    item = image_item(make_image(np.zeros((*size, 3), np.uint8)), ProcessorOptions(), CAP)
    assert item.patches.shape == (item.grid[1] * item.grid[2], 588)


def _broken_files():
    good = {}
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(_noise(48, 64)).save(out, format=format)
        good[format] = out.getvalue()
    for format, data in good.items():
        for cut in (0, 1, 12, len(data) // 3, len(data) - 30):
            yield f"{format} cut at {cut}", data[:cut]
        for seed in range(6):
            rng = np.random.default_rng(seed)
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 200), 8):
                damaged[place] ^= int(rng.integers(1, 256))
            yield f"{format} damaged {seed}", bytes(damaged)
    yield "zero by zero", _png(0, 0)
    yield "text", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "not a zlib stream", _png(100, 100, b"garbage")


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in _broken_files()])
def test_broken_files_are_decoded_or_refused_in_our_own_words(data):
    try:
        image_item(data, ProcessorOptions(), 1_000_000)
    except MediaError as error:
        assert not LEAKS.search(error.message), error.message
