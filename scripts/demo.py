"""A short conversation with the shipped checkpoint, in the terminal: `scripts/demo.sh`.

Draws a picture and a video from a seed, asks about them, lets a tool be called, and streams every
answer. A server that answers at --url is used; otherwise one is started there and stopped at the
end. Colours only in a terminal; `--record FILE` also writes what was said as plain text.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.media.sampling import VideoLength
from scripts.train_tiny.asking import data_uri
from scripts.train_tiny.drawing import paint_scene, paint_text
from scripts.train_tiny.film import Film, film_background, moving, still
from scripts.train_tiny.lexicon import DIRECTIONS
from scripts.train_tiny.processing import CHECKPOINT
from scripts.train_tiny.sample import Clip, Picture
from scripts.train_tiny.scene import draw_items
from scripts.train_tiny.wordlist import word

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 120.0
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
_RESET, _BOLD, _DIM, _BLUE, _GREEN = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[34m", "\x1b[32m"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_INDENT = " " * 9


class Screen:
    """Standard output, and the record; styles reach a terminal only."""

    def __init__(self, output: TextIO, record: TextIO | None = None) -> None:
        self._output, self._record = output, record
        self.has_colours = output.isatty() and not os.environ.get("NO_COLOR")

    def write(self, text: str, style: str = "") -> None:
        if style:
            text = f"{style}{text}{_RESET}"
        self._output.write(text if self.has_colours else _ESCAPE.sub("", text))
        self._output.flush()
        if self._record is not None:
            self._record.write(_ESCAPE.sub("", text))

    def line(self, text: str = "", style: str = "") -> None:
        self.write(text, style)
        self.write("\n")

    def title(self, text: str) -> None:
        self.line(f"\n{text}", _BOLD)

    def said(self, who: str, text: str, style: str = "") -> None:
        self.write(f"  {who:<7}", style)
        self.line(text)

    def preview(self, pixels: np.ndarray) -> None:
        """The picture in half blocks, two pixels to a character; nothing without colours."""
        if not self.has_colours:
            return
        columns = 32
        rows = max(2, round(columns * pixels.shape[0] / pixels.shape[1] / 2) * 2)
        small = pixels[
            np.linspace(0, pixels.shape[0] - 1, rows).astype(int)[:, None],
            np.linspace(0, pixels.shape[1] - 1, columns).astype(int),
        ]
        for top, bottom in zip(small[::2], small[1::2], strict=True):
            cells = (
                f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
                for a, b in zip(top.tolist(), bottom.tolist(), strict=True)
            )
            self._output.write(f"{_INDENT}{''.join(cells)}{_RESET}\n")


@dataclass
class Answer:
    """What a stream brought; times in seconds."""

    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    first_s: float = 0.0
    total_s: float = 0.0
    num_tokens: int = 0


class Conversation:
    """Questions to one server, every answer shown as it comes."""

    def __init__(self, url: str, model: str, screen: Screen) -> None:
        self._endpoint, self._model, self._screen = f"{url}/v1/chat/completions", model, screen

    def ask(
        self, question: str, *media: Picture | Clip, thinking: bool = False, **more: Any
    ) -> Answer:
        parts: list[dict[str, Any]] = []
        for item in media:
            kind = "image_url" if isinstance(item, Picture) else "video_url"
            parts.append({"type": kind, kind: {"url": data_uri(item)}})
        content = [*parts, {"type": "text", "text": question}] if parts else question
        self._screen.said("you", question, _BLUE)
        return self.send([{"role": "user", "content": content}], thinking, **more)

    def send(self, messages: list[dict[str, Any]], thinking: bool = False, **more: Any) -> Answer:
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "metadata": {"enable_thinking": thinking},
            **more,
        }
        answer, speaker = Answer(), Speaker(self._screen)
        began = time.monotonic()
        for chunk in _events(self._endpoint, body):
            answer.num_tokens = (chunk.get("usage") or {}).get("completion_tokens", 0)
            for choice in chunk["choices"]:
                delta = choice["delta"]
                reasoning, content = delta.get("reasoning_content"), delta.get("content")
                calls = delta.get("tool_calls") or []
                if (reasoning or content or calls) and not answer.first_s:
                    answer.first_s = time.monotonic() - began
                speaker.say("thinks", reasoning or "", _DIM)
                speaker.say("ernie", content or "", "")
                answer.content += content or ""
                _join_calls(answer.calls, calls)
        answer.total_s = time.monotonic() - began
        speaker.stop()
        for call in answer.calls:
            function = call["function"]
            self._screen.said("calls", f"{function['name']}({function['arguments']})", _GREEN)
        self._screen.line(
            f"{_INDENT}first token after {answer.first_s * 1000:.0f} ms, "
            f"{answer.num_tokens} tokens in {answer.total_s:.2f} s",
            _DIM,
        )
        return answer


class Speaker:
    """One answer on the screen: thinking, then words; blank lines around both are left out."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._who, self._held = screen, "", ""

    def say(self, who: str, text: str, style: str) -> None:
        if who != self._who:
            text = text.lstrip()
            if not text:
                return
            self.stop()
            self._screen.write(f"  {who:<7}", style or _GREEN)
            self._who = who
        text = self._held + text
        shown = text.rstrip("\n")
        self._held = text[len(shown) :]
        if shown:
            self._screen.write(shown.replace("\n", f"\n{_INDENT}"), style)

    def stop(self) -> None:
        if self._who:
            self._screen.line()
        self._who, self._held = "", ""


def _join_calls(calls: list[dict[str, Any]], deltas: list[dict[str, Any]]) -> None:
    for delta in deltas:
        if delta["index"] == len(calls):
            empty = {"name": "", "arguments": ""}
            calls.append({"id": delta["id"], "type": "function", "function": empty})
        function = calls[delta["index"]]["function"]
        for key in function:
            function[key] += delta["function"].get(key) or ""


def _events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    request = urllib.request.Request(  # noqa: S310 - the user names the server
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as reply:  # noqa: S310
        for line in reply:
            data = line.decode().removeprefix("data: ").strip()
            if data and data != "[DONE]":
                yield json.loads(data)


def converse(talk: Conversation, screen: Screen, seed: int) -> None:
    random = np.random.default_rng(seed)
    screen.title("A picture")
    scene = draw_items(random, 3, False)
    picture = paint_scene(random, scene, (224, 168))
    screen.said("drawn", scene.describe("en"), _DIM)
    screen.preview(picture.pixels)
    talk.ask("What do you see?", picture)
    talk.ask("图中有几个物体？", picture, thinking=True)

    screen.title("A printed word")
    printed_word = word(random, False)
    printed = paint_text(random, printed_word, (196, 112))
    screen.said("drawn", printed_word, _DIM)
    screen.preview(printed.pixels)
    talk.ask("Read the word.", printed)

    screen.title("A video")
    mover, bystander = draw_items(random, 2, False).items
    direction = int(random.integers(len(DIRECTIONS)))
    clip, story = _film(random, mover, bystander, direction)
    screen.said("drawn", story, _DIM)
    screen.preview(clip.frames[0])
    screen.preview(clip.frames[-1])
    label = mover.label("en")
    talk.ask(f"In which direction does the {label} move?", clip, thinking=True)
    talk.ask(f"Where is the {label} at the end?", clip)

    screen.title("Another video")
    first, second = draw_items(random, 2, False).items
    screen.said("drawn", f"{first.label('en')}, then {second.label('en')} after 1.7 s", _DIM)
    tracks = (still(random, first), still(random, second, appears_s=1.7))
    used = {first.colour, second.colour}
    clip = Film(film_background(random, used), tracks, VideoLength(40, 10.0)).clip(random)
    screen.preview(clip.frames[-1])
    talk.ask(f"At what time does the {second.label('en')} appear?", clip, thinking=True)

    screen.title("A tool")
    question = "What is the weather in Beijing?"
    asked = talk.ask(question, thinking=True, tools=[WEATHER])
    if asked.calls:
        result = json.dumps({"location": "Beijing", "temperature": 21, "weather": "sunny"})
        screen.said("tool", result, _BLUE)
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": asked.calls},
            {"role": "tool", "tool_call_id": asked.calls[0]["id"], "content": result},
        ]
        talk.send(messages, tools=[WEATHER])

    screen.title("Words alone")
    talk.ask("Rewrite Li Bai's 'Quiet Night Thoughts' as a modern poem")
    talk.ask("你好，请介绍一下你自己", thinking=True)


def _film(
    random: np.random.Generator, mover: Any, bystander: Any, direction: int
) -> tuple[Clip, str]:
    """Four seconds in which `mover` crosses the frame; `bystander` stays out of its way."""
    track, _ = moving(random, mover, direction)
    crosses_row = direction < 2
    own, other = (divmod(item.place, 3)[0 if crosses_row else 1] for item in (mover, bystander))
    tracks = (track,) if own == other else (track, still(random, bystander))
    used = {item.item.colour for item in tracks}
    film = Film(film_background(random, used), tracks, VideoLength(40, 10.0))
    stays = "" if own == other else f", {bystander.label('en')} stays {bystander.at('en')}"
    return film.clip(random), (
        f"{mover.label('en')} moves {DIRECTIONS[direction].en} for 4 s{stays}"
    )


@contextlib.contextmanager
def server(url: str, screen: Screen) -> Iterator[str]:
    """The model's name at `url`; a server is started when none answers, and ended after."""
    model = _model(url)
    if model:
        yield model
        return
    address = urllib.parse.urlsplit(url)
    screen.line(f"No server at {url}: starting one ...", _DIM)
    flags = ["--host", address.hostname or "127.0.0.1", "--port", str(address.port or 80)]
    command = [sys.executable, "-m", "openai_frontend.api_server", "--model", str(CHECKPOINT)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # Ctrl-C is ours; the server is then ended in order
        )
        try:
            yield _wait(url, process, log)
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: TextIO) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (model := _model(url)):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            sys.exit(f"the server did not start:\n{log.read()[-3000:]}")
        time.sleep(0.2)
    return model


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)


def _model(url: str) -> str:
    """The served model's name, or "" when nobody answers yet."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as reply:  # noqa: S310
            name: str = json.load(reply)["data"][0]["id"]
            return name
    except (OSError, ValueError, LookupError):
        return ""


def main() -> None:
    options = _options()
    with contextlib.ExitStack() as stack:
        record = None
        if options.record:
            record = stack.enter_context(options.record.open("w", encoding="utf-8"))
        began = time.monotonic()
        screen = Screen(sys.stdout)
        url = options.url.rstrip("/")
        model = stack.enter_context(server(url, screen))
        ready_s = time.monotonic() - began
        screen = Screen(sys.stdout, record)
        screen.line(
            f"{Path(model).name} at {url}, ready after {ready_s:.1f} s; seed {options.seed}\n"
            "One conversation is not a measure: the checkpoint's card says how often it is right.",
            _DIM,
        )
        converse(Conversation(url, model, screen), screen, options.seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8180", help="the server to talk to")
    parser.add_argument("--seed", type=int, default=0, help="of the picture and the video")
    parser.add_argument("--record", type=Path, help="write the conversation to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
