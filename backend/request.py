"""One generation job: how to sample, what it is made of, why it stopped, what it cost."""

from __future__ import annotations

import enum

import msgspec

from backend.errors import InvalidRequestError

MAX_SEED = 2**63 - 1
MAX_LOGPROBS = 20
MAX_STOP_TOKEN_IDS = 512
"""Of one request, the chat template's own included."""
MAX_LOGIT_BIASES = 1024
MAX_BAD_WORDS = 512
MAX_BAD_WORD_TOKENS = 128
MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1
MAX_CACHE_SALT_CHARS = 256


class FinishReason(str, enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ABORT = "abort"
    ERROR = "error"


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's sampling settings, with every range checked.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 switch those filters off. `logprobs` is the
    number of alternatives to report besides the sampled token (None: report nothing).
    `max_tokens` counts generated tokens; None means "as many as fit". `logit_bias` holds pairs of
    token id and what is added to its logit. `bad_words` are sequences of tokens: the last of one is
    never generated behind the others.

    Raises InvalidRequestError that names the field, the value and the range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 100.0)
        _check("top_p", self.top_p, 0.0, 1.0)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check("seed", self.seed, 0, MAX_SEED)
        _check("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _check("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _check("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_length("stop_token_ids", len(self.stop_token_ids), 0, MAX_STOP_TOKEN_IDS)
        _check_length("logit_bias", len(self.logit_bias), 0, MAX_LOGIT_BIASES)
        for token_id, bias in self.logit_bias:
            _check("logit_bias", token_id, 0, 2**31 - 1)
            _check(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
        _check_length("bad_words", len(self.bad_words), 0, MAX_BAD_WORDS)
        for place, word in enumerate(self.bad_words):
            _check_length(f"bad_words[{place}]", len(word), 1, MAX_BAD_WORD_TOKENS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens {self.min_tokens} is greater than max_tokens {self.max_tokens}",
                param="min_tokens",
            )

    @property
    def is_greedy(self) -> bool:
        # Below 1e-5 the division by the temperature only adds noise; FastDeploy draws the line
        # there too, and its users send 0.0001 with top_p 0 to mean "greedy".
        return self.temperature < 1e-5 or self.top_p < 1e-5 or self.top_k == 1


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    # Compared as it is: nan fails both, and an integer may be larger than any float.
    if not low <= value <= high:
        raise InvalidRequestError(f"{name} is {value}; it must be in [{low}, {high}]", param=name)


def _check_length(name: str, length: int, low: int, high: int) -> None:
    if not low <= length <= high:
        raise InvalidRequestError(
            f"{name} has {length} elements; it must have {low} to {high}", param=name
        )


def check_priority(priority: int) -> None:
    """Raises InvalidRequestError that names the field, the value and the range."""
    _check("priority", priority, MIN_PRIORITY, MAX_PRIORITY)


def check_cache_salt(salt: str) -> None:
    """Raises InvalidRequestError that names the field, its length and the range."""
    if not 1 <= len(salt) <= MAX_CACHE_SALT_CHARS:
        raise InvalidRequestError(
            f"cache_salt has {len(salt)} characters; it must have 1 to {MAX_CACHE_SALT_CHARS}",
            param="cache_salt",
        )


class EngineTimes(msgspec.Struct, frozen=True):
    """Seconds that a request spent in the engine, one after the other.

    `queue_s`: to its first seat in the batch, compiling its grammar included. `prefill_s`: from
    there to its first token. `decode_s`: from there to its end. Waiting again after a preemption
    counts where it happens.
    """

    queue_s: float
    prefill_s: float
    decode_s: float


class Usage(msgspec.Struct, omit_defaults=True):
    """Token counts of one request. `prompt_tokens` includes media tokens and cached ones. `times`
    of one that got a token."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0
    reasoning_tokens: int = 0
    times: EngineTimes | None = None
