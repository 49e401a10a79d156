"""Files in /dev/shm that two processes of one server share: pixels, and acknowledgement counters.

    ernie-pixels-<pid>-<16 hex>    uint8 patch rows: made by the preprocessor, unlinked by the
                                   engine the moment it opens them
    ernie-credit-<pid>-<16 hex>    int64 counters: made by the engine's stub, written by the
                                   postprocessor, removed with the stub

`<pid>` is the maker, for people to see. Names arrive inside messages, and a raw Triton client can
write such a message: a name that has not exactly this form is refused, links are not followed,
files are 0600. `sweep` removes what processes that died in between left behind; it asks no pid,
for containers that share /dev/shm have pids of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import secrets
import stat
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.errors import InternalError, InvalidRequestError, OverloadedError
from backend.wire import PixelHandle

FOLDER = Path("/dev/shm")  # noqa: S108
MAX_PIXELS_AGE_S = 60.0
"""A pixel file is opened within milliseconds. One this old belongs to a request that was given up
between the preprocessor and the engine."""

_NAME = re.compile(r"ernie-(pixels|credit)-(\d{1,10})-[0-9a-f]{16}")


def write_pixels(pixels: npt.NDArray[np.uint8]) -> PixelHandle:
    """Write patch rows, uint8 [num_rows, row_size], to a new file.

    Raises OverloadedError when /dev/shm is full.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InternalError(
            f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 [rows, size]"
        )
    num_rows, row_size = pixels.shape
    name = _new_name("pixels")
    descriptor = _create(name)
    try:
        _reserve(descriptor, pixels.size)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(np.ascontiguousarray(pixels).data)
    except OSError:
        _unlink(name)
        raise OverloadedError(
            f"no room in shared memory for {pixels.size} bytes of pixels", retry_after_s=1.0
        ) from None
    finally:
        os.close(descriptor)
    return PixelHandle(name=name, num_rows=num_rows, row_size=row_size)


def read_pixels(handle: PixelHandle) -> npt.NDArray[np.uint8]:
    """Map a pixel file, read-only uint8 [num_rows, row_size], and unlink it.

    Raises InvalidRequestError when the name, the owner or the size is not right.
    """
    path = _path(handle.name, "pixels")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise InvalidRequestError(f"pixels {handle.name} are gone", param="pixels") from None
    try:
        _check_owner(descriptor, handle.name)
        _unlink(handle.name)
        size = os.fstat(descriptor).st_size
        if min(handle.num_rows, handle.row_size) < 1 or size != handle.num_rows * handle.row_size:
            raise InvalidRequestError(
                f"pixels {handle.name} have {size} bytes, expected {handle.num_rows} rows of "
                f"{handle.row_size}",
                param="pixels",
            )
        data = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    return np.frombuffer(data, dtype=np.uint8).reshape(handle.num_rows, handle.row_size)


def discard_pixels(handle: PixelHandle | None) -> None:
    """Remove the pixels of a request that will not reach the engine. Never raises."""
    if handle is not None and _kind(handle.name) == "pixels":
        _unlink(handle.name)


class CreditFile:
    """Int64 counters in one file, one per stream: how many outputs were acknowledged so far.

    A counter only ever grows and has one writer, the postprocessor; the engine's stub compares it
    with where it stood when the stream began. Aligned 8-byte reads and writes are atomic. Behind
    the slots stands one more, the sum of all.
    """

    def __init__(self, name: str, descriptor: int, lock: int | None) -> None:
        """`lock`: the descriptor that holds the maker's lock, in the process that made the file."""
        self.name = name
        self.num_slots = os.fstat(descriptor).st_size // 8 - 1
        self._lock = lock
        self._map = mmap.mmap(descriptor, (self.num_slots + 1) * 8)
        self._counters = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, num_slots: int) -> CreditFile:
        """A new file of zeros. Raises OverloadedError when /dev/shm is full."""
        name = _new_name("credit")
        descriptor = _create(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                # Another server's sweep came between the two lines above.
                os.close(descriptor)
                return cls.create(num_slots)
            _reserve(descriptor, (num_slots + 1) * 8)
            return cls(name, descriptor, lock=descriptor)
        except OSError:
            _unlink(name)
            os.close(descriptor)
            raise OverloadedError("no room in shared memory for stream counters") from None

    @classmethod
    def open(cls, name: str) -> CreditFile:
        """Someone else's file. Raises InvalidRequestError when the name or the owner is wrong."""
        try:
            descriptor = os.open(_path(name, "credit"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise InvalidRequestError(f"stream counters {name} are gone", param="credit") from None
        try:
            _check_owner(descriptor, name)
            return cls(name, descriptor, lock=None)
        except ValueError:
            raise InvalidRequestError(f"stream counters {name} are empty", param="credit") from None
        finally:
            os.close(descriptor)

    def count(self, slot: int) -> int:
        return self._counters[slot]

    def total(self) -> int:
        """The sum of all counters."""
        return self._counters[self.num_slots]

    def bump(self, slot: int) -> None:
        """Acknowledge one output. A slot that does not exist is ignored."""
        if 0 <= slot < self.num_slots:
            self._counters[slot] += 1
            self._counters[self.num_slots] += 1

    def remove(self) -> None:
        """Remove the file if this process made it; maps of it stay valid."""
        if self._lock is not None:
            _unlink(self.name)
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Unmap, and remove if this process made it."""
        self.remove()
        self._counters.release()
        self._map.close()


def sweep() -> list[str]:
    """Remove pixels nobody fetched and counters whose maker is dead. Returns their names."""
    removed = []
    for path in FOLDER.glob("ernie-*"):
        kind = _kind(path.name)
        try:
            status = path.lstat()
        except OSError:
            continue
        if kind is None or status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            continue
        age_s = time.time() - status.st_mtime
        if age_s > MAX_PIXELS_AGE_S if kind == "pixels" else _is_unlocked(path):
            _unlink(path.name)
            removed.append(path.name)
    return removed


def _new_name(kind: str) -> str:
    return f"ernie-{kind}-{os.getpid()}-{secrets.token_hex(8)}"


def _kind(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def _path(name: str, kind: str) -> Path:
    if _kind(name) != kind:
        raise InvalidRequestError(f"{name[:64]!r} is not the name of {kind} in shared memory")
    return FOLDER / name


def _create(name: str) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(FOLDER / name, flags, 0o600)
    except OSError:
        raise OverloadedError(f"cannot create {name} in shared memory") from None


def _reserve(descriptor: int, size: int) -> None:
    # Writing to a mapped page that the full tmpfs cannot supply kills by SIGBUS; this raises.
    if size:
        os.posix_fallocate(descriptor, 0, size)


def _check_owner(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        raise InvalidRequestError(f"{name} does not belong to this server")


def _unlink(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(FOLDER / name)


def _is_unlocked(path: Path) -> bool:
    """Whether the process that made these counters, and locked them for its life, is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
