"""Loading side by side: order, cache, budgets, first failure."""

import threading

import pytest

from backend.errors import MediaError
from backend.media.fetch import FetchPolicy
from backend.media.options import ProcessorOptions
from backend.media.video import VideoLimits
from backend.preprocess import media_loader
from backend.preprocess.media_loader import MediaLoader
from backend.preprocess.media_parts import MediaSource
from tests.unit.preprocess.bodies import data_uri, png


@pytest.fixture
def make_loader():
    loaders = []

    def make(policy=FetchPolicy(), **options):  # noqa: B008
        loaders.append(MediaLoader(policy, VideoLimits(), 2, **options))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def _sources(*urls, options=ProcessorOptions()):  # noqa: B008
    return [
        MediaSource("image", url, options, f"messages[0].content[{place}]", place + 1)
        for place, url in enumerate(urls)
    ]


def test_items_come_in_the_order_of_their_sources(make_loader):
    sizes = [(56, 56 + 28 * number) for number in range(6)]
    sources = _sources(*(data_uri(png(*size)) for size in sizes))
    loaded = make_loader().load(sources, [])
    assert [one.item.grid[2] * 14 for one in loaded] == [width for _, width in sizes]


def test_the_same_bytes_are_decoded_once_whatever_way_they_come(make_loader, monkeypatch):
    decoded = []
    real = media_loader.image_item

    def counting(data, *rest):
        decoded.append(len(data))
        return real(data, *rest)

    monkeypatch.setattr(media_loader, "image_item", counting)
    loader, data = make_loader(), png()
    (first,) = loader.load(_sources(data_uri(data)), [])
    (again,) = loader.load(_sources("media:0"), [data])
    assert again.item is first.item and len(decoded) == 1 and loader.cache.num_hits == 1
    other = ProcessorOptions(image_min_pixels=100_000)
    (larger,) = loader.load(_sources("media:0", options=other), [data])
    assert larger.item.grid != first.item.grid
    assert len(decoded) == 2


def test_a_failure_names_its_item(make_loader):
    sources = _sources(data_uri(png()), "media:0", "media:1")
    with pytest.raises(MediaError) as info:
        make_loader().load(sources, [b"no picture"])
    assert info.value.message.startswith("messages[0].content[1] (image 2): not a picture")
    assert info.value.param == "messages[0].content[1]"


def test_the_budget_is_of_the_whole_request_and_counts_cached_items(make_loader):
    one = 56 * 84 * 3
    loader = make_loader(request_bytes=2 * one)
    urls = [data_uri(png(seed=seed)) for seed in range(3)]
    assert len(loader.load(_sources(*urls[:2]), [])) == 2
    for count in (3, 3):
        with pytest.raises(MediaError, match=f"take more than {2 * one} bytes") as info:
            loader.load(_sources(*urls[:count]), [])
        assert info.value.code == "media_too_large"
    assert len(loader.load(_sources(urls[2]), [])) == 1


def test_no_more_files_are_decoded_at_a_time_than_allowed(make_loader, monkeypatch):
    running, most, lock = 0, 0, threading.Lock()
    both_in = threading.Barrier(2, timeout=10)
    real = media_loader.image_item

    def slow(data, *rest):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both_in.wait()
        with lock:
            running -= 1
        return real(data, *rest)

    monkeypatch.setattr(media_loader, "image_item", slow)
    make_loader().load(_sources(*(data_uri(png(seed=seed)) for seed in range(6))), [])
    assert most == 2


def test_a_report_tells_what_was_loaded_and_what_it_took(make_loader, tmp_path):
    data = png(56, 84)
    loader = make_loader(policy=FetchPolicy(allowed_local_media_path=str(tmp_path)))
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    first, again = (loader.load(_sources(path.as_uri()), [])[0].report for _ in range(2))
    for report in (first, again):
        assert (report.kind, report.num_bytes) == ("image", len(data))
        assert (report.num_pixels, report.num_tokens) == (56 * 84, 6)
        assert report.fetch_s is not None and report.fetch_s >= 0
    assert first.decode_s is not None and first.decode_s > 0
    assert again.decode_s is None, "the cache had it"
    for url in (data_uri(data), "media:0"):
        assert loader.load(_sources(url), [data])[0].report.fetch_s is None, "nothing was fetched"


def test_a_video_is_reported_with_all_its_frames(make_loader, clip):
    source = MediaSource("video", "media:0", ProcessorOptions(), "messages[0].content[0]", 1)
    (loaded,) = make_loader().load([source], [clip])
    frames, height, width = loaded.item.grid
    assert loaded.report.kind == "video"
    assert loaded.report.num_pixels == frames * height * width * 14 * 14
    assert loaded.report.num_tokens == frames * height * width // 8
