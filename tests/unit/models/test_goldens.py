"""Models against stored logits of transformers' classes, made by scripts/make_goldens.py."""

import numpy as np
import pytest

from backend.ops import create_ops
from tests.oracle.cases import (
    WEIGHT_SEED,
    golden_path,
    golden_rows,
    inputs_digest,
    make_prompts,
)
from tests.oracle.models import CONFIGS, load_model, make_config, random_weights
from tests.oracle.paged import PagedRunner

TOLERANCE = 1e-4
"""Largest logit difference, as a part of the largest logit."""


class Golden:
    def __init__(self, name: str) -> None:
        config = make_config(name)
        weights = random_weights(config, WEIGHT_SEED)
        self.prompts = make_prompts(config.is_multimodal)
        self.digest = inputs_digest(weights, self.prompts)
        self.model = load_model(config, weights, create_ops("paddle", "cpu", 1))
        with np.load(golden_path(name), allow_pickle=False) as stored:
            self.stored = dict(stored)


@pytest.fixture(scope="module", params=CONFIGS)
def golden(request):
    return Golden(request.param)


def test_goldens_belong_to_these_weights_and_prompts(golden):
    assert int(golden.stored["digest"]) == golden.digest, "run scripts/make_goldens.py"
    assert set(golden.stored) == {"digest", *golden.prompts}


@pytest.mark.parametrize("chunk", [10_000, 6, 1], ids=["prefill", "chunked prefill", "decode"])
def test_logits_equal_the_stored_ones(golden, chunk):
    runner = PagedRunner(golden.model, list(golden.prompts.values()))
    for (case, prompt), logits in zip(golden.prompts.items(), runner.run(chunk), strict=True):
        expected = golden.stored[case]
        error = np.abs(logits[golden_rows(prompt)] - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE, f"{case}: relative logit difference {error:.2e}"
