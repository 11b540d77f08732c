"""Finds the state dict in what was saved, and the settings that a known training script saved beside it.

The state dict may be the whole content of the file, or lie under any key. The settings of nanoGPT and build-nanogpt are
read too: sizes, heads, dropout. Where a size there differs from the tensors', the tensors' is used.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2_from_scratch.checkpoint.other_settings import NANOGPT
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.errors import FormatError

# Where training scripts keep their weights. One under another key is taken, too, if it is the only one.
_KEYS = ("model", "model_state_dict", "state_dict")  # nanoGPT and build-nanogpt; the book; Lightning and many more

# Two sizes are changed after the settings were made: by `crop_block_size`, and by hand. (`bias` shows in the tensors.)
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
class FoundStateDict:
    """A state dict, and what the file around it says about the model.

    Args:
        tensors: name -> tensor.
        about: which program's checkpoint it is, or "".
        layout: the name of this program's layout, or None where the tensors' names decide.
        config: the program's settings, in config.json's fields, or None.
        notes: remarks for people.
    """

    tensors: Mapping[str, Tensor]
    about: str = ""
    layout: str | None = None
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def find(content: object, where: str, key: str = "") -> FoundStateDict:
    """Takes the state dict out of whatever was saved.

    Args:
        content: the unpickled object.
        where: what to call it in an error.
        key: which state dict, of several; a path such as ``"ema.module"`` leads to one further inside.

    Returns:
        The state dict, with the settings of its program where they are known.

    Raises:
        FormatError: there is none, there are several and no key, or its settings are malformed.

    Example:
        >>> import torch
        >>> found = find({"model": {"transformer.wte.weight": torch.zeros(65, 8)}, "iter_num": 2000}, "ckpt.pt")
        >>> list(found.tensors), found.notes
        (['transformer.wte.weight'], ('left out: iter_num',))
    """
    if isinstance(content, list | tuple) and any(isinstance(each, dict) for each in content):
        content = {str(index): value for index, value in enumerate(content)}  # [model.state_dict(), 3]
    if isinstance(content, SavedObject):
        content = vars(content)
    if not isinstance(content, dict):
        raise FormatError(
            f"{where} holds a {type(content).__name__}, not a state dict",
            hint="save the weights by their names: torch.save(model.state_dict(), ...)",
        )
    if not key and (tensors := _tensors(content)) is not None:
        return FoundStateDict(tensors, notes=_left_out(content.keys() - tensors.keys()))
    found: dict[str, dict[str, Tensor]] = {}
    for most_keys in range(2, _MOST_KEYS + 1):  # what lies deeper counts if nothing lies higher
        found = found or dict(_state_dicts(content, most_keys))
    if not found:
        raise FormatError(f"{where} holds no state dict, but {_outline(content)}", hint=_what_it_is(content))
    chosen = _chosen(found, key, where)
    place = None if chosen in _KEYS else f"the state dict is under {chosen!r}"
    told, settings = _settings(content)
    notes = (*filter(None, [place]), *_left_out(content.keys() - {chosen.partition(".")[0], told}))
    if settings is None:
        return FoundStateDict(found[chosen], notes=notes)
    return _trained(found[chosen], settings, notes, where)


def _state_dicts(
    content: Mapping[object, object], most_keys: int, path: str = "", above: tuple[object, ...] = ()
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts with a matrix in them, under any key or a key inside it; those of optimizers have none.

    Args:
        content: of the file, or of a part of it.
        most_keys: how many keys may lead to one.
        path: the keys that lead to it.
        above: what it lies in; an object may hold itself.
    """
    for key, value in content.items():
        value = vars(value) if isinstance(value, SavedObject) else value
        if not isinstance(key, str) or not isinstance(value, dict) or any(value is each for each in (content, *above)):
            continue
        tensors = _tensors(value)
        if tensors is not None and any(tensor.dim() > 1 for tensor in tensors.values()):
            yield f"{path}{key}", tensors
        elif len(above) + 1 < most_keys:
            yield from _state_dicts(value, most_keys, f"{path}{key}.", (content, *above))


_MOST_KEYS = 5  # one inside another, as in `trainer.state.model.module`


def _chosen(found: Mapping[str, Mapping[str, Tensor]], key: str, where: str) -> str:
    """The key of the state dict to take: the user's, or that of the only one.

    Raises:
        FormatError: there is none under the user's key, or there are several and no key.
    """
    if key in found:
        return key
    first = max(found, key=lambda name: len(found[name]))  # an example only
    listed = ", ".join(f"{name} ({len(tensors)} tensors)" for name, tensors in list(found.items())[:8])
    if key:
        raise FormatError(f"{where} has no state dict {key!r}; it has {listed}", options={"key": first})
    if len(found) > 1 and len(found[first]) == 1:
        raise FormatError(
            f"{where} holds dictionaries inside one another, and no state dict: {listed}",
            hint="save model.state_dict(), where each name is the whole path to a tensor, joined by dots",
        )
    if len(found) > 1:
        why = "say which one is meant, such as"
        raise FormatError(f"{where} holds several state dicts: {listed}", why, options={"key": first})
    return first


def _settings(content: Mapping[object, object]) -> tuple[str, dict[str, Any] | None]:
    """The settings of nanoGPT's family, which are a dictionary or an object, behind their key; None: there are none."""
    key, settings, config = "model_args", content.get("model_args"), content.get("config")
    if settings is None and isinstance(config, SavedObject | OrderedDict):
        key, settings = "config", vars(config) | (config if isinstance(config, OrderedDict) else {})
    if isinstance(settings, dict) and settings.keys() >= NANOGPT.keys():
        return key, settings
    return "", None


def _trained(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], notes: tuple[str, ...], where: str
) -> FoundStateDict:
    """A checkpoint of nanoGPT's family, which names its settings all alike."""
    config: dict[str, Any] = {}
    for theirs, ours in NANOGPT.items():
        value = arguments[theirs]
        if type(value) is not int:
            raise FormatError(f"{where}: {theirs} is a {type(value).__name__}, not a number of anything")
        resized = _RESIZED.get(theirs)
        table = next((each for name, each in tensors.items() if resized and name.endswith(resized)), None)
        if table is not None and table.dim() == 2 and len(table) != value:
            notes = (*notes, f"{theirs} is {value} in the settings, and {len(table)} in the tensors: that is taken")
            value = len(table)
        config[ours] = value
    if "bias" in arguments or "dropout" in arguments:
        dropout = arguments.get("dropout", 0.0)
        config |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
        return FoundStateDict(tensors, "nanoGPT checkpoint", "nanogpt", config, notes)
    # build-nanogpt, which has no such setting, computes GPT-2 as it was.
    return FoundStateDict(tensors, "build-nanogpt checkpoint", "nanogpt", gpt2_config(**config), notes)


def _tensors(value: object) -> dict[str, Tensor] | None:
    """The named tensors of a state dict, which may hold numbers and texts beside them; None if it is none."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    tensors = {name: each for name, each in value.items() if isinstance(each, Tensor)}
    plain = all(each is None or isinstance(each, Tensor | int | float | str) for each in value.values())
    return tensors if plain and 2 * len(tensors) > len(value) else None


def _left_out(names: Iterable[object]) -> tuple[str, ...]:
    """A note about what is beside the state dict, if there is anything."""
    others = sorted(map(str, names))
    return (f"left out: {', '.join(others)[:200]}",) if others else ()


def _outline(content: Mapping[object, object]) -> str:
    kinds = (
        (key, "object" if isinstance(value, SavedObject) else type(value).__name__) for key, value in content.items()
    )
    parts = [f"{str(key)[:40]} ({kind})" for key, kind in kinds]
    return ", ".join(parts[:8]) + (f" and {len(parts) - 8:,} more" if len(parts) > 8 else "") if parts else "nothing"


def _what_it_is(content: Mapping[object, object]) -> str:
    model = content.get("model")
    if isinstance(model, dict) and "language_model" in model:
        return "this is Megatron-LM's nested form: call the file model_optim_rng.pt, as Megatron-LM does"
    if "param_groups" in content:
        return "this is the state of an optimizer: the weights are in another file"
    return "a state dict is expected at the top, or under a key such as " + ", ".join(_KEYS)
