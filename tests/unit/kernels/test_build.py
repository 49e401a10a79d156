"""The sources compile, and the build does nothing when nothing has changed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.sanitize_kernels import OURS

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "build_kernels.sh"


def _build(*arguments, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.timeout(1200)  # compiles everything once: about a minute and a half on two cores
def test_every_area_is_in_the_module(extension):
    for binding in (ROOT / "kernels" / "binding").glob("*.cpp"):
        if binding.stem == "module" or "_" in binding.stem:
            continue
        assert f"void bind_{binding.stem}(py::module_& module)" in binding.read_text()
    for name in ("Context", "rms_norm", "linear", "sample"):
        assert hasattr(extension, name)


@pytest.mark.timeout(1200)
def test_the_sanitizers_look_into_every_kernel(extension):
    kernels = re.findall(rb"__device_stub_(_Z\w+)", Path(extension.__file__).read_bytes())
    assert len(set(kernels)) > 100
    substring = OURS.removeprefix("kns=").encode()
    assert [name for name in kernels if substring not in name] == []


@pytest.mark.timeout(1200)
def test_an_unchanged_tree_is_not_built_again(extension):
    done = _build("--arch", "90a")
    assert done.returncode == 0
    assert done.stdout.endswith("is up to date\n")


def test_a_missing_compiler_is_named():
    done = _build(CUDACXX="/nowhere/nvcc")
    assert done.returncode == 2
    assert done.stderr == (
        "build_kernels.sh: nvcc was not found; install the CUDA toolkit (12.8 or newer) or set "
        "CUDACXX\n"
    )


def test_an_unknown_argument_is_refused():
    done = _build("--fast")
    assert done.returncode == 2
    assert "unknown argument '--fast'" in done.stderr
