"""Compiles grammars, keeps them, and computes masks beside the engine's thread."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

from llguidance import LLMatcher

from backend.structured.grammar import to_lark
from backend.structured.limits import COMPILE_TIMEOUT_S, invalid, parser_limits
from backend.structured.matcher import Matcher
from backend.structured.vocabulary import Vocabulary, make_ll_tokenizer
from backend.wire import StructuredSpec

MAX_CACHED: Final = 128
MAX_CACHED_BYTES: Final = 4 * 2**20
_MASKS_PER_JOB: Final = 16
_MAX_REASON: Final = 200
_PLACE: Final = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: | \(in regex\)")


class StructuredOutput:
    """Thread-safe. `num_token_ids`: how many ids the logits have.

    Compiled grammars are kept in memory, the least recently used dropped beyond MAX_CACHED of them
    or MAX_CACHED_BYTES of their texts. Compiling runs in threads of its own, so that a slow grammar
    delays no other request; masks have theirs.
    """

    def __init__(self, vocabulary: Vocabulary, num_token_ids: int, threads: int = 2) -> None:
        self.vocabulary = vocabulary
        self.num_token_ids = num_token_ids
        self._tokenizer = make_ll_tokenizer(vocabulary, num_token_ids)
        self._compilers = ThreadPoolExecutor(threads, "grammar-compile")
        self._masks = ThreadPoolExecutor(threads, "grammar-mask")
        self._lock = threading.Lock()
        self._cache: OrderedDict[StructuredSpec, Matcher] = OrderedDict()
        self._cached_bytes = 0

    def check(self, spec: StructuredSpec) -> None:
        """Raises InvalidRequestError (code invalid_grammar) naming the field and what is wrong."""
        try:
            self.compile(spec).result(COMPILE_TIMEOUT_S)
        except FutureTimeoutError:
            raise invalid(
                spec.param, f"takes more than {COMPILE_TIMEOUT_S} s to compile; make it smaller"
            ) from None

    def compile(self, spec: StructuredSpec) -> Future[Matcher]:
        """A matcher at the beginning of the grammar, its first mask computed; or what `check`
        raises."""
        with self._lock:
            known = self._cache.get(spec)
            if known is not None:
                self._cache.move_to_end(spec)
                done: Future[Matcher] = Future()
                done.set_result(known.copy())
                return done
        return self._compilers.submit(self._compile, spec)

    def special_token_id(self, name: str) -> int | None:
        """Id of a special token that the logits cover; None for any other name."""
        token_id = self.vocabulary.token_id(name)
        if token_id is None or token_id >= self.num_token_ids:
            return None
        return token_id if self.vocabulary.is_special(token_id) else None

    def start_masks(self, matchers: Sequence[Matcher]) -> None:
        """Begin to compute the next masks; each matcher's `allowed` waits for its own."""
        for start in range(0, len(matchers), _MASKS_PER_JOB):
            some = matchers[start : start + _MASKS_PER_JOB]
            future = self._masks.submit(_compute_masks, some)
            for matcher in some:
                matcher.pending = future

    def close(self) -> None:
        self._compilers.shutdown(wait=False, cancel_futures=True)
        self._masks.shutdown(wait=False, cancel_futures=True)

    def _compile(self, spec: StructuredSpec) -> Matcher:
        lark = to_lark(spec, self.special_token_id)
        grammar = LLMatcher.grammar_from_lark(lark)
        limits = parser_limits(spec.kind)
        raw = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if not raw.is_error():
            matcher = Matcher(raw, self._tokenizer, self.num_token_ids)
            matcher.compute_mask()
        if raw.is_error():
            raise invalid(spec.param, f"cannot be used as a grammar: {_reason(raw.get_error())}")
        if not matcher.allowed().any():
            raise invalid(spec.param, "admits no answer at all")
        self._keep(spec, matcher)
        return matcher.copy()

    def _keep(self, spec: StructuredSpec, matcher: Matcher) -> None:
        with self._lock:
            if spec in self._cache:
                return
            self._cache[spec] = matcher
            self._cached_bytes += len(spec.text)
            while len(self._cache) > MAX_CACHED or self._cached_bytes > MAX_CACHED_BYTES:
                dropped, _ = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped.text)


def _compute_masks(matchers: Sequence[Matcher]) -> None:
    for matcher in matchers:
        matcher.compute_mask()


def _reason(error: str) -> str:
    """The first line of the library's message, without the place in a text nobody has seen."""
    line = _PLACE.sub("", (error.strip() or "unknown").splitlines()[0])
    return line[:_MAX_REASON].rstrip(": ")
