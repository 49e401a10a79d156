import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.request import SamplingParams
from backend.sampler import SamplingState, seed_key
from backend.sampler.penalties import adjust, has_adjustments


def adjusted(make_state, logits, **kwargs):
    row = np.array(logits, dtype=np.float32)
    adjust(row, make_state(**kwargs))
    return row.tolist()


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_output(
    make_state,
):
    row = adjusted(make_state, [4, -4, 4, -4, 4], prompt=[0, 1], output=[3], repetition_penalty=2.0)
    assert row == [2, -8, 4, -8, 4]


def test_frequency_counts_and_presence_does_not_and_both_ignore_the_prompt(make_state):
    kwargs = {"prompt": [0, 0, 0], "output": [1, 1, 2]}
    assert adjusted(make_state, [0, 0, 0, 0], frequency_penalty=0.5, **kwargs) == [0, -1, -0.5, 0]
    assert adjusted(make_state, [0, 0, 0, 0], presence_penalty=1.5, **kwargs) == [0, -1.5, -1.5, 0]


def test_negative_penalties_encourage(make_state):
    assert adjusted(make_state, [0, 0], output=[1], presence_penalty=-1.0) == [0, 1]


def test_stop_ids_are_masked_until_min_tokens(make_state):
    kwargs = {"stop_ids": [1], "min_tokens": 2}
    assert adjusted(make_state, [0, 5, 0], output=[2], **kwargs) == [0, -np.inf, 0]
    assert not has_adjustments(make_state(output=[2, 2], **kwargs))


def test_default_settings_adjust_nothing(make_state):
    assert not has_adjustments(make_state(prompt=[1], output=[2]))


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6),
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    output=st.lists(st.integers(0, 5), max_size=8),
    repetition=st.sampled_from([0.5, 1.0, 1.3]),
    frequency=st.sampled_from([-0.5, 0.0, 0.7]),
    presence=st.sampled_from([-1.0, 0.0, 0.4]),
)
def test_penalties_equal_a_token_by_token_loop(
    logits, prompt, output, repetition, frequency, presence
):
    params = SamplingParams(
        repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence
    )
    row = np.array(logits, dtype=np.float32)
    adjust(row, SamplingState(params, seed_key(0), np.array(prompt, dtype=np.int32), output))
    for token_id, logit in enumerate(logits):
        if token_id in prompt or token_id in output:
            logit = logit / repetition if logit > 0 else logit * repetition
        logit -= output.count(token_id) * frequency + (token_id in output) * presence
        np.testing.assert_allclose(row[token_id], logit, rtol=1e-5, atol=1e-5)
