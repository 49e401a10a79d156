import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backend.errors import InternalError
from backend.kv_cache import BlockPool


def test_blocks_without_published_content_become_unused():
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    assert (pool.num_free_blocks, pool.num_held_blocks, pool.num_cached_blocks) == (1, 3, 0)
    pool.free(blocks)
    assert (pool.num_free_blocks, pool.num_held_blocks, pool.num_cached_blocks) == (4, 0, 0)


def test_published_blocks_are_found_until_they_are_evicted():
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], b"first")
    pool.publish(blocks[1], b"second")
    pool.free(blocks)
    assert pool.num_cached_blocks == 2
    assert pool.match([b"first", b"second", b"third"]) == blocks
    pool.allocate(2)  # the unused block, then the end of the cached prefix
    assert pool.match([b"first", b"second"]) == blocks[:1]
    pool.allocate(1)
    assert pool.match([b"first", b"second"]) == []


def test_the_least_recently_freed_prefix_is_evicted_first():
    pool = BlockPool(2)
    (old,) = pool.allocate(1)
    (new,) = pool.allocate(1)
    pool.publish(old, b"old")
    pool.publish(new, b"new")
    pool.free([new])
    pool.free([old])
    pool.acquire(pool.match([b"new"]))
    pool.free([new])  # used again: now the younger one
    assert pool.allocate(1) == [old]


def test_a_shared_block_is_freed_with_its_last_reference():
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.publish(block, b"x")
    pool.acquire([block])
    pool.free([block])
    assert pool.num_held_blocks == 1
    pool.free([block])
    assert (pool.num_held_blocks, pool.num_cached_blocks) == (0, 1)


def test_two_blocks_with_one_content_keep_the_first():
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.publish(first, b"x")
    pool.publish(second, b"x")
    assert pool.match([b"x"]) == [first]
    pool.free([second])
    assert pool.num_cached_blocks == 0
    pool.check_integrity([[first]])


def test_forgotten_content_is_not_found_and_its_holder_keeps_it():
    pool = BlockPool(2)
    held, cached = pool.allocate(2)
    pool.publish(held, b"held")
    pool.publish(cached, b"cached")
    pool.free([cached])
    pool.forget([held, cached])
    assert pool.match([b"held"]) == pool.match([b"cached"]) == []
    pool.check_integrity([[held]])
    assert pool.num_cached_blocks == 0


def test_block_0_is_nobodys_because_batches_pad_with_it():
    assert sorted(BlockPool(3).allocate(3)) == [1, 2, 3]


def test_asking_for_more_than_is_free_is_an_error_with_the_numbers():
    with pytest.raises(InternalError, match="asked for 3 KV blocks; 2 are free"):
        BlockPool(2).allocate(3)


def test_freeing_twice_is_an_error():
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(InternalError, match="freed twice"):
        pool.free(blocks)


def test_integrity_check_finds_a_lost_and_a_wrongly_shared_block():
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.check_integrity([blocks])
    with pytest.raises(InternalError, match="counted 1, owned 0 times"):
        pool.check_integrity([])
    with pytest.raises(InternalError, match="counted 1, owned 2 times"):
        pool.check_integrity([blocks, blocks])


def damage(kind):
    """A pool with one unused, one held and one cached block, and one account changed."""
    pool = BlockPool(3)
    held, cached = pool.allocate(2)
    pool.publish(cached, b"x")
    pool.free([cached])
    if kind == "lost":
        pool._unused.clear()
    elif kind == "twice":
        pool._unused.append(cached)
    elif kind == "padding":
        pool._unused.append(0)
    elif kind == "renamed":
        pool._block_of[b"y"] = pool._block_of.pop(b"x")
        pool._block_of[b"z"] = held
    elif kind == "nameless":
        pool._drop_hash(cached)
    return pool, [[held]]


def test_integrity_check_passes_on_an_undamaged_pool():
    pool, tables = damage("nothing")
    pool.check_integrity(tables)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("lost", "0 unused . 1 held . 1 cached != 3"),
        ("twice", "do not add up"),
        ("padding", "do not add up"),
        ("renamed", "1 blocks with a hash, 2 hashes"),
        ("nameless", "0 blocks with a hash, 0 hashes, 1 cached"),
    ],
)
def test_integrity_check_finds_every_kind_of_damage(kind, message):
    pool, tables = damage(kind)
    with pytest.raises(InternalError, match=message):
        pool.check_integrity(tables)


class PoolMachine(RuleBasedStateMachine):
    """Owners with chains of content: block n of chain c is named (c, n)."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12)
        self.owners = []  # [chain, blocks]

    @rule(chain=st.integers(0, 3), length=st.integers(1, 5))
    def start(self, chain, length):
        hashes = [b"%d/%d" % (chain, n) for n in range(length)]
        shared = self.pool.match(hashes)
        self.pool.acquire(shared)
        missing = length - len(shared)
        if missing > self.pool.num_free_blocks:
            self.pool.free(shared)
            return
        self.owners.append((chain, shared + self.pool.allocate(missing)))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), count=st.integers(0, 5))
    def publish(self, data, count):
        chain, blocks = data.draw(st.sampled_from(self.owners))
        for n, block in enumerate(blocks[:count]):
            self.pool.publish(block, b"%d/%d" % (chain, n))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), forget=st.booleans())
    def stop(self, data, forget):
        owner = data.draw(st.sampled_from(self.owners))
        self.owners.remove(owner)
        if forget:
            self.pool.forget(owner[1])
        self.pool.free(owner[1])

    @invariant()
    def everything_adds_up(self):
        self.pool.check_integrity(blocks for _, blocks in self.owners)
        assert self.pool.num_held_blocks == len({b for _, blocks in self.owners for b in blocks})

    @invariant()
    def only_equal_prefixes_are_shared(self):
        place_of = {}
        for chain, blocks in self.owners:
            for n, block in enumerate(blocks):
                assert place_of.setdefault(block, (chain, n)) == (chain, n)

    def teardown(self):
        for _, blocks in self.owners:
            self.pool.free(blocks)
        assert self.pool.num_free_blocks == 12


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
