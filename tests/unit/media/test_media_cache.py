"""The media cache: what hits, what goes, and its sum under threads."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.media.cache import MediaCache, cache_key
from backend.media.item import make_item
from backend.media.options import ProcessorOptions

OPTIONS = ProcessorOptions()


def _item(blocks=1, value=0):
    grid = (1, 2, 2 * blocks)
    return make_item("image", grid, np.full((4 * blocks, 588), value, np.uint8))


def test_the_key_is_content_kind_and_options():
    key = cache_key(b"data", "image", OPTIONS)
    assert key == cache_key(b"data", "image", ProcessorOptions())
    larger = OPTIONS.override({"image_max_pixels": 10**6}, "x")
    for other in (
        cache_key(b"Data", "image", OPTIONS),
        cache_key(b"data", "video", OPTIONS),
        cache_key(b"data", "image", larger),
    ):
        assert other != key


def test_the_least_recently_used_item_goes_first():
    cache = MediaCache(max_bytes=2 * 4 * 588)
    keys = [cache_key(bytes([number]), "image", OPTIONS) for number in range(3)]
    cache.put(keys[0], _item())
    cache.put(keys[1], _item())
    assert cache.get(keys[0]) is not None
    cache.put(keys[2], _item())
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) is not None and cache.get(keys[2]) is not None


def test_an_item_larger_than_the_cache_is_not_kept():
    cache = MediaCache(max_bytes=588)
    cache.put(cache_key(b"", "image", OPTIONS), _item())
    assert len(cache) == 0 and cache.size_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), max_size=40))
def test_the_sum_is_that_of_what_is_kept_and_within_the_budget(puts):
    cache = MediaCache(max_bytes=20_000)
    last = {}
    for name, blocks in puts:
        key = cache_key(bytes([name]), "image", OPTIONS)
        last[name] = (key, _item(blocks))
        cache.put(*last[name])
        kept = [item for key, item in last.values() if cache.get(key) is not None]
        assert cache.size_bytes == sum(item.size_bytes for item in kept) <= cache.max_bytes
        assert len(kept) == len(cache)


def test_threads_do_not_corrupt_it():
    cache = MediaCache(max_bytes=10 * 4 * 588)
    keys = [cache_key(bytes([number]), "image", OPTIONS) for number in range(20)]
    item = _item()

    def work(start):
        for step in range(300):
            key = keys[(start + step * 7) % 20]
            if cache.get(key) is None:
                cache.put(key, item)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.size_bytes == len(cache) * item.size_bytes == cache.max_bytes
