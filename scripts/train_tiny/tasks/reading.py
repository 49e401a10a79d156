"""Reading one printed number or word."""

from __future__ import annotations

from ..drawing import paint_text
from ..sample import Sample, user
from ..scene import Random
from ..wordlist import is_in_half, random_letters, word
from .pictures import pick


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A picture with a number of 1 to 5 digits or a word of 2 to 6 letters."""
    if random.random() < 0.5:
        return _number(random, language, held_out)
    return make_word(random, language, held_out)


def first_look(random: Random, language: str, held_out: bool) -> Sample:
    """A single digit, printed large or small."""
    digit = str(int(random.integers(10)))
    picture = paint_text(random, digit)
    question, answer = (
        ("图中写的数字是多少？", f"数字是{digit}。")
        if language == "zh"
        else ("Read the number.", f"The number is {digit}.")
    )
    return Sample("read_number", language, (user(question, picture),), answer, answer, (picture,))


def _number(random: Random, language: str, held_out: bool) -> Sample:
    text = number_text(random, held_out)
    picture = paint_text(random, text)
    if language == "zh":
        question = pick(
            random,
            ("图中写的数字是多少？", "图中的数字是什么？", "请读出图中的数字。", "这是什么数字？"),
        )
        answer = f"数字是{text}。"
    else:
        question = pick(
            random,
            (
                "What number is written in the image?",
                "Which number is shown?",
                "Read the number.",
                "What number do you see?",
                "What is the number in the picture?",
            ),
        )
        answer = f"The number is {text}."
    reasoning = _spelled(text, language) + answer
    return Sample(
        "read_number", language, (user(question, picture),), reasoning, answer, (picture,)
    )


def make_word(random: Random, language: str, held_out: bool) -> Sample:
    """A word of the list or letters in any order, in capitals or not."""
    text = word(random, held_out) if random.random() < 0.5 or held_out else random_letters(random)
    case = random.random()
    printed = text if case < 0.7 else text.lower() if case < 0.88 else text.capitalize()
    picture = paint_text(random, printed)
    if language == "zh":
        question = pick(
            random,
            ("图中写的是什么单词？", "图中的单词是什么？", "请读出图中的单词。", "图中写了什么？"),
        )
        answer = f"单词是{text}。"
    else:
        question = pick(
            random,
            (
                "What word is written in the image?",
                "Which word is shown?",
                "Read the word.",
                "What does the image say?",
                "What is the word in the picture?",
            ),
        )
        answer = f"The word is {text}."
    reasoning = _spelled(text, language) + answer
    return Sample("read_word", language, (user(question, picture),), reasoning, answer, (picture,))


def _spelled(text: str, language: str) -> str:
    letters = " ".join(text)
    return f"我逐个读出：{letters}。" if language == "zh" else f"I read one by one: {letters}. "


def number_text(random: Random, held_out: bool) -> str:
    """A number; half of those whose digits sum up to 3 modulo 10 are kept for measuring."""
    while True:
        length = 1 + int(random.integers(5))
        digits = random.integers(0, 10, length)
        if length > 1 and digits[0] == 0:
            continue
        text = "".join(str(digit) for digit in digits)
        if length > 1 and is_held_out_number(text) != held_out:
            continue
        return text


def is_held_out_number(text: str) -> bool:
    return sum(map(int, text)) % 10 == 3 and is_in_half(text)
