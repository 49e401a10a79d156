"""The command line: what it means, and how it refuses what it does not understand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.config.serving import EngineSettings, PostprocessorSettings, PreprocessorSettings
from backend.errors import ConfigError
from openai_frontend.launch.flag_table import FLAGS, USED_FLAGS
from openai_frontend.launch.parsing import parse_options

ROOT = Path(__file__).resolve().parents[3]


def parse(*arguments: str, **environ: str):
    return parse_options(arguments, environ=environ)


def test_without_flags_the_guides_port_and_fastdeploys_host_are_used():
    options = parse()
    assert (options.host, options.port, options.metrics_port) == ("0.0.0.0", 8180, None)
    assert options.serving == {}
    assert options.warnings == ()


def test_settings_are_names_that_the_triton_models_know():
    known = {
        item.name
        for kind in (PreprocessorSettings, EngineSettings, PostprocessorSettings)
        for item in fields(kind)
    }
    assert {flag.setting for flag in USED_FLAGS if flag.setting} <= known


def test_flags_take_underscores_and_equals_signs():
    options = parse("--max_model_len=4096", "--enable_prefix_caching=false", "-tp", "1")
    assert options.serving == {"max_model_len": 4096, "enable_prefix_caching": False}


def test_every_ignored_flag_is_accepted_and_warns_once():
    samples = {"str": "x", "int": "7", "float": "0.7", "json": "{}", "list": "x", "append": "x"}
    for flag in FLAGS:
        if not flag.ignored:
            continue
        value = "wint4" if flag.name == "--quantization" else samples.get(flag.kind)
        options = parse(flag.name, *([value] if value else []))
        (warning,) = options.warnings
        assert warning.startswith(f"{flag.name}")
        assert flag.help in warning


def test_values_that_mean_what_happens_anyway_need_no_warning():
    quiet = ["--tensor-parallel-size", "1", "--workers", "1", "--load-choices", "default_v1"]
    assert parse(*quiet, "--scheduler-name", "local", "--splitwise-role", "mixed").warnings == ()


def test_flag_names_are_unique():
    names = [name for flag in FLAGS for name in (flag.name, *flag.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-model-length", "4"], ["--max-model-length", "--max-model-len"]),
        (["--resoning-parser", "x"], ["--resoning-parser", "--reasoning-parser"]),
        (["stray"], ["'stray'"]),
        (["--port", "99999"], ["--port", "99999", "65535"]),
        (["--port", "http"], ["--port", "'http'", "whole number"]),
        (["--max-num-seqs", "0"], ["--max-num-seqs", "0", "at least", "from 1"]),
        (["--gpu-memory-utilization", "1.5"], ["--gpu-memory-utilization", "from 0.01 to 1"]),
        (["--gpu-memory-utilization", "nan"], ["--gpu-memory-utilization"]),
        (["--tensor-parallel-size", "0"], ["--tensor-parallel-size", "at least 1"]),
        (["--mm-processor-kwargs", "{bad"], ["--mm-processor-kwargs", "{bad", "not JSON"]),
        (["--mm-processor-kwargs", "[1]"], ["--mm-processor-kwargs", "JSON object"]),
        (
            ["--mm-processor-kwargs", '{"video_max_frames": 0}'],
            ["--mm-processor-kwargs", "video_max_frames", "0"],
        ),
        (
            ["--mm-processor-kwargs", '{"image_min_pixels": 9, "image_max_pixels": 8}'],
            ["image_min_pixels 9", "image_max_pixels 8"],
        ),
        (["--limit-mm-per-prompt", '{"images": 1}'], ["--limit-mm-per-prompt", "'images'"]),
        (["--limit-mm-per-prompt", '{"image": -1}'], ["--limit-mm-per-prompt", "-1"]),
        (["--reasoning-parser", "qwen3"], ["--reasoning-parser", "'qwen3'", "ernie-x1"]),
        (["--tool-call-parser", "hermes"], ["--tool-call-parser", "'hermes'", "ernie-x1"]),
        (["--quantization", "int3"], ["--quantization", "'int3'", "wint4"]),
        (["--executor", "cuda", "--device", "cpu"], ["--device cpu", "--executor cuda", "gpu:N"]),
        (["--executor", "cuda", "--block-size", "24"], ["--block-size 24", "multiple of 16"]),
        (["--executor", "torch"], ["--executor", "'torch'", "paddle"]),
        (["--device", "GPU zero"], ["--device", "'GPU zero'", "gpu:0"]),
        (["--api-key", "a b"], ["--api-key", "spaces"]),
        (["--chat-template", "/no/such/file"], ["--chat-template", "/no/such/file"]),
        (["--allowed-local-media-path", "/no/such"], ["--allowed-local-media-path", "/no/such"]),
        (["--enable-prefix-caching=perhaps"], ["--enable-prefix-caching", "'perhaps'"]),
        (["--model"], ["--model"]),
    ],
)
def test_a_wrong_value_is_refused_with_the_flag_the_value_and_a_hint(arguments, words):
    with pytest.raises(ConfigError) as raised:
        parse(*arguments)
    # Either form of a range is fine, so one of two alternatives may be missing.
    missing = [word for word in words if word not in raised.value.message]
    assert missing in ([], ["at least"]), raised.value.message


@pytest.mark.parametrize("flag", ["--config", "--chat-template", "--allowed-local-media-path"])
def test_a_nul_in_a_path_is_a_config_error(flag):
    with pytest.raises(ConfigError, match=flag):
        parse(f"{flag}=a\0b")


@given(st.sampled_from(FLAGS), st.text(max_size=30))
def test_no_value_whatsoever_raises_anything_but_a_config_error(flag, value):
    try:
        parse(f"{flag.name}={value}")
    except ConfigError as error:
        assert flag.name in error.message or flag.name == "--config"


def test_a_template_file_is_sent_as_its_text(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages }}", encoding="utf-8")
    assert parse("--chat-template", str(file)).serving["chat_template"] == "{{ messages }}"
    assert parse("--chat-template", "{{ x }}").serving["chat_template"] == "{{ x }}"


def test_fastdeploys_unlimited_queue_leaves_the_default_bound():
    assert parse("--scheduler-max-size", "-1").serving == {}
    assert parse("--scheduler-max-size", "5").serving == {"max_num_waiting": 5}


def test_the_variable_of_a_plain_tritonserver_names_the_model_too():
    assert parse(ERNIE_MODEL="/data/model").model == "/data/model"
    assert parse("--model", "/data/other", ERNIE_MODEL="/data/model").model == "/data/other"
    assert parse(ERNIE_MODEL="").model is None


def test_the_drain_time_has_two_names():
    assert parse().drain_timeout_s == 90
    assert parse("--timeout-graceful-shutdown", "30").drain_timeout_s == 30
    both = parse("--timeout-graceful-shutdown", "30", "--drain-timeout", "5")
    assert both.drain_timeout_s == 5


def test_equal_ports_mean_one_listener():
    assert parse("--port", "8000", "--metrics-port", "8000").metrics_port is None
    assert parse("--metrics-port", "8182", "--cache-queue-port", "8182").metrics_port == 8182


def test_keys_come_from_flags_or_from_the_environment():
    assert parse("--api-key", "a", "--api-key", "b", FD_API_KEY="c").api_keys == ("a", "b")
    assert parse(FD_API_KEY="c, d").api_keys == ("c", "d")
    with pytest.raises(ConfigError, match="FD_API_KEY"):
        parse(FD_API_KEY="a b")


def test_settings_from_the_environment_stay_unless_a_flag_says_otherwise():
    serving = json.dumps({"max_num_seqs": 3, "preprocess_threads": 2})
    options = parse("--max-num-seqs", "5", ERNIE_SERVING=serving)
    assert options.serving == {"max_num_seqs": 5, "preprocess_threads": 2}
    for broken in ("{", "[1]"):
        with pytest.raises(ConfigError, match="ERNIE_SERVING"):
            parse(ERNIE_SERVING=broken)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-model-length", "4"], "--max-model-len"),
        (["--mm-processor-kwargs", "{bad"], "--mm-processor-kwargs"),
        (["--model", "baidu/ERNIE-4.5-VL-28B-A3B-Paddle"], "checkpoints"),
    ],
)
def test_the_launcher_exits_2_before_anything_starts(arguments, words):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "openai_frontend.api_server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    # Well under a second by itself; the bound leaves room for a machine busy with other tests.
    assert time.monotonic() - start < 5


def test_help_shows_every_flag():
    done = subprocess.run(
        [sys.executable, "-m", "openai_frontend.api_server", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0
    assert all(flag.name in done.stdout for flag in FLAGS)


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys, openai_frontend.api_server; "
        "print({'numpy', 'grpc', 'uvicorn', 'starlette', 'paddle'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
