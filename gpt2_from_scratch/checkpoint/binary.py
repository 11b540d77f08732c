"""Reads binary files that may be damaged or hostile: a cursor for headers, ranges for tensors.

Only the size of the file is trusted. The cursor never reads past it. Every tensor's range is compared with it, and with
the other ranges, when the file is opened. So a wrong number in a header cannot cause a large allocation.
"""

import math
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.container import StoredTensor
from gpt2_from_scratch.errors import FormatError

MAX_DIMS = 64  # PyTorch's limit; the product of a million sizes would take minutes to compute
# Tensors in one file. The 1558M model has 628, masks included; with an optimizer's state and averaged weights, 2,948.
MOST_TENSORS = 4_000
# The table of contents of a file. That of the 1558M model takes 60 kB, or 0.2 MB beside an optimizer's state.
MAX_TABLE_BYTES = 1_000_000
_PIECE = 1 << 20  # elements: 8 MB in float64, and large enough that the loop costs nothing
TRUNCATED = "the download or copy was cut short: fetch the file again"


class Cursor:
    """Reads forward through a file or a part of it; running out is an error, never a short answer.

    Cursors over one file do not move one another.

    Args:
        file: positioned at the first byte to read.
        size: how many bytes may be read.
        where: what to call it in an error.

    Example:
        >>> import io
        >>> cursor = Cursor(io.BytesIO(bytes([0xAC, 0x02, 7, 0, 0, 0])), 6, "x")
        >>> part = cursor.part(2)
        >>> cursor.unsigned(4), part.varint(), part.left
        (7, 300, 0)
    """

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self._file = file
        self._size = size
        self.where = where
        self.start = file.tell()  # of the first byte, in the file
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._size - self.position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._file.seek(self.start + self.position)
        self._advance(count)
        data = self._file.read(count)
        if len(data) != count:
            raise FormatError(f"{self.where} changed while it was read", TRUNCATED)
        return data

    def skip(self, count: int) -> None:
        """Passes over `count` bytes without reading them."""
        self._advance(count)

    def part(self, count: int) -> "Cursor":
        """A cursor over the next `count` bytes, which this one passes over."""
        self._file.seek(self.start + self.position)
        self._advance(count)
        return Cursor(self._file, count, self.where)

    def text(self, count: int) -> str:
        """The next `count` bytes as UTF-8."""
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.where} is damaged: no text before byte {self.position:,}") from None

    def unsigned(self, width: int) -> int:
        """A little-endian unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def big(self, width: int) -> int:
        """A big-endian unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width))

    def varint(self) -> int:
        """An unsigned integer, seven bits per byte, lowest first; all but the last byte have the high bit set."""
        value = 0
        for shift in range(0, 63, 7):  # what takes more bits is negative, and no size, count or offset is
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise FormatError(f"{self.where} is damaged: no sensible number at byte {self.position:,}")

    def _advance(self, count: int) -> None:
        if count > self.left:
            raise FormatError(
                f"{self.where} ends too early: {count:,} bytes wanted at byte {self.position:,}, {self.left:,} left",
                TRUNCATED,
            )
        self.position += count


class Range(NamedTuple):
    """One tensor's place in a file: plain little-endian elements in C order, from byte `start` on."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.nbytes


def check_count(where: str, count: int) -> None:
    """Refuses too many entries before they are read: a million empty tensors make a small file, and take minutes.

    Raises:
        FormatError: there are more than any GPT-2 has.
    """
    if count > MOST_TENSORS:
        raise FormatError(
            f"{where} holds {count:,} entries; at most {MOST_TENSORS:,} are read",
            hint="it is no GPT-2: the largest, with 1558M parameters, has 628 tensors",
        )


def check_table(where: str, size: int) -> None:
    """Refuses a table of contents of this many bytes before it is read.

    Raises:
        FormatError: it is longer than any GPT-2's.
    """
    if size > MAX_TABLE_BYTES:
        raise FormatError(
            f"{where} has a table of contents of {size:,} bytes; at most {MAX_TABLE_BYTES:,} are read",
            hint="it is no GPT-2: that of the largest, with 1558M parameters, takes 60 kB",
        )


def zip_archive(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip archive and reads its table of contents.

    Args:
        path: of the file.
        file: the same, open.

    Returns:
        The archive; its members have not been read.

    Raises:
        FormatError: damaged, or a table longer than any GPT-2's.
    """
    try:
        archive = zipfile.ZipFile(_Bounded(path, file))
    except FormatError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError) as error:
        raise FormatError(f"{path} is a damaged zip archive: {error}", TRUNCATED) from None
    check_count(str(path), len(archive.filelist))
    for member in archive.filelist:
        if not 0 <= member.header_offset <= path.stat().st_size:
            raise FormatError(f"{path} is a damaged zip archive: {member.filename!a} lies outside of it", TRUNCATED)
    return archive


class _Bounded:
    """File wrapper that caps how many bytes `zipfile` may read for the table of contents."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        check_table(str(self._path), count)
        return self._file.read(count)


def check_shape(where: str, shape: tuple[int, ...], size: int) -> None:
    """Refuses a shape that no tensor in a file of this size can have.

    A tensor with a size of zero has no bytes, so a comparison of bytes does not bound its other sizes.

    Args:
        where: what to call the tensor in an error.
        shape: as the file says.
        size: of the file, in bytes.

    Raises:
        FormatError: its sizes, but for those that are zero, ask for more elements than the file has bytes.
    """
    if math.prod(filter(None, shape)) > size:
        raise FormatError(f"{where} is said to be {list(shape)}, in a file of {size:,} bytes", TRUNCATED)


def stored(path: Path, ranges: Mapping[str, Range], mmap: bool = True) -> dict[str, StoredTensor]:
    """Tensors at these ranges of a file, after proof that all lie inside it and none overlap.

    Args:
        path: the file.
        ranges: name -> range.
        mmap: tensors are views of the mapped file (private: writing to one never reaches the file); False reads each
            into memory of its own.

    Raises:
        FormatError: a range ends behind the file's end, or two overlap.
    """
    size, position, before = path.stat().st_size, 0, ""
    for name, range_ in sorted(ranges.items(), key=lambda item: item[1].start):
        if range_.end > size:
            missing = f"{size:,} bytes, tensor {name!r} ends at {range_.end:,}"
            raise FormatError(f"{path} is truncated: {missing}, {range_.end - size:,} missing", TRUNCATED)
        check_shape(f"{path}: tensor {name!r}", range_.shape, size)
        if range_.start < position:
            raise FormatError(f"{path}: tensor {name!r} overlaps {before!r} by {position - range_.start:,} bytes")
        position, before = max(position, range_.end), name
    read: Callable[[Range], Tensor]
    if mmap and size:
        read = partial(_view, torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8))
    else:
        read = OpenFile(path).read
    return {name: StoredTensor(at.shape, at.dtype, partial(read, at)) for name, at in ranges.items()}


def _view(file: Tensor, at: Range) -> Tensor:
    data = file[at.start : at.end]
    if at.start % at.dtype.itemsize:  # an element may not begin anywhere: a copy is aligned
        data = data.clone()
    return data.view(at.dtype).view(at.shape)


class OpenFile:
    """A file that is kept open, so that it is read even if another one takes its place at the same path.

    Args:
        path: of the file; it is closed when nothing reads from it any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def read(self, at: Range) -> Tensor:
        """The tensor at this range, in memory of its own."""
        data = torch.empty(at.nbytes, dtype=torch.uint8)
        buffer, filled = memoryview(data.numpy().data), 0
        self._file.seek(at.start)
        while filled < at.nbytes:
            count = self._file.readinto(buffer[filled:])
            if not count:
                raise FormatError(f"{self._path} changed while it was read: it ends before byte {at.end:,}", TRUNCATED)
            filled += count
        return data.view(at.dtype).view(at.shape)


def raw(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A tensor's bytes in C order, without a copy where it lies so in memory; for writing and for checksums."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's elements in C order, about a million at a time: what is computed from them stays small.

    Example:
        >>> [piece.tolist() for piece in pieces(torch.arange(4).view(2, 2).t())]
        [[0, 2, 1, 3]]
    """
    rows = tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach()
    step = max(1, _PIECE // max(1, rows[:1].numel()))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].flatten()
