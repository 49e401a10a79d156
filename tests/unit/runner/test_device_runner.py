"""The device's runner with NumPy in the place of its kernels: the same answers as the host's, one
step ahead, from recorded steps, whoever else is in the batch."""

import gc
import weakref

import msgspec
import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner
from backend.engine.loading import load_model
from backend.ops import cuda_ops
from backend.request import FinishReason, SamplingParams
from backend.runner import decode_graphs
from backend.runner import device_runner as device_runner_module
from backend.tokenizer import Tokenizer
from backend.wire import EngineRequest, StructuredSpec, ThinkingSpec
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

    def _make_core(executor, **settings):
        is_device = executor == "cuda"
        defaults = {
            "executor": executor,
            "device": "gpu:0" if is_device else "cpu",
            "threads": 1,
            "max_num_seqs": 6,
            "max_num_batched_tokens": 24,
            "num_kv_blocks": 64,
            "max_model_len": 64,
            "block_size": 8,
        }
        chosen = EngineSettings(model=folder, **{**defaults, **settings})
        loaded = load_model(chosen)
        maker = {"make_runner": device_runner(chosen, loaded.config)} if is_device else {}
        return EngineCore(
            loaded.model,
            loaded.config,
            chosen,
            [2],
            loaded.num_token_ids,
            loaded.structured,
            **maker,
        )

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


def _run(core, requests=_requests):
    """Requests come two at a time between steps: tokens and finish reason of each."""
    answers, waiting = {}, list(requests())
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


def test_steps_of_long_contexts_have_recordings_of_their_own(make_core, expected, monkeypatch):
    attended, lengths = set(), []
    attention = numpy_kernels.rope_decode_attention

    def noted(*arguments):
        attended.add(arguments[-1])
        return attention(*arguments)

    def are_long(context_lens):
        lengths.append(context_lens.tolist())
        return sum(lengths[-1]) > 60

    monkeypatch.setattr(numpy_kernels, "rope_decode_attention", noted)
    monkeypatch.setattr(decode_graphs, "are_long", are_long)
    core = make_core("cuda")
    lengths.clear()  # of what was recorded
    launched = []
    for kind, graph in core._runner._graphs._recorded.items():
        launch = graph.launch
        monkeypatch.setattr(graph, "launch", lambda k=kind, f=launch: (launched.append(k), f()))
    assert _run(core) == expected
    assert attended == {False, True}
    assert [is_long for _, is_long in launched] == [sum(lens) > 60 for lens in lengths]
    assert {is_long for _, is_long in launched} == {False, True}


def test_nothing_is_recorded_for_contexts_that_cannot_be_long(make_core):
    assert not any(is_long for _, is_long in make_core("cuda")._runner._graphs._recorded)


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


def test_nothing_keeps_a_request_that_has_ended(make_core, folder, expected):
    """Its pixels, prompt and grammar are no longer counted, so they must not be held either."""
    core = make_core("cuda", num_kv_blocks=13)
    made, build = [], core._builder.build

    def build_noted(*arguments):
        request = build(*arguments)
        made.append((weakref.ref(request), weakref.ref(request.sampling)))
        return request

    core._builder.build = build_noted
    _run(core)
    _run(core, lambda: list(_thinking(folder, expected)))
    core.add(*next(_requests()), None, None)
    for _ in range(3):
        core.step()
    assert core.stop_stream("r0")
    while core.has_work():
        core.step()
    gc.collect()
    assert len(made) == 14 + 14 + 1
    assert [ref() for pair in made for ref in pair if ref() is not None] == []


def _thinking(folder, expected):
    """Prompts as above with an open thinking section, some with a grammar behind it. Tokens that
    the model is known to write count as ends of the answer: they close the section instead."""
    tokenizer = Tokenizer.load(folder)
    end = tokenizer.token_id("</think>")
    line = tokenizer.encode_text("\n")[0]
    for n, (request, ids) in enumerate(_requests()):
        written = expected[request.stream_key][0]
        replaced = (written[n % 5],) if n % 2 and len(written) > n % 5 else ()
        close = (end,) if n % 3 else (line, end)
        penalties = {"repetition_penalty": 1.4, "presence_penalty": 0.5} if n % 4 == 1 else {}
        params = request.sampling
        yield (
            EngineRequest(
                stream_key=request.stream_key,
                sampling=msgspec.structs.replace(params, max_tokens=MAX_TOKENS, **penalties),
                thinking=ThinkingSpec(close, 7 + n % 3, (line,) if n % 2 else (), replaced),
                structured=StructuredSpec("regex", "[ab]{3}") if n % 5 == 4 else None,
            ),
            ids,
        )


def test_thinking_runs_ahead_and_ends_as_on_the_host(make_core, folder, expected, monkeypatch):
    """Also where a token that ended the answer is replaced after the next step has begun."""
    requests = list(_thinking(folder, expected))
    ahead, withdrawn = [], []
    core = make_core("cuda")
    submit, withdraw = core._runner.submit, core._withdraw

    def submit_noted(chunks):
        ahead.extend(
            chunk.request.stream_key
            for chunk in chunks
            if chunk.request.num_pending and chunk.request.sampling.control._thinking.is_open
        )
        return submit(chunks)

    def withdraw_noted(request):
        withdrawn.extend([request.stream_key] * bool(request.num_pending))
        withdraw(request)

    monkeypatch.setattr(core._runner, "submit", submit_noted)
    monkeypatch.setattr(core, "_withdraw", withdraw_noted)
    answers = _run(core, lambda: requests)
    assert answers == _run(make_core("paddle"), lambda: requests)
    constrained = {f"r{n}" for n in range(14) if n % 5 == 4}
    assert ahead
    assert not constrained & set(ahead)
    assert len(set(withdrawn)) >= 2, withdrawn


def test_preempted_thinking_answers_the_same(make_core, folder, expected):
    requests = list(_thinking(folder, expected))
    core = make_core("cuda", num_kv_blocks=11)
    assert _run(core, lambda: requests) == _run(make_core("paddle"), lambda: requests)
    assert core.stats()["preemptions_total"] > 0


def _failing_once(core, monkeypatch, error, at_step):
    """The runner's step number `at_step` fails when it has launched a part of its work."""
    run, graphs = core._runner._device_model.run, core._runner._graphs
    launch = graphs.launch
    steps = iter(range(10**6))

    def fail_at(compute):
        def wrapped(*arguments):
            result = compute(*arguments)
            if next(steps) == at_step:
                raise error
            return result

        return wrapped

    monkeypatch.setattr(core._runner._device_model, "run", fail_at(run))
    monkeypatch.setattr(graphs, "launch", fail_at(launch))


@pytest.mark.parametrize("at_step", [0, 3, 9])
def test_a_step_that_does_not_fit_the_memory_fails_alone(make_core, expected, monkeypatch, at_step):
    core = make_core("cuda")
    error = numpy_kernels.OutOfMemoryError("cudaMalloc: out of memory")
    _failing_once(core, monkeypatch, error, at_step)
    failed, waiting = set(), list(_requests())
    answers = {}
    while waiting or core.has_work():
        for request, ids in waiting[:2]:
            core.add(request, ids, None, None)
        del waiting[:2]
        for output in core.step():
            answers[output.stream_key] = [
                *answers.get(output.stream_key, ()),
                *output.token_ids,
            ]
            if output.error is not None:
                assert "ran out of memory" in output.error.message
                failed.add(output.stream_key)
    core.check_integrity()
    assert 0 < len(failed) < 14
    assert core.stats()["kv_blocks_held"] == 0
    for key in expected.keys() - failed:
        assert answers[key] == expected[key][0], key
    for key in failed:
        assert answers[key] == expected[key][0][: len(answers[key])], key
    # Whoever comes next finds a sound engine.
    assert _run(core) == expected


def test_any_other_failure_of_the_device_ends_the_engine(make_core, monkeypatch):
    core = make_core("cuda")
    error = numpy_kernels.CudaError("cudaGraphLaunch: an illegal memory access was encountered")
    _failing_once(core, monkeypatch, error, at_step=5)
    with pytest.raises(numpy_kernels.CudaError, match="illegal memory access"):
        _run(core)
