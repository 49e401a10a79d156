from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.train_tiny.processing import CHECKPOINT
from tests.conformance.outside import Outside
from tests.openai.service_process import ROOT, ServiceProcess

MODEL = "ernie"


@pytest.fixture(scope="session")
def server() -> Iterator[ServiceProcess]:
    """One server over the checkpoint that ships, for all clients; it knows one model's name."""
    flags = ("--model", str(CHECKPOINT), "--served-model-name", MODEL)
    with ServiceProcess(*flags, kv_cache_gib=0.05) as service:
        yield service.wait_ready()


@pytest.fixture(scope="session")
def clients_bin() -> Path:
    """Where the clients' own environment has its programs."""
    folder = Path(os.environ.get("ERNIE_CONFORMANCE_VENV", ROOT / ".venv-conformance")) / "bin"
    assert (folder / "python").exists(), "the clients are missing: scripts/setup_env.sh conformance"
    return folder


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    outside = Outside()
    yield outside
    outside.close()


@pytest.fixture(scope="session")
def clients_environment(
    outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A user's who has set nothing. Bytecode may be written: no client comes with any."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "HOME": str(tmp_path_factory.mktemp("home")), **outside.environment}
