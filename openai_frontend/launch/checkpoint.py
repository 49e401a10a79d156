"""Which folder is served: what --model names, or the default one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ConfigError

BUNDLED = "ernie-4.5-vl-tiny"
MADE = "ernie-4.5-vl-random"


@dataclass(frozen=True)
class Checkpoint:
    """`notice`: what the operator must know about it."""

    folder: Path
    notice: str = ""

    @property
    def name(self) -> str:
        return self.folder.name


def find_checkpoint(model: str, folders: Sequence[Path]) -> Checkpoint:
    """The folder `model`, or, for a hub id, the folder of its name below one of `folders`.

    Raises ConfigError that says where the files belong.
    """
    candidates = [Path(model), *(_below(folder, model) for folder in folders)]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return Checkpoint(candidate.resolve())
    if Path(model).is_dir():
        raise ConfigError(
            f"--model: {model} has no config.json; a checkpoint folder holds config.json, "
            "tokenizer.model and *.safetensors"
        )
    if not folders or not _is_hub_id(model):
        raise ConfigError(f"--model: there is no folder {model}")
    raise ConfigError(
        f"--model: {model} is no folder here, and nothing is downloaded: put the checkpoint's "
        f"files (config.json, tokenizer.model, *.safetensors, ...) into "
        f"{_below(folders[0], model)} and start again, or name another folder"
    )


def default_checkpoint(project: Path, cache: Path) -> Checkpoint:
    """The bundled checkpoint; where it is missing, a random one is made once and kept in `cache`.

    Raises ConfigError when it cannot be made.
    """
    bundled = project / "checkpoints" / BUNDLED
    if (bundled / "config.json").is_file():
        return Checkpoint(bundled.resolve())
    made = cache / MADE
    if not (made / "config.json").is_file():
        made = _make(project / "scripts" / "make_tiny_checkpoint.py", made)
    return Checkpoint(
        made.resolve(),
        f"No --model given: serving {made}, a small model with RANDOM weights. "
        "Its answers have the right shape and no meaning.",
    )


def _is_hub_id(model: str) -> bool:
    owner, slash, name = model.partition("/")
    return bool(owner and slash and name) and "/" not in name and not owner.startswith((".", "~"))


def _below(folder: Path, model: str) -> Path:
    """`folder`/NAME for OWNER/NAME, or `folder`/OWNER/NAME where that exists (a hub cache)."""
    whole = folder / model
    return whole if whole.is_dir() else folder / Path(model).name


def _make(script: Path, target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        target = Path(tempfile.gettempdir()) / f"ernie-triton-{os.getuid()}" / target.name
        target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and renamed, so that an interrupted run leaves no half checkpoint.
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        subprocess.run(  # noqa: S603
            [sys.executable, str(script), str(unfinished)],
            check=True,
            capture_output=True,
            timeout=600,
            text=True,
        )
        unfinished.rename(target)
    except (OSError, subprocess.SubprocessError) as error:
        if (target / "config.json").is_file():
            return target  # another start was faster
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ConfigError(
            f"no checkpoint to serve: {script.name} failed ({lines[-1] if lines else error}); "
            "name a checkpoint folder with --model"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target
