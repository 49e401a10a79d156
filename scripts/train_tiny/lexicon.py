"""Names of colours, shapes, places and directions in English and Chinese, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Term:
    """One thing with its names. `plural` is English; Chinese has no plural."""

    en: str
    zh: str
    plural: str = ""

    def name(self, language: str) -> str:
        return self.en if language == "en" else self.zh

    def many(self, language: str) -> str:
        return (self.plural or self.en) if language == "en" else self.zh


COLOURS = (
    Term("red", "红色"),
    Term("green", "绿色"),
    Term("blue", "蓝色"),
    Term("yellow", "黄色"),
    Term("orange", "橙色"),
    Term("purple", "紫色"),
    Term("black", "黑色"),
    Term("white", "白色"),
)
COLOUR_RGB = np.array(
    [
        (218, 38, 38),
        (36, 156, 62),
        (38, 78, 218),
        (242, 222, 48),
        (244, 140, 28),
        (138, 48, 168),
        (20, 20, 20),
        (246, 246, 246),
    ],
    np.float32,
)
COLOUR_JITTER = 16

SHAPES = (
    Term("circle", "圆形", "circles"),
    Term("square", "正方形", "squares"),
    Term("triangle", "三角形", "triangles"),
    Term("star", "星形", "stars"),
    Term("diamond", "菱形", "diamonds"),
    Term("cross", "十字形", "crosses"),
)

# Row-major cells of a 3 × 3 grid over the picture.
PLACES = (
    Term("top left", "左上角"),
    Term("top", "上方"),
    Term("top right", "右上角"),
    Term("left", "左边"),
    Term("center", "中间"),
    Term("right", "右边"),
    Term("bottom left", "左下角"),
    Term("bottom", "下方"),
    Term("bottom right", "右下角"),
)

DIRECTIONS = (
    Term("to the right", "向右"),
    Term("to the left", "向左"),
    Term("down", "向下"),
    Term("up", "向上"),
)
DIRECTION_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))

NUMBER_WORDS = {
    "en": ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": ("没有", "一个", "两个", "三个", "四个", "五个", "六个", "七个", "八个", "九个"),
}


def at_place(place: int, language: str) -> str:
    """`at the top left`, `in the center`; Chinese places need no preposition here."""
    name = PLACES[place].name(language)
    if language == "zh":
        return f"在{name}"
    return f"in the {name}" if place == 4 else f"at the {name}"


def counted(number: int, term: Term, language: str) -> str:
    """`three circles`, `no circles`, `one circle`; in Chinese with its measure word."""
    word = NUMBER_WORDS[language][number]
    if language == "zh":
        return f"{word}{term.zh}"
    return f"{word} {term.en if number == 1 else term.many('en')}"
