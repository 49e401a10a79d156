"""Which names of functions and parameters training has shown.

`python scripts/train_tiny/shown.py names.txt 0:first:1250000 1:further:818688` writes those of the
first so many examples of each stream, by seed and plan. `evaluate.py --shown names.txt` then tells
the calls with a name that training never showed from the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.train_tiny.mixture import drawn_task, make_sample, random_of, shares_at
from scripts.train_tiny.sample import Sample

_WITH_TOOLS = ("tools", "practice_calls")


def main() -> None:
    parser = argparse.ArgumentParser(prog="shown.py", description=__doc__)
    parser.add_argument("file", type=Path, help="one name a line")
    parser.add_argument("streams", nargs="+", help="SEED:PLAN:EXAMPLES")
    options = parser.parse_args()
    names: set[str] = set()
    for stream in options.streams:
        seed, plan, count = stream.split(":")
        names.update(shown(int(seed), plan, int(count)))
    options.file.write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")
    print(f"{len(names)} names")


def shown(seed: int, plan: str, count: int) -> Iterator[str]:
    """Names in the tools lists of the training stream's first `count` examples."""
    for index in range(count):
        random = random_of(seed, index, held_out=False)
        task = drawn_task(random, shares_at(plan, index))
        if task in _WITH_TOOLS:
            random.random()  # thinking or not
            yield from names_in(make_sample(task, random, held_out=False, thinking=False))


def names_in(sample: Sample) -> Iterator[str]:
    """The listed functions' names and those of their parameters."""
    for tool in sample.tools:
        yield tool["function"]["name"]
        yield from tool["function"]["parameters"]["properties"]


if __name__ == "__main__":
    main()
