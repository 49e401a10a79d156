"""The grammar of tool calls as the models write them:

<tool_call>
{"name": "get_weather", "arguments": {"city": "Beijing"}}
</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from backend.structured.grammar import TokenId, json_rule, literal, read_schema, to_lark
from backend.structured.limits import check_size
from backend.wire import StructuredSpec, Tool

MAX_CALLS: Final = 16
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
    names = [f"call_{i}" for i in range(len(tools))]
    repeat = f' ("\\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    rules = [
        "start: calls" + (" | otherwise" if otherwise else ""),
        # The models end their last call with a newline, too; refused one, they go on calling.
        f'calls: call{repeat} "\\n"?',
        f"call: {literal('<tool_call>', token_id)} {_text(chr(10))} ({' | '.join(names)}) "
        f"{_text(chr(10))} {literal('</tool_call>', token_id)}",
    ]
    for i, tool in enumerate(tools):
        name = json.dumps(tool.function.name, ensure_ascii=False)
        begin = _text(f'{{"name": {name}, "arguments": ')
        rules.append(f"call_{i}: {begin} arguments_{i} {_text('}')}")
        rules.append(f"arguments_{i}: {_arguments(tool, f'tools[{i}].function.parameters')}")
    if otherwise is not None:
        _, _, rule = to_lark(otherwise, token_id).rpartition("start: ")
        rules.append(f"otherwise: {rule}")
    return StructuredSpec(kind="lark", text="\n".join(rules), param="tools")


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
