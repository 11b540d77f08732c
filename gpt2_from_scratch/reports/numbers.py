"""How numbers are written, in text and on the page: one format for each kind."""

import math


def scientific(value: float) -> str:
    """A number with two digits, as short as it goes.

    Example:
        >>> scientific(1.53e-5), scientific(0.0), scientific(0.25), scientific(float("inf"))
        ('1.5e-5', '0', '0.25', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def times(value: float) -> str:
    """A multiple of the noise floor.

    Example:
        >>> times(0.937), times(516.94), times(703129.0)
        ('0.937 x', '517 x', '7.0e5 x')
    """
    if not math.isfinite(value):
        return "not finite"
    if value >= 1e5:
        return f"{scientific(value)} x"
    return f"{value:,.0f} x" if value >= 100 else f"{value:.3g} x"


def percent(share: float) -> str:
    """A share of one.

    Example:
        >>> percent(1.0), percent(0.99962)
        ('100 %', '99.96 %')
    """
    return f"{100 * share:.4g} %"
