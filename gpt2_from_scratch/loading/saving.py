"""Writes a directory that transformers loads: `config.json` and safetensors, complete or not at all."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gpt2_from_scratch.checkpoint import StoredTensor, safetensors
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.loading.opening import dtype_name


def write_directory(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    config: GPTConfig,
    limit: int,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> int:
    """Writes a Hugging Face directory, complete or not at all, and removes what an earlier save left in it.

    Args:
        folder: made if needed.
        tensors: Hugging Face's name -> tensor.
        config: for `config.json`.
        limit: bytes of weights per file.
        files: what else belongs there, such as the tokenizer's: name -> content.

    Returns:
        In how many files the weights are.
    """
    shards = _shards(tensors, limit)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_all(folder, remove=_stale(folder, shards)) as create:
        for name, names in shards.items():
            safetensors.write_to(create(name), {each: tensors[each] for each in names})
        if len(shards) > 1:
            create(safetensors.INDEX).write(_json(_index(tensors, shards)))
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
        create("config.json").write(config_json(config, dtype))
        for name, content in files.items():
            create(name).write(content)
    return len(shards)


def config_json(config: GPTConfig, dtype: torch.dtype) -> bytes:
    """The content of a `config.json` beside weights of this dtype."""
    content = {**config.to_hf(), "dtype": dtype_name(dtype)}
    content.pop("torch_dtype", None)  # the older name of the same field
    return _json(content)


def _shards(tensors: Mapping[str, StoredTensor], limit: int) -> dict[str, list[str]]:
    """File name -> the tensors in it."""
    parts = safetensors.split(tensors, limit)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{n:05d}-of-{len(parts):05d}.safetensors": names for n, names in enumerate(parts, start=1)}


def _index(tensors: Mapping[str, StoredTensor], shards: Mapping[str, list[str]]) -> dict[str, Any]:
    sizes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    metadata = {
        "total_parameters": sum(sizes.values()),
        "total_size": sum(size * tensors[name].dtype.itemsize for name, size in sizes.items()),
    }
    return {"metadata": metadata, "weight_map": {name: shard for shard, names in shards.items() for name in names}}


def _stale(folder: Path, shards: Iterable[str]) -> list[str]:
    """What an earlier save left: other shards, and always its index, which must never be seen beside new shards."""
    earlier = {path.name for path in folder.iterdir() if safetensors.is_shard_or_index(path.name)}
    return sorted(earlier - set(shards))


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def parse_size(size: int | str) -> int:
    """Bytes of ``"5GB"``, ``"200 MB"``, ``"10KB"`` (decimal units, as in transformers) or of a plain number.

    Example:
        >>> parse_size("10KB")
        10000
    """
    if isinstance(size, int):
        value = size
    else:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)B?", size.strip().upper())
        if match is None:
            raise ValueError(f"{size!r} is not a size; write a number of bytes, or 500MB, 5GB")
        value = int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
    if value <= 0:
        raise ValueError(f"a shard needs a size above 0, not {size!r}")
    return value
