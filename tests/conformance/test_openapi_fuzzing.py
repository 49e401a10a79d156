"""schemathesis against the served /openapi.json (`fuzzing`): no 5xx, and replies as documented."""

from __future__ import annotations

import re
import subprocess

import httpx
import pytest

from tests.openai.service_process import ROOT

pytestmark = [pytest.mark.conformance, pytest.mark.triton, pytest.mark.timeout(600)]

FOLDER = ROOT / "tests" / "conformance" / "fuzzing"
TIME_LIMIT_S = 400.0
# Far below what is answered, and above what is when every request ends at the door.
LEAST_ANSWERED = {
    "/v1/chat/completions": 200,
    "/v1/messages": 1,
    "/v1/responses": 1,
    "/v1/completions": 1,
    "/v1/messages/count_tokens": 1,
    "/tokenize": 1,
    "/detokenize": 1,
}


@pytest.fixture(scope="module")
def report(server, clients_bin, clients_environment, tmp_path_factory):
    """What schemathesis says, and its exit status."""
    command = [
        *(clients_bin / "st", "--config-file", FOLDER / "schemathesis.toml"),
        *("run", "--no-color", f"{server.url}/openapi.json"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "deep_requests", "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        command,
        env={**clients_environment, **hooks},
        cwd=tmp_path_factory.mktemp("schemathesis"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    return done.returncode, done.stdout


def answered(report):
    """How many requests to each path got a 200."""
    lines = re.findall(r"^answered (\S+) (\d+)$", report[1], re.M)
    return {path: int(number) for path, number in lines}


def test_no_generated_request_is_a_5xx_or_gets_an_undocumented_reply(report):
    status, output = report
    assert status == 0, output


def test_every_path_but_the_documents_own_is_asked(server, report):
    document = httpx.get(f"{server.url}/openapi.json", timeout=10).json()
    assert set(answered(report)) == set(document["paths"]) - {"/openapi.json"}, report[1]


@pytest.mark.parametrize("path", LEAST_ANSWERED)
def test_generated_requests_reach_the_engine(report, path):
    assert answered(report)[path] >= LEAST_ANSWERED[path], report[1]


def test_the_server_still_answers(server, report):
    body = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert "ERNIE" in reply.json()["choices"][0]["message"]["content"]
