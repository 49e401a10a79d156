"""Taking a chat elsewhere: commands, an export, clearing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.openai.playground.playground_page import USAGE, picture
from tests.unit.frontend.fake_triton import finish, text


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_copied_curl_command_repeats_the_request(page, server):
    server.play([text("same"), finish()])
    page.set("seed", "5")
    page.drop("disc.png", "image/png", picture())
    page.ask('It\'s a "quoted" $question\\n')
    original = server.triton.sent[-1]
    command = page.copied("Copy as curl")
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=20, check=True)
    assert b'"content":"same"' in done.stdout
    repeated = server.triton.sent[-1]
    assert repeated is not original
    assert (repeated.request, repeated.media) == (original.request, original.media)


def test_the_copied_python_script_repeats_the_request(page, server):
    server.play([text("sa"), text("me"), finish()])
    page.set("top_k", "3")
    page.set("temperature", "0.5")
    page.click("#tools-example")
    page.drop("disc.png", "image/png", picture())
    page.ask('It\'s a "quoted" \\question with 中文 and 😀')
    original = server.triton.sent[-1]
    script = page.copied("Copy as Python")
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=60,
        check=True,
        env=environment,
    )
    assert done.stdout == b"same"
    repeated = server.triton.sent[-1]
    assert repeated is not original
    assert (repeated.request, repeated.media) == (original.request, original.media)


def test_a_chat_is_exported_as_json(page, server):
    server.play([text("Hello", reasoning="Hm."), finish(usage=USAGE)])
    page.set("system", "Be brief.")
    page.ask("Hi")
    page.browser.run(
        "URL.createObjectURL = (blob) => { window.exported = blob; return 'data:,x'; };"
        "HTMLAnchorElement.prototype.click = function () { window.fileName = this.download; }"
    )
    page.click("#export")
    record = json.loads(page.browser.run("return window.exported.text()"))
    assert page.browser.run("return window.fileName") == "ernie-chat.json"
    assert record["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    answer = record["turns"][1]
    assert answer["reasoning_content"] == "Hm."
    assert answer["usage"]["prompt_tokens"] == 812
    assert answer["first_token_ms"] > 0


def test_a_cleared_chat_can_be_brought_back(page, server):
    server.play([text("one"), finish()])
    page.ask("Hi")
    page.click("#clear")
    assert page.count(".message") == 0
    assert page.is_visible("#welcome")
    page.click_text("Undo")
    assert page.text(".content") == "one"
    page.ask("More")
    assert len(server.last_request().messages) == 3
    page.click("#clear")
    page.ask("Fresh")
    assert [message.content for message in server.last_request().messages] == ["Fresh"]
