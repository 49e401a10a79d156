"""Choice of executor and device, and the process settings a CPU needs."""

import os
import subprocess
import sys

import pytest

import kernels
from backend.errors import ConfigError
from backend.ops import create_ops
from backend.ops.cpu_process import tune_cpu_process


def test_the_cuda_executor_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda _: "the CUDA extension is not built")
    with pytest.raises(ConfigError, match="executor cuda: the CUDA extension is not built"):
        create_ops("cuda", "gpu:0", 0)


def test_the_cuda_executor_asks_for_the_gpu_that_it_will_run_on(monkeypatch):
    monkeypatch.setattr(kernels, "unavailable_reason", lambda device=0: f"no device {device}")
    for name, device in (("gpu", 0), ("gpu:0", 0), ("gpu:3", 3)):
        with pytest.raises(ConfigError, match=f"executor cuda: no device {device}"):
            create_ops("cuda", name, 0)


@pytest.mark.parametrize("device", ["cpu", "xpu:0", "gpu:x", "gpu:²"])
def test_the_cuda_executor_takes_nothing_but_gpus(device):
    with pytest.raises(ConfigError, match=f"executor cuda runs on gpu:N; --device is '{device}'"):
        create_ops("cuda", device, 0)


def test_an_unknown_executor_names_the_known_ones():
    with pytest.raises(ConfigError, match="'torch'; expected one of paddle, cuda"):
        create_ops("torch", "cpu", 0)


@pytest.mark.parametrize("device", ["xpu:0", "toaster"])
def test_a_device_this_paddle_lacks_is_a_clear_error(device):
    with pytest.raises(ConfigError, match=f"device '{device}' is not available") as caught:
        create_ops("paddle", device, 0)
    assert "is built for cpu" in caught.value.message


def test_negative_threads_are_refused():
    with pytest.raises(ConfigError, match="threads is -1"):
        create_ops("paddle", "cpu", -1)


def test_importing_the_package_does_not_import_paddle():
    code = "import sys, backend.ops, backend.models; sys.exit('paddle' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tuning_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "4")
    tune_cpu_process()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "4"
