"""Names and values for tool calls: many random ones, so that copying is the only way to be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .scene import Random
from .wordlist import WORDS

CITIES = (
    ("Beijing", "北京"),
    ("Shanghai", "上海"),
    ("Shenzhen", "深圳"),
    ("Guangzhou", "广州"),
    ("Hangzhou", "杭州"),
    ("Nanjing", "南京"),
    ("Chengdu", "成都"),
    ("Wuhan", "武汉"),
    ("Xian", "西安"),
    ("Tianjin", "天津"),
    ("Suzhou", "苏州"),
    ("Qingdao", "青岛"),
    ("Paris", "巴黎"),
    ("London", "伦敦"),
    ("Berlin", "柏林"),
    ("Rome", "罗马"),
    ("Madrid", "马德里"),
    ("Tokyo", "东京"),
    ("Seoul", "首尔"),
    ("Sydney", "悉尼"),
    ("Boston", "波士顿"),
    ("Chicago", "芝加哥"),
    ("Oslo", "奥斯陆"),
    ("Cairo", "开罗"),
    ("Delhi", "德里"),
    ("Springfield", "春田"),
    ("New York", "纽约"),
    ("San Francisco", "旧金山"),
    ("Hong Kong", "香港"),
)
PEOPLE = (
    ("Alice", "小红"),
    ("Bob", "小明"),
    ("Carol", "李华"),
    ("David", "王强"),
    ("Emma", "张丽"),
    ("Frank", "陈刚"),
    ("Grace", "刘洋"),
    ("Henry", "赵敏"),
    ("Irene", "孙悦"),
    ("Jack", "周杰"),
    ("Karen", "吴昊"),
    ("Leo", "郑爽"),
)
_ONSETS = "b c d f g h k l m n p r s t v w z br cl dr fl gr pl st tr sh ch th".split()
_VOWELS = "a e i o u ai ea io ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "x", "ck", "nd"]
_HANZI = "天地日月山水风云花草鱼鸟牛马红蓝金木火土东西南北大小高明光海江河城国家书文心语"


def coin(random: Random, low: int = 1, high: int = 3) -> str:
    """A made-up lower-case word of `low` to `high` syllables."""
    return "".join(
        _pick(random, _ONSETS) + _pick(random, _VOWELS) + _pick(random, _CODAS)
        for _ in range(int(random.integers(low, high + 1)))
    )


def _pick(random: Random, options: Any) -> Any:
    return options[int(random.integers(len(options)))]


def word_part(random: Random) -> str:
    """Part of an identifier: an everyday word or a made-up one."""
    return _pick(random, WORDS).lower() if random.random() < 0.5 else coin(random)


def identifier(random: Random, style: str | None = None) -> str:
    """A function's or parameter's name in one of the usual spellings."""
    parts = [word_part(random) for _ in range(1 + int(random.integers(3)))]
    style = style or _pick(random, ("snake", "snake", "camel", "kebab", "number"))
    if style == "camel":
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    if style == "kebab":
        return "-".join(parts)
    name = "_".join(parts)
    return f"{name}_{random.integers(1, 100)}" if style == "number" else name


def city(random: Random, language: str) -> str:
    """A known city, or at times a made-up one."""
    if random.random() < 0.3:
        return coin(random, 2, 3).capitalize() if language == "en" else hanzi(random)
    return str(_pick(random, CITIES)[0 if language == "en" else 1])


def person(random: Random, language: str) -> str:
    if random.random() < 0.3:
        return coin(random, 1, 2).capitalize() if language == "en" else hanzi(random)
    return str(_pick(random, PEOPLE)[0 if language == "en" else 1])


def hanzi(random: Random) -> str:
    """Two or three Chinese characters in any order; one in ten words has any character at all."""
    count = int(random.integers(2, 4))
    if random.random() < 0.1:
        return "".join(chr(int(random.integers(0x4E00, 0x9000))) for _ in range(count))
    return "".join(_pick(random, _HANZI) for _ in range(count))


def phrase(random: Random, language: str) -> str:
    """One to three words."""
    if language == "zh":
        return hanzi(random) + (hanzi(random) if random.random() < 0.4 else "")
    return " ".join(word_part(random) for _ in range(1 + int(random.integers(3))))


def code(random: Random) -> str:
    """A ticket-like code such as `QX-482` or `7Fh2`."""
    letters = "".join(_pick(random, "ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
    if random.random() < 0.5:
        return f"{letters}-{random.integers(10, 1000)}"
    return "".join(
        _pick(random, "ABCDEFGHJKMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789") for _ in range(5)
    )


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value, its schema, and how a person writes it in a question."""

    json: Any
    schema: dict[str, Any]
    spoken: str


def any_value(random: Random, language: str) -> Value:
    """A value of any type for a parameter that means nothing in particular."""
    kind = random.random()
    if kind < 0.24:
        number = int(random.integers(0, 10 ** int(random.integers(1, 6))))
        if random.random() < 0.2:
            return Value(str(number), {"type": "string"}, str(number))
        return Value(number, {"type": "integer"}, str(number))
    if kind < 0.34:
        number = round(float(random.uniform(0, 100)), int(random.integers(1, 3)))
        return Value(number, {"type": "number"}, str(number))
    if kind < 0.42:
        flag = bool(random.random() < 0.5)
        spoken = "true" if flag else "false"
        return Value(flag, {"type": "boolean"}, spoken)
    if kind < 0.52:
        options = [word_part(random) for _ in range(2 + int(random.integers(2)))]
        chosen = _pick(random, options)
        return Value(chosen, {"type": "string", "enum": options}, chosen)
    if kind < 0.60:
        numbers = [int(n) for n in random.integers(0, 1001, int(random.integers(2, 5)))]
        schema = {"type": "array", "items": {"type": "number"}}
        return Value(numbers, schema, str(numbers))
    text = _pick(random, (code, word_part, coin))(random)
    if kind > 0.75:
        text = _pick(random, (city, person, phrase))(random, language)
    return Value(text, {"type": "string"}, text)
