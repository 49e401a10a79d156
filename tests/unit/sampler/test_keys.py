import numpy as np

from backend.sampler import derived_key, seed_key
from backend.sampler.keys import uniform


def test_a_number_depends_on_key_and_position_only():
    first = [uniform(seed_key(7), position) for position in range(5)]
    again = [uniform(seed_key(7), position) for position in reversed(range(5))]
    assert first == again[::-1]
    assert len(set(first)) == 5
    assert first != [uniform(seed_key(8), position) for position in range(5)]


def philox_4x64_10(key, counter):
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & mask, (low >> 64) ^ c[3] ^ k[1], low & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_numbers_are_philox_of_the_published_algorithm_so_a_seed_keeps_its_meaning():
    for key in (seed_key(42), seed_key(2**63 - 1), derived_key(0, "a")):
        for position in (0, 1, 131071):
            word = philox_4x64_10(key, (position + 1, 0, 0, 0))[0]
            assert uniform(key, position) == (word >> 11) / 2**53


def test_derived_streams_are_repeatable_and_never_a_users_seed():
    assert derived_key(0, "a") == derived_key(0, "a")
    assert len({derived_key(0, "a"), derived_key(0, "b"), derived_key(1, "a")}) == 3
    assert derived_key(0, "a")[1] % 2 == 1
    assert seed_key(3)[1] == 0


def test_numbers_are_uniform_over_positions_and_over_seeds():
    for draws in (
        [uniform(seed_key(1), position) for position in range(20_000)],
        [uniform(seed_key(seed), 3) for seed in range(20_000)],
    ):
        counts, _ = np.histogram(draws, bins=20, range=(0, 1))
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert chi_square < 50.8  # 19 degrees of freedom, p = 1e-4
