import json
import os
import subprocess

import pytest

from tests.triton.conftest import ROOT

pytestmark = pytest.mark.triton


@pytest.fixture
def run(paced_server, request):
    environ = {**os.environ, "ERNIE_CACHE": str(request.config.cache.mkdir("ernie-triton"))}

    def run_script(*arguments):
        result = subprocess.run(
            [ROOT / "scripts" / "perf_analyzer.sh", "-u", paced_server.grpc_url, *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if "No matching distribution" in result.stderr or "ConnectionError" in result.stderr:
            pytest.skip("the wheel with perf_analyzer cannot be downloaded here")
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run_script


def test_perf_analyzer_measures_ernie_chat(run, tmp_path):
    export = tmp_path / "profile.json"
    output = run("--request-count", "16", "--profile-export-file", str(export))
    assert "Request concurrency: 8" in output
    requests = json.loads(export.read_text())["experiments"][0]["requests"]
    assert len(requests) >= 16
    assert all(len(request["response_timestamps"]) > 1 for request in requests)


def test_perf_analyzer_takes_a_users_own_input(run, tmp_path):
    body = {"prompt": "hello", "max_tokens": 3, "stream": True}
    data = tmp_path / "input.json"
    data.write_text(json.dumps({"data": [{"REQUEST": [json.dumps(body)]}]}))
    output = run("--request-count", "4", "--concurrency-range=1", "--input-data", str(data))
    assert "Request concurrency: 1" in output
