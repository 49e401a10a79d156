"""Grammars, thinking budgets and bans through the whole engine over a real, random, tiny VL."""

import itertools
import json

import numpy as np
import pytest

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.loading import load_model
from backend.errors import InvalidRequestError
from backend.request import FinishReason, SamplingParams
from backend.tokenizer import Tokenizer
from backend.wire import EngineRequest, StructuredSpec, ThinkingSpec
from scripts.tiny_checkpoint.command import make_tiny_checkpoint

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
JSON = StructuredSpec("json_schema", json.dumps(SCHEMA), param="response_format")
PROMPT = np.arange(300, 321, dtype=np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vl")
    make_tiny_checkpoint(folder, "vl", dtype="float32", tied=False)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(EngineSettings(model=folder))


@pytest.fixture
def make_core(loaded, folder):
    def _make_core(**settings):
        defaults = {"max_num_seqs": 16, "num_kv_blocks": 128, "max_model_len": 512}
        return EngineCore(
            loaded.model,
            loaded.config,
            EngineSettings(model=folder, **{**defaults, **settings}),
            loaded.eos_token_ids,
            loaded.num_token_ids,
            loaded.structured,
        )

    return _make_core


@pytest.fixture
def end(tokenizer):
    return tokenizer.token_id("</think>")


def request(key="a", structured=None, thinking=None, response_max_tokens=None, **sampling):
    params = SamplingParams(**{"max_tokens": 150, "seed": 7, **sampling})
    return EngineRequest(
        stream_key=key,
        request_id=key,
        sampling=params,
        structured=structured,
        thinking=thinking,
        response_max_tokens=response_max_tokens,
    )


def run(core, *requests):
    """{key: (token ids without the stop token, last output)}"""
    tokens = {job.stream_key: [] for job in requests}
    last = {}
    for job in requests:
        core.add(job, PROMPT, None, None)
    while core.has_work():
        core.check_integrity()
        for output in core.step():
            assert output.stream_key not in last
            tokens[output.stream_key] += output.token_ids
            if output.is_last:
                last[output.stream_key] = output
    core.check_integrity()
    assert core.stats()["kv_blocks_held"] == 0
    return {key: (tokens[key], last[key]) for key in tokens}


@pytest.mark.parametrize("seed", range(4))
def test_random_weights_write_valid_json(make_core, tokenizer, seed):
    ids, last = run(make_core(), request(structured=JSON, seed=seed))["a"]
    value = json.loads(tokenizer.decode(ids))
    assert set(value) == {"name", "age", "tags"}
    assert len(value["name"]) <= 8 and 0 <= value["age"] <= 150
    assert last.finish_reason is FinishReason.STOP
    assert last.stop_token_id is None
    assert last.usage.completion_tokens == len(ids)


@pytest.mark.parametrize("settings", [{}, {"num_kv_blocks": 34, "max_model_len": 250}])
def test_free_requests_do_not_notice_constrained_company(make_core, tokenizer, end, settings):
    free = [request(f"free{n}", seed=n, max_tokens=40) for n in range(4)]
    alone = {job.stream_key: run(make_core(), job)[job.stream_key][0] for job in free}
    others = [request(f"json{n}", structured=JSON, seed=n) for n in range(4)]
    others.append(request("think", thinking=ThinkingSpec((end,), 3), max_tokens=20))
    core = make_core(block_size=8, **settings)
    together = run(core, *others[:2], *free, *others[2:])
    assert {key: together[key][0] for key in alone} == alone
    for n in range(4):
        json.loads(tokenizer.decode(together[f"json{n}"][0]))
    if settings:
        assert core.stats()["preemptions_total"] > 0


def test_a_constrained_answer_does_not_depend_on_company(make_core):
    jobs = [request(f"json{n}", structured=JSON, seed=n) for n in range(4)]
    alone = {job.stream_key: run(make_core(), job)[job.stream_key][0] for job in jobs}
    together = run(make_core(), *jobs)
    assert {key: ids for key, (ids, _) in together.items()} == alone


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_thinking_stops_exactly_at_its_budget(make_core, tokenizer, end, budget):
    line = tokenizer.encode_text("\n")[0]
    spec = ThinkingSpec((line, end), budget, (line, line))
    ids, _ = run(make_core(), request(thinking=spec, max_tokens=20, ignore_eos=True))["a"]
    free, _ = run(make_core(), request(max_tokens=20, ignore_eos=True))["a"]
    assert ids[:budget] == free[:budget]
    assert ids[budget : budget + 4] == [line, end, line, line]
    assert len(ids) == 20 and end not in ids[budget + 4 :]


def test_without_a_budget_thinking_leaves_a_fifth_for_the_answer(make_core, end):
    job = request(thinking=ThinkingSpec((end,)), max_tokens=20, ignore_eos=True)
    ids, _ = run(make_core(), job)["a"]
    assert ids.index(end) == 16


def test_an_early_end_of_the_answer_closes_the_thinking_instead(make_core, loaded, end):
    (eos,) = loaded.eos_token_ids
    wish = ((eos, 100.0),)
    ids, last = run(
        make_core(), request(thinking=ThinkingSpec((end,), 9, (), (eos,)), logit_bias=wish)
    )["a"]
    assert ids == [end]
    assert (last.finish_reason, last.stop_token_id) == (FinishReason.STOP, eos)
    assert last.usage.completion_tokens == 2


def test_json_comes_behind_the_thinking(make_core, tokenizer, end):
    line = tokenizer.encode_text("\n")[0]
    spec = ThinkingSpec((end,), 6, (line, line))
    ids, _ = run(make_core(), request(structured=JSON, thinking=spec))["a"]
    thought, answer = tokenizer.decode(ids).split("</think>")
    assert len(tokenizer.encode_text(thought)) > 0
    assert answer.startswith("\n\n{") and json.loads(answer)


def test_the_answer_alone_may_be_limited(make_core, end):
    job = request(thinking=ThinkingSpec((end,), 4), response_max_tokens=3, ignore_eos=True)
    ids, last = run(make_core(), job)["a"]
    assert len(ids) == 4 + 1 + 3
    assert last.finish_reason is FinishReason.LENGTH


def test_max_tokens_ends_a_constrained_answer_in_the_middle(make_core):
    ids, last = run(make_core(), request(structured=JSON, max_tokens=4))["a"]
    assert (len(ids), last.finish_reason) == (4, FinishReason.LENGTH)


def test_ignored_eos_and_min_tokens_do_not_break_a_grammar(make_core, tokenizer, loaded):
    (eos,) = loaded.eos_token_ids
    wish = ((eos, 100.0),)
    spec = StructuredSpec("regex", "[ab]{2,6}")
    ids, last = run(make_core(), request(structured=spec, logit_bias=wish, ignore_eos=True))["a"]
    assert (len(tokenizer.decode(ids)), last.finish_reason) == (6, FinishReason.STOP)
    ids, _ = run(make_core(), request(structured=spec, logit_bias=wish))["a"]
    assert len(tokenizer.decode(ids)) == 2
    ids, _ = run(make_core(), request(structured=spec, logit_bias=wish, min_tokens=4))["a"]
    assert len(ids) == 4
    ids, last = run(make_core(), request(structured=spec, min_tokens=40))["a"]
    assert (len(tokenizer.decode(ids)), last.finish_reason) == (6, FinishReason.STOP)


def test_a_bad_grammar_ends_its_own_request_only(make_core):
    bad = StructuredSpec("json_schema", '{"type": "wat"}', param="guided_json")
    results = run(make_core(), request("bad", structured=bad), request("good", max_tokens=5))
    error = results["bad"][1].error
    assert (error.status, error.code, error.param) == (400, "invalid_grammar", "guided_json")
    assert len(results["good"][0]) == 5


def test_a_grammar_that_fails_in_mid_answer_ends_its_own_request_only(make_core, tokenizer):
    ends = [i for i in range(tokenizer.vocab_size) if tokenizer.id_to_bytes(i) in (b"a", b"ba")]
    spec = StructuredSpec("regex", "ba")
    results = run(
        make_core(),
        request("bad", structured=spec, bad_words=tuple((i,) for i in ends)),
        request("good", max_tokens=9),
    )
    assert results["bad"][1].error.code == "grammar_error"
    assert len(results["good"][0]) == 9


def test_a_request_can_be_stopped_while_its_grammar_compiles(make_core):
    core = make_core()
    core.add(request(structured=StructuredSpec("regex", "x{1,77}")), PROMPT, None, None)
    core.check_integrity()
    assert core.stats()["waiting"] == 1
    assert core.stop("a") == 1
    (output,) = core.step()
    assert output.finish_reason is FinishReason.ABORT
    assert not core.has_work()
    core.check_integrity()


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("logit_bias", {"logit_bias": ((10**6, 1.0),)}),
        ("bad_words", {"bad_words": ((1, 10**6),)}),
    ],
)
def test_ids_beyond_the_vocabulary_are_refused(make_core, field, params):
    with pytest.raises(InvalidRequestError) as caught:
        make_core().add(request(**params), PROMPT, None, None)
    assert caught.value.param == field


def test_bad_words_do_not_appear_across_token_borders(make_core, tokenizer):
    free, _ = run(make_core(), request(max_tokens=30, ignore_eos=True))["a"]
    pair = tuple(free[10:12])
    ids, _ = run(make_core(), request(max_tokens=30, ignore_eos=True, bad_words=(pair,)))["a"]
    assert ids[:11] == free[:11]
    assert pair not in set(itertools.pairwise(ids))


@pytest.mark.parametrize("field", ["close_ids", "after_ids"])
@pytest.mark.parametrize("beyond", [-1, 0, 10**6])
def test_forced_tokens_that_the_logits_do_not_have_are_refused(
    make_core, loaded, tokenizer, field, beyond
):
    """A device's mask has no place for them; nothing may find that out in the middle of a step."""
    wrong = beyond if beyond < 0 else loaded.num_token_ids + beyond
    forced = {"close_ids": (tokenizer.token_id("</think>"),), "after_ids": ()}
    forced[field] = (*forced[field], wrong)
    core = make_core()
    with pytest.raises(InvalidRequestError, match=f"thinking.{field} has token id {wrong};"):
        core.add(request(thinking=ThinkingSpec(max_tokens=1, **forced)), PROMPT, None, None)
    assert not core.has_work()
