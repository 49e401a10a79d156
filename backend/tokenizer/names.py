"""Which token names are control tokens, and which of them a reader is meant to see.

The released files flag too much (every `<|LOC_n|>`) or too little (files without flags), so that
the form of a name decides where the files do not.
"""

from __future__ import annotations

import re

_ANY_TAG = re.compile(r"<(?=[^<>]*[^\W_])[^\s<>]+>")
_PLAIN_TAG = re.compile(r"</?[A-Za-z_][A-Za-z0-9_]*>")
_LOCATION = re.compile(r"<\|LOC_[A-Z0-9]+\|>")


def looks_like_control(name: str) -> bool:
    """`<s>`, `<think>`, `<|im_end|>`, `<mask:1>`: never made from user text.

    With a letter or a digit: `<=>` and `<?>` are operators, which vocabularies learn from code.
    """
    return _ANY_TAG.fullmatch(name) is not None


def carries_answer(name: str) -> bool:
    """Tags that parsers read (`<think>`, `<tool_call>`), table tags, places in a picture.

    They stay in the text when special tokens are skipped.
    """
    return bool(_PLAIN_TAG.fullmatch(name) or _LOCATION.fullmatch(name))
