"""Records inputs and outputs of named modules during one forward pass, and leaves the model as it was.

The one idea: both sides of a module are kept. A module is at fault where its *inputs agree and its output does not*;
an output alone cannot tell a culprit from a victim. Copies are taken at once, so later in-place changes cannot reach
them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """What one module received and returned.

    Args:
        input: its first tensor argument, copied before the module ran.
        output: the first tensor it returned, copied.
        calls: how often it ran; only the first call is recorded.
    """

    input: Tensor
    output: Tensor
    calls: int = 1


def trace(module: nn.Module, names: Iterable[str], run: Callable[[], Any]) -> Mapping[str, Site]:
    """Runs `run` and records the named submodules of `module`, in the order in which they first finished.

    Args:
        module: the model.
        names: of submodules; those that the model does not have, or that do not run, are left out of the result.
        run: calls the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> [name for name in trace(model, ["1", "0"], lambda: model(torch.ones(1, 2)))]
        ['0', '1']
    """
    modules = dict(module.named_modules())
    recorder = _Recorder()
    with _hooked(recorder, {name: modules[name] for name in names if name in modules}), torch.inference_mode():
        run()
    return {name: Site(*both, calls=recorder.calls[name]) for name, both in recorder.sites.items()}


class _Recorder:
    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.sites: dict[str, tuple[Tensor, Tensor]] = {}
        self.calls: dict[str, int] = {}

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        tensor = _first_tensor((args, tuple(kwargs.values())))
        if self.calls[name] == 1 and tensor is not None:
            self.inputs[name] = tensor.detach().clone()

    def after(self, name: str, output: Any) -> None:
        tensor = _first_tensor(output)
        if name in self.inputs and name not in self.sites and tensor is not None:
            self.sites[name] = self.inputs[name], tensor.detach().clone()


@contextmanager
def _hooked(recorder: _Recorder, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    handles = []
    try:
        for name, module in modules.items():
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: recorder.before(name, args, kwargs), with_kwargs=True
                )
            )
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: recorder.after(name, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first one in a tuple, list or dict, however nested."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := _first_tensor(item)) is not None), None)
    return None
