"""How the playground shows answers and errors while they come and after."""

from __future__ import annotations

import asyncio

import pytest

from backend.errors import (
    ContextLengthError,
    EngineUnavailableError,
    InternalError,
    OverloadedError,
)
from backend.wire import Event
from tests.openai.playground.browser import ESCAPE
from tests.openai.playground.playground_page import USAGE
from tests.openai.playground.scripted_server import ScriptedServer
from tests.unit.frontend.fake_triton import finish, forever, text


def test_an_answer_appears_while_it_is_generated(page, server):
    gates = [asyncio.Event(), asyncio.Event()]
    server.play([gates[0], text("Hel"), gates[1], text("lo **there**"), finish(usage=USAGE)])
    page.send("Hi")
    page.browser.wait_for("document.querySelector('.answer .waiting')?.checkVisibility()")
    assert page.text(".bubble") == "Hi"
    assert (page.is_visible("#send"), page.is_visible("#stop")) == (False, True)
    server.release(gates[0])
    page.browser.wait_for("document.querySelector('.content').innerText === 'Hel'")
    assert page.count(".running") == 1
    server.release(gates[1])
    page.wait_answer(1)
    assert page.text(".content") == "Hello there"
    assert page.text(".content strong") == "there"
    assert (page.is_visible("#send"), page.is_visible("#stop")) == (True, False)
    assert page.text("#announcer") == "The answer is complete"


def test_numbers_are_shown_when_the_answer_is_complete(page, server):
    gate = asyncio.Event()
    pieces = [text(f"w{index} ", token_ids=[1, 2]) for index in range(5)]
    server.play([*pieces, gate, text("end", token_ids=[3]), finish(usage=USAGE)])
    page.send("Hi")
    page.browser.wait_for("document.querySelector('.state').innerText.startsWith('10 tokens')")
    page.browser.run("return new Promise((done) => setTimeout(done, 50))")
    server.release(gate)
    page.wait_answer(1)
    shown = page.text(".stats").replace("\n", " ")
    assert "812 (300 image, 256 cached)" in shown
    assert "164 (42 thinking)" in shown
    for name in ("First token", "Speed", "tok/s", "Time"):
        assert name in shown


def test_thoughts_are_folded_and_counted_while_they_come(page, server):
    gate = asyncio.Event()
    thoughts = [text(reasoning=f"thought {index}. ", token_ids=[1, 2, 3]) for index in range(4)]
    server.play([*thoughts, gate, text("Answer", token_ids=[4]), finish(usage=USAGE)])
    page.send("Hi")
    page.browser.wait_for("document.querySelector('.thinking-count').innerText === '12 tokens'")
    assert page.text(".thinking-title") == "Thinking"
    assert not page.is_visible(".reasoning")
    server.release(gate)
    page.wait_answer(1)
    assert page.text(".thinking summary").split("\n") == ["Thoughts", "42 tokens"]
    assert not page.is_visible(".reasoning")
    page.click(".thinking summary")
    assert page.is_visible(".reasoning")
    assert page.text(".reasoning").endswith("thought 3.")
    assert page.text(".content") == "Answer"


@pytest.mark.parametrize("how", ["escape", "button"])
def test_stopping_ends_the_generation_and_keeps_what_came(page, server, how):
    server.play(forever(), [text("more"), finish()])
    page.send("Hi")
    page.browser.wait_for("document.querySelector('.content')?.innerText === 'a'")
    if how == "escape":
        page.browser.press(ESCAPE)
    else:
        page.click("#stop")
    page.wait_answer(1)
    assert page.text(".answer .state") == "Stopped"
    assert page.text(".content") == "a"
    assert server.wait_for(lambda: server.triton.stopped and server.triton.num_open == 0)
    assert page.ask("Go on") == "more"
    roles = [(message.role, message.content) for message in server.last_request().messages]
    assert roles == [("user", "Hi"), ("assistant", "a"), ("user", "Go on")]


def test_an_answer_can_be_generated_again(page, server):
    server.play([text("one"), finish()], [text("two"), finish()])
    assert page.ask("Hi") == "one"
    page.click_text("Regenerate")
    page.browser.wait_for("document.querySelector('.content')?.innerText === 'two'")
    assert page.count(".answer") == 1
    assert [message.content for message in server.last_request().messages] == ["Hi"]


def test_the_view_follows_the_answer_unless_the_reader_scrolls_up(page, server):
    gates = [asyncio.Event(), asyncio.Event()]
    lines = [text("line\n\n") for _ in range(60)]
    server.play([*lines, gates[0], *lines, gates[1], *lines, finish()])
    below = "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight"
    page.send("Hi")
    page.browser.wait_for(f"document.querySelectorAll('.content p').length === 60 && {below} < 2")
    page.browser.run("scroller.scrollTop = 100")
    page.browser.wait_for("!document.querySelector('#to-end').hidden")
    server.release(gates[0])
    page.browser.wait_for("document.querySelectorAll('.content p').length === 120")
    assert page.get("#scroller", "scrollTop") == 100
    page.click("#to-end")
    server.release(gates[1])
    page.wait_answer(1)
    page.browser.wait_for(f"{below} < 2")
    assert not page.is_visible("#to-end")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ContextLengthError("9000 tokens are too many", param="messages"), "400"),
        (OverloadedError("queue is full", retry_after_s=7), "429"),
        (InternalError("something broke"), "500"),
        (EngineUnavailableError("the engine restarts"), "503"),
    ],
)
def test_an_error_is_shown_with_its_request_id_and_can_be_tried_again(
    page, server, error, expected
):
    server.play([error], [text("now it works"), finish()])
    page.ask("Hi")
    shown = page.text(".failure")
    assert error.message in shown
    assert f"{expected} · {error.code}" in shown
    assert ("Try again in 7 s." in shown) == (expected == "429")
    request_id = page.text(".failure code")
    assert len(request_id) == 32
    page.click_text("Try again")
    page.browser.wait_for("document.querySelector('.content')?.innerText === 'now it works'")
    assert not page.is_visible(".failure")


def test_an_error_in_the_middle_of_a_stream_keeps_what_came(page, server):
    broken = Event(seq=1, error=InternalError("the engine died").info())
    server.play([text("Half an ans"), broken])
    assert page.ask("Hi") == "Half an ans"
    assert "the engine died" in page.text(".failure")
    assert len(page.text(".failure code")) == 32


def test_a_server_that_is_gone_is_told(browser, open_page):
    with ScriptedServer() as leaving:
        page = open_page(leaving.url)
    page.ask("Hi")
    assert page.text(".failure") == "The server cannot be reached."
