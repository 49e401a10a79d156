import numpy as np

from backend.runner import build_batch
from backend.runner.batch_builder import filling_batch
from backend.scheduler import Chunk
from tests.unit.scheduler.fakes import BLOCK_SIZE, make_piece, make_request


def make_chunk(start, stop, prompt, blocks, media=(), output=()):
    request = make_request(prompt, media=media)
    request.output_ids.extend(output)
    request.block_table.extend(blocks)
    return Chunk(request, start, stop, stop == request.num_tokens)


def test_a_mixed_batch_by_hand():
    decode = make_chunk(5, 6, range(10, 14), [7, 3], output=[70, 71])
    whole = make_chunk(0, 3, range(20, 23), [4])
    middle = make_chunk(4, 7, range(30, 40), [5, 9, 2])
    batch = build_batch([decode, whole, middle], BLOCK_SIZE, None)
    assert batch.token_ids.tolist() == [71, 20, 21, 22, 34, 35, 36]
    assert batch.positions.tolist() == [[5, 0, 1, 2, 4, 5, 6]] * 3
    assert batch.slot_mapping.tolist() == [13, 16, 17, 18, 36, 37, 38]
    assert batch.query_starts.tolist() == [0, 1, 4, 7]
    assert batch.context_lens.tolist() == [6, 3, 7]
    assert batch.block_tables.tolist() == [[7, 3], [4, 0], [5, 9]]  # no block of later tokens
    assert batch.logit_rows.tolist() == [0, 3]  # the third goes on
    assert len(batch.vision_rows) == len(batch.media_rows) == 0


def test_a_preempted_request_is_prefilled_in_chunks_of_prompt_and_output():
    prompt, output, blocks = [1, 2, 3], range(50, 58), [1, 2, 3]
    across = build_batch([make_chunk(2, 5, prompt, blocks, output=output)], BLOCK_SIZE, None)
    assert across.token_ids.tolist() == [3, 50, 51]
    inside = build_batch([make_chunk(5, 9, prompt, blocks, output=output)], BLOCK_SIZE, None)
    assert inside.token_ids.tolist() == [52, 53, 54, 55]
    assert inside.positions.tolist() == [[5, 6, 7, 8]] * 3
    assert inside.slot_mapping.tolist() == [9, 10, 11, 12]


def test_a_chunk_takes_its_rows_of_a_picture():
    media = [make_piece(2, 3), make_piece(6, 4)]
    text = make_chunk(0, 2, range(2), [1])
    chunk = make_chunk(3, 8, [0] * 11, [2, 3, 4], media)
    batch = build_batch([text, chunk], BLOCK_SIZE, np.zeros((4, 1)))
    assert batch.media_rows.tolist() == [2, 3, 5, 6]  # two of the first, two of the second
    assert batch.vision_rows.tolist() == [2, 3, 5, 6]


def test_a_batch_of_unfinished_prefills_wants_no_logits():
    batch = build_batch([make_chunk(0, 4, range(9), [1, 2, 3])], BLOCK_SIZE, None)
    assert batch.logit_rows.tolist() == []


def test_a_filling_batch_writes_every_slot_and_reads_only_what_it_writes():
    batch = filling_batch(np.array([5, 2], dtype=np.int32), BLOCK_SIZE)
    assert batch.slot_mapping.tolist() == [20, 21, 22, 23, 8, 9, 10, 11]
    assert batch.query_starts.tolist() == [0, 4, 8]
    assert batch.context_lens.tolist() == [4, 4]
    assert batch.block_tables.tolist() == [[5], [2]]
    assert batch.positions[0].tolist() == [0, 1, 2, 3] * 2
