"""Weights over several files: a JSON index says which tensor lies in which shard, whatever form the shards have.

What the index says is checked: shards lie beside it under plain names, and each holds exactly the tensors that it is
said to hold.
"""

import re
from collections.abc import Callable
from pathlib import Path

from gpt2_from_scratch.checkpoint.binary import MAX_TABLE_BYTES, check_count
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.config import read_json
from gpt2_from_scratch.errors import ConfigError, FormatError

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ONE_OF_SEVERAL = re.compile(r".+-\d+-of-(?!0*1\.)\d+\.\w+")  # model-00001-of-00002.safetensors


def recognises(head: bytes, path: Path) -> bool:
    """Whether this is the JSON index of a sharded checkpoint."""
    return head.lstrip()[:1] == b"{" and path.name.endswith(".index.json")


def is_named_as_one(path: Path) -> bool:
    """Whether a file's name says that it is one of several shards."""
    return _ONE_OF_SEVERAL.fullmatch(path.name) is not None


def read(index: Path, mmap: bool, open_shard: Callable[[Path, bool], Container]) -> Container:
    """Opens all shards that an index names and proves that index and shards agree, tensor by tensor.

    Args:
        index: such as `model.safetensors.index.json` or `pytorch_model.bin.index.json`.
        mmap: whether to map the shards.
        open_shard: opens one of them.

    Returns:
        The tensors of all shards, in the order of the index.

    Raises:
        FormatError: a shard is missing, outside the directory, or holds other tensors than the index says.
    """
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    shards = {name: open_shard(path, mmap) for name, path in {name: beside(index, name) for name in names}.items()}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in shards.items():
        listed = {tensor for tensor, where in weight_map.items() if where == name}
        absent, extra = listed - shard.tensors.keys(), shard.tensors.keys() - listed
        if absent or extra:
            raise FormatError(
                f"{index} and {name} disagree: "
                + "; ".join(
                    f"{len(those)} tensors {what}, such as {min(those)!r}"
                    for those, what in ((absent, "listed and not there"), (extra, "there and not listed"))
                    if those
                ),
                hint="the shards are of different saves: fetch index and shards again",
            )
        tensors |= shard.tensors
    return Container(
        f"{shards[names[0]].form}, sharded",
        (index, *(index.parent / name for name in names)),
        {tensor: tensors[tensor] for tensor in weight_map},
    )


def beside(index: Path, name: str) -> Path:
    """The file that another one, such as an index, names.

    Args:
        index: the one that names it.
        name: the name in it.

    Raises:
        FormatError: it is no plain file name, not there, or a link that leads elsewhere.
    """
    if not is_plain(name):
        raise FormatError(f"{index} names {name!a:.80}, which is not a plain file name", hint=_ELSEWHERE)
    path = index.parent / name
    if not path.is_file():
        raise FormatError(f"{index} names {name}, which is not there", hint="fetch the missing shard")
    if not (target := path.resolve()).is_relative_to(home(index)):
        raise FormatError(
            f"{index} names {name}, which is a link to {target}, outside its folder",
            hint="an index may only name what lies beside it: if the link is yours, put the file itself there",
        )
    return path


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file in the same folder only."""
    return _SHARD_NAME.fullmatch(name) is not None and set(name) != {"."}


_ELSEWHERE = "shards must lie beside their index; do not use an index that points elsewhere"


def home(path: Path) -> Path:
    """The folder that a file and its neighbours must be in.

    It is their own folder. In the Hub's cache, where files are links into the repository's folder, it is the latter.
    """
    folder = path.parent.resolve()
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def names_in(index: Path) -> list[str]:
    """The shards that an index names; they need not be there yet.

    Raises:
        FormatError: the index is malformed, or names something that is not a plain file name.
    """
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = read_json(index, max_bytes=MAX_TABLE_BYTES)
    except ConfigError as error:
        raise FormatError(error.message, hint=error.hint) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index} has no weight_map", hint="it should map each tensor's name to its shard")
    check_count(str(index), len(weight_map))
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not is_plain(shard):
            raise FormatError(f"{index} places {name!r} in {shard!r}, which is not a plain file name", _ELSEWHERE)
    return weight_map
