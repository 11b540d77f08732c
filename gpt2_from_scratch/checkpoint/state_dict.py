"""What people save around a state dict, and what a training script says there about its model.

The one idea: a file is taken at its word where its words are known. A dictionary of tensors is looked for under the
names that training scripts use, a wrapper's prefix is taken off only where the file says whose checkpoint it is, and
the shapes of the tensors have the last word.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor

from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.errors import FormatError

_KEYS = ("model", "model_state_dict", "state_dict")  # nanoGPT and build-nanogpt; the book; Lightning and many more
# What `torch.compile` and DistributedDataParallel put before every name.
_WRAPPERS = ("module._orig_mod.", "_orig_mod.module.", "_orig_mod.", "module.")

# nanoGPT's and build-nanogpt's settings -> config.json's; `bias` shows in the tensors.
_SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
}
# The two that are changed after the settings were made: by `crop_block_size`, and by hand.
_RESIZED = {"vocab_size": "transformer.wte.weight", "block_size": "transformer.wpe.weight"}


class SavedObject:
    """Stands in for an object of somebody's own class: the attributes that were saved, and none of its code."""

    def __init__(self, *arguments: object) -> None:
        """Takes whatever the class would have been called with."""

    def __new__(cls, *arguments: object) -> "SavedObject":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # a class with slots has two parts
            if isinstance(part, dict):
                self.__dict__ |= {str(name): value for name, value in part.items()}


@dataclass(frozen=True)
class Found:
    """A state dict and what was said about it.

    Args:
        tensors: name -> tensor.
        about: which program's checkpoint it is, or "".
        layout: the layout that this program dictates, or None where the names decide.
        config: what is said of the model, in config.json's fields, or None.
        notes: remarks for people.
    """

    tensors: Mapping[str, Tensor]
    about: str = ""
    layout: str | None = None
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def find(content: object, where: str) -> Found:
    """Takes the state dict out of whatever was saved.

    Args:
        content: the unpickled object.
        where: what to call it in an error.

    Raises:
        FormatError: there is none, or its settings are malformed.

    Example:
        >>> import torch
        >>> found = find({"model": {"transformer.wte.weight": torch.zeros(65, 8)}, "iter_num": 2000}, "ckpt.pt")
        >>> list(found.tensors), found.notes
        (['transformer.wte.weight'], ('left out: iter_num',))
    """
    if _is_state_dict(content):
        return Found(content)
    if not isinstance(content, dict):
        raise FormatError(f"{where} holds a {type(content).__name__}, not a state dict")
    key = next((key for key in _KEYS if _is_state_dict(content.get(key))), None)
    if key is None:
        raise FormatError(f"{where} holds no state dict, but {_outline(content)}", hint=_what_it_is(content))
    others = sorted(str(other) for other in content if other != key)
    notes = (f"left out: {', '.join(others)[:200]}",) if others else ()
    arguments, config = content.get("model_args"), content.get("config")
    if arguments is None and isinstance(config, SavedObject | OrderedDict):
        arguments = vars(config) | (config if isinstance(config, OrderedDict) else {})
    if not isinstance(arguments, dict) or not arguments.keys() >= _SIZES.keys():
        return Found(content[key], notes=notes)
    return _trained(content[key], arguments, notes, where)


def _trained(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], notes: tuple[str, ...], where: str) -> Found:
    """A checkpoint of nanoGPT's family, which names its settings all alike."""
    prefix = next((prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)), "")
    if prefix:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes = (*notes, f"the wrapper's prefix {prefix!r} taken off every name")
    config: dict[str, Any] = {}
    for theirs, ours in _SIZES.items():
        value = arguments[theirs]
        if type(value) is not int:
            raise FormatError(f"{where}: {theirs} is a {type(value).__name__}, not a number of anything")
        table = tensors.get(_RESIZED.get(theirs, ""))
        if table is not None and table.dim() == 2 and len(table) != value:
            notes = (*notes, f"{theirs} is {value} in the settings, and {len(table)} in the tensors, which count")
            value = len(table)
        config[ours] = value
    if "bias" in arguments or "dropout" in arguments:
        dropout = arguments.get("dropout", 0.0)
        config |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
        return Found(tensors, "nanoGPT checkpoint", "nanogpt", config, notes)
    # build-nanogpt, which has no such setting, computes GPT-2 as it was.
    return Found(tensors, "build-nanogpt checkpoint", "nanogpt", gpt2_config(**config), notes)


def _is_state_dict(value: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether this is a dictionary of named tensors."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _outline(content: Mapping[object, object]) -> str:
    parts = [f"{str(key)[:40]} ({type(value).__name__})" for key, value in content.items()]
    return ", ".join(parts[:8]) + (f" and {len(parts) - 8:,} more" if len(parts) > 8 else "") if parts else "nothing"


def _what_it_is(content: Mapping[object, object]) -> str:
    model = content.get("model")
    if isinstance(model, dict) and "language_model" in model:
        return "this is Megatron-LM's nested form: convert it with transformers' script for Megatron GPT-2"
    if "param_groups" in content:
        return "this is the state of an optimizer: the weights are in another file"
    return "a state dict is expected at the top, or under " + ", ".join(_KEYS)
