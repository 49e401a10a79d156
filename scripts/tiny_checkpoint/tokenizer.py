"""An ERNIE-4.5 tokenizer's files, trained on any text: same kinds of pieces, few of them.

SentencePiece BPE with byte fallback, no dummy prefix, no normalisation, digits as pieces of their
own; the control tokens follow in added_tokens.json, by the released names but with compact ids.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
NUM_LOCATIONS = 11
NUM_UNUSED = 4
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<response>",
    "</response>",
)
CONTROL_TOKENS = (
    "<|end_of_sentence|>",
    "<|begin_of_sentence|>",
    "<mask:1>",
    "<mask:4>",
    "<mask:5>",
    "<mask:6>",
    "<mask:7>",
    "<|im_start|>",
    "<|im_end|>",
    "<|IMAGE_PLACEHOLDER|>",
    "<|AUDIO_PLACEHOLDER|>",
    *(f"<|LOC_{number}|>" for number in range(NUM_LOCATIONS)),
    "<|LOC_BEGIN|>",
    "<|LOC_END|>",
    "<|LOC_SEP|>",
    "<|CROP_COL_SEP|>",
    "<|CROP_ROW_SEP|>",
    "<|IMAGE_SEP|>",
    "<|IMAGE_START|>",
    "<|IMAGE_END|>",
    "<|VIDEO_START|>",
    "<|VIDEO_END|>",
    "<|ASR_START|>",
    "<|ASR_END|>",
    *(f"<|unused{number}|>" for number in range(NUM_UNUSED)),
)
NAMED_TOKENS: dict[str, str] = {
    "unk_token": UNK,
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": UNK,
    "cls_token": "<|begin_of_sentence|>",
    "sep_token": "<|end_of_sentence|>",
    "mask_token": "<mask:1>",
}


def train_tokenizer(
    texts: Iterable[str], folder: Path, vocab_size: int, chat_template: str | None = None
) -> dict[str, int]:
    """Write tokenizer.model, added_tokens.json, tokenizer_config.json, special_tokens_map.json.

    `vocab_size` counts SentencePiece pieces (unk, bos, eos, 10 digits, 256 bytes, then what the
    text gives); the added tokens' ids follow. Single-threaded: same text, same bytes. Returns the
    added tokens' ids by name; the highest of them is the tokenizer's last id.
    """
    pieces = _train_pieces(texts, vocab_size)
    (folder / "tokenizer.model").write_bytes(pieces)
    num_pieces = sentencepiece.SentencePieceProcessor(model_proto=pieces).get_piece_size()
    names = (*CONTROL_TOKENS[:9], *MARKERS, *CONTROL_TOKENS[9:])
    added = {name: num_pieces + index for index, name in enumerate(names)}
    tokens: dict[str, Any] = {
        **NAMED_TOKENS,
        "additional_special_tokens": [
            name for name in CONTROL_TOKENS if name not in NAMED_TOKENS.values()
        ],
    }
    settings: dict[str, Any] = {
        **tokens,
        "tokenizer_class": "Ernie4_5_Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    write_json(folder / "added_tokens.json", added)
    write_json(folder / "special_tokens_map.json", tokens)
    write_json(folder / "tokenizer_config.json", settings)
    return added


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def _train_pieces(texts: Iterable[str], vocab_size: int) -> bytes:
    lines = [line for text in texts for line in text.splitlines() if line]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        user_defined_symbols=[str(digit) for digit in range(10)],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=-1,
        unk_piece=UNK,
        bos_piece=BOS,
        eos_piece=EOS,
        # Its training would otherwise depend on how many cores the machine has.
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
