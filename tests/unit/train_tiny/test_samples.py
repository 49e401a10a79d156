"""Samples are the same for the same seed, say what is true, and keep the split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scripts.train_tiny.mixture import (
    TASKS,
    held_out_sample,
    make_sample,
    random_of,
    training_sample,
)
from scripts.train_tiny.sample import Clip, Picture, Sample, ToolCall
from scripts.train_tiny.scene import Scene, draw_items, is_held_out
from scripts.train_tiny.tasks import pictures
from scripts.train_tiny.tasks.reading import number_text
from scripts.train_tiny.wordlist import WORDS, is_held_out_word, random_letters, word

# Two samples of each task are enough to draw; films cost the most.
_PER_TASK = 2


def _pixels(sample: Sample) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for media in sample.media:
        arrays += [media.pixels] if isinstance(media, Picture) else list(media.frames)
    return arrays


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_same_seed_makes_the_same_sample(task: str) -> None:
    for index in range(_PER_TASK):
        first = make_sample(task, random_of(1, index, False), False, thinking=True)
        again = make_sample(task, random_of(1, index, False), False, thinking=True)
        assert (first.messages, first.target_text()) == (again.messages, again.target_text())
        for mine, theirs in zip(_pixels(first), _pixels(again), strict=True):
            assert np.array_equal(mine, theirs)


def test_training_and_held_out_seeds_draw_different_numbers() -> None:
    training = {random_of(0, index, False).integers(2**60) for index in range(200)}
    held_out = {random_of(0, index, True).integers(2**60) for index in range(200)}
    assert not training & held_out


def test_a_training_scene_never_shows_a_reserved_triple() -> None:
    for index in range(300):
        scene = draw_items(random_of(2, index, False), 1 + index % 6, held_out=False)
        assert not any(is_held_out(i.colour, i.shape, i.place) for i in scene.items)


def test_a_held_out_scene_shows_a_reserved_triple() -> None:
    for index in range(60):
        scene = draw_items(random_of(2, index, True), 1 + index % 6, held_out=True)
        assert any(is_held_out(i.colour, i.shape, i.place) for i in scene.items)


def test_every_colour_and_shape_is_reserved_somewhere_and_allowed_elsewhere() -> None:
    for colour in range(8):
        for shape in range(6):
            reserved = [is_held_out(colour, shape, place) for place in range(9)]
            assert any(reserved) and not all(reserved)


def test_reserved_words_and_numbers_are_never_printed_in_training() -> None:
    random = random_of(3, 0, False)
    assert all(not is_held_out_word(word(random, False)) for _ in range(200))
    assert all(not is_held_out_word(random_letters(random)) for _ in range(200))
    for _ in range(200):
        digits = number_text(random, False)
        assert len(digits) == 1 or sum(map(int, digits)) % 10 != 3
    assert any(map(is_held_out_word, WORDS))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_counting_answer_is_the_number_of_objects(language: str) -> None:
    from scripts.train_tiny.lexicon import NUMBER_WORDS

    for index in range(60):
        random = random_of(4, index, False)
        scene = draw_items(random, 1 + index % 6, False, "nothing")
        question, answer = pictures._count(random, language, scene)
        numbers = {len(scene.items)}
        numbers |= {sum(i.shape == s for i in scene.items) for s in range(6)}
        numbers |= {sum(i.colour == c for i in scene.items) for c in range(8)}
        assert any(NUMBER_WORDS[language][n] in answer for n in numbers), (question, answer)


def test_a_description_names_every_object_in_reading_order() -> None:
    scene: Scene = draw_items(random_of(5, 0, False), 4, False)
    text = scene.describe("en")
    places = [text.index(item.label("en")) for item in scene.items]
    assert places == sorted(places)


def test_a_called_tool_is_listed_with_all_its_arguments() -> None:
    for index in range(150):
        sample = make_sample("tools", random_of(6, index, False), False, thinking=False)
        if isinstance(sample.answer, ToolCall):
            tools = {tool["function"]["name"]: tool["function"] for tool in sample.tools}
            called = tools[sample.answer.name]
            assert set(sample.answer.arguments) <= set(called["parameters"]["properties"])
            json.loads(sample.answer_text().split("\n")[1])


def test_thinking_changes_the_target_but_not_the_question_or_the_picture() -> None:
    direct = held_out_sample("pictures", 1, 3, "en", thinking=False)
    thought = held_out_sample("pictures", 1, 3, "en", thinking=True)
    assert direct.messages == thought.messages and direct.answer == thought.answer
    assert np.array_equal(_pixels(direct)[0], _pixels(thought)[0])
    assert thought.target_text().startswith("\n")
    assert thought.target_text().endswith(f"\n</think>\n\n{direct.target_text()}")


def test_a_timed_object_is_seen_from_the_stamped_frame_on() -> None:
    found = 0
    for index in range(40):
        sample = make_sample("films", random_of(7, index, False), False, thinking=False)
        if sample.task != "film_time" or sample.language != "en":
            continue
        (clip,) = sample.media
        assert isinstance(clip, Clip) and isinstance(sample.answer, str)
        stamps = [f"{t % 60:05.2f}" for t in clip.times_s]
        assert any(sample.answer.endswith(f"{stamp}.") for stamp in stamps[1:])
        found += 1
    assert found


def test_the_stream_of_training_samples_does_not_depend_on_its_neighbours() -> None:
    texts = [training_sample(0, index).target_text() for index in (70_000, 70_001, 70_000)]
    assert texts[0] == texts[2]
