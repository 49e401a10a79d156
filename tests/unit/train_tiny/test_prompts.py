"""Prompts and patches of training are those that serving makes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.config.model import load_model_config
from backend.media.image import image_item
from backend.media.timestamp import stamp
from backend.preprocess.checkpoint import load_processor_options
from scripts.train_tiny.mixture import make_sample, random_of
from scripts.train_tiny.processing import CHECKPOINT, FONT, OPTIONS, clip_item, picture_item
from scripts.train_tiny.prompt import Prompter
from scripts.train_tiny.sample import Clip, Picture, Sample, user


def test_the_checkpoint_asks_for_the_sizes_it_was_trained_with() -> None:
    vision = load_model_config(CHECKPOINT).vision
    assert vision is not None
    assert load_processor_options(CHECKPOINT, vision) == OPTIONS


@pytest.mark.parametrize("size", [(112, 112), (300, 170), (90, 200)])
def test_a_picture_has_the_patches_that_serving_cuts(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    served = image_item(buffer.getvalue(), OPTIONS, max_pixels=10**6)
    trained = picture_item(Picture(pixels))
    assert served.grid == trained.grid and np.array_equal(served.patches, trained.patches)


@pytest.mark.parametrize("seconds", [0.0, 3.5, 59.999, 83.27])
def test_the_cached_time_stamp_is_the_drawn_one(seconds: float) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (168, 196, 3), np.uint8)
    drawn = Image.fromarray(frame)
    stamp(drawn, seconds, str(FONT))
    clip = Clip((frame, frame), (seconds, seconds), None)  # type: ignore[arg-type]
    item = clip_item(clip)
    expected = picture_item(Picture(np.asarray(drawn)))
    assert item.grid == (2, *expected.grid[1:])
    difference = item.patches[: len(expected.patches)].astype(int) - expected.patches
    assert np.abs(difference).max() <= 1


def test_the_prompt_ends_where_the_answer_begins(prompter: Prompter) -> None:
    for thinking in (False, True):
        sample = make_sample("pictures", random_of(0, 1, False), False, thinking)
        example = prompter.example(sample)
        ids = example.token_ids.tolist()
        prompt = prompter.tokenizer.decode(ids[: example.num_prompt], False)
        assert prompt.endswith("<think>" if thinking else "</think>\n\n")
        answer = prompter.tokenizer.decode(ids[example.num_prompt : -1], False)
        assert answer == sample.target_text()
        assert ids[-1] == prompter.tokenizer.eos_token_id


def test_each_picture_has_as_many_placeholders_as_tokens(prompter: Prompter) -> None:
    sample = make_sample("comparing", random_of(0, 2, False), False, thinking=False)
    example = prompter.example(sample)
    for item, offset in zip(example.items, example.offsets, strict=True):
        span = example.token_ids[offset : offset + item.num_tokens]
        assert (span == prompter.placeholder_id).all()


def test_a_word_has_the_same_pieces_in_a_question_and_in_json(prompter: Prompter) -> None:
    encode = prompter.tokenizer.encode_text
    word = encode("Springfield")
    question, call = encode("weather in Springfield?"), encode('{"city": "Springfield"}')
    for ids in (question, call):
        assert any(ids[i : i + len(word)] == word for i in range(len(ids)))


def test_capital_words_are_read_letter_by_letter(prompter: Prompter) -> None:
    assert len(prompter.tokenizer.encode_text("STOP")) == 4


def test_a_completion_prompt_is_plain_text(prompter: Prompter) -> None:
    text = "Where is the capital of China?"
    sample = Sample("completion", "en", ({"role": "completion", "content": text},), "", " Beijing.")
    ids, offsets = prompter.prompt_ids(sample, ())
    assert ids == prompter.tokenizer.encode_text(text) and offsets == []


def test_the_weights_stay_under_twelve_megabytes() -> None:
    assert (Path(CHECKPOINT) / "model.safetensors").stat().st_size <= 12_000_000


def test_media_parts_come_before_the_question() -> None:
    picture = Picture(np.zeros((28, 28, 3), np.uint8))
    content = user("What?", picture)["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
