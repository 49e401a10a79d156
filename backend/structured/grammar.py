"""A client's constraint → a grammar in llguidance's dialect of Lark.

| kind | text |
|---|---|
| json_object | nothing; any JSON object |
| json_schema | a JSON schema, an object |
| regex | in the syntax of Rust's regex crate; matches the whole answer; `\\d` is 0 to 9 |
| choice | a JSON list of texts |
| grammar | Lark, or EBNF as in llama.cpp (`root ::= …`) |
| structural_tag | JSON {structures: [{begin, schema, end}], triggers: […]} |
| lark | a grammar put together by this program |

Nothing is fetched: a remote `$ref` is refused. Forcing is off in all of them: the library's search
for text that must come next does not end on some grammars, and its tokenizing of that text would
call back into Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from backend.structured.limits import check_depth, check_size, invalid
from backend.wire import StructuredSpec

HEADER: Final = '%llguidance {"no_forcing": true}\n'
MAX_RULES: Final = 256
MAX_NAMES: Final = 1024
"""Places in a free grammar where a rule is named. Terminals that name others many times over are
what takes the library longest: 5 rules of 800 names, 13 s."""

# Bounded, because a model that does not know how to go on writes blanks for ever.
_FREE_SPACING: Final = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,16}"}
_TRAINED_SPACING: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_SPECIAL_NAME: Final = re.compile(r"(<[^<>\s]+>)")

TokenId = Callable[[str], int | None]
"""Id of a special token by its name; None for any other text."""


def to_lark(spec: StructuredSpec, token_id: TokenId) -> str:
    """Raises InvalidRequestError (code invalid_grammar) naming `spec.param`."""
    param = spec.param
    check_size(spec.kind, spec.text, param)
    if spec.kind == "lark":
        return HEADER + spec.text
    if spec.kind == "json_object":
        return HEADER + "start: " + json_rule({"type": "object"})
    if spec.kind == "json_schema":
        schema = read_schema(_read_json(spec.text, param), param)
        return HEADER + "start: " + json_rule(schema, lenient=spec.lenient)
    if spec.kind == "regex":
        if not spec.text:
            raise invalid(param, "is empty")
        return HEADER + f"start: /{regex_to_lark(spec.text, 'd')}/"
    if spec.kind == "choice":
        return HEADER + _choice(_read_json(spec.text, param), param)
    if spec.kind == "grammar":
        return HEADER + _free_grammar(spec.text, param)
    return HEADER + _structural_tag(_read_json(spec.text, param), param, token_id)


def read_schema(schema: Any, param: str) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise invalid(param, "is not a JSON object, as a schema must be")
    check_depth(schema, param)
    return schema


def json_rule(schema: dict[str, Any], *, lenient: bool = False, as_trained: bool = False) -> str:
    """`lenient`: what the library cannot enforce is left out instead of refused.

    `as_trained`: spaced like json.dumps, as models write tool calls; else up to 16 blanks may stand
    wherever JSON allows any.
    """
    options = {**(_TRAINED_SPACING if as_trained else _FREE_SPACING), "lenient": lenient}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def literal(text: str, token_id: TokenId) -> str:
    """Lark for `text`, in which names of special tokens mean those tokens."""
    terms = []
    for part in _SPECIAL_NAME.split(text):
        known = token_id(part)
        if known is not None:
            terms.append(f"<[{known}]>")
        elif part:
            terms.append(json.dumps(part, ensure_ascii=False))
    return " ".join(terms)


def _read_json(text: str, param: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise invalid(param, "is not valid JSON") from None


def _choice(choices: Any, param: str) -> str:
    if not isinstance(choices, list) or not choices:
        raise invalid(param, "is not a list with at least one text")
    for place, text in enumerate(choices):
        if not isinstance(text, str) or not text:
            raise invalid(param, f"[{place}] is not a text with at least one character")
    # One terminal: as many rules as choices would exceed the parser's width.
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(text) for text in choices)


def _free_grammar(text: str, param: str) -> str:
    num_rules = max(text.count("::="), sum(":" in line for line in text.splitlines()))
    if num_rules > MAX_RULES:
        raise invalid(param, f"has {num_rules} rules; at most {MAX_RULES} are allowed")
    try:
        lark: str = any_to_lark(text)
    except (Exception, RecursionError):
        raise invalid(param, "is neither a Lark grammar nor EBNF with a rule `root`") from None
    num_names = len(_NAME.findall(_QUOTED.sub(" ", lark)))
    if num_names > MAX_NAMES:
        raise invalid(param, f"names rules {num_names} times; at most {MAX_NAMES} are allowed")
    return "\n".join(line for line in lark.splitlines() if not line.startswith("%llguidance"))


def _structural_tag(value: Any, param: str, token_id: TokenId) -> str:
    if not isinstance(value, dict):
        raise invalid(param, "is not a JSON object")
    structures, triggers = value.get("structures"), value.get("triggers")
    if not isinstance(structures, list) or not structures or not isinstance(triggers, list):
        raise invalid(param, "must have structures and triggers, lists with at least one element")
    names = [f"tag_{i}" for i in range(len(structures))]
    rules = [f"start: ({' | '.join(names)})* TEXT", r"TEXT: /(.|\n)*/"]
    for i, structure in enumerate(structures):
        where = f"{param}.structures[{i}]"
        begin, end, schema = _read_structure(structure, where)
        trigger = next(
            (t for t in triggers if isinstance(t, str) and t and begin.startswith(t)), ""
        )
        if not trigger:
            raise invalid(where, "has a begin that starts with none of the triggers")
        check_depth(schema, where)
        rules += _tag_rules(names[i], trigger, begin, json_rule(schema), end, token_id)
    return "\n".join(rules)


def _tag_rules(
    name: str, trigger: str, begin: str, body: str, end: str, token_id: TokenId
) -> Iterator[str]:
    special = token_id(trigger)
    rest = literal(begin[len(trigger) :], token_id)
    close = literal(end, token_id)
    if special is not None:
        yield f"{name}: TEXT <[{special}]> {rest} {name}_body {close}"
    else:
        yield f"{name}_trigger[lazy]: TEXT {json.dumps(trigger)}"
        yield f"{name}: {name}_trigger {rest} {name}_body {close}"
    yield f"{name}_body: {body}"


def _read_structure(structure: Any, where: str) -> tuple[str, str, dict[str, Any]]:
    if not isinstance(structure, dict):
        raise invalid(where, "is not a JSON object")
    begin, end = structure.get("begin"), structure.get("end", "")
    if not isinstance(begin, str) or not isinstance(end, str):
        raise invalid(where, "must have the texts begin and end")
    return begin, end, read_schema(structure.get("schema", {}), f"{where}.schema")
