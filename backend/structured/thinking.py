"""The thinking section that a prompt has opened: how long it may be, and how it is closed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from backend.errors import InvalidRequestError
from backend.wire import ThinkingSpec

THINK_END: Final = b"</think>"


class ThinkingSection:
    """| thinking, sampled ≤ budget | close_ids, forced | after_ids, forced | answer, sampled |

    The section ends where the text `</think>` is complete, whoever wrote it and in however many
    tokens, as the parsers see it. When the model has used its budget, or ends the answer (one of
    `replaced_ids`) without having closed the section, `close_ids` and `after_ids` are written for
    it. When it closes the section itself, `after_ids` follow only if the answer `is_constrained`:
    a grammar would not let the model write the blank line that it was trained to begin with.

    `rest`: text behind `</think>` in the token that completed it.
    Raises InvalidRequestError when `close_ids` do not contain `</think>`.
    """

    def __init__(
        self,
        spec: ThinkingSpec,
        budget: int,
        token_bytes: Callable[[int], bytes],
        is_constrained: bool,
    ) -> None:
        if THINK_END not in b"".join(token_bytes(i) for i in spec.close_ids):
            raise InvalidRequestError(
                "thinking.close_ids do not contain </think>", param="thinking.close_ids"
            )
        self._spec = spec
        self._budget = budget
        self._token_bytes = token_bytes
        self._is_constrained = is_constrained
        self._forced: deque[int] = deque()
        self._tail = b""
        self.is_open = True
        self.num_tokens = 0
        self.rest = b""

    @property
    def is_past(self) -> bool:
        """The next token is the model's own, and part of the answer."""
        return not self.is_open and not self._forced

    @property
    def may_run_ahead(self) -> bool:
        """Whether the token after the next is the model's own too, whatever the next one is; not
        if `admit` puts another in its place."""
        if self._forced or (self.is_open and self._is_constrained):
            return False
        return not self.is_open or self.num_tokens + 1 < self._budget

    def forced_token(self) -> int | None:
        """The token that comes next whatever the model says; None for the model's choice."""
        if self.is_open and not self._forced and self.num_tokens >= self._budget:
            self._close()
        return self._forced[0] if self._forced else None

    def admit(self, token_id: int) -> int:
        """The token to take for the sampled `token_id`."""
        if self.is_open and not self._forced and token_id in self._spec.replaced_ids:
            self._close()
            return self._forced[0]
        return token_id

    def commit(self, token_id: int) -> None:
        is_forced = bool(self._forced)
        if is_forced:
            self._forced.popleft()
        if not self.is_open:
            return
        self.num_tokens += not is_forced
        text = self._tail + self._token_bytes(token_id)
        at = text.find(THINK_END)
        if at < 0:
            self._tail = text[-len(THINK_END) + 1 :]
            return
        self.is_open = False
        self.rest = text[at + len(THINK_END) :]
        if self._is_constrained and not is_forced and not self.rest:
            self._forced.extend(self._spec.after_ids)

    def _close(self) -> None:
        self._forced = deque((*self._spec.close_ids, *self._spec.after_ids))
