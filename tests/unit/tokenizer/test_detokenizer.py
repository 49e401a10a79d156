from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.tokenizer import IncrementalDetokenizer, Tokenizer

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["😀", "👨‍👩‍👧", "你好", "é", "\n", " ", "hello world", "<think>", "</s>"]),
        st.text(max_size=5),
    )
).map("".join)


def assert_pushes_equal_decode(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], skip: bool
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, skip)
    borders = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pushed = [detokenizer.push(ids[a:b]) for a, b in itertools.pairwise(borders)]
    assert "".join(pushed) + detokenizer.finish() == tokenizer.decode(ids, skip)


@settings(deadline=None)
@given(ids=st.lists(st.integers(-2, 1030)), cuts=st.lists(st.integers(0)), skip=st.booleans())
def test_any_tokens_in_any_pieces_give_the_decoded_text(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], skip: bool
) -> None:
    assert_pushes_equal_decode(tokenizer, ids, cuts, skip)


@settings(deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0)), skip=st.booleans())
def test_text_comes_back_whatever_the_pieces(
    tokenizer: Tokenizer, text: str, cuts: list[int], skip: bool
) -> None:
    assert_pushes_equal_decode(tokenizer, tokenizer.encode_template(text), cuts, skip)


def byte_ids(tokenizer: Tokenizer) -> Callable[[bytes], list[int]]:
    ids = {tokenizer.id_to_bytes(i): i for i in range(3, 259)}
    return lambda data: [ids[bytes([value])] for value in data]


@settings(deadline=None)
@given(data=st.binary(), cuts=st.lists(st.integers(0)))
def test_any_bytes_in_any_pieces_give_the_decoded_text(
    tokenizer: Tokenizer, data: bytes, cuts: list[int]
) -> None:
    assert_pushes_equal_decode(tokenizer, byte_ids(tokenizer)(data), cuts, True)


def test_half_a_character_is_held_back_and_shown_as_soon_as_it_is_whole(
    tokenizer: Tokenizer,
) -> None:
    first, second, third = byte_ids(tokenizer)("你".encode())
    detokenizer = IncrementalDetokenizer(tokenizer, True)
    assert [detokenizer.push([i]) for i in (first, second, third)] == ["", "", "你"]
    assert detokenizer.finish() == ""


def test_half_a_character_at_the_end_is_not_lost(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, True)
    assert detokenizer.push(byte_ids(tokenizer)(b"a\xe4\xbd")) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_a_special_token_after_half_a_character_is_kept_verbatim(tokenizer: Tokenizer) -> None:
    ids = [*byte_ids(tokenizer)(b"\xf0\x9f"), *tokenizer.encode_template("<think>x")]
    detokenizer = IncrementalDetokenizer(tokenizer, True)
    assert [detokenizer.push([i]) for i in ids[:3]] == ["", "", "\ufffd<think>"]
