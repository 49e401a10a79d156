import dataclasses

import numpy as np
import pytest

from backend import wire
from backend.engine.request_builder import RequestBuilder
from backend.errors import ContextLengthError, InvalidRequestError
from backend.request import MAX_STOP_TOKEN_IDS
from backend.sampler import seed_key
from tests.unit.engine import fake_model as fake
from tests.unit.engine.requests import Prompt, ids_of, make_request, picture


def build(prompt=(5, 6), positions=None, request=None, config=fake.CONFIG, pixels=None, **sampling):
    builder = RequestBuilder(config, {7, fake.EOS_ID}, max_model_len=20, block_size=4, seed=3)
    request = request or make_request(**sampling)
    return builder.build(request, np.asarray(prompt), positions, pixels)


def test_text_positions_count_up_on_all_axes():
    request = build([5, 6, 7])
    assert request.positions.tolist() == [[0, 1, 2]] * 3
    assert request.positions.dtype == request.prompt_ids.dtype == np.int32
    assert not request.is_vision.any()


def test_placeholders_and_their_boundaries_go_to_the_vision_experts():
    prompt = Prompt(5, picture(2, 2), 6)
    request = build(prompt.ids, request=make_request(media=prompt.media), pixels=prompt.pixels)
    assert request.is_vision.tolist() == [False, True, True, True, False]


def test_a_text_model_routes_nothing_to_vision_experts():
    config = dataclasses.replace(fake.CONFIG, vision=None)
    assert not build([fake.IMAGE_ID, fake.START_ID], config=config).is_vision.any()


def test_requests_are_numbered_by_arrival():
    builder = RequestBuilder(fake.CONFIG, (), max_model_len=20, block_size=4, seed=0)
    arrivals = [
        builder.build(make_request(str(n)), ids_of([5]), None, None).arrival for n in range(3)
    ]
    assert arrivals == [0, 1, 2]


def test_stop_ids_are_the_requests_own_and_the_models():
    assert set(build(stop_token_ids=(9,)).sampling.stop_ids) == {2, 7, 9}
    assert set(build(stop_token_ids=(9,), ignore_eos=True).sampling.stop_ids) == {9}


def test_a_seed_names_the_random_stream():
    assert build(seed=11).sampling.key == seed_key(11)
    assert build().sampling.key == build().sampling.key != seed_key(3)


@pytest.mark.parametrize("max_tokens, expected", [(None, 18), (5, 5), (18, 18), (10**6, 18)])
def test_max_tokens_is_what_was_asked_for_and_fits(max_tokens, expected):
    assert build(max_tokens=max_tokens).max_tokens == expected


def test_a_prompt_that_leaves_no_room_is_refused():
    assert build([5] * 19).max_tokens == 1
    with pytest.raises(ContextLengthError, match="has 20 tokens; the context of 20"):
        build([5] * 20)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ([], r"shape \[0\]"),
        ([[5, 6]], r"shape \[1, 2\]"),
        ([5, -1], "token id -1; ids are 0 to 100"),
        ([5, 101], "token id 101; ids are 0 to 100"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt, message):
    with pytest.raises(InvalidRequestError, match=message):
        build(prompt)


@pytest.mark.parametrize(
    "positions, message",
    [
        (np.zeros((2, 2), dtype=np.int32), r"shape \[2, 2\]; expected \[3, 2\]"),
        (np.zeros((3, 3), dtype=np.int32), r"shape \[3, 3\]"),
        (np.full((3, 2), -1, dtype=np.int32), "from -1 to -1; expected 0 to 1"),
        (np.full((3, 2), 2, dtype=np.int32), "from 2 to 2; expected 0 to 1"),
    ],
)
def test_positions_that_cannot_be_are_refused(positions, message):
    with pytest.raises(InvalidRequestError, match=message):
        build(positions=positions)


@pytest.mark.parametrize("token_id", [-1, 101, 2**31])
def test_stop_token_ids_outside_the_vocabulary_are_refused(token_id):
    with pytest.raises(InvalidRequestError, match=f"stop_token_ids has {token_id}"):
        build(stop_token_ids=(token_id,))


def test_more_stop_token_ids_than_a_step_can_look_through_are_refused():
    data = b'{"stream_key": "a", "sampling": {"stop_token_ids": [%s]}}'
    allowed = wire.decode(data % b",".join([b"9"] * MAX_STOP_TOKEN_IDS), wire.EngineRequest)
    assert build(request=allowed).sampling.stop_ids[:2] == (9, 9)
    with pytest.raises(InvalidRequestError, match=r"stop_token_ids has 513 elements; .* to 512"):
        wire.decode(data % b",".join([b"9"] * (MAX_STOP_TOKEN_IDS + 1)), wire.EngineRequest)


def test_only_generate_with_a_stream_key_is_a_request():
    for field, value in (("op", "stop"), ("stream_key", "")):
        request = make_request()
        setattr(request, field, value)
        with pytest.raises(InvalidRequestError, match="takes 'generate' with a stream_key"):
            build(request=request)


def test_arrays_are_copied_so_that_nobody_changes_them_later():
    prompt = ids_of([5, 6])
    positions = np.zeros((3, 2), dtype=np.int32)
    request = build(prompt, positions)
    prompt[:] = 0
    positions[:] = 1
    assert request.prompt_ids.tolist() == [5, 6]
    assert request.positions.max() == 0
