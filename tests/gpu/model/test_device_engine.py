"""EngineCore with the device's runner on the shipped checkpoint: who else is in the batch, what is
preempted or stopped, and where tokens are sampled changes no answer."""

import msgspec
import pytest

from backend import wire
from backend.config.serving import PreprocessorSettings
from backend.preprocess import Preprocessor
from backend.request import FinishReason
from scripts.train_tiny.processing import CHECKPOINT
from tests.gpu.model.asked import answers, asked, drain, ids_of

pytestmark = pytest.mark.gpu

BATCH = 64
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
KINDS = {
    "greedy": {},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    "logit_bias": {"logit_bias": {"565": 3.0, "600": -100.0}},
    "bad_words": {"bad_words": ["The", "a square"]},
    "logprobs": {"logprobs": True, "top_logprobs": 5},
    "seed": {"temperature": 1.0, "seed": 5},
    "filters": {"temperature": 0.9, "top_p": 0.8, "top_k": 20, "seed": 6},
    "min_p": {"temperature": 1.2, "min_p": 0.05, "seed": 7},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "choice": {"guided_choice": ["yes indeed", "no"], "temperature": 1.0, "seed": 3},
    "thinking": {"metadata": {"enable_thinking": True}, "reasoning_max_tokens": 9},
    "thinking_schema": {
        "metadata": {"enable_thinking": True},
        "reasoning_max_tokens": 9,
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    },
}
TEXTS = ("Hello!", "What is your name?", "你好")


@pytest.fixture(scope="module")
def prepared():
    """Requests of every kind, as the preprocessor makes them."""
    preprocessor = Preprocessor(PreprocessorSettings(CHECKPOINT))
    requests = {}
    for kind, fields in KINDS.items():
        for index, text in enumerate(TEXTS):
            body = {
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 40,
                "metadata": {"enable_thinking": False},
                **fields,
            }
            request = wire.decode(msgspec.json.encode(body), wire.GenerateRequest)
            requests[kind, index] = preprocessor.prepare(request, (), f"{kind}-{index}")
    preprocessor.close()
    return requests


def _answers(core, prepared):
    """Token ids, finish reason and logprobs of each, all at once."""
    for item in prepared.values():
        core.add(item.engine, item.prompt_ids, item.positions, item.pixels)
    outputs = drain(core)
    answers = {}
    for name, item in prepared.items():
        mine = outputs[item.engine.stream_key]
        answers[name] = (
            [token_id for output in mine for token_id in ids_of(output)],
            mine[-1].finish_reason,
            [entry for output in mine for entry in output.logprobs or ()],
        )
    return answers


def test_the_same_answers_alone_and_in_a_batch_of_64(core, assert_same):
    questions = asked(BATCH)
    together = answers(core, questions)
    alone = [answers(core, [question])[0] for question in questions]
    assert_same(questions, alone, together)


def test_the_media_cache_counts_what_it_keeps(core):
    answers(core, asked(8))
    kept = [embedding.nbytes for embedding, _ in core._encoder._cached.values()]
    assert kept
    assert core.stats()["encoder_cache_bytes"] == sum(kept)


def test_preempted_requests_answer_the_same(core, make_core, assert_same):
    questions = asked(BATCH)
    cramped = make_core(
        block_size=16, num_kv_blocks=48, max_model_len=600, enable_prefix_caching=False
    )
    assert_same(questions, answers(core, questions), answers(cramped, questions), share=0.96)
    assert cramped.stats()["preemptions_total"] > 0


def test_what_the_device_samples_is_what_the_host_samples(make_core, prepared):
    """One at a time, so that both see the same logits bit by bit."""
    device, host = make_core(max_num_seqs=1), make_core(on_host=True, max_num_seqs=1)
    ours, theirs = _answers(device, prepared), _answers(host, prepared)
    different = {
        name: (ours[name][:2], theirs[name][:2])
        for name in prepared
        if ours[name][:2] != theirs[name][:2]
    }
    assert not different
    for name in prepared:
        for mine, other in zip(ours[name][2], theirs[name][2], strict=True):
            assert mine.token_id == other.token_id
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert [i for i, _ in mine.top] == [i for i, _ in other.top]
            assert [p for _, p in mine.top] == pytest.approx([p for _, p in other.top], abs=1e-3)
    assert {reason for _, reason, _ in ours.values()} >= {FinishReason.STOP}


def test_a_mixed_batch_obeys_each_requests_settings(core, prepared, loaded):
    """Grammars, biases and bans hold in a batch with all the others."""
    together = _answers(core, prepared)
    tokenizer = loaded.structured.vocabulary
    for index in range(len(TEXTS)):
        for kind in ("schema", "thinking_schema"):
            tokens, reason, _ = together[kind, index]
            text = b"".join(map(tokenizer.id_to_bytes, tokens)).decode().rpartition("</think>")[2]
            if reason is FinishReason.STOP:
                value = msgspec.json.decode(text.strip().removesuffix("</s>"))
                assert value["colour"] in ("red", "green"), text
        assert 600 not in together["logit_bias", index][0]


def test_stopped_streams_disturb_nobody(core):
    questions = asked(8)
    expected = answers(core, questions)
    for index, question in enumerate(questions):
        core.add(*question.arguments(f"s{index}", {}))
    tokens = {f"s{index}": [] for index in range(8)}
    for step in range(1000):
        if not core.has_work():
            break
        if step == 4:
            assert all(core.stop_stream(f"s{index}") for index in (1, 6))
        for output in core.step():
            tokens[output.stream_key] += ids_of(output)
    core.check_integrity()
    assert core.stats()["kv_blocks_held"] == 0
    for index in (0, 2, 3, 4, 5, 7):
        assert tokens[f"s{index}"] == expected[index], index
    for index in (1, 6):
        assert tokens[f"s{index}"] == expected[index][: len(tokens[f"s{index}"])]
        assert len(tokens[f"s{index}"]) < len(expected[index])
