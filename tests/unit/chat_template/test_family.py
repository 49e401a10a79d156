from __future__ import annotations

from pathlib import Path

import pytest

from backend.chat_template import Family, detect_family


@pytest.mark.parametrize(
    ("folder", "is_multimodal", "parser", "expected"),
    [
        ("ERNIE-4.5-0.3B-Paddle", False, "", Family.TEXT),
        ("ERNIE-4.5-21B-A3B-Thinking", False, "", Family.X1),
        ("ernie-x1.1", False, "", Family.X1),
        ("anything", False, "ernie-x1", Family.X1),
        ("ERNIE-4.5-VL-28B-A3B-Paddle", True, "", Family.VL),
        ("ERNIE-4.5-VL-28B-A3B-Thinking", True, "", Family.VL_THINKING),
        (
            "models--baidu--ERNIE-4.5-VL-28B-A3B-Thinking/snapshots/0a1b",
            True,
            "",
            Family.VL_THINKING,
        ),
        ("ERNIE-4.5-VL-28B-A3B-Thinking", True, "ernie-45-vl", Family.VL),
        ("ERNIE-4.5-VL-28B-A3B-Paddle", True, "ernie-45-vl-thinking", Family.VL_THINKING),
        ("rethinkings", True, "", Family.VL),
        ("ERNIE-4.5-VL-28B-A3B-Thinking", True, "none", Family.VL_THINKING),
    ],
)
def test_families(folder: str, is_multimodal: bool, parser: str, expected: Family) -> None:
    assert detect_family(Path("/models/a") / folder, is_multimodal, parser) is expected


def test_a_link_is_followed_for_its_name(tmp_path: Path) -> None:
    target = tmp_path / "ERNIE-4.5-VL-28B-A3B-Thinking"
    target.mkdir()
    link = tmp_path / "model"
    link.symlink_to(target)
    assert detect_family(link, True) is Family.VL_THINKING
