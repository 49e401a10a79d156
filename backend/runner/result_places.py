"""Where sampled tokens reach the host without a copy between two steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import InternalError
from kernels.sampling import RESULT, Status, results_of


class ResultPlaces:
    """Memory of the host that `kernels.sample` writes results to: `tensor` int32 [P, 44].

    Steps take turns of `max_rows` places each, so that the results of one can be read while the
    device computes the next. A turn comes round again when its results were read; those of a step
    that nobody has read yet are then waited for and put aside.
    """

    def __init__(self, kernels: Any, context: Any, max_rows: int, num_turns: int = 2) -> None:
        shape = (num_turns * max_rows, RESULT.itemsize // 4)
        self.tensor, words = context.host_array(shape, kernels.i32)
        self._max_rows = max_rows
        self._turns = [
            _Turn(context.event(sleeps=True), turn * max_rows, part)
            for turn, part in enumerate(words.reshape(num_turns, max_rows, -1))
        ]
        self._num_taken = 0

    def take(self, num_rows: int) -> PlacedResults:
        """Places for a step's rows. Raises InternalError when there are more than a turn has."""
        if num_rows > self._max_rows:
            raise InternalError(f"results of {num_rows} rows; there is room for {self._max_rows}")
        turn = self._turns[self._num_taken % len(self._turns)]
        self._num_taken += 1
        if turn.holder is not None:
            turn.holder.read()
        turn.holder = PlacedResults(turn, num_rows)
        return turn.holder


class _Turn:
    def __init__(self, event: Any, first: int, words: NDArray[np.int32]) -> None:
        self.event = event
        self.first = first
        self.words = words
        self.holder: PlacedResults | None = None


class PlacedResults:
    """The results of one step, `places` int32 [R] among all; they are Status.MISSING until the
    device has written them."""

    def __init__(self, turn: _Turn, num_rows: int) -> None:
        self.places = turn.first + np.arange(num_rows, dtype=np.int32)
        self._turn: _Turn | None = turn
        self._words = turn.words[:num_rows]
        self._is_launched = False
        results_of(self._words)["status"] = Status.MISSING

    def launched(self) -> None:
        """Everything that writes them has been launched."""
        assert self._turn is not None
        self._turn.event.record()
        self._is_launched = True

    def read(self) -> NDArray[Any]:
        """RESULT [R], when the device has computed them; the places are then free."""
        turn = self._turn
        if turn is not None:
            if not self._is_launched:  # the step failed, though perhaps not all of it
                turn.event.record()
            turn.event.synchronize()
            self._words = self._words.copy()
            self._turn = turn.holder = None
        results: NDArray[Any] = results_of(self._words)
        return results
