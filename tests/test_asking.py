"""A model is asked in the way that it takes, and its logits are found in what it returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch.asking import Way, find_way, logits_in, ways
from gpt2_from_scratch.config import GPTConfig
from tests.foreign import STYLES

CONFIG = GPTConfig(vocab_size=31, n_positions=13, n_embd=24, n_layer=2, n_head=3)
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = CONFIG.tensor_shapes().items()
    return {name: 0.3 * torch.randn(shape, generator=generator) + ("ln_" in name) for name, shape in shapes}


def way_of(model: Any) -> Way:
    return find_way(model, model, CONFIG.vocab_size, CONFIG.n_positions, torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if not style.fixed and not style.functions])
def test_every_style_is_asked_as_its_author_asks_it(name: str):
    style = STYLES[name]
    model = style.load(weights(), CONFIG)
    way = way_of(model)
    found = way.logits(way.ask(IDS), tuple(IDS.shape))
    torch.testing.assert_close(found, style.logits(model, IDS))


EXPECTED = {
    "sequence_first": "it is called with ids [tokens, batch]",
    "hparams": "it is called with {'input_ids': ids}",
    "needs_targets": "it is called with what it demands beside the ids, targets: the ids",
    "nanogpt": "",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_unusual_is_said(name: str):
    way = way_of(STYLES[name].load(weights(), CONFIG))
    assert way.about == EXPECTED[name]


LOGITS = torch.randn(2, 5, 31)


class Output:
    logits = LOGITS


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        LOGITS.numpy(),
        (LOGITS, torch.tensor(1.5)),
        (torch.tensor(1.5), LOGITS),
        (None, LOGITS),
        (torch.randn(2, 5), LOGITS, [torch.randn(2, 3, 5, 8)]),
        {"logits": LOGITS, "loss": None},
        {"loss": torch.tensor(1.5), "scores": LOGITS},
        Output(),
        LOGITS.view(10, 31),
        [LOGITS],
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found(output: object):
    found = logits_in(output, (2, 5))
    assert found is not None
    assert torch.equal(found, LOGITS)


@pytest.mark.parametrize("output", [None, "text", {}, (), {"loss": None}, (IDS,)])
def test_where_there_are_none_none_are_found(output: object):
    assert logits_in(output, (2, 5)) is None


def test_arguments_are_filled_by_their_names():
    def model(ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *, use_cache: bool, past: None, device: Any):
        assert torch.equal(attention_mask, torch.ones_like(ids))
        assert torch.equal(position_ids, torch.arange(5).expand(2, 5))
        assert (use_cache, past, device) == (False, None, torch.device("cpu"))
        return LOGITS

    way = next(ways(model))
    assert way.about == (
        "it is called with what it demands beside the ids, attention_mask: a mask of ones, "
        "position_ids: 0, 1, 2, ..., use_cache: False, past: None, device: where its parameters are"
    )
    assert torch.equal(way.ask(IDS), LOGITS)


@dataclass
class Answer:
    loss: Tensor
    scores: Tensor


def test_a_dataclass_is_searched_like_a_dictionary():
    assert logits_in(Answer(torch.zeros(()), LOGITS), (2, 5)) is LOGITS
    assert logits_in(Answer(torch.zeros(()), torch.zeros(7)), (2, 5)) is None


def test_what_nobody_knows_is_not_made_up():
    assert next(ways(lambda ids, temperature: ids)).about == ""


def test_functions_are_asked_with_numpy_arrays_last():
    *_, arrays, rows, _, _ = ways(lambda ids: np.zeros((*ids.shape, 31)))
    assert arrays.about == "it is called with numpy arrays"
    assert type(arrays.ask(IDS)) is np.ndarray
    assert rows.about == "it is called with numpy arrays, one row of ids at a time"
    assert rows.ask(IDS).shape == (*IDS.shape, 31)


@pytest.mark.parametrize("one_row", [False, True])
def test_a_function_that_takes_lists_is_given_lists(one_row: bool):
    table = torch.randn(31, 31, generator=torch.Generator().manual_seed(0))

    def logits(ids: Any) -> Any:
        if not isinstance(ids, list) or isinstance(ids[0], list) is one_row:
            raise TypeError
        return table[torch.tensor(ids)]

    way = way_of(logits)
    assert way.about.startswith("it is called with lists of ids")
    assert torch.equal(way.logits(way.ask(IDS), tuple(IDS.shape)), table[IDS])


@pytest.mark.parametrize("arrays", [False, True])
def test_a_function_of_one_sequence_is_asked_row_by_row(arrays: bool):
    table = torch.randn(31, 31, generator=torch.Generator().manual_seed(0))
    places = torch.randn(9, 31, generator=torch.Generator().manual_seed(1))

    def logits(ids: Any) -> Any:
        rows = table[ids] + places[: len(ids)] if ids.ndim == 1 else None
        return rows.numpy() if arrays and isinstance(ids, np.ndarray) else None if arrays else rows

    way = way_of(logits)
    assert way.about.endswith("one row of ids at a time")
    assert torch.equal(way.logits(way.ask(IDS), tuple(IDS.shape)), table[IDS] + places[: IDS.shape[1]])


class Mixing(nn.Module):
    """Right with one row; with several, the first row's logits are the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(31, 31)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(0, keepdim=True).expand(len(ids), -1, -1)


def test_a_model_that_mixes_rows_is_asked_in_the_usual_way():
    """Its batch is wrong in every way to ask, and the self-tests will say so."""
    assert way_of(Mixing()).about == ""


def test_what_is_random_or_fails_is_asked_in_the_usual_way():
    assert way_of(lambda ids: torch.randn(*ids.shape, 31)).about == ""
    assert way_of(lambda ids: 1 / 0).about == ""


def test_logits_of_the_last_position_only_are_asked_for_again_with_targets():
    def model(ids: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = torch.eye(31)[ids]
        return logits if labels is not None else logits[:, -1:]

    way = way_of(model)
    assert way.about == "the ids are also given as labels: without, it did not give logits at every position"
    assert way.ask(IDS).shape == (2, 5, 31)
