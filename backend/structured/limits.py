"""What a client's grammar may cost. Measured with 103,424 tokens by scripts/bench_grammar.py.

JSON schemas, expressions and choices stay below 0.2 s to compile and a few milliseconds a mask
whatever they hold. Free grammars do not: 16 KB of nested optional alternatives take minutes, so
their size in symbols is what bounds them.
"""

from __future__ import annotations

from typing import Final

from llguidance import LLParserLimits

from backend.errors import InvalidRequestError
from backend.wire import MAX_JSON_DEPTH, StructuredKind, is_too_deep

MAX_BYTES: Final = 64 * 2**10
MAX_FREE_GRAMMAR_BYTES: Final = 16 * 2**10
MAX_COMPOSED_BYTES: Final = 512 * 2**10
"""Of a grammar put together by the preprocessor from several tools' schemas."""

COMPILE_TIMEOUT_S: Final = 2.0
MASK_TIMEOUT_S: Final = 2.0

_WIDE: Final = LLParserLimits(
    initial_lexer_fuel=200_000,
    max_grammar_size=50_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
_FREE: Final = LLParserLimits(
    initial_lexer_fuel=20_000,
    max_grammar_size=2_000,
    max_lexer_states=50_000,
    step_max_items=20_000,
    verbose_errors=False,
)
_SIZES: Final[dict[StructuredKind, int]] = {
    "grammar": MAX_FREE_GRAMMAR_BYTES,
    "lark": MAX_COMPOSED_BYTES,
}


def parser_limits(kind: StructuredKind) -> LLParserLimits:
    return _FREE if kind == "grammar" else _WIDE


def check_size(kind: StructuredKind, text: str, param: str) -> None:
    """Raises InvalidRequestError naming the field, its bytes and the limit."""
    limit = _SIZES.get(kind, MAX_BYTES)
    size = len(text.encode("utf-8", "replace"))
    if size > limit:
        raise invalid(param, f"has {size} bytes; at most {limit} are allowed")


def check_depth(value: object, param: str) -> None:
    """Raises InvalidRequestError when objects and lists are nested deeper than MAX_JSON_DEPTH."""
    if is_too_deep(value):
        raise invalid(param, f"is nested deeper than {MAX_JSON_DEPTH} levels")


def invalid(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} {what}", param=param, code="invalid_grammar")
