"""Paints scenes and printed text with Pillow, in many sizes, backgrounds and file formats."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lexicon import SHAPES
from .processing import FONT
from .sample import Picture
from .scene import Item, Random, Scene, background_colour, item_rgb

Color = tuple[int, int, int]
_SHAPE_NAMES = tuple(shape.en for shape in SHAPES)
_MIN_SIDE, _MAX_SIDE = 56, 640
# Printed text has Pillow's own font ("") or Roboto: both are on every machine, so that a seed draws
# the same picture everywhere.
FACES = ("", str(FONT))


def picture_size(random: Random) -> tuple[int, int]:
    """(width, height) in pixels: mostly near what the model sees, some larger, some smaller."""
    kind = random.random()
    if kind < 0.70:
        area = random.uniform(112 * 112, 224 * 224)
    elif kind < 0.88:
        area = random.uniform(224 * 224, 480 * 480)
    else:
        area = random.uniform(72 * 72, 112 * 112)
    ratio = math.exp(random.uniform(-0.8, 0.8)) if random.random() < 0.7 else 1.0
    if kind < 0.25:  # exactly on the model's grid: no resampling
        width = 28 * max(3, round(math.sqrt(area * ratio) / 28))
        return width, 28 * max(3, round(area / width / 28))
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return (
        int(np.clip(width, _MIN_SIDE, _MAX_SIDE)),
        int(np.clip(height, _MIN_SIDE, _MAX_SIDE)),
    )


def paint_background(random: Random, size: tuple[int, int], mean: np.ndarray) -> Image.Image:
    """Plain, gradient, noise, or stripes around the colour `mean` (RGB 0..255)."""
    width, height = size
    kind = random.random()
    if kind < 0.5:
        return Image.new("RGB", size, tuple(int(value) for value in mean))
    if kind < 0.7:
        ramp = np.linspace(-1, 1, height if kind < 0.6 else width, dtype=np.float32)
        ramp = ramp[:, None, None] if kind < 0.6 else ramp[None, :, None]
        pixels = np.broadcast_to(mean + ramp * random.uniform(-30, 30, 3), (height, width, 3))
    elif kind < 0.88:
        small = random.normal(0, random.uniform(3, 14), (height // 2 + 1, width // 2 + 1, 1))
        noise = small.astype(np.float32).repeat(2, 0).repeat(2, 1)[:height, :width]
        pixels = mean + noise
    else:
        period = random.integers(6, 30)
        stripes = (np.arange(width) // period % 2 * 2 - 1).astype(np.float32) * 10
        pixels = np.broadcast_to(mean + stripes[None, :, None], (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def paint_shape(
    draw: ImageDraw.ImageDraw, shape: int, x: float, y: float, radius: float, color: Color
) -> None:
    """One filled shape centred at (x, y); every shape fits in the circle or square of `radius`."""
    name = _SHAPE_NAMES[shape]
    if name == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif name == "square":
        side = radius * 0.88
        draw.rectangle((x - side, y - side, x + side, y + side), fill=color)
    elif name == "cross":
        arm = radius * 0.33
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=color)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=color)
    else:
        points = [(x + radius * dx, y + radius * dy) for dx, dy in _POLYGONS[name]]
        draw.polygon(points, fill=color)


def _star() -> tuple[tuple[float, float], ...]:
    angles = [math.pi * (step / 5 - 0.5) for step in range(10)]
    radii = [1.05 if step % 2 == 0 else 0.45 for step in range(10)]
    return tuple(
        (radius * math.cos(angle), radius * math.sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    )


_POLYGONS = {
    "triangle": ((0.0, -0.95), (0.98, 0.85), (-0.98, 0.85)),
    "diamond": ((0.0, -1.05), (0.75, 0.0), (0.0, 1.05), (-0.75, 0.0)),
    "star": _star(),
}


def place_item(
    random: Random, item: Item, size: tuple[int, int], alone: bool
) -> tuple[float, float, float]:
    """(x, y, radius) in pixels inside the item's cell; an item alone may be larger than its cell."""
    width, height = size
    cell_width, cell_height = width / 3, height / 3
    cell = min(cell_width, cell_height) / 2
    radius = cell * random.uniform(0.58, 0.94)
    row, column = divmod(item.place, 3)
    x = (column + 0.5) * cell_width
    y = (row + 0.5) * cell_height
    if alone and item.place == 4 and random.random() < 0.7:
        return x, y, cell * random.uniform(0.9, 2.6)
    x += random.uniform(-0.8, 0.8) * max(0.0, cell_width / 2 - radius)
    y += random.uniform(-0.8, 0.8) * max(0.0, cell_height / 2 - radius)
    return x, y, radius


def paint_scene(random: Random, scene: Scene, size: tuple[int, int] | None = None) -> Picture:
    """A finished picture of `scene`."""
    size = size or picture_size(random)
    mean = background_colour(random, {item.colour for item in scene.items})
    image = paint_background(random, size, mean)
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        x, y, radius = place_item(random, item, size, alone=len(scene.items) == 1)
        paint_shape(draw, item.shape, x, y, radius, item_rgb(random, item.colour))
    return finish(random, image)


def finish(random: Random, image: Image.Image) -> Picture:
    """As a file would be decoded: two in five pictures go through JPEG."""
    if random.random() < 0.4:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(random.integers(65, 96)))
        encoded = buffer.getvalue()
        return Picture(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), encoded)
    return Picture(np.asarray(image), None)


@functools.cache
def _font(size: int, face: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    path = FACES[face]
    if not path:
        return ImageFont.load_default(size)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def paint_text(random: Random, text: str, size: tuple[int, int] | None = None) -> Picture:
    """`text` printed once, large enough to stay legible at the model's resolution."""
    size = size or picture_size(random)
    width, height = size
    face = int(random.integers(len(FACES)))
    # What the model sees has at most 224 × 224 pixels; capitals should keep 20 rows of them, so
    # that hardly more than two letters share the 28 × 28 pixels of one token.
    shrink = max(1.0, math.sqrt(width * height) / 224)
    probe = _font(40, face).getbbox(text)
    text_width, text_height = (probe[2] - probe[0]) / 40, (probe[3] - probe[1]) / 40
    largest = min(width * 0.94 / text_width, height * 0.9 / max(text_height, 0.5))
    smallest = min(largest, 28 * shrink)
    points = max(8, int(random.uniform(smallest, min(largest, smallest * 3.2))))
    left, top, right, bottom = _font(points, face).getbbox(text)
    paper, ink = _paper_and_ink(random)
    image = paint_background(random, size, paper)
    x = random.uniform(0, max(0.0, width - (right - left))) - left
    y = random.uniform(0, max(0.0, height - (bottom - top))) - top
    color = (int(ink[0]), int(ink[1]), int(ink[2]))
    ImageDraw.Draw(image).text((x, y), text, fill=color, font=_font(points, face))
    return finish(random, image)


def _paper_and_ink(random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colours, dark on light or light on dark, at times pure black and white."""
    light = random.uniform(180, 255, 3)
    dark = random.uniform(0, 85, 3)
    if random.random() < 0.2:
        light, dark = np.full(3, 255.0), np.zeros(3)
    paper, ink = (light, dark) if random.random() < 0.65 else (dark, light)
    return paper.astype(np.float32), ink
