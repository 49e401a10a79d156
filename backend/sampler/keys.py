"""Random numbers by name: number `position` of stream `key`, whatever was drawn before or beside.

Philox is a counter-based generator: its output is a function of key and counter alone. A request
that is preempted, or that runs in another batch, so draws the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = tuple[int, int]
"""Two 64-bit words."""


def seed_key(seed: int) -> Key:
    """The stream of a user's seed."""
    return (seed, 0)


def derived_key(engine_seed: int, name: str) -> Key:
    """The stream of a request without a seed; never one of a user's seeds (odd second word).

    `name` brings the entropy: stream keys are random UUIDs. With equal engine seeds and equal names
    the stream is the same, which makes a failure repeatable.
    """
    digest = hashlib.blake2b(f"{engine_seed}/{name}".encode(), digest_size=16).digest()
    return (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little") | 1)


def uniform(key: Key, position: int) -> float:
    """A float64 in [0, 1) with 53 random bits."""
    generator = np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array([position, 0, 0, 0], dtype=np.uint64)
    )
    return float(int(generator.random_raw()) >> 11) * 2.0**-53
