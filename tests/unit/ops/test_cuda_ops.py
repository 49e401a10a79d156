"""The native executor's own logic, with NumPy in the place of its kernels."""

from types import SimpleNamespace

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.config.serving import EngineSettings
from backend.engine.loading import load_model
from backend.models import parameter_specs
from backend.ops import ExpertGroup, cuda_ops
from backend.ops.cuda_moe import SlotSums
from backend.ops.cuda_step import are_long
from backend.ops.cuda_weights import turned
from backend.weights import load_weights, store_weights
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.oracle import models
from tests.oracle.cases import WEIGHT_SEED, golden_path, golden_rows, make_prompts
from tests.oracle.paged import PagedRunner
from tests.unit.ops import numpy_kernels

TOLERANCE = 1e-4


@pytest.fixture
def ops(monkeypatch):
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    return cuda_ops.CudaOps("gpu:0")


@pytest.mark.parametrize("name", models.CONFIGS)
@pytest.mark.parametrize("chunk", [10_000, 3, 1], ids=["prefill", "chunked prefill", "decode"])
def test_logits_equal_the_goldens(ops, name, chunk):
    config = models.make_config(name)
    model = models.load_model(config, models.random_weights(config, WEIGHT_SEED), ops)
    prompts = make_prompts(config.is_multimodal)
    runner = PagedRunner(model, list(prompts.values()))
    with np.load(golden_path(name), allow_pickle=False) as stored:
        for (case, prompt), logits in zip(prompts.items(), runner.run(chunk), strict=True):
            expected = stored[case]
            error = np.abs(logits[golden_rows(prompt)] - expected).max() / np.abs(expected).max()
            assert error <= TOLERANCE, f"{case}: relative logit difference {error:.2e}"


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("kind", ["dense", "moe", "vl"])
def test_stored_weights_are_those_that_a_host_puts_together(ops, tmp_path, kind, layout):
    make_tiny_checkpoint(tmp_path, kind, layout=layout)
    config = load_model_config(tmp_path)
    specs = parameter_specs(config)
    store = ops.weight_store({name: spec.shape for name, spec in specs.items()})
    stored = store_weights(tmp_path, config, specs, store, progress=False)
    on_host = load_weights(
        tmp_path, config, specs, lambda array, spec: turned(array, spec.kind), progress=False
    )
    assert stored.keys() == on_host.keys()
    for name, expected in on_host.items():
        weight = stored[name]
        found = getattr(weight, "rows", weight).numpy()
        if ".experts.text." in name:
            _check_shared(found[len(expected) :], name, on_host)
            found = found[: len(expected)]
        np.testing.assert_array_equal(found, expected, err_msg=name)


def _check_shared(extra, name, on_host):
    """The rows behind the routed experts are the shared experts, cut into experts."""
    layer, projection = name.split(".experts.text.")
    shared = on_host.get(f"{layer}.shared_experts.{projection}.weight")
    if shared is None:
        assert not len(extra)
    elif projection == "down_proj":
        np.testing.assert_array_equal(np.concatenate(list(extra), axis=1), shared)
    else:
        width = extra.shape[1] // 2
        gates_and_ups = [*extra[:, :width], *extra[:, width:]]
        np.testing.assert_array_equal(np.concatenate(gates_and_ups), shared)


@pytest.mark.parametrize(
    ("rows", "keys", "is_long"),
    [
        (256, 300, False),
        (16, 1024, True),
        (16, 1023, False),  # few keys in all
        (256, 999, False),  # short ones, though many
        (256, 1000, True),
    ],
)
def test_long_contexts_are_many_keys_of_many_rows(rows, keys, is_long):
    assert are_long(np.full(rows, keys, np.int32)) == is_long


def test_a_device_that_is_no_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    with pytest.raises(cuda_ops.ConfigError, match="runs on gpu:N; --device is 'cpu'"):
        cuda_ops.CudaOps("cpu")


def test_threads_are_those_that_copy_weights(ops, monkeypatch):
    counts = []

    class Uploader(numpy_kernels.WeightUploader):
        def __init__(self, context, buffer_bytes, threads):
            counts.append(threads)

    monkeypatch.setattr(numpy_kernels, "WeightUploader", Uploader)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for threads in (7, 0):
        cuda_ops.CudaOps("gpu:0", threads).weight_store({}).finish()
    assert counts == [7, 3]


def test_an_engine_loads_through_the_store(ops, tmp_path, monkeypatch):
    make_tiny_checkpoint(tmp_path, "vl")
    monkeypatch.setattr("backend.engine.loading.create_ops", lambda *_: ops)
    loaded = load_model(EngineSettings(model=tmp_path, executor="cuda", device="gpu:0"))
    assert loaded.model.ops is ops


def test_a_bias_of_a_few_experts_begins_where_kernels_read(ops):
    """With six experts the vision row of the two biases starts 24 bytes behind the text row."""
    random = np.random.default_rng(0)

    def weight(*shape, kind, keep_float32=False):
        return ops.parameter(random.standard_normal(shape, dtype=np.float32), kind, keep_float32)

    bias = weight(2, 6, kind="vector", keep_float32=True)
    groups = [
        ExpertGroup(
            router=weight(16, 6, kind="router", keep_float32=True),
            correction_bias=ops.slice_rows(bias, index, index + 1),
            up_gate=weight(6, 16, 16, kind="experts_gate_up"),
            down=weight(6, 8, 16, kind="experts_down"),
        )
        for index in range(2)
    ]
    weights = ops.moe_weights(groups, None)
    x = weight(3, 16, kind="embedding")
    is_vision = ops.from_numpy(np.array([0, 1, 0], dtype=np.uint8))
    step = SimpleNamespace(is_vision=is_vision)
    sums = ops.moe(x, weights, 2, 1e-12, step)
    assert np.isfinite(ops.to_numpy(sums)).all()


def test_rows_that_give_logits_are_those_of_all_summed(ops):
    """Four tokens of three slots, of which the last and the second give logits."""
    random = np.random.default_rng(0)
    y, weights = random.standard_normal((12, 8)), random.random((4, 3))
    residual, norm = random.standard_normal((4, 8)), random.random(8)
    sums = SlotSums(ops.from_numpy(y), ops.from_numpy(weights, keep_float32=True))
    residual, norm = ops.from_numpy(residual), ops.from_numpy(norm)
    step = SimpleNamespace(logit_rows=ops.from_numpy(np.array([3, 1], np.int32)))

    rows, rests = ops.logit_rows(sums, residual, step)
    picked = ops.add_rms_norm(rows, rests, norm, 1e-5)

    for mine, whole in zip(picked, ops.add_rms_norm(sums, residual, norm, 1e-5), strict=True):
        np.testing.assert_array_equal(ops.to_numpy(mine), ops.to_numpy(whole)[[3, 1]])
