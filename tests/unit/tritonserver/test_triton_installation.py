import platform
import sys
import sysconfig
from pathlib import Path

import pytest

from backend.errors import ConfigError
from openai_frontend import triton_installation
from openai_frontend.triton_installation import (
    PYTHON_VERSION,
    STUB,
    find_libpython,
    find_tritonserver,
)


@pytest.fixture
def system_server(tmp_path):
    """A server installed whole, as in an NGC image."""
    executable = tmp_path / "triton" / "bin" / "tritonserver"
    executable.parent.mkdir(parents=True)
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    stub = tmp_path / "triton" / "backends" / "python" / STUB
    stub.parent.mkdir(parents=True)
    stub.write_bytes(b"\x7fELF..libpython" + PYTHON_VERSION.encode() + b".so.1.0\0")
    return executable


@pytest.fixture
def libdir(tmp_path, monkeypatch):
    """Where this Python says that its library is."""
    folder = tmp_path / "lib"
    folder.mkdir()
    values = {"LIBDIR": str(folder), "MULTIARCH": None}
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "none")
    return folder


def test_a_server_on_path_goes_before_the_wheel_and_needs_nothing(system_server, tmp_path):
    found = find_tritonserver({"PATH": str(system_server.parent)})
    assert found.executable == system_server
    assert found.prepare(tmp_path / "work") == ([], [])
    assert not (tmp_path / "work").exists()


def test_a_stub_of_another_python_is_refused(system_server):
    stub = system_server.parents[1] / "backends" / "python" / STUB
    stub.write_bytes(b"..libpython3.7m.so.1.0 libpython3.7.so.1.0")
    with pytest.raises(ConfigError, match=r"is built for Python 3\.7, this is 3\.1"):
        find_tritonserver({"PATH": str(system_server.parent)})


def test_without_any_server_the_way_out_is_told(monkeypatch):
    monkeypatch.setattr(triton_installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="nvidia-pytriton"):
        find_tritonserver({"PATH": ""})


def test_the_wheel_is_linked_and_left_as_it_is(tmp_path):
    found = find_tritonserver({"PATH": ""})
    before = sorted(str(item) for item in found.executable.parents[1].rglob("*"))
    arguments, libraries = found.prepare(tmp_path / "work")
    backend = tmp_path / "work" / "backends" / "python"
    assert arguments == [f"--backend-directory={tmp_path / 'work' / 'backends'}"]
    assert (backend / STUB).resolve() == found.stub
    assert (backend / "libtriton_python.so").is_file()
    assert [item.name for item in libraries] == ["nvidia_pytriton.libs", "lib"]
    assert len(list(libraries[1].iterdir())) == 1
    assert sorted(str(item) for item in found.executable.parents[1].rglob("*")) == before


def test_the_library_of_this_very_release_is_found():
    library = find_libpython()
    assert library.name == f"libpython{PYTHON_VERSION}.so.1.0"
    assert platform.python_version().encode() + b"\0" in library.read_bytes()


def test_a_missing_library_names_the_package(libdir):
    if Path("/usr/local/lib", f"libpython{PYTHON_VERSION}.so.1.0").exists():
        pytest.skip("this Python's library is in /usr/local/lib")
    with pytest.raises(ConfigError, match=f"apt-get install libpython{PYTHON_VERSION}"):
        find_libpython()


def test_a_library_of_another_release_is_refused(libdir):
    (libdir / f"libpython{PYTHON_VERSION}.so.1.0").write_bytes(b"\x007.7.7\x00")
    with pytest.raises(ConfigError, match="is not of this interpreter's release"):
        find_libpython()
