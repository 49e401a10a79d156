"""Places of results: no step's results are overwritten before they were read, however fast or slow
the device is and however many steps somebody holds."""

import numpy as np
import pytest

from backend.errors import InternalError
from backend.runner.result_places import ResultPlaces
from kernels.sampling import Status, results_of
from tests.unit.ops import numpy_kernels


class _Event:
    def __init__(self, device):
        self._device = device
        self._behind = None

    def record(self):
        self._behind = self._device.num_launched

    def synchronize(self):
        assert self._behind is not None, "an event that was never recorded waits for nothing"
        self._device.compute(self._behind)


class _SlowDevice:
    """Computes nothing before somebody waits for it."""

    def __init__(self):
        self.num_launched = 0
        self._queue = []

    def host_array(self, shape, dtype):
        self.array = np.zeros(shape, dtype)
        return self.array, self.array

    def event(self, sleeps=False):
        return _Event(self)

    def launch(self, placed, tokens):
        self.num_launched += 1
        self._queue.append((self.num_launched, placed.places, tokens))
        placed.launched()

    def compute(self, until):
        while self._queue and self._queue[0][0] <= until:
            _, places, tokens = self._queue.pop(0)
            results = results_of(self.array)
            results["token"][places], results["status"][places] = tokens, Status.OK


class _FastDevice(_SlowDevice):
    def launch(self, placed, tokens):
        super().launch(placed, tokens)
        self.compute(self.num_launched)


@pytest.fixture(params=[_SlowDevice, _FastDevice], ids=["slow", "fast"])
def device(request):
    return request.param()


def _launch(device, places, step, num_rows=3):
    placed = places.take(num_rows)
    device.launch(placed, step * 100 + np.arange(num_rows))
    return placed


def _is_of(placed, step, num_rows=3):
    results = placed.read()
    assert not results["status"].any()
    return results["token"].tolist() == [step * 100 + row for row in range(num_rows)]


def test_a_steps_results_are_read_while_the_next_one_runs(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    before = _launch(device, places, 0)
    for step in range(1, 10):
        placed = _launch(device, places, step)
        assert _is_of(before, step - 1)
        before = placed


def test_nobody_who_holds_many_steps_loses_one(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    held = [_launch(device, places, step) for step in range(7)]
    for step in (3, 0, 6, 1, 5, 2, 4):
        assert _is_of(held[step], step)
        assert _is_of(held[step], step), "a second reading"


def test_results_stay_when_their_places_are_used_again(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    results = _launch(device, places, 0).read()
    for step in range(1, 4):
        _launch(device, places, step).read()
    assert results["token"].tolist() == [0, 1, 2]


def test_two_steps_in_flight_share_no_place(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    first, second = places.take(4), places.take(2)
    assert not set(first.places) & set(second.places)
    assert max(*first.places, *second.places) < len(device.array)


def test_what_the_device_did_not_write_is_known_to_be_missing(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    for step in range(2):
        _launch(device, places, step).read()
    placed = places.take(3)
    placed.launched()
    assert (placed.read()["status"] == Status.MISSING).all()


def test_places_of_a_step_that_failed_are_used_again(device):
    places = ResultPlaces(numpy_kernels, device, max_rows=4)
    places.take(3)
    for step in range(1, 5):
        assert _is_of(_launch(device, places, step), step)


def test_more_rows_than_there_is_room_for_are_refused(device):
    with pytest.raises(InternalError, match="results of 5 rows; there is room for 4"):
        ResultPlaces(numpy_kernels, device, max_rows=4).take(5)
