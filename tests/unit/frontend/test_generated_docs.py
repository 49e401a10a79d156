"""docs/flags.md is what the flag table says, docs/compatibility.md what its data file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from openai_frontend.launch.flag_table import FLAGS

ROOT = Path(__file__).resolve().parents[3]


def test_the_generated_pages_are_current():
    done = subprocess.run(
        [sys.executable, "scripts/gen_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_flags_page_names_every_flag():
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    assert [flag.name for flag in FLAGS if f"`{flag.name}`" not in page] == []
