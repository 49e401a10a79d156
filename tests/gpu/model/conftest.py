"""The shipped checkpoint on the native executor, and transformers over the same weights."""

import dataclasses

import numpy as np
import pytest

import kernels
from backend.config.serving import EngineSettings
from backend.models import parameter_specs
from backend.weights import load_weights
from scripts.train_tiny.processing import CHECKPOINT

SETTINGS = EngineSettings(
    CHECKPOINT,
    executor="cuda",
    device="gpu:0",
    block_size=64,
    num_kv_blocks=1024,
    max_num_seqs=64,
    max_num_batched_tokens=1024,
)


@pytest.fixture(scope="session", autouse=True)
def _gpu_or_skip():
    reason = kernels.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("torch", reason="the oracle needs torch")
    pytest.importorskip("transformers", reason="the oracle needs transformers")


class Oracles:
    """transformers in float32 and in bfloat16, both on the GPU."""

    def __init__(self, config):
        import torch

        from tests.oracle.reference import MediaIds, Oracle

        weights = load_weights(
            CHECKPOINT,
            config,
            parameter_specs(config),
            lambda array, spec: np.array(array, dtype=np.float32),
            progress=False,
        )
        self._config = config
        self._video_id = config.vocab_size - 1  # of no token
        media_ids = MediaIds(
            config.image_token_id, self._video_id, *config.vision_boundary_token_ids
        )
        self.exact = Oracle(config, weights, media_ids, "cuda")
        self.rounded = Oracle(config, weights, media_ids, "cuda", torch.bfloat16)

    def prompt(self, question, answer=()):
        """A question and the beginning of its answer."""
        config = self._config
        return question.prompt(
            answer, config.image_token_id, self._video_id, config.vision_boundary_token_ids
        )

    def choices(self, question, answer, num_token_ids):
        """What greedy decoding in bfloat16 takes at each place behind the answer so far."""
        prompt = self.prompt(question, answer[:-1])
        logits = self.rounded.logits(prompt)[len(question.ids) - 1 :, :num_token_ids]
        return logits.argmax(1).tolist()

    def gap(self, question, one, other):
        """Where two answers part: float32's preference between their tokens, and how far
        transformers' own bfloat16 logits are off there at most. Rounding moves each of two logits,
        so a preference below twice that decides nothing."""
        at = next(i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
        prompt = self.prompt(question, one[:at])
        exact, rounded = (oracle.logits(prompt)[-1] for oracle in (self.exact, self.rounded))
        return float(abs(exact[one[at]] - exact[other[at]])), float(np.abs(rounded - exact).max())


@pytest.fixture(scope="session")
def loaded(_gpu_or_skip):
    from backend.engine.loading import load_model

    return load_model(SETTINGS)


@pytest.fixture(scope="session")
def oracles(loaded):
    return Oracles(loaded.config)


@pytest.fixture(scope="session")
def make_core(loaded):
    """An engine over the model; `on_host`: the plain runner, whose sampler is NumPy."""
    from backend.engine.core import EngineCore
    from backend.engine.device import device_runner
    from backend.runner import ModelRunner

    def _make_core(on_host=False, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return EngineCore(
            loaded.model,
            loaded.config,
            settings,
            loaded.eos_token_ids,
            loaded.num_token_ids,
            loaded.structured,
            ModelRunner if on_host else device_runner(settings, loaded.config),
        )

    return _make_core


@pytest.fixture(scope="session")
def core(make_core):
    return make_core()


@pytest.fixture(scope="session")
def assert_same(oracles):
    """Nearly all pairs of answers are equal, and the others part where float32 hardly cares."""

    def check(questions, ones, others, share=0.99):
        different = [
            (question, one, other)
            for question, one, other in zip(questions, ones, others, strict=True)
            if one != other
        ]
        gaps = [(q.case.skill, *oracles.gap(q, one, other)) for q, one, other in different]
        print(f"{len(different)} of {len(ones)} differ (skill, gap, noise): {gaps}")
        assert all(gap <= 2 * noise for _, gap, noise in gaps), gaps
        assert len(different) <= (1 - share) * len(ones), gaps

    return check
