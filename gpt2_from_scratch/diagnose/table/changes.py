"""The few ways in which a row of the table changes the model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gpt2_from_scratch.diagnose.fault import Change, Place

# Every tensor of a block, by its path; what a mistake in loading layers moves.
BLOCK = tuple(
    f"h.*.{module}.{end}"
    for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for end in ("weight", "bias")
)
NORMS = ("h.*.ln_1", "h.*.ln_2", "ln_f")


def everywhere(paths: tuple[str, ...], end: str, change: Change) -> dict[str, Change]:
    """The same change at the attribute `end` of several modules."""
    return {f"{path}.{end}": change for path in paths}


def edited(edit: Callable[[Any], Any]) -> Change:
    """A function of the value that is there."""
    return lambda place: edit(place.value)


def formula(function: Callable[..., Tensor]) -> Change:
    """Another function in the place of a method."""
    return lambda place: function


def given_module(function: Callable[..., Tensor]) -> Change:
    """Another function in the place of a method; the module is its first argument, as in the method."""
    return lambda place: lambda *args: function(place.owner, *args)


def around(function: Callable[[Callable[..., Tensor], Any], Tensor]) -> Change:
    """Something done before or after a method; the method is the first argument."""
    return lambda place: lambda x: function(place.value, x)


def taken_from(path: str) -> Change:
    """What stands at another path; ``*`` is the same layer."""
    return lambda place: place.at(path)


def from_layer(source: Callable[[int, int], int]) -> dict[str, Change]:
    """Each layer's tensors are those of layer ``source(layer, number of layers)``."""

    def taken(path: str) -> Change:
        def change(place: Place) -> Any:
            assert place.layer is not None
            return place.at(path.replace("*", str(source(place.layer, place.model.config.n_layer))))

        return change

    return {path: taken(path) for path in BLOCK}


def zeroed(*paths: str) -> dict[str, Change]:
    """Tensors that are zero."""
    return dict.fromkeys(paths, edited(lambda tensor: tensor * 0))
