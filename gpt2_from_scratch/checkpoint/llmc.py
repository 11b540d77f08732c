"""llm.c: 256 integers, then all parameters in the order of its C struct, without names.

The first eight integers are a magic number, a version and six sizes, which give the exact length of the file. The
tensors of all layers that are of one kind lie together. Here each layer's tensor has a name of its own: ``h.3.qkvw``.

Versions, from the history of its ``train_gpt2.py``: 1 is float32; 2 is bfloat16, with LayerNorms float32 and last; 3
and 4 are these two with the vocabulary padded; 5 is bfloat16 throughout, padded. llm.c today reads 3 and 5.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.checkpoint.binary import TRUNCATED, Cursor, Range, raw, stored
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError

_MAGIC = 20240326
_HEADER = struct.Struct("<256i")  # numbers that are not named here are zero
_PADDING = 128  # llm.c rounds the vocabulary up to a multiple of this


class _Version(NamedTuple):
    dtype: torch.dtype
    padded: bool
    norms_last: bool = False  # and float32


_VERSIONS: Mapping[int, _Version] = {
    1: _Version(torch.float32, padded=False),
    2: _Version(torch.bfloat16, padded=False, norms_last=True),
    3: _Version(torch.float32, padded=True),
    4: _Version(torch.bfloat16, padded=True, norms_last=True),
    5: _Version(torch.bfloat16, padded=True),
}
_WRITTEN = {torch.float32: 3, torch.bfloat16: 5}  # what today's llm.c reads


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is an llm.c model."""
    return head[:4] == _MAGIC.to_bytes(4, "little")


def read(path: Path, mmap: bool = True) -> Container:
    """Opens an llm.c model of any version. Rows that pad the vocabulary are left out.

    Args:
        path: the ``.bin`` file.
        mmap: tensors are views of the mapped file; False reads each into memory of its own.

    Raises:
        FormatError: an unknown version, sizes that contradict each other, or a file of another length.
    """
    number, positions, vocabulary, layers, heads, width, padded = _header(path)
    if number not in _VERSIONS:
        raise FormatError(f"{path} is of llm.c's version {number}; known: {', '.join(map(str, _VERSIONS))}")
    version = _VERSIONS[number]
    sizes = {"vocab_size": vocabulary, "n_positions": positions, "n_layer": layers, "n_head": heads, "n_embd": width}
    rows = padded if version.padded else vocabulary
    if rows < vocabulary:
        raise FormatError(f"{path} is damaged: {rows:,} rows, padding included, for a vocabulary of {vocabulary:,}")
    fields = gpt2_config(**sizes)
    try:
        config = GPTConfig.from_hf(fields, where=str(path))
    except ConfigError as error:
        raise FormatError(f"{path} is damaged: its header says {sizes}", hint=error.message) from None
    tensors = _parameters(path, config, rows, version, mmap)
    return Container(f"llm.c, version {number}", (path,), tensors, "llm.c", fields)


def write(path: Path, tensors: Mapping[str, StoredTensor], config: GPTConfig, overwrite: bool = True) -> None:
    """Writes an llm.c model: version 3 (float32) or 5 (bfloat16). One tensor is in memory at a time.

    Args:
        path: replaced when, and only when, the new file is complete on disk.
        tensors: llm.c's name -> tensor; all float32 or all bfloat16.
        config: of a model that llm.c computes: `Program.check` says so.
        overwrite: whether the file may be there.

    Raises:
        CheckpointError: dtypes that llm.c has no version for.
    """
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= _WRITTEN.keys():
        found = " and ".join(sorted(map(str, dtypes)))
        raise CheckpointError(f"llm.c has no file of {found}", hint="convert to float32 or to bfloat16")
    version = _WRITTEN[dtypes.pop()]
    rows = -(-config.vocab_size // _PADDING) * _PADDING
    sizes = (config.n_positions, config.vocab_size, config.n_layer, config.n_head, config.n_embd, rows)
    ranges = _ranges(config, rows, _VERSIONS[version])
    with replacing(path, overwrite=overwrite) as file:
        file.write(_HEADER.pack(_MAGIC, version, *sizes, *[0] * 248))
        for name, at in ranges.items():
            file.seek(at.start)  # skips the rows that pad the vocabulary, and so leaves zeros there
            file.write(raw(tensors[name].read()).data)


def _header(path: Path) -> tuple[int, ...]:
    """The version and six sizes; the magic number before them has been recognised."""
    with path.open("rb") as file:
        return _HEADER.unpack(Cursor(file, path.stat().st_size, str(path)).take(_HEADER.size))[1:8]


def _parameters(path: Path, config: GPTConfig, rows: int, version: _Version, mmap: bool) -> dict[str, StoredTensor]:
    """All parameters, which take the file from its header to its end."""
    size, expected = path.stat().st_size, _HEADER.size
    for kind, shape in _shapes(config).items():  # and no ranges yet: the header may claim millions of layers
        times = config.n_layer if _per_layer(kind) else 1
        expected += times * math.prod(shape) * _dtype(kind, version).itemsize
    expected += (rows - config.vocab_size) * config.n_embd * version.dtype.itemsize
    if size != expected:
        short, over = ("is truncated", TRUNCATED), ("is too long", "the header, or the rest, is another model's")
        what, remedy = short if size < expected else over
        raise FormatError(f"{path} {what}: {size:,} bytes, {expected:,} expected", remedy)
    return stored(path, _ranges(config, rows, version), mmap)


def _ranges(config: GPTConfig, rows: int, version: _Version) -> dict[str, Range]:
    """Where each parameter lies; the token embedding has `rows` rows in the file."""
    ranges: dict[str, Range] = {}
    start, shapes = _HEADER.size, _shapes(config)
    for kind in sorted(shapes, key=_is_norm) if version.norms_last else shapes:
        for name in [f"h.{layer}.{kind}" for layer in range(config.n_layer)] if _per_layer(kind) else [kind]:
            ranges[name] = Range(start, shapes[kind], _dtype(kind, version))
            start = ranges[name].end
        if kind == "wte":
            start += (rows - config.vocab_size) * config.n_embd * version.dtype.itemsize
    return ranges


def _shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """In the order of llm.c's `ParameterTensors`; linear weights are ``[out, in]``."""
    e = config.n_embd
    return {
        "wte": (config.vocab_size, e),
        "wpe": (config.n_positions, e),
        "ln1w": (e,),
        "ln1b": (e,),
        "qkvw": (3 * e, e),
        "qkvb": (3 * e,),
        "attprojw": (e, e),
        "attprojb": (e,),
        "ln2w": (e,),
        "ln2b": (e,),
        "fcw": (4 * e, e),
        "fcb": (4 * e,),
        "fcprojw": (e, 4 * e),
        "fcprojb": (e,),
        "lnfw": (e,),
        "lnfb": (e,),
    }


def _is_norm(kind: str) -> bool:
    return kind.startswith("ln")


def _per_layer(kind: str) -> bool:
    return kind not in ("wte", "wpe", "lnfw", "lnfb")


def _dtype(kind: str, version: _Version) -> torch.dtype:
    return torch.float32 if version.norms_last and _is_norm(kind) else version.dtype
