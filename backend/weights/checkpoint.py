"""The weight files of a model folder as one set of tensors: model.safetensors, or index and shards.

folder/model.safetensors
folder/model.safetensors.index.json  {"weight_map": {tensor: "model-00001-of-00002.safetensors"}}
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.config.keys import read_json_object
from backend.errors import CheckpointError
from backend.weights.header import TensorEntry, shown
from backend.weights.safetensors_file import SafetensorsFile

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor and the file that holds it."""

    file: SafetensorsFile
    entry: TensorEntry


@dataclass(frozen=True)
class Checkpoint:
    """`where` names the file that lists the tensors: the index, or the single file."""

    where: Path
    tensors: dict[str, StoredTensor]


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Map and check every weight file of `folder`; they are unmapped at the end.

    Raises CheckpointError when the folder has no weights, a file is missing or damaged, files and
    index disagree, or a tensor is in two files.
    """
    index_path = folder / INDEX_NAME
    weight_map = _read_weight_map(index_path)
    if weight_map is None:
        where, names = _single_file(folder), [SINGLE_NAME]
    else:
        where, names = index_path, sorted(set(weight_map.values()))
        if SINGLE_NAME not in names and (folder / SINGLE_NAME).exists():
            raise CheckpointError(
                f"{folder} has both {SINGLE_NAME} and {INDEX_NAME}, which does not name it; "
                "expected one of them"
            )
    with ExitStack() as stack:
        tensors: dict[str, StoredTensor] = {}
        for name in names:
            if weight_map is not None and not (folder / name).exists():
                raise CheckpointError(f"{folder / name} does not exist; {index_path} names it")
            file = SafetensorsFile(folder / name)
            stack.callback(file.close)
            _add_tensors(tensors, file)
        if weight_map is not None:
            _check_index(index_path, weight_map, tensors)
        yield Checkpoint(where, tensors)


def _single_file(folder: Path) -> Path:
    path = folder / SINGLE_NAME
    if not path.exists():
        others = sorted(item.name for item in folder.glob(f"*{_SUFFIX}"))
        found = f"; found only {shown(', '.join(others))}" if others else ""
        raise CheckpointError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}{found}")
    return path


def _read_weight_map(path: Path) -> dict[str, str] | None:
    """File name by tensor name; None if there is no index."""
    index = read_json_object(path)
    if index is None:
        return None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is missing or empty; expected tensor: file")
    for tensor, name in weight_map.items():
        # Only plain names of the same folder: an index must not make us read other files.
        plain = isinstance(name, str) and "/" not in name and "\\" not in name and "\0" not in name
        if not plain or not name.endswith(_SUFFIX) or name == _SUFFIX:
            raise CheckpointError(
                f"{path}: tensor {shown(tensor)} is in file {shown(name)}; "
                f"expected the name of a {_SUFFIX} file in the same folder"
            )
    return weight_map


def _add_tensors(tensors: dict[str, StoredTensor], file: SafetensorsFile) -> None:
    for name, entry in file.entries.items():
        if name in tensors:
            raise CheckpointError(
                f"tensor {shown(name)} is in two files: {tensors[name].file.path} and {file.path}"
            )
        tensors[name] = StoredTensor(file, entry)


def _check_index(path: Path, weight_map: dict[str, str], tensors: dict[str, StoredTensor]) -> None:
    for name, file_name in weight_map.items():
        stored = tensors.get(name)
        found = "no file" if stored is None else stored.file.path.name
        if found != file_name:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} should be in {file_name}; it is in {found}"
            )
    for name, stored in tensors.items():
        if name not in weight_map:
            raise CheckpointError(f"{stored.file.path}: tensor {shown(name)} is not in {path}")
