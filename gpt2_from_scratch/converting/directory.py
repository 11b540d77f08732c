"""Writes a directory that transformers loads: `config.json` and safetensors, complete or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpt2_from_scratch.checkpoint import StoredTensor, safetensors
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.precision import dtype_name

CONFIG = "config.json"


def write_directory(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    max_shard_size: int | str,
    files: Mapping[str, bytes],
    overwrite: bool = True,
) -> None:
    """Writes a Hugging Face directory, complete or not at all, and removes what an earlier save left in it.

    Args:
        folder: an existing one.
        tensors: Hugging Face's name -> tensor.
        max_shard_size: bytes of weights per file, or text such as ``"500MB"``.
        files: what else belongs there, `config.json` and the tokenizer's: name -> content.
        overwrite: whether files of these names may be there.

    Raises:
        ValueError: `max_shard_size` is no size.
    """
    shards = shards_of(tensors, max_shard_size)
    stale = {path.name for path in folder.iterdir() if safetensors.is_shard_or_index(path.name)} - shards.keys()
    # An old index must never be seen beside new shards, so what is stale goes first.
    with replacing_all(folder, remove=sorted(stale), overwrite=overwrite) as create:
        for name, names in shards.items():
            safetensors.write_to(create(name), {each: tensors[each] for each in names})
        if len(shards) > 1:
            create(safetensors.INDEX).write(_json(_index(tensors, shards)))
        for name, content in files.items():
            create(name).write(content)


def shards_of(tensors: Mapping[str, StoredTensor], max_shard_size: int | str) -> dict[str, list[str]]:
    """File name -> names of the tensors in it, as huggingface_hub splits them.

    Raises:
        ValueError: `max_shard_size` is no size.
    """
    # Imported here, as it takes time and loading does not need it.
    from huggingface_hub import split_state_dict_into_shards_factory

    if isinstance(max_shard_size, int) and max_shard_size <= 0:
        raise ValueError(f"max_shard_size is {max_shard_size}; it must be above 0")
    try:
        split = split_state_dict_into_shards_factory(
            dict(tensors),
            get_storage_size=lambda tensor: tensor.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"max_shard_size is {max_shard_size!r}, not a size such as '500MB': {error}") from None
    return split.filename_to_tensors


def config_json(config: GPTConfig, dtype: torch.dtype) -> bytes:
    """The content of a `config.json` beside weights of this dtype."""
    content = {**config.to_hf(), "dtype": dtype_name(dtype)}
    content.pop("torch_dtype", None)  # the older name of the same field
    return _json(content)


def _index(tensors: Mapping[str, StoredTensor], shards: Mapping[str, list[str]]) -> dict[str, Any]:
    metadata = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
    }
    return {"metadata": metadata, "weight_map": {name: shard for shard, names in shards.items() for name in names}}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
