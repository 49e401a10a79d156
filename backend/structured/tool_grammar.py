"""The grammar of tool calls as the models write them:

<tool_call>
{"name": "get_weather", "arguments": {"city": "Beijing"}}
</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from backend.structured.grammar import TokenId, json_rule, literal, read_schema, to_lark
from backend.structured.limits import check_size
from backend.wire import StructuredSpec, Tool

MAX_CALLS: Final = 16
CALL_START: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
_TEXT_TAGS: Final = ("<think>", "</think>", "<response>", "</response>")
"""Special tokens that models write around free text."""

_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def tool_call_spec(
    tools: Sequence[Tool],
    token_id: TokenId,
    *,
    max_calls: int = MAX_CALLS,
    otherwise: StructuredSpec | None = None,
) -> StructuredSpec:
    """One to `max_calls` calls of `tools`, each with arguments by its tool's schema.

    `otherwise`: a JSON constraint that the answer may follow instead. A tool with `strict` is
    refused when its schema says more than can be enforced; others are enforced as far as possible.
    Raises InvalidRequestError (code invalid_grammar) naming the tool's field.
    """
    repeat = f' ("\\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    rules = [
        "start: calls" + (" | otherwise" if otherwise else ""),
        # The models end their last call with a newline, too; refused one, they go on calling.
        f'calls: call{repeat} "\\n"?',
        f"call: {literal(CALL_START, token_id)} call_rest",
        *_call_rules([_arguments(*item) for item in _with_params(tools)], tools, token_id),
    ]
    if otherwise is not None:
        _, _, rule = to_lark(otherwise, token_id).rpartition("start: ")
        rules.append(f"otherwise: {rule}")
    return StructuredSpec(kind="lark", text="\n".join(rules), param="tools")


def free_calls_spec(
    tools: Sequence[Tool], token_id: TokenId, *, is_single: bool = False
) -> StructuredSpec:
    """Any text, and calls of `tools` in it: from `<tool_call>` on a call is as its grammar says.

    Arguments of a tool with `strict` follow its schema, those of others are any JSON object.
    `is_single`: at most one call, behind which nothing follows. Raises InvalidRequestError (code
    invalid_grammar) naming the tool's field.
    """
    arguments = [
        _arguments(tool, param) if tool.function.strict else json_rule({"type": "object"})
        for tool, param in _with_params(tools)
    ]
    start = token_id(CALL_START)
    tags = [f"TEXT? <[{i}]>" for i in map(token_id, _TEXT_TAGS) if i is not None]
    rules = [
        f"start: ({' | '.join([*tags, 'call'])})* TEXT?",
        r"TEXT: /(.|\n)+/",
        f"call: {'opening' if start is None else f'TEXT? <[{start}]>'} call_rest",
        *_call_rules(arguments, tools, token_id),
    ]
    if is_single:
        before = f"({' | '.join(tags)})* " if tags else ""
        rules[0] = f'start: {before}(TEXT | call "\\n"?)?'
    if start is None:
        rules.append(rf"opening[lazy]: /(.|\n)*/ {_text(CALL_START)}")
    return StructuredSpec(kind="lark", text="\n".join(rules), param="tools")


def _call_rules(
    arguments: Sequence[str], tools: Sequence[Tool], token_id: TokenId
) -> Iterator[str]:
    """`call_rest`, what follows `<tool_call>`. `arguments`: each tool's, as a rule's body."""
    names = [f"call_{i}" for i in range(len(tools))]
    yield (
        f"call_rest: {_text(chr(10))} ({' | '.join(names)}) {_text(chr(10))} "
        f"{literal(CALL_END, token_id)}"
    )
    for i, tool in enumerate(tools):
        name = json.dumps(tool.function.name, ensure_ascii=False)
        begin = _text(f'{{"name": {name}, "arguments": ')
        yield f"call_{i}: {begin} arguments_{i} {_text('}')}"
        yield f"arguments_{i}: {arguments[i]}"


def _with_params(tools: Sequence[Tool]) -> Iterator[tuple[Tool, str]]:
    return ((tool, f"tools[{i}].function.parameters") for i, tool in enumerate(tools))


def _arguments(tool: Tool, param: str) -> str:
    schema = tool.function.parameters
    if schema:
        check_size("json_schema", json.dumps(schema), param)
        schema = {"type": "object", **read_schema(schema, param)}
    return json_rule(
        schema or dict[str, Any](_NO_PARAMETERS),
        lenient=not tool.function.strict,
        as_trained=True,
    )


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
