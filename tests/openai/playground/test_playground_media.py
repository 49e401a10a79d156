"""Pictures and videos: handed to the page, shown, sent, and seen by the real service."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.openai.playground.playground_page import picture
from tests.openai.playground.scripted_server import ScriptedServer
from tests.openai.service_process import ROOT, ServiceProcess
from tests.unit.frontend.fake_triton import finish, text

BUNDLED = ROOT / "checkpoints" / "ernie-4.5-vl-tiny"
IS_TRAINED = any(BUNDLED.glob("model*.safetensors"))


@pytest.mark.parametrize("how", ["drop", "paste", "pick"])
def test_a_picture_is_shown_and_sent(page, server, how):
    server.play([text("A disc."), finish()])
    data = picture()
    page.hand_over(how, "disc.png", "image/png", data)
    page.browser.wait_for("document.querySelector('#attachments img')?.naturalWidth === 196")
    assert "disc.png" in page.text("#attachments li")
    size = f"{len(data) / 1024:.1f}".removesuffix(".0")
    assert f"{size} KB" in page.text("#attachments li")
    assert "of 32 MB in media" in page.text("#media-hint")
    assert page.ask("What is it?") == "A disc."
    assert page.count("#attachments li") == 0
    assert page.get(".question img", "naturalWidth") == 196
    assert server.triton.sent[-1].media == [data]
    content = server.last_request().messages[-1].content
    assert [part.type for part in content] == ["image_url", "text"]


def test_pictures_keep_their_order_and_can_be_removed(page, server):
    server.play([text("ok"), finish()])
    pictures = {name: picture(name) for name in ("red", "green", "blue")}
    for name, data in pictures.items():
        page.drop(f"{name}.png", "image/png", data)
    page.click("#attachments li:nth-child(2) .remove")
    assert page.count("#attachments li") == 2
    page.ask("Compare them.")
    assert server.triton.sent[-1].media == [pictures["red"], pictures["blue"]]
    page.ask("And now?")
    assert len(server.triton.sent[-1].media) == 2, "the chat goes along with every request"


def test_a_video_is_shown_and_sent(page, server, media_folder):
    server.play([text("Bars."), finish()])
    data = (media_folder / "video.mp4").read_bytes()
    page.drop("video.mp4", "video/mp4", data)
    assert page.count("#attachments video") == 1
    page.ask("What moves?")
    assert server.triton.sent[-1].media == [data]
    assert server.last_request().messages[-1].content[0].type == "video_url"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "text/plain"), ("a.svg", "image/svg+xml"), ("a.html", "text/html"), ("a", "")],
)
def test_what_is_no_picture_is_refused(page, name, kind):
    page.hand_over("drop", name, kind, b"<svg onload='x'/>")
    page.browser.wait_for("!document.querySelector('#composer-error').hidden")
    assert (
        page.text("#composer-error") == f"{name} is neither an image nor a video that can be read."
    )
    assert page.count("#attachments li") == 0


def test_a_picture_too_large_for_a_request_is_refused_with_the_limit(browser, open_page):
    with ScriptedServer(max_body_bytes=100_000) as small:
        page = open_page(small.url)
        page.hand_over("drop", "big.png", "image/png", bytes(70_000))
        browser.wait_for("!document.querySelector('#composer-error').hidden")
        shown = page.text("#composer-error")
        assert shown.startswith("big.png (68 KB) does not fit")
        assert "85 KB" in shown
        page.drop("small.png", "image/png", bytes(40_000))
        page.hand_over("drop", "second.png", "image/png", bytes(40_000))
        browser.wait_for("document.querySelector('#composer-error').innerText.includes('second')")


@pytest.fixture(scope="module")
def real(request) -> Iterator[ServiceProcess]:
    """The bundled trained checkpoint if it is there, else the small one with random weights."""
    if not IS_TRAINED:
        yield request.getfixturevalue("service")
        return
    with ServiceProcess("--model", str(BUNDLED), kv_cache_gib=0.05) as service:
        yield service.wait_ready()


@pytest.mark.triton
@pytest.mark.parametrize(("colour", "rgb"), [("red", (218, 38, 38)), ("blue", (38, 78, 218))])
def test_a_dropped_picture_is_seen_and_the_question_about_it_answered(
    open_page, real, tmp_path, colour, rgb
):
    page = open_page(real.url)
    page.set("temperature", "0")
    page.set("max_tokens", "256" if IS_TRAINED else "16")
    page.drop("disc.png", "image/png", picture(rgb))
    answer = page.ask("What colour is the circle?", timeout_s=60)
    assert page.text(".failure") == ""
    assert "image" in page.text(".stats")
    if IS_TRAINED:
        assert colour in answer.lower()
    else:
        assert re.search(r"Answer\s+[1-9]", page.text(".stats"))
    page.screenshot(tmp_path / "answer.png")
    with Image.open(tmp_path / "answer.png") as image:
        numbers = {value: number for number, value in image.convert("RGB").getcolors(2**24)}
    assert len(numbers) > 100, "the screenshot is blank"
    assert numbers.get(rgb, 0) > 500, "the picture is not to be seen"
