"""Every activation function that a configuration may name, as a formula in the precision of its argument.

`layers` has the same functions again, in the ways in which programs compute them; these are the mathematics alone, and
independent of those, so that one can check the other.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

Function: TypeAlias = Callable[[Tensor], Tensor]

ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU: ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``."""
    return x / 2 * (1 + torch.tanh(ROOT * (x + CUBIC * x**3)))


def gelu_erf(x: Tensor) -> Tensor:
    """``x Phi(x)`` with the distribution function of the normal distribution. It is not GPT-2's."""
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


FORMULAS: Mapping[str, Function] = MappingProxyType(
    {
        "gelu": gelu_erf,
        "gelu_10": lambda x: gelu_erf(x).clamp(-10, 10),
        "gelu_accurate": gelu_tanh,
        "gelu_fast": lambda x: x / 2 * (1 + torch.tanh(0.7978845608 * x * (1 + CUBIC * x * x))),
        "gelu_new": gelu_tanh,
        "gelu_python": gelu_erf,
        "gelu_python_tanh": gelu_tanh,
        "gelu_pytorch_tanh": gelu_tanh,
        "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
        # Its numbers are rounded in the paper that it comes from, too.
        "laplace": lambda x: (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))) / 2,
        "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
        "linear": lambda x: x,
        "mish": lambda x: x * torch.tanh(_softplus(x)),
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "relu": lambda x: x.clamp(min=0),
        "relu2": lambda x: x.clamp(min=0) ** 2,
        "relu6": lambda x: x.clamp(0, 6),
        "sigmoid": torch.sigmoid,
        "silu": _silu,
        "sqrtsoftplus": lambda x: torch.sqrt(_softplus(x)),
        "swish": _silu,
        "tanh": torch.tanh,
    }
)
"""One function for each name in `config.ACTIVATIONS`."""
