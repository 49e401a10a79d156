"""The playground as a page: policy, words, colours, names of controls, small screens."""

from __future__ import annotations

import json

import pytest

from backend.errors import OverloadedError
from backend.request import FinishReason
from tests.openai.playground.browser import ESCAPE
from tests.openai.playground.playground_page import USAGE, picture
from tests.unit.frontend.fake_triton import call, finish, text


def test_the_page_loads_without_errors_and_without_outside_requests(page, server):
    hosts = page.browser.requested_hosts()
    assert server.url in hosts
    assert hosts <= {server.url, "data://"}
    assert page.text("#model") == "ernie-4.5-vl-tiny"
    assert "4,096 tokens" in page.text("#server-note")
    assert page.browser.console_errors() == []
    assert page.has_focus("#message")


def test_the_policy_stops_injected_scripts_styles_and_outside_requests(page):
    script = """
        const stopped = [];
        document.addEventListener("securitypolicyviolation",
          (event) => stopped.push(event.effectiveDirective));
        const add = (tag, values) =>
          document.body.append(Object.assign(document.createElement(tag), values));
        add("script", { textContent: "window.injected = true" });
        add("style", { textContent: "body { display: none }" });
        add("img", { src: "http://198.51.100.7/a.png" });
        add("iframe", { src: "about:blank#blocked" });
        await fetch("http://198.51.100.7/").catch(() => {});
        await new Promise((done) => setTimeout(done, 100));
        return [window.injected ?? null, stopped];
    """
    injected, stopped = page.browser.run(script)
    assert injected is None
    assert {"script-src-elem", "style-src-elem", "img-src", "connect-src"} <= set(stopped)
    assert page.browser.console_errors()  # the violations: these are wanted, as are ...
    assert page.browser.requested_hosts()  # ... the requests that did not come far
    assert page.is_visible("#composer")


def test_every_control_has_an_accessible_name(page, server):
    server.play([text("x", reasoning="y"), call(0, "{}", "call-1", "f"), finish()])
    page.drop("a.png", "image/png", picture())
    page.send("Hi")
    page.wait_answer(1)
    nodes = page.browser.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "combobox", "switch", "spinbutton", "image", "region", "list")
    seen = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles[:-1] and not node["ignored"]:
            seen.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert set(seen) == set(roles[:-1])
    assert [role for role, names in seen.items() if "" in names] == []


CONTRAST = """
const rgb = (color) => {
  const numbers = color.match(/[\\d.]+/g).map(Number);
  return color.startsWith("color(") ? numbers.map((n, i) => (i < 3 ? n * 255 : n)) : numbers;
};
const light = (color) => color.slice(0, 3).reduce((sum, value, i) => {
  const part = value / 255;
  const linear = part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  return sum + linear * [0.2126, 0.7152, 0.0722][i];
}, 0);
const backdrop = (node) => {
  for (; node; node = node.parentElement) {
    const color = rgb(getComputedStyle(node).backgroundColor);
    if ((color[3] ?? 1) === 1) return color;
  }
  return [255, 255, 255];
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim()) continue;
  if (!node.checkVisibility({ visibilityProperty: true })) continue;
  if (node.closest("noscript, option, .unseen")) continue;
  const [a, b] = [light(rgb(getComputedStyle(node).color)), light(backdrop(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push([walker.currentNode.textContent.trim(), ratio]);
}
return poor;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(page, server, theme):
    page.browser.prefer(theme)
    body = "# Title\n\nText with `code`, **bold**.\n\n```py\nx = 1\n```\n\n- item"
    server.play(
        [text(reasoning="hm"), text(body), call(0, "{}", "call-1", "f"), finish(usage=USAGE)],
        [OverloadedError("busy", retry_after_s=2)],
    )
    page.ask("Hi")
    page.browser.run("document.querySelector('details').open = true")
    page.ask("Again")
    assert page.browser.run(CONTRAST) == []


def test_the_theme_follows_the_system_until_the_user_chooses(page, server):
    def background():
        return page.browser.run("return getComputedStyle(document.body).backgroundColor")

    light = background()
    page.browser.prefer("dark")
    dark = background()
    assert dark != light
    page.click("#theme")
    assert background() == light
    page.open(server.url)
    assert background() == light, "the choice outlives the page"
    page.click("#theme")
    assert background() == dark
    page.browser.prefer("light")
    assert background() == light, "choosing what the system has means following it again"


def test_the_language_is_the_browsers_until_the_user_chooses(page, server):
    assert page.get("#message", "placeholder") == "Message ERNIE"
    server.play([text("Hello"), finish()])
    page.ask("Hi")
    page.browser.speak("zh-CN")
    page.open(server.url)
    assert page.get("#message", "placeholder") == "给文心发消息"
    assert page.get("html", "lang") == "zh-CN"
    page.ask("你好")
    assert "重新生成" in page.text(".answer footer")
    page.click("#language")
    assert "Regenerate" in page.text(".answer footer"), "what is shown already changes, too"
    page.open(server.url)
    assert page.text("#welcome h2") == "Ask ERNIE something"


def test_on_a_phone_nothing_is_cut_off_and_settings_cover_the_chat(page, server, tmp_path):
    page.browser.view(360, 740, touch=True)
    page.open(server.url)
    wide = f"{'w' * 400}\n\n```\n{'x = ' * 200}\n```\n\nhttps://x.y/{'z' * 300}"
    arguments = json.dumps({"a": "v" * 300})
    calls = [call(0, arguments, "call-1", "f" * 80), finish(reason=FinishReason.TOOL_CALLS)]
    server.play([text(reasoning="r" * 300), text(wide), *calls])
    page.drop("a-long-name-" + "n" * 80 + ".png", "image/png", picture())
    assert page.overflow() == []
    page.ask("u" * 300)
    page.browser.run("document.querySelector('details').open = true")
    assert page.overflow() == []
    assert not page.is_visible("#settings")
    page.click("#open-settings")
    assert page.is_visible("#settings")
    assert page.overflow() == []
    assert page.get("#chat", "inert") is True
    page.browser.press(ESCAPE)
    assert not page.is_visible("#settings")
    assert page.get("#chat", "inert") is False
    assert len(page.screenshot(tmp_path / "phone.png")) > 5000
