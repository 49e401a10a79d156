"""Which of ERNIE-4.5's prompt and answer formats a checkpoint speaks.

`config.json` does not tell a Thinking model from its sibling of the same shape. In this order:

1. a reasoning parser that is named for one format says so;
2. `Thinking` or `X1` as a word in the last three parts of the folder's path (a hub cache keeps
   the model's name above a folder named by a hash);
3. otherwise the plain format: hybrid thinking for vision-language models, none for text models.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path


class Family(str, enum.Enum):
    """`TEXT`: 0.3B, 21B, 300B. `VL`: 28B, 424B. `X1`: 21B-Thinking and other ChatML models."""

    TEXT = "ernie-45"
    VL = "ernie-45-vl"
    VL_THINKING = "ernie-45-vl-thinking"
    X1 = "ernie-x1"


_THINKING_WORD = re.compile(r"(?i)(?<![a-z0-9])(thinking|x1)(?![a-z0-9])")


def detect_family(folder: Path, is_multimodal: bool, reasoning_parser: str = "") -> Family:
    """`reasoning_parser` is the setting: a parser's name, "" or "none"."""
    families = (Family.VL, Family.VL_THINKING) if is_multimodal else (Family.TEXT, Family.X1)
    for family in families:
        if family.value == reasoning_parser:
            return family
    paths = (folder.absolute(), folder.resolve())
    names = [part for path in paths for part in path.parts[-3:]]
    return families[any(_THINKING_WORD.search(name) for name in names)]
