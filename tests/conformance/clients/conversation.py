"""What every client is asked, and what a right answer is: `questions.json`, played step by step.

A client's program is a table of steps that use the client as its own guide shows and hand back what
they got. A line is printed for each: `ok` or `FAILED`, the step, the answer. Needs no package.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

FOLDER = Path(__file__).resolve().parent
QUESTIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "questions.json").read_text("utf-8"))

CHAT = QUESTIONS["chat"]["ask"]
DESCRIBE = QUESTIONS["vision"]["ask"]
PICTURE = FOLDER / QUESTIONS["vision"]["picture"]
PICTURE_BASE64 = base64.b64encode(PICTURE.read_bytes()).decode()
PICTURE_URI = f"data:image/jpeg;base64,{PICTURE_BASE64}"
WEATHER = QUESTIONS["tools"]["ask"]
TOOL = QUESTIONS["tools"]["tool"]
TOOL_RESULT = QUESTIONS["tools"]["result"]
POEM = QUESTIONS["streaming"]["ask"]
SCHEMA = QUESTIONS["structured"]["schema"]
KEY = "none"  # clients insist on one


class ToolRound(NamedTuple):
    """The arguments that the model called the tool with, and what it made of the result."""

    arguments: Mapping[str, Any]
    answer: str


class Streamed(NamedTuple):
    """The pieces of text, in the order in which they came."""

    pieces: list[str]


Step = Callable[[], Any]


class WrongAnswer(Exception):
    """The server answered, and not what was asked for."""


def base_url() -> str:
    """The server's address, such as http://127.0.0.1:8180, from the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} BASE_URL")
    return sys.argv[1].rstrip("/")


def play(steps: Mapping[str, Step]) -> NoReturn:
    """Every step, also after one that failed. Ends the program with 1 if one did."""
    has_failed = False
    for name, step in steps.items():
        try:
            answer = step()
            check(name, answer)
        except Exception as error:  # whatever a client raises is a finding
            has_failed = True
            traceback.print_exc()
            print(f"FAILED {name}: {error!r}", flush=True)
        else:
            print(f"ok {name}: {answer!r}", flush=True)
    raise SystemExit(has_failed)


def check(name: str, answer: Any) -> None:
    """Raises WrongAnswer. Steps that are not in questions.json have checked their answer."""
    question = QUESTIONS.get(name)
    if question is None:
        return
    if name == "structured":
        check_object(answer, question["schema"])
        return
    text = answer
    if name == "tools":
        _expect(dict(answer.arguments) == question["arguments"], answer.arguments)
        text = answer.answer
    elif name == "streaming":
        _expect(len(answer.pieces) > 1 and all(answer.pieces), answer.pieces)
        text = "".join(answer.pieces)
    for word in question["expect"]:
        _expect(word.lower() in text.lower(), text)


def check_object(value: Any, schema: Mapping[str, Any]) -> None:
    """Raises WrongAnswer unless `value` has the required properties, all of them of their enum."""
    _expect(isinstance(value, dict) and sorted(value) == sorted(schema["required"]), value)
    for name, member in value.items():
        _expect(member in schema["properties"][name]["enum"], value)


def _expect(is_right: bool, answer: Any) -> None:
    if not is_right:
        raise WrongAnswer(repr(answer))
