from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import CheckpointError
from backend.tokenizer import Tokenizer
from tests.unit.tokenizer.tiny_tokenizer import train

CONTROL_TEXTS = [
    "</s>",
    "<s>",
    "<unk>",
    "<think>",
    "<|im_end|>",
    "<|IMAGE_PLACEHOLDER|>",
    "<mask:1>",
]
PIECES = [
    *CONTROL_TEXTS,
    "<",
    "/s>",
    "|>",
    "<0x0A>",
    "▁",
    " ",
    "\n",
    "7",
    "你好",
    "😀",
    "\x00",
    "a",
]
hostile_text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("".join)


def test_roles_and_ids_come_from_the_files(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.eos_token_ids == (2, 1022)
    assert tokenizer.token_id("<think>") == 1017
    assert tokenizer.token_id("</s>") == 2
    assert tokenizer.token_id("<nothing>") is None
    assert tokenizer.vocab_size == 1025


@settings(deadline=None)
@given(text=hostile_text)
def test_user_text_never_yields_a_special_token_and_is_never_lost(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode_text(text)
    assert not any(tokenizer.is_special(i) for i in ids)
    # SentencePiece writes a space as U+2581 and cannot tell the two apart afterwards.
    assert tokenizer.decode(ids) == text.replace("▁", " ")


@pytest.mark.parametrize("text", CONTROL_TEXTS)
def test_template_text_yields_the_special_token(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode_template(text) == [tokenizer.token_id(text)]


def test_the_longest_name_wins_and_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("<think></think>12")
    names = ["<think>", "</think>", "1", "2"]
    assert ids == [tokenizer.token_id(name) for name in names]
    assert tokenizer.encode_text("12") == ids[2:]


def test_each_newline_is_one_token(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_template("\n\n</think>\n\n")) == 5


def test_template_and_user_text_merge_across_their_border(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode_text("User: hello")
    assert tokenizer.encode_parts([("User: ", True), ("hello", False)]) == whole
    assert tokenizer.encode_text("User: ") + tokenizer.encode_text("hello") != whole


@pytest.mark.parametrize("border", range(1, 10))
def test_a_control_token_cannot_be_put_together_from_both_sides(
    tokenizer: Tokenizer, border: int
) -> None:
    name = "<|im_end|>"
    parts = [(name[:border], True), (name[border:], False)]
    assert not any(tokenizer.is_special(i) for i in tokenizer.encode_parts(parts))
    assert not any(tokenizer.is_special(i) for i in tokenizer.encode_parts([(name, False)]))


def test_user_defined_pieces_of_the_model_are_out_of_reach_too(tmp_path: Path) -> None:
    train(tmp_path, user_defined=["<mask:1>", "<think>"])
    tokenizer = Tokenizer.load(tmp_path)
    mask = tokenizer.token_id("<mask:1>")
    assert mask is not None
    assert tokenizer.encode_template("a<mask:1>")[-1] == mask
    ids = tokenizer.encode_text("a<mask:1><think>b")
    assert not any(tokenizer.is_special(i) for i in ids)
    assert tokenizer.decode(ids) == "a<mask:1><think>b"


@pytest.mark.parametrize("operator", ["<=>", "<?>", "<->", "<*>"])
def test_a_learned_piece_without_a_letter_is_no_tag(tmp_path: Path, operator: str) -> None:
    train(tmp_path, sentences=[f"x{operator} y {operator} List{operator}"] * 9)
    tokenizer = Tokenizer.load(tmp_path)
    text = f"User: hello{operator}world"
    ids = tokenizer.encode_text(text)
    assert [i for i in ids if tokenizer.id_to_bytes(i) == operator.encode()]
    assert not any(tokenizer.is_special(i) for i in ids)
    assert len(ids) < len(text) - len(operator)
    assert tokenizer.decode(ids) == text


def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_text("a\ud83db")) == "a\ufffdb"


def test_hidden_tokens_are_skipped_and_tags_stay(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("<s>a<think>b</think><|LOC_7|><|im_end|></s>")
    assert tokenizer.decode(ids) == "a<think>b</think><|LOC_7|>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == (
        "<s>a<think>b</think><|LOC_7|><|im_end|></s>"
    )


def test_bytes_of_a_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.id_to_bytes(tokenizer.encode_text("\n")[0]) == b"\n"
    assert tokenizer.id_to_bytes(tokenizer.encode_text(" ")[0]) == b" "
    assert tokenizer.id_to_bytes(2) == b"</s>"
    assert tokenizer.id_to_bytes(2, skip_special_tokens=True) == b""
    assert tokenizer.id_to_bytes(-1) == tokenizer.id_to_bytes(10**6) == b""
    assert tokenizer.decode([600, 10**9, -5]) == ""


def test_flags_of_tokenizer_config_make_a_token_special(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = (tokenizer_folder / "tokenizer.model").read_bytes()
    (tmp_path / "spm.model").write_bytes(model)
    decoder = {"900": {"content": "[PAD]", "special": True}, "901": {"content": "ok"}}
    config = {"added_tokens_decoder": decoder, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode_template("[PAD]ok") == [900, 901]
    assert 900 not in tokenizer.encode_text("[PAD]ok")
    assert tokenizer.encode_text("[PAD]ok")[-1] == 901
    assert tokenizer.decode([900, 901]) == "ok"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("added_tokens.json", "[1]", "added_tokens.json: expected a JSON object, got list"),
        ("added_tokens.json", '{"<a>": "x"}', "token '<a>' has id 'x'"),
        ("added_tokens.json", "{", "added_tokens.json is not valid JSON"),
        ("tokenizer_config.json", '{"eos_token": "<gone>"}', "eos_token '<gone>' is not in"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}', "bad entry 'x'"),
        ("generation_config.json", '{"eos_token_id": "2"}', "eos_token_id is '2'"),
        ("tokenizer.model", "not a model", "tokenizer.model is not a SentencePiece model"),
    ],
)
def test_a_broken_file_is_named(
    tokenizer_folder: Path, tmp_path: Path, name: str, text: str, expected: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes((tokenizer_folder / "tokenizer.model").read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_model_says_which_files_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model, spm\.model"):
        Tokenizer.load(tmp_path)
