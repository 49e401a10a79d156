"""The CUDA extension, compiled once and kept by its sources' content; no GPU is needed for that."""

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
