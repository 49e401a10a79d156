"""What a Model promises besides its numbers."""

import numpy as np
import pytest

from backend.batch import Batch
from backend.errors import InternalError
from backend.ops import create_ops
from tests.oracle.models import load_model, make_config, random_weights
from tests.oracle.paged import PagedRunner
from tests.oracle.prompts import media_prompt, text_prompt


@pytest.fixture(scope="module")
def ops():
    return create_ops("paddle", "cpu", 1)


@pytest.fixture(scope="module")
def vl_weights():
    return random_weights(make_config("vl"), 1)


@pytest.fixture(scope="module")
def vl(ops, vl_weights):
    return load_model(make_config("vl"), vl_weights, ops)


@pytest.fixture
def random():
    return np.random.RandomState(5)


def _text_batch(logit_rows):
    rows = np.arange(3)
    return Batch(
        token_ids=rows.astype(np.int32),
        positions=np.tile(rows, (3, 1)).astype(np.int32),
        slot_mapping=rows.astype(np.int64),
        query_starts=np.array([0, 3], np.int32),
        context_lens=np.array([3], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
        logit_rows=np.array(logit_rows, np.int32),
        vision_rows=np.zeros(0, np.int32),
        media_rows=np.zeros(0, np.int32),
    )


def test_logits_come_for_the_rows_asked_for_in_their_order(vl):
    cache = vl.allocate_kv_cache(1, 4)
    every = vl.ops.to_numpy(vl.forward(_text_batch([0, 1, 2]), cache))
    some = vl.ops.to_numpy(vl.forward(_text_batch([2, 0]), cache))
    assert every.dtype == np.float32 and every.shape == (3, vl.config.vocab_size)
    np.testing.assert_allclose(some, every[[2, 0]], atol=1e-4)


def test_no_rows_give_no_logits(vl):
    logits = vl.ops.to_numpy(vl.forward(_text_batch([]), vl.allocate_kv_cache(1, 4)))
    assert logits.shape == (0, vl.config.vocab_size)


def test_text_never_reads_the_vision_experts(ops, vl_weights, random):
    without = {
        name: np.full_like(array, np.nan)
        if "experts.vision" in name or "weight_1" in name
        else array
        for name, array in vl_weights.items()
    }
    model = load_model(make_config("vl"), without, ops)
    [logits] = PagedRunner(model, [text_prompt(random, 9)]).run(4)
    assert np.isfinite(logits).all()


def test_a_chunk_of_placeholders_never_reads_the_text_experts(ops, vl_weights, random):
    without = {
        name: np.full_like(array, np.nan) if "experts.text" in name else array
        for name, array in vl_weights.items()
    }
    model = load_model(make_config("vl"), without, ops)
    runner = PagedRunner(model, [media_prompt(random, [(1, 8, 8)])])
    runner.step([17])
    assert np.isfinite(runner.seqs[0].logits[0]).all()


def test_boundary_tokens_go_to_the_vision_experts(vl, random):
    """START and END are in vision_rows: moving them to the text experts changes the logits."""
    prompt = media_prompt(random, [2, (1, 4, 4), 2])
    [expected] = PagedRunner(vl, [prompt]).run(100)
    object.__setattr__(prompt, "is_vision", prompt.is_media)
    [other] = PagedRunner(vl, [prompt]).run(100)
    assert np.abs(other - expected).max() > 0.1


def test_items_encoded_together_equal_items_encoded_alone(vl, random):
    grids = [(1, 4, 6), (4, 2, 4), (1, 2, 2)]
    patches = [random.randint(0, 256, (t * h * w, 588)).astype(np.uint8) for t, h, w in grids]
    together = vl.ops.to_numpy(vl.encode_media(np.concatenate(patches), grids))
    alone = [
        vl.ops.to_numpy(vl.encode_media(pixels, [grid]))
        for pixels, grid in zip(patches, grids, strict=True)
    ]
    assert [len(part) for part in alone] == [6, 4, 1]
    assert together.nbytes == len(together) * vl.media_bytes_per_token
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "shape", "message"),
    [
        ((1, 3, 4), (12, 588), r"grid \[1, 3, 4\].*multiples of 2"),
        ((3, 2, 2), (12, 588), r"grid \[3, 2, 2\].*frames 1 or a multiple of 2"),
        ((1, 0, 2), (0, 588), r"grid \[1, 0, 2\]"),
        ((1, 2, 2), (8, 588), r"patches are uint8 \[8, 588\]; the grids need uint8 \[4, 588\]"),
        ((1, 2, 2), (4, 587), r"\[4, 587\]"),
    ],
)
def test_media_that_do_not_fit_their_grid_are_refused(vl, grid, shape, message):
    with pytest.raises(InternalError, match=message):
        vl.encode_media(np.zeros(shape, np.uint8), [grid])


def test_a_text_model_takes_no_media(ops):
    config = make_config("dense")
    model = load_model(config, random_weights(config, 1), ops)
    with pytest.raises(InternalError, match="takes no pictures or videos"):
        model.encode_media(np.zeros((4, 588), np.uint8), [(1, 2, 2)])
