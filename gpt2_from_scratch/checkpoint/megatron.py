"""Megatron-LM's checkpoints: a folder for each step, in it one for each rank of tensor and pipeline parallelism.

``mp_rank_01/model_optim_rng.pt`` has the parts of tensor-parallel rank 1, ``mp_rank_01_002`` those of its stage 2 of
the pipeline. A linear layer is divided by its outputs or by its inputs, an embedding by its rows; the rest is the same
on all ranks. A stage counts its layers from zero. Parts are joined when the tensor is read.

The names are given as today's Megatron-LM calls its older models: what was ``transformer`` and ``attention`` at first
is ``encoder`` and ``self_attention``. Models of Megatron Core have names of their own. In which order a fused layer has
query, key and value depends on the file's ``checkpoint_version``: in version 0, all queries come first; in version 1,
each feature of a head has its query, key and value; since version 2, each head has. The first two are given in the
order of version 0, under the name ``query_key_value_v0``.

Today's default is a folder of `torch.distributed.checkpoint` for each step, with the arguments in `common.pt`. There,
the tensors of all layers that are of one kind are one tensor. They are given one by one.

Facts: ``checkpointing.py`` of Megatron-LM, and transformers' conversion of Megatron's GPT-2.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import distributed, torch_pickle
from gpt2_from_scratch.checkpoint.binary import TRUNCATED, check_count
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.state_dict import SavedObject
from gpt2_from_scratch.errors import FormatError

_FILES = ("model_optim_rng.pt", "model_rng.pt")  # the latter where the optimizer's state is in files of its own
_RANK = re.compile(r"mp_rank_(\d\d)(?:_(\d\d\d))?")
_TRACKER = "latest_checkpointed_iteration.txt"
_COMMON = "common.pt"
_AGAIN = "copy the folders of all ranks, or save again"
_MOST_LEVELS = 4  # of dictionaries in one another: model, language_model, embedding, word_embeddings

# What a tensor-parallel rank has a part of: the outputs of these, and the inputs of those.
_BY_OUTPUTS = re.compile(
    r"(?:.*\.)?(?:word_embeddings|word_embeddings_for_head|output_layer|query_key_value|dense_h_to_4h|linear_qkv"
    r"|linear_fc1)\.(?:weight|bias)"
)
_BY_INPUTS = re.compile(r".*\.(?:dense|dense_4h_to_h|linear_proj|linear_fc2)\.weight")
_VOCABULARY = re.compile(r"(?:.*\.)?(?:word_embeddings|output_layer)\.weight")  # their rows are padded
_VOCABULARIES = ("orig_vocab_size", "vocab_size")  # the arguments that say how many rows are tokens
_LAYER = re.compile(r"(.*\blayers\.)(\d{1,6})(\..*)")
_STACKED = re.compile(r"((?:.*\.)?decoder\.layers\.)(?!\d+\.)(.+)")
_QKV = re.compile(r".*\.query_key_value\.(?:weight|bias)")
_HEAD_OF_LAST_STAGE = "word_embeddings_for_head.weight"

_VERSIONS = (0, 1, 2, 3)  # of `checkpoint_version`
_SIDE_BY_SIDE = 2  # the version since which a head's query, key and value are side by side
# Settings of GPT-2; one that says otherwise is another architecture's.
_GPT2S: Mapping[str, object] = {
    "position_embedding_type": "learned_absolute",
    "normalization": "LayerNorm",
    "swiglu": False,
    "squared_relu": False,
    "apply_layernorm_1p": False,
    "apply_residual_connection_post_layernorm": False,
    "group_query_attention": False,
    "multi_latent_attention": False,
    "qk_layernorm": False,
    "num_experts": None,
    "window_size": None,
}


def recognises(head: bytes, path: Path) -> bool:
    """Whether this is a rank's file, or the table of a folder; only their names tell them from other programs'."""
    if distributed.recognises(head, path):
        return path.with_name(_COMMON).is_file() and path.with_name("metadata.json").is_file()
    return path.name in _FILES and torch_pickle.recognises(head, path)


def states_in(directory: Path) -> Path | None:
    """The first rank's file in a folder, or in that of the folder's last step; None if there is none."""
    folders = [directory]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (tracker := directory / _TRACKER).is_file():
            with tracker.open("rb") as file:
                step = file.read(64).decode().strip()
            if step == "release" or re.fullmatch(r"[0-9]{1,12}", step):
                folders.append(directory / (step if step == "release" else f"iter_{int(step):07d}"))
    ranks = [folder / rank for folder in folders for rank in ("mp_rank_00", "mp_rank_00_000")]
    paths = [rank / name for rank in ranks for name in _FILES] + [folder / distributed.METADATA for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def read(path: Path, mmap: bool = True) -> Container:
    """Opens the checkpoint that a rank's file is part of.

    Args:
        path: the file of any rank, or the table of a folder.
        mmap: map the files of all ranks; False reads them.

    Raises:
        FormatError: a rank's file is missing, damaged or hostile, contradicts the others, or is of no GPT-2.
    """
    if path.name == distributed.METADATA:
        return _of_folder(path)
    stages = _stages(path)
    contents = {each: _loaded(each, mmap) for paths in stages for each in paths}
    first = contents[stages[0][0]]
    settings = _settings(stages[0][0], first.get("args"))
    version = first.get("checkpoint_version", 0)
    if not isinstance(version, int | float) or version not in _VERSIONS:
        raise FormatError(f"{path} has the checkpoint_version {version!a:.40}; 0 to 3 are known")
    tensors: dict[str, StoredTensor] = {}
    layers = 0
    for paths in stages:
        parts = [_named(each, contents[each]) for each in paths]
        if any(part.keys() != parts[0].keys() for part in parts):
            raise FormatError(f"{paths[-1]} has other tensors than {paths[0]}", _AGAIN)
        numbers = {int(match[2]) for name in parts[0] if (match := _LAYER.fullmatch(name))}
        for name in parts[0]:
            order = int(version) if version < _SIDE_BY_SIDE and _QKV.fullmatch(name) else None
            new = name if order is None else name.replace(".query_key_value.", ".query_key_value_v0.")
            tensors[_renumbered(new, layers)] = _joined(paths[0], name, [part[name] for part in parts], order)
        layers += max(numbers, default=-1) + 1
    is_core = not any(name.startswith("language_model.") for name in tensors)
    if head := tensors.pop(_HEAD_OF_LAST_STAGE, None):  # a tied embedding's copy
        tensors["output_layer.weight" if is_core else "language_model.output_layer.weight"] = head
    form = "Megatron-LM" + (f", {len(stages[0])} x {len(stages)} ranks" if len(stages) * len(stages[0]) > 1 else "")
    return _container(form, list(contents), tensors, settings)


def _container(
    form: str, files: Sequence[Path], tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]
) -> Container:
    """The tensors without the rows that pad the vocabulary, and what the arguments say of the model."""
    padded = tuple(name for name, tensor in tensors.items() if _VOCABULARY.fullmatch(name) and tensor.shape)
    container = Container(form, tuple(files), tensors, "megatron", _config(settings), padded=padded)
    sizes = (settings.get(name) for name in _VOCABULARIES)
    vocabulary = next((size for size in sizes if type(size) is int and size > 0), None)
    return container if vocabulary is None else container.without_padding(vocabulary)


def _of_folder(metadata: Path) -> Container:
    """Opens a folder of `torch.distributed.checkpoint`."""
    common = torch_pickle.load(metadata.with_name(_COMMON))
    settings = _settings(metadata, common.get("args") if isinstance(common, dict) else None)
    table = distributed.table_of(metadata)
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in table.tensors.items():
        if tensor is None or name.startswith("optimizer.") or "._extra_state" in name:
            continue
        named = {name: tensor.stored}
        if (match := _STACKED.fullmatch(name)) and tensor.shape:
            check_count(str(metadata), len(tensors) + tensor.shape[0])
            named = {f"{match[1]}{layer}.{match[2]}": tensor.slice(layer) for layer in range(tensor.shape[0])}
        if both := named.keys() & tensors.keys():
            raise FormatError(f"{metadata}: the tensor {min(both)} is there twice", TRUNCATED)
        tensors |= named
    files = [metadata, metadata.with_name(_COMMON), *table.files]
    return _container("Megatron-LM, PyTorch distributed checkpoint", files, tensors, settings)


def _stages(path: Path) -> list[list[Path]]:
    """The files of all ranks, stage by stage, in the order of the tensor-parallel ranks."""
    if not _RANK.fullmatch(path.parent.name):
        return [[path]]
    found: dict[tuple[int, int], Path] = {}
    for folder in path.parent.parent.iterdir():
        match = _RANK.fullmatch(folder.name)
        file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if match and file:
            found[int(match[2] or 0), int(match[1])] = file
    stages, ranks = (range(max(key[at] for key in found) + 1) for at in (0, 1))
    for stage, rank in product(stages, ranks):
        if (stage, rank) not in found:
            raise FormatError(f"{path.parent.parent} has no file of rank {rank}, stage {stage}", _AGAIN)
    return [[found[stage, rank] for rank in ranks] for stage in stages]


def _loaded(path: Path, mmap: bool) -> dict[str, Any]:
    content = torch_pickle.load(path, mmap)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        what = "parts of interleaved stages" if isinstance(content, dict) and "model0" in content else "no model"
        raise FormatError(f"{path} holds {what}", "save without virtual stages of pipeline parallelism")
    return content


def _named(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under today's names."""
    named: dict[str, Tensor] = {}
    for name, tensor in _flat(content["model"], "", 0):
        check_count(str(path), len(named) + 1)
        new = re.sub(r"^language_model\.transformer\.", "language_model.encoder.", name)
        new = new.replace(".attention.", ".self_attention.") if new.startswith("language_model.") else new
        if new in named or not new.isprintable():
            raise FormatError(f"{path}: the tensor {name!a:.80} is there twice, or has an unprintable name", TRUNCATED)
        named[new] = tensor
    return named


def _flat(content: Mapping[Any, Any], prefix: str, level: int) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of dictionaries in one another; what is no tensor, and what a kernel keeps, is left out."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and level < _MOST_LEVELS:
            yield from _flat(value, f"{name}.", level + 1)
        elif isinstance(value, Tensor) and not name.endswith("._extra_state"):
            yield name, value.detach()


def _renumbered(name: str, before: int) -> str:
    match = _LAYER.fullmatch(name)
    return f"{match[1]}{int(match[2]) + before}{match[3]}" if match else name


def _joined(path: Path, name: str, parts: Sequence[Tensor], order: int | None) -> StoredTensor:
    """One tensor of all ranks' parts.

    Args:
        path: of the first rank, for errors.
        name: of the tensor.
        parts: each rank's.
        order: of query, key and value: the checkpoint's version, if it is below 2 and this is their layer.
    """
    first = parts[0]
    axis = 0 if _BY_OUTPUTS.fullmatch(name) else 1 if _BY_INPUTS.fullmatch(name) else None
    if any(part.shape != first.shape or part.dtype != first.dtype for part in parts) or first.dim() <= (axis or 0):
        raise FormatError(f"{path}: {name} is {list(first.shape)}, and of another form on other ranks", _AGAIN)
    if order is not None and first.shape[0] % 3:
        raise FormatError(f"{path}: {name} is {list(first.shape)}, which are no three parts", _AGAIN)
    if axis is None or (len(parts) == 1 and order != 1):
        return torch_pickle.stored(first)
    shape = tuple(size * (len(parts) if at == axis else 1) for at, size in enumerate(first.shape))
    return StoredTensor(shape, first.dtype, partial(_concatenated, parts, axis, order))


def _concatenated(parts: Sequence[Tensor], axis: int, order: int | None) -> Tensor:
    if order is None:
        return torch.cat(list(parts), axis)
    split = [part.reshape(*((3, -1) if order == 0 else (-1, 3)), *part.shape[1:]) for part in parts]
    return torch.cat([part if order == 0 else part.transpose(0, 1) for part in split], 1).flatten(0, 1)


def _settings(path: Path, arguments: object) -> Mapping[str, Any]:
    """The arguments of the training run, if they were saved.

    Raises:
        FormatError: they are those of another architecture.
    """
    settings = vars(arguments) if isinstance(arguments, SavedObject) else {}
    for name, value in _GPT2S.items():
        found = settings.get(name)
        if found != value and isinstance(found, str | int | float | bool | tuple):
            raise FormatError(f"{path} is no GPT-2: it was trained with {name} {found!a:.40}")
    return settings


def _config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments say that weights do not show, in config.json's fields."""
    config: dict[str, Any] = {}
    if type(heads := settings.get("num_attention_heads")) is int:
        config["n_head"] = heads
    if "bias_gelu_fusion" in settings or "openai_gelu" in settings:
        tanh = settings.get("bias_gelu_fusion") or settings.get("openai_gelu")
        config["activation_function"] = "gelu_new" if tanh else "gelu"
    for name in ("layernorm_epsilon", "norm_epsilon"):
        if isinstance(epsilon := settings.get(name), float):
            config["layer_norm_epsilon"] = epsilon
    return config
