"""The distance between two tensors, the noise floor that it is judged by, and how both are written.

A difference means nothing by itself. It is judged in multiples of a *noise floor*: how far the reference is from
itself when only its rounding changes. `check_logits` measures it on the prompts of the run, and every multiple in a
verdict is one of it, in the diagnosis, too. Two other quantities have a rounding of their own, by the same rule:
gradients, and the simulation of a faulty model, which may amplify rounding; a hypothesis has to hold within that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# ------------------------------------------------------------------------------------------------------ tolerances

# Logits pass within this many noise floors. Measured on 124M shapes at 1,024 tokens: correct third-party code in three
# styles lies at 0 to 1.2 noise floors; the mildest faults of the catalogue (erf GELU, epsilon 1e-6) lie at 9 to 93.
# The threshold is 3.3 times the largest of the former and 2.3 times below the smallest of the latter.
THRESHOLD = 4.0

# Up to here a torch module's own float64 run decides, whatever its precision: without rounding, correct code and wrong
# code are far apart. Beyond, no correct code was ever measured.
NEAR = 30.0

# A long prompt is run in float64 only from here, because that costs two forward passes of the full context. Correct
# code lies at 0 to 1.2 noise floors.
WORTH_A_LONG_RUN = 2.0

# Where the float64 run is float64 throughout, a module passes within this share of a float32 noise floor. Float64
# rounds 2^29 times finer than float32, so correct code lies at 1e-9 to 1e-8 (measured on 200 pairs of code and
# checkpoint); the mildest fault, epsilon 1e-6 in the final norm alone, at 0.06.
EXACT_THRESHOLD = 1e-5

# An explanation of a fault is run in float64, too. It must leave less than this share of the difference, and less than
# `EXPLAINED` noise floors: what is left may come from a fitted value that is not the exact one.
EXPLAINED_SHARE = 1e-2
EXPLAINED = 0.1

# A site agrees within this relative error. Float32 code that is correct differs from the reference by 1e-7 to 3e-6 per
# site, growing with depth; the mildest fault at its own site (erf GELU, epsilon) by 1e-4.
SITE_RTOL = 2e-5

# The same where both sides are run in float64 throughout: correct code differs by 1e-16 to 1e-14 per site. Where the
# candidate keeps constants in float32, how far they move each site is measured and added.
EXACT_SITE_RTOL = 1e-11

# Two runs of one model that should agree do so within this share of its largest logit. No noise floor is measured for
# them: rounding moves the logits of a 12-layer model by 10 units in the last place (float32: 1e-6, bfloat16: 0.03), and
# the faults that these tests look for move them by a third of the largest logit or more.
SELF_RTOL = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# A noise floor never counts as less than this share of the logits' scale: one unit in the last place of float32. A
# reference that happens to agree with itself exactly (a one-layer toy) would otherwise allow nothing.
FLOAT32_ULP = 2.0**-23

# A noise floor beyond this share of the logits' scale is refused, as nearly everything would be within it. The largest
# that was measured is bfloat16's, at 0.02.
USABLE = 0.25

# A tensor's gradient is measured against its own size, or this share of the largest gradient where it is smaller: the
# gradient of a key's bias is zero by mathematics, and what is computed for it is rounding.
GRADIENT_SHARE = 1e-3

# The loss of a prompt agrees within this relative error. It is a mean over tokens and follows from logits that have a
# finer test of their own; float32 code that is correct differs by 1e-7 to 2e-6. A loss that is scaled, shifted by a
# token or summed is off by a tenth at least.
LOSS_RTOL = 1e-4


# ----------------------------------------------------------------------------------------- how numbers are written


def scientific(value: float) -> str:
    """A number with two digits, as short as it goes: the one format in sentences, tables and pictures.

    Example:
        >>> scientific(1.53e-5), scientific(0.0), scientific(0.25), scientific(99.7), scientific(float("inf"))
        ('1.5e-5', '0', '0.25', '1e2', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 99.5:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def times(value: float) -> str:
    """A multiple of the noise floor, as a number.

    Example:
        >>> times(0.937), times(516.94), times(703129.0), times(1e-5)
        ('0.937', '517', '7e5', '1e-5')
    """
    if not math.isfinite(value):
        return "not finite"
    if value >= 1e5 or 0 < value < 1e-3:
        return scientific(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share of one.

    Example:
        >>> percent(1.0), percent(0.99962)
        ('100 %', '99.96 %')
    """
    return f"{100 * share:.4g} %"


# ------------------------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Comparison:
    """How two tensors of one shape differ.

    Args:
        max_abs: largest absolute difference; infinite when a value is not finite.
        mean_abs: mean absolute difference.
        relative: L2 norm of the difference over L2 norm of the expected tensor.
        at: index of the largest difference.
    """

    max_abs: float
    mean_abs: float
    relative: float
    at: tuple[int, ...]

    def __str__(self) -> str:
        if not math.isfinite(self.max_abs):
            return f"not finite at {list(self.at)}"
        if self.max_abs == 0:
            return "identical"
        mean, relative = scientific(self.mean_abs), scientific(self.relative)
        return f"max {scientific(self.max_abs)} at {list(self.at)}, mean {mean}, relative {relative}"


def compare(actual: Tensor, expected: Tensor) -> Comparison:
    """Compares two tensors value by value, in float64, a slab at a time.

    Args:
        actual: any shape and floating dtype.
        expected: the same shape.

    Raises:
        ValueError: shapes differ, or there is nothing to compare.

    Example:
        >>> print(compare(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])))
        max 0.5 at [1], mean 0.25, relative 0.22
    """
    if actual.shape != expected.shape:
        raise ValueError(f"cannot compare shapes {list(actual.shape)} and {list(expected.shape)}")
    if actual.numel() == 0:
        raise ValueError("cannot compare tensors without a value: that would prove nothing")
    flat_actual, flat_expected = actual.detach().reshape(-1), expected.detach().reshape(-1)
    largest, where, total, squares, norm = -1.0, 0, 0.0, 0.0, 0.0
    slab = 1 << 22  # 4 M values: 32 MB of float64 at a time, whatever the size of the logits
    for start in range(0, flat_actual.numel(), slab):
        wanted = flat_expected[start : start + slab].double()
        gap = (flat_actual[start : start + slab].double() - wanted).abs()
        if not bool(torch.isfinite(gap).all()):
            first = start + int((~torch.isfinite(gap)).nonzero()[0])
            return Comparison(math.inf, math.inf, math.inf, _index(first, actual.shape))
        peak = int(gap.argmax())
        if float(gap[peak]) > largest:
            largest, where = float(gap[peak]), start + peak
        total += float(gap.sum())
        squares += float(gap.square().sum())
        norm += float(wanted.square().sum())
    relative = math.sqrt(squares / norm) if norm > 0 else (0.0 if squares == 0 else math.inf)
    return Comparison(largest, total / flat_actual.numel(), relative, _index(where, actual.shape))


def gap(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; where both are NaN they agree, as a fault and its simulation may both give NaN.

    Infinite if one of them alone is not finite, and if both are nothing but NaN: that proves nothing.
    """
    known = ~(actual.isnan() & expected.isnan())
    difference = (actual.double() - expected.double()).abs()[known]
    if difference.numel() == 0:
        return math.inf
    largest = float(difference.max())
    return largest if math.isfinite(largest) else math.inf


def noise_floor(distances: Iterable[float], scale: float) -> float:
    """The largest distance that rounding makes, and at least `FLOAT32_ULP` of the scale.

    Args:
        distances: between computations that differ in their rounding only. A NaN among them makes the floor infinite.
        scale: the largest of the numbers that were computed; 1 for relative distances.

    Example:
        >>> noise_floor([2e-6, 3e-6], scale=10.0), noise_floor([0.0], scale=0.5) == 2.0**-24
        (3e-06, True)
    """
    least = max(FLOAT32_ULP * scale, torch.finfo(torch.float32).tiny)
    return max([least, *(math.inf if math.isnan(each) else each for each in distances)])


def quantiles(values: Tensor) -> tuple[float, float, float]:
    """The median, the 99th percentile and the largest of some numbers."""
    ordered = values.flatten().sort().values.tolist()
    last = len(ordered) - 1
    return ordered[last // 2], ordered[math.ceil(0.99 * last)], ordered[last]


def _index(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(each) for each in torch.unravel_index(torch.tensor(flat), shape))
