"""Pictures and videos through chunks, caches and preemption."""

import pytest

from tests.unit.engine import fake_model as fake
from tests.unit.engine.requests import Prompt, Streams, make_core, picture, run_one

GALLERY = Prompt(
    5,
    picture(2, 4, value=3),
    6,
    picture(4, 6, value=50, frames=4),
    7,
    8,
    picture(6, 2, value=90),
    9,
    10,
    11,
    12,
)

pytestmark = pytest.mark.usefixtures("each_runner")


def test_pictures_stand_where_their_placeholders_are():
    tokens, last = run_one(GALLERY, make_core(max_num_batched_tokens=64), max_tokens=9)
    assert tokens == GALLERY.answer(9)[: len(tokens)]
    assert (last.usage.image_tokens, last.usage.video_tokens) == (2 + 3, 12)
    assert last.usage.prompt_tokens == len(GALLERY.ids)


@pytest.mark.parametrize("budget", [4, 5, 7, 16])
@pytest.mark.parametrize("caching", [True, False])
def test_any_chunk_size_gives_the_same_answer(budget, caching):
    model = fake.FakeModel()
    core = make_core(model, max_num_batched_tokens=budget, enable_prefix_caching=caching)
    tokens, _ = run_one(GALLERY, core, max_tokens=9, ignore_eos=True)
    assert tokens == GALLERY.answer(9, stop_ids=())
    assert len(model.encoded_grids) == 3  # each item once, however many chunks it spans


def test_a_picture_across_chunks_is_encoded_once_without_a_cache_too():
    model = fake.FakeModel()
    core = make_core(model, max_num_batched_tokens=4, encoder_cache_gib=0.0)
    tokens, _ = run_one(GALLERY, core, max_tokens=9, ignore_eos=True)
    assert tokens == GALLERY.answer(9, stop_ids=())
    assert len(model.encoded_grids) == 3


def test_a_picture_sent_again_is_not_encoded_again():
    model = fake.FakeModel()
    core = make_core(model, enable_prefix_caching=False)
    run_one(GALLERY, core, max_tokens=1)
    run_one(Prompt(60, picture(2, 4, value=3)), core, max_tokens=1)
    assert len(model.encoded_grids) == 3
    assert core.stats()["encoder_cache_hits_total"] == 1


def test_a_cached_prefix_needs_neither_pixels_nor_positions_computed_again():
    model = fake.FakeModel()
    core = make_core(model, encoder_cache_gib=0.0)
    first, _ = run_one(GALLERY, core, max_tokens=6, ignore_eos=True)
    second, last = run_one(GALLERY, core, max_tokens=6, ignore_eos=True)
    assert second == first
    assert last.usage.cached_tokens == (len(GALLERY.ids) - 1) // 4 * 4
    assert len(model.encoded_grids) == 3


def test_equal_prompts_with_other_pictures_get_other_answers():
    core = make_core()
    one, other = Prompt(5, picture(4, 4, value=1), 6), Prompt(5, picture(4, 4, value=2), 6)
    assert one.ids.tolist() == other.ids.tolist()
    for prompt in (one, other, one):
        tokens, _ = run_one(prompt, core, max_tokens=5, ignore_eos=True)
        assert tokens == prompt.answer(5, stop_ids=())


def test_a_digest_from_the_client_cannot_poison_the_cache():
    core = make_core()
    one, other = Prompt(5, picture(4, 4, value=1), 6), Prompt(5, picture(4, 4, value=2), 6)
    assert one.media[0].digest == other.media[0].digest == "00"
    run_one(one, core, max_tokens=1)
    tokens, last = run_one(other, core, max_tokens=5, ignore_eos=True)
    assert last.usage.cached_tokens == 0
    assert tokens == other.answer(5, stop_ids=())


def test_equal_tokens_at_other_positions_do_not_share_blocks():
    core = make_core()
    run_one([5] * 9, core, max_tokens=1)
    streams = Streams(core)
    prompt = Prompt(*[5] * 9)
    prompt.positions = prompt.positions.copy()
    prompt.positions[2, 1] = 7
    streams.add("a", prompt, max_tokens=4, ignore_eos=True)
    streams.run()
    assert streams.last("a").usage.cached_tokens == 0
    assert streams.tokens("a") == prompt.answer(4, stop_ids=())


def test_preempted_requests_with_pictures_continue_exactly():
    core = make_core(num_kv_blocks=16, max_model_len=60, encoder_cache_gib=0.0)
    streams = Streams(core)
    prompts = {
        f"r{n}": Prompt(n, picture(2, 4, value=n), picture(4, 2, value=9, frames=2), n + 20)
        for n in range(3, 7)
    }
    for key, prompt in prompts.items():
        streams.add(key, prompt, max_tokens=30, ignore_eos=True)
    streams.run()
    assert core.stats()["preemptions_total"] > 0
    for key, prompt in prompts.items():
        assert streams.tokens(key) == prompt.answer(30, stop_ids=())
        assert streams.last(key).usage.cached_tokens == 0


def test_a_long_video_is_encoded_in_pieces_of_whole_frame_pairs(monkeypatch):
    monkeypatch.setattr("backend.engine.media_pieces.MAX_PATCHES_PER_PIECE", 20)
    model = fake.FakeModel()
    core = make_core(model, max_num_batched_tokens=4)
    prompt = Prompt(5, picture(2, 4, value=3, frames=10), 6)
    tokens, last = run_one(prompt, core, max_tokens=5, ignore_eos=True)
    assert model.encoded_grids == [(2, 2, 4)] * 5
    assert tokens == prompt.answer(5, stop_ids=())
    assert last.usage.video_tokens == 10


def test_positions_may_be_left_to_the_engine():
    core = make_core()
    streams = Streams(core)
    prompt = Prompt(5, picture(2, 4), 6)
    expected = prompt.answer(5, stop_ids=())
    prompt.positions = None
    streams.add("a", prompt, max_tokens=5, ignore_eos=True)
    assert streams.run().tokens("a") == expected
