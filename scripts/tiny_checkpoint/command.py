"""Command line of `scripts/make_tiny_checkpoint.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from . import templates
from .corpus import sentences
from .files import DTYPES, write_checkpoint
from .layouts import LAYOUTS
from .random_weights import random_tensors
from .shapes import Config, dense_config, moe_config, vl_config
from .tokenizer import EOS_ID, train_tokenizer, write_json

KINDS = ("vl", "dense", "moe")
NUM_PIECES = 1200
# Tables are longer than the vocabulary in the released models too.
_VOCAB_MULTIPLE = 64
# SentencePiece numbers its pieces so: unk, bos, eos, ten digits, 256 bytes, then the rest.
_CONTROLS, _BYTES = slice(0, 3), slice(13, 269)

GENERATION_CONFIG: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PREPROCESSOR_CONFIG: dict[str, Any] = {
    "image_processor_type": "Ernie4_5_VLImageProcessor",
    "processor_class": "Ernie4_5_VLProcessor",
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 1 / 255,
    "resample": 3,
    "min_pixels": 3136,
    "max_pixels": 4842768,
    "patch_size": 14,
    "merge_size": 2,
    "temporal_conv_size": 2,
}


def make_tiny_checkpoint(
    folder: Path,
    kind: str = "vl",
    layout: str = "paddle",
    seed: int = 0,
    shards: int = 1,
    dtype: str = "bfloat16",
    tied: bool = True,
    chat_template: bool = False,
) -> Config:
    """Write a whole checkpoint into `folder` (made if need be); returns its config.json's content
    without the dtype key. Same arguments, same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = (templates.VL if kind == "vl" else templates.TEXT) if chat_template else None
    added = train_tokenizer(sentences(), folder, NUM_PIECES, template)
    num_tokens = max(added.values()) + 1
    vocab_size = -(-num_tokens // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
    if kind == "vl":
        config = vl_config(vocab_size, added["<|IMAGE_PLACEHOLDER|>"])
        write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    else:
        config = {"dense": dense_config, "moe": moe_config}[kind](vocab_size)
    config["tie_word_embeddings"] = tied
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    tensors = random_tensors(config, seed, _token_weights(vocab_size, added))
    write_checkpoint(folder, layout, config, tensors, shards, dtype)
    return config


def _token_weights(vocab_size: int, added: dict[str, int]) -> np.ndarray:
    """How loud each token is [V]: mostly text comes out, and sometimes thoughts or answers end."""
    scale = np.ones(vocab_size, np.float32)
    for rare in (_CONTROLS, _BYTES, slice(min(added.values()), None)):
        scale[rare] = 0.5
    scale[[EOS_ID, added["</think>"]]] = 1.2
    return scale


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="make_tiny_checkpoint.py",
        description="Write an ERNIE-4.5 checkpoint of a few MB with random weights.",
    )
    parser.add_argument("--kind", choices=KINDS, default="vl")
    parser.add_argument("--layout", choices=LAYOUTS, default="paddle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, help="number of weight files")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--untied", action="store_true", help="a separate lm_head")
    parser.add_argument(
        "--chat-template", action="store_true", help="put a template into tokenizer_config.json"
    )
    parser.add_argument("folder", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.shards < 1:
        parser.error(f"--shards {options.shards}: at least 1")
    make_tiny_checkpoint(
        options.folder,
        options.kind,
        options.layout,
        options.seed,
        options.shards,
        options.dtype,
        not options.untied,
        options.chat_template,
    )
