"""What is read from where: every part of every parameter matched with a tensor of the files.

All of it is checked before a byte of weights is read, so that a wrong checkpoint fails at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from backend.config.model import ModelConfig
from backend.errors import CheckpointError
from backend.models.parameters import ParameterSpec
from backend.weights.checkpoint import Checkpoint, StoredTensor
from backend.weights.header import shown
from backend.weights.layouts import Layout, Part, detect_layout, is_unused
from backend.weights.safetensors_file import DTYPES

_LISTED = 3


@dataclass(frozen=True)
class Source:
    """A part and the file tensor that holds it."""

    part: Part
    stored: StoredTensor


@dataclass(frozen=True)
class LoadPlan:
    """`sources` of each parameter, in the order of the specs."""

    layout: Layout
    sources: dict[str, list[Source]]

    @property
    def num_bytes(self) -> int:
        return sum(map(self.num_bytes_of, self.sources))

    def num_bytes_of(self, name: str) -> int:
        """Bytes that the files hold of one parameter."""
        return sum(source.stored.entry.num_bytes for source in self.sources[name])


def plan_load(
    checkpoint: Checkpoint, config: ModelConfig, specs: Mapping[str, ParameterSpec]
) -> LoadPlan:
    """Match `specs` with the tensors of `checkpoint`.

    Raises CheckpointError naming file, tensor, expected and found for a missing tensor, one too
    many, a wrong shape or dtype, and one that is there under two names.
    """
    layout = detect_layout(checkpoint.tensors, str(checkpoint.where))
    available = _without_prefix(checkpoint, layout)
    parts = {name: layout.parts(spec, config) for name, spec in specs.items()}
    wanted = [part for group in parts.values() for part in group]
    _check_missing([part for part in wanted if part.name not in available], checkpoint, layout)
    for part in wanted:
        _check_match(part, available[part.name])
    used = {part.name for part in wanted}
    extra = [name for name in available if name not in used and not is_unused(name, config)]
    _check_extra([available[name] for name in extra], config)
    sources = {
        name: [Source(part, available[part.name]) for part in group]
        for name, group in parts.items()
    }
    return LoadPlan(layout, sources)


def _without_prefix(checkpoint: Checkpoint, layout: Layout) -> dict[str, StoredTensor]:
    available: dict[str, StoredTensor] = {}
    for full_name, stored in checkpoint.tensors.items():
        name = layout.strip(full_name)
        if name in available:
            raise CheckpointError(
                f"{stored.file.path}: tensor {shown(full_name)} is there twice: "
                f"{available[name].file.path} has {shown(available[name].entry.name)}"
            )
        available[name] = stored
    return available


def _check_missing(missing: list[Part], checkpoint: Checkpoint, layout: Layout) -> None:
    if missing:
        names = _list(f"{part.name} {list(part.shape)}" for part in missing)
        raise CheckpointError(
            f"{checkpoint.where}: {_count(len(missing), 'tensor')} missing: {names}; expected with "
            f"or without {layout.prefix!r} in front ({layout.name} layout)"
        )


def _check_match(part: Part, stored: StoredTensor) -> None:
    entry = stored.entry
    what = f"{stored.file.path}: tensor {shown(entry.name)}"
    if entry.shape != part.shape:
        raise CheckpointError(
            f"{what} has shape {list(entry.shape)}; expected {list(part.shape)} by config.json"
        )
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{what} has dtype {entry.dtype}; expected one of {', '.join(DTYPES)}"
        )


def _check_extra(extra: list[StoredTensor], config: ModelConfig) -> None:
    if extra:
        names = _list(f"{stored.entry.name} {list(stored.entry.shape)}" for stored in extra)
        raise CheckpointError(
            f"{extra[0].file.path}: {_count(len(extra), 'tensor')} too many: {names}; "
            f"{config.architecture} with this config.json has no such tensor"
        )


def _count(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"


def _list(names: Iterator[str]) -> str:
    """The first few names, each short enough for a message."""
    listed = [shown(name) for name in names]
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")
