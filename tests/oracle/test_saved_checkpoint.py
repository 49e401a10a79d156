"""A checkpoint written by transformers' save_pretrained gives transformers' logits here."""

import dataclasses

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.models import build_model, parameter_specs
from backend.ops import create_ops
from backend.weights import load_weights
from tests.oracle.cases import WEIGHT_SEED, make_prompts
from tests.oracle.models import CONFIGS, make_config, random_weights
from tests.oracle.paged import PagedRunner

pytest.importorskip("torch", reason="the oracle needs torch")
pytest.importorskip("transformers", reason="the oracle needs transformers")
pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_a_saved_checkpoint(name, tmp_path):
    from tests.oracle.reference import Oracle

    config = make_config(name)
    oracle = Oracle(config, random_weights(config, WEIGHT_SEED))
    oracle.save(tmp_path)

    loaded = load_model_config(tmp_path)
    assert dataclasses.replace(loaded, architecture=config.architecture) == dataclasses.replace(
        config, video_token_id=loaded.video_token_id
    )
    ops = create_ops("paddle", "cpu", 1)
    weights = load_weights(
        tmp_path,
        loaded,
        parameter_specs(loaded),
        lambda array, spec: ops.from_numpy(array, keep_float32=spec.keep_float32),
        progress=False,
    )
    model = build_model(loaded, ops, weights)
    prompts = list(make_prompts(config.is_multimodal).values())
    for prompt, logits in zip(prompts, PagedRunner(model, prompts).run(16), strict=True):
        expected = oracle.logits(prompt)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
