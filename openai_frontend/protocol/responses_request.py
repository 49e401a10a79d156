"""Bodies of OpenAI's /v1/responses, as a GenerateRequest.

Nothing is stored: what refers to something stored is refused, `store` itself has no effect. Tools
that OpenAI would run itself are left out, since nobody here can run them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import msgspec

from backend import wire
from backend.errors import InvalidRequestError
from backend.wire import ContentPart, GenerateRequest, MediaURL, Message, MessageToolCall

_EFFORTS = {"xhigh": "high"}
_LOGPROBS = "message.output_text.logprobs"


class InputPart(msgspec.Struct):
    """input_text, output_text, text, refusal, reasoning_text, summary_text; input_image with
    `image_url`; input_video with `video_url`, which OpenAI has not."""

    ACCEPTED: ClassVar = ("annotations", "logprobs")
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    video_url: str | None = None
    detail: str | None = None


class InputItem(msgspec.Struct):
    """message (also without `type`), reasoning, function_call or function_call_output."""

    ACCEPTED: ClassVar = ("id", "status", "encrypted_content", "phase")
    type: str = "message"
    role: str = "user"
    content: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None
    call_id: str | None = None
    name: str = ""
    arguments: str = ""
    output: str | list[InputPart] = ""


class ResponseTool(msgspec.Struct):
    """`type` function, or the name of a tool that OpenAI runs."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolName(msgspec.Struct, omit_defaults=True):
    type: str
    name: str = ""


class ResponseToolChoice(msgspec.Struct, omit_defaults=True):
    """`type` function (`name`) or allowed_tools (`mode`, `tools`)."""

    type: str
    name: str = ""
    mode: str = ""
    tools: list[ToolName] | None = None


class TextFormat(msgspec.Struct, omit_defaults=True):
    type: str
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    ACCEPTED: ClassVar = ("verbosity",)
    format: TextFormat | None = None


class Reasoning(msgspec.Struct):
    ACCEPTED: ClassVar = ("generate_summary",)
    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(msgspec.Struct):
    """Body of /v1/responses."""

    ACCEPTED: ClassVar = (
        *("truncation", "service_tier", "max_tool_calls", "stream_options"),
        *("prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    )
    input: str | list[InputItem]
    model: str = "default"
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    tools: list[ResponseTool] | None = None
    tool_choice: str | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None


def to_generate(request: ResponsesRequest) -> GenerateRequest:
    """Raises InvalidRequestError naming the field."""
    _check_supported(request)
    messages = [Message("system", request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        messages.append(Message("user", request.input))
    else:
        messages += _Conversation().read(request.input)
    if not request.input:
        raise InvalidRequestError(
            "input is empty", param="input", code="missing_required_parameter"
        )
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise InvalidRequestError(
            f"max_output_tokens is {request.max_output_tokens}; it must be at least 1",
            param="max_output_tokens",
        )
    effort = request.reasoning.effort if request.reasoning is not None else None
    tools, choice = _choose(request)
    return GenerateRequest(
        messages=messages,
        model=request.model,
        stream=request.stream,
        single_response=False,
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning_effort=None if effort is None else _EFFORTS.get(effort, effort),
        response_format=_response_format(request.text),
    )


def function_tools(request: ResponsesRequest) -> list[ResponseTool]:
    return [tool for tool in request.tools or () if tool.type == "function"]


def _check_supported(request: ResponsesRequest) -> None:
    if request.previous_response_id is not None:
        raise InvalidRequestError(
            "previous_response_id: responses are not stored here; send the conversation as input",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    for name, is_used in (
        ("conversation", request.conversation is not None),
        ("prompt", request.prompt is not None),
        ("background", bool(request.background)),
        ("top_logprobs", bool(request.top_logprobs)),
        ("include", _LOGPROBS in (request.include or ())),
    ):
        if is_used:
            hint = ""
            if name in ("top_logprobs", "include"):
                hint = "; log-probabilities are told by /v1/chat/completions"
            raise InvalidRequestError(
                f"{name} is not supported{hint}", param=name, code="unsupported_parameter"
            )


def _choose(
    request: ResponsesRequest,
) -> tuple[list[wire.Tool], str | wire.NamedToolChoice | None]:
    tools, choice = function_tools(request), request.tool_choice
    result: str | wire.NamedToolChoice | None
    if isinstance(choice, ResponseToolChoice):
        if choice.type == "function":
            result = wire.NamedToolChoice(wire.NamedFunction(choice.name))
        elif choice.type == "allowed_tools":
            allowed = {tool.name for tool in choice.tools or ()}
            tools = [tool for tool in tools if tool.name in allowed]
            result = choice.mode or "auto"
        else:
            _refuse("tool_choice.type", choice.type, "function or allowed_tools")
    else:
        result = choice
    return [
        wire.Tool(wire.FunctionSpec(tool.name, tool.description, tool.parameters, tool.strict))
        for tool in tools
    ], result


def _response_format(text: TextConfig | None) -> wire.ResponseFormat | None:
    if text is None or text.format is None:
        return None
    form = text.format
    if form.type != "json_schema":
        if form.schema is not None:
            _refuse("text.format.type", form.type, "json_schema, since there is a schema")
        return wire.ResponseFormat(form.type)
    schema = wire.JsonSchemaFormat(form.name, form.schema, form.strict)
    return wire.ResponseFormat("json_schema", schema)


class _Conversation:
    """Items of an assistant's turn (reasoning, a message, calls) become one message."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._turn: Message | None = None

    def read(self, items: Sequence[InputItem]) -> list[Message]:
        for index, item in enumerate(items):
            where = f"input[{index}]"
            if item.type == "reasoning":
                self._assistant(lambda message: True).reasoning_content = _thoughts(item)
            elif item.type == "function_call":
                call = MessageToolCall(wire.FunctionCall(item.name, item.arguments), item.call_id)
                turn = self._assistant(lambda message: False)
                turn.tool_calls = [*(turn.tool_calls or ()), call]
            elif item.type == "function_call_output":
                content = _content(item.output, f"{where}.output")
                self._add(Message("tool", content, tool_call_id=item.call_id))
            elif item.type != "message":
                _refuse(
                    f"{where}.type",
                    item.type,
                    "message, reasoning, function_call or function_call_output",
                )
            elif item.role == "assistant":
                text = _text(item.content, f"{where}.content")
                self._assistant(lambda m: bool(m.content or m.tool_calls)).content = text
            else:
                self._add(Message(item.role, _content(item.content, f"{where}.content")))
        return self._messages

    def _add(self, message: Message) -> None:
        self._messages.append(message)
        self._turn = None

    def _assistant(self, is_full: Callable[[Message], bool]) -> Message:
        """The assistant's message at the end, a new one if there is none or it `is_full`."""
        if self._turn is None or is_full(self._turn):
            turn = Message("assistant", "")
            self._add(turn)
            self._turn = turn
        return self._turn


def _thoughts(item: InputItem) -> str | None:
    """The reasoning as it was, else its summary; None for one that is encrypted."""
    parts = item.content if isinstance(item.content, list) else []
    return "".join(part.text for part in parts or item.summary or ()) or None


def _text(content: str | list[InputPart] | None, where: str) -> str:
    parts = _content(content, where)
    if isinstance(parts, str):
        return parts
    for index, part in enumerate(parts):
        if part.type != "text":
            _refuse(f"{where}[{index}].type", part.type, "text in an assistant's message")
    return "".join(part.text or "" for part in parts)


def _content(content: str | list[InputPart] | None, where: str) -> str | list[ContentPart]:
    if content is None or isinstance(content, str):
        return content or ""
    return [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _part(part: InputPart, where: str) -> ContentPart:
    if part.type in ("input_text", "output_text", "text"):
        return ContentPart("text", part.text)
    if part.type == "refusal":
        return ContentPart("text", part.refusal)
    if part.type == "input_image" and part.image_url is not None:
        return ContentPart("image_url", image_url=MediaURL(part.image_url, part.detail))
    if part.type == "input_video" and part.video_url is not None:
        return ContentPart("video_url", video_url=MediaURL(part.video_url))
    _refuse(f"{where}.type", part.type, "input_text, or input_image with an image_url")


def _refuse(param: str, found: str, expected: str) -> NoReturn:
    raise InvalidRequestError(f"{param} is {found[:64]!r}; it must be {expected}", param=param)
