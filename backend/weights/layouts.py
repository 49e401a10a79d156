"""Where a canonical tensor lies in the files of each layout: one table of rules per layout.

A rule turns a ParameterSpec into parts. A part is one tensor of the files, the region of the
canonical tensor that it fills, and whether it is stored transposed. File names are without their
`ernie.` or `model.` prefix, which repositories do not use consistently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from backend.config.model import ModelConfig
from backend.errors import CheckpointError
from backend.layers.moe import EXPERT_GROUPS
from backend.models.parameters import ParameterSpec
from backend.ops.interface import ParameterKind, Region

Rule = Callable[[ParameterSpec, ModelConfig], Iterator["Part"]]

ALL: Region = (slice(None),)


@dataclass(frozen=True)
class Part:
    """`name`'s tensor, transposed if so marked, is canonical[target]; `shape` is the file's."""

    name: str
    shape: tuple[int, ...]
    target: Region = ALL
    is_transposed: bool = False


@dataclass(frozen=True)
class Layout:
    """`marker` is the end of a name that only this layout has."""

    name: str
    prefix: str
    marker: str
    rules: Mapping[ParameterKind, Rule]

    def parts(self, spec: ParameterSpec, config: ModelConfig) -> list[Part]:
        return list(self.rules[spec.kind](spec, config))

    def strip(self, name: str) -> str:
        return name.removeprefix(self.prefix)


UNUSED = re.compile(r"mtp_.+")
"""Tensors of no model here, by their names without prefix: the multi-token prediction layer."""


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether a file tensor without a place in the model may be there all the same."""
    is_tied_head = config.tie_word_embeddings and name == "lm_head.weight"
    return is_tied_head or UNUSED.fullmatch(name) is not None


def detect_layout(names: Iterable[str], where: str) -> Layout:
    """The layout that tensor `names` are in. Raises CheckpointError if that is not clear."""
    listed = list(names)
    found = [layout for layout in LAYOUTS if any(name.endswith(layout.marker) for name in listed)]
    if len(found) != 1:
        markers = " or ".join(f"*.{layout.marker} ({layout.name} layout)" for layout in LAYOUTS)
        raise CheckpointError(
            f"{where}: no ERNIE-4.5 checkpoint layout: expected tensors {markers}; "
            f"found {'both' if found else 'neither'} among {len(listed)} tensors"
        )
    return found[0]


def _whole(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    yield Part(spec.name, spec.shape)


def _transposed(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    yield Part(spec.name, spec.shape[::-1], is_transposed=True)


def _router(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    """HF repositories of VL models keep the routers as Paddle has them."""
    yield from (_whole if config.is_multimodal else _transposed)(spec, config)


def _split_qkv(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    start = 0
    for letter, width in (("q", queries), ("k", keys), ("v", keys)):
        name = spec.name.replace("qkv_proj", f"{letter}_proj")
        columns = (slice(None), slice(start, start + width))
        yield Part(name, (width, spec.shape[0]), columns, is_transposed=True)
        start += width


def _split_gate_up(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    yield from _halves(spec.name, spec.shape[0], spec.shape[1] // 2, ())


def _halves(name: str, inputs: int, width: int, outer: Region) -> Iterator[Part]:
    """Gate before up, whatever `up_gate_proj` suggests."""
    for index, half in enumerate(("gate", "up")):
        columns = (*outer, slice(None), slice(index * width, (index + 1) * width))
        part_name = name.replace("up_gate_proj", f"{half}_proj")
        yield Part(part_name, (width, inputs), columns, is_transposed=True)


def _experts(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    for index, name in enumerate(_expert_names(spec, config)):
        yield Part(name, spec.shape[1:], (index,))


def _transposed_experts(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    for index, name in enumerate(_expert_names(spec, config)):
        yield Part(name, spec.shape[:0:-1], (index,), is_transposed=True)


def _split_experts(spec: ParameterSpec, config: ModelConfig) -> Iterator[Part]:
    for index, name in enumerate(_expert_names(spec, config)):
        yield from _halves(name, spec.shape[1], spec.shape[2] // 2, (index,))


def _expert_names(spec: ParameterSpec, config: ModelConfig) -> Iterator[str]:
    """Names of a stack's experts; the files number all text experts before the vision experts."""
    prefix, group, projection = spec.name.rsplit(".", 2)
    earlier = config.moe.num_experts[: EXPERT_GROUPS.index(group)] if config.moe else ()
    for index in range(spec.shape[0]):
        yield f"{prefix}.{sum(earlier) + index}.{projection}.weight"


PADDLE = Layout(
    name="Paddle",
    prefix="ernie.",
    marker="self_attn.qkv_proj.weight",
    rules={
        "vector": _whole,
        "embedding": _whole,
        "head": _whole,
        "linear": _whole,
        "qkv": _whole,
        "gate_up": _whole,
        "router": _whole,
        "experts_gate_up": _experts,
        "experts_down": _experts,
    },
)
HF = Layout(
    name="HF",
    prefix="model.",
    marker="self_attn.q_proj.weight",
    rules={
        "vector": _whole,
        "embedding": _whole,
        "head": _transposed,
        "linear": _transposed,
        "qkv": _split_qkv,
        "gate_up": _split_gate_up,
        "router": _router,
        "experts_gate_up": _split_experts,
        "experts_down": _transposed_experts,
    },
)
LAYOUTS = (PADDLE, HF)
