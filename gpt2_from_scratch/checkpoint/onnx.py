"""ONNX graphs: their initialisers are the model's weights, in the file or in files of plain bytes beside it. Read only.

The exporters of PyTorch keep the names of parameters. They leave out what they have folded into another constant, and
add constants of the graph; integers for shapes and single numbers among them are no weights. What the graph computes is
not looked at.

Format: ``onnx.proto`` and ``ExternalData.md`` of ONNX.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gpt2_from_scratch.checkpoint import protobuf
from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, Cursor, Range, check_count, stored
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.shards import beside
from gpt2_from_scratch.errors import FormatError

# `ModelProto` begins with its version, a small number, and goes on with a text, the operators' versions or the graph.
_BEGINNING = re.compile(rb"\x08[\x01-\x40][\x12\x1a\x22\x28\x32\x3a\x42]")
_GRAPH, _INITIALISER = 7, 5  # numbers of the fields of `ModelProto` and of `GraphProto`
_MAX_NAME_BYTES = 1_000
# `TensorProto.DataType`.
_DTYPES: Mapping[int, torch.dtype] = {
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
# Lists of values that are plain little-endian numbers: the list's field -> the data type of tensors in it.
_LISTS = {4: 1, 10: 11}


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is an ONNX graph."""
    return _BEGINNING.match(head) is not None


def read(path: Path, mmap: bool = True) -> Container:
    """Opens an ONNX graph for its weights.

    Args:
        path: the graph.
        mmap: tensors are views of the mapped files; False reads each into memory of its own.

    Raises:
        FormatError: damaged or hostile; data outside the graph are missing, or not beside it.
    """
    ranges: dict[Path, dict[str, Range]] = defaultdict(dict)
    names: dict[str, None] = {}
    constants = 0
    with path.open("rb") as file:
        model = Cursor(file, path.stat().st_size, str(path))
        for graph in _messages(model, _GRAPH):
            for message in _messages(graph, _INITIALISER):
                check_count(str(path), len(names) + constants + 1)
                initialiser = _initialiser(message)
                if initialiser.is_constant:
                    constants += 1
                    continue
                if initialiser.name in names:
                    raise FormatError(f"{path}: the initialiser {initialiser.name!r} is there twice")
                names[initialiser.name] = None
                place, range_ = _place(path, initialiser)
                ranges[place][initialiser.name] = range_
    tensors: dict[str, StoredTensor] = {}
    for place, inside in ranges.items():
        tensors |= stored(place, inside, mmap)
    notes = ["only the weights of the graph are read, and not what it computes"]
    if constants:
        notes.append(f"left out: {constants:,} constants of the graph, which are numbers, shapes and indices")
    others = sorted(place for place in ranges if place != path)
    return Container("ONNX", (path, *others), {name: tensors[name] for name in names}, notes=tuple(notes))


@dataclass
class _Initialiser:
    """A `TensorProto`."""

    where: str
    name: str = ""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    data: Cursor | None = None
    is_list: int = 0  # the number of the field, where the values are a list
    outside: dict[str, str] = field(default_factory=dict)
    is_outside: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether it is a single number, or integers as only shapes and indices are."""
        return not self.shape or _DTYPES.get(self.kind) in (torch.int32, torch.int64)


def _messages(message: Cursor, wanted: int) -> Iterator[Cursor]:
    """The fields of this number that are messages."""
    for number, content in protobuf.fields(message):
        if number == wanted and isinstance(content, Cursor):
            yield content


def _initialiser(message: Cursor) -> _Initialiser:
    found = _Initialiser(message.where)
    for number, content in protobuf.fields(message):
        match number, content:
            case 1, int():
                found.shape.append(content)
            case 1, Cursor():  # packed
                while content.left and len(found.shape) <= MAX_DIMS:
                    found.shape.append(content.varint())
            case 2, int():
                found.kind = content
            case 8, Cursor() if content.left <= _MAX_NAME_BYTES:
                found.name = content.text(content.left)
            case 9, Cursor():
                found.data = content
            case ((4 | 5 | 7 | 10), _):
                found.is_list = number
                found.data = content if isinstance(content, Cursor) else None
            case 13, Cursor():
                pair = {n: text for n, text in protobuf.fields(content) if isinstance(text, Cursor)}
                key, value = (pair[n].text(pair[n].left) if n in pair else "" for n in (1, 2))
                found.outside[key] = value
            case 14, int():
                found.is_outside = content == 1
            case _:
                pass
        if len(found.shape) > MAX_DIMS or len(found.outside) > MAX_DIMS:
            raise FormatError(f"{message.where} is damaged: a tensor of more than {MAX_DIMS} dimensions")
    if not found.name or not found.name.isprintable():
        raise FormatError(f"{message.where}: the initialiser {found.name!a} has an unprintable name, or none")
    found.where = f"{message.where}: the initialiser {found.name!r}"
    return found


def _place(path: Path, found: _Initialiser) -> tuple[Path, Range]:
    """The file that holds a tensor's values, and where they are in it."""
    shape = tuple(found.shape)
    if found.kind not in _DTYPES:
        raise FormatError(f"{found.where} has ONNX's data type {found.kind}, which no weights have")
    dtype = _DTYPES[found.kind]
    if found.is_outside:
        place = beside(path, found.outside.get("location", ""))
        start, length = found.outside.get("offset", "0"), found.outside.get("length", "")
        if not all(len(number) < 20 and number.isascii() and number.isdigit() for number in (start, length)):
            raise FormatError(f"{found.where} gives no place in {place.name}: {start!a:.40}, {length!a:.40}")
        at, available = Range(int(start), shape, dtype), int(length)
    elif found.data is None or (found.is_list and _LISTS.get(found.is_list) != found.kind):
        raise FormatError(
            f"{found.where} has its values in a list of another type, or none",
            hint="have its values made with onnx.numpy_helper.from_array, and save the graph again",
        )
    else:
        place, at, available = path, Range(found.data.start, shape, dtype), found.data.left
    if at.nbytes != available:
        raise FormatError(f"{found.where}: {list(shape)} of {dtype} does not take {available:,} bytes", TRUNCATED)
    return place, at
