"""Comparing two tensors: the statistics are right, NaN never passes, and nothing is no evidence."""

import math

import pytest
import torch

from gpt2_from_scratch.compare import FLOAT32_ULP, compare, gap, noise_floor


def test_statistics_against_direct_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(3, 5, 7, generator=generator)
    actual = expected + 1e-3 * torch.randn(3, 5, 7, generator=generator)
    actual[1, 4, 2] += 0.5
    result = compare(actual, expected)
    gap = (actual.double() - expected.double()).abs()
    assert result.max_abs == float(gap.max()) and result.at == (1, 4, 2)
    assert result.mean_abs == pytest.approx(float(gap.mean()), rel=1e-12)
    assert result.relative == pytest.approx(float(gap.norm() / expected.double().norm()), rel=1e-12)


def test_slabs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """More values than one slab holds (4,194,304), the largest difference in the last one."""
    expected = torch.zeros(3, 1_500_000)
    actual = expected.clone()
    actual[2, 1_499_999] = 2.0
    actual[0, 0] = 1.0
    result = compare(actual, expected)
    assert result.at == (2, 1_499_999) and result.max_abs == 2.0 and result.mean_abs == pytest.approx(3 / 4.5e6)
    assert result.relative == math.inf, "any difference from zero is infinitely large"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    expected = torch.zeros(2, 3)
    actual = expected.clone()
    actual[1, 2] = value
    result = compare(actual, expected)
    assert result.max_abs == math.inf and result.at == (1, 2) and str(result) == "not finite at [1, 2]"
    assert compare(actual, actual).max_abs == math.inf, "from itself, too"


def test_comparing_nothing_or_unlike_things_is_an_error() -> None:
    with pytest.raises(ValueError, match="prove nothing"):
        compare(torch.empty(0, 3), torch.empty(0, 3))
    with pytest.raises(ValueError, match=r"shapes \[2, 3\] and \[3, 2\]"):
        compare(torch.zeros(2, 3), torch.zeros(3, 2))


def test_low_precision_is_compared_exactly() -> None:
    """65504 + 1 does not exist in float16; the difference of two float16 numbers is taken in float64."""
    a, b = torch.tensor([60000.0], dtype=torch.float16), torch.tensor([-60000.0], dtype=torch.float16)
    assert compare(a, b).max_abs == 120000.0


def test_a_noise_floor_is_never_less_than_float32s_last_place_and_never_unknown() -> None:
    assert noise_floor([1e-6, 3e-6], scale=1.0) == 3e-6
    assert noise_floor([0.0], scale=8.0) == 8 * FLOAT32_ULP
    assert noise_floor([], scale=0.0) > 0  # what is divided by it stays a number
    assert noise_floor([1e-6, math.nan, 2e-6], scale=1.0) == math.inf


def test_a_gap_agrees_on_nan_only_where_there_are_numbers_too() -> None:
    nan, inf = math.nan, math.inf
    one = torch.tensor([nan, 1.0, 2.0])
    assert gap(one, torch.tensor([nan, 1.0, 2.5])) == 0.5
    assert gap(one, torch.tensor([0.0, 1.0, 2.0])) == inf
    assert gap(torch.tensor([nan]), torch.tensor([nan])) == inf
    assert gap(torch.tensor([inf, 1.0]), torch.tensor([1.0, 1.0])) == inf
