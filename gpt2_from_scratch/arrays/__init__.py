"""The arrays that a plain function computes with, as the parameters of a module.

People write GPT-2 as functions over dictionaries and lists of numpy or torch arrays. Such a function has no module, but
the arrays can be found: in its closure, its defaults, the globals that it reads, and the object that it belongs to.
`arrays_of` makes a module of them. Its parameters share their memory with the arrays, so what is written into the
module is what the function computes with.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy
from torch import Tensor, nn

from gpt2_from_scratch.arrays.finding import Found, found_in, is_users, slots
from gpt2_from_scratch.errors import MappingError


class Arrays(nn.Module):
    """A function, with the arrays that it computes with as parameters.

    Calling it calls the function. Numpy's operations on the arrays are then computed by torch, so that a tracer sees
    them, and in the precision that torch computes in.

    Args:
        function: from ids to logits.
        found: its arrays, by name.
        tensors: for each numpy array, by its id, a tensor with the same memory.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        found: Mapping[str, Found],
        tensors: Mapping[int, Tensor],
    ) -> None:
        super().__init__()
        self.name = getattr(function, "__name__", type(function).__name__)
        self.function = (function,)  # in a tuple: if it is an object with modules in it, they are no part of this one
        self.where = _listed(found)
        self._numpy = tensors
        for name, each in found.items():
            owner: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                owner = owner._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
            owner._parameters[last] = nn.Parameter(each.tensor.detach(), requires_grad=False)

        # The signature is the function's, for those who ask what it takes beside the ids.
        @functools.wraps(function)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(*args, **kwargs)

        self.forward = forward

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        (function,) = self.function
        if not self._numpy:
            return function(*args, **kwargs)
        # Imported here: numpy's functions over tensors, which torch code does not need.
        from gpt2_from_scratch.arrays.followed import following, unwrapped

        with following(function, is_users, self._numpy):
            return unwrapped(function(*args, **kwargs))


def arrays_of(function: Callable[..., Any]) -> Arrays | None:
    """The arrays that a function computes with.

    An array counts if its numbers are floating-point and it has an axis; a mask (two different values, or infinities,
    along two axes or more) does not. Of arrays that share memory the largest counts.

    Args:
        function: a function, a method, a partial one, or an object that can be called.

    Returns:
        A module, whose parameters share memory with the arrays; None if there are no arrays.

    Raises:
        MappingError: an array cannot be written to.

    Example:
        >>> import torch
        >>> weights = {"w": torch.ones(2, 3)}
        >>> found = arrays_of(lambda x: x @ weights["w"])
        >>> [name for name, _ in found.named_parameters()]
        ['w']
        >>> _ = found.load_state_dict({"w": torch.zeros(2, 3)})
        >>> weights["w"].sum().item()
        0.0
    """
    found, tensors = found_in(list(slots(function)))
    for name, each in found.items():
        if isinstance(each.array, numpy.ndarray) and not numpy.shares_memory(each.array, each.tensor.numpy()):
            raise MappingError(
                f"the array {name} ({each.variable} {each.where}) is read-only, so no weights can be written into it",
                hint="make a copy of it where your code makes it: np.array(x)",
            )
    return Arrays(function, found, tensors) if found else None


def _listed(found: Mapping[str, Found]) -> str:
    """Where the arrays are, in words."""
    places: dict[str, dict[str, None]] = {}
    for each in found.values():
        places.setdefault(each.where, {})[each.variable] = None
    return "; ".join(f"{', '.join(names)} {where}" for where, names in places.items())


def module_of(model: Callable[..., Any]) -> nn.Module | None:
    """A module as it is; of anything else the module of its arrays, or None if it has none."""
    return model if isinstance(model, nn.Module) else arrays_of(model)


def name_of(module: nn.Module) -> str:
    """What to call it: its class, or the function whose arrays it has."""
    return module.name if isinstance(module, Arrays) else type(module).__name__


__all__ = ["Arrays", "arrays_of", "module_of", "name_of"]
