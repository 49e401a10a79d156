"""Which folder is served, and what is said when there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.errors import ConfigError
from openai_frontend.launch import checkpoint
from openai_frontend.launch.checkpoint import default_checkpoint, find_checkpoint


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_is_served_as_it_is(tmp_path):
    folder = make(tmp_path / "model")
    assert find_checkpoint(str(folder), ()).folder == folder
    assert find_checkpoint(str(folder), ()).name == "model"


def test_a_hub_id_is_looked_for_under_the_known_folders(tmp_path):
    one = make(tmp_path / "checkpoints" / "ERNIE-4.5-0.3B-Paddle")
    two = make(tmp_path / "cache" / "baidu" / "ERNIE-4.5-21B-A3B-Paddle")
    folders = (tmp_path / "checkpoints", tmp_path / "cache")
    assert find_checkpoint("baidu/ERNIE-4.5-0.3B-Paddle", folders).folder == one
    assert find_checkpoint("baidu/ERNIE-4.5-21B-A3B-Paddle", folders).folder == two


def test_a_hub_id_without_files_says_where_to_put_them(tmp_path):
    with pytest.raises(ConfigError) as raised:
        find_checkpoint("baidu/ERNIE-4.5-VL-28B-A3B-Paddle", (tmp_path / "checkpoints",))
    message = raised.value.message
    assert str(tmp_path / "checkpoints" / "ERNIE-4.5-VL-28B-A3B-Paddle") in message
    assert "config.json" in message
    assert "nothing is downloaded" in message


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "../up/there"])
def test_a_path_without_a_folder_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match="there is no folder"):
        find_checkpoint(name, (tmp_path,))


def test_a_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        find_checkpoint(str(tmp_path), ())


def test_the_bundled_checkpoint_is_the_default(tmp_path):
    bundled = make(tmp_path / "checkpoints" / checkpoint.BUNDLED)
    chosen = default_checkpoint(tmp_path, tmp_path / "cache")
    assert chosen.folder == bundled
    assert chosen.notice == ""


def _project_with_maker(tmp_path: Path, code: str) -> Path:
    script = tmp_path / "scripts" / "make_tiny_checkpoint.py"
    script.parent.mkdir(parents=True)
    script.write_text(f"import sys, pathlib\nfolder = pathlib.Path(sys.argv[1])\n{code}\n")
    return tmp_path


def test_without_it_a_random_one_is_made_once_and_announced(tmp_path):
    count = tmp_path / "count"
    project = _project_with_maker(
        tmp_path,
        f"(folder / 'config.json').write_text('{{}}'); open({str(count)!r}, 'a').write('x')",
    )
    for _ in range(2):
        chosen = default_checkpoint(project, tmp_path / "cache")
        assert chosen.folder == tmp_path / "cache" / checkpoint.MADE
        assert "RANDOM" in chosen.notice
    assert count.read_text() == "x"
    assert [item.name for item in (tmp_path / "cache").iterdir()] == [checkpoint.MADE]


def test_a_maker_that_fails_leaves_nothing_and_is_quoted(tmp_path):
    project = _project_with_maker(tmp_path, "sys.exit('no sentencepiece here')")
    with pytest.raises(ConfigError, match="no sentencepiece here"):
        default_checkpoint(project, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_cache_that_cannot_be_made_is_replaced(tmp_path, monkeypatch):
    project = _project_with_maker(tmp_path, "(folder / 'config.json').write_text('{}')")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "file").write_text("")
    chosen = default_checkpoint(project, tmp_path / "file" / "cache")
    assert chosen.folder.is_relative_to(tmp_path / "tmp")
