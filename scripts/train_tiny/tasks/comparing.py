"""Questions about two pictures at once."""

from __future__ import annotations

from collections.abc import Callable

from ..drawing import paint_scene
from ..lexicon import COLOURS, SHAPES, Term
from ..sample import Sample, user
from ..scene import Item, Random, Scene, draw_items, with_article
from .pictures import count_dialogue, pick

Pair = tuple[Scene, Scene]
Dialogue = tuple[Pair, str, str]


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A question about Picture 1 and Picture 2, one to four objects each."""
    return _make(random, language, held_out, int(random.choice(len(_KINDS), p=_SHARES)))


def practice(random: Random, language: str, held_out: bool) -> Sample:
    """As `make`, with more of what is hard: equal numbers, and several questions at once."""
    kind = random.random()
    if kind < 0.25:
        return _compare(random, language, held_out, "more", _even)
    if kind < 0.6:
        return _compare(random, language, held_out, "whiches", _whiches)
    return _make(random, language, held_out, 1 + int(random.integers(3)))


def _make(random: Random, language: str, held_out: bool, kind: int) -> Sample:
    return _compare(random, language, held_out, *_KINDS[kind])


def _compare(
    random: Random,
    language: str,
    held_out: bool,
    name: str,
    dialogue: Callable[[Random, str, bool], Dialogue],
) -> Sample:
    scenes, question, answer = dialogue(random, language, held_out)
    pictures = tuple(paint_scene(random, scene) for scene in scenes)
    if language == "zh":
        seen = "".join(f"图{n}中{scene.describe('zh')}。" for n, scene in enumerate(scenes, 1))
    else:
        seen = "".join(
            f"Picture {n} shows {scene.describe('en')}. " for n, scene in enumerate(scenes, 1)
        )
    return Sample(
        f"compare_{name}", language, (user(question, *pictures),), seen + answer, answer, pictures
    )


def _scenes(random: Random, held_out: bool) -> Pair:
    first, second = random.integers(1, 5, 2)
    return (
        draw_items(random, int(first), held_out, "label"),
        draw_items(random, int(second), held_out, "label"),
    )


def _more(random: Random, language: str, held_out: bool) -> Dialogue:
    scenes = _scenes(random, held_out)
    while len(scenes[0].items) == len(scenes[1].items) and random.random() < 0.85:
        scenes = _scenes(random, held_out)
    return _more_of(random, language, scenes)


def _even(random: Random, language: str, held_out: bool) -> Dialogue:
    """Half of the pairs have as many objects, the others nearly as many."""
    count, difference = 1 + int(random.integers(4)), int(random.integers(-2, 3)) // 2
    other = min(4, max(1, count + difference))
    scenes = tuple(draw_items(random, number, held_out, "label") for number in (count, other))
    return _more_of(random, language, (scenes[0], scenes[1]))


def _more_of(random: Random, language: str, scenes: Pair) -> Dialogue:
    counts = [len(scene.items) for scene in scenes]
    if language == "zh":
        question = pick(random, ("哪张图片的物体更多？", "图1和图2，哪张的物体更多？"))
        if counts[0] == counts[1]:
            return scenes, question, "两张图片的物体一样多。"
        return scenes, question, f"图{1 if counts[0] > counts[1] else 2}的物体更多。"
    question = pick(
        random,
        (
            "Which picture has more objects?",
            "Which picture shows more objects?",
            "Are there more objects in Picture 1 or in Picture 2?",
        ),
    )
    if counts[0] == counts[1]:
        return scenes, question, "Both pictures have the same number of objects."
    return scenes, question, f"Picture {1 if counts[0] > counts[1] else 2} has more objects."


def _which(random: Random, language: str, held_out: bool) -> Dialogue:
    """The answer says where in the picture the object is before it says in which."""
    while True:
        scenes = _scenes(random, held_out)
        picture = int(random.integers(2))
        labels = [{item.label(language) for item in scene.items} for scene in scenes]
        unique = sorted(labels[picture] - labels[1 - picture])
        if unique:
            break
    label = unique[int(random.integers(len(unique)))]
    return _which_of(random, language, scenes, picture, label)


def _whiches(random: Random, language: str, held_out: bool) -> Dialogue:
    """Practice: `_which` for all objects that only one of the pictures shows, in any order."""
    scenes = _scenes(random, held_out)
    labels = [{item.label(language) for item in scene.items} for scene in scenes]
    places = [(n, label) for n in range(2) for label in sorted(labels[n] - labels[1 - n])]
    if not places:
        return _whiches(random, language, held_out)
    asked = [places[int(index)] for index in random.permutation(len(places))[:4]]
    dialogues = [_which_of(random, language, scenes, *place) for place in asked]
    space = "" if language == "zh" else " "
    return (
        scenes,
        space.join(question for _, question, _ in dialogues),
        space.join(answer for _, _, answer in dialogues),
    )


def _which_of(random: Random, language: str, scenes: Pair, picture: int, label: str) -> Dialogue:
    (item,) = (item for item in scenes[picture].items if item.label(language) == label)
    where = item.at(language)
    if language == "zh":
        question = pick(random, (f"哪张图片里有{label}？", f"{label}在图1还是图2里？"))
        return scenes, question, f"{label}{where}，在图{picture + 1}里。"
    question = pick(
        random,
        (
            f"Which picture shows {with_article(label)}?",
            f"In which picture is the {label}?",
            f"Is the {label} in Picture 1 or in Picture 2?",
        ),
    )
    return scenes, question, f"The {label} is {where} in Picture {picture + 1}."


def _difference(random: Random, language: str, held_out: bool) -> Dialogue:
    """The same scene twice with one thing changed: an object's colour, its shape, or its place."""
    scene = draw_items(random, 1 + int(random.integers(3)), held_out, "shape")
    index = int(random.integers(len(scene.items)))
    old = scene.items[index]
    colour = int(random.integers(len(COLOURS) - 1))
    new = Item(colour + (colour >= old.colour), old.shape, old.place)
    changed = Scene((*scene.items[:index], new, *scene.items[index + 1 :]))
    shape = SHAPES[old.shape].name(language)
    before, after = COLOURS[old.colour].name(language), COLOURS[new.colour].name(language)
    if language == "zh":
        question = pick(random, ("两张图片有什么不同？", "比较两张图片。", "图1和图2有什么区别？"))
        return (scene, changed), question, f"{shape}在图1里是{before}的，在图2里是{after}的。"
    question = pick(
        random,
        (
            "What is the difference between the pictures?",
            "What is different in Picture 2?",
            "Compare the two pictures.",
            "Compare Picture 1 and Picture 2.",
        ),
    )
    answer = f"The {shape} is {before} in Picture 1 and {after} in Picture 2."
    return (scene, changed), question, answer


def _in_one(random: Random, language: str, held_out: bool) -> Dialogue:
    """A question about one of the two pictures alone."""
    first = draw_items(random, 1 + int(random.integers(3)), held_out, "shape")
    second = draw_items(random, 1 + int(random.integers(3)), held_out, "shape")
    picture = int(random.integers(2))
    scene = (first, second)[picture]
    item = scene.items[int(random.integers(len(scene.items)))]
    colour, shape = COLOURS[item.colour].name(language), SHAPES[item.shape].name(language)
    kind = random.random()
    if kind < 0.3:
        noun = Term("object", "物体", "objects")
        _, answer = count_dialogue(random, language, noun, len(scene.items))
        if language == "zh":
            return (
                (first, second),
                f"图{picture + 1}中有几个物体？",
                answer.replace("图中", f"图{picture + 1}中"),
            )
        question = f"How many objects are in Picture {picture + 1}?"
        return (first, second), question, answer.replace(".", f" in Picture {picture + 1}.")
    if language == "zh":
        if kind < 0.65:
            return (
                (first, second),
                f"图{picture + 1}中的{shape}是什么颜色？",
                f"图{picture + 1}中的{shape}是{colour}的。",
            )
        return (
            (first, second),
            f"图{picture + 1}中的{shape}在哪里？",
            f"图{picture + 1}中的{shape}{item.at('zh')}。",
        )
    if kind < 0.65:
        question = pick(
            random,
            (
                f"What colour is the {shape} in Picture {picture + 1}?",
                f"What color is the {shape} in Picture {picture + 1}?",
            ),
        )
        return (first, second), question, f"The {shape} in Picture {picture + 1} is {colour}."
    question = f"Where is the {shape} in Picture {picture + 1}?"
    return (first, second), question, f"The {shape} in Picture {picture + 1} is {item.at('en')}."


_KINDS: tuple[tuple[str, Callable[[Random, str, bool], Dialogue]], ...] = (
    ("more", _more),
    ("which", _which),
    ("difference", _difference),
    ("in_one", _in_one),
)
_SHARES = (0.25, 0.25, 0.25, 0.25)
