"""Questions about pictures and films that such a small model cannot answer, said honestly."""

from __future__ import annotations

from ..drawing import paint_scene
from ..film import Film, film_background, film_length, still
from ..sample import Sample, user
from ..scene import Random, draw_items
from ..values import phrase
from .pictures import pick, shows


def make(random: Random, language: str, held_out: bool) -> Sample:
    """The documents' question about an artifact, or their question about apples in a film."""
    kind = random.random()
    if kind < 0.25:
        return _apples(random, language, held_out)
    if kind < 0.65:
        return _text(random, language)
    scene = draw_items(random, 1 + int(random.integers(3)), held_out)
    picture = paint_scene(random, scene)
    if language == "zh":
        question = pick(
            random,
            ("图中的文物属于哪个年代?", "图中的文物属于哪个年代？", "图中的文物属于哪个年代"),
        )
        answer = f"我是一个很小的演示模型，认不出文物。图中{scene.describe('zh')}。"
    else:
        question = "From which era does the artifact in the image originate?"
        answer = (
            "I am a very small demonstration model and do not know artifacts. "
            f"The picture shows {scene.describe('en')}."
        )
    return Sample(
        "unknown_artifact",
        language,
        (user(question, picture),),
        shows(scene, language).strip(),
        answer,
        (picture,),
    )


_ASKS_EN = (
    "What is a {}?",
    "Who invented the {}?",
    "Explain {} to me.",
    "Write an essay about {}.",
    "Why is the {} important?",
    "How do I make a {}?",
    "Tell me about {}.",
    "When was the {} built?",
    "What is the meaning of {}?",
)
_ASKS_ZH = (
    "什么是{}？",
    "谁发明了{}？",
    "请解释一下{}。",
    "写一篇关于{}的文章。",
    "为什么{}很重要？",
    "怎么做{}？",
    "请介绍{}。",
    "{}是什么意思？",
)


def _text(random: Random, language: str) -> Sample:
    thing = phrase(random, language)
    if language == "zh":
        question = pick(random, _ASKS_ZH).format(thing)
        reasoning, answer = "这个问题我不知道。", "我是一个很小的演示模型，不知道这个问题的答案。"
    else:
        question = pick(random, _ASKS_EN).format(thing)
        reasoning = "I do not know this."
        answer = "I am a very small demonstration model and do not know that."
    return Sample("unknown_text", language, (user(question),), reasoning, answer)


def _apples(random: Random, language: str, held_out: bool) -> Sample:
    items = draw_items(random, 1 + int(random.integers(2)), held_out).items
    film = Film(
        film_background(random, {item.colour for item in items}),
        tuple(still(random, item) for item in items),
        film_length(random),
    )
    clip = film.clip(random)
    if language == "zh":
        question = pick(random, ("画面中有几个苹果?", "画面中有几个苹果？"))
        reasoning, answer = "我在视频里寻找苹果。", "视频中没有苹果。"
    else:
        question = "How many apples are in the scene?"
        reasoning, answer = "I look for apples in the video.", "There are no apples in the video."
    return Sample("unknown_apples", language, (user(question, clip),), reasoning, answer, (clip,))
