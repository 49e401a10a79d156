"""KV blocks from what a device has left beside the weights and its largest step."""

import dataclasses

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine import device
from backend.engine.device import with_measured_blocks
from backend.engine.loading import load_model
from backend.errors import ConfigError
from backend.ops import cuda_ops
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.unit.ops import numpy_kernels

MIB = 2**20
TOTAL = 4096 * MIB


class MeteredContext(numpy_kernels.Context):
    """A device of 4 GiB of which `taken` are in use. Its pool says that the steps since
    `reset_peak` took `step` bytes at most."""

    taken = 256 * MIB
    step = 128 * MIB

    def memory(self):
        return TOTAL - self.taken, TOTAL

    def reset_peak(self):
        pass

    def pool_bytes(self):
        return 0, 1000, 1000 + self.step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vl")
    make_tiny_checkpoint(folder, "vl", dtype="float32")
    return folder


@pytest.fixture
def measure(folder, monkeypatch):
    """with_measured_blocks of a tiny model, and the model's configuration."""
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    monkeypatch.setattr(device, "kernels", numpy_kernels)
    monkeypatch.setattr(device, "LARGEST_PICTURE", (1, 8, 8))
    base = EngineSettings(
        folder,
        executor="cuda",
        device="gpu:0",
        block_size=16,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        gpu_memory_utilization=0.5,
    )
    loaded = load_model(base)
    config, model = loaded.config, loaded.model
    model.ops.context = MeteredContext()

    def run(**changes):
        return with_measured_blocks(dataclasses.replace(base, **changes), config, model)

    run.config, run.model, run.context = config, model, model.ops.context
    return run


def test_blocks_fill_what_weights_and_the_largest_step_leave(measure, monkeypatch):
    monkeypatch.setattr(device, "MAX_BLOCKS", 10**9)
    settings = measure(max_num_seqs=10**6)
    left = TOTAL // 2 - 256 * MIB - 128 * MIB - device.GRAPH_BYTES
    shape = measure.config
    block_bytes = 2 * 4 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 16
    # One block more is allocated, which belongs to nobody.
    assert settings.num_kv_blocks == left // block_bytes - 1


def test_values_of_half_the_bytes_give_twice_the_blocks(measure, monkeypatch):
    monkeypatch.setattr(device, "MAX_BLOCKS", 10**9)
    wide = measure(max_num_seqs=10**6).num_kv_blocks
    measure.model.ops.kv_dtype = np.float16
    assert measure(max_num_seqs=10**6).num_kv_blocks // 2 == wide


def test_no_more_blocks_are_taken_than_all_requests_can_use(measure):
    settings = measure(max_model_len=100)
    assert settings.num_kv_blocks == 4 * 7


def test_one_request_of_one_block_needs_no_more(measure):
    assert measure(max_num_seqs=1, max_model_len=16).num_kv_blocks == 1


def test_an_explicit_number_of_blocks_stays_and_nothing_is_run(measure, monkeypatch):
    monkeypatch.setattr(measure.model, "forward", None)
    assert measure(num_kv_blocks=33).num_kv_blocks == 33


def test_too_small_a_share_is_told_with_all_figures(measure):
    with pytest.raises(ConfigError, match=r"0\.2 of 4\.0 GiB leaves -0\.6 GiB.*0\.2 GiB are taken"):
        measure(gpu_memory_utilization=0.2)


def test_a_step_that_does_not_fit_names_the_flag(measure, monkeypatch):
    def forward(batch, cache):
        raise numpy_kernels.OutOfMemoryError("cudaMalloc: out of memory: asked for 9 bytes")

    monkeypatch.setattr(measure.model, "forward", forward)
    with pytest.raises(
        ConfigError, match=r"--max-num-batched-tokens 64 does not fit gpu:0 .* 9 bytes"
    ):
        measure()


def test_heads_that_no_kernel_is_compiled_for_are_named(measure):
    config = dataclasses.replace(measure.config, head_dim=48)
    settings = EngineSettings(model=".", num_kv_blocks=9)
    with pytest.raises(ConfigError, match=r"the model's head_dim is 48; .* compiled for 32, 128"):
        with_measured_blocks(settings, config, measure.model)
    vision = dataclasses.replace(measure.config.vision, num_heads=4)
    config = dataclasses.replace(measure.config, vision=vision)
    with pytest.raises(ConfigError, match=r"vision head_dim is 16; .* for 32, 64, 72, 80, 96, 128"):
        with_measured_blocks(settings, config, measure.model)
