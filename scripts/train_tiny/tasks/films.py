"""Counting, following and timing objects in a film whose frames carry their time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backend.media.sampling import VideoLength, select_frames
from backend.media.timestamp import timestamp_text

from ..film import Film, Track, film_background, film_length, light_background, moving, still
from ..lexicon import DIRECTIONS, NUMBER_WORDS, SHAPES, Term, at_place
from ..processing import OPTIONS
from ..sample import Clip, Sample, user
from ..scene import Item, Random, draw_items, with_article
from .pictures import pick

Story = tuple[tuple[Track, ...], str, str, str]  # tracks, question, reasoning, answer


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A question about one film of one to four objects."""
    length = film_length(random)
    shares = _MEASURED if held_out else _SHARES
    kind = int(random.choice(len(_KINDS), p=shares))
    return _make(random, language, held_out, length, *_KINDS[kind])


def make_time(random: Random, language: str, held_out: bool) -> Sample:
    """When something appears or disappears: the hardest question, to be practised more."""
    return _make(random, language, held_out, film_length(random), "time", _time)


def stamps(random: Random, language: str, held_out: bool) -> Sample:
    """Practice: read all stamps of a film in which nothing happens.

    Mostly the times have nothing to do with one another, so that each must be read.
    """
    length = film_length(random)
    background = (
        light_background(random) if random.random() < 0.4 else film_background(random, set())
    )
    clip = Film(background, (), length).clip(random)
    if random.random() < 0.75:
        hundredths = random.integers(0, 10_000, len(clip.frames))
        minutes = random.integers(0, 3, len(clip.frames)) * (random.random() < 0.2)
        times = tuple(float(t) for t in np.round(hundredths / 100 % 60 + 60 * minutes, 2))
        clip = Clip(clip.frames, times, clip.source)
    read = [timestamp_text(seconds).removeprefix("time: ") for seconds in clip.times_s]
    if random.random() < 0.3:
        return _stamp_of_one(random, language, clip, read)
    if language == "zh":
        question = pick(random, ("每一帧的时间是多少？", "请读出所有帧的时间。"))
        reasoning = "我读出每一帧的时间。"
        answer = "".join(f"第{number}帧：{stamp}。" for number, stamp in enumerate(read, 1))
    else:
        question = pick(
            random, ("What are the times of all frames?", "Read the time of each frame.")
        )
        reasoning = "I read the time of each frame."
        answer = " ".join(f"Frame {number}: {stamp}." for number, stamp in enumerate(read, 1))
    return Sample("film_stamps", language, (user(question, clip),), reasoning, answer, (clip,))


def _stamp_of_one(random: Random, language: str, clip: Clip, read: list[str]) -> Sample:
    """The stamp of a frame that is named by its number, or as the first or the last."""
    index = int(random.integers(len(read)))
    if random.random() < 0.35:
        last = random.random() < 0.75
        question, answer = _ask_end(random, language, last, read[-1 if last else 0])
    elif language == "zh":
        question, answer = (
            f"第{index + 1}帧的时间是多少？",
            f"第{index + 1}帧的时间是{read[index]}。",
        )
    else:
        asks = (
            f"What is the time of frame {index + 1}?",
            f"Which time does frame {index + 1} show?",
        )
        question, answer = pick(random, asks), f"The time of frame {index + 1} is {read[index]}."
    return Sample("film_stamp", language, (user(question, clip),), answer, answer, (clip,))


def _make(
    random: Random,
    language: str,
    held_out: bool,
    length: VideoLength,
    name: str,
    tell: Callable[[Random, str, bool, VideoLength], Story],
) -> Sample:
    tracks, question, reasoning, answer = tell(random, language, held_out, length)
    film = Film(film_background(random, {t.item.colour for t in tracks}), tracks, length)
    clip = film.clip(random)
    return Sample(
        f"film_{name}", language, (user(question, clip),), reasoning + answer, answer, (clip,)
    )


def _count(random: Random, language: str, held_out: bool, length: VideoLength) -> Story:
    total = 1 + int(random.integers(4))
    items = draw_items(random, total, held_out, "label").items
    tracks = tuple(still(random, item, _late(random, length)) for item in items)
    seen = _list(language, items)
    if random.random() < 0.6:
        noun, number = Term("object", "物体", "objects"), total
    else:
        shape = items[int(random.integers(total))].shape
        noun, number = SHAPES[shape], sum(item.shape == shape for item in items)
    word = NUMBER_WORDS[language][number]
    if language == "zh":
        question = pick(
            random,
            (
                f"视频中有几个{noun.zh}？",
                f"视频里一共出现了几个{noun.zh}？",
                f"画面中有几个{noun.zh}？",
            ),
        )
        return tracks, question, f"视频中出现了{seen}。", f"视频中有{word}{noun.zh}。"
    question = pick(
        random,
        (
            f"How many {noun.plural} are in the video?",
            f"How many {noun.plural} appear in the video?",
            f"Count the {noun.plural} in the video.",
        ),
    )
    named = noun.en if number == 1 else noun.plural
    verb = "is" if number == 1 else "are"
    answer = f"There {verb} {word} {named} in the video."
    return tracks, question, f"The video shows {seen}. ", answer


def _late(random: Random, length: VideoLength) -> float:
    """Half of the objects are there from the start, the others come in the first two thirds."""
    return 0.0 if random.random() < 0.5 else random.uniform(0, 0.66) * length.duration_s


def _list(language: str, items: tuple[Item, ...]) -> str:
    labels = [item.label(language) for item in items]
    return "、".join(labels) if language == "zh" else ", ".join(map(with_article, labels))


def _follow(random: Random, language: str, held_out: bool, length: VideoLength) -> Story:
    items = draw_items(random, 1 + int(random.integers(2)), held_out, "label").items
    index = int(random.integers(len(items)))
    direction = int(random.integers(len(DIRECTIONS)))
    item = items[index]
    track, end_place = moving(random, item, direction)
    others = tuple(
        still(random, other)
        for place, other in enumerate(items)
        if place != index and not _on_path(other.place, item.place, direction)
    )
    label, way = item.label(language), DIRECTIONS[direction].name(language)
    where = at_place(end_place, language)
    asks_way = random.random() < 0.6
    if language == "zh":
        ways = (f"{label}向哪个方向移动？", f"{label}往哪边移动？", f"视频中的{label}怎样移动？")
        ends = (f"{label}最后在哪里？", f"视频结束时{label}在什么位置？")
        move, end = f"{label}{way}移动。", f"{label}最后{where}。"
    else:
        ways = (
            f"In which direction does the {label} move?",
            f"Which way does the {label} move?",
            f"How does the {label} move?",
        )
        ends = (f"Where is the {label} at the end?", f"Where does the {label} end up?")
        move, end = f"The {label} moves {way}.", f"The {label} is {where} at the end."
    question = pick(random, ways if asks_way else ends)
    space = "" if language == "zh" else " "
    reasoning = "" if asks_way else move + space
    start = _start_clause(language, label, item, direction)
    return (track, *others), question, start + space + reasoning, move if asks_way else end


def _start_clause(language: str, label: str, item: Item, direction: int) -> str:
    row, column = divmod(item.place, 3)
    first = (row * 3 + (0, 2)[direction]) if direction < 2 else (0, 2)[direction - 2] * 3 + column
    where = at_place(first, language)
    return f"{label}开始时{where}。" if language == "zh" else f"The {label} starts {where}."


def _on_path(place: int, path: int, direction: int) -> bool:
    (row, column), (path_row, path_column) = divmod(place, 3), divmod(path, 3)
    return row == path_row if direction < 2 else column == path_column


def _time(random: Random, language: str, held_out: bool, length: VideoLength) -> Story:
    """The frame comes before its time in the answer: first what to look for, then what to read."""
    items = draw_items(random, 1 + int(random.integers(3)), held_out, "label").items
    index = int(random.integers(len(items)))
    picked = select_frames(length, OPTIONS.sampling)
    moment = 1 + int(random.integers(len(picked) - 1))
    vanishes = random.random() < 0.25
    before, at = picked[moment - 1], picked[moment]
    # Between two picked frames; the margin keeps it clear of either frame's own time.
    switch = (before + (at - before) * random.uniform(0.1, 0.9)) / length.fps
    tracks = []
    for place, item in enumerate(items):
        if place == index:
            tracks.append(
                still(random, item, vanishes_s=switch) if vanishes else still(random, item, switch)
            )
        else:
            tracks.append(still(random, item, _late(random, length)))
    label = items[index].label(language)
    stamp = _clock(length, at)
    seen = [vanishes] * moment + [not vanishes]
    if language == "zh":
        verb = "消失" if vanishes else "出现"
        question = pick(
            random,
            (
                f"{label}在什么时间{verb}？",
                f"{label}是什么时候{verb}的？",
                f"{label}何时{verb}？",
            ),
        )
        frames = "，".join(
            f"第{n}帧{'有' if is_seen else '无'}" for n, is_seen in enumerate(seen, 1)
        )
        answer = f"{label}在第{moment + 1}帧{verb}，时间是{stamp}。"
        return tuple(tracks), question, f"我看{label}：{frames}。", answer
    verb = "disappear" if vanishes else "appear"
    question = pick(
        random,
        (
            f"At what time does the {label} {verb}?",
            f"When does the {label} {verb}?",
            f"At which time does the {label} {verb} in the video?",
        ),
    )
    frames = ", ".join(
        f"frame {n} {'yes' if is_seen else 'no'}" for n, is_seen in enumerate(seen, 1)
    )
    answer = f"The {label} {verb}s in frame {moment + 1}, at {stamp}."
    return tuple(tracks), question, f"I look for the {label}: {frames}. ", answer


def _clock(length: VideoLength, index: int) -> str:
    """What is stamped on source frame `index`, without the word before it."""
    return timestamp_text(index / length.fps).removeprefix("time: ")


def _ends(random: Random, language: str, held_out: bool, length: VideoLength) -> Story:
    """Reading the stamp of the first or the last frame."""
    items = draw_items(random, 1 + int(random.integers(2)), held_out, "label").items
    picked = select_frames(length, OPTIONS.sampling)
    last = random.random() < 0.85
    stamp = _clock(length, picked[-1] if last else picked[0])
    tracks = tuple(still(random, item) for item in items)
    question, answer = _ask_end(random, language, last, stamp)
    which = ("最后" if last else "第") if language == "zh" else ("last" if last else "first")
    if language == "zh":
        return tracks, question, f"我读出{which}一帧上的时间。", answer
    return tracks, question, f"I read the time on the {which} frame. ", answer


def _ask_end(random: Random, language: str, last: bool, stamp: str) -> tuple[str, str]:
    """Question and answer about the stamp of the last or the first frame."""
    if language == "zh":
        which = "最后" if last else "第"
        return f"{which}一帧的时间是多少？", f"{which}一帧的时间是{stamp}。"
    which = "last" if last else "first"
    question = pick(
        random,
        (f"What is the time of the {which} frame?", f"Which time does the {which} frame show?"),
    )
    return question, f"The time of the {which} frame is {stamp}."


_KINDS: tuple[tuple[str, Callable[[Random, str, bool, VideoLength], Story]], ...] = (
    ("count", _count),
    ("follow", _follow),
    ("time", _time),
    ("ends", _ends),
)
_SHARES = (0.18, 0.22, 0.42, 0.18)
# Reading the first or last stamp is practice for timing; it is not what is measured.
_MEASURED = (0.3, 0.35, 0.35, 0.0)
