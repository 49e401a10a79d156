"""Names of functions and parameters from a space too large to learn by heart.

OpenAI allows letters, digits, `_` and `-`. Every name here is made of parts: words of interfaces
and everyday words, made-up words, pieces of the tokenizer, letters without sense. What shares a part with another name
differs from it elsewhere, so that no name can be completed from its beginning.
"""

from __future__ import annotations

import re
from functools import cache

from sentencepiece import SentencePieceProcessor

from .processing import CHECKPOINT
from .scene import Random
from .values import coin
from .wordlist import WORDS

_INTERFACE_WORDS = """
get set list create update delete remove fetch load save store read write open close start stop run
call send receive post put push pull find search query filter sort count sum total compute calculate
measure check test validate verify confirm approve reject cancel submit apply reset clear clean copy
move rename merge split join link attach detach connect disconnect enable disable switch toggle turn
control manage handle process parse format convert transform translate encode decode compress expand
scale resize crop rotate zoom draw paint render show hide display print export import upload download
sync backup restore archive publish share invite notify alert remind schedule book reserve order buy
sell pay refund charge transfer deposit withdraw exchange rate review like follow block report log
trace watch monitor track locate navigate route drive park charge ship deliver pick pack return lookup
describe explain summarize classify detect recognize predict estimate compare match rank select choose
user account profile customer client member person people contact friend group team company employee
email mail message text note comment reply thread chat channel phone number address city country state
region area zone place location position point distance speed time date day week month year hour minute
second duration interval calendar event meeting task project ticket issue bug status level priority
type kind category tag label name title subject content body header footer page section line word
letter file folder path document image picture photo video audio song track album artist movie book
article news story source target origin destination from to start end first last next previous left
right top bottom width height length depth size weight volume amount quantity price cost value total
balance currency money rate tax discount product item stock inventory cart order invoice payment card
bank loan share market symbol ticker index score rank points grade result answer question reason
weather forecast temperature humidity wind rain light lamp room door window heater fan alarm clock
timer sensor device machine server cluster node port host network database table row column field key
token session request response code language version model dataset batch job queue worker memory cache
color shape style theme font icon button menu map layer box flag mode option setting config rule plan
food recipe meal drink restaurant hotel flight train bus car trip tour guest nights seat doctor patient
medicine hospital school student teacher course lesson exam animal plant garden sport match team player
id uid ref url uri max min avg is has can in on at by of for with new old current local global main
default extra custom public private raw full short long any all each
"""
INTERFACE_WORDS = tuple(dict.fromkeys(_INTERFACE_WORDS.split()))
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SMALL = re.compile(r"[a-z]{2,}")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def parts_of(name: str) -> list[str]:
    """`getUserData` and `get_user-data` are both get, user, data."""
    return [part.lower() for part in _PARTS.findall(name)]


def normal(name: str) -> str:
    """The same for all spellings of one name."""
    return "".join(parts_of(name))


def fresh_name(random: Random, words: tuple[str, ...] = ()) -> str:
    """A name of one to four parts; half of them are of `words`, if there are any."""
    count = int(random.choice(4, p=(0.3, 0.42, 0.22, 0.06))) + 1
    kind = random.random()  # one kind for most names: real words, made-up ones or a mixture
    return spelled(random, [_part(random, kind, words) for _ in range(count)])


def spelled(random: Random, parts: list[str]) -> str:
    """The parts joined in one of the spellings that interfaces use."""
    style = random.random()
    if style < 0.5:
        name = "_".join(parts)
    elif style < 0.65:
        name = parts[0] + "".join(part.capitalize() for part in parts[1:])
    elif style < 0.72:
        name = "".join(part.capitalize() for part in parts)
    elif style < 0.88:
        name = "-".join(parts)
    elif style < 0.94:
        separator = "_-"[int(random.integers(2))]
        name = separator.join((*parts, str(random.integers(1, 1000))))
    else:
        name = "_".join(parts) + str(random.integers(1, 10))
    return name


def like(random: Random, name: str) -> str:
    """Another name that shares parts with `name`: one replaced, added, left out, or turned round."""
    parts = parts_of(name) or [name]
    part = _part(random, random.random(), ())
    place = int(random.integers(len(parts)))
    change = random.random()
    if len(parts) == 1:
        other = [*parts, part] if change < 0.5 else [part, *parts]
    elif change < 0.45:
        other = [*parts[:place], part, *parts[place + 1 :]]
    elif change < 0.7:
        other = parts[:place] + parts[place + 1 :]
    elif change < 0.9:
        other = [*parts[:place], part, *parts[place:]]
    else:
        other = parts[::-1]
    return spelled(random, other)


@cache
def vocabulary_pieces() -> tuple[str, ...]:
    """Every piece of small letters that the tokenizer has: what is never copied is copied badly."""
    model = SentencePieceProcessor(model_file=str(CHECKPOINT / "tokenizer.model"))
    pieces = (model.id_to_piece(number) for number in range(model.get_piece_size()))
    return tuple(piece for piece in pieces if _SMALL.fullmatch(piece))


def _part(random: Random, kind: float, words: tuple[str, ...]) -> str:
    if words and random.random() < 0.5:
        return words[int(random.integers(len(words)))]
    if kind > 0.8:
        kind = random.random()
    if kind < 0.24:
        return INTERFACE_WORDS[int(random.integers(len(INTERFACE_WORDS)))]
    if kind < 0.32:
        return WORDS[int(random.integers(len(WORDS)))].lower()
    if kind < 0.4:
        return coin(random, 1, 2)
    if kind < 0.74:
        pieces = vocabulary_pieces()
        numbers = random.integers(0, len(pieces), 1 if random.random() < 0.6 else 2)
        return "".join(pieces[int(number)] for number in numbers)
    return "".join(_LETTERS[int(i)] for i in random.integers(0, 26, int(random.integers(2, 7))))
