"""What crosses a process border, as typed JSON: REQUEST → EngineRequest → EngineOutput → EVENT.

    client ──REQUEST, MEDIA──▶ multimodal_preprocessor
           ──EngineRequest, PROMPT_IDS, POSITIONS──▶ ernie_engine
           ──EngineOutput (one or more)──▶ response_postprocessor ──EVENT──▶ client

JSON travels between the models as a UINT8 tensor and towards clients as BYTES[1]. Unknown fields
are ignored everywhere, so that an older part can talk to a newer one. Pixels do not travel as a
tensor: the preprocessor writes them to a file in /dev/shm and passes its name (`PixelHandle`).

Decoding raises InvalidRequestError that names the field.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import msgspec

from backend.errors import ErrorInfo, InvalidRequestError
from backend.request import FinishReason, SamplingParams, Usage

MEDIA_URL_PREFIX = "media:"
"""`media:3` as a part's URL means element 3 of the MEDIA input."""
LOWEST_LOGPROB = -9999.0
"""What OpenAI's API says of tokens that are too unlikely for a figure."""

Kind = Literal["image", "video"]
StructuredKind = Literal[
    "json_object", "json_schema", "regex", "choice", "grammar", "structural_tag", "lark"
]


# ---- REQUEST: an OpenAI-style body, with base64 media moved out to MEDIA ------------------------


class MediaURL(msgspec.Struct, omit_defaults=True):
    """`image_url` / `video_url` of a content part. `detail` (auto, low, high, original) applies to
    pictures, the last five to videos."""

    url: str = ""
    detail: str | None = None
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    target_frames: int | None = None
    frames_sample: Literal["leading", "middle", "rand"] | None = None


class ContentPart(msgspec.Struct, omit_defaults=True):
    """`uuid` names a picture or video sent here; later parts may have it in place of a URL."""

    type: str
    text: str | None = None
    image_url: MediaURL | str | None = None
    video_url: MediaURL | str | None = None
    uuid: str | None = None


class FunctionCall(msgspec.Struct, omit_defaults=True):
    name: str
    arguments: str | dict[str, Any] = ""


class MessageToolCall(msgspec.Struct, omit_defaults=True):
    function: FunctionCall
    id: str | None = None
    type: str = "function"


class Message(msgspec.Struct, omit_defaults=True):
    role: str
    content: str | list[ContentPart] | ContentPart | None = None
    reasoning_content: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionSpec(msgspec.Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, omit_defaults=True):
    function: FunctionSpec
    type: str = "function"


class NamedFunction(msgspec.Struct, omit_defaults=True):
    name: str


class NamedToolChoice(msgspec.Struct, omit_defaults=True):
    function: NamedFunction
    type: str = "function"


class JsonSchemaFormat(msgspec.Struct, omit_defaults=True):
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, omit_defaults=True):
    """`type`: text, json_object, json_schema (with `json_schema`), structural_tag (the rest)."""

    type: str = "text"
    json_schema: JsonSchemaFormat | None = None
    structures: list[Any] | None = None
    triggers: list[Any] | None = None


class StructuredOutputs(msgspec.Struct, omit_defaults=True):
    """vLLM's later name of `guided_*`."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None


class StreamOptions(msgspec.Struct, omit_defaults=True):
    include_usage: bool = True
    continuous_usage_stats: bool = False


class GenerateRequest(msgspec.Struct, omit_defaults=True):
    """REQUEST: a chat (`messages`) or a completion (`prompt`), never both.

    `single_response`: without `stream`, answer with exactly one Triton response, as HTTP /generate
    needs. False allows empty ones before it, so that a stop string can end the generation early.
    `prompt_token_ids` are used instead of what `messages` would be rendered to, or of `prompt`;
    `completion_token_ids`, the beginning of an answer, are put behind the prompt of a chat. With
    `disable_chat_template` the text of the only message is the prompt.
    At most one of `response_format` (other than text), `guided_*`, `structural_tag` and a member of
    `structured_outputs` is given. `thinking_token_budget` is vLLM's name of `reasoning_max_tokens`,
    which wins; there -1 means none. Smaller `priority` goes first; none is 0. Cached prefixes are
    shared among requests of equal `cache_salt` only.
    op `tokenize` and `detokenize` (of `prompt`, token ids) are questions to multimodal_preprocessor
    alone, which generate nothing: it answers with an EngineRequest of op `tokens`.
    """

    op: Literal["generate", "tokenize", "detokenize"] = "generate"
    messages: list[Message] | None = None
    prompt: str | list[int] | None = None
    model: str = "default"
    tools: list[Tool] | None = None
    tool_choice: str | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    disable_chat_template: bool = False
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    truncate_prompt_tokens: int | None = None
    stream: bool = False
    single_response: bool = True
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    reasoning_effort: str | None = None
    reasoning_max_tokens: int | None = None
    thinking_token_budget: int | None = None
    response_max_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    bad_words_token_ids: list[int | list[int]] | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structural_tag: dict[str, Any] | str | None = None
    structured_outputs: StructuredOutputs | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    echo: bool = False
    return_token_ids: bool = False
    priority: int | None = None
    cache_salt: str | None = None
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None


# ---- preprocessor → engine ----------------------------------------------------------------------


class MediaSpan(msgspec.Struct, frozen=True):
    """One picture or video in the prompt.

    `offset`/`num_tokens`: its placeholder tokens in PROMPT_IDS. `grid`: patches as (t, h, w).
    `first_row`: its first row in the pixel file, where it has t·h·w rows.
    `digest`: hex SHA-256 over its patches, grid and kind, the media part of a block's hash.
    """

    kind: Kind
    offset: int
    num_tokens: int
    grid: tuple[int, int, int]
    first_row: int
    digest: str


class PixelHandle(msgspec.Struct, frozen=True):
    """A file in /dev/shm of uint8 rows [num_rows, row_size], all items' patches in prompt order.

    Made by the preprocessor; opened, then unlinked, by the engine.
    """

    name: str
    num_rows: int
    row_size: int


class StructuredSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the answer must look like; `backend.structured.grammar` says what `text` holds.

    `lenient`: what cannot be enforced is left out instead of refused. `param`: the field of the
    request that this comes from, for messages.
    """

    kind: StructuredKind
    text: str = ""
    lenient: bool = False
    param: str = "structured"


class ThinkingSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The prompt has opened a thinking section; see `backend.structured.ThinkingSection`.

    `max_tokens`: the budget; None means 80 % of the tokens that the request may generate.
    `close_ids` write `</think>`, `after_ids` what stands between it and the answer. Of
    `replaced_ids`, tokens that end an answer, one that comes too early closes the section instead.
    """

    close_ids: tuple[int, ...]
    max_tokens: int | None = None
    after_ids: tuple[int, ...] = ()
    replaced_ids: tuple[int, ...] = ()


class MediaReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one picture or video was to the preprocessor.

    `num_bytes`: of the file, 0 for one named by its uuid. `num_pixels`, `num_tokens`: as the model
    gets them, all frames. `fetch_s`: None where it came with the request. `decode_s`, resizing
    included: None where the cache of processed media had it.
    """

    kind: Kind
    num_bytes: int
    num_pixels: int
    num_tokens: int
    fetch_s: float | None = None
    decode_s: float | None = None


class PreparationReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """For metrics: `seconds` from the preprocessor's first look at a request to its last."""

    seconds: float
    media: tuple[MediaReport, ...] = ()


class PostprocessSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the postprocessor must know of a request. The engine carries it unread.

    `prompt_opens_reasoning`: the prompt ended inside a thinking section: the output starts there.
    `parse_output`: split reasoning and tool calls (chat); False leaves plain text (completions).
    `requires_call`: the answer is made of tool calls, which are parsed whatever parser is set.
    `max_tool_calls`: the answer ends after so many; 0 is any number. `layout_newlines`: as many
    newlines behind `</think>` are no content. `report` goes into the first event.
    """

    stream: bool = True
    parse_output: bool = True
    prompt_opens_reasoning: bool = False
    has_tools: bool = False
    requires_call: bool = False
    max_tool_calls: int = 0
    layout_newlines: int = 0
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    prompt_token_ids: tuple[int, ...] | None = None
    echo_text: str = ""
    report: PreparationReport | None = None


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a client wants its events, as Triton request parameters.

    Requests with the same `event_group`, a secret of their client, share their responses: any of
    them may bring a `bundle` with events of the others. `event_key` tells the client whose an event
    is. Without a group a response holds its own request's event and no other.
    """

    event_group: str = ""
    event_key: str = ""


class EngineRequest(msgspec.Struct, omit_defaults=True):
    """One call of `ernie_engine`.

    op `generate` starts a request, `stop` ends the one(s) with `request_id`, `stats` asks for the
    engine's state. `error` is a failure of the preprocessor on its way to the client. `tokens`
    answers a question to the preprocessor by PROMPT_IDS or `text`; the engine refuses it.
    `stream_key` is unique even when clients reuse request ids. `delivery` comes from the Triton
    request's parameters. `collect`: answer with exactly one
    EngineOutput at the end. `acknowledged`: a postprocessor acknowledges outputs (credits).
    `received_at`: when the preprocessor got the request, CLOCK_MONOTONIC seconds (0: unknown). A
    `stop` that overtook a slow preprocessor ends requests of its id received before it, no later.
    `response_max_tokens`: of the answer alone, after `thinking`. `cache_salt` "" is none.
    """

    op: Literal["generate", "stop", "stats", "error", "tokens"] = "generate"
    stream_key: str = ""
    request_id: str = ""
    collect: bool = False
    acknowledged: bool = False
    received_at: float = 0.0
    sampling: SamplingParams = msgspec.field(default_factory=SamplingParams)
    structured: StructuredSpec | None = None
    thinking: ThinkingSpec | None = None
    response_max_tokens: int | None = None
    priority: int = 0
    cache_salt: str = ""
    media: tuple[MediaSpan, ...] = ()
    pixels: PixelHandle | None = None
    post: PostprocessSpec | None = None
    error: ErrorInfo | None = None
    text: str = ""
    delivery: Delivery | None = None


# ---- engine → postprocessor ---------------------------------------------------------------------


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural-log probability of a token; `top` holds the most likely (token id, logprob) pairs.

    Of a token without any, which a request can force: LOWEST_LOGPROB, as JSON has no infinity.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if self.logprob == -math.inf:
            msgspec.structs.force_setattr(self, "logprob", LOWEST_LOGPROB)


class Credit(msgspec.Struct, frozen=True):
    """Where to acknowledge outputs: an int64 counter, element `slot` of a file in /dev/shm."""

    name: str
    slot: int


class EngineOutput(msgspec.Struct, omit_defaults=True):
    """New tokens of one stream. `seq` counts a stream's outputs from 0.

    `post` and `credit` come with the first output only. `finish_reason` or `error` marks the last,
    which also carries `usage`. The stop token itself is counted but not in `token_ids`.
    An output with a `bundle` holds outputs of several streams of one group and nothing else.
    """

    stream_key: str
    seq: int
    request_id: str = ""
    token_ids: list[int] = msgspec.field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    usage: Usage | None = None
    error: ErrorInfo | None = None
    post: PostprocessSpec | None = None
    credit: Credit | None = None
    stats: dict[str, Any] | None = None
    event_key: str = ""
    bundle: list[EngineOutput] = msgspec.field(default_factory=list)

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


# ---- EVENT: postprocessor → client --------------------------------------------------------------


class ToolCallDelta(msgspec.Struct, omit_defaults=True):
    """First delta of a call: index, id and name; later ones: index and more `arguments` text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, omit_defaults=True):
    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCallDelta] = msgspec.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.tool_calls)


class EventTopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    token_id: int
    bytes: tuple[int, ...] | None = None


class EventLogprob(msgspec.Struct, frozen=True):
    """One generated token's logprob with its text (U+FFFD where bytes are not whole characters)."""

    token: str
    logprob: float
    token_id: int
    bytes: tuple[int, ...] | None = None
    top: tuple[EventTopLogprob, ...] = ()


class Event(msgspec.Struct, omit_defaults=True):
    """EVENT. The last one of a stream has `finish_reason` and `usage`, or `error`; the first one
    that is no error has `report`. As many as `num_echoed` characters of its content repeat the
    prompt. `seq` counts a stream's events from 0.

    With `Delivery`, `key` is its `event_key`, and an event with a `bundle` holds events of several
    streams and nothing else.
    """

    seq: int
    delta: Delta = msgspec.field(default_factory=Delta)
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[EventLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    error: ErrorInfo | None = None
    report: PreparationReport | None = None
    num_echoed: int = 0
    key: str = ""
    bundle: list[Event] = msgspec.field(default_factory=list)

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


MAX_JSON_DEPTH = 64
"""Levels of objects and lists in free-form JSON: schemas, tool arguments."""


def is_too_deep(value: object) -> bool:
    """Whether a decoded JSON value has more than MAX_JSON_DEPTH levels; without recursion."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        children: list[object] = []
        for item in level:
            if isinstance(item, dict):
                children += item.values()
            elif isinstance(item, list):
                children += item
        level = children
        if not level:
            return False
    return True


T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Decode JSON into `kind`. Raises InvalidRequestError naming the offending field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        where = f"{param}: " if param else ""
        raise InvalidRequestError(f"{where}{message}", param=param) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    raise InvalidRequestError(f"the body is not valid JSON: {reason}", code="invalid_json")
