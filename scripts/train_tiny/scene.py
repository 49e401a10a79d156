"""What a picture shows: objects in the cells of a 3 × 3 grid, on a background."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from .lexicon import COLOUR_RGB, COLOURS, PLACES, SHAPES, at_place

Random = np.random.Generator
_RESERVED_SEED = 41


@dataclass(frozen=True, slots=True)
class Item:
    """One object: indices into COLOURS, SHAPES and PLACES."""

    colour: int
    shape: int
    place: int

    def label(self, language: str) -> str:
        colour, shape = COLOURS[self.colour].name(language), SHAPES[self.shape].name(language)
        return f"{colour} {shape}" if language == "en" else f"{colour}的{shape}"

    def at(self, language: str) -> str:
        return at_place(self.place, language)


@dataclass(frozen=True, slots=True)
class Scene:
    """Items in reading order (row-major places). `background` is the mean RGB colour."""

    items: tuple[Item, ...]

    def describe(self, language: str) -> str:
        """`a red circle at the top left, a blue square in the center`."""
        if language == "zh":
            return "，".join(f"{PLACES[item.place].zh}有{item.label('zh')}" for item in self.items)
        return ", ".join(f"{_article(item.label('en'))} {item.at('en')}" for item in self.items)


def _article(label: str) -> str:
    return f"an {label}" if label[0] in "aeiou" else f"a {label}"


def with_article(label: str) -> str:
    """`a red circle`, `an orange star`."""
    return _article(label)


def is_held_out(colour: int, shape: int, place: int) -> bool:
    """One in sixteen (colour, shape, place) triples is never shown in training."""
    return (colour, shape, place) in _reserved_triples()


@functools.cache
def _reserved_triples() -> frozenset[tuple[int, int, int]]:
    """Half, drawn at random, of the triples that a rule picks.

    All that the rule picks would teach the rule: that such triples never are. With half of them
    shown, what is reserved lies among what is known.
    """
    ruled = [
        (colour, shape, place)
        for colour, shape, place in itertools.product(
            range(len(COLOURS)), range(len(SHAPES)), range(len(PLACES))
        )
        if (colour * 5 + shape * 3 + place * 7 + colour * shape) % 8 == 3
    ]
    random = np.random.default_rng(_RESERVED_SEED)
    kept = random.permutation(len(ruled))[: len(ruled) // 2]
    return frozenset(ruled[int(index)] for index in kept)


def draw_items(random: Random, count: int, held_out: bool, distinct: str = "label") -> Scene:
    """`count` items in different places.

    `distinct` says what no two items share: "label" (colour and shape together), "shape",
    "colour", or "nothing". In training no item is a held-out triple; a held-out scene has at
    least one.
    """
    while True:
        places = random.permutation(len(PLACES))[:count]
        colours, shapes = _attributes(random, count, distinct)
        items = tuple(
            Item(int(c), int(s), int(p))
            for p, c, s in sorted(zip(places, colours, shapes, strict=True))
        )
        novel = sum(is_held_out(item.colour, item.shape, item.place) for item in items)
        if (novel > 0) == held_out or count == 0:
            return Scene(items)


def _attributes(random: Random, count: int, distinct: str) -> tuple[np.ndarray, np.ndarray]:
    colours = random.integers(0, len(COLOURS), count)
    shapes = random.integers(0, len(SHAPES), count)
    if distinct == "shape":
        shapes = random.permutation(len(SHAPES))[:count]
    elif distinct == "colour":
        colours = random.permutation(len(COLOURS))[:count]
    elif distinct == "label":
        labels = random.permutation(len(COLOURS) * len(SHAPES))[:count]
        colours, shapes = labels // len(SHAPES), labels % len(SHAPES)
    return colours, shapes


def background_colour(random: Random, used: set[int], light: bool = False) -> np.ndarray:
    """A mean RGB colour that stands out from every object colour in `used`.

    `light`: mostly a light one, on which a time stamp is easy to read.
    """
    while True:
        kind = random.random()
        if light and random.random() < 0.75:
            kind = 0.2 if kind < 0.5 else 0.8
        if kind < 0.35:
            colour = np.full(3, random.uniform(190, 255))
        elif kind < 0.5:
            colour = np.full(3, random.uniform(0, 60))
        elif kind < 0.65:
            colour = np.full(3, random.uniform(90, 170))
        elif kind < 0.9:
            colour = 255 - random.uniform(0, 80, 3)
        else:
            colour = random.uniform(20, 90, 3)
        if all(np.abs(colour - COLOUR_RGB[index]).sum() > 150 for index in used):
            return colour.astype(np.float32)


def item_rgb(random: Random, colour: int) -> tuple[int, int, int]:
    """The colour's pixel value with a little variation."""
    value = COLOUR_RGB[colour] + random.uniform(-16, 16, 3)
    red, green, blue = np.clip(value, 0, 255).astype(int)
    return int(red), int(green), int(blue)
