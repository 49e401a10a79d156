"""The request's settings, the checkpoint's defaults → SamplingParams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from backend.errors import InvalidRequestError
from backend.preprocess.checkpoint import SamplingDefaults
from backend.request import MAX_LOGIT_BIASES, MAX_LOGPROBS, SamplingParams
from backend.wire import GenerateRequest

MAX_STOPS: Final = 16
MAX_STOP_BYTES: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 256

_FROM_METADATA: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "reasoning_max_tokens",
    "response_max_tokens",
    "bad_words",
    "bad_words_token_ids",
)
_TYPES: Final[dict[str, Any]] = {
    field.name: field.type
    for field in msgspec.structs.fields(GenerateRequest)
    if field.name in _FROM_METADATA
}


def merge_metadata(request: GenerateRequest) -> GenerateRequest:
    """Settings that FastDeploy's clients put into `metadata`; those of the body win.

    OpenAI's metadata are labels, always strings: strings are therefore left alone.
    Raises InvalidRequestError naming the key.
    """
    merged: dict[str, Any] = {}
    for name, value in (request.metadata or {}).items():
        if name not in _TYPES or value is None or isinstance(value, str):
            continue
        if getattr(request, name) is not None:
            continue
        try:
            merged[name] = msgspec.convert(value, _TYPES[name])
        except msgspec.ValidationError as error:
            raise InvalidRequestError(
                f"metadata.{name}: {error}", param=f"metadata.{name}"
            ) from None
    if request.max_tokens is not None or request.max_completion_tokens is not None:
        merged.pop("max_tokens", None)
        merged.pop("max_completion_tokens", None)
    return msgspec.structs.replace(request, **merged) if merged else request


def sampling_params(
    request: GenerateRequest,
    defaults: SamplingDefaults,
    vocab_size: int,
    template_stop_ids: Iterable[int] = (),
    bad_words: Iterable[tuple[int, ...]] = (),
) -> SamplingParams:
    """Every range checked. `template_stop_ids` end an answer too, unless eos is to be ignored.
    `bad_words`: see `bad_words.py`.

    Raises InvalidRequestError naming the field, its value and the range.
    """
    stop_ids = request.stop_token_ids or []
    if len(stop_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequestError(
            f"stop_token_ids holds {len(stop_ids)} ids; at most {MAX_STOP_TOKEN_IDS} are allowed",
            param="stop_token_ids",
        )
    check_token_ids(stop_ids, vocab_size, "stop_token_ids")
    if not request.ignore_eos:
        stop_ids = [*stop_ids, *template_stop_ids]
    top_k = _or(request.top_k, defaults.top_k)
    _check_max_tokens(request)
    max_tokens = request.max_completion_tokens
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=0 if top_k == -1 else top_k,
        min_p=_or(request.min_p, defaults.min_p),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        frequency_penalty=_or(request.frequency_penalty, defaults.frequency_penalty),
        presence_penalty=_or(request.presence_penalty, defaults.presence_penalty),
        seed=request.seed,
        max_tokens=request.max_tokens if max_tokens is None else max_tokens,
        min_tokens=_or(request.min_tokens, 0),
        stop_token_ids=tuple(dict.fromkeys(stop_ids)),
        ignore_eos=request.ignore_eos,
        logprobs=_logprobs(request),
        logit_bias=_logit_bias(request.logit_bias or {}, vocab_size),
        bad_words=tuple(bad_words),
    )


def _check_max_tokens(request: GenerateRequest) -> None:
    """Here and not by SamplingParams alone, so that the error has the client's own name for it."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise InvalidRequestError(f"{name} is {value}; it must be at least 1", param=name)


def _logit_bias(biases: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    """JSON names its keys by texts: they must be token ids."""
    if len(biases) > MAX_LOGIT_BIASES:
        raise InvalidRequestError(
            f"logit_bias has {len(biases)} entries; at most {MAX_LOGIT_BIASES} are allowed",
            param="logit_bias",
        )
    for key in biases:
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            raise InvalidRequestError(
                f"logit_bias has the key {key[:32]!r}; it must be a token id", param="logit_bias"
            )
        if int(key) >= vocab_size:
            raise InvalidRequestError(
                f"logit_bias has the key {key!r}; token ids are from 0 to {vocab_size - 1}",
                param="logit_bias",
            )
    return tuple({int(key): bias for key, bias in biases.items()}.items())


def check_token_ids(token_ids: Iterable[int], vocab_size: int, name: str) -> None:
    """Raises InvalidRequestError for an id that is no row of the model's tables."""
    for place, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"{name}[{place}] is {token_id}; token ids are from 0 to {vocab_size - 1}",
                param=name,
            )


def stop_strings(request: GenerateRequest) -> tuple[str, ...]:
    """`stop` as distinct texts. Raises InvalidRequestError: too many, too long, or empty."""
    stop = request.stop
    stops = (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop or ()))
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"stop holds {len(stops)} strings; at most {MAX_STOPS} are allowed", param="stop"
        )
    for place, text in enumerate(stops):
        size = len(text.encode("utf-8", "replace"))
        if not 0 < size <= MAX_STOP_BYTES:
            raise InvalidRequestError(
                f"stop[{place}] has {size} bytes; it must have 1 to {MAX_STOP_BYTES}", param="stop"
            )
    return stops


def _logprobs(request: GenerateRequest) -> int | None:
    """Chat: `logprobs` switches, `top_logprobs` counts. Completion: `logprobs` counts."""
    wanted, top = request.logprobs, request.top_logprobs
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise InvalidRequestError(
            f"top_logprobs is {top}; it must be in [0, {MAX_LOGPROBS}]", param="top_logprobs"
        )
    if request.messages is not None and wanted is not None and not isinstance(wanted, bool):
        raise InvalidRequestError(
            f"logprobs is {wanted}; for a chat it is true or false, and top_logprobs is a number",
            param="logprobs",
        )
    if wanted is None or wanted is False:
        if top:
            raise InvalidRequestError(
                f"top_logprobs is {top} but logprobs is not true", param="top_logprobs"
            )
        return None
    if wanted is True:
        return top or 0
    return wanted


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
