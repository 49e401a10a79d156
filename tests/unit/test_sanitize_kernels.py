"""Processes under a sanitizer share the tests, and what it says of each process counts."""

import argparse
import subprocess
import sys
import time

import pytest

from scripts.sanitize_kernels import Run, Worker, main

SANITIZER = """#!{python}
import subprocess, sys
report, *command = sys.argv[sys.argv.index("--log-file") + 1 :]
status = subprocess.call(command)
with open(report, "w") as file:
    print("========= COMPUTE-SANITIZER\\n" {summary!r}, file=file)
sys.exit(status)
"""
CLEAN = "========= ERROR SUMMARY: 0 errors"
BEGUN = "========= COMPUTE-SANITIZER"
NONE = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
RACE = "========= Error: Race reported between Write access at racy()+0xa0 in race.cu:6"
DIED = "========= Error: process didn't terminate successfully"
TOO_MANY = "========= Warning: Maximum number of hazards reached. Environment variable"


@pytest.fixture
def run(tmp_path, capsys):
    """Runs `body` as tests under a stand-in for the sanitizer; status and lines printed."""

    def run(body, *arguments, summary=CLEAN):
        sanitizer = tmp_path / "sanitizer"
        sanitizer.write_text(SANITIZER.format(python=sys.executable, summary=summary))
        sanitizer.chmod(0o755)
        tests = tmp_path / "test_some.py"
        tests.write_text(f"import os, pytest\npytestmark = pytest.mark.gpu\n{body}")
        options = ["--sanitizer", str(sanitizer), "--out", str(tmp_path / "out")]
        status = main([*options, "--tools", "racecheck", *arguments, "--", str(tests)])
        return status, capsys.readouterr().out.splitlines()

    return run


MANY = """
@pytest.mark.parametrize("number", range(9))
def test_numbers(number):
    with open(f"{os.path.dirname(__file__)}/ran{number}.{os.getpid()}", "w"):
        pass
"""


def test_every_test_runs_in_one_of_the_processes(run, tmp_path):
    status, lines = run(MANY, "--jobs", "3")
    assert status == 0
    assert lines[0].startswith("racecheck: 0 found, 9 of 9 tests checked, 0 failed")
    assert len(lines) == 1
    assert sorted(path.name.split(".")[0] for path in tmp_path.glob("ran*")) == [
        f"ran{number}" for number in range(9)
    ]


def test_processes_end_after_their_slice_and_others_go_on(run, tmp_path):
    status, lines = run(MANY.replace("9", "3"), "--jobs", "1", "--slice", "0")
    assert status == 0
    assert lines[0].startswith("racecheck: 0 found, 3 of 3 tests checked, 0 failed")
    assert len({path.suffix for path in tmp_path.glob("ran*")}) == 3


def test_what_the_sanitizer_finds_fails_the_run(run):
    summary = "========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)"
    status, lines = run(MANY, "--jobs", "1", summary=summary)
    assert status == 1
    assert lines[0].startswith("racecheck: 3 found, 9 of 9 tests checked")


def test_tests_that_fail_are_run_again_alone(run):
    body = """
def test_first():
    pass

@pytest.mark.parametrize("number", range(2))
def test_others(number):
    before = f"{os.path.dirname(__file__)}/before{number}"
    if not os.path.exists(before):
        open(before, "w").close()
        raise AssertionError
"""
    status, lines = run(body, "--jobs", "1", "--slice", "0")
    assert status == 0
    assert lines[0].startswith("racecheck: 0 found, 3 of 3 tests checked, 0 failed")


def test_a_test_that_always_fails_is_named(run):
    status, lines = run("def test_bad():\n    assert False\n", "--jobs", "1")
    assert status == 1
    assert lines[0].startswith("racecheck: 0 found, 0 of 1 tests checked, 1 failed")
    assert lines[1].startswith("  failed: ")
    assert lines[1].endswith("test_some.py::test_bad")


def test_a_test_whose_end_fails_has_not_passed(run):
    body = """
@pytest.fixture
def left_over():
    yield
    raise AssertionError

def test_bad(left_over):
    pass
"""
    status, lines = run(body, "--jobs", "1")
    assert status == 1
    assert lines[0].startswith("racecheck: 0 found, 0 of 1 tests checked, 1 failed")


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path, capsys):
    child = "import threading; print('here', flush=True); threading.Event().wait()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.call([sys.executable, '-c', {child!r}])",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == b"here\n"
        Worker("racecheck", "racecheck-0", process, tmp_path).wait(time.time())
        assert process.stdout.read() == b""  # nobody is left who could write
    assert "racecheck-0: killed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (None, "0 found, 0 of 2"),
        ([], "0 found, 0 of 2"),  # killed
        ([RACE], "1 found, 0 of 2"),
        ([DIED, NONE], "0 found, 0 of 2"),
        ([NONE], "0 found, 1 of 2"),
        ([TOO_MANY, NONE], "1 found, 1 of 2"),
        (["========= ERROR SUMMARY: 2 errors"], "2 found, 1 of 2"),
    ],
)
def test_only_a_process_that_ended_by_itself_has_checked(tmp_path, capsys, report, line):
    (tmp_path / "racecheck").mkdir()
    (tmp_path / "racecheck" / "collected").write_text(
        "test_some.py::test_a\ntest_some.py::test_b\n"
    )
    (tmp_path / "racecheck-0.tests").write_text("passed 0.5 test_some.py::test_a\n")
    if report is not None:
        (tmp_path / "racecheck-0.sanitizer").write_text("\n".join([BEGUN, *report]))
    run = Run(argparse.Namespace(out=tmp_path, gpus="0"))
    run.workers.append(Worker("racecheck", "racecheck-0", None, tmp_path))
    assert not run.summarize("racecheck")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"racecheck: {line} tests checked")
    assert printed[-1] == "  not checked: test_some.py::test_b"


def test_a_sanitizer_that_is_not_there_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["--sanitizer", "/nowhere/compute-sanitizer", "--out", str(tmp_path)])
    assert "--sanitizer /nowhere/compute-sanitizer was not found" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_refused(capsys, tmp_path):
    (tmp_path / "old").touch()
    with pytest.raises(SystemExit):
        main(["--sanitizer", sys.executable, "--out", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
