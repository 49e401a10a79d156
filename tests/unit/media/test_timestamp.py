"""The time written into frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from backend.media.timestamp import find_font, stamp, timestamp_text

CHECKPOINT = Path(__file__).resolve().parents[3] / "checkpoints" / "ernie-4.5-vl-tiny"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "time: 00:00:00.00"),
        (7.5, "time: 00:00:07.50"),
        (59.999, "time: 00:00:60.00"),
        (61.25, "time: 00:01:01.25"),
        (3661.005, "time: 01:01:01.01"),
    ],
)
def test_the_text_is_hours_minutes_seconds(seconds, text):
    assert timestamp_text(seconds) == text


def test_black_letters_on_white_outlines_in_the_upper_left_corner():
    frame = Image.new("RGB", (320, 200), (90, 120, 30))
    before = np.asarray(frame).copy()
    stamp(frame, 1.5, font="")
    after = np.asarray(frame)
    changed = np.argwhere((before != after).any(axis=2))
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert top < 8 and left < 4 and bottom < 30 and right < 220
    assert (after == 0).all(axis=2).any() and (after == 255).all(axis=2).any()


@pytest.mark.parametrize("size", [(1, 1), (9, 400), (28, 28)])
def test_frames_too_small_for_letters_are_left_in_peace(size):
    stamp(Image.new("RGB", size), 3.0, font="")


def test_digits_stand_in_the_same_place_with_and_without_the_systems_text_library():
    font = CHECKPOINT / "Roboto-Regular.ttf"

    def drawn(engine):
        frame = Image.new("RGB", (224, 224), (90, 120, 30))
        ImageDraw.Draw(frame).text(
            (0, 0),
            "time: 00:00:14.67",
            font=ImageFont.truetype(font, 22, layout_engine=engine),
            fill=(0, 0, 0),
            stroke_width=2,
            stroke_fill=(255, 255, 255),
        )
        return np.asarray(frame)

    frame = Image.new("RGB", (224, 224), (90, 120, 30))
    stamp(frame, 14.67, str(font))
    assert np.array_equal(np.asarray(frame), drawn(ImageFont.Layout.BASIC))
    if features.check("raqm"):
        assert not np.array_equal(np.asarray(frame), drawn(ImageFont.Layout.RAQM))


def test_the_font_is_looked_for_in_the_checkpoint_and_in_the_font_folders(tmp_path):
    assert find_font(tmp_path, [tmp_path / "fonts", tmp_path / "none"]) == ""
    (tmp_path / "fonts" / "roboto").mkdir(parents=True)
    system = tmp_path / "fonts" / "roboto" / "Roboto-Regular.ttf"
    system.touch()
    assert find_font(tmp_path, [tmp_path / "fonts"]) == str(system)
    (tmp_path / "Roboto-Regular.ttf").touch()
    assert find_font(tmp_path, [tmp_path / "fonts"]) == str(tmp_path / "Roboto-Regular.ttf")
