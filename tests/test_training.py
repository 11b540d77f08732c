"""Training mode: right code passes, and what only training shows is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch import GPTModel, load_into, verify
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.selftests import SelfTest
from gpt2_from_scratch.checks.training import check_training
from gpt2_from_scratch.loading import open_checkpoint
from tests.foreign import nanogpt
from tests.modules import STYLES
from tests.remembering import Remembering

RATE = 0.1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.perturbed import perturbed, save

    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), RATE)
    return save(perturbed(n_inner=None, n_layer=2, n_positions=90, **rates), tmp_path_factory.mktemp("training"))


def asked(checkpoint: Path, style: str = "nanogpt", change: Callable[[Any], None] = lambda model: None) -> Any:
    config = open_checkpoint(checkpoint).config
    model = STYLES[style](config)
    if isinstance(model, nanogpt.GPT):  # built without dropout
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = RATE
            elif isinstance(module, nanogpt.CausalSelfAttention):
                module.dropout = RATE
    assert load_into(model, checkpoint, STYLES[style].layout)
    change(model)
    candidate = Candidate(model, config)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with candidate.evaluating():
        tests = check_training(candidate)
        assert not any(module.training for module in model.modules())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    return tests


def failed(tests: tuple[SelfTest, ...]) -> list[str]:
    return [test.name for test in tests if not test]


@pytest.mark.parametrize("style", ["ours", "transformers", "book", "nanogpt"])
def test_right_code_trains_as_it_evaluates(style: str, checkpoint: Path) -> None:
    tests = asked(checkpoint, style)
    told = ["tie"] if style == "book" else []  # its head is a copy, which its weights say, too
    assert not failed(tests) and [test.name for test in tests if not test.agrees] == told, list(map(str, tests))
    assert [test.name for test in tests] == ["training", "dropout", "slopes", "tie"]


def test_code_without_dropout_is_told_and_not_failed(checkpoint: Path) -> None:
    def without(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nanogpt.CausalSelfAttention):
                module.dropout = 0.0

    tests = asked(checkpoint, change=without)
    assert not failed(tests) and [test.name for test in tests if not test.agrees] == ["dropout"]


def no_mask_in_training(model: nanogpt.GPT) -> None:
    class Open(nanogpt.CausalSelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if not self.training else super().forward(x.flip(1)).flip(1)

    for block in model.transformer.h:
        block.attn.__class__ = Open


def another_rate(model: nanogpt.GPT) -> None:
    model.transformer.h[1].mlp.dropout.p = 0.5


def another_place(model: nanogpt.GPT) -> None:
    mlp = model.transformer.h[1].mlp
    mlp.gelu = nn.Sequential(mlp.gelu, nn.Dropout(RATE))


def no_dropout_of_the_embeddings(model: nanogpt.GPT) -> None:
    model.transformer.drop.p = 0.0


def no_dropout_of_the_probabilities(model: nanogpt.GPT) -> None:
    for block in model.transformer.h:
        block.attn.dropout = 0.0


def one_shortcut_without(model: nanogpt.GPT) -> None:
    model.transformer.h[1].attn.resid_dropout.p = 0.0


def dropout_in_eval(model: nanogpt.GPT) -> None:
    forward = model.transformer.h[0].mlp.forward
    model.transformer.h[0].mlp.forward = lambda x: F.dropout(forward(x), RATE)


def cut_off_beyond_64(model: nanogpt.GPT) -> None:
    mlp = model.transformer.h[0].mlp
    forward = mlp.forward

    def cut(x: Tensor) -> Tensor:
        y = forward(x)
        return torch.cat([y[:, :64], y[:, 64:].detach()], dim=1)

    mlp.forward = cut


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (no_mask_in_training, "training"),
        (another_rate, "dropout"),
        (another_place, "dropout"),
        (no_dropout_of_the_embeddings, "dropout"),
        (no_dropout_of_the_probabilities, "dropout"),
        (one_shortcut_without, "dropout"),
        (dropout_in_eval, "dropout"),
        (cut_off_beyond_64, "slopes"),
    ],
)
def test_what_only_training_shows(change: Any, name: str, checkpoint: Path) -> None:
    assert failed(asked(checkpoint, change=change)) == [name]


def test_rates_of_different_places_are_not_exchanged(tmp_path: Path) -> None:
    """The embeddings at the rate of the streams, and the other way round, where the checkpoint's differ."""
    from tests.perturbed import perturbed, save

    rates = {"embd_pdrop": 0.2, "attn_pdrop": 0.1, "resid_pdrop": 0.3}
    path = save(perturbed(n_inner=None, n_layer=2, n_positions=90, **rates), tmp_path)
    assert not failed(asked(path, "ours"))

    def exchanged(model: GPTModel) -> None:
        model.drop.p, model.h[0].attn.resid_dropout.p = 0.3, 0.2

    (test,) = [test for test in asked(path, "ours", exchanged) if not test]
    assert "it drops the embeddings at 0.3, the stream at 0.2; the checkpoint says embeddings 0.2" in str(test)
    nothing = save(perturbed(n_inner=None, n_layer=2, n_positions=90, **dict.fromkeys(rates, 0.0)), tmp_path / "none")
    assert all(test.agrees for test in asked(nothing, "ours")), "nothing to drop is right"


def test_dropout_by_hand_is_not_checked(checkpoint: Path) -> None:
    def by_hand(model: nanogpt.GPT) -> None:
        def drop(x: Tensor) -> Tensor:
            return x * (torch.rand_like(x) > RATE) / (1 - RATE) if model.training else x

        model.transformer.drop.forward = drop

    tests = asked(checkpoint, change=by_hand)
    assert all(test.difference is None for test in tests)
    assert "its dropout is not PyTorch's" in str(tests[0])


def test_a_head_that_is_a_copy_is_told(checkpoint: Path) -> None:
    def copied(model: nanogpt.GPT) -> None:
        model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())

    (test,) = [test for test in asked(checkpoint, change=copied) if not test.agrees]
    assert test.name == "tie" and "lm_head.weight is a copy of transformer.wte.weight" in str(test)


def test_verify_says_whether_it_looked(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = GPTModel.from_pretrained(book_checkpoint)
    skip = ("logits", "generation")
    assert (
        verify(model, book_checkpoint, skip=skip, reference=book_reference).unchecked["training mode"]
        == "not asked for (--train)"
    )
    verdict = verify(model, book_checkpoint, skip=skip, train=True, reference=book_reference)
    assert verdict and "training mode" not in verdict.unchecked and "slopes" in str(verdict.self_tests)
