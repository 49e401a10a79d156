"""The device's runner with NumPy in the place of its kernels: the same answers as the host's, one
step ahead, from recorded steps, whoever else is in the batch."""

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner
from backend.models import build_model, parameter_specs
from backend.ops import create_ops, cuda_ops
from backend.request import FinishReason, SamplingParams
from backend.runner import device_runner as device_runner_module
from backend.weights import load_weights
from backend.wire import EngineRequest
from scripts.tiny_checkpoint.command import make_tiny_checkpoint
from tests.unit.ops import numpy_kernels

MAX_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-moe")
    make_tiny_checkpoint(folder, "moe", dtype="float32")
    return folder


@pytest.fixture
def make_core(folder, monkeypatch):
    monkeypatch.setattr(cuda_ops, "kernels", numpy_kernels)
    monkeypatch.setattr(device_runner_module, "kernels", numpy_kernels)
    config = load_model_config(folder)

    def _make_core(executor, **settings):
        is_device = executor == "cuda"
        ops = cuda_ops.CudaOps("gpu:0") if is_device else create_ops("paddle", "cpu", 1)
        weights = load_weights(
            folder,
            config,
            parameter_specs(config),
            lambda array, spec: ops.parameter(array, spec.kind, spec.keep_float32),
            progress=False,
        )
        defaults = {
            "max_num_seqs": 6,
            "max_num_batched_tokens": 24,
            "num_kv_blocks": 64,
            "max_model_len": 64,
            "block_size": 8,
        }
        chosen = EngineSettings(model=folder, **{**defaults, **settings})
        maker = {"make_runner": device_runner(chosen, config)} if is_device else {}
        model = build_model(config, ops, weights)
        return EngineCore(model, config, chosen, [2], config.vocab_size, **maker)

    return _make_core


def _requests():
    """Prompts of all lengths; greedy, drawn, biased and with banned words."""
    random = np.random.default_rng(1)
    kinds = [
        {"temperature": 0.0},
        {"temperature": 1.3, "seed": 5},
        {"temperature": 0.9, "top_p": 0.8, "top_k": 30, "seed": 6},
        {"temperature": 0.0, "logit_bias": ((400, 100.0),), "min_tokens": 3},
        {"temperature": 0.0, "bad_words": ((301,), (302, 303))},
    ]
    for n in range(14):
        ids = random.integers(300, 900, random.integers(1, 20)).astype(np.int32)
        params = {"max_tokens": MAX_TOKENS - n % 4, "ignore_eos": n % 3 > 0, **kinds[n % 5]}
        yield EngineRequest(stream_key=f"r{n}", sampling=SamplingParams(**params)), ids


def _run(core):
    """Requests come two at a time between steps: tokens and finish reason of each."""
    answers, waiting = {}, list(_requests())
    while waiting or core.has_work():
        for request, ids in waiting[:2]:
            core.add(request, ids, None, None)
        del waiting[:2]
        for output in core.step():
            tokens, _ = answers.get(output.stream_key, ([], None))
            answers[output.stream_key] = (tokens + output.token_ids, output.finish_reason)
    core.check_integrity()
    return answers


@pytest.fixture
def expected(make_core):
    return _run(make_core("paddle"))


def test_answers_equal_those_of_the_host(make_core, expected):
    core = make_core("cuda")
    assert _run(core) == expected
    assert {reason for _, reason in expected.values()} >= {FinishReason.LENGTH}


def test_preempted_requests_answer_the_same(make_core, expected):
    core = make_core("cuda", num_kv_blocks=13)
    assert _run(core) == expected
    assert core.stats()["preemptions_total"] > 0


def test_a_chunked_budget_answers_the_same(make_core, expected):
    assert _run(make_core("cuda", max_num_batched_tokens=7)) == expected


def test_a_stream_stopped_in_mid_step_disturbs_nobody(make_core, expected):
    core = make_core("cuda")
    requests = list(_requests())[:5]
    for request, ids in requests:
        core.add(request, ids, None, None)
    for _ in range(4):
        core.step()
    assert core.stop_stream("r1")
    answers = {}
    while core.has_work():
        for output in core.step():
            answers.setdefault(output.stream_key, []).append(output)
    assert answers["r1"][-1].finish_reason is FinishReason.ABORT
    assert core.stats()["kv_blocks_held"] == 0
    for key in ("r0", "r2", "r3", "r4"):
        tokens = [token for output in answers[key] for token in output.token_ids]
        assert expected[key][0][-len(tokens) :] == tokens
