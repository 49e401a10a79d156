"""How much a model may think, and how its thinking is ended.

| reasoning_effort | thinking tokens |
|---|---|
| none | none: the template's switch is off; a model without a switch is made to stop at once |
| minimal, low, medium | 128, 1,024, 4,096, and never more than 80 % of max_tokens |
| high, xhigh, max, or nothing | 80 % of the tokens that the request may generate |

`reasoning_max_tokens` says a number itself. FastDeploy has the 80 % for its VL models; here it
holds for all that think, so that room is left for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from backend.chat_template import Family
from backend.errors import InvalidRequestError
from backend.request import SamplingParams
from backend.tokenizer import Tokenizer
from backend.wire import GenerateRequest, ThinkingSpec

_EFFORTS: Final[dict[str, int | None]] = {
    "none": 0,
    "minimal": 128,
    "low": 1024,
    "medium": 4096,
    "high": None,
    "xhigh": None,
    "max": None,
}
_SWITCHES: Final = ("enable_thinking", "thinking_mode", "options")
LAYOUT: Final = "\n\n"
"""What every family writes between `</think>` and its answer."""


def template_options(request: GenerateRequest) -> Mapping[str, Any] | None:
    """chat_template_kwargs, with thinking off when `reasoning_effort` is none and nothing else in
    the request speaks of the switch. Raises InvalidRequestError for an unknown effort."""
    given, effort = request.chat_template_kwargs, request.reasoning_effort
    if effort is not None and effort not in _EFFORTS:
        raise InvalidRequestError(
            f"reasoning_effort is {effort[:64]!r}; it must be one of {', '.join(_EFFORTS)}",
            param="reasoning_effort",
        )
    is_said = any(name in (given or {}) for name in _SWITCHES)
    is_said = is_said or "enable_thinking" in (request.metadata or {})
    return (
        {**(given or {}), "enable_thinking": False} if effort == "none" and not is_said else given
    )


def thinking_spec(
    request: GenerateRequest,
    sampling: SamplingParams,
    tokenizer: Tokenizer,
    family: Family,
    layout: str,
    end_ids: tuple[int, ...],
) -> ThinkingSpec:
    """For an answer that begins inside a thinking section. `end_ids` end answers of this model.

    `layout`: what stands between `</think>` and an answer that follows a grammar; "" for others.
    A hybrid model is made to write `</think>` alone, as FastDeploy does; the Thinking models begin
    it on a line of its own and leave a blank one behind it.
    """
    if family is Family.VL:
        close, after = "</think>", layout
    else:
        close, after = "\n</think>", layout or LAYOUT
    replaced = () if sampling.ignore_eos else end_ids
    return ThinkingSpec(
        close_ids=tuple(tokenizer.encode_template(close)),
        max_tokens=_budget(request, sampling),
        after_ids=tuple(tokenizer.encode_template(after)),
        replaced_ids=tuple(i for i in replaced if i not in (request.stop_token_ids or ())),
    )


def _budget(request: GenerateRequest, sampling: SamplingParams) -> int | None:
    name, budget = "reasoning_max_tokens", request.reasoning_max_tokens
    if budget is None and request.thinking_token_budget != -1:
        name, budget = "thinking_token_budget", request.thinking_token_budget
    if budget is not None:
        if budget < 0:
            raise InvalidRequestError(f"{name} is {budget}; it must be at least 0", param=name)
        return budget
    budget = _EFFORTS.get(request.reasoning_effort or "high")
    if budget is not None and sampling.max_tokens is not None:
        budget = min(budget, int(0.8 * sampling.max_tokens))
    return budget
