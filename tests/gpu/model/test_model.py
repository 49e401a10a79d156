"""The shipped checkpoint on the native executor against transformers' classes in bfloat16."""

import numpy as np
import pytest

from scripts.train_tiny.judging import Reply, judge
from tests.gpu.model.asked import answers, ask_about, asked, prompter
from tests.oracle.paged import PagedRunner
from tests.unit.trained.questions import assert_skilled, questions

pytestmark = pytest.mark.gpu

NUM_PROMPTS = 102


def test_greedy_answers_are_those_of_transformers(core, loaded, oracles, assert_same):
    """Token by token: what transformers would take behind the same beginning."""
    asked_now = asked(NUM_PROMPTS)
    ours = answers(core, asked_now)
    theirs = [
        oracles.choices(question, answer, loaded.num_token_ids)
        for question, answer in zip(asked_now, ours, strict=True)
    ]
    assert_same(asked_now, ours, theirs)


@pytest.mark.parametrize("chunk", [10_000, 50, 1])
def test_logits_are_as_exact_as_those_of_transformers(loaded, oracles, chunk):
    """A prefill at once, in chunks, and token by token."""
    count = 24 if chunk > 1 else 6
    prompts = [oracles.prompt(question) for question in asked(count)]
    ours_error = theirs_error = 0.0
    for prompt, ours in zip(
        prompts, PagedRunner(loaded.model, prompts, block_size=16).run(chunk), strict=True
    ):
        exact, theirs = oracles.exact.logits(prompt), oracles.rounded.logits(prompt)
        assert ours.shape == exact.shape
        ours_error += float(np.square(ours - exact).sum())
        theirs_error += float(np.square(theirs - exact).sum())
    print(f"error² of ours {ours_error:.4g}, of transformers {theirs_error:.4g}")
    assert ours_error <= 4 * theirs_error


def test_held_out_questions_are_answered(core):
    cases = questions()
    tokenizer = prompter().tokenizer
    replies = [
        Reply.of_text(tokenizer.decode(answer), case.sample.thinking)
        for case, answer in zip(
            cases, answers(core, map(ask_about, cases), max_tokens=400), strict=True
        )
    ]
    assert_skilled(map(judge, cases, replies))
