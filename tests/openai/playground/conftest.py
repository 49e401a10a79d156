"""One browser for all tests of the playground, one scripted server for those of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.openai.playground.browser import Browser, missing_programs
from tests.openai.playground.playground_page import PlaygroundPage
from tests.openai.playground.scripted_server import ScriptedServer

# Chromium logs every failed request, also those that the page handles well.
_FAILED = "Failed to load resource"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing := missing_programs():
        pytest.skip(missing)
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture(scope="module")  # a thread should not outlive these tests
def server(browser: Browser) -> Iterator[ScriptedServer]:
    with ScriptedServer(model_name="ernie-4.5-vl-tiny") as server:
        yield server


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[[str], PlaygroundPage]]:
    """Opens a server's playground. No test may leave errors behind or reach another host."""
    opened: list[str] = []

    def open_url(url: str) -> PlaygroundPage:
        opened.append(url)
        return PlaygroundPage(browser).open(url)

    browser.view(1280, 860)
    browser.prefer("light")
    browser.speak("en-US")
    yield open_url
    errors = [line for line in browser.console_errors() if _FAILED not in line]
    assert errors == []
    assert browser.requested_hosts() <= {*opened, "blob://", "data://"}
    browser.run("localStorage.clear()")


@pytest.fixture
def page(open_page: Callable[[str], PlaygroundPage], server: ScriptedServer) -> PlaygroundPage:
    return open_page(server.url)
