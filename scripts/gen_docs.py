"""Write the documentation that is made from code: `python scripts/gen_docs.py [--check]`.

`--check` writes nothing and exits 1 when a file is not what it would be written as.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from openai_frontend.launch.flag import Flag  # noqa: E402
from openai_frontend.launch.flag_table import FLAGS  # noqa: E402

FLAGS_PAGE = ROOT / "docs" / "flags.md"
COMPATIBILITY_PAGE = ROOT / "docs" / "compatibility.md"
COMPATIBILITY_DATA = ROOT / "docs" / "compatibility.json"

_HEAD = """\
# Flags

<!-- Made by scripts/gen_docs.py from openai_frontend/launch/flag_table.py; do not edit. -->

`scripts/serve.sh [flags]` and `python -m openai_frontend.api_server [flags]` take FastDeploy's
flags, with `-` or `_` in their names. A wrong flag or value is refused before anything starts
(exit status 2). `--config FILE` reads flags from a file of `name: value` lines (the flat part of
YAML) or a JSON object; the command line wins over it.

A setting that has no flag can be given in the environment variable `ERNIE_SERVING`, a JSON object
of the names in `backend/config/serving.py`; flags win over it. `FD_API_KEY` (keys, comma-separated)
and `FD_MODEL_CACHE` (a folder where hub ids are looked for) are read as FastDeploy does.
"""


def flags_page() -> str:
    groups: dict[str, list[Flag]] = {}
    for flag in FLAGS:
        groups.setdefault(flag.group, []).append(flag)
    return "\n".join([_HEAD, *(_group(name, flags) for name, flags in groups.items())])


_COMPATIBILITY_HEAD = """\
# Compatibility

<!-- Made by scripts/gen_docs.py from docs/compatibility.json; do not edit. -->

What requests may hold and what comes back, here and elsewhere. Each cell of this project links the
test that shows it. The others' are read from their sources and documents: FastDeploy `develop` of
January 2026 (2.3 to 2.4), vLLM's protocol files of mid-2026 (0.33), Triton's
`python/openai` of August 2026. "unknown" is what could not be established there.

- **ignored**: taken without a word, and without effect.
- **refused**: an error names it. In Triton's frontend that is 422 for every field it does not know.
- **accepted, without effect**: documented as such; nothing in the answer depends on it.
"""


def compatibility_page() -> str:
    data = json.loads(COMPATIBILITY_DATA.read_text(encoding="utf-8"))
    return "\n".join([_COMPATIBILITY_HEAD, *(_features(group) for group in data["groups"])])


def _features(group: dict[str, Any]) -> str:
    head = "| | This project | FastDeploy | vLLM | Triton's frontend |\n|---|---|---|---|---|"
    rows = [
        f"| {row['field']} | {_own_cell(row)} | "
        + " | ".join(_peer_cell(row[peer]) for peer in ("fastdeploy", "vllm", "triton"))
        + " |"
        for row in group["rows"]
    ]
    return "\n".join([f"## {group['title']}", "", head, *rows, ""])


def _own_cell(row: dict[str, str]) -> str:
    if not row["test"]:
        return row["ours"]
    path, _, name = row["test"].partition("::")
    return f"{row['ours']}: [{name}](../{path})"


def _peer_cell(text: str) -> str:
    return "unknown" if text == "?" else text


def _group(name: str, flags: list[Flag]) -> str:
    if flags[0].ignored:
        head = (
            "FastDeploy's other flags, and a few of its neighbours': a command that has them "
            "starts unchanged, and each is answered with one warning.\n\n"
            "| Flag | Why it has no effect here |\n|---|---|"
        )
        rows = [f"| {_names(flag)} | {_cell(flag.help)} |" for flag in flags]
    else:
        head = "| Flag | Default | Effect |\n|---|---|---|"
        rows = [f"| {_names(flag)} | {_default(flag)} | {_effect(flag)} |" for flag in flags]
    return "\n".join([f"## {name}", "", head, *rows, ""])


def _names(flag: Flag) -> str:
    return ", ".join(f"`{name}`" for name in (flag.name, *flag.aliases))


def _default(flag: Flag) -> str:
    if flag.default_text:
        return _cell(flag.default_text)
    if flag.default in (None, ()):
        return "none"
    return f"`{json.dumps(flag.default) if flag.kind != 'str' else flag.default}`"


def _effect(flag: Flag) -> str:
    choices = f" One of {', '.join(f'`{choice}`' for choice in flag.choices)}."
    return _cell(flag.help + (choices if flag.choices else ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gen_docs.py", description=__doc__)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args(arguments).check
    status = 0
    for path, page in (
        (FLAGS_PAGE, flags_page()),
        (COMPATIBILITY_PAGE, compatibility_page()),
    ):
        if not is_check:
            path.write_text(page, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != page:
            print(f"{path.relative_to(ROOT)} is out of date: run python scripts/gen_docs.py")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
