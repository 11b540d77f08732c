"""Describes a file or folder that does not open as a GPT-2: its tensors, its format, and why it does not fit."""

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2_from_scratch.checkpoint import Container, StoredTensor, open_container
from gpt2_from_scratch.checkpoint.binary import MOST_TENSORS
from gpt2_from_scratch.errors import CheckpointError, FormatError, short_repr
from gpt2_from_scratch.loading import dtype_name
from gpt2_from_scratch.mapping import collapse


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: its shape and dtype, as stored."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, repr=False)
class Contents:
    """A file or folder that does not open as a GPT-2. ``str()`` is the problem.

    Args:
        source: the checkpoint, as asked for.
        files: name -> bytes, of the file or of those in the folder.
        form: kind of container, or "" if no file could be read as one.
        tensors: name -> shape and dtype, of the file that was read.
        notes: remarks from reading the file.
        problem: why it does not open.
        hint: what to do.
        options: options with which it opens, if some were found.
    """

    source: str
    files: Mapping[str, int]
    form: str
    tensors: Mapping[str, Stored]
    notes: tuple[str, ...]
    problem: str
    hint: str
    options: Mapping[str, object]

    def __str__(self) -> str:
        return self.problem

    def to_do(self, spelled: Callable[[Mapping[str, object]], str]) -> str:
        """What to do.

        Args:
            spelled: how options are written where the user is.
        """
        return ": ".join(filter(None, [self.hint, spelled(self.options) if self.options else ""]))

    def __repr__(self) -> str:
        return short_repr("Contents", f"{self.source}, {len(self.tensors)} tensors, not opened")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = {name: {"shape": list(each.shape), "dtype": each.dtype} for name, each in self.tensors.items()}
        return {"opens": False, **vars(self), "tensors": tensors, "notes": list(self.notes)}


def contents_of(source: str, path: Path, error: CheckpointError, key: str = "") -> Contents:
    """Describes a file or folder that did not open.

    Args:
        source: the checkpoint, as asked for.
        path: an existing file or folder.
        error: why it did not open.
        key: which state dict of a file with several.
    """
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    container = next(_readable([path] if path.is_file() else files, key), None)
    tensors = {} if container is None else container.tensors
    return Contents(
        source=source,
        files={file.name: file.stat().st_size for file in files[:_MOST_FILES]},
        form="" if container is None else container.form,
        tensors={name: Stored(each.shape, dtype_name(each.dtype)) for name, each in tensors.items()},
        notes=() if container is None else container.notes,
        problem=error.message,
        hint=error.bare_hint,
        options=error.options,
    )


_MOST_FILES = 100  # of a folder: the output of a training run has a few dozen


def _readable(files: list[Path], key: str) -> Iterator[Container]:
    """Opens the files that are in a known form, or ONNX graphs."""
    for file in files[:_MOST_FILES]:
        try:
            yield onnx_initialisers(file) if file.suffix == ".onnx" else open_container(file, key=key)
        except (CheckpointError, OSError, ValueError):
            continue


def rows_of(contents: Contents) -> list[tuple[str, str]]:
    """The result for people, as rows: a title, and the text."""
    size = sum(contents.files.values())
    names = ", ".join(list(contents.files)[:12]) + (", ..." if len(contents.files) > 12 else "")
    rows = [("files", f"{names}; {size:,} bytes")]
    if contents.form:
        rows.append(("form", contents.form))
        rows.append(("tensors", f"{len(contents.tensors)}"))
    rows += [("", line) for line in _collapsed(contents.tensors)]
    rows += [("note", note) for note in contents.notes]
    return [*rows, ("not opened", contents.problem)]


def _collapsed(tensors: Mapping[str, Stored]) -> list[str]:
    """A line for each kind of tensor: layers' numbers folded together, shape and dtype."""
    kinds: dict[Stored, list[str]] = {}
    for name, each in tensors.items():
        kinds.setdefault(each, []).append(name)
    lines = {
        name: f"{name} {list(each.shape)} {each.dtype}" for each, names in kinds.items() for name in collapse(names)
    }
    more = len(lines) - _MOST_LINES
    return [*list(lines.values())[:_MOST_LINES], *([f"and {more:,} more kinds"] if more > 0 else [])]


_MOST_LINES = 60  # GPT-2 has 16 kinds of tensors


# ------------------------------------------------------------------------------------------------------------- ONNX

# `TensorProto.DataType` -> dtype, of those that weights have.
_ONNX_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
_GRAPH, _INITIALISER, _DIMS, _DATA_TYPE, _NAME = 7, 5, 1, 2, 8  # field numbers of ModelProto, GraphProto, TensorProto


def onnx_initialisers(path: Path) -> Container:
    """The table of contents of an ONNX graph: names, shapes and dtypes of its weights. None of them can be read here.

    Args:
        path: the file, mapped: it may be large.

    Raises:
        FormatError: it is no ONNX graph.
    """

    def unread() -> torch.Tensor:
        raise FormatError(f"{path} is an ONNX graph, whose weights are not read")

    tensors: dict[str, StoredTensor] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, start, end in _fields(data, 0, len(data)):
            if number != _GRAPH:
                continue
            for inner, begin, stop in _fields(data, start, end):
                if inner == _INITIALISER and len(tensors) < MOST_TENSORS:
                    name, shape, kind = _tensor(data, begin, stop)
                    tensors[name] = StoredTensor(shape, _ONNX_DTYPES.get(kind, torch.float32), unread)
    if not tensors:
        raise FormatError(f"{path} holds no initialiser: it is no ONNX graph with weights")
    return Container("ONNX", (path,), tensors)


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[str, tuple[int, ...], int]:
    name, shape, kind = "", [], 0
    for number, begin, stop in _fields(data, start, end):
        if number == _NAME:
            name = data[begin:stop][:1000].decode("utf-8", "replace")
        elif number == _DATA_TYPE:
            kind, _ = _varint(data, begin, stop)
        elif number == _DIMS:
            at = begin
            while at < stop:  # packed, or one by one
                size, at = _varint(data, at, stop)
                shape.append(size)
    return name, tuple(shape[:_MOST_DIMS]), kind


_MOST_DIMS = 8  # that are shown; GPT-2's tensors have at most 4 in any form


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a protocol buffer message: number, and where the content begins and ends."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        match tag & 7:
            case 0:
                _, stop = _varint(data, at, end)
            case 1:
                stop = at + 8
            case 2:
                length, at = _varint(data, at, end)
                stop = at + length
            case 5:
                stop = at + 4
            case _:
                raise FormatError("it is no ONNX graph")
        if stop > end:
            raise FormatError("it is no ONNX graph")
        yield tag >> 3, at, stop
        at = stop


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise FormatError("it is no ONNX graph")
