"""Run the kernels' GPU tests under compute-sanitizer: `python scripts/sanitize_kernels.py`.

A sanitizer slows a launch a hundredfold and more, so the tests are spread over processes and GPUs:
every process collects the same tests and runs those that it is the first to claim. Only kernels of
this project are looked into; cuBLAS's, and torch's that make a test's reference, are left alone. A
test that fails is run again at the end, with the GPU for itself, as one that looks at the device's
free memory needs it.

racecheck looks at what it has recorded long after a test's last kernel, maybe only when the process
ends: one that is killed, or that dies, has checked nothing. So processes end after --slice seconds,
and others go on.

Prints a line per tool, and ends with status 1 when a tool found something, when a test failed, or
when one was not checked. Needs compute-sanitizer (it comes with CUDA), torch and a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNEL_TESTS = (
    "tests/gpu",
    "--ignore=tests/gpu/model",
    "--ignore=tests/gpu/test_engine_process.py",
)
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FEW_DRAWS = "100"  # of tests that make 600, the sampler's 40,000
OURS = "kns=5ernie"  # the mangled namespace of every kernel in kernels/
PORTS_FROM, PORTS_EACH, PORT_SETS = 49152, 16, 1000
_FOUND = re.compile(r"SUMMARY: (\d+) (?:error|hazard)")
_LOST = "Maximum number of hazards reached"  # of what the report may say nothing
_DIED = "process didn't terminate successfully"


class Claims:
    """A pytest plugin: runs the tests that no other process has claimed in `folder`.

    Nothing is claimed after `until`, of the system's clock, and only a first one after `seconds`.
    `folder` comes to hold `collected`, the names of all tests, and a file for every claim;
    `record` a line for every test that was begun, and for every one that was run: outcome,
    seconds, name.
    """

    def __init__(self, folder: Path, seconds: float, until: float, record: Path) -> None:
        self._folder = folder
        self._slice = seconds
        self._until = until
        self._record = record
        self._outcome, self._seconds = "passed", 0.0  # of the test that is running

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        names = self._record.with_suffix(".collected")
        names.write_text("".join(f"{item.nodeid}\n" for item in session.items))
        names.replace(self._folder / "collected")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        claimed = self._claimed(session.items)
        item = next(claimed, None)
        while item is not None:
            following = next(claimed, None)  # pytest tears down what the following does not need
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            item = following
        return True

    def _claimed(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        until, slice_ends = self._until, time.time() + self._slice
        for number, item in enumerate(items):
            if time.time() >= until:
                return
            try:
                (self._folder / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            self._write("begun 0 " + item.nodeid)
            until = min(until, slice_ends)
            yield item

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._outcome, self._seconds = "passed", 0.0
        self._seconds += report.duration
        if not report.passed and self._outcome != "failed":
            self._outcome = report.outcome
        if report.when == "teardown":
            self._write(f"{self._outcome} {self._seconds:.1f} {report.nodeid}")

    def _write(self, line: str) -> None:
        with self._record.open("a") as record:
            record.write(line + "\n")


def run_claims(claims: Claims, tests: Sequence[str]) -> int:
    """The tests of one process, itself under a sanitizer; 0 if they could be run.

    Another status, which a process that dies has too, says that they do not count.
    """
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "timeout=0"]
    status = pytest.main([*options, *tests], [claims])
    ran = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    return 0 if status in ran else int(status)


@dataclass(frozen=True, slots=True)
class Worker:
    """One process under a sanitizer; its files in `out` have its name."""

    tool: str
    name: str
    process: subprocess.Popen[bytes]
    out: Path

    def wait(self, until: float) -> None:
        """Until it has ended; what has not at `until` is killed with its children."""
        try:
            self.process.wait(max(0.0, until - time.time()))
        except subprocess.TimeoutExpired:
            self.process.kill()  # first the sanitizer, which else reports its children's end
            self.process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            print(f"{self.name}: killed, it had gone on for too long after --seconds")

    def report(self) -> str:
        """What the sanitizer wrote."""
        path = self.out / f"{self.name}.sanitizer"
        return path.read_text(errors="replace") if path.exists() else ""

    def counts(self) -> bool:
        """Whether its report says all about the tests that it ran."""
        report = self.report()
        return _FOUND.search(report) is not None and _DIED not in report

    def found(self) -> int:
        """How many errors or hazards the sanitizer reports, at least."""
        report = self.report()
        summaries = _FOUND.findall(report)
        if not summaries:  # it was killed: a line says who is speaking
            return int(len(report.splitlines()) > 1)
        return sum(map(int, summaries)) + (_LOST in report)

    def begun(self) -> list[tuple[str, float, str]]:
        """Outcome (at first `begun`), seconds and name of each test, for each time it is known."""
        record = self.out / f"{self.name}.tests"
        lines = record.read_text().splitlines() if record.exists() else []
        split = (line.split(" ", 2) for line in lines)
        return [(outcome, float(seconds), name) for outcome, seconds, name in split]


class Run:
    """The processes of one call, with `options` of the command line; `out` holds their files."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.out: Path = options.out
        self.gpus: list[str] = options.gpus.split(",")
        self.workers: list[Worker] = []
        self._numbers = itertools.count()

    def check(self, tool: str) -> None:
        """Run all tests, on all GPUs at a time, then those that failed."""
        until = time.time() + self._options.seconds
        lanes = self.gpus * self._options.jobs
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(lambda gpu: self._run_slices(tool, gpu, tool, until), lanes))
        if self.failed(tool):
            self._run_again(tool, time.time() + self._options.seconds)

    def _run_slices(self, tool: str, gpu: str, claims: str, until: float) -> None:
        """One process after another, until no test of `claims` is left."""
        while time.time() < until and not self._all_claimed(tool, claims):
            worker = self._start(tool, gpu, claims, until)
            worker.wait(until + self._options.grace)
            if not worker.begun():  # it could not
                return

    def _all_claimed(self, tool: str, claims: str) -> bool:
        count, folder = len(self.collected(tool)), self.out / claims
        return count > 0 and all((folder / str(number)).exists() for number in range(count))

    def _run_again(self, tool: str, until: float) -> None:
        """Processes that run the tests that failed, as all others are claimed."""
        claims, failed = f"{tool}-again", self.failed(tool)
        (self.out / claims).mkdir()
        for number, test in enumerate(self.collected(tool)):
            if test not in failed:
                (self.out / claims / str(number)).touch()
        self._run_slices(tool, self.gpus[0], claims, until)

    def _start(self, tool: str, gpu: str, claims: str, until: float) -> Worker:
        """A process on `gpu` that shares the tests with those of the same `claims`."""
        number = next(self._numbers)
        name = f"{tool}-{number}"
        folder = self.out / claims
        folder.mkdir(exist_ok=True)
        command = [self._options.sanitizer, "--tool", tool, "--kernel-name", OURS]
        if tool == "memcheck":  # the tests provoke failures of CUDA's calls, and look at them
            command += ["--report-api-errors", "no"]
        if tool == "racecheck":  # else each process starts as many threads as there are CPUs
            threads = (os.cpu_count() or 1) // (self._options.jobs * len(self.gpus))
            command += ["--racecheck-num-workers", str(max(1, threads))]
            command += self._options.racecheck_option
        port = PORTS_FROM + PORTS_EACH * (number % PORT_SETS)
        command += ["--port", str(port), "--print-limit", "20"]
        command += ["--log-file", str(self.out / f"{name}.sanitizer"), sys.executable, __file__]
        command += ["--claims", str(folder), "--until", str(until)]
        command += ["--slice", str(self._options.slice)]
        command += ["--record", str(self.out / f"{name}.tests"), "--", *self._options.tests]
        with (self.out / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "ERNIE_TEST_DRAWS": FEW_DRAWS},
                start_new_session=True,
            )
        worker = Worker(tool, name, process, self.out)
        self.workers.append(worker)
        return worker

    def collected(self, tool: str) -> list[str]:
        """The names of all tests, in the order in which every process knows them."""
        names = self.out / tool / "collected"
        return names.read_text().splitlines() if names.exists() else []

    def failed(self, tool: str) -> set[str]:
        """The tests that a process of `tool` saw fail, and none pass."""
        outcomes: dict[str, set[str]] = defaultdict(set)
        for worker in self.workers:
            if worker.tool == tool:
                for outcome, _, test in worker.begun():
                    outcomes[outcome].add(test)
        return outcomes["failed"] - outcomes["passed"]

    def summarize(self, tool: str) -> bool:
        """Print what `tool` found; whether every test passed under it and it found nothing."""
        unchecked = dict.fromkeys(self.collected(tool))
        total, findings, longest = len(unchecked), 0, (0.0, "none")
        for worker in self.workers:
            if worker.tool != tool:
                continue
            findings += worker.found()
            for outcome, seconds, test in worker.begun():
                longest = max(longest, (seconds, test))
                if outcome == "passed" and worker.counts():
                    unchecked.pop(test, None)
        failed = self.failed(tool)
        print(
            f"{tool}: {findings} found, {total - len(unchecked)} of {total} tests checked,", end=" "
        )
        print(f"{len(failed)} failed; the longest, {longest[1]}, took {longest[0]:.0f} s")
        for test in unchecked:
            print(f"  {'failed' if test in failed else 'not checked'}: {test}")
        return total > 0 and not findings and not unchecked


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", default=KERNEL_TESTS, help="for pytest, after --")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["memcheck", "racecheck"])
    parser.add_argument("--gpus", default="0", help="numbers, with commas (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=4, help="processes on each GPU (default 4)")
    parser.add_argument(
        "--racecheck-option", action="append", default=[], metavar="=--OPTION=VALUE", help="its own"
    )
    parser.add_argument(
        "--seconds", type=float, default=3600, help="of a tool; then no test is begun"
    )
    parser.add_argument("--slice", type=float, default=60, help="of a process, s (default 60)")
    parser.add_argument("--grace", type=float, default=120, help="then processes are killed, s")
    parser.add_argument("--out", type=Path, default=Path("build/sanitizer"), help="an empty folder")
    parser.add_argument("--sanitizer", default="compute-sanitizer", help="the program")
    for internal in ("--claims", "--record"):
        parser.add_argument(internal, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.claims is not None:
        claims = Claims(options.claims, options.slice, options.until, options.record)
        return run_claims(claims, options.tests)
    if shutil.which(options.sanitizer) is None:
        parser.error(f"--sanitizer {options.sanitizer} was not found; it comes with CUDA")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty")
    run = Run(options)
    for tool in options.tools:
        run.check(tool)
    clean = [run.summarize(tool) for tool in options.tools]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
