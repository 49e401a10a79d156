"""Nobody imports upward: the arrows of the design, read from the source with `ast`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "openai_frontend": {"backend.wire", "backend.errors", "backend.request"},
    "model_repository": {"backend"},
    "backend": {"kernels"},
    "kernels": set(),
}
"""Package → what else of this repository it may import (a module, or a whole package)."""

BACKEND_ORDER = (
    {"errors"},
    {"request"},
    {"wire", "config"},
    {"tokenizer", "chat_template", "media", "parsers", "kv_cache", "shared_memory"},
    {"batch", "ops"},
    {"layers"},
    {"models"},
    {"sampler", "structured", "weights"},
    {"scheduler"},
    {"runner"},
    {"preprocess", "postprocess"},
    {"engine"},
    {"stub"},
)
"""backend's modules, left to right: each imports only from its own group or from groups before."""

BANNED = {
    "backend": {"triton_python_backend_utils", "starlette", "uvicorn", "pickle"},
    "openai_frontend": {"triton_python_backend_utils", "paddle", "numpy.ctypeslib", "pickle"},
    "model_repository": {"starlette", "uvicorn", "paddle", "pickle"},
}

TENSOR_LIBRARIES = {"paddle", "torch", "kernels"}
TENSOR_FREE = {
    "scheduler": TENSOR_LIBRARIES,
    "kv_cache": TENSOR_LIBRARIES,
    "parsers": TENSOR_LIBRARIES | {"numpy"},
}
"""Host arrays (numpy) are how token ids travel; a scheduler that knows devices is another thing."""


def _imports(path: Path) -> list[str]:
    """Full names of the modules a file imports; `from a import b` counts as a and a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module or ""] + [f"{node.module}.{a.name}" for a in node.names]
    return names


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _package_violations(package: str, files: list[Path]) -> list[str]:
    allowed = PACKAGES[package] | {package}
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imports(path)
        if name.split(".")[0] in PACKAGES
        and not any(_is_within(name, module) for module in allowed)
        # `from backend import wire` also yields the bare package name.
        and not (name in PACKAGES and any(module.startswith(name + ".") for module in allowed))
    ]


def _rank(module: str) -> int | None:
    for rank, group in enumerate(BACKEND_ORDER):
        if module in group:
            return rank
    return None


def _backend_violations(files: list[Path]) -> list[str]:
    found = []
    for path in files:
        own = path.relative_to(ROOT / "backend").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        rank = _rank(own)
        if rank is None:
            found.append(f"backend/{own} has no place in BACKEND_ORDER")
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "backend" or len(parts) < 2 or parts[1] == own:
                continue
            other = _rank(parts[1])
            if other is None or other > rank:
                found.append(f"{path.relative_to(ROOT)} imports {name}, which is to its right")
    return found


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_only_along_the_arrows(package: str) -> None:
    assert _package_violations(package, _files(package)) == []


def test_backend_modules_import_only_from_their_left() -> None:
    assert _backend_violations(_files("backend")) == []


@pytest.mark.parametrize("package", sorted(BANNED))
def test_foreign_frameworks_stay_in_their_rooms(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _files(package)
        for name in _imports(path)
        for banned in BANNED[package]
        if _is_within(name, banned)
    ]
    assert found == []


def test_paddle_is_imported_only_by_its_ops() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in _files("backend")
        if any(_is_within(name, "paddle") for name in _imports(path))
        and not (path.parent.name == "ops" and path.name.startswith("paddle"))
    ]
    assert found == []


def test_scheduling_and_parsing_know_no_tensors() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, banned in TENSOR_FREE.items()
        for path in _files("backend")
        if path.relative_to(ROOT / "backend").parts[0].removesuffix(".py") == module
        for name in _imports(path)
        if name.split(".")[0] in banned
    ]
    assert found == []


def test_the_check_sees_an_upward_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = tmp_path / "backend" / "scheduler.py"
    scheduler.parent.mkdir()
    scheduler.write_text("from backend.runner import ModelRunner\nimport openai_frontend.app\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert _backend_violations([scheduler]) != []
    assert _package_violations("backend", [scheduler]) != []
