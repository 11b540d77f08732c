"""Flax: nested dictionaries and arrays in one MessagePack object (`flax_model.msgpack`). Read only.

MessagePack puts a length before everything, so walking the dictionaries finds every array without reading one. An array
is an extension of type 1 whose payload is a MessagePack list again: shape, dtype's name, bytes.
Nested keys become one name, ``transformer/h/0/ln_1/scale``.

Formats: MessagePack's ``spec.md``; ``flax/serialization.py``.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from gpt2_from_scratch.checkpoint.binary import Cursor, Range, check_count, stored
from gpt2_from_scratch.checkpoint.container import Container
from gpt2_from_scratch.errors import FormatError

_MAX_DEPTH = 32  # GPT-2 has 7 levels
_MAX_KEY_BYTES = 1_000
_ARRAY = 1  # `_MsgpackExtType.ndarray`
_CHUNKED = "__msgpack_chunked_array__"  # Flax splits arrays above a gigabyte
_DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is a MessagePack dictionary whose first key is a short text."""
    # A dictionary of 1 to 15 keys, or of more, counted in 2 or 4 bytes; then a text of 1 to 31 bytes.
    match = re.match(rb"(?:[\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf])([ -~]+)", head, re.DOTALL)
    return match is not None and len(match[2]) >= match[1][0] - 0xA0


def read(path: Path, mmap: bool = True) -> Container:
    """Opens a Flax checkpoint.

    Args:
        path: the file.
        mmap: tensors come from the mapped file, views where they happen to lie aligned; False reads each into memory of
            its own.

    Raises:
        FormatError: damaged, or holding what is not an array.
    """
    ranges: dict[str, Range] = {}
    with path.open("rb") as file:
        cursor = Cursor(file, path.stat().st_size, str(path))
        _walk(cursor, (), ranges)
    if cursor.left:
        raise FormatError(f"{path} has {cursor.left:,} bytes behind its content")
    return Container("Flax MessagePack", (path,), stored(path, ranges, mmap), "flax")


def _walk(cursor: Cursor, keys: tuple[str, ...], ranges: dict[str, Range]) -> None:
    """Records the arrays of the dictionary, or the array, that the cursor stands before."""
    name = "/".join(keys)
    code = cursor.unsigned(1)
    if 0x80 <= code <= 0x8F or code in (0xDE, 0xDF):
        if len(keys) > _MAX_DEPTH:
            raise FormatError(f"{cursor.where} is nested too deep: {name[:200]}")
        seen = set()
        count = code & 0x0F if code <= 0x8F else cursor.big(2 if code == 0xDE else 4)
        check_count(f"{cursor.where}: {name!r}", max(count, len(ranges) + 1))  # what is empty holds no array, either
        if not count:
            raise FormatError(f"{cursor.where}: {name!r} is an empty dictionary")
        for _ in range(count):
            key = _text(cursor)
            if key in seen or "/" in key:
                raise FormatError(f"{cursor.where} is damaged: key {key!r} stands twice in {name!r}, or has a slash")
            if key == _CHUNKED:
                raise FormatError(f"{cursor.where}: {name!r} is split into chunks, which is not supported")
            seen.add(key)
            _walk(cursor, (*keys, key), ranges)
    elif 0xC7 <= code <= 0xC9 or 0xD4 <= code <= 0xD8:
        size = cursor.big(1 << code - 0xC7) if code <= 0xC9 else 1 << code - 0xD4
        if (kind := cursor.unsigned(1)) != _ARRAY:
            raise FormatError(f"{cursor.where}: {name!r} is an extension of type {kind}, not an array")
        ranges[name] = _array(cursor, name, size)
    else:
        raise FormatError(f"{cursor.where}: {name!r} is neither a dictionary nor an array (code 0x{code:02x})")


def _array(cursor: Cursor, name: str, size: int) -> Range:
    """Passes over an array's payload of `size` bytes, and says where in it the numbers are."""
    start = cursor.position
    if cursor.unsigned(1) != 0x93:  # a list of three
        raise FormatError(f"{cursor.where} is damaged: {name!r} is not an array of Flax's")
    code = cursor.unsigned(1)
    if not 0x90 <= code <= 0x9F:  # a list of at most 15
        raise FormatError(f"{cursor.where} is damaged: {name!r} has no shape, or one of too many dimensions")
    shape = tuple(_number(cursor) for _ in range(code & 0x0F))
    dtype = _text(cursor)
    if dtype not in _DTYPES:
        raise FormatError(f"{cursor.where}: {name!r} holds {dtype}; weights are " + ", ".join(_DTYPES))
    code = cursor.unsigned(1)
    if not 0xC4 <= code <= 0xC6:  # bytes
        raise FormatError(f"{cursor.where} is damaged: {name!r} has no bytes")
    length = cursor.big(1 << code - 0xC4)
    at = Range(cursor.position, shape, _DTYPES[dtype])
    cursor.skip(length)
    if math.prod(shape) * at.dtype.itemsize != length or cursor.position != start + size:
        raise FormatError(f"{cursor.where} is damaged: {name!r}, {list(shape)} of {dtype}, has {length:,} bytes")
    return at


def _text(cursor: Cursor) -> str:
    code, length = cursor.unsigned(1), -1
    if 0xA0 <= code <= 0xBF:
        length = code & 0x1F
    elif 0xD9 <= code <= 0xDB:
        length = cursor.big(1 << code - 0xD9)
    if not 0 <= length <= _MAX_KEY_BYTES:
        raise FormatError(f"{cursor.where} is damaged: no name before byte {cursor.position:,}")
    return cursor.text(length)


def _number(cursor: Cursor) -> int:
    code = cursor.unsigned(1)
    if code < 0x80:
        return code
    if 0xCC <= code <= 0xCF:  # unsigned, of 1, 2, 4 or 8 bytes
        return cursor.big(1 << code - 0xCC)
    raise FormatError(f"{cursor.where} is damaged: no size before byte {cursor.position:,}")
