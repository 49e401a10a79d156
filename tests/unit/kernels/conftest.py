"""The CUDA extension, compiled once and kept by its sources' content, and kernels compiled for the
CPU; neither needs a GPU."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _has_nvcc():
    return shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").is_file()


@pytest.fixture(scope="session")
def extension():
    """kernels._kernels, built for Hopper alone if the sources have changed since the last build."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if not _has_nvcc():
        pytest.skip("nvcc is not installed")
    pytest.importorskip("pybind11")
    subprocess.run(
        [ROOT / "scripts" / "build_kernels.sh", "--arch", "90a"],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
    )
    return importlib.import_module("kernels._kernels")


@pytest.fixture(scope="module")
def driver(request, tmp_path_factory):
    """NAME_driver.cpp of test_NAME.py, compiled with the emulation in the place of CUDA."""
    compiler = shutil.which("g++")  # the emulation rests on glibc's coroutines
    if compiler is None:
        pytest.skip("no g++")
    here = Path(__file__).parent
    name = request.path.stem.removeprefix("test_")
    binary = tmp_path_factory.mktemp(name) / "driver"
    # A tile's place takes sums later, as values of another type.
    flags = ["-std=c++17", "-O2", "-fno-strict-aliasing"]
    flags.append("-U_FORTIFY_SOURCE")  # it takes a jump to another stack for an accident
    includes = [f"-I{here / 'emulation'}", f"-I{ROOT / 'kernels' / 'include'}"]
    source = here / f"{name}_driver.cpp"
    subprocess.run([compiler, *flags, *includes, source, "-o", binary], check=True)
    return binary
