"""Two layers of the released models' width with random weights, against transformers' classes."""

import dataclasses

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.media.item import merged_grid
from backend.models import build_model
from backend.request import SamplingParams
from backend.wire import EngineRequest, MediaSpan
from scripts.train_tiny.processing import CHECKPOINT
from tests.gpu.model.asked import drain, ids_of
from tests.oracle.models import IMAGE
from tests.oracle.paged import PagedRunner
from tests.oracle.prompts import media_prompt

pytestmark = pytest.mark.gpu

PARTS = {
    "vl-28b-a3b": [[300], [5, (1, 16, 24), 20, (1, 32, 20), 9], [4, (4, 12, 16), 30]],
    "21b-a3b": [[300], [70], [1]],
    "0.3b": [[300], [70], [1]],
}


class Subject:
    def __init__(self, shape):
        import torch

        from backend.ops.cuda_ops import CudaOps
        from tests.gpu.model.real_width import as_canonical, random_weights, shared, two_layers
        from tests.oracle.reference import MediaIds, Oracle

        self.config = two_layers(shape)
        weights = random_weights(self.config, seed=3)
        canonical = as_canonical(self.config, weights)
        self.exact = Oracle(self.config, canonical, MediaIds(), "cuda")
        self.rounded = Oracle(self.config, canonical, MediaIds(), "cuda", torch.bfloat16)
        ops = CudaOps("gpu:0")
        self.model = build_model(self.config, ops, shared(self.config, ops, weights))
        random = np.random.RandomState(5)
        self.prompts = [self._spread(media_prompt(random, parts)) for parts in PARTS[shape]]

    def _spread(self, prompt):
        """Text ids from all of the vocabulary."""
        scale = (self.config.vocab_size - 200) // IMAGE
        ids = np.where(prompt.ids < IMAGE, 200 + prompt.ids * scale, prompt.ids)
        return dataclasses.replace(prompt, ids=ids.astype(np.int32))


@pytest.fixture(scope="module", params=list(PARTS))
def subject(request, _gpu_or_skip):
    return Subject(request.param)


@pytest.mark.parametrize("chunk", [10_000, 96])
def test_prefill_logits_are_as_exact_as_those_of_transformers(subject, chunk):
    _assert_exact(subject, PagedRunner(subject.model, subject.prompts, block_size=64).run(chunk))


def test_decoded_logits_are_as_exact_as_those_of_transformers(subject):
    """A prefill, then the last tokens one by one, three sequences in a batch."""
    prompts = subject.prompts
    runner = PagedRunner(subject.model, prompts, block_size=64)
    runner.step([max(0, len(prompt) - 8) for prompt in prompts])
    _assert_exact(subject, runner.run(1))


def _assert_exact(subject, outputs):
    ours_error = theirs_error = total = 0.0
    for prompt, ours in zip(subject.prompts, outputs, strict=True):
        exact, theirs = subject.exact.logits(prompt), subject.rounded.logits(prompt)
        assert ours.shape == exact.shape
        ours_error += float(np.square(ours - exact).sum(dtype=np.float64))
        theirs_error += float(np.square(theirs - exact).sum(dtype=np.float64))
        total += float(np.square(exact).sum(dtype=np.float64))
    ours_error, theirs_error = (ours_error / total) ** 0.5, (theirs_error / total) ** 0.5
    print(f"relative error of ours {ours_error:.5f}, of transformers {theirs_error:.5f}")
    assert ours_error <= 2 * theirs_error


def test_the_engine_decodes_what_float32_prefers(subject):
    """Chunked prefill, recorded decode steps, the device's sampler: every token that it takes is
    the reference's best but for rounding."""
    from backend.engine.core import EngineCore
    from backend.engine.device import device_runner

    config = subject.config
    settings = EngineSettings(
        CHECKPOINT,
        executor="cuda",
        device="gpu:0",
        block_size=64,
        num_kv_blocks=256,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        max_model_len=2048,
    )
    core = EngineCore(
        subject.model,
        config,
        settings,
        [2],
        config.vocab_size,
        make_runner=device_runner(settings, config),
    )
    for index, prompt in enumerate(subject.prompts):
        request = EngineRequest(
            stream_key=str(index),
            request_id=str(index),
            sampling=SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True),
            media=_spans(prompt, config),
        )
        core.add(request, prompt.ids, prompt.positions, prompt.patches if prompt.grids else None)
    outputs = drain(core)
    for index, prompt in enumerate(subject.prompts):
        answer = [token for output in outputs[str(index)] for token in ids_of(output)]
        assert len(answer) == 12
        longer = _with_answer(prompt, answer[:-1])
        first = len(prompt) - 1
        exact = subject.exact.logits(longer)[first:]
        noise = np.abs(subject.rounded.logits(longer)[first:] - exact).max(1)
        missed = exact.max(1) - exact[np.arange(12), answer]
        assert (missed <= 2 * noise).all(), (missed, noise)


def _spans(prompt, config):
    """The media of a prompt; their digests are their numbers."""
    spans, row, offset = [], 0, 0
    vision = config.vision
    for index, grid in enumerate(prompt.grids):
        kind = "video" if grid[0] > 1 else "image"
        merged = merged_grid(kind, grid, vision.spatial_merge_size, vision.temporal_merge_size)
        count = int(np.prod(merged))
        offset += int(np.flatnonzero(prompt.is_media[offset:])[0])
        spans.append(MediaSpan(kind, offset, count, grid, row, f"{index:064x}"))
        offset += count
        row += int(np.prod(grid))
    return tuple(spans)


def _with_answer(prompt, answer):
    start = int(prompt.positions.max()) + 1
    more = np.tile(np.arange(start, start + len(answer)), (3, 1))
    nothing = np.zeros(len(answer), dtype=bool)
    return dataclasses.replace(
        prompt,
        ids=np.concatenate([prompt.ids, np.array(answer)]).astype(np.int32),
        positions=np.concatenate([prompt.positions, more], axis=1).astype(np.int32),
        is_media=np.concatenate([prompt.is_media, nothing]),
        is_vision=np.concatenate([prompt.is_vision, nothing]),
    )
