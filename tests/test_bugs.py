"""The bugs of `tests.bugs` are bugs: each edit fits its file, the file still runs, and its logits are wrong.

Everything is float64 with perturbed weights, so a difference far above rounding is the bug's own.
"""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from tests.bugs import (
    Bug,
    development,
    fresh,
    held_out,
    later,
    more_styles,
    reserve,
    strangers_a,
    strangers_b,
    unread,
    unseen,
    untouched,
)
from tests.foreign import STYLES
from tests.perturbed import SIZES, perturbed

BUGS = development.BUGS + more_styles.BUGS + held_out.BUGS
SETS = (
    development,
    more_styles,
    held_out,
    fresh,
    unseen,
    untouched,
    reserve,
    later,
    strangers_a,
    strangers_b,
    unread,
)
LATER = (
    fresh.BUGS
    + unseen.BUGS
    + untouched.BUGS
    + reserve.BUGS
    + later.BUGS
    + strangers_a.BUGS
    + strangers_b.BUGS
    + unread.BUGS
)
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


def test_the_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS) >= 300
    assert len(held_out.SINGLE) == pytest.approx(len(development.SINGLE) / 2, abs=1)  # a third of all
    assert len({bug.style for bug in development.BUGS} & {bug.style for bug in held_out.BUGS}) >= 15
    assert min(Counter(bug.kind for bug in BUGS).values()) >= 3
    assert sum(bool(bug.parts) for bug in BUGS) >= 50


def test_the_fresh_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in fresh.BUGS}) == len(fresh.BUGS)
    assert len(fresh.SINGLE) == 90
    assert len({bug.style for bug in fresh.SINGLE}) >= 35  # all styles that there were when it was written
    assert Counter(len(bug.parts) for bug in fresh.COMBINED) == {2: 20, 3: 10}


def test_the_unseen_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in unseen.BUGS}) == len(unseen.BUGS)
    assert len(unseen.SINGLE) == 60
    assert len({bug.style for bug in unseen.SINGLE}) >= 36  # all styles that there were when it was written
    assert Counter(len(bug.parts) for bug in unseen.COMBINED) == {2: 15, 3: 5}


def test_the_untouched_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in untouched.BUGS}) == len(untouched.BUGS)
    assert len(untouched.SINGLE) == 60
    assert len({bug.style for bug in untouched.SINGLE}) >= 36  # all styles that there were when it was written
    assert Counter(len(bug.parts) for bug in untouched.COMBINED) == {2: 9, 3: 3}


def test_the_reserve_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in reserve.BUGS}) == len(reserve.BUGS)
    assert len(reserve.SINGLE) == 60
    assert len({bug.style for bug in reserve.SINGLE}) >= 36  # all styles that there were when it was written
    assert Counter(len(bug.parts) for bug in reserve.COMBINED) == {2: 10, 3: 2}


def test_the_later_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in later.BUGS}) == len(later.BUGS)
    assert len(later.SINGLE) == 40
    assert len({bug.style for bug in later.SINGLE}) >= 30
    assert Counter(len(bug.parts) for bug in later.COMBINED) == {2: 7, 3: 1}


def test_the_set_of_the_first_strangers_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in strangers_a.BUGS}) == len(strangers_a.BUGS)
    assert len(strangers_a.SINGLE) == 60
    assert len({bug.style for bug in strangers_a.SINGLE}) >= 32
    assert max(Counter(bug.style for bug in strangers_a.SINGLE).values()) <= 4
    assert Counter(len(bug.parts) for bug in strangers_a.COMBINED) == {2: 6}


def test_the_set_of_people_who_port_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in strangers_b.BUGS}) == len(strangers_b.BUGS)
    assert len(strangers_b.SINGLE) == 60
    assert len({bug.style for bug in strangers_b.SINGLE}) >= 32
    assert max(Counter(bug.style for bug in strangers_b.SINGLE).values()) <= 4
    assert Counter(len(bug.parts) for bug in strangers_b.COMBINED) == {2: 6}


def test_the_unread_set_is_as_large_as_it_claims() -> None:
    assert len({bug.id for bug in unread.BUGS}) == len(unread.BUGS)
    assert len(unread.SINGLE) == 80
    assert Counter(Counter(bug.style for bug in unread.SINGLE).values()) == {2: 28, 3: 8}  # all styles that there were
    assert Counter(len(bug.parts) for bug in unread.COMBINED) == {2: 11, 3: 4}


@pytest.mark.parametrize(
    ("bugs", "earlier"),
    [
        (fresh.BUGS, BUGS),
        (unseen.BUGS, BUGS + fresh.BUGS),
        (untouched.BUGS, BUGS + fresh.BUGS + unseen.BUGS),
        (reserve.BUGS, BUGS + fresh.BUGS + unseen.BUGS + untouched.BUGS),
        (later.BUGS, BUGS + fresh.BUGS + unseen.BUGS + untouched.BUGS + reserve.BUGS),
        (strangers_a.BUGS, BUGS + fresh.BUGS + unseen.BUGS + untouched.BUGS + reserve.BUGS + later.BUGS),
        (strangers_b.BUGS, BUGS + fresh.BUGS + unseen.BUGS + untouched.BUGS + reserve.BUGS + later.BUGS),
        (unread.BUGS, BUGS + fresh.BUGS + unseen.BUGS + untouched.BUGS + reserve.BUGS + later.BUGS),
    ],
    ids=["fresh", "unseen", "untouched", "reserve", "later", "strangers_a", "strangers_b", "unread"],
)
def test_a_later_set_repeats_no_bug_of_the_others(bugs: tuple[Bug, ...], earlier: tuple[Bug, ...]) -> None:
    known = {(bug.style, edit) for bug in earlier for edit in bug.edits}
    assert not {(bug.style, edit) for bug in bugs for edit in bug.edits} & known
    assert not {(bug.style, bug.source) for bug in bugs} & {(bug.style, bug.source) for bug in earlier}


def test_parts_of_a_later_combination_are_on_different_lines() -> None:
    single = {bug.id: bug for bug in LATER if not bug.parts}
    for bug in (bug for bug in LATER if bug.parts):
        assert len(bug.lines) == sum(len(single[f"{bug.style}/{part}"].lines) for part in bug.parts), bug.id


def test_no_combination_tells_of_a_bug_that_is_held_out() -> None:
    for bugs in SETS:
        single = {bug.id for bug in bugs.SINGLE}
        assert {f"{bug.style}/{part}" for bug in bugs.COMBINED for part in bug.parts} <= single


@pytest.mark.parametrize(
    "bugs",
    [bugs.BUGS for bugs in SETS],
    ids=[bugs.__name__.rpartition(".")[2] for bugs in SETS],
)
def test_every_edit_fits_its_file_and_names_a_line(bugs: tuple[Bug, ...]) -> None:
    for bug in bugs:
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
@pytest.mark.parametrize("bug", BUGS + LATER, ids=lambda bug: bug.id)
def test_every_bug_makes_wrong_logits(
    bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, expected: Tensor, tmp_path: Path
) -> None:
    check(bug, tensors, config, ids, expected, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [bug for bug in BUGS + LATER if bug.parts], ids=lambda bug: bug.id)
def test_every_part_of_a_combination_adds_to_it(
    bug: Bug, tensors: dict[str, Tensor], config: GPTConfig, ids: Tensor, tmp_path: Path
) -> None:
    together = logits(bug, tensors, config, ids, tmp_path / "together")
    single = {other.id: other for other in BUGS + LATER}
    for part in bug.parts:
        left = tuple(edit for edit in bug.edits if edit not in single[f"{bug.style}/{part}"].edits)
        rest = Bug(bug.style, "rest", bug.kind, bug.why, left)
        assert distance(logits(rest, tensors, config, ids, tmp_path / part), together) > WRONG, part
