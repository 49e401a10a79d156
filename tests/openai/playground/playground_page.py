"""The playground as a user meets it: what can be done to the page and read off it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from backend.request import Usage
from tests.openai.playground.browser import ENTER, Browser

USAGE = Usage(
    prompt_tokens=812,
    completion_tokens=164,
    cached_tokens=256,
    image_tokens=300,
    reasoning_tokens=42,
)
_HAND_OVER = """
const [how, name, type, data] = arguments;
const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
const carrier = new DataTransfer();
carrier.items.add(new File([bytes], name, { type }));
if (how === "drop") {
  const init = { dataTransfer: carrier, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("dragover", init));
  document.body.dispatchEvent(new DragEvent("drop", init));
} else if (how === "paste") {
  const init = { clipboardData: carrier, bubbles: true, cancelable: true };
  document.querySelector("#message").dispatchEvent(new ClipboardEvent("paste", init));
} else {
  document.querySelector("#files").files = carrier.files;
  document.querySelector("#files").dispatchEvent(new Event("change"));
}
"""
_KEEP_COPIED = """
Object.defineProperty(navigator, "clipboard", { configurable: true, value: {
  writeText: async (text) => { window.copied = text; },
} });
"""


class PlaygroundPage:
    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def open(self, url: str) -> PlaygroundPage:
        self.browser.open(url)
        self.browser.wait_for("document.querySelector('#model option')")
        self.browser.run(_KEEP_COPIED)
        return self

    def send(self, text: str) -> None:
        self.browser.type("#message", text + ENTER)

    def ask(self, text: str, timeout_s: float = 10.0) -> str:
        """Send, and the answer's text once it is complete."""
        before = self.count(".answer")
        self.send(text)
        self.wait_answer(before + 1, timeout_s)
        return self.text(".answer:last-child .content")

    def wait_answer(self, number: int, timeout_s: float = 10.0) -> None:
        """Until there are so many answers, all complete."""
        self.browser.wait_for(
            f"document.querySelectorAll('.answer').length === {number}"
            " && !document.querySelector('.running')",
            timeout_s,
        )

    def hand_over(self, how: str, name: str, kind: str, data: bytes) -> None:
        """Give the page a file by `drop`, `paste` or `pick`."""
        self.browser.run(_HAND_OVER, how, name, kind, base64.b64encode(data).decode())

    def drop(self, name: str, kind: str, data: bytes) -> None:
        number = self.count("#attachments li")
        self.hand_over("drop", name, kind, data)
        self.browser.wait_for(
            f"document.querySelectorAll('#attachments li').length === {number + 1}"
        )

    def set(self, field: str, value: str) -> None:
        """Put a value into a field of the settings, as typing would."""
        script = """
            const field = document.getElementById(arguments[0]);
            field.value = arguments[1];
            field.dispatchEvent(new Event("input", { bubbles: true }));
            field.dispatchEvent(new Event("change", { bubbles: true }));
        """
        self.browser.run(script, field, value)

    def click(self, selector: str) -> None:
        self.browser.run("document.querySelector(arguments[0]).click()", selector)

    def click_text(self, text: str) -> None:
        """The last button that reads so."""
        script = """
            const all = [...document.querySelectorAll("button")];
            all.findLast((button) => button.innerText === arguments[0]).click();
        """
        self.browser.run(script, text)

    def copied(self, button: str) -> str:
        """What the button puts into the clipboard."""
        self.browser.run("window.copied = null")
        self.click_text(button)
        return self.browser.wait_for("window.copied")

    def text(self, selector: str) -> str:
        """What can be read in the first element found; empty when it is hidden or absent."""
        return self.browser.run(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        ).strip()

    def count(self, selector: str) -> int:
        return self.browser.run("return document.querySelectorAll(arguments[0]).length", selector)

    def get(self, selector: str, name: str) -> Any:
        """A property of the first element found."""
        return self.browser.run(
            "return document.querySelector(arguments[0])[arguments[1]]", selector, name
        )

    def is_visible(self, selector: str) -> bool:
        script = """
            const node = document.querySelector(arguments[0]);
            return node?.checkVisibility({ visibilityProperty: true }) ?? false;
        """
        return self.browser.run(script, selector)

    def has_focus(self, selector: str) -> bool:
        return self.browser.run(
            "return document.querySelector(arguments[0]) === document.activeElement", selector
        )

    def overflow(self) -> list[str]:
        """What reaches beyond the right edge of the window and can be scrolled to."""
        script = """
            const spills = (node) => node.scrollWidth > node.clientWidth + 1 && node.clientWidth
              && getComputedStyle(node).overflowX === "visible"
              && node.checkVisibility({ visibilityProperty: true });
            const found = [...document.querySelectorAll("body *")].filter(spills);
            const names = found.map((node) => node.id || node.className || node.localName);
            const pages = [document.documentElement, document.querySelector("#scroller")];
            if (pages.some((page) => page.scrollWidth > page.clientWidth)) names.push("page");
            return names;
        """
        return self.browser.run(script)

    def screenshot(self, file: Path) -> bytes:
        # Two frames: what was just changed is drawn by then.
        self.browser.run(
            "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return self.browser.screenshot(file)


def picture(colour: str | tuple[int, int, int] = "red") -> bytes:
    """A PNG: a disc a little left of the middle of a light square, 196 x 196 pixels."""
    image = Image.new("RGB", (196, 196), "#f4f4f4")
    ImageDraw.Draw(image).ellipse((40, 50, 140, 150), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
