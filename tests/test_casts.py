"""Right code with an ordinary cast inside passes, and wrong code with the same cast fails and is named.

Every style that a layout describes, with every cast of `tests.casts`, on perturbed checkpoints. By default a thin
slice; ``-m slow`` runs all of it on nine checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn import functional as F

from gpt2_from_scratch import load_into, verify
from gpt2_from_scratch.compare import EXACT_THRESHOLD
from gpt2_from_scratch.diagnose import Diagnosis
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.testing import perturbed_checkpoint
from gpt2_from_scratch.verifier import Verdict
from tests.casts import CASTS, Cast, cast
from tests.modules import STYLES
from tests.remembering import Remembering

ALL_CASTS = {"no cast": nullcontext, **CASTS}
SEEDS = range(9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("casts")
    checkpoint.cache_clear()


@cache
def checkpoint(folder: Path, seed: int) -> tuple[Path, Remembering]:
    path = perturbed_checkpoint(folder / str(seed), seed=seed)
    return path, Remembering(load_reference(open_checkpoint(path)))


def norms(model: nn.Module) -> list[Any]:
    found = [module for module in model.modules() if hasattr(module, "eps")]
    assert len(found) == 2 * 12 + 1
    return found


def epsilon(model: nn.Module) -> None:
    for norm in norms(model):
        norm.eps = 1e-6


def epsilon_of_the_last_norm(model: nn.Module) -> None:
    """The mildest fault of all: 0.06 noise floors, which float32's rounding hides."""
    norms(model)[-1].eps = 1e-6


def erf(model: nn.Module) -> None:
    activations = [module for module in model.modules() if "GELU" in type(module).__name__]
    assert len(activations) == 12
    for module in activations:
        module.forward = F.gelu


WRONG: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "erf GELU": (erf, "gelu_erf"),
    "epsilon 1e-6": (epsilon, "ln_eps"),
    "epsilon 1e-6 in the last norm": (epsilon_of_the_last_norm, "ln_eps"),
}


def judged(
    style: str, change: Cast, given: tuple[Path, Remembering], wrong: Callable[[nn.Module], None] | None = None
) -> Verdict:
    path, reference = given
    model = STYLES[style](reference.config)
    assert load_into(model, path, STYLES[style].layout)
    if wrong is not None:
        wrong(model)
    return verify(
        cast(model, change),
        path,
        STYLES[style].layout,
        reference=reference,
        gradients=wrong is None,
        skip=("self-tests", "generation"),
        diagnose_seconds=0 if wrong is None else 600,  # enough on a busy machine, too
    )


def assert_passed(verdict: Verdict) -> None:
    assert verdict, verdict.report(verbose=True)
    logits = verdict.logits
    assert logits is not None
    assert logits.max_abs == 0 or (logits.exact is not None and logits.exact)
    if logits.exact is not None and not logits.exact.constants:
        assert logits.exact.threshold == EXACT_THRESHOLD and logits.exact.multiple < EXACT_THRESHOLD / 100


def assert_named(verdict: Verdict, fault: str) -> None:
    assert not verdict and verdict.logits is not None and not verdict.logits
    assert isinstance(verdict.diagnosis, Diagnosis) and verdict.diagnosis, verdict.report(verbose=True)
    assert [finding.name for finding in verdict.diagnosis.faults] == [fault], str(verdict.diagnosis)


@pytest.mark.parametrize("name", ALL_CASTS)
@pytest.mark.parametrize("style", ["book", pytest.param("nanogpt", marks=pytest.mark.slow)])
def test_right_code_with_a_cast_passes(style: str, name: str, folder: Path) -> None:
    assert_passed(judged(style, ALL_CASTS[name], checkpoint(folder, 0)))


# By default the mildest one.
@pytest.mark.parametrize(
    "wrong", [pytest.param(wrong, marks=() if "last norm" in wrong else pytest.mark.slow) for wrong in WRONG]
)
@pytest.mark.parametrize("name", ["softmax(x.float())", pytest.param("autocast on", marks=pytest.mark.slow)])
def test_wrong_code_with_a_cast_is_named(name: str, wrong: str, folder: Path) -> None:
    change, fault = WRONG[wrong]
    assert_named(judged("mingpt", ALL_CASTS[name], checkpoint(folder, 0), change), fault)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_CASTS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_right_code_with_any_cast_passes_on_all_weights(seed: int, style: str, name: str, folder: Path) -> None:
    assert_passed(judged(style, ALL_CASTS[name], checkpoint(folder, seed)))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ALL_CASTS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_code_with_any_cast_is_named_on_all_weights(
    seed: int, style: str, name: str, wrong: str, folder: Path
) -> None:
    change, fault = WRONG[wrong]
    verdict = judged(style, ALL_CASTS[name], checkpoint(folder, seed), change)
    if wrong == "epsilon 1e-6 in the last norm" and name == "float32 constants":  # as small as what constants may do
        return
    assert_named(verdict, fault)
