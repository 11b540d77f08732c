"""The bugs of `tests.bugs` are bugs: each edit fits its file, the file still runs, and its logits are wrong.

Everything is float64 with perturbed weights, so a difference far above rounding is the bug's own.
"""

from collections import Counter
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from tests import bugs
from tests.bugs import Bug
from tests.foreign import STYLES
from tests.perturbed import SIZES, perturbed

SETS = {name: import_module(f"tests.bugs.{name}") for name in bugs.SETS}
BUGS: tuple[Bug, ...] = tuple(bug for each in SETS.values() for bug in each.BUGS)
EARLY = ("development", "more_styles", "held_out")  # one list; parts of a combination may be on one line
TOGETHER = ("strangers_a", "strangers_b", "unread")  # written at one time by three people

# Relative to the largest logit. Right code was measured at 2e-15, the smallest bug at 5e-5.
WRONG = 1e-9


@pytest.fixture(scope="module")
def config() -> GPTConfig:
    return GPTConfig.from_hf(perturbed(n_inner=None).config.to_dict())


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return dict(perturbed(n_inner=None).double().transformer.named_parameters())


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """Shorter than the context, because some bugs crash at the end of it (`Bug.short`)."""
    return torch.randint(SIZES["vocab_size"], (2, 31), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor) -> Tensor:
    style = STYLES["book"]
    return style.logits(style.load(tensors, config), ids)


def logits(bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, folder: Path) -> Tensor:
    return STYLES[bug.style].logits(bug.load(tensors, config, folder), ids)


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference by largest logit; NaN is infinitely wrong."""
    return ((found - expected).abs().nan_to_num(nan=torch.inf).max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", SETS)
def test_a_set_names_its_bugs_and_combines_its_own(name: str) -> None:
    single = {bug.id: bug for bug in SETS[name].SINGLE}
    assert len({bug.id for bug in SETS[name].BUGS}) == len(SETS[name].BUGS)
    for bug in SETS[name].BUGS:
        parts = [single[f"{bug.style}/{part}"] for part in bug.parts]
        assert name in EARLY or not parts or len(bug.lines) == sum(len(part.lines) for part in parts), bug.id


def test_all_styles_have_bugs_of_all_kinds() -> None:
    assert len(SETS["held_out"].SINGLE) == pytest.approx(len(SETS["development"].SINGLE) / 2, abs=1)  # a third of all
    for name in ("fresh", "unseen", "untouched", "reserve", "unread", "natural"):
        assert len({bug.style for bug in SETS[name].SINGLE}) >= 35, name
        assert len(SETS[name].SINGLE) >= 60, name
    assert min(Counter(bug.kind for name in EARLY for bug in SETS[name].BUGS).values()) >= 3
    assert sum(bool(bug.parts) for bug in BUGS) >= 150


def test_a_later_set_repeats_no_bug_of_the_others() -> None:
    edits, sources = set[object](), set[object]()
    for name, each in SETS.items():
        new_edits = {(bug.style, edit) for bug in each.BUGS for edit in bug.edits}
        new_sources = {(bug.style, bug.source) for bug in each.BUGS}
        if name not in (*EARLY, "choices", "natural"):
            assert not new_sources & sources, name
            assert not new_edits & edits, name
        if name not in TOGETHER:
            edits |= new_edits
            sources |= new_sources


@pytest.mark.parametrize("name", SETS)
def test_every_edit_fits_its_file_and_names_a_line(name: str) -> None:
    for bug in SETS[name].BUGS:
        compile(bug.source, bug.id, "exec")
        assert bug.lines, bug.id
        assert bug.why.endswith("."), bug.id


def check(bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, expected: Tensor, folder: Path) -> None:
    model = bug.load(tensors, config, folder)
    found = STYLES[bug.style].logits(model, ids)
    assert found.shape == expected.shape
    assert found.dtype == torch.float64
    assert distance(found, expected) > WRONG
    whole_context = torch.zeros(1, config.n_positions, dtype=torch.int64)
    with pytest.raises((IndexError, RuntimeError, ValueError)) if bug.short else nullcontext():
        STYLES[bug.style].logits(model, whole_context)


@pytest.mark.parametrize("bug", BUGS[::12], ids=lambda bug: bug.id)
def test_some_bugs_make_wrong_logits(
    bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, expected: Tensor, tmp_path: Path
) -> None:
    check(bug, tensors, config, ids, expected, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.id)
def test_every_bug_makes_wrong_logits(
    bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, expected: Tensor, tmp_path: Path
) -> None:
    check(bug, tensors, config, ids, expected, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.parts], ids=lambda bug: bug.id)
def test_every_part_of_a_combination_adds_to_it(
    bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, tmp_path: Path
) -> None:
    together = logits(bug, tensors, config, ids, tmp_path / "together")
    single = {other.id: other for each in SETS.values() if bug in each.BUGS for other in each.SINGLE}
    for part in bug.parts:
        left = tuple(edit for edit in bug.edits if edit not in single[f"{bug.style}/{part}"].edits)
        rest = Bug(bug.style, "rest", bug.kind, bug.why, left)
        assert distance(logits(rest, tensors, config, ids, tmp_path / part), together) > WRONG, part
