"""`file:` URLs, inside one folder that the operator opened and nowhere else."""

from __future__ import annotations

import os
import stat
import urllib.parse
from pathlib import Path

from backend.errors import MediaError, MediaFetchError


def read_local_file(url: str, allowed_folder: str, max_bytes: int) -> bytes:
    """The bytes of a regular file below `allowed_folder` ("" allows nothing).

    Links are followed while they stay inside; the walk that opens the file then follows none, so
    that nothing can be swapped in between. Raises MediaError or MediaFetchError; the text is the
    same for what does not exist and for what lies outside.
    """
    if not allowed_folder:
        raise MediaError("file: URLs are not allowed on this server (--allowed-local-media-path)")
    refused = MediaFetchError("no such file in the folder that media may be read from")
    root = os.path.realpath(allowed_folder)
    path = os.path.realpath(_path(url))
    if os.path.commonpath([root, path]) != root or path == root:
        raise refused
    try:
        descriptor = _open_below(root, Path(path).relative_to(root).parts)
        try:
            data = _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError:
        raise refused from None
    if len(data) > max_bytes:
        raise MediaFetchError(
            f"the file has more than the {max_bytes} bytes allowed", code="media_too_large"
        )
    return data


def _read(descriptor: int, max_bytes: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise MediaFetchError("the path is not a regular file")
    if status.st_size > max_bytes:
        raise MediaFetchError(
            f"the file has {status.st_size} bytes; at most {max_bytes} are allowed",
            code="media_too_large",
        )
    # Files can grow while they are read; those in /proc report no size at all.
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(max_bytes + 1)


def _path(url: str) -> str:
    invalid = MediaError("a file: URL must look like file:///absolute/path")
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # of its host: brackets, characters that NFKC makes others of
        raise invalid from None
    path = urllib.parse.unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise invalid
    return path


def _open_below(root: str, names: tuple[str, ...]) -> int:
    """Open root/names[0]/names[1]/..., refusing a symbolic link at every step."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(names[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
