"""Practice at calls: fresh names, several tools of which two look alike, digits as text.

What the measured samples of `tools` ask, made harder and with names from a far larger space. No
name is one that is kept for measuring, in any spelling.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ..naming import fresh_name, like, normal, parts_of
from ..sample import Sample
from ..scene import Random
from ..values import Value, any_value, phrase, word_part
from .domains import DOMAINS, RESERVED, Request
from .pictures import pick
from .tools import VERBS, Use, call_for, declared, names_of, worded

_RESERVED = {normal(name) for name in RESERVED}
_MOST_CHARACTERS = 1000  # of a tools list
# Of a whole exchange: 1.7 bytes are a token at the least, and the pool's longest sequence is 768.
_MOST_BYTES = 1250


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A call of one of up to four tools; never measured, so `held_out` makes no difference."""
    while True:
        sample = _sample(random, language)
        texts = (json.dumps(sample.tools, ensure_ascii=False), str(sample.messages))
        size = sum(len(text.encode()) for text in (*texts, sample.reasoning, sample.answer_text()))
        if size < _MOST_BYTES:
            return sample


def _sample(random: Random, language: str) -> Sample:
    request = _request(random, language)
    hidden = not request.description and request.name not in request.question
    tools = [declared(random, request)]
    topics = {request.topic}
    for _ in range(int(random.choice(4, p=(0.15, 0.35, 0.33, 0.17)))):
        other = _other(random, language, request)
        if hidden and not other.description:
            continue  # two tools without a description would leave open which is right
        tool = declared(random, other)
        fits = len(json.dumps([*tools, tool])) < _MOST_CHARACTERS
        if other.topic not in topics and other.name not in names_of(tools) and fits:
            tools.append(tool)
            topics.add(other.topic)
    random.shuffle(tools)
    return call_for(random, language, request, tools)


def _request(random: Random, language: str) -> Request:
    if random.random() < 0.45:
        return _everyday(random, language)
    name = _allowed(random, ())
    use = _use(random, language, named=random.random() < 0.3)
    return _invented(random, language, name, use)


def _everyday(random: Random, language: str) -> Request:
    """A known purpose under unknown names, one in four told by its parameters alone."""
    request = pick(random, DOMAINS).request(random, language, False, _allowed)
    request = _with_digits_as_text(random, request)
    return replace(request, description="") if random.random() < 0.25 else request


def _other(random: Random, language: str, request: Request) -> Request:
    """A tool beside the right one: like it in name or purpose, or any other."""
    kind = random.random()
    if kind < 0.35:
        name = like(random, request.name)
        if normal(name) not in _RESERVED:
            return _invented(random, language, name, _use(random, language, named=False))
    if kind < 0.6:
        return _similar(random, language, request)
    return _request(random, language)


def _similar(random: Random, language: str, request: Request) -> Request:
    """Does the same to another thing, or something else to the same thing; shares a parameter."""
    use = _use(random, language, named=False)
    for verb in VERBS:
        started = request.topic.startswith(verb[1] if language == "zh" else verb[0].capitalize())
        if started and random.random() < 0.5:
            use = replace(use, verb=verb)
        elif started and language == "zh":
            use = replace(use, thing=request.topic.removeprefix(verb[1]))
        elif started:
            use = replace(use, thing=request.topic.rpartition(" the ")[2])
    shared = list(request.properties) if random.random() < 0.3 else []
    return _invented(random, language, _allowed(random, ()), use, shared[:1])


def _use(random: Random, language: str, named: bool) -> Use:
    thing = word_part(random) if language == "en" else phrase(random, "zh")
    return Use(pick(random, VERBS), thing, named, not named or random.random() < 0.5)


def _invented(
    random: Random, language: str, name: str, use: Use, keys: list[str] | None = None
) -> Request:
    """`keys`: names of its first parameters."""
    count = int(random.choice(4, p=(0.12, 0.4, 0.36, 0.12)))
    parameters = {key: _value(random, language) for key in keys or ()}
    while len(parameters) < count:
        parameters.setdefault(_allowed(random, ()), _value(random, language))
    return worded(random, language, name, parameters, use)


def _value(random: Random, language: str) -> Value:
    """Of any kind; almost half are digits, half of them as text."""
    if random.random() < 0.55:
        return any_value(random, language)
    number = int(random.integers(0, 10 ** int(random.integers(1, 6))))
    if random.random() < 0.5:
        return Value(str(number), {"type": "string"}, str(number))
    return Value(number, {"type": pick(random, ("integer", "number"))}, str(number))


def _with_digits_as_text(random: Random, request: Request) -> Request:
    """One number in four is declared, and so written, as text."""
    properties, arguments = dict(request.properties), dict(request.arguments)
    for key, value in request.arguments.items():
        if type(value) is int and random.random() < 0.25:
            properties[key] = {**properties[key], "type": "string"}
            arguments[key] = str(value)
    return replace(request, properties=properties, arguments=arguments)


def _allowed(random: Random, listed: tuple[str, ...]) -> str:
    """A fresh name, made in part of the words of those that training lists for the same thing."""
    words: tuple[Any, ...] = ()
    if listed and random.random() < 0.5:
        words = tuple(part for name in listed for part in parts_of(name))
    while True:
        name = fresh_name(random, words)
        if normal(name) not in _RESERVED and len(name) <= 64:
            return name
