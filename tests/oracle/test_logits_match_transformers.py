"""Every model against transformers 5.17's class with the same weights, in float32."""

from collections.abc import Sequence

import numpy as np
import pytest

from backend.ops import create_ops
from tests.oracle.cases import MEDIA_PARTS, WEIGHT_SEED
from tests.oracle.models import load_model, make_config, random_weights
from tests.oracle.paged import PagedRunner
from tests.oracle.prompts import Prompt, media_prompt, text_prompt

pytest.importorskip("torch", reason="the oracle needs torch")
pytest.importorskip("transformers", reason="the oracle needs transformers")
pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4
"""Largest logit difference, as a part of the largest logit."""

CHUNKS = (10_000, 1, 2, 5, 16)
"""Tokens of each prompt per batch: whole prefill, cached decode, chunked prefill."""


class Subject:
    """One model of ours and the oracle over the same weights."""

    def __init__(self, name: str) -> None:
        from tests.oracle.reference import Oracle

        config = make_config(name)
        weights = random_weights(config, WEIGHT_SEED)
        self.model = load_model(config, weights, create_ops("paddle", "cpu", 1))
        self._oracle = Oracle(config, weights)
        self._expected: dict[bytes, np.ndarray] = {}

    def expected(self, prompt: Prompt) -> np.ndarray:
        key = prompt.ids.tobytes() + prompt.patches.tobytes()
        if key not in self._expected:
            self._expected[key] = self._oracle.logits(prompt)
        return self._expected[key]

    def assert_equal(self, prompts: Sequence[Prompt], outputs: Sequence[np.ndarray]) -> None:
        for prompt, output in zip(prompts, outputs, strict=True):
            expected = self.expected(prompt)
            assert output.shape == expected.shape
            error = np.abs(output - expected).max() / np.abs(expected).max()
            assert error <= TOLERANCE, f"relative logit difference {error:.2e}"


@pytest.fixture(scope="module", params=["dense", "text_moe", "large_moe", "vl", "large_vl"])
def subject(request):
    return Subject(request.param)


@pytest.fixture(scope="module", params=["vl", "large_vl"])
def vl(request):
    return Subject(request.param)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_text_of_unequal_lengths_in_chunks(subject, chunk):
    random = np.random.RandomState(11)
    prompts = [text_prompt(random, length) for length in (37, 1, 16, 5)]
    subject.assert_equal(prompts, PagedRunner(subject.model, prompts).run(chunk))


def test_prefill_and_decode_rows_in_one_batch(subject):
    random = np.random.RandomState(12)
    prompts = [text_prompt(random, length) for length in (20, 40, 9)]
    runner = PagedRunner(subject.model, prompts)
    runner.step([19, 7, 0])
    runner.step([1, 32, 8])
    runner.step([0, 1, 1])
    subject.assert_equal(prompts, [np.concatenate(seq.logits) for seq in runner.seqs])


def test_positions_far_into_the_context(subject):
    random = np.random.RandomState(13)
    prompt = text_prompt(random, 300)
    subject.assert_equal([prompt], PagedRunner(subject.model, [prompt], block_size=16).run(64))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("parts", MEDIA_PARTS.values(), ids=MEDIA_PARTS.keys())
def test_media(vl, parts, chunk):
    prompt = media_prompt(np.random.RandomState(14), parts)
    vl.assert_equal([prompt], PagedRunner(vl.model, [prompt]).run(chunk))


def test_media_and_text_sequences_in_one_batch(vl):
    random = np.random.RandomState(15)
    prompts = [media_prompt(random, parts) for parts in MEDIA_PARTS.values()]
    vl.assert_equal(prompts, PagedRunner(vl.model, prompts).run(7))
