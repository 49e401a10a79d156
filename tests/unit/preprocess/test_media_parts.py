"""Which media a conversation refers to, and what is refused before any is fetched."""

import pytest

from backend.errors import ConfigError, InvalidRequestError, MediaError, MediaFetchError
from backend.media.options import ProcessorOptions
from backend.preprocess.media_parts import DEFAULT_LIMITS, collect_media, parse_limits
from tests.unit.preprocess.bodies import as_request, picture, user, video


def _collect(messages, limits=DEFAULT_LIMITS):
    return collect_media(as_request(messages=messages).messages, ProcessorOptions(), limits)


def test_media_are_found_in_every_role_and_spelling_in_order():
    messages = [
        *user(picture("one"), "text", video("two", fps=1)),
        {"role": "assistant", "content": None},
        {"role": "tool", "content": [{"type": "image_url", "image_url": "three"}]},
        {"role": "user", "content": {"type": "video", "video_url": {"url": "four"}}},
    ]
    found = _collect(messages)
    assert [(item.kind, item.url, item.number) for item in found] == [
        ("image", "one", 1),
        ("video", "two", 1),
        ("image", "three", 2),
        ("video", "four", 2),
    ]
    assert [item.where for item in found] == [
        "messages[0].content[0]",
        "messages[0].content[2]",
        "messages[2].content[0]",
        "messages[3].content[0]",
    ]
    assert found[1].options.video_fps == 1.0 and found[3].options.video_fps == 2.0


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": {"url": ""}}, "image_url"),
        ({"type": "image_url", "video_url": {"url": "x"}}, "image_url"),
        ({"type": "video_url", "video_url": ""}, "video_url"),
    ],
)
def test_a_part_without_url_is_named(part, field):
    with pytest.raises(InvalidRequestError) as info:
        _collect(user("x", part))
    assert info.value.message.startswith(f"messages[0].content[1].{field}.url is missing")


def test_the_limit_counts_the_whole_conversation():
    messages = user(*[picture("x")] * 6) + user(*[picture("x")] * 5)
    with pytest.raises(MediaError, match="hold 11 images; at most 10 are allowed") as info:
        _collect(messages)
    assert "--limit-mm-per-prompt" in info.value.message
    with pytest.raises(MediaError, match="hold 1 videos; at most 0"):
        _collect(user(video("x")), {"image": 1, "video": 0})


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (user(*["x"] * 257), "257 parts; at most 256"),
        ([{"role": "user", "content": "x"}] * 2049, "2049 messages; at most 2048"),
        ([{"role": "user", "content": "x" * (4 * 2**20 + 1)}], r"messages\[0\].content has more"),
        (user("图" * (2 * 2**20)), r"messages\[0\].content\[0\].text has more than the 4194304"),
    ],
)
def test_sizes_are_bounded(messages, message):
    with pytest.raises(InvalidRequestError, match=message):
        _collect(messages)


def test_limits_come_from_the_flag():
    assert parse_limits({}) == {"image": 10, "video": 3}
    assert parse_limits({"image": 100, "audio": 1}) == {"image": 100, "video": 3}


@pytest.mark.parametrize(
    "value", [{"pictures": 1}, {"image": -1}, {"image": True}, {"video": "3"}, {"video": 1.5}]
)
def test_bad_limits_stop_the_start(value):
    with pytest.raises(ConfigError, match="--limit-mm-per-prompt"):
        parse_limits(value)


def test_an_error_says_which_item_it_is_about():
    source = _collect(user("x", picture("one"), picture("two")))[1]
    assert type(source.named(MediaFetchError("x"))) is MediaFetchError
    error = source.named(MediaError("too blue", code="media_too_blue"))
    assert error.message == "messages[0].content[2] (image 2): too blue"
    assert (error.param, error.code) == ("messages[0].content[2]", "media_too_blue")
