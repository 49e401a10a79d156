"""The bench's pictures, on the device's runner with NumPy in the place of its kernels."""

import argparse

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner
from backend.engine.loading import load_model
from backend.ops import cuda_ops
from backend.runner import device_runner as device_runner_module
from scripts.bench_engine import engine_settings
from scripts.engine_bench import pictures, routing
from scripts.engine_bench.shapes import SHAPES
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.unit.ops import numpy_kernels

GRID = (1, 8, 12)
NUM_PLACEHOLDERS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vl")
    make_tiny_checkpoint(folder, "vl", dtype="float32")
    return folder


@pytest.fixture
def bench(folder, monkeypatch):
    """An idle engine, its model and their configuration. A step has room for all of a prompt but
    its last three tokens."""
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    monkeypatch.setattr(device_runner_module, "kernels", numpy_kernels)
    monkeypatch.setattr(routing, "kernels", numpy_kernels)
    settings = EngineSettings(
        folder,
        executor="cuda",
        device="gpu:0",
        max_num_seqs=1,
        max_num_batched_tokens=55,
        num_kv_blocks=16,
        max_model_len=64,
        block_size=8,
        enable_prefix_caching=False,
    )
    loaded = load_model(settings)
    core = EngineCore(
        loaded.model,
        loaded.config,
        settings,
        [2],
        loaded.config.vocab_size,
        make_runner=device_runner(settings, loaded.config),
    )
    return core, loaded.model, loaded.config


def test_every_run_encodes_a_picture_of_its_own_and_samples_one_token(bench):
    core, _, config = bench
    figures = pictures.prompt_figures(core, config, GRID, repeats=2)
    assert 0 < figures.arrival_s < figures.first_token_s
    stats = core.stats()
    assert stats["encoder_runs_total"] == 3
    assert stats["encoder_cache_hits_total"] == 0
    assert stats["requests_finished_total"] == stats["generation_tokens_total"] == 3
    assert stats["prompt_tokens_total"] == 3 * pictures.num_prompt_tokens(config, GRID)
    assert not core.has_work()
    core.check_integrity()


def test_the_experts_that_a_prompt_reads_are_told(bench, monkeypatch):
    """Two of eight for text and two for vision, when biases say so for all tokens alike, in a step
    that has tokens of the picture."""
    core, _, config = bench
    route = numpy_kernels.moe_route

    def biased(x, gate, bias, *arguments, **keywords):
        bias.array[2:4] = 100
        if keywords["vision_bias"] is not None:
            keywords["vision_bias"].array[5:7] = 100
        return route(x, gate, bias, *arguments, **keywords)

    monkeypatch.setattr(numpy_kernels, "moe_route", biased)
    assert pictures.prompt_figures(core, config, GRID, repeats=1).distinct == (2.0, 2.0)
    assert numpy_kernels.moe_route is biased


def test_a_prompt_is_text_around_the_picture(bench):
    config = bench[2]
    prompt = pictures.picture_prompt(config, GRID, seed=0)
    special = (config.image_token_id, *config.vision_boundary_token_ids)
    assert (~np.isin(prompt.ids, special)).sum() == pictures.NUM_TEXT_TOKENS
    assert len(prompt.ids) == pictures.num_prompt_tokens(config, GRID)
    picture = prompt.ids[prompt.span.offset - 1 :][: NUM_PLACEHOLDERS + 2]
    start, end = config.vision_boundary_token_ids[:2]
    assert picture.tolist() == [start, *[config.image_token_id] * NUM_PLACEHOLDERS, end]


def test_an_error_of_the_engine_is_no_measurement(bench, monkeypatch):
    core, model, config = bench

    def fail(patches, grids):
        raise ValueError("odd grid")

    monkeypatch.setattr(model, "encode_media", fail)
    with pytest.raises(RuntimeError, match=r"\(1, 8, 12\).*could not be encoded"):
        pictures.prompt_figures(core, config, GRID)


def test_the_encoder_alone_is_run_once_more_than_it_is_timed(bench, monkeypatch):
    _, model, config = bench
    encode, grids = model.encode_media, []

    def count(patches, grid):
        grids.extend(grid)
        return encode(patches, grid)

    monkeypatch.setattr(model, "encode_media", count)
    assert pictures.encoder_seconds(model, config, GRID, repeats=2) > 0
    assert grids == [GRID] * 3


@pytest.mark.parametrize("with_pictures", [True, False])
def test_the_largest_picture_fits_into_one_step_of_the_bench(with_pictures):
    config = SHAPES["vl-28b-a3b"]
    arguments = argparse.Namespace(
        pictures=with_pictures, max_model_len=4096, chunk=2048, batches=[1, 8], device="gpu:0"
    )
    settings = engine_settings(arguments, config)
    longest = 256 * 256 // 4 + 2 + pictures.NUM_TEXT_TOKENS
    assert settings.max_num_batched_tokens == (longest if with_pictures else 2048)
    assert settings.max_model_len == (longest + 1 if with_pictures else 4096)
    assert settings.max_num_seqs == 8
