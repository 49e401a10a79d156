"""Where sampling settings come from: body, metadata, checkpoint, FastDeploy's fallback."""

import json

import pytest

from backend.errors import CheckpointError, InvalidRequestError
from backend.preprocess.checkpoint import SamplingDefaults, load_sampling_defaults
from backend.preprocess.sampling import merge_metadata, sampling_params, stop_strings
from tests.unit.preprocess.bodies import as_request

CHAT = [{"role": "user", "content": "x"}]


def _params(defaults=SamplingDefaults(), vocab_size=100, template_stop_ids=(), **body):  # noqa: B008
    body = body if "prompt" in body else {"messages": CHAT, **body}
    request = merge_metadata(as_request(**body))
    return sampling_params(request, defaults, vocab_size, template_stop_ids)


def test_the_fallback_is_fastdeploys():
    params = _params()
    assert (params.temperature, params.top_p, params.top_k) == (1.0, 0.7, 0)
    assert params.max_tokens is None and params.min_tokens == 0 and params.logprobs is None


def test_the_request_wins_over_the_checkpoint_also_with_zeros():
    params = _params(SamplingDefaults(temperature=0.8, top_p=0.8), temperature=0, top_p=0.9)
    assert params.temperature == 0 and params.top_p == 0.9 and params.is_greedy


@pytest.mark.parametrize("off", [-1, 0])
def test_top_k_has_two_ways_to_be_off(off):
    assert _params(SamplingDefaults(top_k=5), top_k=off).top_k == 0
    assert _params(SamplingDefaults(top_k=5)).top_k == 5


def test_max_completion_tokens_wins_over_max_tokens():
    assert _params(max_tokens=7).max_tokens == 7
    assert _params(max_tokens=7, max_completion_tokens=9).max_tokens == 9


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -2}, "top_k is -2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**400}, "seed is 10"),  # no float is as large
        ({"max_tokens": 10**400}, "max_tokens is 10"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens 9 is greater than max_tokens 8"),
        ({"stop_token_ids": [5, 100]}, r"stop_token_ids\[1\] is 100; token ids are from 0 to 99"),
        ({"stop_token_ids": [-1]}, r"stop_token_ids\[0\] is -1"),
        ({"stop_token_ids": [1] * 257}, "257 ids; at most 256"),
        ({"top_logprobs": 3}, "top_logprobs is 3 but logprobs is not true"),
        ({"top_logprobs": 3, "logprobs": False}, "top_logprobs is 3 but logprobs is not true"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs is 21; it must be in"),
        ({"logprobs": 5}, "logprobs is 5; for a chat it is true or false"),
        ({"prompt": "x", "logprobs": -1}, "logprobs is -1"),
    ],
)
def test_what_is_out_of_range_is_named(body, message):
    with pytest.raises(InvalidRequestError, match=message):
        _params(**body)


def test_logprobs_of_chats_and_of_completions():
    assert _params(logprobs=True).logprobs == 0
    assert _params(logprobs=True, top_logprobs=4).logprobs == 4
    assert _params(logprobs=False, top_logprobs=0).logprobs is None
    assert _params(prompt="x", logprobs=3).logprobs == 3
    assert _params(prompt="x", logprobs=0).logprobs == 0


def test_the_templates_stop_tokens_are_added_unless_eos_is_ignored():
    assert _params(stop_token_ids=[9, 4], template_stop_ids=(4, 6)).stop_token_ids == (9, 4, 6)
    assert _params(template_stop_ids=(4,), ignore_eos=True).stop_token_ids == ()


def test_metadata_hold_settings_and_the_body_wins():
    metadata = {"min_tokens": 3, "temperature": 0.5, "stop": ["a"], "enable_thinking": False}
    request = merge_metadata(as_request(messages=CHAT, temperature=0.2, metadata=metadata))
    assert (request.min_tokens, request.temperature, request.stop) == (3, 0.2, ["a"])
    both = merge_metadata(
        as_request(messages=CHAT, max_tokens=5, metadata={"max_completion_tokens": 9})
    )
    assert both.max_completion_tokens is None and both.max_tokens == 5


def test_labels_in_metadata_are_left_alone():
    labels = {"seed": "experiment 7", "user": "me", "temperature": "warm", "stop": "word"}
    request = as_request(messages=CHAT, metadata=labels)
    assert merge_metadata(request) is request


def test_a_setting_of_the_wrong_type_in_metadata_is_named():
    with pytest.raises(InvalidRequestError, match=r"^metadata.min_tokens: Expected `int"):
        merge_metadata(as_request(messages=CHAT, metadata={"min_tokens": [1]}))


def test_stops_are_distinct_texts():
    assert stop_strings(as_request(stop=None)) == ()
    assert stop_strings(as_request(stop="END")) == ("END",)
    assert stop_strings(as_request(stop=["b", "a", "b"])) == ("b", "a")


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ([str(number) for number in range(17)], "17 strings; at most 16"),
        (["a", ""], r"stop\[1\] has 0 bytes"),
        ("", r"stop\[0\] has 0 bytes"),
        ("图" * 342, r"stop\[0\] has 1026 bytes; it must have 1 to 1024"),
    ],
)
def test_unusable_stops_are_named(stop, message):
    with pytest.raises(InvalidRequestError, match=message):
        stop_strings(as_request(stop=stop))


def test_the_checkpoints_defaults_are_read(tmp_path):
    assert load_sampling_defaults(tmp_path) == SamplingDefaults()
    text = json.dumps({"temperature": 0.8, "top_p": 0.8, "top_k": -1, "do_sample": True})
    (tmp_path / "generation_config.json").write_text(text)
    assert load_sampling_defaults(tmp_path) == SamplingDefaults(temperature=0.8, top_p=0.8)


@pytest.mark.parametrize(
    "values",
    [
        {"top_p": 1.5},
        {"temperature": "hot"},
        {"top_p": True},
        {"top_k": float("nan")},
        {"top_k": float("inf")},
        {"temperature": 10**400},
    ],
)
def test_bad_defaults_name_the_file(tmp_path, values):
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    where = r"generation_config.json: (top_p|top_k|temperature) is"
    with pytest.raises(CheckpointError, match=where):
        load_sampling_defaults(tmp_path)
