"""What the documents point at exists: files, folders, tests, anchors of commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "checkpoints" / "ernie-4.5-vl-tiny" / "README.md",
]
FOLDERS = (
    "backend",
    "checkpoints",
    "docs",
    "model_repository",
    "openai_frontend",
    "scripts",
    "tests",
)


def missing_paths(document: Path) -> list[str]:
    """Links, and names in backquotes that begin with a folder of this repository."""
    text = document.read_text(encoding="utf-8")
    found = []
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        if "://" not in link and not (document.parent / link).exists():
            found.append(link)
    folders = "|".join(FOLDERS)
    for name in re.findall(rf"`((?:{folders})/[\w./-]*\w)", text):
        if not (ROOT / name).exists():
            found.append(name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_a_document_exist(document: Path) -> None:
    assert missing_paths(document) == []


def test_a_dead_path_is_noticed(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text("[a](nowhere.md) `tests/unit/nothing_here` `scripts/test.sh`")
    assert missing_paths(document) == ["nowhere.md", "tests/unit/nothing_here"]


def test_the_readme_is_in_its_order() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == [
        "What you get",
        "How a request flows",
        "What works",
        "Limits",
        "Figures",
        "Development",
    ]
    assert text.index("scripts/serve.sh") < text.index("scripts/test.sh") < text.index("## ")
