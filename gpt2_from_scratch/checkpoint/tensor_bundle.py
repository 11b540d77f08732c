"""OpenAI's form: a TensorFlow checkpoint (a "tensor bundle"), read and written without TensorFlow.

The tensors lie as plain bytes in one or more data files, ``model.ckpt.data-00000-of-00001``. The index beside them,
``model.ckpt.index``, says where. It is a LevelDB table: sorted keys in blocks, each key stored as its difference from
the one before, each block with a checksum. A key is a variable's name. Its value is a protocol buffer with dtype,
shape, file, offset, size and CRC-32C. All of it follows from the tensors, so the index written here equals
TensorFlow's, byte for byte.

Formats: ``table_format.md`` of LevelDB, ``tensor_bundle.proto`` of TensorFlow, ``format_description.txt`` of snappy.
"""

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import google_crc32c
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import protobuf
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, Cursor, Range, raw, stored
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig, read_json
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError

PREFIX = "model.ckpt"  # what OpenAI calls its checkpoints
_HPARAMS = "hparams.json"
WRITTEN = (f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001", _HPARAMS, "checkpoint")  # the files of one save
_FIELDS = {"n_vocab": "vocab_size", "n_ctx": "n_positions"} | {name: name for name in ("n_embd", "n_head", "n_layer")}

_MAGIC = bytes.fromhex("57fb808b247547db")  # the last eight bytes of every LevelDB table
_FOOTER_BYTES = 48
_MAX_INDEX_BYTES = 1 << 18  # TensorFlow's size of one block; the index of 1558M has 20,724 bytes
_MAX_NAME_BYTES = 1_000  # prefixes are shared, so a small file can spell long names many times over
_RESTART_INTERVAL = 16  # LevelDB's default: every 16th key is stored whole
_DATA_NAME = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}")

# `DataType` of TensorFlow's types.proto.
_DTYPES: Mapping[int, torch.dtype] = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
_STRING = 7

_SLICE = b"\0"  # begins the key of a part of a variable; then come its name, this byte again, and where the part lies
_WHOLE = "GPT-2's checkpoints have no such tensor: save it whole"

_Handle: TypeAlias = tuple[int, int]  # of a block: offset and size


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def recognises(head: bytes, path: Path) -> bool:
    """Whether this is the index of a TensorFlow checkpoint, or a data file, which can only be told by its name."""
    index = _index_of(path)
    if not index.is_file():
        return True  # a data file has no header of its own; `read` says that its index is missing
    with index.open("rb") as file:
        file.seek(max(0, index.stat().st_size - len(_MAGIC)))
        return file.read() == _MAGIC


def index_in(directory: Path) -> Path | None:
    """The index of the checkpoint in a directory, or None: the one that the file `checkpoint` names, else the only one.

    Raises:
        CheckpointError: there are several and nothing says which.
    """
    text = b""
    names = directory / "checkpoint"
    with contextlib.suppress(OSError):
        if names.is_file():  # a pipe of that name would be waited for
            with names.open("rb") as file:
                text = file.read(_MAX_NAME_BYTES)
    if latest := re.search(rb'^model_checkpoint_path: *"([^"\r\n]+)"', text):
        # Often the path on the machine that trained; only its last part means something here.
        index = directory / (os.fsdecode(re.split(rb"[/\\]", latest[1])[-1]) + ".index")
        if index.is_file():
            return index
    found = sorted(path for path in directory.glob("*.index") if path.is_file() and recognises(b"", path))
    if len(found) > 1:
        raise CheckpointError(
            f"{directory} holds {len(found)} checkpoints: {', '.join(path.name for path in found)}",
            hint="give the .index file of one of them",
        )
    return found[0] if found else None


# --------------------------------------------------------------------------------------------------------- reading


def read(path: Path, mmap: bool = True) -> Container:
    """Opens a TensorFlow checkpoint.

    Each tensor's checksum is compared when the tensor is read (where the file is mapped: for the first time).

    Args:
        path: the index, or one of its data files.
        mmap: tensors are views of the mapped data files; False reads each into memory of its own.

    Raises:
        FormatError: index or data are damaged, or contradict each other.
    """
    index = _index_of(path)
    if not index.is_file():
        raise FormatError(f"{path} is data without an index: {index.name} is not there", hint="fetch it, too")
    shards, entries = _read_index(index)
    files: list[Path] = []
    tensors: dict[str, StoredTensor] = {}
    for shard in range(shards):
        file = index.with_suffix(f".data-{shard:05d}-of-{shards:05d}")
        files.append(file)
        ranges = {name: Range(e.offset, e.shape, e.dtype) for name, e in entries.items() if e.shard == shard}
        if not file.is_file():
            raise FormatError(f"{index} needs {file.name}, which is not there", hint="fetch the missing data file")
        end = max((range_.end for range_ in ranges.values()), default=0)
        if file.stat().st_size > end:
            raise FormatError(f"{file} has {file.stat().st_size - end:,} bytes behind its last tensor")
        for name, tensor in stored(file, ranges, mmap).items():
            check = _checking(f"{file}: tensor {name!r}", entries[name].crc, tensor.read, once=mmap)
            tensors[name] = StoredTensor(tensor.shape, tensor.dtype, check)
    hparams = index.parent / _HPARAMS
    config = _read_hparams(hparams) if hparams.is_file() else None
    form = "TensorFlow checkpoint" if shards == 1 else f"TensorFlow checkpoint, {shards} data files"
    return Container(form, (index, *files), {name: tensors[name] for name in entries}, "openai", config)


def _index_of(path: Path) -> Path:
    """The index that a data file belongs to; any other path as it is."""
    match = _DATA_NAME.fullmatch(path.name)
    return path.with_name(f"{match['prefix']}.index") if match else path


def _checking(where: str, expected: int, read: Callable[[], Tensor], once: bool) -> Callable[[], Tensor]:
    passed = False

    def checked() -> Tensor:
        nonlocal passed
        tensor = read()
        if not passed:
            found = google_crc32c.value(raw(tensor))
            if found != expected:
                raise FormatError(
                    f"{where} is damaged: its CRC-32C is {found:08x}, the index says {expected:08x}",
                    hint="data and index are of different saves, or a copy went wrong: fetch both again",
                )
            passed = once
        return tensor

    return checked


def _read_hparams(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not _FIELDS.keys() <= content.keys():
        raise ConfigError(f"{path} is not OpenAI's: it should give {', '.join(_FIELDS)}")
    sizes = {ours: content[theirs] for theirs, ours in _FIELDS.items()}
    if not all(type(size) is int for size in sizes.values()):
        raise ConfigError(f"{path} gives sizes that are no integers: {sizes}")
    return gpt2_config(**sizes)


def _read_index(path: Path) -> tuple[int, dict[str, _Entry]]:
    """Number of data files, and name -> entry."""
    size = path.stat().st_size
    if not _FOOTER_BYTES <= size <= _MAX_INDEX_BYTES:
        raise FormatError(f"{path} has {size:,} bytes; an index has {_FOOTER_BYTES} to {_MAX_INDEX_BYTES:,}")
    table, where = path.read_bytes(), str(path)
    footer = Cursor(io.BytesIO(table[-_FOOTER_BYTES:]), _FOOTER_BYTES - len(_MAGIC), f"{where}: the footer")
    _handle(footer)  # of the metaindex, which is empty
    shards, entries, previous, position = 0, {}, None, 0
    for _, handle in _key_values(_block(table, _handle(footer), where), where):
        start, size = _handle(_cursor(handle, where))
        if start < position:
            raise FormatError(f"{where} is damaged: a block at byte {start:,} begins inside the one before")
        block, position = _block(table, (start, size), where), start + size
        for key, value in _key_values(block, where):
            if previous is not None and key <= previous:
                raise FormatError(f"{where} is damaged: key {key!r} follows {previous!r}, keys must ascend")
            if previous is None:
                shards = _shards(key, value, where)
            else:
                name, entry = _entry(key, value, where)
                if entry.shard >= shards:
                    raise FormatError(f"{where}: tensor {name!r} is in data file {entry.shard} of {shards}")
                entries[name] = entry
            previous = key
    return shards, entries


def _handle(cursor: Cursor) -> _Handle:
    return cursor.varint(), cursor.varint()


def _block(table: bytes, handle: _Handle, where: str) -> bytes:
    """The payload of a block, which is followed by its kind (one byte) and its checksum (four)."""
    start, size = handle
    block = table[start : start + size + 5]
    if len(block) != size + 5:
        raise FormatError(f"{where} is damaged: no room for a block of {size:,} bytes at {start:,}", TRUNCATED)
    if int.from_bytes(block[-4:], "little") != _masked(google_crc32c.value(block[:-4])):
        raise FormatError(f"{where} is damaged: the block at byte {start:,} has another checksum")
    payload, kind = block[:-5], block[-5]
    if kind > 1:
        raise FormatError(f"{where}: the block at byte {start:,} is of kind {kind}; 0 (plain) and 1 (snappy) are known")
    return _unsnap(payload, where) if kind else payload


def _key_values(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block: how much of the previous key is kept, what is added to it, and the value."""
    restarts = int.from_bytes(block[-4:], "little")  # where whole keys stand, for binary search
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise FormatError(f"{where} is damaged: a block of {len(block)} bytes claims {restarts:,} restarts")
    cursor, key = Cursor(io.BytesIO(block), end, where), b""
    while cursor.left:
        shared, added, length = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key) or shared + added > _MAX_NAME_BYTES:
            raise FormatError(f"{where} is damaged: a name that keeps {shared} bytes of {key[:60]!r} and adds {added}")
        key = key[:shared] + cursor.take(added)
        yield key, cursor.take(length)


def _unsnap(data: bytes, where: str) -> bytes:
    """Decompresses one raw snappy block. TensorFlow can write them, OpenAI's files have none: no speed is needed."""
    cursor = Cursor(io.BytesIO(data), len(data), f"{where}: a snappy block")
    size, out = cursor.varint(), bytearray()
    while cursor.left and len(out) <= _MAX_INDEX_BYTES:
        tag = cursor.unsigned(1)
        if tag & 3 == 0:  # a literal; lengths above 60 stand in the next one to four bytes
            length = tag >> 2
            out += cursor.take((cursor.unsigned(length - 59) if length > 59 else length) + 1)
        else:  # a copy of what came before
            if tag & 3 == 1:
                length, offset = (tag >> 2 & 7) + 4, (tag >> 5 << 8) + cursor.unsigned(1)
            else:
                length, offset = (tag >> 2) + 1, cursor.unsigned(2 if tag & 3 == 2 else 4)
            if not 0 < offset <= len(out):
                raise FormatError(f"{where} is damaged: a snappy copy from {offset:,} bytes back, of {len(out):,}")
            run = out[-offset:][:length]  # shorter than the copy where the copy overlaps its own output
            out += (run * -(-length // len(run)))[:length]
    if len(out) != size:
        raise FormatError(f"{where} is damaged: a snappy block has {len(out):,} bytes, not {size:,}")
    return bytes(out)


def _masked(crc: int) -> int:
    """How LevelDB stores a checksum, so that one over data that contain checksums is still a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _unmasked(masked: int) -> int:
    crc = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (crc >> 17 | crc << 15) & 0xFFFFFFFF


def _cursor(data: bytes, where: str) -> Cursor:
    return Cursor(io.BytesIO(data), len(data), where)


def _shards(key: bytes, value: bytes, where: str) -> int:
    """How many data files there are, from the `BundleHeaderProto` under the empty key."""
    header = dict(protobuf.fields(_cursor(value, where))) if key == b"" else {}
    shards = header.get(1, 0)
    if not isinstance(shards, int) or not 0 < shards <= 99_999:  # five digits in the file names
        raise FormatError(f"{where} does not begin with a header that counts the data files")
    if header.get(2, 0) != 0:
        raise FormatError(f"{where}: the tensors are big-endian, which is not supported")
    return shards


def _entry(key: bytes, value: bytes, where: str) -> tuple[str, _Entry]:
    """A variable's name, and its `BundleEntryProto`; fields that are zero are left out of the file."""
    in_slices = key.startswith(_SLICE)  # such keys come before all names
    try:
        name = key.removeprefix(_SLICE).partition(_SLICE)[0].decode() if in_slices else key.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{where} is damaged: {key!r} is not a name") from None
    where = f"{where}: tensor {name!r}"
    if in_slices:
        raise FormatError(f"{where} is stored in slices", _WHOLE)
    fields: dict[int, Any] = {1: 0, 2: _cursor(b"", where), 3: 0, 4: 0, 5: 0, 6: 0}
    for number, content in protobuf.fields(_cursor(value, where)):
        if number not in fields or type(content) is not type(fields[number]):
            reason = "is stored in slices" if number == 7 else f"has an unknown field {number}"
            raise FormatError(f"{where} {reason}", _WHOLE)
        fields[number] = content
    number, shape, shard, offset, size, crc = fields.values()
    if number not in _DTYPES:
        is_graph = number == _STRING and "_CHECKPOINTABLE_OBJECT_GRAPH" in name
        raise FormatError(
            f"{where} has TensorFlow dtype {number}, which is not a number's",
            hint="a TensorFlow 2 object checkpoint? save the weights as tf_model.h5 or safetensors" if is_graph else "",
        )
    dims = tuple(_dim(content, where) for field, content in protobuf.fields(shape) if field == 2)
    if len(dims) > MAX_DIMS or math.prod(dims) * _DTYPES[number].itemsize != size:
        raise FormatError(f"{where}: {list(dims[:MAX_DIMS])} of {_DTYPES[number]} does not take {size:,} bytes")
    return name, _Entry(_DTYPES[number], dims, shard, offset, size, _unmasked(crc))


def _dim(message: int | Cursor, where: str) -> int:
    sizes = dict(protobuf.fields(message)) if isinstance(message, Cursor) else {}
    size = sizes.get(1, 0)
    if not isinstance(size, int):
        raise FormatError(f"{where} is damaged: a dimension that is not a number")
    return size


# --------------------------------------------------------------------------------------------------------- writing

_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


def write(
    directory: Path,
    tensors: Mapping[str, StoredTensor],
    config: GPTConfig,
    files: Mapping[str, bytes] = MappingProxyType({}),
    overwrite: bool = True,
) -> None:
    """Writes a directory as OpenAI's: data, index, `checkpoint` and `hparams.json`. One tensor is in memory at a time.

    Args:
        directory: made if needed; files of an earlier save are replaced when all new ones are complete on disk.
        tensors: OpenAI's name -> tensor, float32.
        config: of a model that OpenAI's code computes: `Program.check` says so.
        files: what else belongs there, such as the tokenizer's: name -> content.
        overwrite: whether files of these names may be there.

    Raises:
        CheckpointError: a tensor is not float32.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{name} is {tensor.dtype}; OpenAI's code reads float32", hint="convert to float32")
    directory.mkdir(parents=True, exist_ok=True)
    hparams = {theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()}
    with replacing_all(directory, overwrite=overwrite) as create:
        file, offset = create(f"{PREFIX}.data-00000-of-00001"), 0
        entries: dict[str, _Entry] = {}
        for name in sorted(tensors, key=str.encode):
            data = raw(tensors[name].read())
            file.write(data.data)
            crc = google_crc32c.value(data)
            entries[name] = _Entry(tensors[name].dtype, tensors[name].shape, 0, offset, len(data), crc)
            offset += len(data)
        create(f"{PREFIX}.index").write(_index(entries))
        create(_HPARAMS).write((json.dumps(hparams, indent=2) + "\n").encode())
        paths = f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
        create("checkpoint").write(paths.encode())
        for name, content in files.items():
            create(name).write(content)


def _index(entries: Mapping[str, _Entry]) -> bytes:
    """The index that TensorFlow writes for these entries, which are sorted: data, metaindex, index, footer.

    All entries are in one block. TensorFlow would begin another at 256 KiB, which GPT-2 is far from.
    """
    header = bytes.fromhex("08011a020801")  # one data file; format version 1
    data = _build_block([(b"", header), *((name.encode(), _value(e)) for name, e in entries.items())])
    metaindex = _build_block([])
    last = bytearray(max(entries, key=str.encode).encode())
    rise = next(at for at, byte in enumerate(last) if byte != 0xFF)
    separator = bytes(last[:rise]) + bytes([last[rise] + 1])  # the shortest key behind the block's last
    data_handle = _varint(0) + _varint(len(data) - 5)
    index = _build_block([(separator, data_handle)])
    handles = _varint(len(data)) + _varint(len(metaindex) - 5)
    handles += _varint(len(data) + len(metaindex)) + _varint(len(index) - 5)
    return data + metaindex + index + handles.ljust(_FOOTER_BYTES - len(_MAGIC), b"\0") + _MAGIC


def _build_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    block, restarts, previous = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = next((at for at, (a, b) in enumerate(zip(previous, key, strict=False)) if a != b), len(previous))
        if number and number % _RESTART_INTERVAL == 0:
            restarts.append(len(block))
            shared = 0
        block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        previous = key
    for number in (*restarts, len(restarts)):
        block += number.to_bytes(4, "little")
    block += b"\0"  # not compressed
    return bytes(block) + _masked(google_crc32c.value(bytes(block))).to_bytes(4, "little")


def _value(entry: _Entry) -> bytes:
    """A `BundleEntryProto`: fields in order, zeros left out."""
    shape = b"".join(_field(2, _field(1, size)) for size in entry.shape)
    numbers = _field(3, entry.shard) + _field(4, entry.offset) + _field(5, entry.size)
    crc = _varint(6 << 3 | 5) + _masked(entry.crc).to_bytes(4, "little")
    return _field(1, _NUMBERS[entry.dtype]) + _field(2, shape, even_if_empty=True) + numbers + crc


def _field(number: int, content: int | bytes, even_if_empty: bool = False) -> bytes:
    if isinstance(content, bytes):
        return _varint(number << 3 | 2) + _varint(len(content)) + content if content or even_if_empty else b""
    return _varint(number << 3) + _varint(content) if content else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
