"""Fields of other servers that would change an answer and cannot be obeyed here.

Ignoring them as unknown would give a wrong answer without a word; a client that sends one is told.
False, null, empty and 0 ask for nothing and pass.
"""

from __future__ import annotations

from typing import Any

from backend.errors import InvalidRequestError

REFUSED_FIELDS = {
    "chat_template": "the server's template is used (--chat-template, chat_template_kwargs)",
    "functions": "it has been replaced by tools",
    "function_call": "it has been replaced by tool_choice",
    "audio": "answers are text",
    "logits_processors_args": "logit_bias, bad_words and guided_* are built in",
    "prompt_logprobs": "log-probabilities are those of generated tokens",
    "temp_scaled_logprobs": "log-probabilities are those of the raw logits",
    "top_p_normalized_logprobs": "log-probabilities are those of the raw logits",
    "use_beam_search": "answers are sampled",
    "allowed_token_ids": "guided_choice and guided_regex restrict an answer",
    "logprob_token_ids": "top_logprobs tells the most likely ones",
    "prompt_embeds": "prompts are text or token ids",
}


def check_refused(fields: dict[str, Any]) -> None:
    """Raises InvalidRequestError (code unsupported_field) for the first field that is given."""
    for name, value in fields.items():
        if value:
            raise InvalidRequestError(
                f"{name} is not supported: {REFUSED_FIELDS[name]}",
                param=name,
                code="unsupported_field",
            )
