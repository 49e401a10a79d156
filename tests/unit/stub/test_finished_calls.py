import gc
import weakref

from backend.stub.finished_calls import FinishedCalls


class Responses:
    pass


def test_a_call_is_held_for_its_time_and_let_go_when_a_later_one_comes():
    now = 100.0
    calls = FinishedCalls(hold_s=5.0, clock=lambda: now)

    def keep():
        responses = Responses()
        calls.keep(responses)
        return weakref.ref(responses)

    first = keep()
    now += 3
    second = keep()
    now += 1.9
    third = keep()
    gc.collect()
    assert all(call() is not None for call in (first, second, third))
    now += 0.1
    keep()
    assert first() is None
    assert second() is not None and third() is not None
    now += 100
    keep()
    assert second() is None and third() is None
