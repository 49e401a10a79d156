"""What the device is told of each row, and what becomes of a row it says nothing about."""

import numpy as np
import pytest

from backend.errors import InternalError, InvalidRequestError
from backend.request import MAX_BAD_WORDS, MAX_LOGIT_BIASES, SamplingParams
from backend.runner.device_sampler import MAX_ROW_BIASES, DeviceSampler
from backend.sampler import SampledToken, SamplingState
from backend.sampler.keys import seed_key
from kernels.sampling import ROW
from tests.unit.ops import numpy_kernels

SEATS = 6
SIZE = 100


@pytest.fixture
def sampler():
    context = numpy_kernels.Context()
    latest = context.zeros((SEATS,), numpy_kernels.i32)
    sizes = {"max_rows": 4, "vocab_size": SIZE, "num_token_ids": SIZE}
    return DeviceSampler(numpy_kernels, context, latest, **sizes)


def _state(seed=0, num_output=0, **params):
    prompt = np.arange(3, dtype=np.int32)
    return SamplingState(SamplingParams(**params), seed_key(seed), prompt, [7] * num_output)


def _rows(prepared):
    return prepared.settings.view(ROW).reshape(-1)


def test_rows_have_the_settings_of_their_requests_and_the_rest_is_padding(sampler):
    states = [_state(1, 2, temperature=0.5, top_k=9), _state(2, 5, temperature=0.0, logprobs=3)]
    rows = _rows(sampler.prepare(states, [4, 1], 4))
    assert rows["seat"].tolist() == [4, 1, -1, -1]
    assert rows["position"].tolist() == [2, 5, -1, -1]
    assert rows["temperature"].tolist() == [0.5, 0.0, 0.0, 0.0]
    assert rows["top_k"].tolist() == [9, 0, 0, 0]
    assert rows["num_top"].tolist() == [-1, 3, -1, -1]
    assert [tuple(key) for key in rows["key"][:2].tolist()] == [seed_key(1), seed_key(2)]
    assert (rows["place"][2:] == -1).all() and (rows["place"][:2] >= 0).all()


def test_positions_follow_the_output(sampler):
    state = _state(num_output=1)
    positions = []
    for _ in range(3):
        positions += _rows(sampler.prepare([state], [0], 1))["position"].tolist()
        state.output_ids.append(5)
    assert positions == [1, 2, 3]


def test_who_takes_over_a_seat_is_sampled_by_settings_of_its_own(sampler):
    for seed, temperature in enumerate((0.25, 0.75, 0.5)):
        state = _state(seed, temperature=temperature)
        for _ in range(2):
            [row] = _rows(sampler.prepare([state], [3], 1))
            assert row["temperature"] == temperature
            assert tuple(row["key"].tolist()) == seed_key(seed)


def test_a_request_that_changes_its_seat_is_known_there(sampler):
    states = [_state(1, temperature=0.25), _state(2, temperature=0.75)]
    sampler.prepare(states, [0, 1], 2)
    rows = _rows(sampler.prepare(states, [1, 0], 2))
    assert rows["seat"].tolist() == [1, 0]
    assert rows["temperature"].tolist() == [0.25, 0.75]


def test_a_row_that_the_device_left_out_fails_alone(sampler):
    states = [_state(seed, temperature=0.0) for seed in range(2)]
    prepared = sampler.prepare(states, [0, 1], 2)
    settings = prepared.settings.copy()
    settings.view(ROW)["place"][1] = -1
    logits = np.zeros((2, SIZE), np.float32)
    logits[:, 42] = 1.0
    context = numpy_kernels.Context()
    sampler.run(context.upload(logits), context.upload(settings))
    first, second = sampler.read_back(prepared).tokens()
    assert first.token_id == 42
    assert isinstance(second, InternalError)
    assert "status -1" in second.message


def _sample(sampler, states, seats, logits):
    prepared = sampler.prepare(states, seats, len(states))
    context = numpy_kernels.Context()
    sampler.run(context.upload(logits), context.upload(prepared.settings))
    return sampler.read_back(prepared).tokens()


def test_a_full_batch_of_requests_with_all_the_biases_they_may_have_is_sampled():
    count = 80
    context = numpy_kernels.Context()
    latest = context.zeros((count,), numpy_kernels.i32)
    sizes = {"max_rows": count, "vocab_size": SIZE, "num_token_ids": SIZE}
    sampler = DeviceSampler(numpy_kernels, context, latest, **sizes)
    states = [
        _state(
            temperature=0.0,
            logit_bias=((row, 1.0), *[((row + 1) % SIZE, 0.0)] * (MAX_LOGIT_BIASES - 1)),
            bad_words=((99,),) * MAX_BAD_WORDS,
        )
        for row in range(count)
    ]
    logits = np.zeros((count, SIZE), np.float32)
    logits[:, 99] = 50.0
    tokens = _sample(sampler, states, range(count), logits)
    assert [token.token_id for token in tokens] == list(range(count))


def test_a_row_with_more_biases_than_it_may_have_fails_alone(sampler):
    prompt = np.arange(3, dtype=np.int32)
    params = SamplingParams(temperature=0.0, min_tokens=1)
    stops = (5,) * (MAX_ROW_BIASES + 1)
    greedy = _state(temperature=0.0, min_tokens=1)
    states = [SamplingState(params, seed_key(0), prompt, [], stops), greedy]
    first, second = _sample(sampler, states, [0, 1], np.eye(2, SIZE, 7, dtype=np.float32))
    assert isinstance(first, InvalidRequestError)
    assert f"change {MAX_ROW_BIASES + 1} logits" in first.message
    assert second.token_id == 8


class _Forced:
    may_run_ahead = False

    def forced_token(self):
        return 5

    def admit(self, token_id):
        return token_id


@pytest.mark.parametrize(
    "params", [{"bad_words": ((5,),)}, {"min_tokens": 1}, {"logit_bias": ((5, -100.0),)}]
)
def test_a_forced_token_comes_whatever_bans_it(sampler, params):
    """Such as the newline behind `</think>` when bad_words has one."""
    prompt = np.arange(3, dtype=np.int32)
    params = SamplingParams(**params)
    state = SamplingState(params, seed_key(0), prompt, [], stop_ids=(5,), control=_Forced())
    [token] = _sample(sampler, [state], [0], np.eye(1, SIZE, 7, dtype=np.float32))
    assert token == SampledToken(5)


def test_a_seat_that_a_request_comes_back_to_counts_what_it_wrote_elsewhere(sampler):
    state = _state(presence_penalty=1.0)
    for seat in (0, 1, 0):
        sampler.prepare([state], [seat], 1)
        counts = sampler._counts.numpy()[seat]
        assert counts.nonzero()[0].tolist() == state.output_ids
        state.output_ids.append(10 + len(state.output_ids))


def test_counts_beyond_their_type_stay_at_its_end_as_on_the_device(sampler):
    sampler.prepare([_state(num_output=2**16 + 1, frequency_penalty=0.5)], [0], 1)
    assert sampler._counts.numpy()[0, 7] == 2**16 - 1
