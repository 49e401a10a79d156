"""Sampling on the device: each request's settings as rows, its results as tokens."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import ErnieError, InternalError, InvalidRequestError
from backend.request import MAX_BAD_WORDS, MAX_LOGIT_BIASES
from backend.runner.result_places import PlacedResults, ResultPlaces
from backend.sampler import SampledToken, SamplingState
from backend.sampler.penalties import banned_ids
from backend.sampler.sampler import none_left, not_finite
from backend.wire import TokenLogprob
from kernels.sampling import MAX_TOP_LOGPROBS, Status, padding_rows, row_bytes

MAX_ROW_BIASES = MAX_LOGIT_BIASES + MAX_BAD_WORDS + 512
"""Of one row: its request's logit_bias, ends of bad words, and stop tokens before min_tokens."""


class DeviceSampler:
    """Owns the device arrays that `kernels.sample` reads beside the rows' settings, so that it can
    be part of a recorded graph: `prepare` fills them, `run` is recorded or called.

    `latest` int32 [seats] gets every sampled token; penalties look at tables with a row per seat.
    """

    def __init__(
        self,
        kernels: Any,
        context: Any,
        latest: Any,
        *,
        max_rows: int,
        vocab_size: int,
        num_token_ids: int,
    ) -> None:
        self._kernels = kernels
        self._latest = latest
        self._num_token_ids = num_token_ids
        self._num_words = -(-vocab_size // 32)
        num_seats = latest.shape[0]
        zeros = context.zeros
        self._mask = zeros((max_rows, self._num_words), kernels.i32)
        self._bias_offsets = zeros((max_rows + 1,), kernels.i32)
        self._bias_ids = zeros((max_rows * MAX_ROW_BIASES,), kernels.i32)
        self._bias_values = zeros((max_rows * MAX_ROW_BIASES,), kernels.f32)
        self._counts = zeros((num_seats, vocab_size), kernels.u16)
        self._prompt_seen = zeros((num_seats, self._num_words), kernels.i32)
        self._results = ResultPlaces(kernels, context, max_rows)
        self._settings = padding_rows(num_seats)
        self._settings_of: list[weakref.ref[SamplingState] | None] = [None] * num_seats
        self._penalized: dict[int, SamplingState] = {}
        self._has_biases = False

    @staticmethod
    def may_run_ahead(state: SamplingState) -> bool:
        """Whether the token after the next can be prepared while the next is unknown: no grammar,
        no thinking section about to end, no words that are banned by what stands before them."""
        is_free = state.control is None or state.control.may_run_ahead
        return is_free and all(len(word) == 1 for word in state.params.bad_words)

    def prepare(
        self, states: Sequence[SamplingState], seats: Sequence[int], size: int
    ) -> PreparedRows:
        """Settings of `size` rows; those beyond `states` are padding."""
        count = len(states)
        for state, seat in zip(states, seats, strict=True):
            known = self._settings_of[seat]
            if known is None or known() is not state:
                self._settings[seat] = _settings_of(state, seat)
                self._settings_of[seat] = weakref.ref(state)
            params = state.params
            if (
                params.repetition_penalty != 1.0
                or params.frequency_penalty
                or params.presence_penalty
            ):
                self._note_penalties(seat, state)
        rows = padding_rows(size)
        rows[:count] = self._settings[list(seats)]
        rows["position"][:count] = [state.position for state in states]
        errors = [self._constrain(rows, row, state) for row, state in enumerate(states)]
        biases = list(map(_biases_of, states))
        for row, (ids, _) in enumerate(biases):
            if len(ids) > MAX_ROW_BIASES:
                rows[row]["position"] = -1
                errors[row] = _too_many_biases(len(ids))
                biases[row] = _NO_BIASES
        self._upload_biases(biases, size)
        placed = self._results.take(count)
        rows["place"][:count] = placed.places
        return PreparedRows(tuple(states), tuple(errors), row_bytes(rows), placed)

    def run(self, logits: Any, settings: Any) -> None:
        """Sample float32 logits [R, V] by settings uint8 [R, 64], both on the device."""
        size = logits.shape[0]
        self._kernels.sample(
            logits,
            settings,
            num_valid=self._num_token_ids,
            mask=self._mask,
            bias_offsets=self._bias_offsets.slice(0, size + 1),
            bias_ids=self._bias_ids,
            bias_values=self._bias_values,
            counts=self._counts,
            prompt_seen=self._prompt_seen,
            latest=self._latest,
            results=self._results.tensor,
        )

    def read_back(self, prepared: PreparedRows) -> SampledRows:
        """The results of what was just launched, which come to the host by themselves."""
        prepared.placed.launched()
        return SampledRows(prepared.states, prepared.errors, prepared.placed, self.forget)

    def forget(self, state: SamplingState) -> None:
        """The request has ended, or what the device has counted is not what its output has."""
        self._penalized = {s: known for s, known in self._penalized.items() if known is not state}

    def _constrain(self, rows: NDArray[Any], row: int, state: SamplingState) -> ErnieError | None:
        """What a grammar or a thinking section leaves, as bits."""
        control = state.control
        if control is None:
            return None
        forced = control.forced_token()
        if forced is not None:
            allowed = np.zeros(self._num_token_ids, dtype=np.bool_)
            allowed[forced] = True
        else:
            answer = control.allowed()
            if isinstance(answer, ErnieError):
                rows[row]["position"] = -1
                return answer
            if answer is None:
                return None
            allowed = answer
        bits = np.zeros(self._num_words * 4, dtype=np.uint8)
        packed = np.packbits(allowed, bitorder="little")
        bits[: len(packed)] = packed
        self._mask.slice(row, row + 1).copy_from(bits.view(np.int32)[None])
        rows[row]["mask_row"] = row
        return None

    def _note_penalties(self, seat: int, state: SamplingState) -> None:
        """Tell the device what a request's prompt and output have, when it is new to its seat;
        from then on the device counts for itself."""
        if self._penalized.get(seat) is state:
            return
        self.forget(state)  # a seat it had before will have missed tokens when it comes back
        self._penalized[seat] = state
        seen = np.zeros(self._num_words * 32, dtype=np.bool_)
        seen[state.distinct_prompt_ids] = True
        bits = np.packbits(seen, bitorder="little").view(np.int32)
        self._prompt_seen.slice(seat, seat + 1).copy_from(bits[None])
        known = [token_id for token_id in state.output_ids if token_id >= 0]
        counts = np.bincount(known, minlength=self._counts.shape[1])
        counts = np.minimum(counts, np.iinfo(np.uint16).max).astype(np.uint16)  # as the device does
        self._counts.slice(seat, seat + 1).copy_from(counts[None])

    def _upload_biases(
        self, biases: list[tuple[NDArray[np.int64], NDArray[np.float32]]], size: int
    ) -> None:
        total = sum(len(ids) for ids, _ in biases)
        if not total and not self._has_biases:
            return
        self._has_biases = bool(total)
        offsets = np.full(self._bias_offsets.shape[0], total, dtype=np.int32)
        offsets[0] = 0
        lengths = [len(ids) for ids, _ in biases]
        offsets[1 : len(lengths) + 1] = np.cumsum(lengths)
        self._bias_offsets.copy_from(offsets)
        if total:
            ids = np.concatenate([ids for ids, _ in biases]).astype(np.int32)
            values = np.concatenate([values for _, values in biases])
            self._bias_ids.slice(0, total).copy_from(ids)
            self._bias_values.slice(0, total).copy_from(values)


_NO_BIASES = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def _settings_of(state: SamplingState, seat: int) -> NDArray[Any]:
    """What stays the same for all of a request's tokens, as ROW [1]."""
    params = state.params
    values: NDArray[Any] = padding_rows(1)
    values["temperature"] = 0.0 if params.is_greedy else params.temperature
    values["top_p"] = params.top_p
    values["min_p"] = params.min_p
    values["top_k"] = max(params.top_k, 0)
    values["repetition"] = params.repetition_penalty
    values["frequency"] = params.frequency_penalty
    values["presence"] = params.presence_penalty
    values["seat"] = seat
    values["num_top"] = -1 if params.logprobs is None else min(params.logprobs, MAX_TOP_LOGPROBS)
    values["key"] = state.key
    return values


def _biases_of(state: SamplingState) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Biases and bans: ids and what is added. A forced token is none that they could change."""
    if state.control is not None and state.control.forced_token() is not None:
        return _NO_BIASES
    banned = banned_ids(state)
    if not banned and not state.params.logit_bias:
        return _NO_BIASES
    ids, biases = state.biases
    all_ids = np.concatenate([ids, np.array(banned, dtype=np.int64)])
    return all_ids, np.concatenate([biases, np.full(len(banned), -np.inf, np.float32)])


def _too_many_biases(count: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"logit_bias, bad_words and stop_token_ids change {count} logits of one token; at most "
        f"{MAX_ROW_BIASES} may be changed"
    )


@dataclass(frozen=True)
class PreparedRows:
    """Rows for the first of which there are states; the rest is padding.

    errors: why a row cannot be sampled, where that is so; settings uint8 [R, 64]; placed: where
    the results go.
    """

    states: Sequence[SamplingState]
    errors: Sequence[ErnieError | None]
    settings: NDArray[np.uint8]
    placed: PlacedResults


@dataclass(frozen=True)
class SampledRows:
    """Results of rows that were prepared.

    `on_replaced` is told whose token is another than the device's."""

    states: Sequence[SamplingState]
    errors: Sequence[ErnieError | None]
    placed: PlacedResults
    on_replaced: Callable[[SamplingState], None]

    def tokens(self) -> list[SampledToken | ErnieError]:
        """Wait for them."""
        results = self.placed.read()
        columns = zip(
            self.states,
            self.errors,
            results["token"].tolist(),
            results["status"].tolist(),
            strict=False,
        )
        tokens = [
            error or _token(state, token_id, status, results, row)
            for row, (state, error, token_id, status) in enumerate(columns)
        ]
        for state, token in zip(self.states, tokens, strict=True):
            if isinstance(token, SampledToken) and token.is_replaced:
                self.on_replaced(state)
        return tokens


def _token(
    state: SamplingState, token_id: int, status: int, results: NDArray[Any], row: int
) -> SampledToken | ErnieError:
    if status == Status.NOT_FINITE:
        return not_finite(state)
    if status == Status.NONE_LEFT:
        return none_left(state)
    if status != Status.OK:
        return InternalError(f"the device left status {status} for a token of this request")
    sampled_id = token_id
    if state.control is not None:
        token_id = state.control.admit(token_id)
    is_replaced = token_id != sampled_id
    if state.params.logprobs is None:
        return SampledToken(token_id, is_replaced=is_replaced)
    result = results[row]
    count = int(result["num_top"])
    top = zip(
        result["top_ids"][:count].tolist(), result["top_logprobs"][:count].tolist(), strict=True
    )
    logprob = TokenLogprob(token_id, float(result["logprob"]), tuple(top))
    return SampledToken(token_id, logprob, is_replaced)
