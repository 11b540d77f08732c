"""numpy's and MLX's ``.npz``: a zip archive with one ``.npy`` file per tensor. Read only.

`numpy.savez` and `mlx.savez` do not compress, so each array is a plain range of the archive. Nothing is unpacked: no
pickle can run, and no small file can grow large.
"""

import re
import struct
import zipfile
from pathlib import Path

import torch

from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, Cursor, Range, stored, zip_archive
from gpt2_from_scratch.checkpoint.container import Container
from gpt2_from_scratch.errors import FormatError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, ..., lengths of name and extra field
# A Python literal, which numpy and MLX write in this order, with and without commas at the end.
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[ -~]{1,20})', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\}\s*"
)
_DTYPES = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,  # token ids; weights are refused later, by name
    "<i4": torch.int32,
}


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
    with path.open("rb") as file:
        members = zip_archive(path, file).filelist
    for member in members:
        name = member.filename.removesuffix(".npy")
        where = f"{path}: {member.filename!r}"
        if name == member.filename or name in ranges:
            raise FormatError(f"{where} is not a .npy file, or stands there twice")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise FormatError(f"{where} is compressed", hint="save with savez, not with savez_compressed")
        if member.flag_bits & 1 or member.header_offset < 0:
            raise FormatError(f"{where} is encrypted, or damaged")
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
        start = cursor.position
        if cursor.take(8) != b"\x93NUMPY\x01\x00":  # version 1.0; later ones are for headers above 64 kB
            raise FormatError(f"{where} is no array of numpy's, or not of version 1.0 of the format")
        header = _HEADER.fullmatch(cursor.take(cursor.unsigned(2)))
    if header is None:
        raise FormatError(f"{where} is damaged: its header does not give dtype, order and shape")
    dtype, order = header["dtype"].decode(), header["order"]
    shape = [int(size) for size in header["shape"].split(b",") if size.strip()]
    if dtype not in _DTYPES:
        raise FormatError(f"{where} has dtype {dtype}", hint="save float32 or float16; numpy has no bfloat16")
    if order == b"True" and len(shape) > 1:
        raise FormatError(f"{where} is in Fortran order", hint="save np.ascontiguousarray of it")
    at = Range(member.header_offset + cursor.position, tuple(shape), _DTYPES[dtype])
    found = member.file_size - (cursor.position - start)
    if len(shape) > MAX_DIMS or at.nbytes != found:
        raise FormatError(f"{where} is damaged: {shape[:MAX_DIMS]} of {dtype} does not take {found:,} bytes")
    return at
