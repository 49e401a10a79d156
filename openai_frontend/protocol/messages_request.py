"""Bodies of Anthropic's /v1/messages, as a GenerateRequest.

Where the two APIs differ: thinking is off unless asked for, results of tools are blocks of a user's
message (here: messages of their own, in the same order), an assistant's message at the end is
continued, and tools that Anthropic would run itself are left out, since nobody here can run them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn

import msgspec

from backend import wire
from backend.errors import InvalidRequestError
from backend.wire import ContentPart, GenerateRequest, MediaURL, Message, MessageToolCall
from openai_frontend.protocol.errors import NO_THREADS

_EFFORTS = {"xhigh": "high", "max": "high"}


class Source(msgspec.Struct):
    """`type`: base64 (`media_type`, `data`), url (`url`), or text (`data`)."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class Block(msgspec.Struct):
    """text, image, video, document, thinking, redacted_thinking, tool_use or tool_result."""

    ACCEPTED: ClassVar = ("cache_control", "citations", "context", "signature", "data", "caller")
    type: str
    text: str = ""
    source: Source | None = None
    title: str | None = None
    thinking: str = ""
    id: str | None = None
    name: str = ""
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class InputMessage(msgspec.Struct):
    role: str
    content: str | list[Block]


class MessageTool(msgspec.Struct):
    """`type`, where given, is `custom`, or the name of a tool that Anthropic runs."""

    ACCEPTED: ClassVar = ("cache_control", "eager_input_streaming", "input_examples")
    name: str = ""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None


class MessageToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    ACCEPTED: ClassVar = ("display",)
    type: str
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(msgspec.Struct):
    """Body of /v1/messages. `thread`, a conversation that the server would hold, is refused: with
    it a client sends only what is new."""

    ACCEPTED: ClassVar = ("cache_control", "metadata", "service_tier")
    messages: list[InputMessage]
    model: str = "default"
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    tools: list[MessageTool] | None = None
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool = False
    thread: Any = None


def to_generate(request: MessagesRequest) -> GenerateRequest:
    """Raises InvalidRequestError naming the field."""
    if request.thread:
        raise InvalidRequestError(
            "thread: conversations are not stored here; send all messages",
            param="thread",
            code=NO_THREADS,
        )
    if not request.messages:
        raise InvalidRequestError(
            "messages is empty", param="messages", code="missing_required_parameter"
        )
    messages = [] if request.system is None else [_system(request.system)]
    for index, message in enumerate(request.messages):
        messages += _messages(message, f"messages[{index}]")
    result = GenerateRequest(
        messages=messages,
        model=request.model,
        stream=request.stream,
        single_response=False,
        continue_final_message=_is_prefill(messages[-1]),
        max_tokens=request.max_tokens,
        stop=request.stop_sequences,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
    )
    _set_tools(result, request)
    _set_thinking(result, request)
    config = request.output_config
    if config is not None and config.format is not None:
        if config.format.type != "json_schema":
            _refuse("output_config.format.type", config.format.type, "json_schema")
        schema = wire.JsonSchemaFormat("output", config.format.schema, strict=True)
        result.response_format = wire.ResponseFormat("json_schema", schema)
    return result


def _set_tools(result: GenerateRequest, request: MessagesRequest) -> None:
    tools = [
        wire.Tool(wire.FunctionSpec(tool.name, tool.description, tool.input_schema, tool.strict))
        for tool in request.tools or ()
        if tool.type in (None, "custom")
    ]
    choice = request.tool_choice
    result.tools = tools or None
    if choice is None:
        return
    if choice.type == "tool":
        result.tool_choice = wire.NamedToolChoice(wire.NamedFunction(choice.name))
    elif choice.type in ("auto", "any", "none"):
        result.tool_choice = "required" if choice.type == "any" else choice.type
    else:
        _refuse("tool_choice.type", choice.type, "auto, any, tool or none")
    if choice.disable_parallel_tool_use:
        result.parallel_tool_calls = False


def _set_thinking(result: GenerateRequest, request: MessagesRequest) -> None:
    thinking = request.thinking
    kind = "disabled" if thinking is None else thinking.type
    if kind not in ("enabled", "adaptive", "disabled"):
        _refuse("thinking.type", kind, "enabled, adaptive or disabled")
    result.chat_template_kwargs = {"enable_thinking": kind != "disabled"}
    if thinking is not None and kind != "disabled":
        result.reasoning_max_tokens = thinking.budget_tokens
        effort = request.output_config.effort if request.output_config is not None else None
        if effort is not None and thinking.budget_tokens is None:
            result.reasoning_effort = _EFFORTS.get(effort, effort)


def _system(system: str | list[Block]) -> Message:
    if isinstance(system, str):
        return Message("system", system)
    return Message("system", [_part(block, "system", i) for i, block in enumerate(system)])


def _messages(message: InputMessage, where: str) -> Iterator[Message]:
    content = message.content
    if isinstance(content, str):
        yield Message(message.role, content)
    elif message.role == "assistant":
        yield _assistant(content, where)
    else:
        yield from _split_results(message.role, content, where)


def _split_results(role: str, blocks: list[Block], where: str) -> Iterator[Message]:
    """Results of tools as messages of their own, what stands between them as the user's."""
    parts: list[ContentPart] = []
    for index, block in enumerate(blocks):
        if block.type != "tool_result":
            parts.append(_part(block, f"{where}.content", index))
            continue
        if parts:
            yield Message(role, parts)
            parts = []
        yield Message(
            "tool", _result(block, f"{where}.content[{index}]"), tool_call_id=block.tool_use_id
        )
    if parts or not blocks:
        yield Message(role, parts)


def _result(block: Block, where: str) -> list[ContentPart]:
    content = block.content or []
    if isinstance(content, str):
        parts = [ContentPart("text", content)]
    else:
        parts = [_part(inner, f"{where}.content", i) for i, inner in enumerate(content)]
    if block.is_error:  # the templates have no place for it but the text
        parts.insert(0, ContentPart("text", "Error: "))
    return parts


def _assistant(blocks: list[Block], where: str) -> Message:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "thinking":
            thoughts.append(block.thinking)
        elif block.type == "tool_use":
            function = wire.FunctionCall(block.name, block.input or {})
            calls.append(MessageToolCall(function, block.id))
        elif block.type != "redacted_thinking":
            _refuse(
                f"{where}.content[{index}].type",
                block.type,
                "text, thinking, redacted_thinking or tool_use",
            )
    return Message(
        "assistant",
        "".join(texts),
        reasoning_content="".join(thoughts) or None,
        tool_calls=calls or None,
    )


def _part(block: Block, where: str, index: int) -> ContentPart:
    place, source = f"{where}[{index}]", block.source
    if block.type == "text":
        return ContentPart("text", block.text)
    if block.type == "document" and source is not None and source.type == "text":
        title = f"{block.title}\n" if block.title else ""
        return ContentPart("text", f"{title}{source.data}\n")
    if block.type == "image" and source is not None:
        return ContentPart("image_url", image_url=MediaURL(_url(source, place)))
    if block.type == "video" and source is not None:
        return ContentPart("video_url", video_url=MediaURL(_url(source, place)))
    _refuse(f"{place}.type", block.type, "text, image, video or a document of text, with a source")


def _url(source: Source, where: str) -> str:
    if source.type == "url":
        return source.url
    if source.type == "base64":
        return f"data:{source.media_type};base64,{source.data}"
    _refuse(f"{where}.source.type", source.type, "base64 or url")


def _is_prefill(last: Message) -> bool:
    return last.role == "assistant" and bool(last.content) and not last.tool_calls


def _refuse(param: str, found: str, expected: str) -> NoReturn:
    raise InvalidRequestError(f"{param} is {found[:64]!r}; it must be {expected}", param=param)
