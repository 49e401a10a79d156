"""Where one answer stands in its grammar, and which tokens may come next."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from backend.errors import InvalidRequestError
from backend.structured.limits import MASK_TIMEOUT_S


class Matcher:
    """`consume` each token in turn; `compute_mask` after it, in any thread; then `allowed`.

    `is_accepting`: the answer may end here. `is_complete`: it must, nothing can follow.
    """

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, num_token_ids: int) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._words = np.zeros((num_token_ids + 31) // 32, dtype=np.int32)
        self._allowed = np.zeros(num_token_ids, dtype=np.bool_)
        self._num_consumed = 0
        self._read_state()
        self.pending: Future[None] | None = None

    def copy(self) -> Matcher:
        """An independent one in the same state, its mask included."""
        twin = Matcher(self._matcher.deep_copy(), self._tokenizer, len(self._allowed))
        twin._allowed = self._allowed
        twin._num_consumed = self._num_consumed
        return twin

    def consume(self, token_id: int) -> None:
        """Raises InvalidRequestError (code grammar_error): the token does not fit, or the grammar
        has become too complex to follow."""
        self._wait()
        self._num_consumed += 1
        if not self._matcher.consume_token(token_id):
            raise self._error()
        self._read_state()

    def consume_text(self, text: str) -> None:
        """The same for text that came in the same token as something else."""
        for token_id in self._tokenizer.greedy_tokenize(text):
            self.consume(token_id)

    def compute_mask(self) -> None:
        """Takes microseconds as a rule, and releases the interpreter's lock meanwhile."""
        words = self._words
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        self._allowed = bits[: len(self._allowed)].view(np.bool_)

    def allowed(self) -> NDArray[np.bool_]:
        """bool [num_token_ids]; eos among them when the answer may end. Read-only.

        Raises InvalidRequestError (code grammar_error) when it could not be computed.
        """
        self._wait()
        if self._matcher.is_error():
            raise self._error()
        return self._allowed

    def _wait(self) -> None:
        """For the mask that is being computed: until then the grammar's state is in use."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        try:
            pending.result(MASK_TIMEOUT_S)
        except FutureTimeoutError:
            self.pending = pending
            raise self._too_complex() from None

    def _read_state(self) -> None:
        self.is_accepting = self._matcher.is_accepting()
        self.is_complete = self._matcher.is_stopped() and not self._matcher.is_error()

    def _error(self) -> InvalidRequestError:
        if "doesn't satisfy" not in self._matcher.get_error():
            return self._too_complex()
        return InvalidRequestError(
            f"token {self._num_consumed} of the constrained answer cannot follow its grammar",
            code="grammar_error",
        )

    def _too_complex(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"the grammar became too complex to follow after {self._num_consumed} tokens",
            code="grammar_error",
        )
