"""What `torch.save` wrote: `pytorch_model.bin`, `.pt`, `.pth`; the zip archive of today and the stream from before 1.6.

A pickle is a program, so it is checked before `torch.load` runs it with ``weights_only=True``; there is no other way.

* What it imports is listed first. Names that a state dict needs are allowed. Names that run code or allocate memory are
  refused. Every other name is a class of somebody's own (settings, counters, dates): a stand-in takes its place, which
  keeps the attributes and has no code.
* What it builds is followed without building it, so that a small file cannot ask for hours or gigabytes.
* A zip archive is checked because a small one may inflate to any size, and tensors because strides make a terabyte out
  of four bytes.
"""

import io
import math
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from gpt2_from_scratch.checkpoint import state_dict
from gpt2_from_scratch.checkpoint.binary import MAX_TABLE_BYTES, TRUNCATED, raw, zip_archive
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.pickled import Pickled, scan
from gpt2_from_scratch.errors import FormatError

_ZIP = b"PK\x03\x04"
_STREAM = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # torch's magic number, as a pickle of its own
_TAR_AT, _TAR = 257, b"ustar"

# How often a file's bytes may appear in its tensors: a mask may be shared by all layers, at most 48 in official models.
_MOST_REPEATS = 48

# Everything that state dicts, training settings and optimizer states import. None of it calls or allocates anything.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|complex)"
    r"|torch\.(Size|device|bool|(bfloat|float|int|uint)\d+)"
    r"|torch\.(Float|Half|BFloat16|Double|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.Tensor|torch\._tensor\._rebuild_from_type_v2"  # a tensor with attributes of its own; `scan` sees to it
)
# No file with weights has a reason to import these. A stand-in would keep them harmless; refusing says what they are.
_REFUSED = re.compile(
    r"(torch|os|posix|nt|subprocess|sys|runpy|shutil|socket|importlib|imp|ctypes|webbrowser|pickle|_pickle|marshal|code"
    r"|codeop|pty|pdb|bdb|timeit|multiprocessing|threading|asyncio|urllib|http|pip|commands|operator|functools"
    r"|types(?!\.SimpleNamespace$)"
    r"|_io(?!\.BytesIO$)|io|tempfile|signal(?!\.Signals$)|platform|transformers\.training_args)(\.|$).*"
    # Of Python's own functions and classes, those that hold values may pass; some under their names in Python 2.
    r"|(builtins|__builtin__)\.(?!(list|dict|tuple|frozenset|int|float|bool|str|bytes|object|slice|range"
    r"|long|unicode|xrange)$).*"
)
_UNPACK = "unpack it, and give the model's file or folder"
_ONLY_WEIGHTS = 'nothing was run; where it was trained, write torch.save(model.state_dict(), "weights.pt")'


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is `torch.save`'s, or an archive that is taken for one."""
    if head.startswith(_ZIP):
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        # numpy's archives are zips, too; and a distributed checkpoint's files are archives one behind the other.
        return not first.endswith(b".npy") and path.suffix != ".distcp"
    return head.startswith(_STREAM) or head[_TAR_AT:].startswith(_TAR)


def read(path: Path, mmap: bool = True, key: str = "") -> Container:
    """Opens a PyTorch file and takes the state dict out of what is around it.

    Args:
        path: the file.
        mmap: map it, so that tensors are views of the file; False reads it. The old stream is always read.
        key: which of several state dicts in it.

    Raises:
        FormatError: not a PyTorch file, code in it, damaged, hostile; says what, and what to do.
    """
    with path.open("rb") as file:
        form = "PyTorch zip" if file.read(len(_ZIP)) == _ZIP else "PyTorch stream"
    found = state_dict.find(load(path, mmap), str(path), key)
    _check_tensors(path, found.tensors)
    return Container(
        f"{form}, {found.about}" if found.about else form,
        (path,),
        {name: stored(tensor) for name, tensor in found.tensors.items()},
        found.layout,
        found.config,
        found.notes,
    )


def load(path: Path, mmap: bool = True) -> Any:
    """Whatever was saved; a stand-in for each object of a foreign class.

    Args:
        path: the file.
        mmap: map it; the old stream is always read.

    Raises:
        FormatError: not a PyTorch file, code in it, damaged, hostile; says what, and what to do.
    """
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):  # remarks on how a pickle is written
        return _read_zip(path, file, mmap) if file.read(len(_ZIP)) == _ZIP else _read_stream(path, file)


def read_tensor(path: Path, data: bytes) -> Tensor:
    """One tensor that `torch.save` wrote into a part of a file, as distributed checkpoints do.

    Args:
        path: of the file, for errors.
        data: that part.

    Raises:
        FormatError: it is something else, damaged or hostile.
    """
    with warnings.catch_warnings(action="ignore"):  # remarks on how a pickle is written
        content = _read_zip(path, io.BytesIO(data), mmap=False)
    if not isinstance(content, Tensor) or content.nbytes > len(data):
        raise FormatError(f"{path} holds something else than tensors", TRUNCATED)
    return content.detach()


def stored(tensor: Tensor) -> StoredTensor:
    """A tensor of a loaded file, as containers hold it."""
    values = tensor.detach()
    return StoredTensor(tuple(values.shape), values.dtype, lambda: values)


# ------------------------------------------------------------------------------------------------ archive and stream


class _Record(NamedTuple):
    start: int  # of its bytes, in the file
    size: int


def _read_zip(path: Path, file: BinaryIO, mmap: bool) -> Any:
    records = _records(path, file)
    program = records["data.pkl"]
    file.seek(program.start)
    pickled = _checked(path, io.BytesIO(file.read(program.size)))
    mapped = mmap and path.suffix != ".safetensors"  # torch.load goes by this suffix, and would refuse the content
    content = _load(path, path if mapped else file, pickled)
    if mapped:  # reading, torch itself compares each record with the tensor's storage
        data = sorted(record for name, record in records.items() if name.startswith("data/") and record.size)
        found = sorted(_storages(content).items())
        shift = found[0][0] - data[0].start if found and data else 0
        if found != [(start + shift, size) for start, size in data]:
            raise FormatError(f"{path} is damaged: its tensors do not take up exactly the data in it", TRUNCATED)
    return content


def _read_stream(path: Path, file: BinaryIO) -> Any:
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_TABLE_BYTES))
    if pickles.getvalue()[_TAR_AT:].startswith(_TAR):
        first = pickles.getvalue()[:100].rstrip(b"\0")  # the name of the first member
        if first in (b"sys_info", b"pickle", b"storages", b"tensors"):
            raise FormatError(f"{path} is a tar archive, as PyTorch wrote before 2017", hint=_ONLY_WEIGHTS)
        raise FormatError(f"{path} is a tar archive, and not one that torch.save wrote", hint=_UNPACK)
    for _ in ("magic number", "version", "machine"):
        _checked(path, pickles)
    pickled = _checked(path, pickles)
    keys = _checked(path, pickles).strings  # one for each storage, whose data follow: their number, and they themselves
    content = _load(path, file, pickled)
    storages = _storages(content)
    # A storage that no key announces would keep whatever was in memory before. Views share one storage, and its key;
    # they touch each other in memory, which storages of their own never do: the allocator's header lies between them.
    ends = {start + size for start, size in storages.items()}
    unannounced = sum(start not in ends for start in storages) > keys
    expected = pickles.tell() + 8 * keys + sum(storages.values())
    size = path.stat().st_size
    if unannounced or expected != size:
        raise FormatError(f"{path} is damaged: {size:,} bytes, and its tensors call for {expected:,}", TRUNCATED)
    return content


def _load(path: Path, source: Path | BinaryIO, pickled: Pickled) -> Any:
    """`torch.load` of a file whose pickles `_checked` has passed: a path is mapped, an open file is read."""
    mapped = isinstance(source, Path)
    if not isinstance(source, Path):
        source.seek(0)
    stand_ins: dict[str, type] = {}
    for name in pickled.names:
        if not _ALLOWED.fullmatch(name):
            stand_in = _SavedSequence if name in pickled.sequences else state_dict.SavedObject
            stand_ins[_as_in_python_3(name)] = _SavedMapping if name in pickled.mappings else stand_in
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch's unpickler checks no types: a damaged program raises anything
        raise FormatError(f"{path} is damaged: {type(error).__name__}: {_gist(error)}", TRUNCATED) from None


def _gist(error: Exception) -> str:
    """The first line of torch's message, without its advice to load the file in the unsafe way."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    return next(filter(None, map(str.strip, text.splitlines())), "")[:200]


class _SavedMapping:
    """Stands in for a subclass of dict: torch's unpickler sets items only of objects of a few known classes."""

    def __new__(cls, *arguments: object) -> Any:  # whatever the class would have been called with
        return OrderedDict()


class _SavedSequence:
    """Stands in for a class of lists, such as `collections.deque`: torch's unpickler appends to nothing but a list."""

    def __new__(cls, *arguments: object) -> Any:  # whatever the class would have been called with
        return []


def _as_in_python_3(name: str) -> str:
    """As torch looks a name up: protocol 2 has Python 2's names, such as `__builtin__.list` for `builtins.list`."""
    module, _, attribute = name.rpartition(".")
    mapped = NAME_MAPPING.get((module, attribute))
    return ".".join(mapped if mapped is not None else (IMPORT_MAPPING.get(module, module), attribute))


def _storages(content: object) -> dict[int, int]:
    """Address -> size of each storage that is not empty, of all tensors anywhere in an unpickled object."""
    storages: dict[int, int] = {}
    pending, seen = [content], set()
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor | torch.storage.TypedStorage):
            storage = item.untyped_storage() if isinstance(item, Tensor) else item._untyped_storage
            if size := storage.nbytes():
                storages[storage.data_ptr()] = size
        elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:
            seen.add(id(item))  # a container may hold itself
            pending += item.values() if isinstance(item, dict) else item
        if isinstance(item, OrderedDict | state_dict.SavedObject):
            pending += vars(item).values()
    return storages


# ------------------------------------------------------------------------------------------------------------ checks


def _records(path: Path, file: BinaryIO) -> dict[str, _Record]:
    """The archive's records, by name inside its one folder. Anything that `torch.save` never writes is refused."""
    size = file.seek(0, io.SEEK_END)
    archive = zip_archive(path, file)
    names = [member.filename for member in archive.filelist]
    if any(name.endswith("/constants.pkl") for name in names):
        raise FormatError(f"{path} is a TorchScript archive (rust_model.ot is one), a program", hint=_ONLY_WEIGHTS)
    if not any(name.endswith("/data.pkl") for name in names):
        raise FormatError(f"{path} is a zip archive, but not one of torch.save: it holds {_some(names)}", hint=_UNPACK)
    folder = names[0].partition("/")[0]
    records: dict[str, _Record] = {}
    for member in archive.filelist:
        where = f"{path}: record {member.filename!a}"
        top, _, name = member.filename.partition("/")
        if top != folder or folder in ("", ".", "..") or not set(name.split("/")).isdisjoint(("", ".", "..")):
            raise FormatError(f"{where} leads out of the folder {folder!a} of the archive")
        if name in records:
            raise FormatError(f"{where} is there twice")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise FormatError(f"{where} is compressed, which torch.save never does")
        if member.flag_bits & 1:
            raise FormatError(f"{where} is encrypted")
        file.seek(member.header_offset)
        header = file.read(30)
        start = member.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        records[name] = _Record(start, member.file_size)
    for before, after in pairwise([*sorted(records.values()), _Record(size, 0)]):
        if after.start < before.start + before.size:
            raise FormatError(f"{path}: the records of the archive overlap, or end behind its end")
    if archive.comment:  # where torch's own reader could find another table of contents than this one
        raise FormatError(f"{path}: the archive has a comment, which torch.save never writes")
    if "data.pkl" not in records or records["data.pkl"].size > MAX_TABLE_BYTES:
        raise FormatError(f"{path} has a data.pkl of more than {MAX_TABLE_BYTES:,} bytes, or none")
    if "byteorder" in records:
        file.seek(records["byteorder"].start)
        if (order := file.read(min(records["byteorder"].size, 9))) != b"little":
            raise FormatError(f"{path} has the byte order {order!a}; only little-endian files are read")
    return records


def _checked(path: Path, stream: io.BytesIO) -> Pickled:
    """What the next pickle imports and builds, if it may be run.

    Raises:
        FormatError: it is damaged, asks for too much, or imports what no state dict needs.
    """
    pickled = scan(path, stream)
    foreign = [
        name
        for name in pickled.names
        if not _ALLOWED.fullmatch(name) and any(map(_REFUSED.fullmatch, (name, _as_in_python_3(name))))
    ]
    if foreign:
        kinds = (what for part, what in _KINDS.items() if any(name.startswith(part) for name in foreign))
        what = next(kinds, "is no plain state dict")
        raise FormatError(f"{path} {what}: unpickling would import {_some(foreign)}", hint=_ONLY_WEIGHTS)
    if pickled.protocol > 3:
        raise FormatError(f"{path} is pickled with protocol {pickled.protocol}; torch.save's is 2", hint=_ONLY_WEIGHTS)
    return pickled


_KINDS = {
    "transformers.training_args.": "holds the arguments of a training run, no weights",
    "torch.nn.modules.": "holds a whole module, which is code",
}


def _some(names: list[str]) -> str:
    """The first of them, safe to print."""
    shown = [name[:80] if name.isprintable() else ascii(name[:80]) for name in names[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of one storage take no more bytes than it has; a tied pair, which shares all of them, counts once."""
    used: dict[tuple[int, int], dict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, tensor in tensors.items():
        if not name or not name.isprintable():
            raise FormatError(f"{path}: tensor {name!a} has an empty or unprintable name")
        storage = tensor.untyped_storage()
        used[storage.data_ptr(), storage.nbytes()][tensor.data_ptr(), tensor.nbytes].append(name)
    for (_, stored), parts in used.items():
        if sum(nbytes for _, nbytes in parts) > stored:
            names = [name for part in parts.values() for name in part]
            raise FormatError(
                f"{path}: the values of {_some(names)} are repeated: {stored:,} bytes are stored",
                hint="no training script saves such tensors: do not trust the file",
            )
    if sum(tensor.nbytes for tensor in tensors.values()) > _MOST_REPEATS * path.stat().st_size:
        raise FormatError(f"{path}: its tensors are more than {_MOST_REPEATS} times as large as the file")


# ----------------------------------------------------------------------------------------------------------- writing

_FOLDER = "archive"  # what torch calls it when it saves to an open file
_HEADER_BYTES = 30  # of a member of a zip archive, before its name
_ALIGNMENT = 64  # of a storage in the archive, as torch aligns it: a mapped tensor begins on a cache line
_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}


def write_to(file: BinaryIO, content: Any) -> None:
    """Writes what `torch.load(weights_only=True, mmap=True)` reads, one tensor in memory at a time.

    `torch.save` wants all tensors at once. The archive is simple: a pickle in which each tensor names its storage, and
    the storages, as they lie in memory.

    Args:
        file: open for writing, at its beginning.
        content: a state dict, or dictionaries around one, with a `StoredTensor` for each tensor. One that appears twice
            is one tensor under two names, as a tied head is.

    Example:
        >>> file = io.BytesIO()
        >>> write_to(file, {"model": {"wte": StoredTensor((2,), torch.float32, lambda: torch.ones(2))}, "step": 7})
        >>> _ = file.seek(0)
        >>> torch.load(file, weights_only=True)
        {'model': {'wte': tensor([1., 1.])}, 'step': 7}
    """
    program = io.BytesIO()
    pickler = _Pickler(program)
    pickler.dump(content)
    with zipfile.ZipFile(file, "w") as archive:  # stored, not compressed
        for name, data in (("data.pkl", program.getvalue()), ("byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/{name}"), data)
        for key, tensor in enumerate(pickler.tensors):
            member = zipfile.ZipInfo(f"{_FOLDER}/data/{key}")
            member.file_size = tensor.nbytes
            start = file.tell() + _HEADER_BYTES + len(member.filename) + 4  # 4 bytes of header for the padding
            padding = -start % _ALIGNMENT
            member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            with archive.open(member, "w") as record:
                record.write(raw(tensor.read()).data)
        archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/version"), b"3\n")


class _Storage(NamedTuple):
    key: int
    tensor: StoredTensor


class _Pickler(pickle.Pickler):
    """Pickles a `StoredTensor` as torch pickles a tensor, and leaves its storage to the archive."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, protocol=2)
        self.tensors: list[StoredTensor] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, StoredTensor):
            return NotImplemented
        storage = _Storage(len(self.tensors), value)
        self.tensors.append(value)
        strides = tuple(math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape)))
        return torch._utils._rebuild_tensor_v2, (storage, 0, value.shape, strides, False, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        tensor = value.tensor
        return "storage", _STORAGES[tensor.dtype], str(value.key), "cpu", math.prod(tensor.shape)
