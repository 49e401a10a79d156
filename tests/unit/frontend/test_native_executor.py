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


def test_a_missing_extension_is_named(monkeypatch):
    monkeypatch.setattr(
        native_executor, "missing_for_kernels", lambda: "run scripts/build_kernels.sh"
    )
    with pytest.raises(ConfigError, match=r"--executor cuda: run scripts/build_kernels\.sh"):
        check_native_executor({"executor": "cuda"})
    check_native_executor({"executor": "paddle"})
    check_native_executor({})


def test_what_is_missing_is_what_the_kernels_say():
    assert missing_for_kernels() == (kernels.unavailable_reason() or "")


def test_a_present_gpu_is_no_error(monkeypatch):
    monkeypatch.setattr(native_executor, "missing_for_kernels", lambda: "")
    check_native_executor({"executor": "cuda"})


def test_the_launcher_says_what_is_missing_and_exits_2_at_once():
    """No GPU is visible to the child, whatever this machine has."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "openai_frontend.api_server", "--executor", "cuda", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "--executor cuda: " in done.stderr
    missing = ("the CUDA extension is not built", "no CUDA device", "no usable NVIDIA driver")
    assert any(words in done.stderr for words in missing), done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 10
