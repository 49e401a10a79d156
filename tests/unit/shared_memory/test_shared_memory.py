import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend import shared_memory
from backend.errors import InternalError, InvalidRequestError, OverloadedError
from backend.shared_memory import CreditFile, discard_pixels, read_pixels, sweep, write_pixels
from backend.wire import PixelHandle

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    return tmp_path


def make_pixels(rows=7):
    return np.arange(rows * 588, dtype=np.uint32).astype(np.uint8).reshape(rows, 588)


def name_of(pid, kind="pixels"):
    return f"ernie-{kind}-{pid}-{'0' * 16}"


def test_pixels_arrive_unchanged_and_the_file_is_gone(folder):
    pixels = make_pixels()
    handle = write_pixels(pixels)
    assert (handle.num_rows, handle.row_size) == (7, 588)
    assert stat.S_IMODE((folder / handle.name).stat().st_mode) == 0o600
    read = read_pixels(handle)
    assert np.array_equal(read, pixels)
    assert not read.flags.writeable
    assert list(folder.iterdir()) == []


def test_pixels_that_are_not_contiguous_are_written_in_row_order():
    pixels = make_pixels(8)[::2]
    assert np.array_equal(read_pixels(write_pixels(pixels)), pixels)


def test_pixels_can_be_fetched_only_once():
    handle = write_pixels(make_pixels())
    read_pixels(handle)
    with pytest.raises(InvalidRequestError, match="are gone"):
        read_pixels(handle)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../etc/passwd",
        "/etc/passwd",
        "ernie-pixels-1-0123456789abcde",
        "ernie-pixels-1-0123456789abcdef/../x",
        "ernie-pixels-1-0123456789abcdef\n",
        "ernie-pixels-1-0123456789ABCDEF",
        "ernie-credit-1-0123456789abcdef",
        "ernie-pixels-x-0123456789abcdef",
        "triton_python_backend_shm_region_1",
        "ernie-pixels-1-0123456789abcdef\0",
    ],
)
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(InvalidRequestError, match="is not the name of pixels"):
        read_pixels(PixelHandle(name=name, num_rows=1, row_size=1))
    discard_pixels(PixelHandle(name=name, num_rows=1, row_size=1))


def test_a_link_with_a_right_name_is_not_followed(folder):
    target = folder / "secret"
    target.write_bytes(b"x" * 588)
    (folder / name_of(1)).symlink_to(target)
    with pytest.raises(InvalidRequestError, match="are gone"):
        read_pixels(PixelHandle(name=name_of(1), num_rows=1, row_size=588))
    assert target.exists()


@pytest.mark.parametrize("shape", [(6, 588), (8, 588), (7, 587), (0, 588), (-7, -588)])
def test_a_size_that_does_not_match_is_refused_and_the_file_removed(folder, shape):
    handle = write_pixels(make_pixels())
    with pytest.raises(InvalidRequestError, match="have 4116 bytes"):
        read_pixels(PixelHandle(name=handle.name, num_rows=shape[0], row_size=shape[1]))
    assert list(folder.iterdir()) == []


def test_pixels_of_another_type_are_our_mistake():
    with pytest.raises(InternalError, match="float32"):
        write_pixels(np.zeros((1, 588), np.float32))  # type: ignore[arg-type]


def test_a_full_shared_memory_is_overload_and_leaves_no_file(folder, monkeypatch):
    def no_space(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(OverloadedError, match="no room in shared memory for 4116 bytes"):
        write_pixels(make_pixels())
    assert list(folder.iterdir()) == []


def test_discarded_pixels_are_removed(folder):
    discard_pixels(write_pixels(make_pixels()))
    discard_pixels(None)
    assert list(folder.iterdir()) == []


def test_acknowledgements_are_seen_by_the_owner(folder):
    owner = CreditFile.create(8)
    other = CreditFile.open(owner.name)
    assert other.num_slots == 8
    other.bump(3)
    other.bump(3)
    other.bump(7)
    assert (owner.count(3), owner.count(2), owner.count(7)) == (2, 0, 1)
    other.bump(8)
    other.bump(-1)
    assert owner.total() == 3
    other.close()
    assert (folder / owner.name).exists()
    owner.close()
    assert list(folder.iterdir()) == []


def test_counters_swept_before_they_were_locked_are_made_anew(folder, monkeypatch):
    swept = []

    def sweep_then_lock(descriptor, operation, lock=fcntl.flock):
        if not swept:  # as another server's sweep would, between creation and locking
            swept.extend(path.unlink() or path.name for path in folder.iterdir())
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_then_lock)
    owner = CreditFile.create(8)
    CreditFile.open(owner.name).bump(1)
    assert swept and owner.name not in swept
    assert owner.count(1) == 1


def test_counters_of_a_wrong_name_or_without_content_are_refused(folder):
    with pytest.raises(InvalidRequestError, match="not the name of credit"):
        CreditFile.open(name_of(1))
    with pytest.raises(InvalidRequestError, match="are gone"):
        CreditFile.open(name_of(1, "credit"))
    (folder / name_of(1, "credit")).touch()
    with pytest.raises(InvalidRequestError, match="are empty"):
        CreditFile.open(name_of(1, "credit"))


def test_sweep_leaves_what_is_in_use(folder):
    pixels = write_pixels(make_pixels())
    credit = CreditFile.create(1)
    foreign = folder / "ernie-pixels-abc"
    foreign.touch()
    link = folder / name_of(1, "credit")
    link.symlink_to(foreign)
    assert sweep() == []
    assert len(list(folder.iterdir())) == 4
    credit.close()
    discard_pixels(pixels)


def test_sweep_removes_pixels_nobody_fetched(folder):
    handle = write_pixels(make_pixels())
    file = folder / handle.name
    os.utime(file, (0, file.stat().st_mtime - 61))
    assert sweep() == [handle.name]
    assert list(folder.iterdir()) == []


def test_sweep_removes_counters_whose_maker_was_killed(folder):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from backend import shared_memory\n"
        f"shared_memory.FOLDER = Path({str(folder)!r})\n"
        "file = shared_memory.CreditFile.create(4)\n"
        "print(file.name, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        name = maker.stdout.readline().strip()
        assert sweep() == []
        maker.kill()
        maker.wait()
    assert sweep() == [name]


def test_the_real_folder_is_a_memory_file_system():
    mounts = Path("/proc/mounts").read_text().split("\n")
    assert any(line.split()[1:3] == ["/dev/shm", "tmpfs"] for line in mounts if line)
