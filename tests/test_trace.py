"""A trace keeps both sides of each module, as they were when it ran, and leaves no trace in the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch.diagnose.divergence import batch_first
from gpt2_from_scratch.trace import Site, trace


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


# -------------------------------------------------------------------------------------------- attention probabilities


class Attending(nn.Module):
    """A module in which attention is computed in a way given to it."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.after = nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.after(self.attend(q, k, v))


def attending(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Site, tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))  # B, H, T, D
    model = nn.Sequential(Attending(attend))
    return trace(model, ["0"], lambda: model[0](q, k, v), attention=["0"])["0"], (q, k, v)


def causal(scores: Tensor) -> Tensor:
    return scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)


VISIBLE = torch.ones(5, 5, dtype=torch.bool).tril()
SDPA = F.scaled_dot_product_attention
WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "method": lambda q, k, v: causal(q @ k.mT / 2).softmax(-1) @ v,
    "torch": lambda q, k, v: torch.softmax(causal(q @ k.mT / 2), dim=-1) @ v,
    "functional": lambda q, k, v: F.softmax(causal(q @ k.mT / 2), dim=-1) @ v,
    "module": lambda q, k, v: nn.Softmax(-1)(causal(q @ k.mT / 2)) @ v,
    "fused, causal": lambda q, k, v: SDPA(q, k, v, is_causal=True),
    "fused, boolean mask": lambda q, k, v: SDPA(q, k, v, attn_mask=VISIBLE),
    "fused, float mask": lambda q, k, v: SDPA(q, k, v, torch.zeros(5, 5).masked_fill(~VISIBLE, -torch.inf)),
    "fused, scaled": lambda q, k, v: SDPA(q * 4, k, v, is_causal=True, scale=0.125),
    "head by head": lambda q, k, v: torch.stack(
        [causal(q[:, h] @ k[:, h].mT / 2).softmax(-1) @ v[:, h] for h in range(3)], dim=1
    ),
    "head by head, fused": lambda q, k, v: torch.cat(
        [SDPA(q[:, h : h + 1], k[:, h : h + 1], v[:, h : h + 1], is_causal=True) for h in range(3)], dim=1
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_attention_probabilities_are_found(way: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    site, (q, k, v) = attending(way)
    assert site.probabilities is not None
    probabilities = site.probabilities.reshape(2, 3, 5, 5)
    torch.testing.assert_close(probabilities, causal(q @ k.mT / 2).softmax(-1))
    torch.testing.assert_close(probabilities @ v, site.output)


def test_heads_without_a_batch_are_stacked_first() -> None:
    def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([(q[0, h] @ k[0, h].mT).softmax(-1) @ v[0, h] for h in range(3)])

    site, (q, k, _) = attending(heads)
    assert site.probabilities is not None
    torch.testing.assert_close(site.probabilities, (q[0] @ k[0].mT).softmax(-1))


def test_scores_that_keys_outnumber() -> None:
    """The causal mask of fused attention begins at the first key, wrong for a cached step; it is shown as it is."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 2, 4, generator=generator), torch.randn(1, 1, 5, 4, generator=generator)
    model = nn.Sequential(Attending(lambda q, k, v: SDPA(q, k, v, is_causal=True)))
    site = trace(model, ["0"], lambda: model[0](q, k, k), attention=["0"])["0"]
    assert site.probabilities is not None
    torch.testing.assert_close(site.probabilities @ k, site.output)


def test_only_attention_is_asked_for_probabilities() -> None:
    way = WAYS["method"]
    model = nn.Sequential(Attending(way))
    q = torch.ones(2, 3, 5, 4)
    assert trace(model, ["0"], lambda: model[0](q, q, q))["0"].probabilities is None
    inside = trace(model, ["0", "0.after"], lambda: model[0](q, q, q).softmax(-1), attention=["0", "0.after"])
    assert inside["0"].probabilities is not None and inside["0"].probabilities.shape == (2, 3, 5, 5)
    assert inside["0.after"].probabilities is None, "a softmax that runs after the module is none of its"


def test_probabilities_are_copies_and_no_mode_stays_behind() -> None:
    site, (q, k, _) = attending(lambda q, k, v: causal(q @ k.mT / 2).softmax(-1).mul_(2) @ v)
    torch.testing.assert_close(site.probabilities, causal(q @ k.mT / 2).softmax(-1))
    assert not torch.overrides._get_current_function_mode_stack()


# ---------------------------------------------------------------------------------------------------- shared modules


def test_calls_of_a_shared_module_belong_to_its_names_in_order() -> None:
    shared = nn.Linear(3, 3)
    model, x = nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh(), shared), torch.randn(2, 3)
    sites = trace(model, ["0", "2", "4"], lambda: model(x))
    assert list(sites) == ["0", "2", "4"]
    with torch.inference_mode():
        for end in (0, 2, 4):
            torch.testing.assert_close(sites[str(end)].input, model[:end](x))
            torch.testing.assert_close(sites[str(end)].output, model[: end + 1](x))
    assert {site.calls for site in sites.values()} == {1}


def test_what_is_inside_a_shared_block_is_told_apart_too() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model, x = nn.Sequential(block, block), torch.randn(2, 3)
    sites = trace(model, ["0.0", "0", "1.0", "1"], lambda: model(x))
    with torch.inference_mode():
        assert torch.equal(sites["0.0"].output, block[0](x))
        assert torch.equal(sites["1.0"].input, block(x))
        assert torch.equal(sites["1"].output, model(x))


def test_more_calls_than_names_are_counted() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared)
    x = torch.randn(2, 3)
    sites = trace(model, ["0", "1"], lambda: [model(x), model(x)])
    assert sites["0"].calls == sites["1"].calls == 2
    only = trace(model, ["0"], lambda: model(x))
    assert only["0"].calls == 2 and torch.equal(only["0"].input, x), "under one name, the first call counts"


def test_only_an_output_of_three_axes_has_its_rows_put_first() -> None:
    positions_first = torch.randn(5, 2, 3)
    assert torch.equal(batch_first(positions_first, (2, 5, 3)), positions_first.transpose(0, 1))
    assert torch.equal(batch_first(positions_first, (5, 2, 3)), positions_first)
    flat = positions_first.flatten()
    assert torch.equal(batch_first(flat, (2, 5, 3)), flat)


def test_an_input_that_is_changed_in_place_is_kept_as_it_was() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    model, x = nn.Sequential(InPlace(), InPlace()), torch.zeros(2)
    sites = trace(model, ["0", "1"], lambda: model(x))
    assert [float(sites[name].input[0]) for name in "01"] == [0, 1]
    assert [float(sites[name].output[0]) for name in "01"] == [1, 2]
