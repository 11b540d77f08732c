"""A trace keeps both sides of each module, as they were when it ran, and leaves no trace in the model."""

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch.trace import trace


class Careless(nn.Module):
    """Calls one layer twice, changes an output in place, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        y = self.first(x)
        y += 1  # in place: what the hook saw must not change
        return {"out": self.second(self.second(y)) * scale}


def test_both_sides_are_copies_from_the_first_call() -> None:
    model, x = Careless(), torch.randn(2, 3)
    sites = trace(model, ["second", "first", "idle", "absent"], lambda: model(x, scale=torch.ones(1)))
    assert list(sites) == ["first", "second"], "execution order; what did not run is left out"
    with torch.inference_mode():
        first = model.first(x)
        assert torch.equal(sites["first"].output, first)
        assert torch.equal(sites["second"].input, first + 1)
        assert torch.equal(sites["second"].output, model.second(first + 1))
    assert sites["first"].calls == 1 and sites["second"].calls == 2


def test_keyword_arguments_and_nested_outputs_are_seen() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Careless()

        def forward(self, x: Tensor) -> tuple[None, list[Tensor]]:
            return None, [self.inner(x=x, scale=torch.full((1,), 2.0))["out"]]

    model, x = Wrapper(), torch.randn(2, 3)
    sites = trace(model, ["", "inner"], lambda: model(x))
    assert torch.equal(sites["inner"].input, x)
    assert torch.equal(sites[""].output, sites["inner"].output)


def test_no_hook_stays_behind_even_after_a_crash() -> None:
    model = Careless()
    with pytest.raises(ZeroDivisionError):
        trace(model, ["first", "second"], lambda: 1 / 0)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
