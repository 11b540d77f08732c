"""Grading: three checks as people publish them, and our own, each asked about every fault of the table.

The oracle is foreign code: the same checks are put to the book's model with the same faults in it, made by the bug zoo,
and must let the same ones pass.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2_from_scratch.diagnose.grade import Grade, grade
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from gpt2_from_scratch.testing import assert_matches_gpt2
from tests.foreign import book
from tests.modules import book_config
from tests.mutants import MUTANTS, Mutant
from tests.perturbed import perturbed, save

Check = Callable[[nn.Module], Any]


def greedy(model: nn.Module, ids: Tensor, count: int) -> Tensor:
    for _ in range(count):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def mingpt_style(path: Path) -> Check:
    """minGPT's: one prompt, `torch.allclose` of all logits, then the same greedy tokens."""
    reference = GPT2LMHeadModel.from_pretrained(path).eval()
    ids = torch.randint(reference.config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def check(model: nn.Module) -> None:
        assert torch.allclose(model(ids), reference(ids).logits, rtol=1e-5, atol=1e-3)
        assert torch.equal(greedy(model, ids, 5), greedy(lambda x: reference(x).logits, ids, 5))  # type: ignore[arg-type]

    return check


def litgpt_style(path: Path) -> Check:
    """litgpt's: a few ids, `torch.testing.assert_close` with its usual 1e-2 for both tolerances."""
    reference = GPT2LMHeadModel.from_pretrained(path).eval()
    ids = torch.tensor([[9, 8, 7, 6, 5]])

    @torch.no_grad()
    def check(model: nn.Module) -> None:
        torch.testing.assert_close(model(ids), reference(ids).logits, rtol=1e-2, atol=1e-2)

    return check


def book_style(path: Path) -> Check:
    """The book's: four ids of a prompt, continued greedily, must give the ids that are printed in the book."""
    reference = GPT2LMHeadModel.from_pretrained(path).eval()
    prompt = torch.tensor([[15, 11, 31, 13]])
    with torch.no_grad():
        expected = greedy(lambda x: reference(x).logits, prompt, 6)  # type: ignore[arg-type]

    @torch.no_grad()
    def check(model: nn.Module) -> bool:
        return torch.equal(greedy(model, prompt, 6), expected)

    return check


STYLES = {"minGPT": mingpt_style, "litgpt": litgpt_style, "book": book_style}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights that such tests run on: fresh from the initialisation, and with every parameter perturbed."""
    folder = tmp_path_factory.mktemp("graded")
    torch.manual_seed(123)
    fresh = GPT2LMHeadModel(GPT2Config(vocab_size=211, n_positions=37, n_embd=44, n_layer=2, n_head=4)).eval()
    return {
        "fresh": save(fresh, folder / "fresh"),
        "perturbed": save(perturbed(n_inner=None, n_layer=2), folder / "perturbed"),
    }


@pytest.fixture(scope="module")
def grades(fixtures: dict[str, Path]) -> dict[tuple[str, str], Grade]:
    return {
        (style, weights): grade(check(path), path)
        for style, check in STYLES.items()
        for weights, path in fixtures.items()
    }


def lets_pass(check: Check, model: nn.Module) -> bool:
    try:
        return check(model) is not False
    except Exception:  # a mutant may fail in any way
        return False


def mutated(path: Path, mutant: Mutant) -> nn.Module:
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    tensors = mutant.checkpoint(tensors, checkpoint.config.n_head)
    model = book.GPTModel(book_config(checkpoint.config))
    reads = write_theirs(LAYOUTS["llms_from_scratch"][0], checkpoint.config, tensors.__getitem__)
    model.load_state_dict({name: read() for name, read in reads.items()}, strict=False)
    mutant.in_book(model.eval())
    return model


# The zoo and the table make these with other numbers, or draw them.
_DRAWN = {"lm_head_random", "lm_head_bias", "dropout_on"}


@pytest.mark.slow  # the grades of three checks on two kinds of weights take ten seconds
@pytest.mark.parametrize("weights", ["fresh", "perturbed"])
@pytest.mark.parametrize("style", STYLES)
def test_what_is_missed_is_missed_in_foreign_code_too(
    style: str, weights: str, grades: dict[tuple[str, str], Grade], fixtures: dict[str, Path]
) -> None:
    result = grades[style, weights]
    check = STYLES[style](fixtures[weights])
    let_pass = {missed.name for missed in result.missed} | set(result.invisible)
    asked = [mutant for mutant in MUTANTS if mutant.name in FAULT and mutant.name not in _DRAWN]
    asked = [mutant for mutant in asked if mutant.name in (*result.caught, *let_pass)]
    assert len(asked) > 40
    with torch.random.fork_rng():
        passed = {mutant.name for mutant in asked if lets_pass(check, mutated(fixtures[weights], mutant))}
    assert passed == let_pass & {mutant.name for mutant in asked}


@pytest.mark.slow  # the grades of three checks on two kinds of weights take ten seconds
def test_what_each_style_misses(grades: dict[tuple[str, str], Grade]) -> None:
    """Facts that follow from what the checks compare, and on what."""

    def missed(style: str, weights: str) -> set[str]:
        return {each.name for each in grades[style, weights].missed}

    # Tokens do not show what moves logits by a thousandth; 1e-2 does not either.
    assert {"gelu_erf", "ln_unbiased"} <= missed("book", "perturbed")
    assert "gelu_erf" in missed("litgpt", "fresh")
    # Biases of 0 and gains of 1 hide what happens to them from everybody.
    hidden = {"qkv_bias_dropped", "cproj_bias_dropped", "ln1_ln2_swapped", "ln_bias_dropped", "ln_not_loaded"}
    assert hidden <= set(grades["minGPT", "fresh"].invisible)
    assert not hidden & set(grades["minGPT", "perturbed"].invisible)
    # The finer the check and the fuller the weights, the less is missed.
    scores = {key: len(result.caught) for key, result in grades.items()}
    for style in STYLES:
        assert scores[style, "fresh"] < scores[style, "perturbed"]
    for weights in ("fresh", "perturbed"):
        assert scores["book", weights] <= scores["litgpt", weights] <= scores["minGPT", weights]


@pytest.mark.slow  # the grades of three checks on two kinds of weights take ten seconds
def test_advice(grades: dict[tuple[str, str], Grade]) -> None:
    assert "compare logits, not the tokens chosen" in " ".join(grades["book", "perturbed"].advice) or any(
        each.top1 < 1 for each in grades["book", "perturbed"].missed
    )
    assert "every parameter is perturbed" not in " ".join(grades["minGPT", "perturbed"].advice)
    for result in grades.values():
        assert result.advice and result.report().splitlines()[-1] == str(result)


def test_one_token_shows_nothing_between_tokens(fixtures: dict[str, Path]) -> None:
    reference = GPT2LMHeadModel.from_pretrained(fixtures["perturbed"]).eval()

    @torch.no_grad()
    def check(model: nn.Module) -> None:
        ids = torch.tensor([[7]])
        torch.testing.assert_close(model(ids), reference(ids).logits, rtol=0, atol=1e-4)

    between = [FAULT[name] for name in ("qk_swapped", "no_scale", "mask_missing", "wrong_n_head", "gelu_erf")]
    result = grade(check, fixtures["perturbed"], faults=between)
    assert [*result.caught] == ["gelu_erf"] and len(result.missed) == 4
    assert any("prompts of more than one token" in text for text in result.advice)


def test_a_check_that_rejects_right_code_gets_no_grade(fixtures: dict[str, Path]) -> None:
    def check(model: nn.Module) -> None:
        raise AssertionError("never")

    with pytest.raises(CandidateError, match="rejects the right model: AssertionError: never"):
        grade(check, fixtures["fresh"])


async def awaited(model: nn.Module) -> bool:
    return False


def yielding(model: nn.Module) -> Iterator[bool]:
    yield False


ANSWERS: dict[str, tuple[Any, str]] = {
    "a tensor": (lambda model: torch.tensor(False), r"rejects the right model: it returned tensor\(False\)"),
    "numpy's": (lambda model: np.False_, "rejects the right model: it returned np.False_"),
    "a number": (lambda model: 0, "rejects the right model: it returned 0"),
    "a script's": (lambda model: sys.exit(1), "rejects the right model: SystemExit: 1"),
    "a tuple": (lambda model: (False, "too far"), "the check returned a tuple, which is neither yes nor no"),
    "a coroutine": (awaited, "the check returned a coroutine, which is neither"),
    "a generator": (yielding, "the check returned a generator, which is neither"),
}


@pytest.mark.parametrize(("check", "says"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_asked_for_its_truth(check: Check, says: str) -> None:
    with pytest.raises(CandidateError, match=says):
        grade(check)


@pytest.mark.slow
def test_our_own_check_misses_only_what_nobody_can_see(fixtures: dict[str, Path]) -> None:
    """With weights in view, not even that."""
    path = fixtures["perturbed"]
    result = grade(lambda model: assert_matches_gpt2(lambda ids: model(ids), path, diagnose_seconds=0), path)
    assert not result.missed and set(result.invisible) <= {"key_bias_dropped"}, result.report()
    assert len(result.caught) + len(result.invisible) >= len(FAULTS) - 2  # lexicographic order needs eleven layers
    result = grade(lambda model: assert_matches_gpt2(model, path, "gpt2_from_scratch", diagnose_seconds=0), path)
    assert not result.missed and not result.invisible, result.report()
