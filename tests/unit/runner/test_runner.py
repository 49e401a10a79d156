import numpy as np
import pytest

from backend.errors import InternalError
from backend.runner import MediaEncoder, ModelRunner
from backend.scheduler import Chunk
from tests.unit.engine import fake_model as fake
from tests.unit.scheduler.fakes import BLOCK_SIZE, make_piece, make_request


def make_runner(num_token_ids=fake.VOCAB_SIZE):
    model = fake.FakeModel()
    encoder = MediaEncoder(model, 4, 0)
    return model, ModelRunner(model, encoder, 8, BLOCK_SIZE, num_token_ids)


def make_chunk(prompt, blocks, start=0, stop=None, media=()):
    request = make_request(prompt, media=media)
    request.block_table.extend(blocks)
    stop = len(prompt) if stop is None else stop
    return Chunk(request, start, stop, stop == len(prompt))


def test_finished_prefills_get_tokens_and_others_nothing():
    _, runner = make_runner()
    results = runner.run([make_chunk([5, 7], [1]), make_chunk([5] * 8, [2, 3], stop=4)])
    assert results[0].token_id in range(fake.VOCAB_SIZE)
    assert results[1] is None


def test_results_keep_the_order_of_the_chunks_when_one_fails():
    _, runner = make_runner()
    broken = make_piece(0, 4)
    broken.pixels[0, 0] = fake.BAD_PIXEL
    results = runner.run(
        [make_chunk([5, 7], [1]), make_chunk([0] * 5, [2, 3], media=[broken]), make_chunk([9], [4])]
    )
    assert isinstance(results[1], InternalError)
    assert results[0] is not None and results[2] is not None


def test_only_failing_chunks_means_no_forward_pass():
    model, runner = make_runner()
    broken = make_piece(0, 4)
    broken.pixels[0, 0] = fake.BAD_PIXEL
    assert isinstance(runner.run([make_chunk([0] * 5, [2, 3], media=[broken])])[0], InternalError)
    assert model.batches == []


def test_a_failing_forward_pass_is_the_result_of_all_its_chunks():
    _, runner = make_runner()
    results = runner.run([make_chunk([5, 7], [1]), make_chunk([fake.CRASH_ID], [2])])
    assert [result.code for result in results] == ["internal_error"] * 2


def test_embeddings_are_let_go_with_the_last_row_of_a_picture():
    model, runner = make_runner()
    piece = make_piece(2, 4)
    chunk = make_chunk([0] * 8, [1, 2], stop=4, media=[piece])
    runner.run([chunk])
    assert piece.embedding is not None
    runner.run([Chunk(chunk.request, 4, 8, True)])
    assert piece.embedding is None
    rows = [batch.media_embeddings[:, 0].tolist() for batch in model.batches]
    assert rows == [[200.0, 200.0]] * 2
    assert len(model.encoded_grids) == 1


def test_ids_beyond_the_tokenizer_are_never_sampled():
    # [5, 7] leads to 23, which a tokenizer of 20 ids does not know.
    _, runner = make_runner(num_token_ids=20)
    chunks = [make_chunk([5, 7], [n]) for n in range(1, 9)]
    assert all(result.token_id < 20 for result in runner.run(chunks))


@pytest.mark.parametrize("num_blocks", [1, 5])
def test_overwritten_blocks_are_finite(num_blocks, monkeypatch):
    monkeypatch.setattr("backend.runner.runner._BLOCKS_PER_PASS", 2)
    _, runner = make_runner()
    runner._kv_cache[1:] = np.nan
    blocks = list(range(1, 1 + num_blocks))
    runner.overwrite_blocks(blocks)
    assert np.isfinite(runner._kv_cache[blocks]).all()
    assert np.isnan(runner._kv_cache[1 + num_blocks :]).all()


def test_overwriting_nothing_computes_nothing():
    model, runner = make_runner()
    runner.overwrite_blocks([])
    assert model.batches == []
