"""The tokenizer's training text: words one by one, so that pieces never hold a space.

A word then has the same pieces wherever it stands: after a space in a question, after a quotation
mark in JSON. That makes copying exact. Chinese characters are pieces of their own for the same
reason, and capitals inside words are too, so that printed words are read letter by letter.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scripts.tiny_checkpoint import train_tokenizer

from .mixture import training_sample
from .processing import CHECKPOINT
from .sample import Sample

NUM_PIECES = 1664
NUM_SAMPLES = 12_000
_SEED = 77
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]|[一-鿿]|[^\sA-Za-z0-9一-鿿]+")
_ASCII = "".join(chr(code) for code in range(32, 127))
_PUNCTUATION = "，。？！、：；“”《》（）–’"
_TEMPLATE_WORDS = ("User", "Assistant", "Picture", "Video", "tool", "list", "output", "call")
# Rarer words weigh little; frequent ones no more than this.
_MOST = 400


def train(folder: Path = CHECKPOINT) -> dict[str, int]:
    """Write the tokenizer's files into `folder`; returns the added tokens' ids by name."""
    return train_tokenizer(lines(), folder, NUM_PIECES)


def lines() -> Iterator[str]:
    """Words of the training text, each as often as it counts."""
    words: Counter[str] = Counter()
    for index in range(NUM_SAMPLES):
        for text in _texts(training_sample(_SEED, index, _TEXT_SHARES)):
            words.update(_WORD.findall(text))
    yield from _ASCII + _PUNCTUATION
    yield from _TEMPLATE_WORDS * _MOST
    for word, count in sorted(words.items()):
        rare_character = len(word) == 1 and count < 25 and not word.isascii()
        if not rare_character:
            yield from [word] * min(count, _MOST)


# Media are drawn for nothing here, so the tasks with little text have a small share.
_TEXT_SHARES = {
    "pictures": 0.2,
    "comparing": 0.05,
    "films": 0.03,
    "reading": 0.02,
    "tools": 0.45,
    "chat": 0.2,
    "unknown": 0.04,
    "zoom": 0.01,
}


def _texts(sample: Sample) -> Iterator[str]:
    for message in sample.messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else (p.get("text", "") for p in content)
    yield from (json.dumps(tool, ensure_ascii=False) for tool in sample.tools)
    yield sample.reasoning
    yield sample.answer_text()
