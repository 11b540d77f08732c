"""numpy's and MLX's ``.npz``: a zip archive with one ``.npy`` file per tensor. Read only.

The one idea: what `numpy.savez` and `mlx.savez` store is not compressed, so each array is a plain range of the archive.
Nothing is unpacked: no pickle can run, and no small file can grow large.
"""

import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, Cursor, Range, stored
from gpt2_from_scratch.checkpoint.container import Container
from gpt2_from_scratch.errors import FormatError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, ..., lengths of name and extra field
_DTYPES = {"<f8": torch.float64, "<f4": torch.float32, "<f2": torch.float16}


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is a zip archive whose first member is a ``.npy`` file."""
    if len(head) < _LOCAL_HEADER.size:
        return False
    signature, name_length, _ = _LOCAL_HEADER.unpack_from(head)
    name = head[_LOCAL_HEADER.size : _LOCAL_HEADER.size + name_length]
    return bool(signature == b"PK\x03\x04" and name.endswith(b".npy"))


def read(path: Path, mmap: bool = True) -> Container:
    """Opens an ``.npz`` archive. Its names decide what layout it has.

    Args:
        path: the file.
        mmap: tensors come from the mapped file, views where they happen to lie aligned; False reads each into memory of
            its own.

    Raises:
        FormatError: damaged, compressed, or holding what is not an array of floating-point numbers.
    """
    ranges: dict[str, Range] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FormatError(f"{path} is a damaged zip archive: {error}", TRUNCATED) from None
    for member in members:
        name = member.filename.removesuffix(".npy")
        where = f"{path}: {member.filename!r}"
        if name == member.filename or name in ranges:
            raise FormatError(f"{where} is not a .npy file, or stands there twice")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise FormatError(f"{where} is compressed", hint="save with savez, not with savez_compressed")
        if member.flag_bits & 1:
            raise FormatError(f"{where} is encrypted")
        ranges[name] = _range(path, where, member)
    return Container("numpy archive", (path,), stored(path, ranges, mmap))


def _range(path: Path, where: str, member: zipfile.ZipInfo) -> Range:
    with path.open("rb") as file:
        file.seek(member.header_offset)
        cursor = Cursor(file, path.stat().st_size - member.header_offset, where)
        signature, *lengths = _LOCAL_HEADER.unpack(cursor.take(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise FormatError(f"{where} is damaged: the archive's directory points elsewhere")
        cursor.skip(sum(lengths))
        start = file.tell()
        shape, fortran_order, dtype = _npy_header(file, where)
        header = file.tell() - start
    if dtype.str not in _DTYPES:
        raise FormatError(f"{where} has dtype {dtype.str}", hint="save float32 or float16; numpy has no bfloat16")
    if len(shape) > MAX_DIMS or any(size < 0 for size in shape):
        raise FormatError(f"{where} is damaged: its shape is {shape[:MAX_DIMS]}")
    if fortran_order and len(shape) > 1:
        raise FormatError(f"{where} is in Fortran order", hint="save np.ascontiguousarray of it")
    at = Range(start + header, shape, _DTYPES[dtype.str])
    if at.nbytes != (found := member.file_size - header):
        raise FormatError(f"{where} is damaged: {list(shape)} of {dtype} takes {at.nbytes:,} bytes, not {found:,}")
    return at


def _npy_header(file: Any, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        if (version := np.lib.format.read_magic(file)) != (1, 0):  # later ones are for headers above 64 kB
            raise FormatError(f"{where} is of .npy's version {version}; 1.0 is known")
        with warnings.catch_warnings(action="error"):  # numpy only warns of headers that Python 2 wrote, or nobody
            return np.lib.format.read_array_header_1_0(file)
    except (ValueError, UserWarning) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where} is damaged: {error}") from None
