"""Calling a given function, using its result, and leaving functions alone that do not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from ..sample import Sample, ToolCall, user
from ..scene import Random
from ..values import Value, any_value, identifier, phrase, word_part
from . import chat
from .domains import DOMAINS, Request
from .pictures import pick

VERBS = (
    ("paint", "粉刷"), ("clean", "清洁"), ("open", "打开"), ("close", "关闭"), ("move", "移动"),
    ("count", "清点"), ("repair", "修理"), ("check", "检查"), ("sell", "出售"), ("wash", "清洗"),
    ("build", "建造"), ("find", "寻找"), ("save", "保存"), ("print", "打印"), ("share", "分享"),
)  # fmt: skip
_SEPARATORS = ("，", ", ", "; ", "\n")


@dataclass(frozen=True, slots=True)
class Task:
    """A request, the tool that serves it, and what the tool would return."""

    request: Request
    tool: dict[str, Any]


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A tool call, an answer from a tool's result, or an answer that needs none of the tools."""
    kind = random.random()
    if kind < 0.12:
        return _unneeded(random, language, held_out)
    task = _task(random, language, held_out)
    tools = [task.tool]
    for _ in range(_others(random)):
        other = _task(random, language, held_out)
        # Two tools for one purpose, or of one name, would leave open which is right.
        if other.request.topic != task.request.topic and other.request.name not in names_of(tools):
            tools.append(other.tool)
    random.shuffle(tools)
    if kind < 0.68:
        return call_for(random, language, task.request, tools)
    return _result(random, language, task.request, tools)


def names_of(tools: list[dict[str, Any]]) -> set[str]:
    return {tool["function"]["name"] for tool in tools}


def _others(random: Random) -> int:
    return int(random.choice(3, p=(0.45, 0.35, 0.2)))


def call_for(random: Random, language: str, request: Request, tools: list[Any]) -> Sample:
    """The right call of `request`'s function, which is one of `tools`."""
    call = ToolCall(request.name, request.arguments)
    listed = ", ".join(f"{key} = {_plain(value)}" for key, value in request.arguments.items())
    if language == "zh":
        reasoning = f"用户的请求需要{request.name}，参数是：{listed or '无'}。"
    else:
        reasoning = f"The request needs {request.name}. The arguments are: {listed or 'none'}."
    return Sample(
        "tool_call",
        language,
        (_ask(random, request.question),),
        reasoning,
        call,
        tools=tuple(tools),
    )


def _result(random: Random, language: str, request: Request, tools: list[Any]) -> Sample:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": request.name, "arguments": request.arguments},
    }
    result = _render(random, request.result)
    messages = (
        _ask(random, request.question),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    )
    fields = ", ".join(f"{key} = {_plain(value)}" for key, value in request.result.items())
    reasoning = (
        f"工具返回：{fields}。可以回答了。"
        if language == "zh"
        else f"The tool returned: {fields}. I can answer now."
    )
    return Sample("tool_result", language, messages, reasoning, request.answer, tools=tuple(tools))


def _unneeded(random: Random, language: str, held_out: bool) -> Sample:
    sample = chat.make(random, language, held_out)
    tools = tuple(_task(random, language, held_out).tool for _ in range(1 + _others(random)))
    note = (
        "没有合适的工具，直接回答。" if language == "zh" else "No tool fits, so I answer directly. "
    )
    return replace(sample, task="tool_unneeded", tools=tools, reasoning=note + sample.reasoning)


def _ask(random: Random, question: str) -> dict[str, Any]:
    if random.random() < 0.3:
        return {"role": "user", "content": [{"type": "text", "text": question}]}
    return user(question)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _render(random: Random, result: dict[str, Any]) -> str:
    """As JSON, or as `key: value` in one of several spellings."""
    if random.random() < 0.4:
        return json.dumps(result, ensure_ascii=False)
    if len(result) == 1 and random.random() < 0.4:
        return _plain(next(iter(result.values())))
    separator = pick(random, _SEPARATORS)
    return separator.join(f"{key}: {_plain(value)}" for key, value in result.items())


def _task(random: Random, language: str, held_out: bool) -> Task:
    if random.random() < 0.5:
        domain = DOMAINS[int(random.integers(len(DOMAINS)))]
        request = domain.request(random, language, held_out)
    else:
        request = _invented(random, language)
    return Task(request, declared(random, request))


def _invented(random: Random, language: str) -> Request:
    """A function that no one has heard of, with parameters of any kind."""
    name = identifier(random)
    parameters: dict[str, Value] = {}
    while len(parameters) < (1, 1, 2, 2, 3, 0)[int(random.integers(6))]:
        parameters.setdefault(identifier(random), any_value(random, language))
    verb = pick(random, VERBS)
    thing = word_part(random) if language == "en" else phrase(random, "zh")
    named = random.random() < 0.6
    described = not named or random.random() < 0.5
    use = Use(verb, thing, named, described)
    return worded(random, language, name, parameters, use)


@dataclass(frozen=True, slots=True)
class Use:
    """What an invented function does, and whether the question or the tools list says so.

    `named`: the question says the function's name instead of what it does.
    """

    verb: tuple[str, str]
    thing: str
    named: bool
    described: bool


def worded(
    random: Random, language: str, name: str, parameters: dict[str, Value], use: Use
) -> Request:
    """The question, declaration and result of an invented function."""
    arguments = {key: value.json for key, value in parameters.items()}
    properties = {key: value.schema for key, value in parameters.items()}
    if language == "zh":
        listed = "，".join(
            f"{key}{pick(random, ('为', '是', '='))}{value.spoken}"
            for key, value in parameters.items()
        )
        start = (
            f"{pick(random, ('请调用', '用', '请使用', '请运行'))}{name}"
            if use.named
            else f"请{use.verb[1]}{use.thing}"
        )
        question = start + (f"，{listed}" if listed else "") + "。"
        description = f"{use.verb[1]}{use.thing}"
    else:
        join = pick(random, (" = ", " ", " set to ", " as ", ": "))
        listed = " and ".join(f"{key}{join}{value.spoken}" for key, value in parameters.items())
        start = (
            f"{pick(random, ('Call', 'Use', 'Please run', 'Please call', 'Run'))} {name}"
            if use.named
            else f"{pick(random, ('Please ', 'Can you ', 'I want to '))}{use.verb[0]} the {use.thing}"
        )
        question = start + (f" with {listed}" if listed else "") + "."
        description = f"{use.verb[0].capitalize()} the {use.thing}"
    result = {
        identifier(random): any_value(random, language).json
        for _ in range(1 + int(random.integers(2)))
    }
    values = [_plain(value) for value in result.values()]
    answer = (
        f"结果是{'，'.join(values)}。"
        if language == "zh"
        else f"The result is {', '.join(values)}."
    )
    shown = description if use.described else ""
    return Request(name, shown, properties, arguments, question, result, answer, description)


def declared(random: Random, request: Request) -> dict[str, Any]:
    """The OpenAI tool object, with more or fewer of its optional keys."""
    parameters: dict[str, Any] = {"type": "object", "properties": request.properties}
    if random.random() < 0.2:
        parameters["additionalProperties"] = False
    if random.random() < 0.8:
        parameters["required"] = list(request.arguments)
    function: dict[str, Any] = {"name": request.name}
    if request.description:
        function["description"] = request.description
    function["parameters"] = parameters
    if random.random() < 0.15:
        function["strict"] = bool(random.random() < 0.5)
    return {"type": "function", "function": function}
