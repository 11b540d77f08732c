"""GPT-2's layers: the formulas, each in the ways in which it may be computed.

The configuration decides what a layer computes; `Compute` decides how. There are three ways:

    TEXTBOOK  the formulas spelled out: for reading, for float64, and for simulating faults
    EXACT     operation by operation what transformers does: logits and gradients are bit-identical to `GPT2LMHeadModel`
    FUSED     the fastest, equal up to rounding: PyTorch's fused kernels, and the products of `speed`

Read on in `model`, which puts the layers together.

Shapes: B batch, T query tokens, S key tokens (cached ones included), E width, H heads, d = E / H, F inner width.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch import speed

LayerWay = Literal["textbook", "exact", "fused"]
AttentionWay = Literal["textbook", "eager", "sdpa"]


@dataclass(frozen=True)
class Compute:
    """How the layers are computed. All choices are the same mathematics and differ in rounding only.

    Args:
        layers: of every layer but attention. ``textbook`` is the formula; ``exact`` the calls that transformers makes;
            ``fused`` PyTorch's fused kernels and the products of `speed`.
        attention: ``textbook`` is scores, mask, softmax; ``eager`` and ``sdpa`` are what transformers runs under these
            names.

    Example:
        >>> Compute("exact", attention="eager") == EXACT_EAGER
        True
    """

    layers: LayerWay
    attention: AttentionWay


TEXTBOOK = Compute("textbook", attention="textbook")
EXACT = Compute("exact", attention="sdpa")
EXACT_EAGER = Compute("exact", attention="eager")  # bit-identical to transformers with attn_implementation="eager"
FUSED = Compute("fused", attention="sdpa")


# ---------------------------------------------------------------------------------------------- embedding, linear


class Embedding(nn.Module):
    """A table of vectors: row ``i`` is the vector of id ``i``.

    Unlike `nn.Embedding` it is not initialised when it is built, so a model that then gets mapped weights is built in
    milliseconds.
    """

    def __init__(self, rows: int, n_embd: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, n_embd, device=device))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)  # (...) -> (..., E)


class Linear(nn.Module):
    """``y = x W + b`` with ``W`` stored ``[in, out]``, the orientation of GPT-2's own files (transformers' `Conv1D`).

    `nn.Linear` stores ``[out, in]``. With GPT-2's orientation the memory-mapped file can be the parameter.
    """

    def __init__(self, n_in: int, n_out: int, compute: Compute, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, device=device))
        self.bias = nn.Parameter(torch.empty(n_out, device=device))
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x W + b``, in the way that `compute` says."""
        way = self.compute.layers
        if way == "textbook":
            return x @ weight + bias
        if way == "fused":
            return speed.product(x, weight, bias)
        rows = x.view(-1, x.size(-1))  # (B T, in)
        return torch.addmm(bias, rows, weight).view(*x.shape[:-1], -1)


class Head(nn.Module):
    """Logits of every token: ``x W^T`` with ``W`` the token embedding ``[V, E]``, or one of its own when untied."""

    def __init__(
        self, vocab_size: int, n_embd: int, compute: Compute, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, n_embd, device=device))
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        way, weight = self.compute.layers, self.weight
        if way == "textbook":
            return x @ weight.t()
        if way == "fused":
            return speed.logits(x, weight)
        return F.linear(x, weight)  # (..., E) -> (..., V)


# --------------------------------------------------------------------------------------------- LayerNorm, dropout


class LayerNorm(nn.Module):
    """Normalises each token to mean 0 and variance 1 over its features, then applies a learned gain and bias.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the *biased* variance (divided by E, not E - 1) and eps
    inside the root. https://arxiv.org/abs/1607.06450
    """

    def __init__(self, n_embd: int, eps: float, compute: Compute, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_embd, device=device))
        self.bias = nn.Parameter(torch.empty(n_embd, device=device))
        self.eps = eps
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.compute.layers == "textbook":
            mean = x.mean(dim=-1, keepdim=True)
            variance = x.var(dim=-1, keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + self.eps) * weight + bias
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)


class Dropout(nn.Dropout):
    """In training, each number becomes 0 with probability ``p``, and the others are divided by ``1 - p``.

    Outside training it calls no function, which saves time: a decoding step passes three of these in every block.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p) if self.training and self.p else x


# ----------------------------------------------------------------------------------------------------- activations

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU, the tanh form of https://arxiv.org/abs/1606.08415 section 2; elementwise.

    The order of operations is that of transformers' ``gelu_new``: changing it changes the last bit.
    """
    return 0.5 * x * (1.0 + torch.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_erf(x: Tensor) -> Tensor:
    """The exact GELU, ``x Phi(x)`` with the normal distribution function. Not GPT-2's; nanoGPT's since May 2023."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _half_first(x: Tensor) -> Tensor:  # gelu_tanh in the order of operations of transformers' `gelu_python_tanh`
    return x * 0.5 * (1.0 + torch.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * torch.pow(x, 3.0))))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _laplace(x: Tensor) -> Tensor:
    # sqrt(1/2) and sqrt(1/(4 pi)), rounded as in MEGA, https://arxiv.org/abs/2209.10655
    mu, sigma = 0.707107, 0.282095
    return 0.5 * (1.0 + torch.erf((x - mu).div(sigma * math.sqrt(2.0))))


def _fused_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def _sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


class Activation(NamedTuple):
    """One elementwise function, computed in each of the three ways."""

    textbook: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    fused: Callable[[Tensor], Tensor]


_TANH_GELU = Activation(gelu_tanh, gelu_tanh, _fused_tanh)
_SILU = Activation(lambda x: x * _sigmoid(x), F.silu, F.silu)

# `exact` is what transformers 5 runs for the name, read in its activations.py; `config.ACTIVATIONS` has the formulas.
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": Activation(gelu_erf, F.gelu, F.gelu),
    "gelu_10": Activation(
        lambda x: gelu_erf(x).clamp(-10, 10),
        lambda x: F.gelu(x).clip(-10, 10),
        lambda x: F.gelu(x).clip(-10, 10),
    ),
    "gelu_accurate": _TANH_GELU,
    "gelu_fast": Activation(_gelu_fast, _gelu_fast, _fused_tanh),
    "gelu_new": _TANH_GELU,
    "gelu_python": Activation(gelu_erf, gelu_erf, F.gelu),
    "gelu_python_tanh": Activation(gelu_tanh, _half_first, _fused_tanh),
    "gelu_pytorch_tanh": Activation(gelu_tanh, _fused_tanh, _fused_tanh),
    "hardswish": Activation(lambda x: x * (x + 3).clamp(0, 6) / 6, F.hardswish, F.hardswish),
    "laplace": Activation(_laplace, _laplace, _laplace),
    "leaky_relu": Activation(lambda x: torch.where(x > 0, x, 0.01 * x), F.leaky_relu, F.leaky_relu),
    "linear": Activation(lambda x: x, lambda x: x, lambda x: x),
    "mish": Activation(lambda x: x * torch.tanh(_softplus(x)), F.mish, F.mish),
    "quick_gelu": Activation(
        lambda x: x * _sigmoid(1.702 * x),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "relu": Activation(lambda x: x.clamp(min=0), F.relu, F.relu),
    "relu2": Activation(lambda x: x.clamp(min=0) ** 2, lambda x: F.relu(x).square(), lambda x: F.relu(x).square()),
    "relu6": Activation(lambda x: x.clamp(0, 6), F.relu6, F.relu6),
    "sigmoid": Activation(_sigmoid, torch.sigmoid, torch.sigmoid),
    "silu": _SILU,
    "sqrtsoftplus": Activation(
        lambda x: torch.sqrt(_softplus(x)), lambda x: F.softplus(x).sqrt(), lambda x: F.softplus(x).sqrt()
    ),
    "swish": _SILU,
    "tanh": Activation(torch.tanh, torch.tanh, torch.tanh),
}


class GELU(nn.Module):
    """The feed-forward layer's activation: GPT-2's tanh GELU, or whichever `activation_function` names."""

    def __init__(self, name: str, compute: Compute) -> None:
        super().__init__()
        self.name = name
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return getattr(ACTIVATIONS[self.name], self.compute.layers)(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return self.name


# ------------------------------------------------------------------------------------------------------- attention


def causal_mask(
    way: AttentionWay,
    padding: Tensor | None,
    batch: int,
    queries: int,
    keys: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    """The mask of a forward pass: which keys each query may see, in the form that this way of attention takes.

    Query ``i`` of the T new tokens is at position ``S - T + i`` and sees the keys up to itself, except padding.

    Args:
        way: how attention will be computed.
        padding: bool ``[B, S]``, False at padding tokens; None where there is none.
        batch: ``B``.
        queries: ``T``.
        keys: ``S``, cached tokens included.
        dtype: of the hidden states; the additive mask of ``eager`` has it.
        device: of the result.

    Returns:
        ``textbook``: bool ``[B, 1, T, S]``. ``eager``: 0 or the lowest finite number, same shape, to be added to the
        scores. ``sdpa``: bool, or None where plain causal attention is the same and the fast kernel can be used.
    """
    if way == "sdpa" and padding is None and queries in (1, keys):
        return None
    key = torch.arange(keys, device=device)
    query = torch.arange(keys - queries, keys, device=device)
    visible = (key[None, :] <= query[:, None])[None, None]  # (1, 1, T, S)
    if padding is not None:
        visible = visible & padding[:, None, None, :]
    visible = visible.expand(batch, 1, queries, keys)
    if way == "eager":
        zero = torch.zeros((), dtype=dtype, device=device)
        return torch.where(visible, zero, torch.finfo(dtype).min)
    return visible


def textbook_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, upcast: bool, dropout: Dropout
) -> Tensor:
    """``softmax(q k^T * scale + mask) v``: each token's average of the values, weighted by how well key fits query.

    `eager_attention` and `sdpa_attention` take the same arguments and return the same, up to rounding.

    Args:
        q: queries ``[B, H, T, d]``.
        k: keys ``[B, H, S, d]``.
        v: values ``[B, H, S, d]``.
        mask: from `causal_mask`, for the same way of attention.
        scale: multiplies the scores; GPT-2: ``1 / sqrt(d)``.
        upcast: scores and softmax in float32 (`reorder_and_upcast_attn`).
        dropout: applied to the attention probabilities.

    Returns:
        ``[B, H, T, d]``.
    """
    assert mask is not None, "only sdpa goes without a mask"
    if upcast and torch.finfo(q.dtype).bits < 32:
        q, k = q.float(), k.float()
    scores = (q @ k.transpose(-1, -2)) * scale  # (B, H, T, S)
    # The lowest finite number, not -inf: a padding token sees no key at all, and exp(-inf) / 0 would be NaN.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    exponentials = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    probabilities = exponentials / exponentials.sum(dim=-1, keepdim=True)
    return dropout(probabilities.to(v.dtype)) @ v  # type: ignore[no-any-return]


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, upcast: bool, dropout: Dropout
) -> Tensor:
    """As `textbook_attention`, by the calls that transformers makes under ``attn_implementation="eager"``."""
    assert mask is not None, "only sdpa goes without a mask"
    scores = _upcast_scores(q, k, scale) if upcast else torch.matmul(q, k.transpose(-1, -2)) * scale
    probabilities = F.softmax(scores + mask, dim=-1)  # (B, H, T, S)
    return torch.matmul(dropout(probabilities.type(v.dtype)), v)


def _upcast_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    batch, heads, queries, width = q.shape
    keys = k.size(2)
    flat_q = q.reshape(-1, queries, width).float()
    flat_k = k.transpose(-1, -2).reshape(-1, width, keys).float()
    unused = torch.empty(batch * heads, queries, keys, dtype=torch.float32, device=q.device)  # beta=0: never read
    return torch.baddbmm(unused, flat_q, flat_k, beta=0, alpha=scale).view(batch, heads, queries, keys)


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, upcast: bool, dropout: Dropout
) -> Tensor:
    """As `textbook_attention`, by PyTorch's fused kernel. It cannot upcast: `upcast` is ignored, as in transformers."""
    rate = dropout.p if dropout.training else 0.0
    causal = bool(mask is None and q.size(2) > 1)  # a symbol, where torch.export leaves the length open
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=causal, scale=scale)


ATTENTIONS: Mapping[AttentionWay, Callable[..., Tensor]] = {
    "textbook": textbook_attention,
    "eager": eager_attention,
    "sdpa": sdpa_attention,
}
