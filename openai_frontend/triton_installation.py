"""Finds a tritonserver and what its Python backend needs: a stub and a libpython of this Python.

Two kinds exist. A `tritonserver` on PATH (an NGC image) is complete. The one in the nvidia-pytriton
wheel has its stub in another folder, per Python version, and does not find libpython by itself;
`prepare` builds a folder of symbolic links for it, so that the virtual environment stays untouched.

The stub ignores PYTHONPATH and takes the first `python3` on PATH for its prefix; its libpython and
that prefix's standard library must be of the same patch release.
"""

from __future__ import annotations

import importlib.util
import mmap
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ConfigError

STUB = "triton_python_backend_stub"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TritonInstallation:
    """`wheel_backend` and `wheel_libraries` are None for a server that is installed whole."""

    executable: Path
    stub: Path | None
    wheel_backend: Path | None = None
    wheel_libraries: Path | None = None

    def prepare(self, folder: Path) -> tuple[list[str], list[Path]]:
        """Link what the server misses into `folder`.

        Returns arguments for the server and folders to put on LD_LIBRARY_PATH.
        Raises ConfigError when libpython is missing or is of another release.
        """
        if self.wheel_backend is None or self.wheel_libraries is None or self.stub is None:
            return [], []
        backend = folder / "backends" / "python"
        backend.mkdir(parents=True)
        for item in self.wheel_backend.iterdir():
            if item.is_file():
                (backend / item.name).symlink_to(item)
        (backend / STUB).symlink_to(self.stub)
        # A folder of its own: everything else that lies beside libpython (all of /usr/lib on
        # Debian) would go before the libraries that Paddle's wheel brings along.
        library = find_libpython()
        (folder / "lib").mkdir()
        (folder / "lib" / library.name).symlink_to(library)
        return [f"--backend-directory={folder / 'backends'}"], [
            self.wheel_libraries,
            folder / "lib",
        ]


def find_tritonserver(environ: Mapping[str, str]) -> TritonInstallation:
    """The server on PATH, else the one of the nvidia-pytriton wheel.

    Raises ConfigError when there is none, or when its stub is built for another Python.
    """
    on_path = shutil.which("tritonserver", path=environ.get("PATH", ""))
    installation = _installed(Path(on_path).resolve()) if on_path else _from_wheel()
    if installation is None:
        raise ConfigError(
            "no tritonserver: neither on PATH nor in the Python package nvidia-pytriton; "
            "install the package (scripts/serve.sh does) or use an image that has the server"
        )
    if installation.stub is not None:
        _check_stub(installation.stub)
    return installation


def find_libpython() -> Path:
    """The shared libpython of exactly this interpreter. Raises ConfigError when there is none."""
    version = platform.python_version()
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    libdir = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    folders = [
        libdir,
        libdir / (sysconfig.get_config_var("MULTIARCH") or "."),
        Path(sys.base_prefix, "lib"),
        Path("/usr/lib", f"{platform.machine()}-linux-gnu"),
        Path("/usr/lib64"),
        Path("/usr/local/lib"),
    ]
    others = []
    for folder in folders:
        library = folder / name
        if not library.is_file():
            continue
        if _contains(library, version.encode() + b"\0"):
            return library.resolve()
        others.append(library)
    if others:
        raise ConfigError(
            f"{others[0]} is not of this interpreter's release {version}; Triton's Python backend "
            f"needs both from one installation: use the Python that {name} belongs to"
        )
    raise ConfigError(
        f"Triton's Python backend needs {name}, which is missing: on Debian and Ubuntu "
        f"`apt-get install libpython{PYTHON_VERSION}`; a Python built from source needs "
        "./configure --enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
    )


def _installed(executable: Path) -> TritonInstallation:
    stub = executable.parent.parent / "backends" / "python" / STUB
    return TritonInstallation(executable, stub if stub.is_file() else None)


def _from_wheel() -> TritonInstallation | None:
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        return None
    root = Path(package.origin).parent / "tritonserver"
    executable = root / "bin" / "tritonserver"
    if not executable.is_file():
        return None
    stub = root / "python_backend_stubs" / PYTHON_VERSION / STUB
    if not stub.is_file():
        known = sorted(item.name for item in stub.parent.parent.glob("3.*"))
        raise ConfigError(
            f"nvidia-pytriton has no Python backend for Python {PYTHON_VERSION}, only for "
            f"{', '.join(known)}"
        )
    return TritonInstallation(
        executable, stub, root / "backends" / "python", root.parents[1] / "nvidia_pytriton.libs"
    )


def _check_stub(stub: Path) -> None:
    match = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    if match is not None and match[1].decode() != PYTHON_VERSION:
        raise ConfigError(
            f"{stub} is built for Python {match[1].decode()}, this is {PYTHON_VERSION}: make the "
            "virtual environment with that Python"
        )


def _contains(file: Path, needle: bytes) -> bool:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(needle) >= 0
