"""`--config`: flat YAML and JSON are read, everything else is refused by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ConfigError
from openai_frontend.launch.config_file import read_config_arguments
from openai_frontend.launch.parsing import parse_options

YAML = """\
# one card
---
max_model_len: 32768   # tokens
max-num-seqs: 128
quantization: "wint4"
reasoning_parser: 'ernie-45-vl'
limit_mm_per_prompt: '{"image": 100, "video": 100}'
mm_processor_kwargs: {"video_max_frames": 30}
enable_prefix_caching: no
served_model_name:
api-key: ["first", "second"]
"""


def write(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_flat_yaml_is_read(tmp_path):
    options = parse_options(["--config", write(tmp_path, YAML)], environ={})
    assert options.serving == {
        "max_model_len": 32768,
        "max_num_seqs": 128,
        "reasoning_parser": "ernie-45-vl",
        "limit_mm_per_prompt": {"image": 100, "video": 100},
        "mm_processor_kwargs": {"video_max_frames": 30},
        "enable_prefix_caching": False,
    }
    assert options.api_keys == ("first", "second")
    assert [warning.split()[0] for warning in options.warnings] == ["--quantization"]


def test_the_command_line_wins_over_the_file(tmp_path):
    file = write(tmp_path, "port: 1\nmax_num_seqs: 3")
    options = parse_options(["--port", "2", f"--config={file}"], environ={})
    assert (options.port, options.serving) == (2, {"max_num_seqs": 3})


def test_json_is_read(tmp_path):
    file = write(tmp_path, json.dumps({"max_model_len": 4, "limit_mm_per_prompt": {"image": 1}}))
    assert parse_options(["--config", file], environ={}).serving == {
        "max_model_len": 4,
        "limit_mm_per_prompt": {"image": 1},
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port: 1\nlimit_mm_per_prompt:\n  image: 1", 3),
        ("- port: 1", 1),
        ("port 1", 1),
        ("chat_template: |\n  text", 1),
        ("model: 'unfinished", 1),
        ('model: "a" b', 1),
        ("port: &anchor 1", 1),
        ("limit_mm_per_prompt: {image: 1}", 1),
        ("{\n bad", 2),
    ],
)
def test_other_yaml_is_refused_by_line(tmp_path, text, line):
    with pytest.raises(ConfigError, match=f"line {line}"):
        parse_options(["--config", write(tmp_path, text)], environ={})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        parse_options(["--config", str(tmp_path / "nothing.yaml")], environ={})


def test_an_unknown_name_in_the_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--max-model-length"):
        parse_options(["--config", write(tmp_path, "max_model_length: 3")], environ={})


@given(st.text(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("config") / "x.yaml"
    file.write_text(text, encoding="utf-8", errors="ignore")
    try:
        assert all(argument.startswith("--") for argument in read_config_arguments(str(file)))
    except ConfigError:
        pass
