"""Token counts as OpenAI's and FastDeploy's clients read them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.request import Usage


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int
    image_tokens: int
    video_tokens: int


class CompletionTokensDetails(msgspec.Struct):
    reasoning_tokens: int
    image_tokens: int


class UsageObject(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage_object(usages: Sequence[Usage], choices_per_prompt: int) -> UsageObject:
    """The sum over all choices; a prompt with n choices is counted once."""
    prompts = usages[::choices_per_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return UsageObject(
        prompt_tokens=prompt_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        completion_tokens=completion_tokens,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(usage.cached_tokens for usage in prompts),
            image_tokens=sum(usage.image_tokens for usage in prompts),
            video_tokens=sum(usage.video_tokens for usage in prompts),
        ),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages), image_tokens=0
        ),
    )
