"""Official clients, unmodified, each with a small program of its own (`clients`, `node`).

All of them run at the same time against one server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openai.service_process import ROOT

pytestmark = [pytest.mark.conformance, pytest.mark.triton, pytest.mark.timeout(600)]

FOLDER = ROOT / "tests" / "conformance"
TIME_LIMIT_S = 400.0
STEPS = ("chat", "vision", "tools", "streaming", "structured")
NODE = "openai_node"
PYTHON_CLIENTS = (
    "openai_python",
    "anthropic_python",
    "langchain_chat",
    "litellm_completion",
    "llm_command",
)
HAS_NODE = shutil.which("node") is not None and shutil.which("npm") is not None
CLIENTS = (
    *PYTHON_CLIENTS,
    pytest.param(NODE, marks=pytest.mark.skipif(not HAS_NODE, reason="needs node 20 and npm")),
)


@dataclass(frozen=True)
class Played:
    status: int
    output: str

    @property
    def passed(self) -> set[str]:
        return set(re.findall(r"^ok (\w+): .", self.output, re.M))


@pytest.fixture(scope="session")
def played(
    server, clients_bin, clients_environment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Played]:
    """What each program said; a program that does not end in time is ended."""
    folder = tmp_path_factory.mktemp("output")
    commands: dict[str, list[str | Path]] = {
        name: [clients_bin / "python", FOLDER / "clients" / f"{name}.py"] for name in PYTHON_CLIENTS
    }
    if HAS_NODE:
        assert (FOLDER / "node" / "node_modules").exists(), "run scripts/setup_env.sh conformance"
        commands[NODE] = ["node", FOLDER / "node" / f"{NODE}.js"]
    processes = {}
    for name, command in commands.items():
        with open(folder / name, "wb") as output:
            processes[name] = subprocess.Popen(
                [*command, server.url],
                env=clients_environment,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    end = time.monotonic() + TIME_LIMIT_S
    result = {}
    for name, process in processes.items():
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        result[name] = Played(process.wait(), (folder / name).read_text("utf-8"))
    return result


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_a_right_answer(played, client, step):
    assert step in played[client].passed, played[client].output


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_meets_nothing_that_it_has_to_work_around(played, client):
    assert played[client].status == 0, played[client].output


def test_no_client_asks_another_host(played, outside):
    assert outside.visitors() == []
