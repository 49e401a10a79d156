"""Samples are the same for the same seed, say what is true, and keep the split."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from backend.media.timestamp import timestamp_text
from scripts.train_tiny.mixture import (
    PLANS,
    TASKS,
    held_out_sample,
    make_sample,
    random_of,
    shares_at,
    training_sample,
)
from scripts.train_tiny.sample import Clip, Picture, Sample, ToolCall
from scripts.train_tiny.scene import Scene, draw_items, is_held_out
from scripts.train_tiny.tasks import comparing, pictures
from scripts.train_tiny.tasks.reading import is_held_out_number, number_text
from scripts.train_tiny.wordlist import WORDS, is_held_out_word, random_letters, word

# Two samples of each task are enough to draw; films cost the most.
_PER_TASK = 2
ENDS = (("first", 0), ("last", -1))


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
    triples = list(itertools.product(range(8), range(6), range(9)))
    reserved = {triple for triple in triples if is_held_out(*triple)}
    for axis, size in enumerate((8, 6, 9)):
        assert {triple[axis] for triple in reserved} == set(range(size))
    shown = {triple[:2] for triple in triples if triple not in reserved}
    assert shown == set(itertools.product(range(8), range(6)))


def test_reserved_words_and_numbers_are_never_printed_in_training() -> None:
    random = random_of(3, 0, False)
    assert all(not is_held_out_word(word(random, False)) for _ in range(200))
    assert all(not is_held_out_word(random_letters(random)) for _ in range(200))
    for _ in range(200):
        digits = number_text(random, False)
        assert len(digits) == 1 or not is_held_out_number(digits)
    assert any(is_held_out_number(str(number)) for number in range(10, 100))
    assert not all(is_held_out_number(str(n)) for n in range(10, 100) if n // 10 + n % 10 == 3)
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
        stamps = [timestamp_text(t).removeprefix("time: ") for t in clip.times_s]
        endings = [f"s in frame {n}, at {stamp}." for n, stamp in enumerate(stamps, 1)]
        (frame,) = (n for n, ending in enumerate(endings) if sample.answer.endswith(ending))
        assert frame > 0
        before, now = (clip.frames[n].astype(int) for n in (frame - 1, frame))
        assert np.abs(before - now).max() > 40  # what comes or goes is seen
        marks = sample.reasoning.partition(": ")[2].partition(".")[0].split(", ")
        seen = [mark.endswith("yes") for mark in marks]
        assert len(seen) == frame + 1 and set(seen[:-1]) == {not seen[-1]}
        assert seen[-1] == ("disappears" not in sample.answer)
        found += 1
    assert found


def test_practised_stamps_are_those_of_the_frames() -> None:
    for index in range(24):
        sample = make_sample("practice_stamps", random_of(8, index, False), False, False, "en")
        (clip,) = sample.media
        assert isinstance(clip, Clip) and isinstance(sample.answer, str)
        stamps = [timestamp_text(t).removeprefix("time: ") for t in clip.times_s]
        if sample.task == "film_stamps":
            listed = [f"Frame {n}: {stamp}." for n, stamp in enumerate(stamps, 1)]
            assert sample.answer == " ".join(listed)
        else:
            told = [f"The time of frame {n} is {stamp}." for n, stamp in enumerate(stamps, 1)]
            told += [f"The time of the {name} frame is {stamps[n]}." for name, n in ENDS]
            assert sample.answer in told


def test_objects_practised_together_are_in_the_picture_that_the_answer_names() -> None:
    for index in range(30):
        random = random_of(9, index, False)
        scenes, _, answer = comparing._whiches(random, "en", False)
        told = [
            f"The {item.label('en')} is {item.at('en')} in Picture {n}."
            for n, scene in enumerate(scenes, 1)
            for item in scene.items
        ]
        said = [f"{sentence.rstrip('.')}." for sentence in answer.split(". ")]
        assert said and set(said) <= set(told)


def test_several_questions_have_true_answers() -> None:
    for index in range(40):
        sample = make_sample("practice_several", random_of(10, index, False), False, True, "en")
        assert isinstance(sample.answer, str)
        for sentence in sample.answer.rstrip(".").split(". "):
            if sentence.startswith("There is no "):
                assert sentence.removeprefix("There is no ") not in sample.reasoning
            elif sentence.startswith("There is "):
                assert f"{sentence.removeprefix('There is ')} " in sample.reasoning
            else:
                shape, colour = sentence.removeprefix("The ").split(" is ")
                assert f"{colour} {shape} " in sample.reasoning


def test_a_plan_draws_from_known_tasks_and_ends_with_all_that_is_measured() -> None:
    for name in PLANS:
        assert set(shares_at(name, 0)) <= set(TASKS)
        assert {"pictures", "reading", "comparing", "films", "tools", "chat"} <= set(
            shares_at(name, 10**9)
        )


def test_the_stream_of_training_samples_does_not_depend_on_its_neighbours() -> None:
    texts = [training_sample(0, index).target_text() for index in (70_000, 70_001, 70_000)]
    assert texts[0] == texts[2]
