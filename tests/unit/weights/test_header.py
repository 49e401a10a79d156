"""Safetensors headers: each lie is found, and no bytes raise anything but CheckpointError."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import deserialize as reference_deserialize

from backend.errors import CheckpointError
from backend.weights.header import ITEM_BITS, header_length, parse_header


def _encode(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text


def _parse(header, num_data_bytes=0):
    text = _encode(header)
    return parse_header(text, 8 + len(text) + num_data_bytes, "w.safetensors")


def _tensor(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_tensors_come_with_their_place_in_the_file_in_the_order_of_their_data():
    header = {"b": _tensor(8, 12, "BF16", (1, 2)), "__metadata__": {"x": "y"}, "a": _tensor()}
    entries = _parse(header, 12)
    start = 8 + len(json.dumps(header))
    assert list(entries) == ["a", "b"]
    assert (entries["a"].begin, entries["a"].end) == (start, start + 8)
    assert (entries["b"].dtype, entries["b"].shape) == ("BF16", (1, 2))
    assert (entries["b"].begin, entries["b"].num_bytes) == (start + 8, 4)


def test_scalars_and_empty_tensors_are_allowed():
    header = {"scalar": _tensor(0, 4, shape=()), "none": _tensor(4, 4, shape=(0, 5))}
    assert _parse(header, 4)["none"].num_bytes == 0


@pytest.mark.parametrize(
    ("header", "num_data_bytes", "message"),
    [
        (b"", 0, "not valid JSON"),
        (b"{", 0, "not valid JSON"),
        (b'{"a": \xff}', 0, "not valid JSON"),
        (b"[" * 99_999, 0, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "not valid JSON"),
        (b"[]", 0, r"header is \[\]; expected an object"),
        (b'{"a": 1, "a": 2}', 0, "a is in the header twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', 0, "dtype is in the header twice"),
        ({"__metadata__": 3}, 0, "__metadata__ is 3; expected an object"),
        ({"a": 3}, 0, "tensor a: header entry is 3; expected dtype, shape, data_offsets"),
        ({"a": {"dtype": "F32", "shape": []}}, 0, "expected dtype, shape, data_offsets"),
        ({"a": _tensor(dtype="F33")}, 8, "tensor a: dtype is F33; expected one of"),
        ({"a": _tensor(dtype=["F32"])}, 8, "tensor a: dtype is"),
        ({"a": _tensor(shape=(-2,))}, 8, r"tensor a: shape is \[-2\]"),
        ({"a": _tensor(shape=(True, 2))}, 8, r"tensor a: shape is \[True, 2\]"),
        ({"a": _tensor(shape=(2.0,))}, 8, r"tensor a: shape is \[2.0\]"),
        ({"a": _tensor(shape=(1,) * 9)}, 8, "expected at most 8 sizes"),
        ({"a": _tensor(-8, 0)}, 8, r"data_offsets is \[-8, 0\]; expected \[begin, end\]"),
        ({"a": _tensor(8, 0)}, 8, r"data_offsets is \[8, 0\]"),
        ({"a": {**_tensor(), "data_offsets": [0, 4, 8]}}, 8, r"data_offsets is \[0, 4, 8\]"),
        ({"a": _tensor(shape=(3,))}, 8, r"\[3\] of F32 needs 12 bytes; data_offsets give 8"),
        ({"a": _tensor(0, 2**70)}, 8, "data_offsets give 1180591620717411303424"),
        ({"a": _tensor(), "b": _tensor(8, 16)}, 8, "tensor b ends at byte .*is it truncated"),
        ({"a": _tensor(), "b": _tensor(4, 12)}, 12, "tensor b begins at byte .*inside tensor a"),
        ({"a": _tensor(), "b": _tensor()}, 8, "tensor b begins at byte .*inside tensor a"),
        ({"a": _tensor(4, 12)}, 12, r"tensor a begins at byte 74; bytes 70 to 74 belong to no"),
        ({"a": _tensor()}, 9, "tensors end at byte 77; the file has 78 bytes"),
        ({}, 1, "tensors end at byte 10; the file has 11 bytes"),
    ],
)
def test_a_lie_is_refused_with_what_was_expected(header, num_data_bytes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        _parse(header, num_data_bytes)
    assert caught.value.message.startswith("w.safetensors: ")
    assert len(caught.value.message) < 600


def test_names_that_would_spoil_a_terminal_are_escaped_in_messages():
    with pytest.raises(CheckpointError) as caught:
        _parse({"\x1b[2J\ud800\n": 3})
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("prefix", "file_bytes", "message"),
    [
        (b"", 0, "0 bytes is too short for a safetensors file"),
        (b"\1\0\0", 3, "3 bytes is too short"),
        ((100_000_001).to_bytes(8, "little"), 10**9, "100000001 exceeds 100000000 bytes"),
        (b"\xff" * 8, 10**9, "exceeds 100000000 bytes"),
        ((93).to_bytes(8, "little"), 100, "93 exceeds the file's 100 bytes; is it truncated"),
    ],
)
def test_a_wrong_header_length_is_refused(prefix, file_bytes, message):
    with pytest.raises(CheckpointError, match=message):
        header_length(prefix, file_bytes, "w.safetensors")


def test_a_header_may_fill_the_file_to_its_end():
    assert header_length((92).to_bytes(8, "little"), 100, "w.safetensors") == 92


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
_SIZES = st.integers(-2, 9) | st.integers() | st.booleans()
_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*ITEM_BITS, "F33"]),
        "shape": st.lists(_SIZES, max_size=3),
        "data_offsets": st.lists(_SIZES, min_size=1, max_size=3),
    }
)
_HEADER = st.dictionaries(st.text(max_size=3), _ENTRY | _JSON, max_size=4)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.integers(0, 50))
def test_arbitrary_bytes_raise_checkpoint_error_or_parse(header, num_data_bytes):
    try:
        _parse(header, num_data_bytes)
    except CheckpointError:
        pass


@settings(deadline=None)
@given(_HEADER, st.integers(0, 50))
def test_arbitrary_headers_raise_checkpoint_error_or_describe_the_file(header, num_data_bytes):
    try:
        entries = _parse(header, num_data_bytes)
    except CheckpointError:
        return
    assert sum(entry.num_bytes for entry in entries.values()) == num_data_bytes


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
)
def test_what_is_accepted_after_bit_flips_the_reference_library_accepts_too(sizes, flips):
    header, begin = {}, 0
    for index, size in enumerate(sizes):
        header[f"t{index}"] = _tensor(begin, begin + 4 * size, shape=(size,))
        begin += 4 * size
    text = bytearray(json.dumps(header).encode())
    for position, value in flips:
        text[position % len(text)] ^= value
    content = len(text).to_bytes(8, "little") + bytes(text) + bytes(begin)
    try:
        ours = parse_header(bytes(text), len(content), "w.safetensors")
    except CheckpointError:
        return
    try:
        theirs = dict(reference_deserialize(content))
    except SafetensorError as error:
        # It is stricter on unknown keys and NaN in JSON, never on where data lies.
        assert "Header" in str(error), error
        return
    assert {name: list(entry.shape) for name, entry in ours.items()} == {
        name: value["shape"] for name, value in theirs.items()
    }
