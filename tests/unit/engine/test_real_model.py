"""The whole engine over a real, tiny ERNIE-4.5-VL: company, chunks, caches and preemption change
no greedy answer."""

import dataclasses

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.loading import load_model
from backend.media.positions import rotary_positions
from backend.request import FinishReason, SamplingParams
from backend.wire import EngineRequest, MediaSpan
from scripts.tiny_checkpoint.command import make_tiny_checkpoint

MAX_TOKENS = 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vl")
    make_tiny_checkpoint(folder, "vl", dtype="float32", tied=False)
    return load_model(EngineSettings(model=folder))


@pytest.fixture
def make_core(loaded, tmp_path):
    def _make_core(**settings):
        defaults = {
            "max_num_seqs": 16,
            "max_num_batched_tokens": 512,
            "num_kv_blocks": 128,
            "max_model_len": 256,
        }
        return EngineCore(
            loaded.model,
            loaded.config,
            EngineSettings(model=tmp_path, **{**defaults, **settings}),
            loaded.eos_token_ids,
            loaded.num_token_ids,
        )

    return _make_core


@dataclasses.dataclass
class Job:
    request: EngineRequest
    prompt_ids: np.ndarray
    positions: np.ndarray
    pixels: np.ndarray | None


@pytest.fixture(scope="module")
def jobs(loaded):
    """16 requests: text, one picture, two pictures, a video; some begin alike."""
    choose = np.random.default_rng(0)
    beginning = choose.integers(300, 900, 40).tolist()
    return [_make_job(loaded.config, choose, beginning, n) for n in range(16)]


def _make_job(config, choose, beginning, n):
    start, end = config.vision_boundary_token_ids[:2]
    grids = [[], [(1, 4, 6)], [(1, 2, 8), (1, 6, 4)], [(4, 4, 4)]][n % 4]
    ids = beginning[: choose.integers(1, 40)] if n % 2 else choose.integers(300, 900, 9).tolist()
    spans, pixels, row = [], [], 0
    for grid in grids:
        num_tokens = grid[0] * grid[1] * grid[2] // (4 if grid[0] == 1 else 8)
        kind = "image" if grid[0] == 1 else "video"
        spans.append(MediaSpan(kind, len(ids) + 1, num_tokens, grid, row, ""))
        ids = [*ids, start, *[config.image_token_id] * num_tokens, end]
        row += grid[0] * grid[1] * grid[2]
        pixels.append(choose.integers(0, 256, (row - spans[-1].first_row, 588), dtype=np.uint8))
    ids += choose.integers(300, 900, 5).tolist()
    merged = [(s.offset, (max(1, s.grid[0] // 2), s.grid[1] // 2, s.grid[2] // 2)) for s in spans]
    return Job(
        EngineRequest(
            stream_key=f"job{n}",
            request_id=f"job{n}",
            sampling=SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, logprobs=0),
            media=tuple(spans),
        ),
        np.array(ids, dtype=np.int32),
        rotary_positions(len(ids), merged),
        np.concatenate(pixels) if pixels else None,
    )


def run(core, jobs):
    """Token ids, stop token included, of each job; the engine must be clean afterwards."""
    tokens = {job.request.stream_key: [] for job in jobs}
    for job in jobs:
        core.add(job.request, job.prompt_ids, job.positions, job.pixels)
    while core.has_work():
        for output in core.step():
            assert output.error is None
            tokens[output.stream_key] += output.token_ids
            if output.finish_reason is FinishReason.STOP:
                tokens[output.stream_key].append(output.stop_token_id)
    core.check_integrity()
    assert core.stats()["kv_blocks_held"] == 0
    return list(tokens.values())


@pytest.fixture(scope="module")
def alone(loaded, jobs, tmp_path_factory):
    """The plain twin: one request at a time, whole prompts, no cache."""
    settings = EngineSettings(
        model=tmp_path_factory.mktemp("none"),
        num_kv_blocks=32,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        encoder_cache_gib=0.0,
    )
    core = EngineCore(
        loaded.model, loaded.config, settings, loaded.eos_token_ids, loaded.num_token_ids
    )
    answers = [run(core, [job])[0] for job in jobs]
    assert len({tuple(answer) for answer in answers}) == len(answers), "answers tell nothing"
    return answers


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_text_models_load_from_their_folder_and_answer(kind, tmp_path):
    make_tiny_checkpoint(tmp_path, kind)
    core = EngineCore.from_settings(EngineSettings(model=tmp_path, kv_cache_gib=0.1, block_size=8))
    request = EngineRequest(
        stream_key="a", sampling=SamplingParams(seed=1, max_tokens=5, ignore_eos=True)
    )
    ids = np.arange(300, 321, dtype=np.int32)
    core.add(request, ids, None, None)
    tokens = [token for _ in range(6) for output in core.step() for token in output.token_ids]
    assert len(tokens) == 5
    assert not core.has_work()
    core.check_integrity()


def test_the_released_table_is_longer_than_the_tokenizer_and_eos_comes_from_its_files(loaded):
    assert loaded.num_token_ids < loaded.config.vocab_size
    assert loaded.eos_token_ids == (2,)


def test_sixteen_mixed_requests_answer_as_alone(make_core, jobs, alone):
    assert run(make_core(), jobs) == alone


@pytest.mark.parametrize("budget", [16, 23, 64])
def test_any_chunk_size_answers_the_same(make_core, jobs, alone, budget):
    assert run(make_core(max_num_batched_tokens=budget), jobs) == alone


@pytest.mark.parametrize("block_size", [4, 32])
def test_any_block_size_answers_the_same(make_core, jobs, alone, block_size):
    core = make_core(block_size=block_size, num_kv_blocks=2048 // block_size)
    assert run(core, jobs) == alone


def test_a_warm_prefix_cache_answers_the_same(make_core, jobs, alone):
    core = make_core(num_kv_blocks=256)
    assert run(core, jobs) == alone
    assert run(core, jobs) == alone
    assert core.stats()["cached_tokens_total"] > 16 * 10


def test_forced_preemptions_answer_the_same(make_core, jobs, alone):
    core = make_core(num_kv_blocks=34, max_model_len=120, block_size=4)
    assert run(core, jobs) == alone
    assert core.stats()["preemptions_total"] >= 3


def test_nan_left_in_kv_memory_reaches_nobody(make_core, loaded, jobs, alone):
    """A request whose K/V are NaN runs beside the others and its blocks are given to them."""
    core = make_core(num_kv_blocks=60, max_model_len=120, max_num_seqs=3)
    poisoned = dataclasses.replace(jobs[0], request=_renamed(jobs[0].request, "poisoned"))
    core.add(poisoned.request, poisoned.prompt_ids, poisoned.positions, None)
    for job in jobs[1:3]:
        core.add(job.request, job.prompt_ids, job.positions, job.pixels)
    core.step()
    _poison(loaded.model.ops, core, core._scheduler.running[0].block_table.block_ids)
    outputs = []
    while core.has_work():
        outputs += core.step()
    errors = {output.stream_key: output.error.code for output in outputs if output.error}
    assert errors == {"poisoned": "numerical_error"}
    assert run(core, jobs) == alone


def _renamed(request, key):
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return EngineRequest(**{**fields, "stream_key": key})


def _poison(ops, core, block_ids):
    """Write NaN keys and values of every layer into blocks."""
    import paddle

    cache = core._runner._kv_cache
    shape = cache.shape
    slots = np.concatenate([np.arange(b * 16, b * 16 + 16) for b in block_ids])
    heads = np.arange(shape.num_kv_heads)[:, None]
    rows = paddle.to_tensor((heads * cache.num_slots + slots).reshape(-1))
    nan = paddle.full([len(rows), shape.head_dim], float("nan"))
    for layer in range(4):
        cache.write(layer, rows, nan, nan)
