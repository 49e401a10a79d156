"""Pictures on the device's runner, with NumPy in the place of its kernels: one that cannot be
encoded fails alone, and blocks that NaN may have reached are overwritten."""

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner
from backend.engine.loading import load_model
from backend.ops import cuda_ops
from backend.request import SamplingParams
from backend.runner import device_runner as device_runner_module
from backend.wire import EngineRequest, MediaSpan
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.unit.ops import numpy_kernels

GRID = (1, 4, 4)
NUM_PLACEHOLDERS = 4
BLOCK_SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vl")
    make_tiny_checkpoint(folder, "vl", dtype="float32")
    return folder


@pytest.fixture
def core(folder, monkeypatch):
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    monkeypatch.setattr(device_runner_module, "kernels", numpy_kernels)
    settings = EngineSettings(
        folder,
        executor="cuda",
        device="gpu:0",
        max_num_seqs=4,
        max_num_batched_tokens=64,
        num_kv_blocks=32,
        max_model_len=64,
        block_size=BLOCK_SIZE,
        encoder_cache_gib=0.0,
    )
    loaded = load_model(settings)
    config, maker = loaded.config, device_runner(settings, loaded.config)
    core = EngineCore(loaded.model, config, settings, [2], config.vocab_size, make_runner=maker)
    core.config = config
    return core


def _add(core, key, with_picture=True):
    """A short greedy question, about a picture of its own."""
    config = core.config
    start, end = config.vision_boundary_token_ids[:2]
    ids = [300, 301]
    media, pixels = (), None
    if with_picture:
        digest = f"{ord(key[-1]):064x}"
        media = (MediaSpan("image", len(ids) + 1, NUM_PLACEHOLDERS, GRID, 0, digest),)
        ids += [start, *[config.image_token_id] * NUM_PLACEHOLDERS, end]
        shape = (16, config.vision.patch_dim)
        pixels = np.random.default_rng(ord(key[-1])).integers(0, 256, shape, np.uint8)
        pixels[0, 0] = ord(key[-1])
    request = EngineRequest(
        stream_key=key,
        sampling=SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True),
        media=media,
    )
    core.add(request, np.array([*ids, 302], dtype=np.int32), None, pixels)


def _finish(core):
    """Token ids of each stream, and the errors of those that failed."""
    tokens, errors = {}, {}
    while core.has_work():
        for output in core.step():
            tokens.setdefault(output.stream_key, []).extend(output.token_ids)
            if output.error is not None:
                errors[output.stream_key] = output.error
    core.check_integrity()
    assert core.stats()["kv_blocks_held"] == 0
    return tokens, errors


@pytest.fixture
def expected(core):
    for key in "abt":
        _add(core, key, with_picture=key != "t")
    tokens, errors = _finish(core)
    assert not errors
    assert tokens["a"] != tokens["b"], "the pictures make no difference"
    return tokens


def _fail_on_encoding(core, monkeypatch, error, marker):
    encode = core._runner._encoder._model.encode_media

    def fail(patches, grids):
        if patches[0, 0] == marker:
            raise error
        return encode(patches, grids)

    monkeypatch.setattr(core._runner._encoder._model, "encode_media", fail)


@pytest.mark.parametrize(
    "error",
    [numpy_kernels.OutOfMemoryError("cudaMalloc: out of memory"), ValueError("odd grid")],
    ids=["memory", "other"],
)
def test_a_picture_that_cannot_be_encoded_fails_alone(core, expected, monkeypatch, error):
    _fail_on_encoding(core, monkeypatch, error, marker=ord("x"))
    for key in "axbt":
        _add(core, key, with_picture=key != "t")
    tokens, errors = _finish(core)
    assert errors.keys() == {"x"}
    assert "could not be encoded" in errors["x"].message
    for key in "abt":
        assert tokens[key] == expected[key]


def test_a_picture_alone_in_its_step_fails_alone_too(core, expected, monkeypatch):
    error = numpy_kernels.OutOfMemoryError("cudaMalloc: out of memory")
    _fail_on_encoding(core, monkeypatch, error, marker=ord("x"))
    _add(core, "x")
    assert _finish(core)[1].keys() == {"x"}
    _add(core, "a")
    assert _finish(core)[0]["a"] == expected["a"]


def test_a_lost_device_in_the_encoder_ends_the_engine(core, monkeypatch):
    error = numpy_kernels.CudaError("an illegal memory access was encountered")
    _fail_on_encoding(core, monkeypatch, error, marker=ord("x"))
    _add(core, "x")
    with pytest.raises(numpy_kernels.CudaError, match="illegal memory access"):
        _finish(core)


def test_blocks_that_nan_may_have_reached_are_overwritten(core, expected):
    cache = core._runner._kv_cache
    everywhere = [tensor.array for tensor in (*cache.keys, *cache.values)]
    for array in everywhere:
        array[[3, 7]] = np.nan
    core._runner.overwrite_blocks([3, 7])
    assert all(np.isfinite(array[[3, 7]]).all() for array in everywhere)
    _add(core, "a")
    assert _finish(core)[0]["a"] == expected["a"]


def test_a_request_with_nan_fails_alone_and_leaves_none_behind(core, expected):
    """NaN in its keys while a step ahead of its failure is already on its way."""
    for key in "ab":
        _add(core, key)
    core.step()
    core.step()
    cache = core._runner._kv_cache
    request = core._generations["a"].request
    own = request.block_table.block_ids.tolist()
    cache.keys[1].array[own[0]] = np.nan
    tokens, errors = _finish(core)
    assert errors.keys() == {"a"}
    assert errors["a"].code == "numerical_error"
    assert expected["b"][-len(tokens["b"]) :] == tokens["b"]
    assert all(np.isfinite(tensor.array).all() for tensor in (*cache.keys, *cache.values))


def test_embeddings_count_as_the_bfloat16_that_a_device_keeps(core):
    model = core._runner._encoder._model
    assert model.media_bytes_per_token == 2 * core.config.hidden_size
