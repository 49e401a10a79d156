"""Which sample comes next: tasks by share, language, thinking; training and held-out seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .sample import Sample
from .scene import Random
from .tasks import chat, comparing, films, pictures, reading, tools, unknown

Maker = Callable[[Random, str, bool], Sample]

TASKS: dict[str, Maker] = {
    "pictures": pictures.make,
    "reading": reading.make,
    "comparing": comparing.make,
    "films": films.make,
    "tools": tools.make,
    "chat": chat.make,
    "completion": chat.completion,
    "zoom": chat.zoom,
    "unknown": unknown.make,
    "first_look": pictures.first_look,
    "first_digits": reading.first_look,
}
SHARES: dict[str, float] = {
    "pictures": 0.24,
    "reading": 0.27,
    "comparing": 0.10,
    "films": 0.19,
    "tools": 0.15,
    "chat": 0.025,
    "completion": 0.008,
    "zoom": 0.004,
    "unknown": 0.013,
}
# The first examples are mostly easy pictures: once colours are told from pictures, the rest follows.
FIRST_EXAMPLES = 60_000
FIRST_SHARES = {
    "first_look": 0.47,
    "first_digits": 0.2,
    "pictures": 0.1,
    "reading": 0.1,
    "films": 0.03,
    "tools": 0.08,
    "chat": 0.02,
}
_SYSTEM_TEXTS = {
    "en": (
        "You are a helpful assistant.",
        "You are ERNIE, a helpful assistant.",
        "You are a helpful AI assistant.",
        "Answer the question.",
        "You are a multimodal AI assistant called ERNIE developed by Baidu based on the PaddlePaddle framework.",
    ),
    "zh": ("你是一个有用的助手。", "你是文心，一个智能助手。", "请回答用户的问题。"),
}
_TRAINING, _HELD_OUT = 1, 2


def random_of(seed: int, index: int, held_out: bool) -> Random:
    """The generator of sample `index`: training and held-out samples share no seed."""
    space = _HELD_OUT if held_out else _TRAINING
    return np.random.default_rng(np.random.SeedSequence([space, seed, index]))


def training_sample(
    seed: int, index: int, shares: dict[str, float] | None = None, thinking: float = 0.45
) -> Sample:
    """Sample `index` of the endless training stream of `seed`; always the same one."""
    random = random_of(seed, index, held_out=False)
    if shares is None:
        shares = FIRST_SHARES if index < FIRST_EXAMPLES else SHARES
    weights = np.array(list(shares.values()))
    task = list(shares)[int(random.choice(len(weights), p=weights / weights.sum()))]
    return make_sample(task, random, held_out=False, thinking=bool(random.random() < thinking))


def held_out_sample(
    task: str, seed: int, index: int, language: str, thinking: bool, excluded: bool = False
) -> Sample:
    """Sample `index` of a task for measuring; the same picture with and without thinking.

    It comes from seeds that training never uses. `excluded`: it is also of a kind that training
    leaves out: reserved (colour, shape, place) triples, words, numbers and names.
    """
    random = random_of(seed, index, held_out=True)
    return make_sample(task, random, excluded, thinking, language)


def make_sample(
    task: str, random: Random, held_out: bool, thinking: bool, language: str | None = None
) -> Sample:
    language = language or ("en" if random.random() < 0.5 else "zh")
    sample = TASKS[task](random, language, held_out)
    if sample.task == "completion":
        return sample
    messages: tuple[dict[str, Any], ...] = sample.messages
    if random.random() < 0.12:
        texts = _SYSTEM_TEXTS[language]
        text = texts[int(random.integers(len(texts)))]
        messages = ({"role": "system", "content": text}, *messages)
    if sample.media and random.random() < 0.1:
        messages = (*messages[:-1], _politely(random, messages[-1], language))
    return dataclasses.replace(sample, messages=messages, thinking=thinking)


_POLITE = {
    "en": (
        "Look at this. {}",
        "Please tell me: {}",
        "{} Answer briefly.",
        "Hello! {}",
        "{} Please.",
    ),
    "zh": ("请看。{}", "请告诉我：{}", "{}请简单回答。", "你好！{}"),
}


def _politely(random: Random, message: dict[str, Any], language: str) -> dict[str, Any]:
    """The question with a few words around it, or at times before the media."""
    content = message["content"]
    if isinstance(content, str):
        return message
    *media, text = content
    if random.random() < 0.4:
        return {**message, "content": [text, *media]}
    forms = _POLITE[language]
    form = forms[int(random.integers(len(forms)))]
    return {**message, "content": [*media, {"type": "text", "text": form.format(text["text"])}]}
