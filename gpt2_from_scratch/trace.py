"""Records inputs and outputs of named modules during one forward pass, and leaves the model as it was.

Both sides of a module are kept. A module is at fault where its *inputs agree and its output does not*. An output alone
does not show whether the module is wrong or something before it. Copies are taken at once, so later in-place changes
do not reach them. Where one module has several names (shared weights), its first call is recorded under the first name
and its second under the next.

Attention probabilities are no module's output. Where asked for, they are taken from the softmax or the fused attention
that runs while an attention module does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Site:
    """What one module received and returned.

    Args:
        input: its first tensor argument, copied before the module ran.
        output: the first tensor it returned, copied.
        calls: how often it ran, divided by its names; only the first call under each name is recorded.
        probabilities: attention probabilities computed inside it, ``[B, H, T, S]``, where asked for and found.
    """

    input: Tensor
    output: Tensor
    calls: int = 1
    probabilities: Tensor | None = None


def trace(
    module: nn.Module, names: Iterable[str], run: Callable[[], Any], *, attention: Iterable[str] = ()
) -> Mapping[str, Site]:
    """Runs `run` and records the named submodules of `module`, in the order in which they first finished.

    Args:
        module: the model.
        names: of submodules; those that the model does not have, or that do not run, are left out of the result.
        run: calls the model.
        attention: those among `names` inside which attention probabilities are recorded, too.

    Returns:
        Name -> what this module received and returned.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> [name for name in trace(model, ["1", "0"], lambda: model(torch.ones(1, 2)))]
        ['0', '1']
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    shared: dict[nn.Module, list[str]] = {}
    for name in names:
        if name in modules:
            shared.setdefault(modules[name], []).append(name)
    recorder = _Recorder(shared, frozenset(attention))
    with _hooked(recorder), _Attention(recorder), torch.inference_mode():
        run()
    return recorder.sites()


class _Recorder:
    """Keeps what each call of each module received and returned."""

    def __init__(self, names: Mapping[nn.Module, Sequence[str]], attention: frozenset[str]) -> None:
        self.names = names
        self.attention = attention
        self.calls: dict[nn.Module, int] = {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.probabilities: dict[str, list[Tensor]] = {}
        self.running: list[str | None] = []  # the names of the modules that have begun and not finished

    def sites(self) -> Mapping[str, Site]:
        owner = {name: module for module, names in self.names.items() for name in names}
        return {
            name: Site(self.inputs[name], output, self._calls(owner[name]), self._heads(name))
            for name, output in self.outputs.items()
        }

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        call = self.calls.get(module, 0)
        self.calls[module] = call + 1
        name = self.names[module][call] if call < len(self.names[module]) else None
        self.running.append(name)
        tensor = _first_tensor((args, tuple(kwargs.values())))
        if name is not None and tensor is not None:
            self.inputs[name] = tensor.detach().clone()

    def after(self, output: Any) -> None:
        name = self.running.pop()
        tensor = _first_tensor(output)
        if name is not None and name in self.inputs and tensor is not None:
            self.outputs[name] = tensor.detach().clone()

    def computed(self, probabilities: Callable[[], Tensor]) -> None:
        """Keeps the result of a softmax or of fused attention, if an attention module is running."""
        inside = next((name for name in reversed(self.running) if name in self.attention), None)
        if inside is not None:
            self.probabilities.setdefault(inside, []).append(probabilities())

    def _calls(self, module: nn.Module) -> int:
        return -(-self.calls[module] // len(self.names[module]))

    def _heads(self, name: str) -> Tensor | None:
        """The probabilities of all heads, which code that runs head by head computes one after another."""
        found = self.probabilities.get(name)
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        return torch.stack(found, dim=-3) if all(heads.shape == found[0].shape for heads in found) else None


@contextmanager
def _hooked(recorder: _Recorder) -> Iterator[None]:
    handles = []
    try:
        for module in recorder.names:
            handles.append(module.register_forward_pre_hook(recorder.before, with_kwargs=True))
            handles.append(module.register_forward_hook(lambda _, __, output: recorder.after(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Attention(TorchFunctionMode):
    """Sees every call of softmax and of fused attention."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (torch.softmax, F.softmax, Tensor.softmax):
            self.recorder.computed(lambda: output.detach().clone())
        elif func is F.scaled_dot_product_attention:
            self.recorder.computed(lambda: _probabilities(*args, **(kwargs or {})))
        return output


def _probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """The probabilities that fused attention does not return, by the formula in its documentation."""
    scores = query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1)


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first one in a tuple, list or dict, however nested."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := _first_tensor(item)) is not None), None)
    return None
