"""Request bodies: `backend.wire.GenerateRequest` plus what only the HTTP side needs.

`n` and lists of prompts become several GenerateRequests here; everything else a client may send is
checked by the preprocessor, so that a raw Triton client gets the same answers.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import msgspec

from backend import wire
from backend.errors import InvalidRequestError
from backend.request import MAX_SEED
from backend.wire import MAX_JSON_DEPTH, GenerateRequest
from openai_frontend.deadline import check_timeout
from openai_frontend.protocol.refused_fields import REFUSED_FIELDS, check_refused
from openai_frontend.protocol.strict_fields import check_fields

MAX_CHOICES_PER_PROMPT = 16
MAX_CHOICES = 128
MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_TOOLS = 128
MAX_JSON_NODES = 100_000
_FREE_FORM = (
    "metadata",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "guided_json",
    "structural_tag",
)


class HttpRequest(GenerateRequest):
    """Fields that end here. `request_id` and `user` become part of the answer's id.

    `timeout`: seconds from the request's arrival, see `deadline.py`.
    `store` and `max_streaming_response_tokens` are accepted: nothing is stored, and a chunk holds
    what has arrived, which is at least what FastDeploy would pack into it. Those from
    `chat_template` on are refused.
    """

    n: int | None = None
    request_id: str | None = None
    user: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    max_streaming_response_tokens: int | None = None
    timeout: float | None = None
    chat_template: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    logits_processors_args: Any = None
    prompt_logprobs: Any = None
    temp_scaled_logprobs: Any = None
    top_p_normalized_logprobs: Any = None
    use_beam_search: Any = None
    allowed_token_ids: Any = None
    logprob_token_ids: Any = None
    prompt_embeds: Any = None

    ACCEPTED: ClassVar = (
        *("collect_metrics", "disaggregate_info", "trace_context"),
        *("include_draft_logprobs", "include_logprobs_decode_token", "mm_hashes"),
        *("modalities", "prediction", "prompt_cache_key", "safety_identifier", "verbosity"),
    )


class ChatRequest(HttpRequest):
    """Body of /v1/chat/completions."""


class CompletionRequest(HttpRequest):
    """Body of /v1/completions. `prompt`: text, token ids, or a list of either.

    `suffix` is refused, and `best_of` unless it is `n`: no model here fills in a middle, and no
    answer is chosen from several.
    """

    prompt: Any = None
    suffix: Any = None
    best_of: int | None = None


R = TypeVar("R", bound=msgspec.Struct)

_HTTP_ONLY = dict.fromkeys(
    set(HttpRequest.__struct_fields__) - set(GenerateRequest.__struct_fields__)
)


def decode_body(body: bytes, kind: type[R], strict_fields: bool = False) -> R:
    """Raises InvalidRequestError naming the field. A null on the top level means "not given"."""
    try:
        request = wire.decode(body, kind)
    except InvalidRequestError:
        without_nulls = _without_nulls(body)
        if without_nulls is None:
            raise
        request = wire.decode(without_nulls, kind)
    if strict_fields:
        check_fields(body, kind)
    return request


def check_chat(request: ChatRequest) -> None:
    """Raises InvalidRequestError for what the HTTP side must refuse by itself."""
    if not request.messages:
        raise InvalidRequestError(
            "messages is missing or empty", param="messages", code="missing_required_parameter"
        )
    check_messages(request)
    request.prompt = None
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    _check_common(request)


def check_messages(request: GenerateRequest) -> None:
    """Raises InvalidRequestError for more messages, parts or tools than are looked at."""
    messages = request.messages or []
    if len(messages) > MAX_MESSAGES:
        raise _too_many("messages", len(messages), MAX_MESSAGES)
    for index, message in enumerate(messages):
        if isinstance(message.content, list) and len(message.content) > MAX_PARTS:
            raise _too_many(f"messages[{index}].content", len(message.content), MAX_PARTS)
        for call in message.tool_calls or ():
            _check_depth(call.function.arguments, f"messages[{index}].tool_calls")
    if request.tools is not None and len(request.tools) > MAX_TOOLS:
        raise _too_many("tools", len(request.tools), MAX_TOOLS)
    for index, tool in enumerate(request.tools or ()):
        _check_depth(tool.function.parameters, f"tools[{index}].function.parameters")
    for name in _FREE_FORM:
        _check_depth(getattr(request, name), name)
    if (outputs := request.structured_outputs) is not None:
        _check_depth([outputs.json, outputs.structural_tag], "structured_outputs")
    if (form := request.response_format) is not None:
        schema = form.json_schema.schema if form.json_schema is not None else None
        _check_depth([schema, form.structures, form.triggers], "response_format")


def check_completion(request: CompletionRequest) -> None:
    request.messages = None
    if request.suffix:
        raise InvalidRequestError(
            "suffix is not supported: the models here only continue a text", param="suffix"
        )
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise InvalidRequestError(
            f"best_of is {request.best_of}; it can only be n, which is {request.n or 1}",
            param="best_of",
        )
    request.suffix = request.best_of = None
    check_messages(request)
    _check_common(request)


def split_prompts(prompt: Any) -> list[str | list[int]]:
    """One entry per prompt. Raises InvalidRequestError for anything but the four legal forms."""
    if prompt is None or prompt == []:
        raise InvalidRequestError(
            "prompt is missing or empty", param="prompt", code="missing_required_parameter"
        )
    if isinstance(prompt, str) or _is_ids(prompt):
        return [prompt]
    if isinstance(prompt, list):
        for place, item in enumerate(prompt):
            if item in ("", []):
                raise InvalidRequestError(f"prompt[{place}] is empty", param="prompt")
    if isinstance(prompt, list) and (
        all(isinstance(item, str) for item in prompt) or all(_is_ids(item) for item in prompt)
    ):
        return prompt
    raise InvalidRequestError(
        "prompt must be a string, a list of token ids, or a list of either", param="prompt"
    )


def expand(request: HttpRequest, prompts: list[str | list[int]] | None) -> list[bytes]:
    """The encoded GenerateRequests of a body, n per prompt, in the order of the choices.

    Choice k of a prompt samples with seed + k, so that the choices differ and can be repeated.
    """
    n = 1 if request.n is None else request.n
    if not 1 <= n <= MAX_CHOICES_PER_PROMPT:
        raise InvalidRequestError(
            f"n is {n}; it must be in [1, {MAX_CHOICES_PER_PROMPT}]", param="n"
        )
    num_prompts = len(prompts) if prompts is not None else 1
    if num_prompts * n > MAX_CHOICES:
        raise InvalidRequestError(
            f"{num_prompts} prompts with n {n} are {num_prompts * n} choices; the limit is "
            f"{MAX_CHOICES}",
            param="prompt",
        )
    seed = _seed(request)
    encoded = []
    for index in range(num_prompts):
        for choice in range(n):
            changes: dict[str, Any] = {**_HTTP_ONLY, "op": "generate", "single_response": False}
            if prompts is not None:
                changes["prompt"] = prompts[index]
            if seed is not None:
                changes["seed"] = (seed + choice) % (MAX_SEED + 1)
            encoded.append(wire.encode(msgspec.structs.replace(request, **changes)))
    return encoded


def _seed(request: HttpRequest) -> int | None:
    """The body's seed, else that of `metadata`; None also for one that the preprocessor refuses."""
    seed = request.seed if request.seed is not None else (request.metadata or {}).get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        return None
    return seed


def _check_common(request: HttpRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options needs stream: true", param="stream_options")
    check_timeout(request.timeout, "timeout")
    check_refused({name: getattr(request, name) for name in REFUSED_FIELDS})


def _check_depth(value: Any, param: str) -> None:
    """Free-form JSON is walked and printed further on: bound its depth and size here."""
    level, depth, nodes = [value], 0, 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_JSON_DEPTH or nodes > MAX_JSON_NODES:
            raise InvalidRequestError(
                f"{param} is nested deeper than {MAX_JSON_DEPTH} levels or has more than "
                f"{MAX_JSON_NODES} values",
                param=param,
            )
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def _without_nulls(body: bytes) -> bytes | None:
    """The same object without its null members; None when there are none."""
    if b"null" not in body:
        return None
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    kept = {name: value for name, value in members.items() if bytes(value).strip() != b"null"}
    return msgspec.json.encode(kept) if len(kept) < len(members) else None


def _too_many(param: str, number: int, limit: int) -> InvalidRequestError:
    return InvalidRequestError(f"{param} has {number} entries; the limit is {limit}", param=param)
