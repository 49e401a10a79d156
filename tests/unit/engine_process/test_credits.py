import pytest

from backend.engine import credits
from backend.engine.credits import CreditSlots
from backend.shared_memory import CreditFile


@pytest.fixture
def slots():
    slots = CreditSlots(2)
    yield slots
    slots.remove()


@pytest.fixture
def acknowledge():
    """The postprocessor's side."""
    files = {}

    def bump(lease):
        credit = lease.credit
        if credit.name not in files:
            files[credit.name] = CreditFile.open(credit.name)
        files[credit.name].bump(credit.slot)

    yield bump
    for file in files.values():
        file.close()


def test_acknowledgements_are_counted_from_the_lease_on(slots, acknowledge):
    first = slots.lease()
    acknowledge(first)
    acknowledge(first)
    assert first.num_acknowledged() == 2
    slots.release(first, 2)
    again = [slots.lease(), slots.lease()]
    assert all(lease.num_acknowledged() == 0 for lease in again)


def test_a_slot_rests_until_all_its_acknowledgements_arrived(slots, acknowledge):
    first, other = slots.lease(), slots.lease()
    assert slots.lease() is None
    slots.release(first, 2)
    acknowledge(first)
    assert slots.lease() is None
    acknowledge(first)
    assert slots.lease().credit == first.credit
    assert other.num_acknowledged() == 0


def test_a_slot_that_rests_long_keeps_no_other_from_use(slots, acknowledge):
    lost, heard = slots.lease(), slots.lease()
    slots.release(lost, 1)
    slots.release(heard, 1)
    acknowledge(heard)
    assert slots.lease().credit == heard.credit
    assert slots.lease() is None
    acknowledge(lost)
    assert slots.lease().credit == lost.credit


def test_outputs_on_their_way_are_counted_over_all_streams(slots, acknowledge):
    first, other = slots.lease(), slots.lease()
    for lease in (first, other, other):
        slots.count_sent(lease)
    assert slots.num_outstanding() == 3
    acknowledge(first)
    acknowledge(other)
    assert slots.num_outstanding() == 1


def test_lost_acknowledgements_are_forgotten_after_a_while(slots, acknowledge, monkeypatch):
    monkeypatch.setattr(credits, "RECOUNT_S", 60.0)
    first = slots.lease()
    slots.count_sent(first, 2)
    assert slots.num_outstanding() == 2
    monkeypatch.setattr(credits, "LOST_S", 0.0)
    assert slots.num_outstanding() == 0
    monkeypatch.setattr(credits, "LOST_S", 60.0)
    acknowledge(first)  # one of them was only late
    assert slots.num_outstanding() == 0
    slots.count_sent(first)
    assert slots.num_outstanding() == 1


def test_what_one_stream_lost_is_forgotten_while_others_are_heard(slots, acknowledge, monkeypatch):
    monkeypatch.setattr(credits, "LOST_S", 60.0)
    monkeypatch.setattr(credits, "RECOUNT_S", 0.0)
    unheard, other = slots.lease(), slots.lease()
    slots.count_sent(unheard, 3)
    slots.count_sent(other, 2)
    acknowledge(other)
    assert slots.num_outstanding() == 4
    unheard.sent_at -= credits.OVERDUE_S
    assert slots.num_outstanding() == 1
    slots.count_sent(unheard)
    assert slots.num_outstanding() == 2
    acknowledge(unheard)  # one of its first three was only late
    acknowledge(other)
    assert slots.num_outstanding() == 0
    slots.count_sent(unheard)
    unheard.sent_at -= credits.OVERDUE_S
    slots.release(unheard, 5)
    slots.count_sent(other)
    assert slots.num_outstanding() == 1


def test_a_slot_comes_back_even_when_the_postprocessor_died(slots, monkeypatch):
    slots.release(slots.lease(), 5)
    slots.lease()
    assert slots.lease() is None
    monkeypatch.setattr(credits, "MAX_REST_S", 0.0)
    assert slots.lease() is not None
