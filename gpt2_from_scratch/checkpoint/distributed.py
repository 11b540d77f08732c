"""Checkpoints of `torch.distributed.checkpoint` (DCP), as FSDP, Accelerate, Lightning and torchtitan write them.

A folder holds `.metadata` and one or more `*.distcp` files for each rank. `.metadata` is a pickle: the shape of each
tensor, the chunks it is cut into, and the bytes of a file that hold each chunk. Those bytes are a file of `torch.save`
by themselves. PyTorch's own reader would run the pickle. Here a class in it is never imported: a stand-in keeps its
attributes. A tensor's chunks are read when the tensor is.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import pickled, state_dict, torch_pickle
from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, check_count
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.errors import FormatError

METADATA = ".metadata"
# Of `.metadata`: 120 bytes for a chunk; the 1558M model with its optimizer has 1,740 tensors, in 8 chunks on 8 ranks.
_MAX_BYTES = 4_000_000
_MOST_CHUNKS = 1_024  # of one tensor: no GPT-2 was trained on as many ranks
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_AGAIN = "copy the whole folder again, or save it again: DCP writes .metadata last"


@dataclass(frozen=True)
class _Chunk:
    """A box of a tensor, and where its bytes are."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


def recognises(head: bytes, path: Path) -> bool:
    """Whether this is the table of contents of such a folder."""
    return path.name == METADATA and head.startswith(b"\x80")


def read(metadata: Path, mmap: bool = True, key: str = "") -> Container:
    """Opens a folder that `torch.distributed.checkpoint` wrote, and takes the state dict out of what is around it.

    Args:
        metadata: its `.metadata`.
        mmap: has no effect: the chunks of a tensor are read when it is.
        key: which of several state dicts in it.

    Raises:
        FormatError: damaged, incomplete or hostile; says what.

    Example:
        >>> import tempfile, warnings, torch.distributed.checkpoint as dcp
        >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        ...     _ = dcp.save({"model": {"wte": torch.ones(3, 2)}}, checkpoint_id=folder)
        ...     read(Path(folder) / ".metadata").tensors["wte"].read().shape
        torch.Size([3, 2])
    """
    table = table_of(metadata)
    stored: dict[int, StoredTensor] = {}  # by the identity of a tensor that stands in for it, without values
    content: dict[str, Any] = {}
    for name, tensor in table.tensors.items():
        stand_in: Tensor | None = None  # of what is no tensor: a number of steps, settings
        if tensor is not None:
            stand_in = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            stored[id(stand_in)] = tensor.stored
        _put(metadata, content, table.paths.get(name, (name,)), stand_in)
    found = state_dict.find(content, str(metadata), key)
    return Container(
        "PyTorch distributed checkpoint" + (f", {found.about}" if found.about else ""),
        (metadata, *table.files),
        {name: stored[id(tensor)] for name, tensor in found.tensors.items()},
        found.layout,
        found.config,
        found.notes,
    )


@dataclass(frozen=True)
class ChunkedTensor:
    """A tensor, and the chunks that fill it.

    Args:
        shape: of the whole tensor.
        dtype: of its values.
        chunks: boxes of it; all of them are there, and none overlap.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: Sequence[_Chunk]

    @property
    def stored(self) -> StoredTensor:
        """The tensor, not read yet."""
        return StoredTensor(self.shape, self.dtype, partial(_read, self.shape, self.dtype, self.chunks))

    def slice(self, number: int) -> StoredTensor:
        """One element along the first axis, for which only the chunks that hold it are read."""
        chunks = [each for each in self.chunks if 0 <= number - each.offsets[0] < each.sizes[0]]
        read = partial(_read_slice, self.shape[1:], self.dtype, chunks, number)
        return StoredTensor(self.shape[1:], self.dtype, read)


class Table(NamedTuple):
    """What `.metadata` says."""

    tensors: Mapping[str, ChunkedTensor | None]  # None for what is saved there and is no tensor
    paths: Mapping[Any, Any]  # name -> the keys that led to it in the dictionary that was saved
    files: Sequence[Path]


def table_of(metadata: Path) -> Table:
    """Reads the table of contents, and proves that what it says is there.

    Args:
        metadata: a folder's `.metadata`.

    Raises:
        FormatError: damaged, incomplete or hostile; says what.
    """
    saved = _unpickled(metadata)
    described = _mapping(metadata, saved, "state_dict_metadata")
    paths = saved.planner_data if isinstance(getattr(saved, "planner_data", None), dict) else {}
    places = _places(metadata, saved)
    check_count(str(metadata), len(described))
    tensors: dict[str, ChunkedTensor | None] = {}
    for name, tensor in described.items():
        if not isinstance(name, str) or not name.isprintable():
            raise FormatError(f"{metadata}: tensor {name!a} has an unprintable name, or none")
        tensors[name] = _chunked(metadata, name, tensor, places) if hasattr(tensor, "chunks") else None
    files = sorted({chunk.file for chunks in places.values() for chunk in chunks.values()})
    return Table(tensors, paths, files)


def _put(metadata: Path, content: dict[str, Any], path: object, value: Tensor | None) -> None:
    """Puts a tensor where it was in the dictionary that was saved; positions in lists become keys.

    Raises:
        FormatError: the path is none, or leads to or through a place that something else has.
    """
    if not isinstance(path, tuple) or not path or not all(isinstance(step, str | int) for step in path):
        raise FormatError(f"{metadata}: {path!a:.80} is no path of keys", TRUNCATED)
    *folders, last = map(str, path)
    place: Any = content
    for step in folders:
        place = place.setdefault(step, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last in place:
        raise FormatError(f"{metadata}: two things are saved under {path!a:.80}", _AGAIN)
    place[last] = value


# --------------------------------------------------------------------------------------------------------- .metadata


class _SavedState(state_dict.SavedObject):
    """Stands in for a class of DCP, and keeps its state, too: of a tensor's properties it is a tuple."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        super().__setstate__(state)
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Imports nothing: dtypes are looked up by name, and every class is a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return _Named(dtype)
        if (module, name) == ("torch", "Size"):
            return tuple
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _SavedState


class _Named:
    """A dtype as the pickle names it: an object that can be neither called nor changed."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _unpickled(metadata: Path) -> Any:
    size = metadata.stat().st_size
    if size > _MAX_BYTES:
        raise FormatError(f"{metadata} has {size:,} bytes, and a GPT-2 needs fewer than {_MAX_BYTES:,}")
    data = metadata.read_bytes()
    pickled.scan(metadata, io.BytesIO(data), most=_MAX_BYTES)
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle raises anything
        raise FormatError(f"{metadata} is damaged: {type(error).__name__}: {error}"[:300], TRUNCATED) from None


def _mapping(metadata: Path, saved: object, name: str) -> Mapping[Any, Any]:
    found = getattr(saved, name, None)
    if not isinstance(found, dict) or not found:
        raise FormatError(f"{metadata} is no table of contents of DCP: it has no {name}", _AGAIN)
    return found


def _places(metadata: Path, saved: object) -> dict[str, dict[tuple[int, ...], _Chunk]]:
    """Tensor -> offsets of a chunk -> where its bytes are. Sizes are not known here."""
    places: dict[str, dict[tuple[int, ...], _Chunk]] = {}
    for index, info in _mapping(metadata, saved, "storage_data").items():
        name, file = getattr(index, "fqn", None), getattr(info, "relative_path", None)
        if not isinstance(name, str) or not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            raise FormatError(f"{metadata} places {name!a} in {file!a}, which is no plain file name")
        if getattr(info, "transform_descriptors", None):
            raise FormatError(f"{metadata.parent / file} is compressed", hint="save it without extensions of DCP")
        offsets = getattr(index, "offset", None)
        where = f"{metadata}: {name}"
        start, length = _sizes(where, (getattr(info, "offset", None), getattr(info, "length", None)))
        if offsets is not None:  # None: no tensor
            at = _sizes(where, offsets)
            places.setdefault(name, {})[at] = _Chunk(at, (), metadata.parent / file, start, length)
    return places


def _sizes(where: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMS or any(type(n) is not int or n < 0 for n in value):
        raise FormatError(f"{where}: {value!a:.80} are no sizes", TRUNCATED)
    return value


def _chunked(
    metadata: Path, name: str, described: Any, places: Mapping[str, Mapping[tuple[int, ...], _Chunk]]
) -> ChunkedTensor:
    """One tensor: its chunks lie inside it, do not overlap, fill it, and their bytes are there."""
    where = f"{metadata}: {name}"
    shape = _sizes(where, getattr(described, "size", None))
    dtype = _dtype(getattr(described, "properties", None))
    if dtype is None:
        raise FormatError(f"{where} has no dtype", TRUNCATED)
    listed = described.chunks
    if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_CHUNKS:
        raise FormatError(f"{where} has no list of 1 to {_MOST_CHUNKS:,} chunks")
    chunks = []
    for each in listed:
        offsets, sizes = (_sizes(where, getattr(each, part, None)) for part in ("offsets", "sizes"))
        place = places.get(name, {}).get(offsets)
        if place is None:
            raise FormatError(f"{where}: no file holds its chunk at {list(offsets)}", _AGAIN)
        if not place.file.is_file():
            raise FormatError(f"{metadata} names {place.file.name}, which is not there", _AGAIN)
        available, wanted = place.file.stat().st_size, math.prod(sizes) * dtype.itemsize
        if place.start + place.length > available or wanted > place.length:
            raise FormatError(f"{place.file} ends before, or within, the chunk of {name} at {list(offsets)}", TRUNCATED)
        chunks.append(_Chunk(offsets, sizes, place.file, place.start, place.length))
    if not _fill(shape, chunks):
        raise FormatError(f"{where}: its chunks do not fill {list(shape)}, each place once", _AGAIN)
    return ChunkedTensor(shape, dtype, chunks)


def _dtype(properties: Any) -> torch.dtype | None:
    """A dtype is the first of five properties, or an attribute, according to the version of PyTorch that saved it."""
    state = getattr(properties, "state", None)
    first = state[0] if isinstance(state, tuple) and state else getattr(properties, "dtype", None)
    return first.dtype if isinstance(first, _Named) else None


def _fill(shape: tuple[int, ...], chunks: Sequence[_Chunk]) -> bool:
    """Whether boxes fill a tensor: all of them lie in it, their volumes add up to its own, and no two overlap."""
    if any(len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape) for chunk in chunks):
        return False
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        return False
    starts = np.array([chunk.offsets for chunk in chunks], dtype=object).reshape(len(chunks), len(shape))
    stops = starts + np.array([chunk.sizes for chunk in chunks], dtype=object).reshape(starts.shape)
    inside = bool((stops <= np.array(shape, dtype=object)).all())
    overlap = ((starts[:, None] < stops[None]) & (starts[None] < stops[:, None])).all(-1)
    empty = np.array([math.prod(chunk.sizes) == 0 for chunk in chunks])
    return inside and int(overlap[~empty][:, ~empty].sum()) == int((~empty).sum())  # each one overlaps itself alone


def _read(shape: tuple[int, ...], dtype: torch.dtype, chunks: Sequence[_Chunk]) -> Tensor:
    if len(chunks) == 1:
        return _part(chunks[0], dtype)
    whole = torch.empty(shape, dtype=dtype)
    for chunk in chunks:
        box = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[box] = _part(chunk, dtype)
    return whole


def _read_slice(shape: tuple[int, ...], dtype: torch.dtype, chunks: Sequence[_Chunk], number: int) -> Tensor:
    whole = torch.empty(shape, dtype=dtype)
    for chunk in chunks:
        box = tuple(slice(at, at + size) for at, size in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True))
        whole[box] = _part(chunk, dtype)[number - chunk.offsets[0]]
    return whole


def _part(chunk: _Chunk, dtype: torch.dtype) -> Tensor:
    with chunk.file.open("rb") as file:
        file.seek(chunk.start)
        data = file.read(chunk.length)
    tensor = torch_pickle.read_tensor(chunk.file, data)
    if tuple(tensor.shape) != chunk.sizes or tensor.dtype != dtype:
        raise FormatError(
            f"{chunk.file}: at byte {chunk.start:,} is a {tensor.dtype} {list(tensor.shape)}, and {METADATA} says "
            f"{dtype} {list(chunk.sizes)}",
            _AGAIN,
        )
    return tensor
