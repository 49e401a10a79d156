import pytest

from backend.runner import ModelRunner
from tests.unit.engine import requests


@pytest.fixture(params=[ModelRunner, requests.AheadRunner], ids=["in_turn", "ahead"])
def each_runner(request, monkeypatch):
    """Run a test with a runner that tells tokens at once, and with one that is a step ahead."""
    monkeypatch.setattr(requests, "RUNNER_TYPES", [request.param])
