"""The Dockerfile cannot be built where tests run; what it names must at least exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


def _stage(name: str) -> str:
    """Instructions of a stage and of the stages it is built from."""
    match = re.search(rf"^FROM (\S+) AS {name}\n(.*?)(?=^FROM |\Z)", TEXT, re.M | re.S)
    assert match is not None, f"no stage {name}"
    parent = match[1] if f" AS {match[1]}\n" in TEXT else None
    return (_stage(parent) if parent else "") + match[2]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_target_installs_and_starts_with_the_readme_s_scripts(target: str) -> None:
    stage = _stage(target)
    assert "setup_env.sh serve" in stage
    assert 'ENTRYPOINT ["scripts/serve.sh"]' in stage
    assert stage.rindex("USER triton-server") > stage.rindex("RUN ")
    assert "HEALTHCHECK" in stage


def test_the_gpu_target_has_the_kernels_built_for_its_own_python() -> None:
    kernels, gpu = _stage("kernels"), _stage("gpu")
    assert "scripts/build_kernels.sh" in kernels
    assert "COPY kernels " in kernels
    # What a checkout has built for another Python must not come in its place, nor come at all.
    copied = gpu.index("COPY --from=kernels /opt/ernie/kernels/ /opt/ernie/kernels/")
    assert copied > gpu.index("COPY . /opt/ernie")
    assert {"kernels/*.so", "build"} <= set(IGNORED)
    assert "-devel-ubuntu24.04" in TEXT, "Triton's image is made of Ubuntu 24.04"


def test_everything_copied_is_in_the_build_context() -> None:
    sources = re.findall(r"^COPY ([^-]\S*) ", TEXT, re.M)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in IGNORED
    for name in (
        "backend",
        "kernels",
        "model_repository",
        "openai_frontend",
        "scripts",
        "checkpoints",
    ):
        assert name not in IGNORED
