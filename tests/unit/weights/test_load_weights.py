"""Both layouts of one model load to the same canonical tensors, however their files are cut."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.models.parameters import parameter_specs
from backend.weights import load_weights
from scripts.tiny_checkpoint import make_tiny_checkpoint, random_tensors, write_checkpoint

KINDS = ("vl", "dense", "moe")


def _assert_same(left, right):
    assert list(left) == list(right)
    for name in left:
        assert np.array_equal(left[name], right[name]), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_layouts_load_to_the_tensors_they_were_made_of(
    kind, dtype, make_checkpoint, load_arrays
):
    paddle = load_arrays(make_checkpoint(kind, "paddle", dtype=dtype, seed=3))
    hf = load_arrays(make_checkpoint(kind, "hf", dtype=dtype, seed=3, shards=3))
    _assert_same(paddle, hf)


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("kind", KINDS)
def test_canonical_tensors_come_back_as_written(kind, layout, make_checkpoint, load_arrays):
    folder = make_checkpoint(kind, layout, dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    written, loaded = random_tensors(config, 0), load_arrays(folder)
    assert written.keys() == loaded.keys()
    for name in written.keys() - {"embed_tokens.weight"}:
        assert np.array_equal(written[name], loaded[name]), name


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_shards_load_like_one_file(layout, make_checkpoint, load_arrays):
    _assert_same(
        load_arrays(make_checkpoint("vl", layout)),
        load_arrays(make_checkpoint("vl", layout, shards=4)),
    )


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_an_untied_head_is_loaded_as_in_by_out(layout, make_checkpoint, load_arrays):
    folder = make_checkpoint("dense", layout, tied=False, dtype="float32")
    config = load_model_config(folder)
    head = load_arrays(folder)["lm_head.weight"]
    assert head.shape == (config.hidden_size, config.vocab_size)


def test_bfloat16_files_hold_float32_routers(make_checkpoint, load_arrays):
    exact = load_arrays(make_checkpoint("vl", dtype="float32"))
    rounded = load_arrays(make_checkpoint("vl", dtype="bfloat16"))
    for name, array in exact.items():
        assert np.allclose(array, rounded[name], rtol=2**-8, atol=0), name
        same = np.array_equal(array, rounded[name])
        assert same == (".gate.weight" in name or "correction_bias" in name), name


def test_arrays_are_contiguous_float32_of_the_specs_shape_and_writable(make_checkpoint):
    folder = make_checkpoint("vl", "hf")
    config = load_model_config(folder)
    specs = parameter_specs(config)
    seen = []

    def to_tensor(array, spec):
        assert array.shape == spec.shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.owndata
        seen.append(spec.name)
        return spec.name

    weights = load_weights(folder, config, specs, to_tensor, progress=False)
    assert seen == list(specs)
    assert weights == {name: name for name in specs}


@pytest.mark.parametrize(
    ("layout", "prefix"), [("paddle", "ernie."), ("hf", "model.")], ids=["paddle", "hf"]
)
@pytest.mark.parametrize("part", ["", "resampler_model."], ids=["everywhere", "resampler"])
def test_names_may_lack_their_prefix(
    layout, prefix, part, copy_checkpoint, make_checkpoint, load_arrays, edit_header
):
    folder = copy_checkpoint("vl", layout)

    def strip(header):
        for name in [name for name in header if name.startswith(prefix + part)]:
            header[name.removeprefix(prefix)] = header.pop(name)

    edit_header(folder / "model.safetensors", strip)
    _assert_same(load_arrays(folder), load_arrays(make_checkpoint("vl", layout)))


def test_towers_may_have_a_prefix(copy_checkpoint, make_checkpoint, load_arrays, edit_header):
    folder = copy_checkpoint("vl", "hf")

    def add(header):
        for name in [name for name in header if name.startswith("vision_model.")]:
            header["model." + name] = header.pop(name)

    edit_header(folder / "model.safetensors", add)
    _assert_same(load_arrays(folder), load_arrays(make_checkpoint("vl", "hf")))


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_mtp_tensors_and_the_head_of_a_tied_model_are_skipped(layout, tmp_path, load_arrays):
    config = make_tiny_checkpoint(tmp_path, "moe", layout)
    plain = load_arrays(tmp_path)
    hidden = config["hidden_size"]
    tensors = {
        **random_tensors(config, 0),
        "lm_head.weight": np.ones((hidden, config["vocab_size"]), np.float32),
        "mtp_emb_norm.0.weight": np.ones(hidden, np.float32),
        "mtp_linear_proj.0.weight": np.ones((2 * hidden, hidden), np.float32),
        "mtp_block.0.self_attn.o_proj.weight": np.ones((hidden, hidden), np.float32),
    }
    write_checkpoint(tmp_path, layout, config, tensors)
    assert load_arrays(tmp_path).keys() == plain.keys()


def test_float16_files_load(copy_checkpoint, load_arrays, edit_header):
    folder = copy_checkpoint("dense", "paddle")

    def relabel(header):
        for entry in header.values():
            if entry.get("dtype") == "BF16":
                entry["dtype"] = "F16"

    bits = load_arrays(folder)["norm.weight"].view(np.uint32) >> 16
    edit_header(folder / "model.safetensors", relabel)
    expected = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    assert np.array_equal(load_arrays(folder)["norm.weight"], expected)


def test_progress_counts_bytes_on_stderr_and_can_be_silent(make_checkpoint, capsys):
    folder = make_checkpoint("dense")
    config = load_model_config(folder)
    specs = parameter_specs(config)
    load_weights(folder, config, specs, lambda array, spec: None)
    captured = capsys.readouterr()
    assert "Loading Weights: 100%|" in captured.err
    assert captured.out == ""
    load_weights(folder, config, specs, lambda array, spec: None, progress=False)
    assert capsys.readouterr().err == ""


def test_loading_holds_one_parameter_at_a_time(make_checkpoint):
    folder = make_checkpoint("vl", "hf")
    config = load_model_config(folder)
    specs = parameter_specs(config)
    largest = max(4 * math.prod(spec.shape) for spec in specs.values())
    load_weights(folder, config, specs, lambda array, spec: None, progress=False)
    tracemalloc.start()
    try:
        load_weights(folder, config, specs, lambda array, spec: None, progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bookkeeping = 400_000
    assert peak < largest + bookkeeping, f"peak {peak}, largest parameter {largest}"
