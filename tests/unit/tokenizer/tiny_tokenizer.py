"""A small tokenizer, trained in a moment, with ERNIE's special tokens and its digit tokens."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

SENTENCES = [
    "User: hello world, how are you? Assistant: I am well. def f(x): return x",
    "你好世界 今天天气很好 图中的文物属于哪个年代 思考",
    "The quick brown fox jumps over the lazy dog <think> </s> name arguments",
]
SPECIAL = [
    "<|begin_of_sentence|>",
    "<|end_of_sentence|>",
    "<mask:1>",
    "<|IMAGE_PLACEHOLDER|>",
    "<|IMAGE_START|>",
    "<|IMAGE_END|>",
    "<|LOC_7|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|im_start|>",
    "<|im_end|>",
    "<|VIDEO_START|>",
    "<|VIDEO_END|>",
]


def train(
    folder: Path, user_defined: list[str] | None = None, sentences: Sequence[str] = ()
) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES, *sentences] * 20),
        model_writer=model,
        vocab_size=480,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        user_defined_symbols=user_defined or [],
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def write_added_tokens(folder: Path) -> dict[str, int]:
    names = [*"0123456789", *SPECIAL]
    ids = {name: 1000 + i for i, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    return ids


def write_tokenizer(folder: Path) -> None:
    train(folder)
    write_added_tokens(folder)
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": {"content": "<unk>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1022]}))
