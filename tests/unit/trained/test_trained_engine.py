"""What the shipped checkpoint sees and says: a wrong channel, patch, position or expert shows here
as wrong answers, without a server."""

import numpy as np
import pytest

from scripts.train_tiny.asking import request_body
from scripts.train_tiny.drawing import paint_scene
from scripts.train_tiny.judging import judge
from scripts.train_tiny.lexicon import COLOURS, SHAPES, at_place
from scripts.train_tiny.sample import Sample, user
from scripts.train_tiny.scene import Item, Scene
from tests.unit.trained.questions import UNSEEN_CALLS, assert_skilled, questions, unseen_calls

CENTER = 4


def about(question, *pictures, thinking=False):
    """A chat request."""
    return request_body(
        Sample("asked", "en", (user(question, *pictures),), "", "", pictures, thinking=thinking)
    )


def painted(colour, shape, place=CENTER, size=(168, 168)):
    scene = Scene((Item(colour, shape, place),))
    return paint_scene(np.random.default_rng(0), scene, size)


def test_held_out_questions_are_answered(engine):
    cases = questions()
    assert_skilled(map(judge, cases, engine.replies(cases)))


def test_functions_whose_names_training_never_showed_are_called(engine):
    cases = unseen_calls()
    verdicts = list(map(judge, cases, engine.replies(cases)))
    wrong = [verdict for verdict in verdicts if not verdict.right]
    told = [(v.case.sample.answer, v.reply.call or v.reply.content) for v in wrong]
    assert len(wrong) <= (1 - UNSEEN_CALLS.required) * len(verdicts), told


def test_every_colour_is_named(engine):
    shape = [term.en for term in SHAPES].index("square")
    bodies = [
        about("What colour is the square?", painted(colour, shape))
        for colour in range(len(COLOURS))
    ]
    assert engine.texts(bodies) == [f"The square is {colour.en}." for colour in COLOURS]


def test_every_place_is_named(engine):
    red = [term.en for term in COLOURS].index("red")
    circle = [term.en for term in SHAPES].index("circle")
    bodies = [about("Where is the red circle?", painted(red, circle, place)) for place in range(9)]
    expected = [f"The red circle is {at_place(place, 'en')}." for place in range(9)]
    assert engine.texts(bodies) == expected


@pytest.mark.parametrize("thinking", [False, True])
def test_pictures_of_one_size_are_not_mistaken_for_each_other_by_the_prefix_cache(engine, thinking):
    """The prompts are equal token by token; only the pictures differ."""
    square = [term.en for term in SHAPES].index("square")
    answers = []
    for colour in range(4):
        body = about("What colour is the square?", painted(colour, square), thinking=thinking)
        (text,) = engine.texts([body])  # one after another: each finds the blocks of the last
        answers.append(text.rpartition("\n")[2])
    assert answers == [f"The square is {colour.en}." for colour in COLOURS[:4]]
