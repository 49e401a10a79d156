"""docs/compatibility.json: every field has its row, and every claim of ours a test that exists."""

from __future__ import annotations

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import msgspec
import pytest

from backend import wire
from openai_frontend.protocol.requests import ChatRequest, CompletionRequest
from openai_frontend.protocol.strict_fields import INTERNAL_FIELDS

ROOT = Path(__file__).resolve().parents[3]
GROUPS = json.loads((ROOT / "docs" / "compatibility.json").read_text(encoding="utf-8"))["groups"]
ROWS = [row for group in GROUPS for row in group["rows"]]
OURS = ("yes", "no", "refused", "accepted, without effect", "ignored; refused by `--strict-fields`")
PEER = re.compile(r"(yes|no|ignored|refused|partly)([:,] .+)?|partly|null|\?")
STRUCTS = (ChatRequest, CompletionRequest, wire.StreamOptions, wire.MediaURL)


@lru_cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def missing_test(name: str) -> str | None:
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return f"there is no {path}"
    return None if function in functions(path) else f"{path} has no {function}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["field"])
def test_a_claim_has_its_test(row):
    assert row["ours"] in OURS
    if row["ours"] == "no":
        assert row["test"] == ""
    else:
        assert missing_test(row["test"]) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["field"])
def test_the_others_cells_are_of_the_legend(row):
    for peer in ("fastdeploy", "vllm", "triton"):
        assert PEER.fullmatch(row[peer]), row[peer]
        assert "|" not in row[peer]


def test_every_field_of_a_request_has_a_row():
    named = {word for row in ROWS for code in re.findall(r"`([^`]+)`", row["field"])
             for word in re.findall(r"\w+", code)}  # fmt: skip
    fields = {field.encode_name for kind in STRUCTS for field in msgspec.structs.fields(kind)}
    assert fields - named - {*INTERNAL_FIELDS, "url"} == set()


def test_no_field_has_two_rows():
    fields = [row["field"] for row in ROWS]
    assert len(fields) == len(set(fields))


@pytest.mark.parametrize(
    "name",
    [
        "tests/unit/frontend/test_nothing.py::test_x",
        "tests/unit/frontend/test_compatibility.py::test_x",
        "tests/unit/frontend/test_compatibility.py",
    ],
)
def test_a_claim_without_a_test_is_noticed(name):
    assert missing_test(name)
