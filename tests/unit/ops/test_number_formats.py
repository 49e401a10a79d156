"""Another number format is a class of its own: int8 weights and narrower keys and values run the
models, the engine and its recorded steps with nothing changed but what makes a weight of a tensor.

The format is that of `wint8`: per output, values in 1/127 of the largest one. It exists in these
tests alone, with NumPy in the place of its kernels.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner
from backend.engine.loading import load_model
from backend.models import build_model, parameter_specs
from backend.ops import cuda_ops, cuda_weights
from backend.request import SamplingParams
from backend.runner import device_runner as device_runner_module
from backend.wire import EngineRequest
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.oracle import models
from tests.oracle.cases import WEIGHT_SEED, make_prompts
from tests.oracle.paged import PagedRunner
from tests.unit.ops import numpy_kernels

LINEAR = ("linear", "qkv", "gate_up")
EXPERTS = ("experts_gate_up", "experts_down")
TOLERANCE = 1e-4


def quantized(matrices):
    """[.., out, in] → int8 of that shape, scales float32 [.., out, 1]."""
    scales = np.abs(matrices).max(axis=-1, keepdims=True) / np.float32(127)
    return np.round(matrices / scales).astype(np.int8), scales


@dataclass(frozen=True)
class Int8Linear:
    values: Any
    scales: Any

    @classmethod
    def of(cls, tensor):
        upload = tensor.context_.upload
        return cls(*map(upload, quantized(tensor.array)))

    def _rows(self):
        assert self.values.dtype == np.int8
        rows = self.values.array * self.scales.array
        return numpy_kernels.Tensor(self.values.context_, rows)

    def product(self, kernels, x, bias=None, activation=None):
        return kernels.linear(x, self._rows(), bias, activation or "")

    def swiglu_product(self, kernels, x):
        return kernels.swiglu(kernels.linear(x, self._rows()))


@dataclass(frozen=True)
class Int8Experts(Int8Linear):
    @property
    def num_experts(self):
        return self.values.shape[0]

    def feed_forward(self, kernels, down, x, routing, first_expert, slots, y):
        count = self.num_experts
        hidden = kernels.moe_up_large(x, routing, self._rows(), first_expert, count, slots)
        kernels.moe_down_large(hidden, routing, down._rows(), first_expert, count, y)


def int8_weight(tensor, kind):
    if kind in LINEAR:
        return Int8Linear.of(tensor)
    return Int8Experts.of(tensor) if kind in EXPERTS else tensor


@pytest.fixture
def ops(monkeypatch):
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    monkeypatch.setattr(device_runner_module, "kernels", numpy_kernels)
    return cuda_ops.CudaOps("gpu:0")


def _stored(config, weights, ops):
    """A model whose weights came through the store, as those of a checkpoint do."""
    specs = parameter_specs(config)
    store = ops.weight_store({name: spec.shape for name, spec in specs.items()})
    for name, spec in specs.items():
        store.begin(name, spec.shape, spec.kind, spec.keep_float32)
        if len(spec.shape) == 3:
            for index, matrix in enumerate(weights[name]):
                store.place(name, matrix, (index,), False)
        else:
            store.place(name, weights[name], (slice(None),), False)
    return build_model(config, ops, store.finish())


def _rounded(config, weights):
    """Canonical weights [.., in, out] whose values int8 holds exactly. Shared experts are experts
    like others: the inputs of their down projection are cut into experts."""
    specs = parameter_specs(config)
    rounded = dict(weights)
    for name, spec in specs.items():
        if spec.kind in (*LINEAR, *EXPERTS):
            matrices = weights[name]
            if name.endswith("shared_experts.down_proj.weight"):
                matrices = matrices.reshape(config.moe.num_shared_experts, -1, spec.shape[1])
            values, scales = quantized(matrices.swapaxes(-1, -2))
            rounded[name] = (values * scales).swapaxes(-1, -2).reshape(spec.shape)
            rounded[name] = np.ascontiguousarray(rounded[name])
    return rounded


def _logits(model, chunk=10_000):
    prompts = make_prompts(model.config.is_multimodal)
    return PagedRunner(model, list(prompts.values())).run(chunk)


def _relative_error(outputs, expected):
    off = sum(np.square(a - b).sum() for a, b in zip(outputs, expected, strict=True))
    return float(np.sqrt(off / sum(np.square(b).sum() for b in expected)))


@pytest.mark.parametrize("name", models.CONFIGS)
@pytest.mark.parametrize("chunk", [3, 1], ids=["chunked prefill", "decode"])
def test_int8_weights_compute_what_their_values_say(ops, monkeypatch, name, chunk):
    config = models.make_config(name)
    weights = models.random_weights(config, WEIGHT_SEED)
    expected = _logits(models.load_model(config, _rounded(config, weights), ops))
    monkeypatch.setattr(cuda_weights, "device_weight", int8_weight)
    error = _relative_error(_logits(_stored(config, weights, ops), chunk), expected)
    assert error <= TOLERANCE


def test_int8_weights_are_off_by_their_rounding(ops, monkeypatch):
    config = models.make_config("dense")
    weights = models.random_weights(config, WEIGHT_SEED)
    exact = _logits(_stored(config, weights, ops))
    monkeypatch.setattr(cuda_weights, "device_weight", int8_weight)
    error = _relative_error(_logits(_stored(config, weights, ops)), exact)
    # Steps of 2.5 / 127 standard deviations are off by 1 / √12 of a step, which is 0.6 % a product;
    # twelve products follow each other: 2 %.
    assert 0.01 < error < 0.04


class CountedContext(numpy_kernels.Context):
    """Knows the largest size of all living tensors that `empty` made."""

    def __init__(self):
        super().__init__()
        self._living = weakref.WeakSet()
        self.peak = 0

    def empty(self, shape, dtype):
        tensor = super().empty(shape, dtype)
        self._living.add(tensor)
        self.peak = max(self.peak, sum(item.nbytes for item in self._living))
        return tensor


def test_a_store_never_holds_more_than_a_layers_experts_unquantised(ops, monkeypatch):
    config = models.make_config("vl")
    weights = models.random_weights(config, WEIGHT_SEED)
    ops.context = context = CountedContext()
    monkeypatch.setattr(cuda_weights, "device_weight", int8_weight)
    _stored(config, weights, ops)
    specs = parameter_specs(config)
    kept = [spec for spec in specs.values() if spec.kind not in (*LINEAR, *EXPERTS)]
    tables = [n for n, spec in specs.items() if spec.kind in EXPERTS and ".1." in n]
    shared = [n for n in specs if ".1.mlp.shared_experts." in n]
    num_values = sum(np.prod(spec.shape) for spec in kept)
    # The shared experts are in the table as well.
    num_values += sum(np.prod(specs[n].shape) for n in [*tables, *shared, *shared])
    assert context.peak <= 4 * num_values


def _greedy(core, prompts):
    for index, ids in enumerate(prompts):
        sampling = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
        core.add(EngineRequest(stream_key=str(index), sampling=sampling), ids, None, None)
    tokens = {}
    while core.has_work():
        for output in core.step():
            assert output.error is None, output.error
            tokens.setdefault(output.stream_key, []).extend(output.token_ids)
    return tokens


def test_an_engine_loads_records_and_serves_int8(ops, tmp_path, monkeypatch):
    """Recorded decode steps give the tokens of a runner that records none."""
    make_tiny_checkpoint(tmp_path, "moe", layout="hf", dtype="float32")
    monkeypatch.setattr("backend.engine.loading.create_ops", lambda *_: ops)
    monkeypatch.setattr(cuda_weights, "device_weight", int8_weight)
    settings = EngineSettings(
        tmp_path,
        executor="cuda",
        device="gpu:0",
        block_size=8,
        num_kv_blocks=64,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        max_model_len=64,
    )
    loaded = load_model(settings)
    config = load_model_config(tmp_path)
    random = np.random.default_rng(3)
    prompts = [random.integers(300, 900, n).astype(np.int32) for n in (1, 9, 20, 5)]
    answers = [
        _greedy(EngineCore(loaded.model, config, settings, [2], 900, **maker), prompts)
        for maker in ({}, {"make_runner": device_runner(settings, config)})
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == len(prompts)


def test_keys_and_values_of_another_width_take_their_own_memory(ops):
    config = models.make_config("vl")
    weights = models.random_weights(config, WEIGHT_SEED)
    model = models.load_model(config, weights, ops)
    exact, wide = _logits(model), model.kv_block_bytes(16)
    ops.kv_dtype = np.float16
    rounded, narrow = _logits(model), model.kv_block_bytes(16)
    assert wide == 2 * narrow == 2 * 3 * config.num_kv_heads * config.head_dim * 16 * 4
    assert 1e-5 < _relative_error(rounded, exact) < 2e-3
