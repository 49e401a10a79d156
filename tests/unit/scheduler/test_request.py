import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.scheduler.fakes import make_piece, make_request


@given(st.integers(1, 9), st.integers(0, 9), st.data())
def test_slices_treat_prompt_and_output_as_one_sequence(num_prompt, num_output, data):
    request = make_request(range(100, 100 + num_prompt))
    request.output_ids.extend(range(200, 200 + num_output))
    start = data.draw(st.integers(0, request.num_tokens))
    stop = data.draw(st.integers(start, request.num_tokens))
    whole = [*range(100, 100 + num_prompt), *range(200, 200 + num_output)]
    assert request.token_ids(start, stop).tolist() == whole[start:stop]
    assert request.token_positions(start, stop).tolist() == [list(range(start, stop))] * 3


def test_generated_tokens_continue_after_the_largest_position_of_any_axis():
    request = make_request([1, 2, 3])
    request.positions[:] = [[0, 1, 2], [0, 5, 3], [0, 1, 2]]
    request = type(request)(
        stream_key="a",
        arrival=0,
        prompt_ids=request.prompt_ids,
        positions=request.positions,
        is_vision=request.is_vision,
        media=(),
        sampling=request.sampling,
        max_tokens=4,
        block_size=4,
    )
    request.output_ids.extend([7, 8])
    assert request.token_positions(2, 5).tolist() == [[2, 6, 7], [3, 6, 7], [2, 6, 7]]
    assert request.token_positions(4, 5).tolist() == [[7], [7], [7]]


def test_generated_tokens_are_text_even_after_a_picture():
    request = make_request([0] * 6, media=[make_piece(2, 4)])
    request.output_ids.extend([9, 9])
    assert request.vision_mask(4, 8).tolist() == [True, True, False, False]


def test_pieces_are_found_by_the_tokens_they_share():
    first, second = make_piece(2, 3), make_piece(6, 2)
    request = make_request([0] * 10, media=[first, second])
    assert request.media_between(0, 2) == []
    assert request.media_between(0, 3) == [first]
    assert request.media_between(4, 7) == [first, second]
    assert request.media_between(5, 6) == []
    assert request.media_between(7, 10) == [second]


def test_block_hashes_of_a_prefix_do_not_depend_on_what_follows():
    short, long = make_request(range(8)), make_request(range(20))
    assert short.block_hashes(2) == long.block_hashes(5)[:2]
    assert len(set(long.block_hashes(5))) == 5


def test_output_hashes_like_the_same_tokens_in_a_prompt():
    turn = make_request(range(6))
    turn.output_ids.extend(range(6, 12))
    assert turn.block_hashes(3) == make_request(range(12)).block_hashes(3)


def test_a_picture_changes_hashes_from_its_first_block_on():
    def hashes(digest, offset=5):
        media = [make_piece(offset, 4, digest)]
        return make_request([0] * 12, media=media).block_hashes(3)

    one, other = hashes(b"1" * 32), hashes(b"2" * 32)
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[2] != other[2]
    assert hashes(b"1" * 32) == one
    assert hashes(b"1" * 32, offset=6)[1] != one[1]


def test_release_forgets_computed_tokens_and_embeddings():
    piece = make_piece(0, 4)
    request = make_request([0] * 5, media=[piece])
    request.block_table.extend([3, 1])
    request.num_computed_tokens = 2
    piece.embedding = np.zeros(1)
    assert request.release() == [3, 1]
    assert (request.num_computed_tokens, len(request.block_table)) == (0, 0)
    assert piece.embedding is None
