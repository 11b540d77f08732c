"""A value is recognised by its numbers alone: in any order of axes, times any factor, one head or one prompt of it."""

import math

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.anatomy.entries import entries
from gpt2_from_scratch.anatomy.identity import EXACT, Table
from gpt2_from_scratch.config import ACTIVATIONS, GPTConfig
from tests.perturbed import perturbed

IDS = torch.randint(211, (2, 13), generator=torch.Generator().manual_seed(3))


def weights_of(**options: object) -> tuple[GPTConfig, dict[str, Tensor]]:
    reference = perturbed(n_layer=2, **options)  # type: ignore[arg-type]
    config = GPTConfig.from_hf(reference.config.to_dict())
    return config, {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items()}


@pytest.fixture(scope="module")
def table() -> Table:
    config, weights = weights_of()
    return Table(entries(config, weights, IDS), IDS)


def value(table: Table, key: str) -> Tensor:
    return table.by_key[key].value


@pytest.mark.parametrize(
    "options",
    [{}, {"scale_attn_by_inverse_layer_idx": True}, {"tie_word_embeddings": False}]
    + [{"activation_function": name} for name in sorted(ACTIVATIONS)],
    ids=str,
)
def test_the_last_entry_is_the_logits_of_the_plain_run(options: dict[str, object]):
    config, weights = weights_of(**options)
    last = entries(config, weights, IDS)[-1]
    assert last.key == "logits"
    torch.testing.assert_close(last.value, forward.logits(config, weights, IDS), rtol=1e-12, atol=1e-12)


def test_every_entry_is_recognised_as_itself_or_as_one_with_the_same_numbers(table: Table):
    for entry in table.entries:
        if entry.causal or entry.value.numel() < 8:
            continue
        found = table.identify(entry.value)
        assert found.known, entry.key
        assert found.entry is not None
        scaled = found.factor * found.entry.value
        torch.testing.assert_close(scaled.flatten().sort().values, entry.value.flatten().sort().values)


def test_four_numbers_are_enough_to_be_a_weight():
    """The smallest that counts: a match of fewer numbers says nothing."""
    config, weights = weights_of(n_embd=4, n_head=2)
    small = Table(entries(config, weights, IDS), IDS)
    found = small.identify(weights["ln_f.bias"].double())
    assert found.entry is not None and found.entry.key == "ln_f.bias"


@pytest.mark.parametrize("factor", [1.0, 0.25, -3.0])
def test_order_factor_and_slices_are_told(table: Table, factor: float):
    keys = value(table, "h.1.attn.k")  # (B, T, H, D)
    found = table.identify(factor * keys.permute(1, 2, 3, 0))
    assert (found.entry.key, found.order) == ("h.1.attn.k", "T H D B")
    assert math.isclose(found.factor, factor, rel_tol=1e-12)
    merged = table.identify(keys.flatten(2))
    assert merged.order == "B T HD"
    head = table.identify(keys[1, :, 2])
    assert dict(head.fixed) == {"B": 1, "H": 2}
    assert head.known


def test_numbers_in_an_order_that_no_permutation_gives_are_scrambled(table: Table):
    mixed = value(table, "h.0.attn.mixed")  # (B, H, T, D)
    found = table.identify(mixed.reshape(2, 13, 44))
    assert found.kind == "scrambled"
    assert not found.known


@pytest.mark.parametrize("change", [1e-7, 1e-9])
def test_a_small_difference_is_no_match(table: Table, change: float):
    numbers = value(table, "h.0.mlp.output").clone()
    numbers[0, 0, 0, 0] += change * numbers.abs().max()
    assert not table.identify(numbers).known


def test_float32_rounding_is_near_and_not_known(table: Table):
    found = table.identify(value(table, "h.0.mlp.output").float())
    assert found.kind == "entry"
    assert EXACT < found.error < 3e-7
    assert found.near


@pytest.mark.parametrize("fill", [-math.inf, -1e4, -1e9, torch.finfo(torch.float64).min])
def test_masked_scores_are_known_with_any_fill(table: Table, fill: float):
    scores = value(table, "h.0.attn.scores")
    hidden = torch.ones(13, 13, dtype=torch.bool).triu(1)
    assert table.identify(scores.masked_fill(hidden, fill)).entry.key == "h.0.attn.masked"
    assert not table.identify(scores.masked_fill(hidden, -10.0)).known
    assert table.identify(scores.masked_fill(hidden, 0.0)).entry.key == "h.0.attn.visible"
    assert not table.identify(scores.masked_fill(hidden.T, fill)).known


@pytest.mark.parametrize(
    ("constant", "kind"),
    [
        (torch.ones(13, 13).tril(), "mask"),
        (torch.ones(1, 1, 13, 13, dtype=torch.bool).triu(1), "mask"),
        (torch.full((13, 13), -math.inf).triu(1), "mask"),
        (torch.arange(13), "positions"),
        (IDS, "ids"),
        (torch.full((3, 3), 0.5), "uniform"),
        (torch.arange(12.0).view(3, 4).sin(), "unknown"),
        (torch.full((4,), math.nan), "not finite"),
    ],
    ids=str,
)
def test_constants_are_known_by_what_they_are(table: Table, constant: Tensor, kind: str):
    assert table.identify(constant).kind == kind


def test_a_moved_diagonal_is_told(table: Table):
    assert table.identify(torch.ones(13, 13).tril()).factor == 0
    assert table.identify(torch.ones(13, 13).tril(1)).factor == 1


def test_what_is_repeated_is_recognised(table: Table):
    places = value(table, "wpe").flatten(1)
    for repeated in (places.expand(2, -1, -1), places.repeat(2, 1, 1)):
        found = table.identify(repeated)
        assert found.entry.key == "wpe"
