"""`uuid` of a part: sent once, named afterwards; `detail` and a video's own options."""

import numpy as np
import pytest

from backend.errors import InvalidRequestError, MediaError
from backend.media.names import MediaNames
from backend.preprocess.media_parts import LOW_DETAIL_PIXELS
from tests.unit.preprocess.bodies import as_request, data_uri, picture, png, user, video

TAIL = "What is it?"


def sent(data, uuid, **options):
    return {"type": "image_url", "image_url": {"url": data_uri(data), **options}, "uuid": uuid}


def named(uuid, kind="image", **options):
    part = {"type": f"{kind}_url", "uuid": uuid}
    return {**part, f"{kind}_url": options} if options else part


def test_a_part_with_a_uuid_alone_is_what_was_sent_under_it(prepare):
    first = prepare(messages=user(sent(png(), "cat-1"), TAIL))
    for image_url in ({}, {"image_url": None}, {"image_url": {}}, {"image_url": {"url": ""}}):
        part = {"type": "image_url", "uuid": "cat-1", **image_url}
        again = prepare(messages=user(part, TAIL))
        assert again.prompt_ids.tolist() == first.prompt_ids.tolist()
        assert np.array_equal(again.pixels, first.pixels)
        assert again.engine.media == first.engine.media
    (report,) = again.engine.post.report.media
    assert (report.num_bytes, report.fetch_s, report.decode_s) == (0, None, None)


def test_the_name_holds_within_the_request_wherever_it_stands(prepare):
    messages = [*user(named("a"), "first?"), *user(sent(png(), "a"), picture(data_uri(png())))]
    media = prepare(messages=messages).engine.media
    assert len({span.digest for span in media}) == 1
    assert len(media) == 3


def test_a_name_means_the_file_that_was_last_sent_under_it(prepare):
    one, two = png(seed=1), png(seed=2)
    digests = {
        seed: prepare(messages=user(picture(data_uri(data)))).engine.media[0].digest
        for seed, data in ((1, one), (2, two))
    }
    prepare(messages=user(sent(one, "x")))
    prepare(messages=user(sent(two, "x")))
    assert prepare(messages=user(named("x"))).engine.media[0].digest == digests[2]
    prepare(messages=user(sent(two, "x"), sent(one, "x")))
    assert prepare(messages=user(named("x"))).engine.media[0].digest == digests[1]


def test_an_unknown_name_is_a_clear_400(prepare):
    with pytest.raises(MediaError) as info:
        prepare(messages=user(picture(data_uri(png())), named("never-sent")))
    error = info.value
    assert (error.status, error.code) == (400, "media_not_cached")
    assert error.param == "messages[0].content[1]"
    assert "'never-sent'" in error.message and "send the image itself again" in error.message


def test_a_picture_is_no_video_of_the_same_name(prepare):
    prepare(messages=user(sent(png(), "x")))
    with pytest.raises(MediaError, match="send the video itself again"):
        prepare(messages=user(named("x", "video")))


def test_other_options_are_not_what_is_kept(prepare, clip):
    part = {**video(data_uri(clip), max_frames=4, min_frames=4), "uuid": "film"}
    prepare(messages=user(part))
    kept = prepare(messages=user(named("film", "video", max_frames=4, min_frames=4)))
    assert kept.engine.media[0].grid[0] == 4
    with pytest.raises(MediaError) as info:
        prepare(messages=user(named("film", "video", max_frames=2)))
    assert info.value.code == "media_not_cached"


def test_what_the_cache_gave_up_is_gone(make_preprocessor):
    one = 56 * 84 * 3
    preprocessor = make_preprocessor(media_cache_gib=1.5 * one / 2**30)

    def prepare(*parts):
        return preprocessor.prepare(as_request(messages=user(*parts)), [], "r")

    prepare(sent(png(seed=1), "a"))
    prepare(named("a"))
    prepare(sent(png(seed=2), "b"))
    prepare(named("b"))
    with pytest.raises(MediaError) as info:
        prepare(named("a"))
    assert info.value.code == "media_not_cached"
    prepare(sent(png(seed=1), "a"), named("a"))


def test_without_a_cache_every_name_is_unknown(make_preprocessor):
    preprocessor = make_preprocessor(media_cache_gib=0)
    request = as_request(messages=user(sent(png(), "a"), named("a")))
    with pytest.raises(MediaError, match="nothing is kept"):
        preprocessor.prepare(request, [], "r")


def test_named_media_count_in_the_limits(make_preprocessor):
    preprocessor = make_preprocessor(limit_mm_per_prompt={"image": 1})
    request = as_request(messages=user(sent(png(), "a"), named("a")))
    with pytest.raises(MediaError) as info:
        preprocessor.prepare(request, [], "r")
    assert info.value.code == "too_many_media"


@pytest.mark.parametrize("uuid", ["", "x" * 257])
def test_a_name_has_a_length(prepare, uuid):
    with pytest.raises(InvalidRequestError) as info:
        prepare(messages=user(sent(png(), uuid)))
    assert info.value.param == "messages[0].content[0].uuid"


def test_the_oldest_names_are_forgotten():
    names = MediaNames(max_names=2)
    for name in ("a", "b"):
        names.put("image", name, name.encode())
    assert names.get("image", "a") == b"a"
    names.put("image", "c", b"c")
    assert (names.get("image", "a"), names.get("image", "b")) == (b"a", None)
    assert len(names) == 2


def test_low_detail_bounds_a_picture_and_the_others_do_not(prepare):
    def tokens(**options):
        part = {"type": "image_url", "image_url": {"url": data_uri(png(868, 1120)), **options}}
        (span,) = prepare(messages=user(part)).engine.media
        return span.num_tokens

    usual = tokens()
    assert usual == 1240
    assert [tokens(detail=word) for word in ("auto", "high", "original")] == [usual] * 3
    assert tokens(detail="low") * 28 * 28 <= LOW_DETAIL_PIXELS
    assert tokens(detail="low") > 0.8 * LOW_DETAIL_PIXELS / 28**2


def test_low_detail_never_makes_a_picture_larger(make_preprocessor):
    preprocessor = make_preprocessor(mm_processor_kwargs={"image_max_pixels": 28 * 28 * 4})
    part = {"type": "image_url", "image_url": {"url": data_uri(png(280, 280)), "detail": "low"}}
    (span,) = preprocessor.prepare(as_request(messages=user(part)), [], "r").engine.media
    assert span.num_tokens <= 4


def test_an_unknown_detail_is_named(prepare):
    part = {"type": "image_url", "image_url": {"url": data_uri(png()), "detail": "hihg"}}
    with pytest.raises(InvalidRequestError) as info:
        prepare(messages=user(part))
    assert info.value.param == "messages[0].content[0].image_url.detail"
    assert "'hihg'" in info.value.message and "auto, low, high" in info.value.message


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        # The clip has 8 frames, 2 seconds.
        ({"fps": 1, "min_frames": 2, "max_frames": 8}, 2),
        ({"fps": 3, "min_frames": 2, "max_frames": 8}, 6),
        ({"fps": 1, "min_frames": 6, "max_frames": 8}, 6),
        ({"fps": 4, "min_frames": 2, "max_frames": 4}, 4),
        ({"target_frames": 4, "min_frames": 2}, 4),
    ],
)
def test_a_videos_own_options_decide_its_frames(prepare, clip, options, frames):
    messages = user(video(data_uri(clip, "video/mp4"), **options), TAIL)
    (span,) = prepare(messages=messages).engine.media
    assert span.grid[0] == frames


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"fps": 1000}, "fps"),
        ({"min_frames": -5}, "min_frames"),
        ({"max_frames": 10**7}, "max_frames"),
    ],
)
def test_an_impossible_option_is_named(prepare, clip, options, name):
    with pytest.raises(InvalidRequestError) as info:
        prepare(messages=user(video(data_uri(clip), **options)))
    assert info.value.param == f"messages[0].content[0].video_url.{name}"
