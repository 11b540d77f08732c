"""DeepSpeed's checkpoints: a folder for each step, named by the file `latest` beside it, with files for each rank.

Without ZeRO, and with its stages 1 and 2, `mp_rank_00_model_states.pt` holds the model under ``module``. If these are
16-bit numbers, they are copies: what was trained are the float32 values in the optimizer's states. In stages 1 and 2,
the parameters of a group lie one behind the other, and each rank has a part of the row. The float32 values are given.
Each is compared with its copy when it is read. The key ``module`` gives the copies.

With stage 3 every rank holds a part of every parameter: its float32 values, flattened and cut into as many equal parts
as there are ranks, the last ones padded. A rank's parts lie one behind the other in the flat groups of its optimizer's
states. In all stages, the model's states of rank 0 say in which order, and their shapes. A parameter is put together
when it is read.

Format: ``zero_to_fp32.py`` of DeepSpeed.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import state_dict, torch_pickle
from gpt2_from_scratch.checkpoint.binary import MAX_DIMS, TRUNCATED, check_count
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.shards import is_plain
from gpt2_from_scratch.errors import FormatError

_STATES = re.compile(r"(?:bf16_|fp16_)?(zero_pp_rank_(\d{1,4})_)?mp_rank_(\d\d)_(model|optim)_states\.pt")
_WHOLE, _FIRST = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"
_AGAIN = "copy the files of all ranks, or save again"
_OR_COPIES = "copy the files of all ranks, or take what the model computed with"
_COPIES = {"key": "module"}


def recognises(head: bytes, path: Path) -> bool:
    """Whether this is one of the files; they are files of torch.save, which only their names tell from others."""
    return _STATES.fullmatch(path.name) is not None and torch_pickle.recognises(head, path)


def states_in(directory: Path) -> Path | None:
    """The model's states of rank 0 in a folder, or in the one that its file `latest` names; None if there are none."""
    folders = [directory]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (latest := directory / "latest").is_file():
            with latest.open("rb") as file:
                tag = file.read(256).decode().strip()
            folders += [directory / tag] if is_plain(tag) else []
    paths = [folder / name for folder in folders for name in (_FIRST, _WHOLE)]
    return next((path for path in paths if path.is_file()), None)


def read(path: Path, mmap: bool = True, key: str = "") -> Container:
    """Opens the checkpoint that a file is part of.

    Args:
        path: a file of any rank.
        mmap: map the files of all ranks; False reads them.
        key: ``module`` for the numbers with which the model computed, where float32 ones are beside them.

    Raises:
        FormatError: a rank's file is missing, damaged or hostile, or contradicts the others.
    """
    folder = path.parent
    files = {each.name: match for each in folder.iterdir() if (match := _STATES.fullmatch(each.name))}
    if any(match[3] != "00" for match in files.values()):
        raise FormatError(
            f"{folder} has parts of several ranks of tensor parallelism, which DeepSpeed does not describe",
            hint="have the training script save the whole model, or convert it with the trainer's own program",
        )
    ranks = {int(match[2]): folder / name for name, match in files.items() if match[1] and match[4] == "optim"}
    if _FIRST in files:
        if key:
            raise FormatError(f"{folder} has no keys to choose from: it holds the float32 values alone")
        return _partitioned(folder / _FIRST, ranks, mmap)
    if _WHOLE not in files:
        raise FormatError(f"{folder} has no {_WHOLE} and no {_FIRST}, which hold the model", _AGAIN)
    content = torch_pickle.load(folder / _WHOLE, mmap)
    found = state_dict.find(content, str(folder / _WHOLE), key or "module")
    whole = Container(
        "DeepSpeed",
        (folder / _WHOLE,),
        {name: torch_pickle.stored(tensor) for name, tensor in found.tensors.items()},
        notes=found.notes,
    )
    rounded = {each.dtype for each in found.tensors.values()} & {torch.bfloat16, torch.float16}
    if not rounded or key:
        return whole
    if not ranks:
        said = "the 16-bit numbers with which the model computed: the folder has no files of ZeRO with float32 values"
        return replace(whole, notes=(*whole.notes, said))
    try:
        trained = _trained(folder / _WHOLE, content, found.tensors, ranks, mmap)
    except FormatError as error:
        raise FormatError(error.message, _OR_COPIES, options=_COPIES) from None
    said = f"the float32 values that were trained, from the optimizer's files of {len(ranks)} ranks"
    return replace(
        whole,
        form=f"DeepSpeed ZeRO, {len(ranks)} ranks",
        files=(*whole.files, *ranks.values()),
        tensors={**whole.tensors, **trained},
        notes=(*whole.notes, said),
    )


# ----------------------------------------------------------------------------------------------- ZeRO, stages 1 and 2


def _trained(
    model: Path, content: object, copies: Mapping[str, Tensor], ranks: Mapping[int, Path], mmap: bool
) -> dict[str, StoredTensor]:
    """The float32 values of parameters whose 16-bit copies the model's states hold."""
    groups = _flat_groups(model.parent, ranks, mmap, "single_partition_of_fp32_groups")
    listed = content.get("param_shapes") if isinstance(content, dict) else None
    if not isinstance(listed, list) or any(len(listed) != len(each) for each in groups):
        raise FormatError(f"{model} does not say which parameters are in the optimizer's groups")
    if any(each.dtype != torch.float32 for flat in groups for each in flat):
        raise FormatError(f"{model.parent}: what the optimizer keeps is not in float32")
    tensors: dict[str, StoredTensor] = {}
    owners: dict[tuple[object, ...], StoredTensor] = {}
    for shapes, flat in zip(listed, zip(*groups, strict=True), strict=True):
        start = 0
        for name, shape in _shapes(model, shapes, tensors).items():
            copy = copies.get(name)
            if copy is None or copy.shape != shape:
                raise FormatError(f"{model}: {name!a:.80} {list(shape)} is in the optimizer, and not in the model")
            part = _Part(flat, start, copy.numel())
            read = partial(_proven, f"{model}: {name}", copy, part)
            tensors[name] = owners[_place(copy)] = StoredTensor(shape, flat[0].dtype, read)
            start += part.length
        # A group is padded to twice the number of ranks; whether the padding is saved depends on DeepSpeed's version.
        if not start <= (available := sum(map(len, flat))) < start + 2 * len(ranks):
            raise FormatError(
                f"{model}: the parameters of a group take {start:,} values of the optimizer's {available:,}"
            )
    tied = {name: _place(copy) for name, copy in copies.items() if name not in tensors}
    return tensors | {name: owners[place] for name, place in tied.items() if place in owners}


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What is the same for two names of one tensor."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _proven(where: str, copy: Tensor, part: "_Part") -> Tensor:
    """A parameter's float32 values, which rounded are the copy."""
    values = _joined(tuple(copy.shape), [part])
    if not torch.allclose(values.to(copy.dtype), copy, rtol=0, atol=0, equal_nan=True):
        raise FormatError(
            f"{where}: the float32 values in the optimizer's files are not those that the model computed with",
            _OR_COPIES,
            options=_COPIES,
        )
    return values


# ------------------------------------------------------------------------------------------------------ ZeRO, stage 3


class _Part(NamedTuple):
    """A parameter's part on one rank: so many elements of flat tensors that lie one behind the other."""

    flat: Sequence[Tensor]
    start: int
    length: int


def _partitioned(model: Path, ranks: Mapping[int, Path], mmap: bool) -> Container:
    content = torch_pickle.load(model, mmap)
    if not isinstance(content, dict) or not isinstance(content.get("param_shapes"), list):
        raise FormatError(f"{model} does not say which parameters there are", _AGAIN)
    groups = _flat_groups(model.parent, ranks, mmap, "fp32_flat_groups")
    for rank, flat in enumerate(groups):
        if [(len(each), each.dtype) for each in flat] != [(len(each), each.dtype) for each in groups[0]]:
            raise FormatError(
                f"{ranks[rank]}: the flat groups of rank {rank} are of other sizes than those of rank 0", _AGAIN
            )
    count, start = len(groups), 0
    tensors: dict[str, StoredTensor] = {}
    for shapes in content["param_shapes"]:
        for name, shape in _shapes(model, shapes, tensors).items():
            length = -(-math.prod(shape) // count)
            parts = [_Part(flat, start, length) for flat in groups]
            tensors[name] = StoredTensor(shape, groups[0][0].dtype, partial(_joined, shape, parts))
            start += length
    if start != (available := sum(map(len, groups[0]))):
        raise FormatError(f"{model}: its parameters take {start:,} values of each rank, of {available:,}", _AGAIN)
    paths = [model, *ranks.values()]
    if frozen := _shapes(model, content.get("frozen_param_shapes") or {}, tensors):
        others = [model.with_name(f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt") for rank in range(count)]
        paths += others[1:]
        tensors |= _frozen(frozen, others, mmap)
    module = content.get("module")
    for name in content.get("buffer_names") or ():
        if isinstance(module, dict) and isinstance(module.get(name), Tensor) and name not in tensors:
            tensors[name] = torch_pickle.stored(module[name])
    shared = content.get("shared_params")
    for name, owner in shared.items() if isinstance(shared, dict) else ():
        if isinstance(name, str) and owner in tensors and name not in tensors:
            tensors[name] = tensors[owner]
    for name in tensors:
        if not name.isprintable() or not name:
            raise FormatError(f"{model}: tensor {name!a:.80} has an unprintable name, or none")
    return Container(f"DeepSpeed ZeRO-3, {count} ranks", tuple(paths), tensors)


def _flat_groups(folder: Path, ranks: Mapping[int, Path], mmap: bool, name: str) -> list[list[Tensor]]:
    """For each rank, the flat tensors that its optimizer's states have under this name."""
    groups: list[list[Tensor]] = []
    if sorted(ranks) != list(range(len(ranks))) or not ranks:
        raise FormatError(f"{folder} has the optimizer's states of the ranks {sorted(ranks)} only", _AGAIN)
    for _, path in sorted(ranks.items()):
        content = torch_pickle.load(path, mmap)
        states = content.get("optimizer_state_dict") if isinstance(content, dict) else None
        flat = states.get(name) if isinstance(states, dict) else None
        if not isinstance(states, dict) or not isinstance(flat, list) or not flat:
            raise FormatError(f"{path} has no {name}, where ZeRO keeps float32 values", _AGAIN)
        if states.get("ds_zero_partition_groups") is not None:
            raise FormatError(f"{path} divides the parameters among several groups of ranks, which is not read")
        count = states.get("partition_count")
        counts = count if isinstance(count, list) else [count]  # in stages 1 and 2, of each group
        if any(type(each) is not int or each != len(ranks) for each in counts):
            raise FormatError(f"{path} is of {count!a:.20} ranks; {len(ranks)} ranks' files are there", _AGAIN)
        if not all(isinstance(each, Tensor) and each.dim() == 1 and each.is_floating_point() for each in flat):
            raise FormatError(f"{path}: its flat groups are no vectors of numbers", TRUNCATED)
        groups.append([each.detach() for each in flat])
    return groups


def _shapes(model: Path, shapes: object, known: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Name -> shape, of a dictionary that may hold anything."""
    if not isinstance(shapes, dict):
        raise FormatError(f"{model} is damaged: {type(shapes).__name__} instead of shapes", TRUNCATED)
    check_count(str(model), len(shapes) + len(known))
    for name, shape in shapes.items():
        is_shape = isinstance(shape, tuple) and len(shape) <= MAX_DIMS
        if not is_shape or any(type(size) is not int or size < 0 for size in shape):
            raise FormatError(f"{model}: {name!a:.80} has the shape {shape!a:.80}", TRUNCATED)
        if not isinstance(name, str) or name in known:
            raise FormatError(f"{model}: the parameter {name!a:.80} is there twice, or no name", TRUNCATED)
    return {name: tuple(shape) for name, shape in shapes.items()}


def _frozen(shapes: Mapping[str, tuple[int, ...]], models: Sequence[Path], mmap: bool) -> dict[str, StoredTensor]:
    """Parameters that were not trained: each rank's part is a tensor of its own, in the model's states."""
    fragments: list[Any] = []
    for path in models:
        if not path.is_file():
            raise FormatError(f"{path} is not there: it has a part of each parameter that was not trained", _AGAIN)
        content = torch_pickle.load(path, mmap)
        fragments.append(content.get("frozen_param_fragments") if isinstance(content, dict) else None)
    tensors = {}
    for name, shape in shapes.items():
        length = -(-math.prod(shape) // len(models))
        flat = [each.get(name) if isinstance(each, dict) else None for each in fragments]
        parts = [each for each in flat if isinstance(each, Tensor) and each.shape == (length,)]
        if len(parts) != len(models) or any(part.dtype != parts[0].dtype for part in parts):
            raise FormatError(f"{models[0]}: the parts of {name} are not {length:,} values of each rank", _AGAIN)
        whole = [_Part([part.detach()], 0, length) for part in parts]
        tensors[name] = StoredTensor(shape, parts[0].dtype, partial(_joined, shape, whole))
    return tensors


def _joined(shape: tuple[int, ...], parts: Sequence[_Part]) -> Tensor:
    """The parameter; what pads its last parts is cut off."""
    pieces = []
    for part in parts:
        before = 0
        for flat in part.flat:
            piece = flat[max(0, part.start - before) : max(0, part.start + part.length - before)]
            before += len(flat)
            pieces.append(piece)
    return torch.cat(pieces)[: math.prod(shape)].view(shape)
