"""safetensors: the official form of GPT-2's weights today.

A file is an 8-byte little-endian length, that many bytes of JSON header, then the tensors. The library reads the data
(memory mapped, no copy). The header is checked here first, because the library accepts duplicate names, unknown fields
and bytes that belong to no tensor.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.checkpoint.binary import (
    MAX_DIMS,
    TRUNCATED,
    OpenFile,
    Range,
    check_count,
    check_shape,
    check_table,
    raw,
)
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.config import no_duplicates
from gpt2_from_scratch.errors import ConfigError, FormatError

INDEX = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    # Of quantised files, whose weights are refused by name.
    "U32": torch.uint32,
    "U16": torch.uint16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_MALFORMED = "the file was damaged, or written by a faulty program: fetch it again, or save it again"


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is safetensors: a plausible length, then ``{``."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES and head[8:9] == b"{"


def read(path: Path, mmap: bool = True) -> Container:
    """Opens one safetensors file.

    Args:
        path: the file.
        mmap: map it, so that tensors are views of the file; False reads each tensor into memory of its own.

    Raises:
        FormatError: the file is not safetensors, or contradicts itself; says where.
    """
    ranges, metadata = _read_header(path)
    try:
        library = safe_open(path, framework="pt") if mmap else None
    except SafetensorError as error:
        raise FormatError(f"{path}: {error}", _MALFORMED) from None
    reads: dict[str, Callable[[], Tensor]]
    if library is None:
        file = OpenFile(path)
        reads = {name: partial(file.read, at) for name, at in ranges.items()}
    else:
        reads = {name: partial(library.get_tensor, name) for name in ranges}
    tensors = {name: StoredTensor(at.shape, at.dtype, reads[name]) for name, at in ranges.items()}
    # `safetensors.torch.save_model` keeps one of several tied tensors, and says here which it stands for.
    tied = {name: kept for name, kept in metadata.items() if name not in tensors and kept in tensors}
    notes = tuple(f"{name} is {kept}, as the file's metadata says" for name, kept in tied.items())
    tensors |= {name: tensors[kept] for name, kept in tied.items()}
    return Container("safetensors", (path,), tensors, notes=notes)


def _read_header(path: Path) -> tuple[dict[str, Range], Mapping[str, str]]:
    """The table of contents and the metadata, after every rule of the format has been checked."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if size < 8 or length > _MAX_HEADER_BYTES:
            raise FormatError(
                f"{path} is not a safetensors file: {size:,} bytes, header length {length:,}",
                hint="give the model's file, or fetch it again",
            )
        if 8 + length > size:
            raise FormatError(f"{path} is truncated: {size:,} bytes, its header alone takes {8 + length:,}", TRUNCATED)
        check_table(str(path), length)
        content = file.read(length)
    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=no_duplicates)
    except ConfigError as error:
        raise FormatError(f"{path}: in the header, {error.message}", _MALFORMED) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the header is not valid JSON: {error}", _MALFORMED) from None
    if not isinstance(header, dict) or not content.startswith(b"{"):
        raise FormatError(f"{path}: the header is not a JSON object", _MALFORMED)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: __metadata__ must map text to text", _MALFORMED)
    check_count(str(path), len(header))
    entries = {name: _entry(path, name, fields, 8 + length) for name, fields in header.items()}
    _check_ranges(path, entries, 8 + length, size)
    for name, entry in entries.items():
        check_shape(f"{path}: tensor {name!r}", entry.shape, size)
    return entries, metadata


def _entry(path: Path, name: str, fields: Any, data_start: int) -> Range:
    where = f"{path}: tensor {name!r}"
    if not name or not name.isprintable():
        raise FormatError(f"{where} has an empty or unprintable name", _MALFORMED)
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where} must have dtype, shape and data_offsets, nothing else", _MALFORMED)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise FormatError(f"{where} has dtype {dtype!r}", hint="supported: " + ", ".join(_DTYPES))
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{where}: shape must list at most {MAX_DIMS} sizes, data_offsets two", _MALFORMED)
    begin, end = offsets
    expected = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - begin != expected:
        raise FormatError(
            f"{where}: {dtype} {shape} takes {expected:,} bytes, data_offsets give {end - begin:,}", _MALFORMED
        )
    return Range(data_start + begin, tuple(shape), _DTYPES[dtype])


def _check_ranges(path: Path, entries: Mapping[str, Range], data_start: int, size: int) -> None:
    """Sorted by offset the ranges must touch each other, from the header to the end of the file."""
    position = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            problem = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            raise FormatError(f"{path}: tensor {name!r} {problem} ({abs(entry.start - position):,} bytes)", _MALFORMED)
        position = entry.end
    if size < position:
        raise FormatError(
            f"{path} is truncated: {size:,} bytes of {position:,}, {position - size:,} missing", TRUNCATED
        )
    if size > position:
        raise FormatError(f"{path} has {size - position:,} bytes behind its last tensor", _MALFORMED)


def _is_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMS
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


# --------------------------------------------------------------------------------------------------------- writing

# The library orders a file by descending rank of the dtype, then by name; so do we, to write the same bytes.
_WRITE_ORDER = ("U64", "I64", "F64", "U32", "I32", "F32", "U16", "I16", "BF16", "F16", "I8", "U8", "BOOL")
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Writes one safetensors file, tensor by tensor: at most one of them is in memory beside its source.

    Args:
        path: replaced when, and only when, the new file is complete on disk.
        tensors: name -> tensor; read one after the other, each once.
    """
    with replacing(path) as file:
        write_to(file, tensors)


def write_to(file: BinaryIO, tensors: Mapping[str, StoredTensor]) -> None:
    """Writes the content of a safetensors file.

    Args:
        file: open for writing, at its beginning.
        tensors: name -> tensor; read one after the other, each once.
    """
    order = sorted(tensors, key=lambda name: (_WRITE_ORDER.index(_NAMES[tensors[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers 4 refuses a file without it
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little"))
    file.write(content)
    for name in order:
        file.write(raw(tensors[name].read()).data)


def is_shard_or_index(name: str) -> bool:
    """Whether this is a name under which weights are saved: `model.safetensors`, a numbered shard, or the index."""
    return name == INDEX or re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name) is not None
