"""What the user sets and types: tools and their results, settings, keyboard."""

from __future__ import annotations

import json

import pytest

from backend.request import FinishReason
from tests.openai.playground.browser import ENTER, ESCAPE, SHIFT
from tests.openai.playground.playground_page import USAGE
from tests.openai.playground.scripted_server import ScriptedServer
from tests.unit.frontend.fake_triton import call, finish, forever, text

CALLS = [
    call(0, "", "call-1", "get_weather"),
    call(0, '{"city": "Bei'),
    call(0, 'jing"}'),
    call(1, '{"city": "Oslo"}', "call-2", "get_weather"),
    finish(reason=FinishReason.TOOL_CALLS, usage=USAGE),
]


def test_tool_calls_are_cards_whose_results_continue_the_chat(page, server):
    server.play([text(reasoning="Ask twice."), *CALLS], [text("21 and 9 degrees."), finish()])
    page.click("#tools-example")
    page.send("Weather in Beijing and Oslo?")
    page.wait_answer(1)
    assert server.last_request().tools[0].function.name == "get_weather"
    assert page.count(".tool-call") == 2
    assert page.text(".tool-name") == "get_weather"
    assert json.loads(page.text(".tool-arguments")) == {"city": "Beijing"}
    page.browser.wait_for("document.activeElement.closest('.tool-call')")
    page.browser.type(".tool-call:nth-child(1) textarea", '{"t": 21}' + ENTER)
    assert page.count(".answer") == 1, "the second result is still missing"
    assert page.has_focus(".tool-call:nth-child(2) textarea")
    page.browser.type(".tool-call:nth-child(2) textarea", "nine")
    page.click_text("Send results and continue")
    page.wait_answer(2)
    assert page.text(".answer:last-child .content") == "21 and 9 degrees."
    _, assistant, *results = server.last_request().messages
    assert [item.id for item in assistant.tool_calls] == ["call-1", "call-2"]
    assert assistant.tool_calls[0].function.arguments == '{"city": "Beijing"}'
    assert assistant.reasoning_content == "Ask twice."
    assert [(item.role, item.tool_call_id, item.content) for item in results] == [
        ("tool", "call-1", '{"t": 21}'),
        ("tool", "call-2", "nine"),
    ]
    assert page.get(".tool-call textarea", "readOnly") is True


def test_a_new_question_passes_over_open_tool_calls(page, server):
    server.play(CALLS, [text("fine"), finish()])
    page.ask("Weather?")
    page.ask("Never mind.")
    roles = [message.role for message in server.last_request().messages]
    assert roles == ["user", "assistant", "tool", "tool", "user"]


@pytest.mark.parametrize("tools", ["[{", '{"type": "function"}', '[{"type": "function"}]', "[1]"])
def test_tools_that_cannot_be_sent_are_refused_at_their_field(page, server, tools):
    server.play([text("never"), finish()])
    page.set("tools", tools)
    assert page.text("#tools-error")
    page.send("Hi")
    page.browser.wait_for("!document.querySelector('#composer-error').hidden")
    assert page.has_focus("#tools")
    assert page.get("#message", "value") == "Hi", "nothing typed is lost"
    assert (page.count(".message"), server.triton.sent) == (0, [])


def test_settings_are_sent_and_empty_ones_are_left_to_the_server(page, server):
    server.play([text("ok"), finish()])
    page.ask("Hi")
    request = server.last_request()
    for name in ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop", "tools"):
        assert getattr(request, name) is None
    assert request.chat_template_kwargs == {"enable_thinking": True}
    numbers = {"temperature": 0.25, "top_p": 0.9, "top_k": 7, "max_tokens": 33, "seed": 2**53 - 1}
    for name, value in numbers.items():
        page.set(name, str(value))
    page.set("stop_strings", "END\n\nStop here")
    page.set("system", "Be brief.")
    page.click("#thinking")
    page.ask("Again")
    request = server.last_request()
    assert {name: getattr(request, name) for name in numbers} == numbers
    assert request.stop == ["END", "Stop here"]
    assert request.chat_template_kwargs == {"enable_thinking": False}
    assert request.messages[0].role == "system"
    assert request.messages[0].content == "Be brief."
    assert request.model == "ernie-4.5-vl-tiny"
    page.click("[type=reset]")
    page.ask("And again")
    assert server.last_request().temperature is None


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", "-1"), ("top_p", "1.5"), ("seed", "0.5")]
)
def test_numbers_out_of_range_are_refused_at_their_field(page, server, name, value):
    server.play([text("never"), finish()])
    page.set(name, value)
    page.send("Hi")
    page.browser.wait_for("!document.querySelector('#composer-error').hidden")
    assert name in page.text("#composer-error")
    assert page.has_focus(f"#{name}")
    assert server.triton.sent == []


def test_the_key_is_asked_for_used_and_kept_nowhere(browser, open_page):
    with ScriptedServer(api_keys=("sesame",), model_name="locked") as locked:
        page = open_page(locked.url)
        assert page.text("#server-note") == "This server asks for an API key."
        page.ask("Hi")
        assert "401 · invalid_api_key" in page.text(".failure")
        assert page.has_focus("#key")
        page.set("key", "sesame")
        browser.wait_for("document.querySelector('#model').value === 'locked'")
        locked.play([text("open"), finish()])
        page.click_text("Try again")
        browser.wait_for("document.querySelector('.content')?.innerText === 'open'")
        for button in ("Copy as curl", "Copy as Python"):
            copied = page.copied(button)
            assert "ERNIE_API_KEY" in copied
            assert "sesame" not in copied
        stored = browser.run("return JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "sesame" not in stored + browser.run("return document.cookie")
        page.open(locked.url)
        assert page.get("#key", "value") == ""


def test_shift_enter_adds_a_line_and_enter_sends(page, server):
    server.play([text("ok"), finish()])
    page.browser.type("#message", "one")
    page.browser.press(ENTER, SHIFT)
    page.browser.type("#message", "two")
    assert page.get("#message", "value") == "one\ntwo"
    page.browser.press(ENTER)
    page.wait_answer(1)
    assert server.last_request().messages[0].content == "one\ntwo"
    assert page.get("#message", "value") == ""


def test_enter_picks_a_word_while_an_input_method_composes(page):
    script = """
        message.value = "ni hao";
        message.dispatchEvent(new KeyboardEvent("keydown",
          { key: "Enter", isComposing: true, bubbles: true, cancelable: true }));
    """
    page.browser.run(script.replace("message.", "document.querySelector('#message')."))
    assert (page.count(".message"), page.get("#message", "value")) == (0, "ni hao")


def test_nothing_is_sent_twice_or_empty(page, server):
    server.play(forever())
    page.send("   ")
    assert page.count(".message") == 0
    page.send("Hi")
    page.browser.wait_for("document.querySelector('.running')")
    page.send("more")
    assert page.count(".question") == 1
    assert page.get("#message", "value").strip() == "more"
    page.browser.press(ESCAPE)
    page.wait_answer(1)
