"""The mutations still fit the sources; what they do to the tests is recorded on demand."""

import ast
import shutil

import pytest

from scripts.mutations import MUTATIONS, RECORD, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_applies_to_the_sources_and_leaves_valid_python(mutation, tmp_path):
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / mutation.file, copy)
    before = copy.read_text(encoding="utf-8")
    line = mutation.apply(tmp_path)
    after = copy.read_text(encoding="utf-8")
    ast.parse(after)
    assert before.splitlines()[: line - 1] == after.splitlines()[: line - 1]
    assert before.splitlines()[line - 1] != after.splitlines()[line - 1]


def test_a_mutation_that_no_longer_fits_is_an_error(tmp_path):
    (tmp_path / "module.py").write_text("new = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'old' occurs 0 times in"):
        Mutation("any", "module.py", "old", "new", ()).apply(tmp_path)


def test_every_mutation_is_in_the_record_and_was_noticed():
    rows = [row for row in RECORD.read_text(encoding="utf-8").splitlines() if ".py:" in row]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [m.name for m in MUTATIONS]
    assert not [row for row in rows if row.count("—") > 1]
