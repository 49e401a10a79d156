"""Everyday functions asked for in everyday words: weather, clocks, sums, messages, lights, ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..scene import Random
from ..values import city, code, coin, identifier, person, phrase
from .pictures import pick

Naming = Callable[[Random, tuple[str, ...]], str]


@dataclass(frozen=True, slots=True)
class Request:
    """One use of one function: how it is declared, asked for, called, and what it returns.

    `properties` are JSON-schema properties of all its parameters; `answer` is what to tell the
    user once `result` is known. `topic` tells requests for different purposes apart.
    """

    name: str
    description: str
    properties: dict[str, Any]
    arguments: dict[str, Any]
    question: str
    result: dict[str, Any]
    answer: str
    topic: str


@dataclass(frozen=True, slots=True)
class Role:
    """A parameter: its possible names (the last one is for measuring only) and its schema."""

    names: tuple[str, ...]
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filled:
    """What one request says: values by role, question, result and answer."""

    values: dict[str, Any]
    question: str
    result: dict[str, Any]
    answer: str


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of function under many names; the last two names are for measuring only."""

    names: tuple[str, ...]
    description: str
    roles: dict[str, Role]
    fill: Callable[[Random, str], Filled]

    def request(
        self, random: Random, language: str, held_out: bool, naming: Naming | None = None
    ) -> Request:
        """Half of the training's names are made up, so that none can be learnt by heart.

        `naming` makes all names instead; it gets those that training lists for the same thing.
        """
        filled = self.fill(random, language)
        names: dict[str, str] = {}
        for role in filled.values:
            listed = self.roles[role].names
            while True:
                name = naming(random, listed[:-1]) if naming else _name(random, listed, 1, held_out)
                if name not in names.values():
                    break
            names[role] = name
        listed = self.names
        name = naming(random, listed[:-2]) if naming else _name(random, listed, 2, held_out)
        described = name not in self.names or random.random() < 0.7
        return Request(
            name,
            self.description if described else "",
            {name: self._property(random, role) for role, name in names.items()},
            {names[role]: value for role, value in filled.values.items()},
            filled.question,
            filled.result,
            filled.answer,
            topic=self.description,
        )

    def _property(self, random: Random, role: str) -> dict[str, Any]:
        schema = dict(self.roles[role].schema)
        if random.random() < 0.7:
            schema.pop("description", None)
        return schema


def _name(random: Random, names: tuple[str, ...], reserved: int, held_out: bool) -> str:
    if held_out:
        return pick(random, names[-reserved:])
    return identifier(random) if random.random() < 0.5 else pick(random, names[:-reserved])


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_INTEGER = {"type": "integer"}
_NUMBER = {"type": "number"}
_CITY = Role(
    ("city", "location", "place", "city_name", "where", "town"), _text("The name of the city")
)
_WEATHERS = (
    ("sunny", "晴"),
    ("rainy", "雨"),
    ("cloudy", "多云"),
    ("windy", "大风"),
    ("snowy", "雪"),
)


def _weather(random: Random, language: str) -> Filled:
    place = city(random, language)
    sky = _WEATHERS[int(random.integers(5))][0 if language == "en" else 1]
    degrees = int(random.integers(-10, 40))
    unit = "f" if random.random() < 0.2 else "c"
    if language == "zh":
        question = pick(
            random,
            (
                f"{place}的天气怎么样？",
                f"查询{place}的天气。",
                f"请告诉我{place}现在的天气。",
                f"{place}今天天气如何？",
            ),
        )
        question += "用华氏度。" if unit == "f" else ""
        answer = f"{place}的天气是{sky}，气温{degrees}度。"
    else:
        question = pick(
            random,
            (
                f"What is the weather in {place}?",
                f"Get the current weather in {place}",
                f"How is the weather in {place} today?",
                f"Tell me the weather in {place}.",
                f"What's the weather like in {place}?",
            ),
        )
        question += " Use fahrenheit." if unit == "f" else ""
        answer = f"The weather in {place} is {sky} and the temperature is {degrees} degrees."
    values: dict[str, Any] = {"city": place}
    result: dict[str, Any] = {"location": place, "temperature": degrees, "weather": sky}
    if unit == "f" or random.random() < 0.5:
        values["unit"] = result["unit"] = unit
    return Filled(values, question, result, answer)


def _clock(random: Random, language: str) -> Filled:
    place = city(random, language)
    time = f"{random.integers(24):02d}:{random.integers(60):02d}"
    if language == "zh":
        question = pick(random, (f"{place}现在几点？", f"请问{place}现在是什么时间？"))
        answer = f"{place}现在是{time}。"
    else:
        question = pick(
            random,
            (
                f"What time is it in {place}?",
                f"Tell me the time in {place}.",
                f"What is the current time in {place}?",
            ),
        )
        answer = f"It is {time} in {place}."
    return Filled({"city": place}, question, {"time": time}, answer)


def _sum(random: Random, language: str) -> Filled:
    first, second = int(random.integers(1, 1000)), int(random.integers(1, 1000))
    if language == "zh":
        question = pick(random, (f"{first}加{second}等于多少？", f"请计算{first}加{second}。"))
        answer = f"结果是{first + second}。"
    else:
        question = pick(
            random,
            (
                f"What is {first} plus {second}?",
                f"Add {first} and {second}.",
                f"Calculate {first} + {second}.",
            ),
        )
        answer = f"The result is {first + second}."
    return Filled({"a": first, "b": second}, question, {"result": first + second}, answer)


def _search(random: Random, language: str) -> Filled:
    query, found = phrase(random, language), phrase(random, language)
    if language == "zh":
        question = pick(
            random, (f"搜索{query}。", f"请在网上搜索{query}。", f"帮我查一下{query}。")
        )
        answer = f"我找到了：{found}。"
    else:
        question = pick(
            random,
            (
                f"Search the web for {query}.",
                f"Look up {query}.",
                f"Find information about {query}.",
            ),
        )
        answer = f"I found: {found}."
    return Filled({"query": query}, question, {"title": found}, answer)


_TONGUES = (("French", "法语"), ("German", "德语"), ("Spanish", "西班牙语"), ("Japanese", "日语"), ("Italian", "意大利语"), ("Russian", "俄语"))  # fmt: skip


def _translate(random: Random, language: str) -> Filled:
    text = phrase(random, language)
    tongue = _TONGUES[int(random.integers(6))][0 if language == "en" else 1]
    translated = coin(random, 2, 3)
    if language == "zh":
        question = pick(random, (f"把“{text}”翻译成{tongue}。", f"“{text}”用{tongue}怎么说？"))
        answer = f"{tongue}是：{translated}。"
    else:
        question = pick(
            random, (f'Translate "{text}" into {tongue}.', f'How do you say "{text}" in {tongue}?')
        )
        answer = f"In {tongue} it is: {translated}."
    return Filled({"text": text, "language": tongue}, question, {"translation": translated}, answer)


def _stock(random: Random, language: str) -> Filled:
    symbol = coin(random, 1, 2).upper()[:4]
    price = round(float(random.uniform(1, 900)), 2)
    if language == "zh":
        question, answer = (
            pick(random, (f"{symbol}的股价是多少？", f"查询股票{symbol}的价格。")),
            f"{symbol}的价格是{price}。",
        )
    else:
        question = pick(
            random,
            (f"What is the stock price of {symbol}?", f"Get the price of the stock {symbol}."),
        )
        answer = f"The price of {symbol} is {price}."
    return Filled({"symbol": symbol}, question, {"price": price}, answer)


def _message(random: Random, language: str) -> Filled:
    name, text = person(random, language), phrase(random, language)
    if language == "zh":
        question, answer = (
            pick(random, (f"给{name}发消息说“{text}”。", f"告诉{name}“{text}”。")),
            f"消息已经发给{name}。",
        )
    else:
        question = pick(
            random, (f'Send "{text}" to {name}.', f'Send a message to {name} that says "{text}".')
        )
        answer = f"The message was sent to {name}."
    return Filled({"to": name, "text": text}, question, {"status": "sent"}, answer)


def _alarm(random: Random, language: str) -> Filled:
    time = f"{random.integers(24):02d}:{random.integers(60):02d}"
    if language == "zh":
        question, answer = (
            pick(random, (f"设一个{time}的闹钟。", f"请在{time}叫醒我。")),
            f"闹钟已设为{time}。",
        )
    else:
        question = pick(random, (f"Set an alarm for {time}.", f"Wake me up at {time}."))
        answer = f"The alarm is set for {time}."
    return Filled({"time": time}, question, {"status": "ok"}, answer)


def _hotel(random: Random, language: str) -> Filled:
    place, nights, booking = city(random, language), int(random.integers(1, 15)), code(random)
    if language == "zh":
        question, answer = f"在{place}订一家酒店，住{nights}晚。", f"酒店已预订，编号是{booking}。"
    else:
        question = pick(
            random,
            (
                f"Book a hotel in {place} for {nights} nights.",
                f"I need a hotel in {place} for {nights} nights.",
            ),
        )
        answer = f"The hotel is booked. The code is {booking}."
    return Filled({"city": place, "nights": nights}, question, {"code": booking}, answer)


_MONEY = ("USD", "EUR", "CNY", "JPY", "GBP", "KRW", "CHF")


def _currency(random: Random, language: str) -> Filled:
    amount = int(random.integers(1, 2000))
    order = random.permutation(len(_MONEY))
    source, target = _MONEY[int(order[0])], _MONEY[int(order[1])]
    value = round(float(random.uniform(1, 3000)), 2)
    if language == "zh":
        question, answer = (
            pick(
                random, (f"{amount}{source}是多少{target}？", f"把{amount}{source}换成{target}。")
            ),
            f"{amount}{source}是{value}{target}。",
        )
    else:
        question = pick(
            random,
            (
                f"Convert {amount} {source} to {target}.",
                f"How much is {amount} {source} in {target}?",
            ),
        )
        answer = f"{amount} {source} is {value} {target}."
    return Filled(
        {"amount": amount, "from": source, "to": target}, question, {"value": value}, answer
    )


def _song(random: Random, language: str) -> Filled:
    title = phrase(random, language)
    if language == "zh":
        question, answer = (
            pick(random, (f"播放歌曲“{title}”。", f"我想听“{title}”。")),
            f"正在播放“{title}”。",
        )
    else:
        question = pick(random, (f'Play the song "{title}".', f'I want to hear "{title}".'))
        answer = f'Now playing "{title}".'
    return Filled({"title": title}, question, {"status": "playing"}, answer)


def _zoom(random: Random, language: str) -> Filled:
    box = [int(value) for value in random.integers(0, 1001, 4)]
    label = phrase(random, language)
    if language == "zh":
        question, answer = (
            pick(random, (f"放大{box}处的{label}。", f"请放大区域{box}，看{label}。")),
            f"已放大{label}。",
        )
    else:
        question = pick(
            random,
            (
                f"Zoom in on the {label} at {box}.",
                f"Look closer at the {label} in the region {box}.",
            ),
        )
        answer = f"I zoomed in on the {label}."
    return Filled({"bbox": box, "label": label}, question, {"status": "ok"}, answer)


def _account(random: Random, language: str) -> Filled:
    number, name = int(random.integers(1, 100000)), person(random, language)
    if language == "zh":
        question, answer = (
            pick(random, (f"查询用户{number}的资料。", f"用户{number}是谁？")),
            f"用户{number}是{name}。",
        )
    else:
        question = pick(random, (f"Show the data of user {number}.", f"Who is user {number}?"))
        answer = f"User {number} is {name}."
    return Filled({"user_id": number}, question, {"name": name}, answer)


_ROOMS = (
    ("kitchen", "厨房"),
    ("bedroom", "卧室"),
    ("office", "办公室"),
    ("garden", "花园"),
    ("hall", "大厅"),
)


def _light(random: Random, language: str) -> Filled:
    room = _ROOMS[int(random.integers(5))][0 if language == "en" else 1]
    lit = bool(random.random() < 0.5)
    if language == "zh":
        question = f"{'打开' if lit else '关掉'}{room}的灯。"
        answer = f"{room}的灯已{'打开' if lit else '关掉'}。"
    else:
        word = "on" if lit else "off"
        question, answer = (
            f"Turn {word} the light in the {room}.",
            f"The light in the {room} is {word} now.",
        )
    return Filled({"room": room, "on": lit}, question, {"status": "ok"}, answer)


DOMAINS = (
    Domain(
        ("get_weather", "weather_lookup", "query_weather", "current_weather", "fetch_weather",
         "getWeather", "weather", "check_weather", "weather_info", "lookup_forecast"),
        "Determine weather in my location",
        {"city": _CITY, "unit": Role(("unit", "units", "scale", "degrees_unit"), {"type": "string", "enum": ["c", "f"]})},
        _weather,
    ),
    Domain(
        ("get_time", "current_time", "world_clock", "getLocalTime", "clock", "time_in_city", "local_time"),
        "Get the current time in a city",
        {"city": _CITY},
        _clock,
    ),
    Domain(
        ("add", "add_numbers", "calculator", "sum_two", "plus", "compute_sum", "addition"),
        "Add two numbers",
        {"a": Role(("a", "x", "first", "left", "number1"), _INTEGER), "b": Role(("b", "y", "second", "right", "number2"), _INTEGER)},
        _sum,
    ),
    Domain(
        ("web_search", "search", "search_web", "find_online", "google", "lookup", "internet_search"),
        "Search the web",
        {"query": Role(("query", "q", "keywords", "search_text", "term"), _text("What to search for"))},
        _search,
    ),
    Domain(
        ("translate", "translate_text", "translator", "to_language", "translation", "translateWords"),
        "Translate a text",
        {"text": Role(("text", "source", "sentence", "input", "words"), _text("The text to translate")),
         "language": Role(("language", "target", "to_language", "lang", "target_language"), _text("The target language"))},
        _translate,
    ),
    Domain(
        ("get_stock_price", "stock_price", "quote", "stock", "share_price", "ticker_price"),
        "Get the price of a stock",
        {"symbol": Role(("symbol", "ticker", "stock", "company", "stock_symbol"), _text("The stock symbol"))},
        _stock,
    ),
    Domain(
        ("send_message", "message", "send_text", "sendMail", "notify", "write_to", "send_note"),
        "Send a message to a person",
        {"to": Role(("to", "recipient", "name", "person", "receiver"), _text("Who gets the message")),
         "text": Role(("text", "body", "content", "message", "message_text"), _text("What it says"))},
        _message,
    ),
    Domain(
        ("set_alarm", "alarm", "create_alarm", "wake_up", "alarm_clock", "add_alarm"),
        "Set an alarm",
        {"time": Role(("time", "at", "when", "alarm_time", "clock_time"), _text("The time of the alarm"))},
        _alarm,
    ),
    Domain(
        ("book_hotel", "hotel_booking", "reserve_hotel", "bookRoom", "hotel", "reserve_room"),
        "Book a hotel",
        {"city": _CITY, "nights": Role(("nights", "num_nights", "days", "duration", "stay"), _INTEGER)},
        _hotel,
    ),
    Domain(
        ("convert_currency", "currency", "exchange", "convert_money", "exchangeRate", "money_convert"),
        "Convert an amount of money",
        {"amount": Role(("amount", "value", "sum", "money", "quantity"), _NUMBER),
         "from": Role(("from", "source", "from_currency", "base", "have"), _text("The currency to convert from")),
         "to": Role(("to", "target", "to_currency", "goal", "want"), _text("The currency to convert to"))},
        _currency,
    ),
    Domain(
        ("play_song", "play_music", "music_player", "playTrack", "start_song", "play"),
        "Play a song",
        {"title": Role(("title", "song", "name", "track", "song_title"), _text("The title of the song"))},
        _song,
    ),
    Domain(
        ("image_zoom_in_tool", "zoom_in", "crop_image", "zoom", "magnify", "enlarge"),
        "Zoom in on a region of an image",
        {"bbox": Role(("bbox_2d", "bbox", "box", "region", "area"), {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}),
         "label": Role(("label", "object", "name", "target", "thing"), _text("The name of the object"))},
        _zoom,
    ),
    Domain(
        ("get_user", "user_info", "find_user", "account", "load_profile", "getUserData", "user_lookup"),
        "Get the data of a user",
        {"user_id": Role(("user_id", "id", "user", "account", "uid"), _INTEGER)},
        _account,
    ),
    Domain(
        ("switch_light", "light", "set_light", "lights", "lamp_switch", "control_light"),
        "Turn the light in a room on or off",
        {"room": Role(("room", "where", "place", "location", "room_name"), _text("The room")),
         "on": Role(("on", "state", "is_on", "enabled", "power"), {"type": "boolean"})},
        _light,
    ),
)  # fmt: skip
# Names that are for measuring only.
RESERVED = {name for domain in DOMAINS for name in domain.names[-2:]} | {
    role.names[-1] for domain in DOMAINS for role in domain.roles.values()
}
