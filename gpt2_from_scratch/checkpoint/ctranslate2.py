"""CTranslate2's `model.bin`: named variables one behind the other, whole or quantised, and further names for some.

A quantised matrix is stored as integers, with one scale for each of its rows (int8) or one for all of them (int16); it
is read as float32. Number of heads, activation and other settings are variables without dimensions.

Format: `model_spec.py` of CTranslate2's converters, which writes version 6; its engine reads the earlier ones, too.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, Cursor, Range, check_count, stored
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.errors import FormatError

# The version of the format; then the length of a text, and the text: what kind of model it is.
_BEGINNING = re.compile(rb"[\x02-\x06]\0\0\0(..)([A-Za-z0-9]{1,60})\0", re.DOTALL)
_DECODER = "TransformerDecoderSpec"
_TYPED, _ALIASED = 4, 3  # versions from which on a variable says its type, and variables have other names
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_DTYPES_BY_SIZE = {4: torch.float32, 2: torch.int16, 1: torch.int8}  # what an early version gives instead of a type
_INTEGERS = (torch.int8, torch.int16)
_SCALE = "_scale"

# The engine's numbers for activations -> config.json's names.
_ACTIVATIONS = ("relu", "gelu_new", "silu", "gelu", "quick_gelu", "tanh", "sigmoid")
_HEADS, _ACTIVATION = "decoder/num_heads", "decoder/activation"
# Settings of GPT-2, and of what it has not: a setting that is neither here nor below is another architecture's.
_GPT2S = {
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
    "decoder/alibi": 0,
}
# Settings without effect on GPT-2: which heads align speech with text, and how biases are made that it has not.
_WITHOUT_EFFECT = {
    f"decoder/{name}" for name in ("alignment_heads", "alignment_layer", "alibi_use_positive_positions", "scale_alibi")
}


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is a model of CTranslate2's."""
    match = _BEGINNING.match(head)
    return match is not None and int.from_bytes(match[1], "little") == len(match[2]) + 1


def read(path: Path, mmap: bool = True) -> Container:
    """Opens a `model.bin`.

    Args:
        path: the file.
        mmap: tensors are views of the mapped file (but quantised ones, which are computed); False reads each into
            memory of its own.

    Raises:
        FormatError: damaged, or a model of another kind.
    """
    with path.open("rb") as file:
        ranges, aliases = _table(Cursor(file, path.stat().st_size, str(path)))
    variables = stored(path, ranges, mmap)
    settings = {
        name: each
        for name, each in variables.items()
        if each.shape == () and not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in variables)
    }
    config = _config(path, {name: each.read().item() for name, each in settings.items()})
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in variables.items():
        if name in settings or (name.endswith(_SCALE) and name.removesuffix(_SCALE) in variables):
            continue
        tensors[name] = _whole(path, name, tensor, variables.get(name + _SCALE))
    for alias, name in aliases.items():
        if name not in tensors or alias in tensors:
            raise FormatError(f"{path}: {alias!a:.80} is another name for {name!a:.80}, which cannot be", TRUNCATED)
        tensors[alias] = tensors[name]
    integers = {str(tensor.dtype).removeprefix("torch.") for tensor in variables.values() if _is_quantised(tensor)}
    notes = tuple(f"matrices are stored as {kind}, with scales, and read as float32" for kind in sorted(integers))
    return Container("CTranslate2", (path,), tensors, "ctranslate2", config, notes)


def _table(cursor: Cursor) -> tuple[dict[str, Range], dict[str, str]]:
    """Where the variables are; and the other names of some: alias -> name."""
    version, kind = cursor.unsigned(4), _text(cursor)
    if kind != _DECODER:
        raise FormatError(f"{cursor.where} is CTranslate2's {kind}, and no decoder alone, as GPT-2 is")
    cursor.skip(4)  # the revision of the names
    ranges: dict[str, Range] = {}
    count = cursor.unsigned(4)
    check_count(cursor.where, count)
    for _ in range(count):
        name, dimensions = _text(cursor), cursor.unsigned(1)
        if dimensions > MAX_DIMS or name in ranges:
            raise FormatError(f"{cursor.where}: {name!a:.80} is there twice, or has {dimensions} dimensions", TRUNCATED)
        shape = tuple(cursor.unsigned(4) for _ in range(dimensions))
        code, size = cursor.unsigned(1), cursor.unsigned(4)
        dtype = dict(enumerate(_DTYPES)).get(code) if version >= _TYPED else _DTYPES_BY_SIZE.get(code)
        if dtype is None:
            raise FormatError(f"{cursor.where}: {name!a:.80} has a type {code}, which CTranslate2 has not", TRUNCATED)
        ranges[name] = Range(cursor.position, shape, dtype)
        size *= 1 if version >= _TYPED else code
        if ranges[name].nbytes != size:
            raise FormatError(f"{cursor.where}: {name!a:.80} {list(shape)} does not take {size:,} bytes", TRUNCATED)
        cursor.skip(size)
    aliases: dict[str, str] = {}
    if version >= _ALIASED:
        count = cursor.unsigned(4)
        check_count(cursor.where, count)
        for _ in range(count):
            alias, name = _text(cursor), _text(cursor)
            aliases[alias] = name
    if cursor.left:
        raise FormatError(f"{cursor.where} has {cursor.left:,} bytes behind its content", TRUNCATED)
    return ranges, aliases


def _text(cursor: Cursor) -> str:
    """A text: its length in two bytes, with the zero byte that ends it."""
    length = cursor.unsigned(2)
    text = cursor.text(length)
    if not text.endswith("\0") or not text[:-1].isprintable() or length == 1:
        raise FormatError(f"{cursor.where} is damaged: no name before byte {cursor.position:,}", TRUNCATED)
    return text[:-1]


def _config(path: Path, settings: Mapping[str, int | float]) -> dict[str, Any]:
    """What the file says of the model, in config.json's fields.

    Raises:
        FormatError: a setting says that it is no GPT-2.
    """
    for name, value in settings.items():
        known = name in (_HEADS, _ACTIVATION) or name in _WITHOUT_EFFECT
        if not known and _GPT2S.get(name) != value:
            raise FormatError(f"{path} is no GPT-2: it sets {name} to {value}", "only GPT-2's own architecture is read")
    config: dict[str, Any] = {}
    if (heads := settings.get(_HEADS)) is not None:
        config["n_head"] = heads
    if (activation := settings.get(_ACTIVATION)) is not None:
        if activation not in range(len(_ACTIVATIONS)):
            raise FormatError(f"{path} has an activation {activation}, which CTranslate2 has not", TRUNCATED)
        config["activation_function"] = _ACTIVATIONS[int(activation)]
    return config


def _is_quantised(tensor: StoredTensor) -> bool:
    return tensor.dtype in _INTEGERS and tensor.shape != ()


def _whole(path: Path, name: str, tensor: StoredTensor, scale: StoredTensor | None) -> StoredTensor:
    """The tensor as it is, or what its integers and their scales mean."""
    if not _is_quantised(tensor):
        return tensor
    if scale is None or scale.dtype != torch.float32 or scale.shape not in ((), tensor.shape[:1]):
        raise FormatError(f"{path}: {name} is stored as {tensor.dtype} without a scale for each row", TRUNCATED)
    return StoredTensor(tensor.shape, torch.float32, partial(_dequantised, tensor.read, scale.read))


def _dequantised(integers: Callable[[], Tensor], scale: Callable[[], Tensor]) -> Tensor:
    values = integers()
    return values.float() / scale().view(-1, *[1] * (values.dim() - 1))
