"""Faults of a formula: LayerNorm and the activation, each almost right."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import Change, Fault, Remedy
from gpt2_from_scratch.diagnose.table.changes import NORMS, edited, everywhere, formula, given_module
from gpt2_from_scratch.layers import ACTIVATIONS, LayerNorm

# -------------------------------------------------------------------------------------------------------- LayerNorm


def _centred(x: Tensor, dim: int = -1) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _unbiased(norm: LayerNorm, x: Tensor) -> Tensor:
    return _centred(x) / torch.sqrt(x.var(-1, keepdim=True, correction=1) + norm.eps) * norm.weight + norm.bias


def _eps_outside(norm: LayerNorm, x: Tensor) -> Tensor:
    return _centred(x) / (x.std(-1, keepdim=True, correction=0) + norm.eps) * norm.weight + norm.bias


def _unbiased_eps_outside(norm: LayerNorm, x: Tensor) -> Tensor:
    return _centred(x) / (x.std(-1, keepdim=True, correction=1) + norm.eps) * norm.weight + norm.bias


def _rms(norm: LayerNorm, x: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias


def _divided_by_variance(norm: LayerNorm, x: Tensor) -> Tensor:
    return _centred(x) / (x.var(-1, keepdim=True, correction=0) + norm.eps) * norm.weight + norm.bias


def _over_tokens(norm: LayerNorm, x: Tensor) -> Tensor:
    return _centred(x, -2) / torch.sqrt(x.var(-2, keepdim=True, correction=0) + norm.eps) * norm.weight + norm.bias


def _gain_plus_one(norm: LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.weight.shape, norm.weight + 1, norm.bias, norm.eps)


def _norm(function: Callable[[LayerNorm, Tensor], Tensor]) -> dict[str, Change]:
    return dict(everywhere(NORMS, "forward", given_module(function)))


def _epsilons(config: GPTConfig) -> tuple[float, ...]:
    usual = (1e-6, 1e-5, 1e-12, 1e-8, 1e-7, 0.0, 1e-4, 1e-3, 1e-2, 1e-1)
    return tuple(eps for eps in usual if eps != config.layer_norm_epsilon)


_NORM_SITES = "{h.*.ln_1}, {h.*.ln_2} and {ln_f}"

NORM_FAULTS = (
    Fault(
        "ln_unbiased",
        "LayerNorm divides by the unbiased variance (by E - 1)",
        "none visible; a relative error of 1/(2E) at each LayerNorm",
        Remedy(
            "divide by the variance with E, not E - 1, in {h.*.ln_1}, {h.*.ln_2} and {ln_f}",
            "x.var(-1, keepdim=True, unbiased=False)",
        ),
        "Tensor.var is unbiased by default",
        _norm(_unbiased),
    ),
    Fault(
        "ln_eps",
        "LayerNorm's epsilon is {value}; this checkpoint's is {config.layer_norm_epsilon:g}",
        "none visible at 1e-6 and below; slight at 1e-3",
        Remedy(
            "give the checkpoint's epsilon to {h.*.ln_1}, {h.*.ln_2} and {ln_f}", "eps={config.layer_norm_epsilon:g}"
        ),
        "defaults differ: 1e-5 in torch, 1e-6 in JAX and in newer models, 1e-12 in BERT",
        lambda eps: everywhere(NORMS, "eps", edited(lambda _: eps)),
        values=_epsilons,
        neutral=lambda config: config.layer_norm_epsilon,
    ),
    Fault(
        "ln_std_plus_eps",
        "LayerNorm's epsilon is added outside the root, to the standard deviation",
        "none visible",
        Remedy(
            "add epsilon to the variance, inside the root, in {h.*.ln_1}, {h.*.ln_2} and {ln_f}",
            "torch.sqrt(variance + eps)",
        ),
        "https://nlp.seas.harvard.edu/annotated-transformer: (x - mean) / (std + eps)",
        _norm(_eps_outside),
    ),
    Fault(
        "ln_unbiased_std_plus_eps",
        "LayerNorm divides by the unbiased standard deviation plus epsilon",
        "none visible",
        Remedy(
            "divide by E, and add epsilon inside the root, in {h.*.ln_1}, {h.*.ln_2} and {ln_f}",
            "torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps)",
        ),
        "https://nlp.seas.harvard.edu/annotated-transformer: x.std() is unbiased by default",
        _norm(_unbiased_eps_outside),
    ),
    Fault(
        "ln_rms",
        "the mean is not subtracted: RMSNorm instead of LayerNorm",
        "drift",
        Remedy(f"subtract the mean in {_NORM_SITES}"),
        "RMSNorm is what newer models have",
        _norm(_rms),
    ),
    Fault(
        "ln_divided_by_variance",
        "LayerNorm divides by the variance instead of its root",
        "gibberish",
        Remedy("divide by the root of the variance in {h.*.ln_1}, {h.*.ln_2} and {ln_f}", "torch.sqrt(variance + eps)"),
        "a forgotten root",
        _norm(_divided_by_variance),
    ),
    Fault(
        "ln_over_tokens",
        "LayerNorm normalises over the tokens instead of the features",
        "gibberish; a token sees later ones",
        Remedy(f"take mean and variance over dim=-1 in {_NORM_SITES}"),
        "dim=1 of [B, T, E]",
        _norm(_over_tokens),
        leaks=True,
    ),
    Fault(
        "ln_gain_plus_one",
        "LayerNorm multiplies by 1 + weight instead of weight",
        "gibberish",
        Remedy(f"multiply by weight in {_NORM_SITES}"),
        "the convention of Gemma's norm",
        _norm(_gain_plus_one),
    ),
)

# ------------------------------------------------------------------------------------------------------- activation

_ACT = "h.*.mlp.act.forward"


def _named(name: str) -> dict[str, Change]:
    return {_ACT: formula(ACTIVATIONS[name].exact)}


def _tanh_form(x: Tensor, cubic: float, scale: float) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(scale * (x + cubic * x**3)))


def _is_not(*names: str) -> Callable[[GPTConfig], bool]:
    """The checkpoint itself does not have this activation."""
    return lambda config: config.activation_function not in names


_SQRT_2_OVER_PI = 0.7978845608028654

ACTIVATION_FAULTS = (
    Fault(
        "gelu_erf",
        "GELU uses erf; GPT-2 uses the tanh form",
        "none visible",
        Remedy("use the tanh GELU in {h.*.mlp.act}", "nn.GELU(approximate='tanh')"),
        "https://github.com/karpathy/nanoGPT: nn.GELU() since May 2023",
        _named("gelu"),
        needs=_is_not("gelu", "gelu_python"),
        remedies={"nanogpt": Remedy("use the tanh GELU in MLP", "self.gelu = nn.GELU(approximate='tanh')")},
    ),
    Fault(
        "gelu_quick",
        "GELU is approximated by x sigmoid(1.702 x); GPT-2 uses the tanh form",
        "slight",
        Remedy("use the tanh GELU in {h.*.mlp.act}", "nn.GELU(approximate='tanh')"),
        "the GELU of CLIP",
        _named("quick_gelu"),
        needs=_is_not("quick_gelu"),
    ),
    Fault(
        "relu",
        "the activation is ReLU; GPT-2 uses the tanh GELU",
        "drift",
        Remedy("use the tanh GELU in {h.*.mlp.act}", "nn.GELU(approximate='tanh')"),
        "the first transformer's",
        _named("relu"),
        needs=_is_not("relu"),
    ),
    Fault(
        "silu",
        "the activation is SiLU; GPT-2 uses the tanh GELU",
        "drift",
        Remedy("use the tanh GELU in {h.*.mlp.act}", "nn.GELU(approximate='tanh')"),
        "that of newer models",
        _named("silu"),
        needs=_is_not("silu", "swish"),
    ),
    Fault(
        "act_other",
        "the activation is {value}; GPT-2 uses the tanh GELU",
        "drift",
        Remedy("use the tanh GELU in {h.*.mlp.act}", "nn.GELU(approximate='tanh')"),
        "activation_function in config.json not read",
        lambda name: _named(name),
        values=lambda config: tuple(
            name
            for name in ("gelu_new", "relu2", "leaky_relu", "mish", "tanh", "sigmoid", "hardswish", "linear")
            if name != config.activation_function
            and not (
                {name, config.activation_function}
                <= {"gelu_new", "gelu_pytorch_tanh", "gelu_accurate", "gelu_fast", "gelu_python_tanh"}
            )
        ),
    ),
    Fault(
        "gelu_cubic",
        "the cubic term of the tanh GELU has the coefficient {value}; it is 0.044715",
        "none visible to slight",
        Remedy(
            "write the tanh GELU with its own constants in {h.*.mlp.act}",
            "0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))",
        ),
        "a slip of the keyboard",
        lambda cubic: {_ACT: formula(lambda x: _tanh_form(x, cubic, _SQRT_2_OVER_PI))},
        values=lambda config: (0.0, 0.44715, 0.0044715, 0.04715, 0.47715, 0.04475),
        needs=_is_not("gelu", "gelu_python", "relu", "silu", "swish", "quick_gelu"),
    ),
    Fault(
        "gelu_without_root",
        "the tanh GELU lacks the root: it multiplies by 2/pi instead of sqrt(2/pi)",
        "drift",
        Remedy(
            "write the tanh GELU with its root in {h.*.mlp.act}",
            "0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))",
        ),
        "a slip of the keyboard",
        {_ACT: formula(lambda x: _tanh_form(x, 0.044715, _SQRT_2_OVER_PI**2))},
        needs=_is_not("gelu", "gelu_python", "relu", "silu", "swish", "quick_gelu"),
    ),
)
