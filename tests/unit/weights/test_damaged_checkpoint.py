"""A damaged checkpoint is refused with file, tensor, expected and found; nothing is half loaded."""

import json

import pytest

from backend.config.model import load_model_config
from backend.errors import CheckpointError
from backend.models.parameters import parameter_specs
from backend.weights import load_weights

INDEX = "model.safetensors.index.json"
NORM = "ernie.norm.weight"


def _refused(folder, message):
    """Loading fails with `message` before any tensor has been made."""
    config = load_model_config(folder)

    def to_tensor(array, spec):
        raise AssertionError(f"{spec.name} was loaded")

    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(folder, config, parameter_specs(config), to_tensor, progress=False)
    assert str(folder) in caught.value.message
    return caught.value.message


def _edit_index(folder, change):
    path = folder / INDEX
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def _last_of(header):
    """Name of the tensor whose data ends the file."""
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return max(tensors, key=lambda name: tensors[name]["data_offsets"][1])


def test_a_truncated_shard_names_file_and_tensor(copy_checkpoint):
    folder = copy_checkpoint("vl", shards=3)
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    _refused(folder, r"model-00002-of-00003\.safetensors: tensor .* ends at byte .*is it truncated")


@pytest.mark.parametrize("size", [0, 5, 8, 100])
def test_a_shard_cut_inside_its_header_is_refused(size, copy_checkpoint):
    folder = copy_checkpoint("vl", shards=3)
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    _refused(folder, r"model-00003-of-00003\.safetensors: .*is it truncated\?")


def test_bytes_after_the_last_tensor_are_refused(copy_checkpoint):
    folder = copy_checkpoint("dense")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    _refused(folder, r"model\.safetensors: tensors end at byte \d+; the file has \d+ bytes")


def test_every_flipped_bit_of_the_start_of_a_header_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense")
    path = folder / "model.safetensors"
    good = path.read_bytes()
    # The header's length, and the first tensor after {"__metadata__":{"format":"np"}, .
    length = int.from_bytes(good[:8], "little")
    tensor = good.index(b'"ernie.embed_tokens')
    for position in [*range(8), *range(tensor, tensor + 60)]:
        for bit in range(8):
            content = bytearray(good)
            content[position] ^= 1 << bit
            path.write_bytes(content)
            _refused(folder, r"model\.safetensors: ")
    assert tensor + 60 < length


def _move_past_end(header):
    entry = header[_last_of(header)]
    entry["data_offsets"] = [offset + 4096 for offset in entry["data_offsets"]]


def _overlap(header):
    header[NORM]["data_offsets"] = [offset - 2 for offset in header[NORM]["data_offsets"]]


def _wrong_shape(header):
    header[NORM]["shape"] = [2, header[NORM]["shape"][0] // 2]


def _wrong_dtype(header):
    header[NORM]["dtype"] = "I16"


def _negative_offset(header):
    header[NORM]["data_offsets"][0] = -1


def _rename(header):
    header["ernie.nrom.weight"] = header.pop(NORM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_move_past_end, r"ends at byte \d+; the file has \d+; is it truncated"),
        (_overlap, rf"tensor {NORM} begins at byte \d+, inside tensor ernie\.layers"),
        (_wrong_shape, rf"tensor {NORM} has shape \[2, 64\]; expected \[128\] by config\.json"),
        (_wrong_dtype, rf"tensor {NORM} has dtype I16; expected one of BF16, F16, F32"),
        (_negative_offset, rf"tensor {NORM}: data_offsets is \[-1, .*expected \[begin, end\]"),
        (_rename, r"1 tensor is missing: norm\.weight \[128\]; expected with or without 'ernie\.'"),
        (lambda header: header[NORM].pop("dtype"), f"tensor {NORM}: header entry is"),
    ],
)
def test_a_wrong_header_is_refused(change, message, copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense")
    edit_header(folder / "model.safetensors", change)
    assert "model.safetensors: " in _refused(folder, message)


def test_a_tensor_twice_in_one_header_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    # Same length, so that only the name is wrong: the second layer's norm becomes the first's.
    name = b'"ernie.layers.%d.input_layernorm.weight"'
    path.write_bytes(content.replace(name % 1, name % 0))
    _refused(folder, r"ernie\.layers\.0\.input_layernorm\.weight is in the header twice")


def test_a_tensor_with_and_without_prefix_is_refused(copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense")

    def change(header):
        header["layers.0.input_layernorm.weight"] = header.pop(
            "ernie.layers.1.input_layernorm.weight"
        )

    edit_header(folder / "model.safetensors", change)
    _refused(folder, r"layers\.0\.input_layernorm\.weight is there twice")


def test_a_tensor_in_two_shards_is_refused(copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense", shards=2)

    def change(header):
        header["ernie.embed_tokens.weight"] = header.pop(NORM)

    edit_header(folder / "model-00002-of-00002.safetensors", change)
    _refused(folder, r"embed_tokens\.weight is in two files: .*00001-of.* and .*00002-of")


def test_an_extra_tensor_is_refused(copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense")

    def change(header):
        header["ernie.more.weight"] = {**header[NORM], "shape": [0]}
        header["ernie.more.weight"]["data_offsets"] = [header[NORM]["data_offsets"][1]] * 2

    edit_header(folder / "model.safetensors", change)
    _refused(folder, r"1 tensor is too many: ernie\.more\.weight \[0\]; Ernie4_5_ForCausalLM")


def test_many_missing_tensors_are_counted_and_the_first_ones_named(copy_checkpoint):
    folder = copy_checkpoint("dense")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    message = _refused(folder, "12 tensors are missing: layers.4.input_layernorm.weight")
    assert message.count("layers.4.") == 3 and "and 9 more" in message


def test_a_vl_checkpoint_as_a_text_model_has_tensors_too_many(copy_checkpoint):
    folder = copy_checkpoint("vl")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Ernie4_5_MoeForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    _refused(folder, r"moe_statics\.e_score_correction_bias has shape \[2, 8\]; expected \[1, 8\]")


def test_a_missing_shard_is_named(copy_checkpoint):
    folder = copy_checkpoint("vl", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    _refused(folder, rf"model-00002-of-00003\.safetensors does not exist; .*{INDEX} names it")


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "..",
        "",
        ".safetensors",
        "model.bin",
        "m\0.safetensors",
        3,
        None,
    ],
)
def test_an_index_that_names_another_place_is_refused(name, copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    outside = folder.parent / "model.safetensors"
    outside.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    _edit_index(folder, lambda weight_map: weight_map.update({NORM: name}))
    _refused(folder, f"{INDEX}: tensor {NORM} is in file .*expected the name of a .safetensors")


def test_an_index_that_disagrees_with_the_shards_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    first = "model-00001-of-00002.safetensors"
    _edit_index(folder, lambda weight_map: weight_map.update({NORM: first}))
    _refused(folder, rf"{NORM} should be in {first}; it is in model-00002-of-00002\.safetensors")


def test_an_index_with_a_tensor_that_no_shard_has_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    first = "model-00001-of-00002.safetensors"
    _edit_index(folder, lambda weight_map: weight_map.update({"ernie.more": first}))
    _refused(folder, rf"ernie\.more should be in {first}; it is in no file")


def test_a_shard_with_a_tensor_that_the_index_lacks_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    _edit_index(folder, lambda weight_map: weight_map.pop(NORM))
    _refused(folder, rf"00002-of-00002\.safetensors: tensor {NORM} is not in .*{INDEX}")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": []}])
def test_an_index_without_weight_map_is_refused(content, copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    (folder / INDEX).write_text(json.dumps(content))
    _refused(folder, rf"{INDEX}: weight_map is missing or empty")


def test_an_index_that_is_no_json_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    (folder / INDEX).write_text("{")
    _refused(folder, rf"{INDEX} is not valid JSON")


def test_a_folder_without_weights_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense")
    (folder / "model.safetensors").unlink()
    _refused(folder, rf"has neither model\.safetensors nor {INDEX}$")


def test_shards_without_their_index_are_named(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    (folder / INDEX).unlink()
    _refused(folder, r"has neither .*; found only model-00001-of-00002\.safetensors, model-00002")


def test_a_single_file_beside_an_index_of_others_is_refused(copy_checkpoint):
    folder = copy_checkpoint("dense", shards=2)
    (folder / "model.safetensors").write_bytes(b"")
    _refused(folder, "has both model.safetensors and model.safetensors.index.json")


def test_a_file_that_cannot_be_read_says_why(copy_checkpoint):
    folder = copy_checkpoint("dense")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    _refused(folder, r"model\.safetensors cannot be read: Is a directory")


def test_names_of_no_layout_are_refused(copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense")

    def change(header):
        for name in [name for name in header if "qkv_proj" in name]:
            header[name.replace("qkv_proj", "Wqkv")] = header.pop(name)

    edit_header(folder / "model.safetensors", change)
    _refused(folder, r"no ERNIE-4.5 checkpoint layout: .*found neither among 26 tensors")


def test_names_of_both_layouts_are_refused(copy_checkpoint, edit_header):
    folder = copy_checkpoint("dense")

    def change(header):
        old = "ernie.layers.1.self_attn.qkv_proj.weight"
        header["model.layers.1.self_attn.q_proj.weight"] = header.pop(old)

    edit_header(folder / "model.safetensors", change)
    _refused(folder, "found both among")


def test_a_pickle_is_never_opened_as_weights(copy_checkpoint):
    folder = copy_checkpoint("dense")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _refused(folder, "has neither model.safetensors nor")
