"""`tokenize` counts what `generate` would read; `detokenize` is its inverse."""

from __future__ import annotations

import pytest

from backend import wire
from backend.errors import ContextLengthError, InvalidRequestError


def test_tokenize_gives_the_prompt_of_generate_however_long_it_is(make_preprocessor):
    short = make_preprocessor(max_model_len=64)
    for text in ("a bridge", "a bridge " * 200):
        request = wire.GenerateRequest(messages=[wire.Message("user", text)], op="tokenize")
        ids = short.prepare(request, [], "id").prompt_ids
        request.op = "generate"
        try:
            assert short.prepare(request, [], "id").prompt_ids.tolist() == ids.tolist()
        except ContextLengthError:
            assert len(ids) > 64


@pytest.mark.parametrize("text", ["Bridges, 桥梁 and 🌉", "", " two  spaces\n", "</s>"])
def test_detokenize_gives_back_what_was_tokenized(preprocessor, text):
    ids = []
    if text:
        request = wire.GenerateRequest(prompt=text, op="tokenize")
        ids = preprocessor.prepare(request, [], "id").prompt_ids.tolist()
    question = wire.GenerateRequest(prompt=ids, op="detokenize", skip_special_tokens=False)
    assert preprocessor.detokenize(question) == text


@pytest.mark.parametrize("prompt", [None, "text", [-1], [10**9], [0] * (2**20 + 1)])
def test_detokenize_refuses_what_are_no_tokens(preprocessor, prompt):
    with pytest.raises(InvalidRequestError) as raised:
        preprocessor.detokenize(wire.GenerateRequest(prompt=prompt, op="detokenize"))
    assert raised.value.param == "tokens"
