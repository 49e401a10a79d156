"""Words printed in pictures and used as values, with a part kept back for measuring."""

from __future__ import annotations

import zlib

from .scene import Random

_WORDS = """
STOP OPEN EXIT HELLO SALE TAXI HOTEL BANK CAFE PARK ZOO BUS TRAIN PLANE SHIP CAR BIKE ROAD
HOUSE DOOR TABLE CHAIR LAMP BOOK PEN PAPER CLOCK PHONE RADIO MUSIC PIANO DRUM SONG DANCE
APPLE LEMON MANGO PEAR GRAPE BREAD RICE SOUP MILK TEA JUICE WATER SUGAR SALT EGG FISH MEAT
CAT DOG HORSE SHEEP GOAT TIGER LION BEAR WOLF FOX MOUSE RABBIT SNAKE FROG BIRD EAGLE DUCK
SUN MOON STAR SKY CLOUD RAIN SNOW WIND STORM RIVER LAKE OCEAN BEACH ISLAND HILL FOREST TREE
LEAF FLOWER ROSE GRASS FARM FIELD STONE SAND GOLD IRON COPPER GLASS WOOD CLAY BRICK WALL
RED BLUE GREEN BLACK WHITE PINK BROWN GRAY ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN
LEFT RIGHT UP DOWN NORTH SOUTH EAST WEST FAST SLOW HOT COLD NEW OLD BIG SMALL HIGH LOW
LOVE HOPE DREAM SMILE PEACE TRUTH HAPPY LUCKY BRAVE QUIET SWEET FRESH CLEAN MAGIC POWER
KING QUEEN DOCTOR NURSE PILOT BAKER FARMER ARTIST WRITER SINGER TEACHER CHILD FRIEND
WINTER SPRING SUMMER AUTUMN MONDAY FRIDAY SUNDAY JUNE JULY MARCH APRIL TODAY NIGHT MORNING
PUSH PULL FREE GIFT SHOP STORE MARKET PRICE CASH TICKET GATE BRIDGE TOWER CASTLE MUSEUM
CITY TOWN VILLAGE STREET SQUARE GARDEN KITCHEN SCHOOL OFFICE LIBRARY STATION AIRPORT
WORLD EARTH MARS VENUS ROBOT ENGINE ROCKET LASER CODE DATA FILE DISK SERVER CLOUDY SUNNY
WELCOME DANGER CAUTION SILENCE ENTER START FINISH READY GO YES NO OK WIN GAME SCORE LEVEL
ERNIE TRITON PADDLE MODEL TOKEN BATCH CACHE BLOCK QUEUE STREAM TENSOR VECTOR MATRIX LAYER
"""
WORDS = tuple(word for word in _WORDS.split() if len(word) <= 6)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VOWELS = "AEIOU"


def is_held_out_word(text: str) -> bool:
    """One word in twelve is never printed in training: half of those that a rule picks.

    See `scene.is_held_out` for why half.
    """
    total = sum(_LETTERS.index(letter) * (place + 3) for place, letter in enumerate(text))
    return total % 6 == 1 and is_in_half(text)


def is_in_half(text: str) -> bool:
    """True for every second text, without a pattern in its letters or digits."""
    return zlib.crc32(text.encode()) % 2 == 0


def word(random: Random, held_out: bool) -> str:
    """An English word in capitals, from the training or the held-out part of the list."""
    while True:
        text = WORDS[int(random.integers(len(WORDS)))]
        if is_held_out_word(text) == held_out:
            return text


def random_letters(random: Random) -> str:
    """2 to 6 capitals, half of the time pronounceable, so that reading is not guessing words."""
    while True:
        length = int(random.integers(2, 7))
        if random.random() < 0.5:
            letters = [_LETTERS[int(random.integers(26))] for _ in range(length)]
        else:
            letters = [
                _VOWELS[int(random.integers(5))]
                if place % 2
                else _LETTERS[int(random.integers(26))]
                for place in range(length)
            ]
        text = "".join(letters)
        if not is_held_out_word(text):
            return text
