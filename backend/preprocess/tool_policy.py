"""`tools`, `tool_choice` and `parallel_tool_calls`: which calls the answer may, or must, hold.

| tool_choice | tools in the prompt | answer |
|---|---|---|
| none | no | text; `<tool_call>` is never generated |
| auto (default) | yes | text and calls, as the model likes |
| required | yes | calls only, by a grammar |
| a function's name | yes | exactly one call of it, by a grammar |

With `parallel_tool_calls` false there is at most one call: the grammar has room for one, and under
`auto` the answer ends after it. A `response_format` in JSON under `auto` leaves the model both
ways: calls, or an answer in that format. Without one, and with a function that is `strict`, the
text stays free, but a call that the model begins is one of these functions, with the arguments that
a strict one's schema allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backend.errors import InvalidRequestError
from backend.structured import free_calls_spec, tool_call_spec
from backend.structured.tool_grammar import MAX_CALLS
from backend.wire import GenerateRequest, NamedToolChoice, StructuredSpec, Tool

MAX_TOOLS: Final = 128
_JSON_KINDS: Final = ("json_object", "json_schema")


@dataclass(frozen=True)
class ToolPolicy:
    """`tools`: those for the template. `structured`: the constraint of the whole answer.

    `is_free`: it begins as free text, with the layout that the model gives it.
    `may_call`: calls are looked for in the answer; `must_call`: it consists of them.
    `max_calls`: 0 for any number. `banned_ids`: never to be generated.
    """

    tools: list[Tool] | None
    structured: StructuredSpec | None
    is_free: bool = False
    may_call: bool = False
    must_call: bool = False
    max_calls: int = 0
    banned_ids: tuple[int, ...] = ()


def tool_policy(
    request: GenerateRequest,
    answer: StructuredSpec | None,
    token_id: Callable[[str], int | None],
) -> ToolPolicy:
    """`answer`: the constraint that the request asks for besides its tools.

    Raises InvalidRequestError naming the field.
    """
    tools = request.tools or []
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(
            f"tools has {len(tools)} functions; at most {MAX_TOOLS} are allowed", param="tools"
        )
    choice = _read_choice(request, tools)
    if not tools:
        return ToolPolicy(None, answer)
    if choice == "none":
        call_start = token_id("<tool_call>")
        return ToolPolicy(None, answer, banned_ids=() if call_start is None else (call_start,))
    is_single = request.parallel_tool_calls is False
    max_calls = 1 if is_single else 0
    if choice == "auto":
        if answer is not None and answer.kind in _JSON_KINDS:
            limit = 1 if is_single else MAX_CALLS
            answer = tool_call_spec(tools, token_id, max_calls=limit, otherwise=answer)
        is_free = answer is None and any(tool.function.strict for tool in tools)
        if is_free:
            answer = free_calls_spec(tools, token_id, is_single=is_single)
        return ToolPolicy(tools, answer, is_free, may_call=True, max_calls=max_calls)
    if answer is not None and not answer.param.startswith("response_format"):
        raise InvalidRequestError(
            f"tool_choice demands a call and {answer.param} something else", param="tool_choice"
        )
    callable_tools = tools
    if isinstance(choice, NamedToolChoice):
        callable_tools = [t for t in tools if t.function.name == choice.function.name][:1]
    limit = 1 if is_single or isinstance(choice, NamedToolChoice) else MAX_CALLS
    spec = tool_call_spec(callable_tools, token_id, max_calls=limit)
    return ToolPolicy(tools, spec, may_call=True, must_call=True, max_calls=max_calls)


def _read_choice(request: GenerateRequest, tools: list[Tool]) -> str | NamedToolChoice:
    choice = request.tool_choice
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidRequestError(
                f"tool_choice is {choice[:64]!r}; it must be none, auto, required, or an object "
                "that names a function",
                param="tool_choice",
            )
        if choice == "required" and not tools:
            raise InvalidRequestError(
                "tool_choice is 'required' without tools", param="tool_choice"
            )
        return choice
    name = choice.function.name
    if choice.type != "function" or name not in [tool.function.name for tool in tools]:
        raise InvalidRequestError(
            f"tool_choice names the {choice.type[:64]} {name[:64]!r}, which is not in tools",
            param="tool_choice",
        )
    return choice
