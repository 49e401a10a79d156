"""Text is never markup; streams and Markdown are read the same however they are cut."""

from __future__ import annotations

import json

import pytest

from backend.errors import InternalError
from backend.request import FinishReason
from tests.openai.playground.browser import ENTER
from tests.openai.playground.playground_page import picture
from tests.unit.frontend.fake_triton import call, finish, text

ATTACKS = [
    '<img src=x onerror="window.attacked=1">',
    "<script>window.attacked=1</script>",
    "</script><script>window.attacked=1</script>",
    '<svg onload="window.attacked=1"><a href="javascript:window.attacked=1">x</a></svg>',
    "[click](javascript:window.attacked=1) ![x](http://198.51.100.7/a.png)",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    '<iframe srcdoc="<script>parent.attacked=1</script>"></iframe>',
    '<style>body{display:none}</style><base href="http://198.51.100.7/">',
    "**<b onmouseover=window.attacked=1>bold</b>**",
    "`<img src=x onerror=window.attacked=1>`",
    "```<script>\n<img src=x onerror=window.attacked=1>\n```",
    "# <img src=x onerror=window.attacked=1>",
    "- <img src=x onerror=window.attacked=1>\n  1. </li></ul><script>window.attacked=1</script>",
    "&lt;img src=x onerror=window.attacked=1&gt; \u202e\u0000 \ud83d",
]


def test_text_of_people_and_models_never_becomes_markup(page, server):
    attack = "\n\n".join(ATTACKS).encode("utf-8", "replace").decode()
    server.play(
        [
            text(reasoning=attack),
            text(attack),
            call(0, json.dumps({"a": attack}), "<img src=x onerror=window.attacked=1>", attack),
            finish(reason=FinishReason.TOOL_CALLS),
        ],
        [InternalError(attack)],
    )
    page.set("message", attack)
    page.browser.type("#message", ENTER)
    page.wait_answer(1)
    page.ask("And an error.")
    page.drop("<img src=x onerror=window.attacked=1>.png", "image/png", picture())
    page.browser.run("document.querySelector('details').open = true")
    page.browser.run(
        "for (const node of document.querySelectorAll('#messages *, #attachments *'))"
        " node.dispatchEvent(new MouseEvent('mouseover'))"
    )
    assert page.browser.run("return window.attacked ?? null") is None
    made = "#messages :is(a, img, script, iframe, style, base, b, svg:not(.tool-call svg))"
    assert page.count(made) == 0
    assert page.count("base, iframe, body > script") == 0
    for selector in (".bubble", ".reasoning", ".content", ".answer:last-child .failure"):
        shown = page.browser.run(
            "return document.querySelector(arguments[0]).textContent", selector
        )
        for piece in ("onerror=", "javascript:", "</script><script>", "<iframe", "198.51.100.7"):
            assert piece in shown, selector
    assert page.is_visible("#composer")


def test_events_are_found_wherever_the_stream_is_cut(page):
    script = """
        const { EventParser } = await import("/playground/sse.js");
        const stream = 'data: {"a":1}\\r\\n\\r\\n: ping\\n\\n'
          + 'data:x\\ndata: y\\nid: 7\\n\\ndata: [DONE]\\n\\n';
        const wanted = JSON.stringify(['{"a":1}', "x\\ny", "[DONE]"]);
        const wrong = [];
        for (let i = 0; i <= stream.length; i++) {
          for (let j = i; j <= stream.length; j++) {
            const parser = new EventParser();
            const cuts = [stream.slice(0, i), stream.slice(i, j), stream.slice(j)];
            const events = cuts.flatMap((cut) => parser.push(cut));
            if (JSON.stringify(events) !== wanted) wrong.push([i, j, events]);
          }
        }
        return wrong;
    """
    assert page.browser.run(script) == []


MARKDOWN = {
    "one\ntwo\n\nthree": "<p>one\ntwo</p><p>three</p>",
    "a `b**c**` **d `e` f** g": (
        "<p>a <code>b**c**</code> <strong>d <code>e</code> f</strong> g</p>"
    ),
    "2 * 3 * 4 and 2*3*4, *so*": "<p>2 * 3 * 4 and 2*3*4, <em>so</em></p>",
    "**open and `open": "<p>**open and `open</p>",
    "## Title ##\ntext": "<h4>Title</h4><p>text</p>",
    "- a\n- b\n  - c\n\n- d\n\nend": (
        '<div class="list"><ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul></div>'
        "<p>end</p>"
    ),
    "3. a\n4. b": '<div class="list"><ol start="3"><li>a</li><li>b</li></ol></div>',
    "one\n\n---\n\ntwo": "<p>one</p><hr><p>two</p>",
    "~~~\n# no title\n~~~": (
        '<div class="code-block"><div class="code-head"><span>text</span></div>'
        '<pre tabindex="0"><code># no title</code></pre></div>'
    ),
}
RENDER = """
const { renderMarkdown } = await import("/playground/markdown.js");
const whole = document.createElement("div");
const grown = document.createElement("div");
const [source] = arguments;
for (let end = 0; end <= source.length; end++) renderMarkdown(grown, source.slice(0, end));
renderMarkdown(whole, source);
return [whole.innerHTML, grown.innerHTML];
"""


@pytest.mark.parametrize("source", MARKDOWN)
def test_markdown_looks_the_same_grown_and_at_once(page, source):
    whole, grown = page.browser.run(RENDER, source)
    assert whole == MARKDOWN[source]
    assert grown == whole


def test_a_growing_answer_leaves_finished_blocks_untouched(page):
    script = """
        const { renderMarkdown } = await import("/playground/markdown.js");
        const box = document.createElement("div");
        renderMarkdown(box, "first\\n\\nsec");
        const [first] = box.children;
        renderMarkdown(box, "first\\n\\nsecond\\n\\nthird");
        return [box.children[0] === first, box.children.length];
    """
    assert page.browser.run(script) == [True, 3]


@pytest.mark.parametrize(
    "text_of", ["'`'.repeat(i)", "'**a '.repeat(i)", "'- '.repeat(i)", "'*a '.repeat(i)"]
)
def test_markdown_of_hostile_text_takes_no_long_time(page, text_of):
    script = f"""
        const {{ renderMarkdown }} = await import("/playground/markdown.js");
        const i = 20000;
        const start = performance.now();
        renderMarkdown(document.createElement("div"), {text_of});
        return performance.now() - start;
    """
    assert page.browser.run(script) < 2000
