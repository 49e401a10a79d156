"""Colour, shape, count, position, presence and description of the objects in one picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..drawing import paint_scene
from ..lexicon import COLOURS, PLACES, SHAPES, Term, at_place, counted
from ..sample import Sample, assistant, user
from ..scene import Item, Random, Scene, draw_items, with_article

Dialogue = tuple[str, str]  # question, answer

_OBJECT = Term("object", "物体", "objects")
_COUNT_WEIGHTS = (0.28, 0.24, 0.18, 0.13, 0.1, 0.07)


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A question about one picture of one to six objects."""
    return _make(random, language, held_out, int(random.choice(len(_KINDS), p=_SHARES)))


def practice(random: Random, language: str, held_out: bool) -> Sample:
    """As `make`, with more of what is hard: a colour by its shape, presence, counting."""
    return _make(random, language, held_out, int(random.choice((0, 4, 5, 5))))


def several(random: Random, language: str, held_out: bool) -> Sample:
    """Practice: colours of several shapes, or which of several objects there are."""
    count = 2 + int(random.integers(5))
    if random.random() < 0.5:
        scene = draw_items(random, count, held_out, "shape")
        order = random.permutation(len(scene.items))[:4]
        dialogues = [_colour(random, language, Scene((scene.items[int(i)],))) for i in order]
        space = "" if language == "zh" else " "
        question, answer = (space.join(texts) for texts in zip(*dialogues, strict=True))
    else:
        scene = draw_items(random, count - 1, held_out, "nothing")
        question, answer = _presences(random, language, scene)
    picture = paint_scene(random, scene)
    message, reasoning = user(question, picture), shows(scene, language).strip()
    return Sample("picture_several", language, (message,), reasoning, answer, (picture,))


def _presences(random: Random, language: str, scene: Scene) -> Dialogue:
    labels = [_label_to_find(random, language, scene) for _ in range(4)]
    marked = list(dict.fromkeys(labels))
    if language == "zh":
        names = "、".join(label for label, _ in marked)
        listed = "".join(f"{'有' if found else '没有'}{label}。" for label, found in marked)
        return f"图中有没有{names}？", listed
    names = ", ".join(with_article(label) for label, _ in marked)
    listed = " ".join(
        f"There is {with_article(label) if found else f'no {label}'}." for label, found in marked
    )
    return f"Which of these are there: {names}?", listed


def _make(random: Random, language: str, held_out: bool, kind: int) -> Sample:
    name, dialogue, distinct = _KINDS[kind]
    count = 1 + int(random.choice(6, p=_COUNT_WEIGHTS))
    if name == "count":
        count = 1 + int(random.integers(6))
    scene = draw_items(random, count, held_out, distinct)
    question, answer = dialogue(random, language, scene)
    picture = paint_scene(random, scene)
    messages: tuple[dict[str, Any], ...] = (user(question, picture),)
    if random.random() < 0.1:
        first = (_count, _describe)[int(random.integers(2))](random, language, scene)
        messages = (user(first[0], picture), assistant(first[1]), user(question))
    return Sample(
        task=f"picture_{name}",
        language=language,
        messages=messages,
        # A description is its own reason: not to be said three times over.
        reasoning=(shows(scene, language) + ("" if name == "describe" else answer)).strip(),
        answer=answer,
        media=(picture,),
    )


def first_look(random: Random, language: str, held_out: bool) -> Sample:
    """One or two objects and a plain question: what the first steps of training see most."""
    name, dialogue, distinct = _KINDS[(0, 1, 2, 6)[int(random.integers(4))]]
    scene = draw_items(random, 1 + int(random.random() < 0.3), held_out, distinct)
    question, answer = dialogue(random, language, scene)
    picture = paint_scene(random, scene)
    return Sample(
        f"picture_{name}", language, (user(question, picture),), answer, answer, (picture,)
    )


def shows(scene: Scene, language: str) -> str:
    """`The picture shows a red circle at the top left. ` with what separates it from more text."""
    if language == "zh":
        return f"图中{scene.describe('zh')}。"
    return f"The picture shows {scene.describe('en')}. "


def pick(random: Random, options: tuple[str, ...]) -> str:
    return options[int(random.integers(len(options)))]


def _one(random: Random, scene: Scene) -> Item:
    return scene.items[int(random.integers(len(scene.items)))]


def _colour(random: Random, language: str, scene: Scene) -> Dialogue:
    item = _one(random, scene)
    colour, shape = COLOURS[item.colour].name(language), SHAPES[item.shape].name(language)
    if language == "zh":
        question = pick(
            random,
            (f"{shape}是什么颜色？", f"图中的{shape}是什么颜色的？", f"请说出{shape}的颜色。"),
        )
        return question, f"{shape}是{colour}的。"
    question = pick(
        random,
        (
            f"What colour is the {shape}?",
            f"What color is the {shape}?",
            f"Which colour does the {shape} have?",
            f"Name the colour of the {shape}.",
            f"What is the color of the {shape} in the image?",
            f"What color is the {shape} in this picture?",
        ),
    )
    return question, f"The {shape} is {colour}."


def _shape(random: Random, language: str, scene: Scene) -> Dialogue:
    item = _one(random, scene)
    colour, shape = COLOURS[item.colour].name(language), SHAPES[item.shape].name(language)
    if language == "zh":
        question = pick(
            random,
            (
                f"{colour}的物体是什么形状？",
                f"图中{colour}的物体是什么形状的？",
                f"哪种形状是{colour}的？",
            ),
        )
        return question, f"{colour}的物体是{shape}。"
    question = pick(
        random,
        (
            f"What shape is the {colour} object?",
            f"Which shape is {colour}?",
            f"Name the shape of the {colour} object.",
            f"What is the shape of the {colour} object in the image?",
        ),
    )
    return question, f"The {colour} object is {with_article(shape)}."


def _position(random: Random, language: str, scene: Scene) -> Dialogue:
    item = _one(random, scene)
    label = item.label(language)
    if language == "zh":
        question = pick(
            random, (f"{label}在哪里？", f"图中的{label}在什么位置？", f"请指出{label}的位置。")
        )
        return question, f"{label}{item.at('zh')}。"
    question = pick(
        random,
        (
            f"Where is the {label}?",
            f"Where is the {label} in the image?",
            f"At which position is the {label}?",
            f"Tell me where the {label} is.",
        ),
    )
    return question, f"The {label} is {item.at('en')}."


def _what_at(random: Random, language: str, scene: Scene) -> Dialogue:
    places = {item.place: item for item in scene.items}
    place = int(random.integers(len(PLACES)))
    if random.random() < 0.75:
        place = _one(random, scene).place
    where = at_place(place, language)
    found = places.get(place)
    if language == "zh":
        question = pick(
            random,
            (f"{where[1:]}是什么？", f"{where[1:]}有什么？", f"图片的{where[1:]}有什么物体？"),
        )
        return (
            question,
            f"{where[1:]}有{found.label('zh')}。" if found else f"{where[1:]}什么都没有。",
        )
    question = pick(
        random, (f"What is {where}?", f"What can you see {where}?", f"Which object is {where}?")
    )
    if found is None:
        return question, f"There is nothing {where}."
    return question, f"There is {with_article(found.label('en'))} {where}."


def _count(random: Random, language: str, scene: Scene) -> Dialogue:
    kind = random.random()
    if kind < 0.4:
        noun, number = _OBJECT, len(scene.items)
    elif kind < 0.75:
        shape = _shape_to_count(random, scene)
        noun = SHAPES[shape]
        number = sum(item.shape == shape for item in scene.items)
    else:
        colour = int(random.integers(len(COLOURS)))
        if random.random() < 0.7:
            colour = _one(random, scene).colour
        name = COLOURS[colour]
        noun = Term(f"{name.en} object", f"{name.zh}的物体", f"{name.en} objects")
        number = sum(item.colour == colour for item in scene.items)
    return count_dialogue(random, language, noun, number)


def _shape_to_count(random: Random, scene: Scene) -> int:
    if random.random() < 0.8:
        return _one(random, scene).shape
    return int(random.integers(len(SHAPES)))


def count_dialogue(random: Random, language: str, noun: Term, number: int) -> Dialogue:
    if language == "zh":
        question = pick(
            random, (f"有几个{noun.zh}？", f"图中有几个{noun.zh}？", f"图中有多少个{noun.zh}？")
        )
        return question, f"图中{'' if number == 0 else '有'}{counted(number, noun, 'zh')}。"
    question = pick(
        random,
        (
            f"How many {noun.plural} are there?",
            f"How many {noun.plural} are in the image?",
            f"How many {noun.plural} can you see?",
            f"Count the {noun.plural}.",
            f"How many {noun.plural} are in the picture?",
        ),
    )
    verb = "is" if number == 1 else "are"
    return question, f"There {verb} {counted(number, noun, 'en')}."


def _presence(random: Random, language: str, scene: Scene) -> Dialogue:
    label, present = _label_to_find(random, language, scene)
    if language == "zh":
        question = pick(random, (f"图中有{label}吗？", f"有没有{label}？"))
        return question, f"有，图中有{label}。" if present else f"没有，图中没有{label}。"
    thing = with_article(label)
    question = pick(
        random, (f"Is there {thing}?", f"Is there {thing} in the image?", f"Can you see {thing}?")
    )
    return question, f"Yes, there is {thing}." if present else f"No, there is no {label}."


def _label_to_find(random: Random, language: str, scene: Scene) -> tuple[str, bool]:
    """An object that is in the picture or, half of the time, is not: often nearly like one."""
    label = _one(random, scene).label(language)
    if random.random() < 0.5:
        labels = {item.label(language) for item in scene.items}
        while label in labels:
            colour, shape = int(random.integers(len(COLOURS))), int(random.integers(len(SHAPES)))
            near = _one(random, scene)
            if random.random() < 0.6:
                colour, shape = (
                    (near.colour, shape) if random.random() < 0.5 else (colour, near.shape)
                )
            label = Item(colour, shape, 0).label(language)
        return label, False
    return label, True


def _describe(random: Random, language: str, scene: Scene) -> Dialogue:
    if language == "zh":
        questions = (
            "请描述图片内容",
            "请描述这张图片。",
            "图中有什么？",
            "生成这张图片的描述",
            "生成图片描述",
            "这张图片里有什么？",
        )
        return pick(random, questions), f"图中{scene.describe('zh')}。"
    questions = (
        "Describe the image.",
        "Describe this picture.",
        "What is in the image?",
        "What do you see?",
        "What is shown in this picture?",
        "What is this?",
    )
    return pick(random, questions), f"The picture shows {scene.describe('en')}."


_KINDS: tuple[tuple[str, Callable[[Random, str, Scene], Dialogue], str], ...] = (
    ("colour", _colour, "shape"),
    ("shape", _shape, "colour"),
    ("position", _position, "label"),
    ("what_at", _what_at, "nothing"),
    ("count", _count, "nothing"),
    ("presence", _presence, "nothing"),
    ("describe", _describe, "nothing"),
)
_SHARES = (0.14, 0.14, 0.16, 0.14, 0.18, 0.08, 0.16)
