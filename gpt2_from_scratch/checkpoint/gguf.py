"""GGUF, llama.cpp's format: a dictionary, a table of tensors, and the tensors, plain or quantised.

The parser here compares every length with what is left of the file. llama.cpp's own package, `gguf`, does not; it is
used to dequantise tensors and to write files. A shape stands in the file with the innermost dimension first.

Format: ``docs/gguf.md`` of ggml; names and keys: llama.cpp's ``convert_hf_to_gguf.py``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, Cursor, Range, check_count, raw, stored
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # version 1 had 32-bit lengths and lived for a month
_ALIGNMENT = 32  # unless general.alignment says otherwise
_MAX_COUNT = 1 << 18  # of strings in a list: as many as the largest vocabularies have
_ARCHITECTURE = "gpt2"

# Value types of the dictionary: the code, and its letter in `struct` and in numpy.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NORMAL, _CONTROL, _ADDED, _UNUSED = 1, 3, 4, 5  # kinds of tokens

# ggml's types that are plain numbers.
_DTYPES: Mapping[int, torch.dtype] = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_WRITTEN = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}
_FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}  # `llama_ftype`
_ALWAYS_FLOAT32 = ("position_embd.weight",)  # and all vectors: what llama.cpp's kernels expect


class Vocabulary(NamedTuple):
    """GPT-2's tokenizer as GGUF holds it.

    Args:
        tokens: text of each id in order, in GPT-2's byte symbols.
        merges: pairs such as ``"Ġ t"``, first merge first.
        special: ids of special tokens, such as ``<|endoftext|>``.
        unused: ids of rows that pad the embedding and have no token.
    """

    tokens: Sequence[str]
    merges: Sequence[str]
    special: Sequence[int] = ()
    unused: Sequence[int] = ()


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is GGUF."""
    return head.startswith(_MAGIC)


# --------------------------------------------------------------------------------------------------------- reading


def read(path: Path, mmap: bool = True) -> Container:
    """Opens a GGUF file with a GPT-2 in it.

    Args:
        path: the file.
        mmap: tensors are views of the mapped file (but quantised ones, which are computed); False reads each into
            memory of its own.

    Raises:
        FormatError: the file is damaged or contradicts itself.
        ConfigError: it holds another architecture.
        CheckpointError: it is quantised, and the `gguf` package is not installed.
    """
    with path.open("rb") as file:
        cursor = Cursor(file, path.stat().st_size, str(path))
        version, fields, infos = _parse(cursor)
        alignment = fields.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise FormatError(f"{path} is damaged: general.alignment is {alignment!r}, not a power of two from 8 on")
        start = -(-cursor.position // alignment) * alignment
    ranges: dict[str, Range] = {}
    quantised: dict[str, _Info] = {}
    for name, info in infos.items():
        if info.offset % alignment:
            raise FormatError(f"{path} is damaged: tensor {name!r} is not aligned to {alignment} bytes")
        if info.kind in _DTYPES:
            ranges[name] = Range(start + info.offset, info.shape, _DTYPES[info.kind])
        else:
            ranges[name] = Range(start + info.offset, _byte_shape(path, name, info), torch.uint8)
            quantised[name] = info
    tensors = stored(path, ranges, mmap)
    config = _config(path, fields, infos, tensors)
    notes = []
    if quantised:
        counts = Counter(_gguf(path).GGMLQuantizationType(info.kind).name for info in quantised.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        notes.append(f"quantised weights ({kinds}), dequantised to float32: close to the original ones, not equal")
    for name, info in quantised.items():
        dequantise = partial(_dequantise, path, name, info, tensors[name])
        tensors[name] = StoredTensor(info.shape, torch.float32, dequantise)
    if isinstance(tokens := fields.get("tokenizer.ggml.tokens"), list):
        notes.append(f"holds a tokenizer of {len(tokens):,} tokens")
    return Container(f"GGUF, version {version}", (path,), tensors, "gguf", config, tuple(notes))


def vocabulary(path: Path) -> Vocabulary | None:
    """The tokenizer inside a GGUF file, or None where there is none.

    Args:
        path: the file.

    Raises:
        FormatError: the file is damaged, or holds a tokenizer of another kind.
    """
    with path.open("rb") as file:
        _, fields, _ = _parse(Cursor(file, path.stat().st_size, str(path)))
    model, pre = fields.get("tokenizer.ggml.model", "none"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if not isinstance(model, str) or not isinstance(pre, str):
        raise FormatError(f"{path} is damaged: the kind of its tokenizer is no text")
    if model == "none":
        return None
    if (model, pre) != ("gpt2", "gpt-2"):
        raise FormatError(
            f"{path} holds a tokenizer of the kind {model!r}, which cuts text as {pre!r}; GPT-2's is gpt2, and gpt-2",
            hint="tokenize with llama.cpp, and give this package the token ids",
        )
    tokens, merges = (fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    if not _are_texts(tokens) or not _are_texts(merges):
        raise FormatError(f"{path} holds a tokenizer without tokens or without merges", hint="convert the model again")
    kinds = fields.get("tokenizer.ggml.token_type", np.full(len(tokens), _NORMAL))
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise FormatError(f"{path} is damaged: its tokenizer does not give each of its tokens a type")
    special, unused = (np.flatnonzero(np.isin(kinds, those)).tolist() for those in ((_CONTROL, _ADDED), (_UNUSED,)))
    return Vocabulary(tokens, merges, special, unused)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


class _Info(NamedTuple):
    shape: tuple[int, ...]
    kind: int
    offset: int


def _parse(cursor: Cursor) -> tuple[int, dict[str, Any], dict[str, _Info]]:
    """Version, dictionary and table of tensors."""
    where = cursor.where
    cursor.skip(len(_MAGIC))
    version = cursor.unsigned(4)
    if version not in _VERSIONS:
        big = version & 0xFFFF == 0
        raise FormatError(
            f"{where} is big-endian GGUF" if big else f"{where} is GGUF version {version}",
            hint="convert it for little-endian machines" if big else "known: " + ", ".join(map(str, _VERSIONS)),
        )
    tensor_count, field_count = _count(cursor), _count(cursor)
    check_count(where, max(tensor_count, field_count))
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        key = _text(cursor)
        if key in fields:
            raise FormatError(f"{where} is damaged: the key {key!r} appears twice")
        fields[key] = _value(cursor, cursor.unsigned(4))
    infos: dict[str, _Info] = {}
    for _ in range(tensor_count):
        name = _text(cursor)
        if name in infos:
            raise FormatError(f"{where} is damaged: the tensor {name!r} appears twice")
        dims = cursor.unsigned(4)
        if dims > MAX_DIMS:
            raise FormatError(f"{where} is damaged: tensor {name!r} has {dims:,} dimensions")
        shape = tuple(cursor.unsigned(8) for _ in range(dims))[::-1]
        infos[name] = _Info(shape, cursor.unsigned(4), cursor.unsigned(8))
    return version, fields, infos


def _count(cursor: Cursor) -> int:
    count = cursor.unsigned(8)
    if count > _MAX_COUNT:
        raise FormatError(f"{cursor.where} is damaged: {count:,} entries announced before byte {cursor.position:,}")
    return count


def _text(cursor: Cursor) -> str:
    return cursor.text(cursor.unsigned(8))


def _value(cursor: Cursor, kind: int, depth: int = 0) -> Any:
    if kind in _NUMBERS:
        return _numbers(cursor, kind, 1)[0].item()
    if kind == _STRING:
        return _text(cursor)
    if kind != _ARRAY or depth:  # the format allows arrays of arrays, which are not read here
        raise FormatError(f"{cursor.where} is damaged: a value of unknown type {kind} before byte {cursor.position:,}")
    kind, count = cursor.unsigned(4), _count(cursor)
    if kind in _NUMBERS:
        return _numbers(cursor, kind, count)
    return [_value(cursor, kind, depth + 1) for _ in range(count)]


def _numbers(cursor: Cursor, kind: int, count: int) -> np.ndarray[Any, Any]:
    dtype = np.dtype(f"<{_NUMBERS[kind]}")
    return np.frombuffer(cursor.take(count * dtype.itemsize), dtype)


def _config(
    path: Path, fields: Mapping[str, Any], infos: Mapping[str, _Info], tensors: Mapping[str, StoredTensor]
) -> dict[str, Any]:
    """The configuration in the dictionary, in config.json's fields."""
    architecture = fields.get("general.architecture")
    if _is_list(architecture):
        raise FormatError(f"{path} is damaged: general.architecture is a list")
    if architecture != _ARCHITECTURE:
        raise ConfigError(f"{path} holds a {architecture!r} model, not GPT-2", hint="its tensors have other meanings")

    def number(key: str) -> Any:
        if (value := fields.get(f"{_ARCHITECTURE}.{key}")) is None:
            raise FormatError(f"{path} does not say {_ARCHITECTURE}.{key}", hint="convert the model again")
        if _is_list(value):
            raise FormatError(f"{path} is damaged: {_ARCHITECTURE}.{key} is a list")
        return value

    def token(name: str) -> Any:
        value = fields.get(f"tokenizer.ggml.{name}")
        if _is_list(value):
            raise FormatError(f"{path} is damaged: tokenizer.ggml.{name} is a list")
        return value

    if not infos:
        raise FormatError(
            f"{path} holds a vocabulary and no tensors", hint="it is llama.cpp's vocabulary-only file: give the model's"
        )
    embedding = infos.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(f"{path} has no token_embd.weight of two dimensions", hint="convert the model again")
    return gpt2_config(
        vocab_size=embedding.shape[0],
        n_positions=number("context_length"),
        n_embd=number("embedding_length"),
        n_layer=number("block_count"),
        n_head=number("attention.head_count"),
    ) | {
        "n_inner": number("feed_forward_length"),
        "layer_norm_epsilon": _as_meant(number("attention.layer_norm_epsilon")),
        "tie_word_embeddings": _is_tied(infos, tensors),
        "bos_token_id": token("bos_token_id"),
        "eos_token_id": token("eos_token_id"),
    }


def _is_list(value: object) -> bool:
    return isinstance(value, list | np.ndarray)


def _as_meant(number: Any) -> Any:
    """The shortest decimal that is this float32: 1e-5, which the file can only give as 9.999999747378752e-06."""
    return float(str(np.float32(number))) if isinstance(number, float) else number  # the configuration refuses others


def _is_tied(infos: Mapping[str, _Info], tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the head is the embedding: it is absent, or (older converters) repeated byte by byte."""
    head, embedding = infos.get("output.weight"), infos["token_embd.weight"]
    if head is None:
        return True
    if head._replace(offset=0) != embedding._replace(offset=0):
        return False
    return np.array_equal(raw(tensors["output.weight"].read()), raw(tensors["token_embd.weight"].read()))


def _gguf(path: Path) -> Any:
    return _library(f"{path} is quantised", "which knows quantised types", "; files of F32, F16 and BF16 do without")


def _library(what: str, why: str, otherwise: str = "") -> Any:
    """llama.cpp's own package, an extra of this one."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{what}: the package `gguf`, {why}, is not installed",
            hint=f'pip install "gpt2_from_scratch[gguf]"{otherwise}',
        ) from None
    return gguf


def _byte_shape(path: Path, name: str, info: _Info) -> tuple[int, ...]:
    """A quantised tensor's shape in bytes: a row is a whole number of blocks."""
    sizes = {int(kind): size for kind, size in _gguf(path).GGML_QUANT_SIZES.items()}
    if info.kind not in sizes:
        raise FormatError(f"{path}: tensor {name!r} is of ggml's type {info.kind}, which is unknown")
    elements, size = sizes[info.kind]
    if not info.shape or not all(info.shape) or info.shape[-1] % elements:
        raise FormatError(f"{path} is damaged: tensor {name!r} {list(info.shape)} in blocks of {elements} elements")
    return (*info.shape[:-1], info.shape[-1] // elements * size)


def _dequantise(path: Path, name: str, info: _Info, packed: StoredTensor) -> Tensor:
    gguf = _gguf(path)
    kind = gguf.GGMLQuantizationType(info.kind)
    try:
        with np.errstate(all="ignore"):  # a damaged scale is infinite, and what comes of it is refused with its name
            numbers = gguf.dequantize(packed.read().numpy(), kind)
    except NotImplementedError:
        raise FormatError(f"{path}: tensor {name!r} is {kind.name}, which `gguf` cannot dequantise") from None
    return torch.from_numpy(numbers).to(torch.float32).view(info.shape)


# --------------------------------------------------------------------------------------------------------- writing


def write(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    config: GPTConfig,
    vocabulary: Vocabulary | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a GGUF file for llama.cpp, with llama.cpp's own package. One tensor is in memory at a time.

    Vectors and the position embedding become float32, whatever the rest is: llama.cpp's converter does the same.

    Args:
        path: replaced when, and only when, the new file is complete on disk.
        tensors: GGUF's name -> tensor, float32, float16 or bfloat16.
        config: of a model that llama.cpp computes: `Program.check` says so.
        vocabulary: the tokenizer; without it, the file works with token ids only.
        overwrite: whether the file may be there.

    Raises:
        CheckpointError: a dtype that llama.cpp does not compute with, more tokens than the model has rows, or the
            package `gguf` is not installed.
    """
    library = _library(f"{path} cannot be written", "which writes it")
    for name, tensor in tensors.items():
        if tensor.dtype not in _WRITTEN:
            raise CheckpointError(
                f"{name} is {tensor.dtype}, which llama.cpp does not compute with",
                hint="convert to " + ", ".join(str(dtype).removeprefix("torch.") for dtype in _WRITTEN),
            )
    writer = library.GGUFWriter(None, _ARCHITECTURE)
    _describe(writer, config, _FILE_TYPES[tensors["token_embd.weight"].dtype])
    if vocabulary is None:
        writer.add_tokenizer_model("none")
    else:
        _add_vocabulary(writer, config.vocab_size, vocabulary)
    for name, tensor in tensors.items():
        dtype = written_dtype(name, tensor.shape, tensor.dtype)
        kind = library.GGMLQuantizationType(_WRITTEN[dtype])
        nbytes = math.prod(tensor.shape) * dtype.itemsize
        # The dtype of numpy, which has no bfloat16, has no effect: `kind` decides.
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    with replacing(path, overwrite=overwrite) as file:
        writer.write_header_to_file(Path(file.name))
        try:
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in tensors.items():
                writer.write_tensor_data(raw(tensor.read().to(written_dtype(name, tensor.shape, tensor.dtype))))
        finally:
            writer.close()


def _describe(writer: Any, config: GPTConfig, file_type: int) -> None:
    """The configuration, as llama.cpp's converter writes it."""
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_dim)
    writer.add_head_count(config.n_head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(file_type)
    eos = config.eos_token_ids[0] if config.eos_token_ids else None
    if config.bos_token_id is not None and config.bos_token_id >= 0:
        writer.add_bos_token_id(config.bos_token_id)
    if eos is not None and eos >= 0:
        writer.add_eos_token_id(eos)


def _add_vocabulary(writer: Any, rows: int, vocabulary: Vocabulary) -> None:
    known = len(vocabulary.tokens)
    if known > rows:
        raise CheckpointError(f"the tokenizer has {known:,} tokens, the model has rows for {rows:,}")
    kinds = [_NORMAL] * known + [_UNUSED] * (rows - known)
    for special in vocabulary.special:
        kinds[special] = _CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # Rows without a token are filled up as llama.cpp's converter does.
    writer.add_token_list([*vocabulary.tokens, *(f"[PAD{token}]" for token in range(known, rows))])
    writer.add_token_types(kinds)
    writer.add_token_merges(vocabulary.merges)


def written_dtype(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.dtype:
    """The dtype of a tensor in a file whose matrices are of dtype `dtype`: vectors and some others are float32."""
    return torch.float32 if len(shape) < 2 or name in _ALWAYS_FLOAT32 else dtype
