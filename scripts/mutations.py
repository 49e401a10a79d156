"""Break the backend on purpose and see which test notices: `python scripts/mutations.py`.

Every mutation changes a line or two in a temporary copy of the sources. Two sets of tests run on
it, each to its first failure: the unit tests of what it touches, and what the shipped checkpoint
says (tests/unit/trained/test_trained_engine.py). A mutation that no test notices ends the run with
status 1; so does one that no longer applies. Needs the `test` environment, but no torch.
docs/mutations.md is the record of a whole run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "mutations.md"
COPIED = ("backend", "kernels", "scripts", "tests", "pyproject.toml")
MEANING = ("tests/unit/trained/test_trained_engine.py",)
TIMEOUT_S = 1200  # for a busy machine
_HEAD = """# Mutations

What the tests say when the backend is broken on purpose. `python scripts/mutations.py` applies each
mutation to a copy of the sources, runs the unit tests of what it touches and then what the shipped
checkpoint says (`tests/unit/trained/test_trained_engine.py`), each to its first failure, and writes
this file. A dash: it noticed nothing. Files are below `tests/unit`.

| mutation | where | unit test that fails first | meaning that fails first |
|---|---|---|---|
"""
_FAILED = re.compile(
    r"^(?:FAILED|ERROR) tests/unit/(\S+?\.py)(?:::(.+?))?(?: - (.*))?$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old`, which occurs once in `file`, becomes `new`; `tests` are the unit tests to run."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> int:
        """Change the file under `root`; the line number of the change. ValueError: not there."""
        path = root / self.file
        source = path.read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: {self.old!r} occurs {source.count(self.old)} times in {self.file}"
            )
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        return source[: source.index(self.old)].count("\n") + 1


MUTATIONS = (
    Mutation(
        "pictures: RGB becomes BGR",
        "backend/media/image.py",
        "frames = np.asarray(resized)[np.newaxis]",
        "frames = np.asarray(resized)[np.newaxis, :, :, ::-1]",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "patches: pixel rows and columns of a patch exchanged",
        "backend/media/patches.py",
        "split.transpose(0, 1, 4, 2, 5, 7, 3, 6)",
        "split.transpose(0, 1, 4, 2, 5, 7, 6, 3)",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "patches: the patches of a merge block column by column",
        "backend/media/patches.py",
        "split.transpose(0, 1, 4, 2, 5, 7, 3, 6)",
        "split.transpose(0, 1, 4, 5, 2, 7, 3, 6)",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "3-D positions: those of pictures one too high",
        "backend/media/positions.py",
        "position + np.indices(grid, dtype=np.int32)",
        "position + 1 + np.indices(grid, dtype=np.int32)",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "3-D positions: text after a picture one too high",
        "backend/media/positions.py",
        "position += max(grid)",
        "position += max(grid) + 1",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "experts: text and vision groups exchanged",
        "backend/layers/moe.py",
        "ops.moe_weights(groups, shared)",
        "ops.moe_weights(groups[::-1], shared)",
        ("tests/unit/ops/test_paddle_moe.py", "tests/unit/models/test_goldens.py"),
    ),
    Mutation(
        "experts: correction bias dropped from the choice",
        "backend/ops/routing.py",
        "_top_k(probabilities + correction_bias, top_k)",
        "_top_k(probabilities, top_k)",
        ("tests/unit/ops/test_paddle_moe.py", "tests/unit/models/test_goldens.py"),
    ),
    Mutation(
        "prefix cache: keys without the picture's digest",
        "backend/kv_cache/block_hash.py",
        "        state.update(digest)\n",
        "",
        ("tests/unit/kv_cache", "tests/unit/scheduler", "tests/unit/engine"),
    ),
    Mutation(
        "prefix cache: keys without what precedes the block",
        "backend/kv_cache/block_hash.py",
        "hashlib.blake2b(parent, digest_size=HASH_BYTES)",
        "hashlib.blake2b(b'', digest_size=HASH_BYTES)",
        ("tests/unit/kv_cache", "tests/unit/scheduler", "tests/unit/engine"),
    ),
    Mutation(
        "resize: halves round up instead of to even",
        "backend/media/resize.py",
        "    resized_height = max(factor, round(height / factor) * factor)\n"
        "    resized_width = max(factor, round(width / factor) * factor)\n",
        "    resized_height = max(factor, math.floor(height / factor + 0.5) * factor)\n"
        "    resized_width = max(factor, math.floor(width / factor + 0.5) * factor)\n",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "videos: frames without their time",
        "backend/media/timestamp.py",
        "        timestamp_text(seconds),\n        font",
        '        "",\n        font',
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
    Mutation(
        "videos: frames in reverse order",
        "backend/media/video_worker.py",
        "for index in indices:",
        "for index in indices[::-1]:",
        ("tests/unit/media", "tests/unit/preprocess"),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The first failing test of each set; "" when all passed."""

    mutation: Mutation
    line: int
    unit: str
    meaning: str

    @property
    def is_caught(self) -> bool:
        return bool(self.unit or self.meaning)

    def row(self) -> str:
        where = f"`{self.mutation.file}:{self.line}`"
        unit, meaning = (f"`{test}`" if test else "—" for test in (self.unit, self.meaning))
        return f"| {self.mutation.name} | {where} | {unit} | {meaning} |"


def main() -> None:
    options = _options()
    chosen = [m for m in MUTATIONS if options.only in m.name]
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        healthy = _copy(Path(folder) / "healthy")
        tests = dict.fromkeys(test for mutation in chosen for test in mutation.tests)
        failed = first_failure(healthy, (*tests, *MEANING))
        if failed:
            sys.exit(f"without any mutation, {failed} fails already")
        outcomes = []
        for number, mutation in enumerate(chosen):
            began = time.monotonic()
            outcomes.append(try_out(mutation, Path(folder) / str(number)))
            print(f"{outcomes[-1].row()} {time.monotonic() - began:.0f} s", flush=True)
    if not options.only:
        RECORD.write_text(record(outcomes), encoding="utf-8")
    unnoticed = [outcome.mutation.name for outcome in outcomes if not outcome.is_caught]
    if unnoticed:
        sys.exit(f"no test notices: {'; '.join(unnoticed)}")


def try_out(mutation: Mutation, root: Path) -> Outcome:
    _copy(root)
    line = mutation.apply(root)
    return Outcome(
        mutation, line, first_failure(root, mutation.tests), first_failure(root, MEANING)
    )


def first_failure(root: Path, tests: tuple[str, ...]) -> str:
    """`test_file.py::test_name` of the first test that fails under `root`, or ""; prints why."""
    # Hypothesis' own profile "ci": the same examples each time, and no deadline.
    options = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci")
    command = [sys.executable, "-m", "pytest", *options, *tests]
    run = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "COLUMNS": "200"},  # or the reason is cut off
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if run.returncode == 0:
        return ""
    match = _FAILED.search(run.stdout)
    if run.returncode != 1 or match is None:
        raise RuntimeError(f"pytest ended with {run.returncode}:\n{run.stdout[-2000:]}")
    file, test, why = match.groups()
    print(f"    {test or file}: {why}", flush=True)
    return f"{file}::{test}" if test else file


def record(outcomes: list[Outcome]) -> str:
    return _HEAD + "".join(f"{outcome.row()}\n" for outcome in outcomes)


def _copy(root: Path) -> Path:
    root.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so")  # kernels as shipped
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / name)
    (root / "checkpoints").symlink_to(ROOT / "checkpoints")
    return root


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutations.py", description=__doc__)
    parser.add_argument("--only", default="", help="those whose names hold this; writes no record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
