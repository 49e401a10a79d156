"""Which sample comes next: tasks by share, language, thinking; training and held-out seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .sample import Sample
from .scene import Random
from .tasks import calling, chat, comparing, films, pictures, reading, tools, unknown

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
    # Practice: kinds of question that are hard, and many small ones at once. Never measured.
    "practice_pictures": pictures.practice,
    "practice_several": pictures.several,
    "practice_words": reading.make_word,
    "practice_comparing": comparing.practice,
    "practice_timing": films.make_time,
    "practice_stamps": films.stamps,
    "practice_calls": calling.make,
}
Shares = dict[str, float]
_TEXT: Shares = {
    "tools": 0.13,
    "chat": 0.015,
    "completion": 0.005,
    "zoom": 0.003,
    "unknown": 0.010,
}
SHARES: Shares = {
    "pictures": 0.12,
    "practice_pictures": 0.08,
    "practice_several": 0.08,
    "reading": 0.15,
    "practice_words": 0.08,
    "comparing": 0.07,
    "practice_comparing": 0.08,
    "films": 0.07,
    "practice_timing": 0.07,
    "practice_stamps": 0.07,
    **_TEXT,
}
# The first examples are mostly easy pictures: once colours are told from pictures, the rest follows.
_FIRST: Shares = {
    "first_look": 0.45,
    "first_digits": 0.2,
    "pictures": 0.1,
    "reading": 0.1,
    "practice_stamps": 0.05,
    "tools": 0.08,
    "chat": 0.02,
}
# What many right answers need is practised alone at first: to read stamps, to look up by shape.
_PRACTICE: Shares = {
    "pictures": 0.05,
    "practice_pictures": 0.08,
    "practice_several": 0.12,
    "reading": 0.13,
    "practice_words": 0.07,
    "comparing": 0.04,
    "practice_comparing": 0.10,
    "films": 0.05,
    "practice_timing": 0.08,
    "practice_stamps": 0.20,
    **_TEXT,
}
# Films ask the most of the model: to find a frame and to read it.
_FILMS: Shares = {
    **SHARES,
    "reading": 0.10,
    "practice_comparing": 0.06,
    "films": 0.09,
    "practice_timing": 0.11,
    "practice_stamps": 0.11,
}
# Calls with names from a far larger space, and of everything else enough not to forget it.
_CALLS: Shares = {
    "pictures": 0.075,
    "practice_pictures": 0.045,
    "practice_several": 0.02,
    "reading": 0.07,
    "practice_words": 0.04,
    "comparing": 0.035,
    "practice_comparing": 0.02,
    "films": 0.03,
    "practice_timing": 0.025,
    "practice_stamps": 0.01,
    "practice_calls": 0.38,
    **_TEXT,
    "tools": 0.2,
}
# The shares of the examples before each number; None: of all that follow.
Plan = tuple[tuple[int | None, Shares], ...]
PLANS: dict[str, Plan] = {
    "first": ((60_000, _FIRST), (250_000, _PRACTICE), (None, SHARES)),
    "further": ((250_000, _PRACTICE), (None, SHARES)),
    "films": ((250_000, _PRACTICE), (None, _FILMS)),
    "calls": ((None, _CALLS),),
}


def shares_at(plan: str, index: int) -> Shares:
    """What example `index` of a training stream is drawn from."""
    return next(shares for end, shares in PLANS[plan] if end is None or index < end)


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
    seed: int, index: int, shares: Shares = SHARES, thinking: float = 0.45
) -> Sample:
    """Sample `index` of the endless training stream of `seed`; always the same one."""
    random = random_of(seed, index, held_out=False)
    task = drawn_task(random, shares)
    return make_sample(task, random, held_out=False, thinking=bool(random.random() < thinking))


def drawn_task(random: Random, shares: Shares) -> str:
    """The first draw of a training sample."""
    weights = np.array(list(shares.values()))
    return list(shares)[int(random.choice(len(weights), p=weights / weights.sum()))]


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
