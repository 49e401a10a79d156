"""What the sampler must obey for one request: its thinking section, then its grammar."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from backend.errors import ErnieError
from backend.structured.matcher import Matcher
from backend.structured.thinking import ThinkingSection


class OutputControl:
    """Asked before a token is sampled (`forced_token`, `allowed`), on it (`admit`) and after it
    (`commit`).

    `stop_ids` end the answer; `eos_token_ids` do too unless they are not among them (ignore_eos).
    `response_max_tokens` counts what follows `</think>`, or everything without thinking.
    """

    def __init__(
        self,
        thinking: ThinkingSection | None = None,
        stop_ids: Collection[int] = (),
        eos_token_ids: Collection[int] = (),
        response_max_tokens: int | None = None,
    ) -> None:
        self._thinking = thinking
        self._matcher: Matcher | None = None
        self._stop_ids = list(stop_ids)
        self._ignored_ids = [i for i in eos_token_ids if i not in stop_ids]
        self._response_max_tokens = response_max_tokens
        self._num_answer_tokens = 0
        self._needs_mask = False

    @property
    def is_complete(self) -> bool:
        """Nothing can follow: the grammar has ended."""
        return self._matcher is not None and self._matcher.is_complete

    @property
    def is_full(self) -> bool:
        """The answer has as many tokens as it may."""
        limit = self._response_max_tokens
        return limit is not None and self._num_answer_tokens >= limit

    @property
    def may_run_ahead(self) -> bool:
        """Whether the token after the next can be sampled while the next one is unknown. It is void
        if `admit` gives another than the sampled next one."""
        return self._matcher is None and (self._thinking is None or self._thinking.may_run_ahead)

    def attach(self, matcher: Matcher) -> None:
        """The compiled grammar, before the first token is sampled."""
        self._matcher = matcher

    def forced_token(self) -> int | None:
        return None if self._thinking is None else self._thinking.forced_token()

    def admit(self, token_id: int) -> int:
        return token_id if self._thinking is None else self._thinking.admit(token_id)

    def allowed(self) -> NDArray[np.bool_] | ErnieError | None:
        """bool [num_token_ids] of what may be sampled now; None for anything."""
        matcher = self._matcher
        if matcher is None or not self._is_answering:
            return None
        try:
            allowed = matcher.allowed()
        except ErnieError as error:
            return error
        if matcher.is_accepting:
            allowed = allowed.copy()
            allowed[[i for i in self._ignored_ids if i < len(allowed)]] = False
            allowed[[i for i in self._stop_ids if i < len(allowed)]] = True
        return allowed

    def commit(self, token_id: int) -> None:
        """Raises InvalidRequestError (code grammar_error) when the token does not fit."""
        thinking, matcher = self._thinking, self._matcher
        was_answering = self._is_answering
        if thinking is None or not thinking.is_open:
            self._num_answer_tokens += 1
        if thinking is not None:
            thinking.commit(token_id)
        if matcher is None:
            return
        if was_answering:
            matcher.consume(token_id)
            self._needs_mask = not matcher.is_complete
        elif thinking is not None and thinking.is_past and thinking.rest:
            rest, thinking.rest = thinking.rest, b""
            matcher.consume_text(rest.decode("utf-8", "replace").lstrip("\n"))
            self._needs_mask = not matcher.is_complete

    def take_maskless(self) -> Matcher | None:
        """The matcher if its next mask has yet to be computed; asked once after each commit."""
        if not self._needs_mask:
            return None
        self._needs_mask = False
        return self._matcher

    @property
    def _is_answering(self) -> bool:
        return self._thinking is None or self._thinking.is_past
