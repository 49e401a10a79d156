"""What `--executor cuda` changes on the command line, and how it ends where it cannot run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kernels
from backend.errors import ConfigError
from openai_frontend.launch import native_executor
from openai_frontend.launch.native_executor import check_native_executor, missing_for_kernels
from openai_frontend.launch.parsing import parse_options

ROOT = Path(__file__).resolve().parents[3]


def serving(*arguments, **environ):
    return parse_options(arguments, environ=environ).serving


def test_it_takes_the_first_gpu_and_blocks_of_64_tokens():
    assert serving("--executor", "cuda") == {
        "executor": "cuda",
        "device": "gpu:0",
        "block_size": 64,
    }


def test_what_is_said_explicitly_stays():
    told = serving("--executor", "cuda", "--device", "gpu:3", "--block-size", "32")
    assert (told["device"], told["block_size"]) == ("gpu:3", 32)
    assert serving(ERNIE_SERVING='{"executor": "cuda", "device": "gpu:1"}')["device"] == "gpu:1"


@pytest.mark.parametrize("executor", ["paddle", "paced"])
def test_other_executors_keep_their_own_defaults(executor):
    assert serving("--executor", executor) == {"executor": executor}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quantization", "wint8"], ["--quantization wint8", "bfloat16"]),
        (["--quantization", '{"quantization": "WINT4"}'], ["WINT4", "bfloat16 weights"]),
        (["--kv-cache-dtype", "int8"], ["--kv-cache-dtype int8", "bfloat16"]),
        (["--tensor-parallel-size", "4"], ["--tensor-parallel-size 4", "one GPU"]),
        (["-tp", "2"], ["--tensor-parallel-size 2", "one GPU"]),
        (["--data-parallel-size", "8"], ["--data-parallel-size 8", "one GPU"]),
        (["--enable-expert-parallel"], ["--enable-expert-parallel:", "one GPU"]),
        (["--kv-cache-gib", "4"], ["--kv-cache-gib 4", "--gpu-memory-utilization"]),
    ],
)
def test_what_it_cannot_do_is_refused_with_what_it_can(arguments, words):
    with pytest.raises(ConfigError) as raised:
        serving("--executor", "cuda", *arguments)
    assert [word for word in ["--executor cuda", *words] if word not in raised.value.message] == []
    assert serving("--executor", "paddle", *arguments)["executor"] == "paddle"


def test_a_refusal_does_not_depend_on_where_the_executor_was_chosen():
    with pytest.raises(ConfigError, match="--quantization wint4: --executor cuda"):
        serving("--quantization", "wint4", ERNIE_SERVING='{"executor": "cuda"}')


def test_values_that_ask_for_nothing_else_are_accepted():
    serving(
        *("--executor", "cuda", "--tensor-parallel-size", "1", "--data-parallel-size", "1"),
        *("--enable-expert-parallel=false", "--kv-cache-dtype", "auto", "--threads", "2"),
    )
    serving("--executor", "cuda", "--kv-cache-dtype", "bfloat16")


def test_a_missing_extension_is_named(monkeypatch):
    monkeypatch.setattr(
        native_executor, "missing_for_kernels", lambda _: "run scripts/build_kernels.sh"
    )
    with pytest.raises(ConfigError, match=r"--executor cuda: run scripts/build_kernels\.sh"):
        check_native_executor({"executor": "cuda"})
    check_native_executor({"executor": "paddle"})
    check_native_executor({})


def test_what_is_missing_is_what_the_kernels_say():
    assert missing_for_kernels() == (kernels.unavailable_reason() or "")


def test_a_present_gpu_is_no_error(monkeypatch):
    monkeypatch.setattr(native_executor, "missing_for_kernels", lambda _: "")
    check_native_executor({"executor": "cuda"})


@pytest.mark.parametrize(("device", "index"), [("gpu:3", 3), ("gpu", 0), ("gpu:0", 0)])
def test_the_kernels_are_asked_about_the_device_that_is_meant(monkeypatch, device, index):
    asked = []
    monkeypatch.setattr(native_executor, "missing_for_kernels", lambda n: asked.append(n) or "")
    check_native_executor({"executor": "cuda", "device": device})
    assert asked == [index]


@pytest.mark.parametrize("more", [[], ["--device", "gpu:3"]])
def test_the_launcher_says_what_is_missing_and_exits_2_at_once(more):
    """No GPU is visible to the child, whatever this machine has."""
    command = [sys.executable, "-m", "openai_frontend.api_server"]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--executor", "cuda", "--port", "0", *more],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "--executor cuda: " in done.stderr
    missing = ("the CUDA extension is not built", "no CUDA device", "no NVIDIA driver")
    assert any(words in done.stderr for words in missing), done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 10


def test_a_driver_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(native_executor, "_ASK", "import time; time.sleep(60)")
    monkeypatch.setattr(native_executor, "_ASK_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match="the driver of device 2 did not answer"):
        check_native_executor({"executor": "cuda", "device": "gpu:2"})
