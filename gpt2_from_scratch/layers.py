"""GPT-2's layers: each formula, and the ways in which a machine may compute it.

The one idea: *what* a layer computes is fixed by the configuration, *how* is a value. `Compute` holds one choice per
kind of layer, and three ready choices cover most uses:

    TEXTBOOK  the formulas spelled out: for reading, for float64, and as the place where faults are simulated
    EXACT     operation by operation what transformers does: logits and gradients are bit-identical to `GPT2LMHeadModel`
    FUSED     the fastest, equal up to rounding: PyTorch's fused kernels, and products cut for the machine's threads

Shapes: B batch, T query tokens, S key tokens (cached ones included), E width, H heads, d = E / H, F inner width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Way = Literal["textbook", "exact", "fused"]
AttentionWay = Literal["textbook", "eager", "sdpa"]


@dataclass(frozen=True)
class Compute:
    """How to compute each kind of layer. All choices give the same mathematics and differ in rounding only.

    Args:
        layer_norm: ``textbook`` mean and variance; ``exact`` and ``fused`` are both `F.layer_norm`.
        activation: ``textbook`` formula; ``exact`` what transformers runs for that name; ``fused`` PyTorch's kernel.
        linear: ``textbook`` is ``x @ W + b``; ``exact`` one `torch.addmm` over all tokens; ``fused`` the same, but
            `product_in_parts` for up to 256 tokens, and in float32 for 16 bits on a CPU that has no such product.
        head: ``textbook`` is ``x @ W^T``; ``exact`` `F.linear`; ``fused`` the same, but `logits_in_parts` for up to 256
            tokens.
        attention: ``textbook`` scores, mask, softmax; ``eager`` or ``sdpa`` as transformers runs under that name.

    Example:
        >>> dataclasses.replace(EXACT, attention="eager").attention
        'eager'
    """

    layer_norm: Way = "exact"
    activation: Way = "exact"
    linear: Way = "exact"
    head: Way = "exact"
    attention: AttentionWay = "sdpa"


TEXTBOOK = Compute(
    layer_norm="textbook", activation="textbook", linear="textbook", head="textbook", attention="textbook"
)
EXACT = Compute()
EXACT_EAGER = dataclasses.replace(EXACT, attention="eager")
FUSED = Compute(layer_norm="fused", activation="fused", linear="fused", head="fused", attention="sdpa")


# ---------------------------------------------------------------------------------------------- embedding, linear


class Embedding(nn.Module):
    """A table of vectors: row ``i`` is the vector of id ``i``.

    Unlike `nn.Embedding` it never fills its table on construction, so a model can be built in milliseconds and be
    given mapped weights.
    """

    def __init__(self, rows: int, n_embd: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, n_embd, device=device))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)  # (...) -> (..., E)


class Linear(nn.Module):
    """``y = x W + b`` with ``W`` stored ``[in, out]``, the orientation of GPT-2's own files (transformers' `Conv1D`).

    `nn.Linear` stores ``[out, in]``; keeping GPT-2's orientation lets the file's memory map be the parameter.
    """

    def __init__(self, n_in: int, n_out: int, compute: Compute, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, device=device))
        self.bias = nn.Parameter(torch.empty(n_out, device=device))
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        way, weight, bias = self.compute.linear, self.weight, self.bias
        if way == "textbook":
            return x @ weight + bias
        if way == "fused" and faster_in_parts(x, weight):
            return product_in_parts(x, weight, bias)
        rows = x.view(-1, x.size(-1))  # (B T, in)
        if way == "fused" and slow_in_16_bits(rows):
            y = torch.addmm(bias.float(), rows.float(), weight.float()).to(x.dtype)
        else:
            y = torch.addmm(bias, rows, weight)
        return y.view(*x.shape[:-1], -1)


class Head(nn.Module):
    """Logits of every token: ``x W^T`` with ``W`` the token embedding ``[V, E]``, or one of its own when untied."""

    def __init__(
        self, vocab_size: int, n_embd: int, compute: Compute, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, n_embd, device=device))
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        way, weight = self.compute.head, self.weight
        if way == "textbook":
            return x @ weight.t()
        if way == "fused" and faster_in_parts(x, weight):
            return logits_in_parts(x, weight)
        return F.linear(x, weight)  # (..., E) -> (..., V)


# A step of decoding multiplies very few rows with every weight of the model: it takes as long as memory needs to bring
# the weights. MKL's own product of one row runs in one thread, which fetches half of what memory can give; those below
# were measured at nine tenths, and those of up to 256 rows at 1.1 to 1.4 times its speed (torch 2.13, two cores).

_MKL = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
_FEW = 3  # rows; from 4 on parts of the outputs were measured as faster than parts of the inputs
_PER_THREAD = 2  # parts of the inputs, or of the vocabulary: a thread that was held up leaves its second to others
_MANY = 256  # rows; from 512 on the ordinary product was measured as fast
_PARTS = 8  # of the outputs, at least: narrow products were measured as faster, whatever the number of threads
_LARGE = 1 << 18  # weights; 1 MB, 80 us in one thread: far above the 5 us that it takes to wake the others


def faster_in_parts(x: Tensor, weight: Tensor) -> bool:
    """Whether it pays to compute ``x W`` in parts, ``x`` being ``[..., in]``."""
    return (
        _MKL
        and not torch.compiler.is_compiling()  # asking for the number of threads would cut the graph
        and x.numel() <= _MANY * x.size(-1)
        and weight.numel() >= _LARGE
        and (weight.is_contiguous() or weight.t().is_contiguous())  # as in the file, or packed
        and x.is_cpu
        and x.dtype in (torch.float32, torch.float64)  # narrower ones have other kernels
    )


_WITHOUT_16_BITS = torch.backends.cpu.get_cpu_capability() == "AVX2"  # oneDNN's products of 16 bits need AVX-512


def slow_in_16_bits(x: Tensor) -> bool:
    """Whether ``x W`` of 16 bits takes a row at a time here, so that it pays to widen ``W`` for it: from 6 rows on."""
    return _WITHOUT_16_BITS and x.is_cpu and x.size(0) > 5 and x.dtype in (torch.bfloat16, torch.float16)


def product_in_parts(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b``, cut so that all threads read weights at once. Nothing is copied.

    For few rows it is a sum over parts of the inputs: a share of the rows of ``W``, stored ``[in, out]``, is one
    stretch of memory. For more, and for a packed ``W``, the parts are of the outputs, and there is nothing to sum.

    Args:
        x: ``[..., in]``.
        weight: ``[in, out]``; packed: in memory ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``; equal to ``x @ weight + bias`` up to rounding.

    Example:
        >>> x, weight, bias = torch.randn(1, 8), torch.randn(8, 5), torch.randn(5)
        >>> torch.testing.assert_close(product_in_parts(x, weight, bias), x @ weight + bias)
    """
    n_in, n_out = weight.shape
    shape = (*x.shape[:-1], n_out)
    if x.numel() <= _FEW * n_in and weight.is_contiguous():
        parts = _equal_parts(n_in, _PER_THREAD * torch.get_num_threads())
        inputs = x.reshape(-1, parts, n_in // parts).transpose(0, 1)  # (..., in) -> (parts, n, in / parts)
        products = torch.bmm(inputs, weight.view(parts, -1, n_out))
        return products.sum(dim=0).add_(bias).view(shape)
    parts = _equal_parts(n_out, max(_PARTS, torch.get_num_threads()))
    inputs = x.reshape(-1, n_in).expand(parts, -1, -1)  # (parts, n, in)
    shares = weight.view(n_in, parts, -1).transpose(0, 1)  # (parts, in, out / parts)
    products = torch.baddbmm(bias.view(parts, 1, -1), inputs, shares)
    return products.transpose(0, 1).reshape(shape)


@functools.cache
def _equal_parts(n: int, most: int) -> int:
    return next(parts for parts in range(most, 0, -1) if n % parts == 0)


def logits_in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` for a tall ``W``: of one row over parts of the vocabulary, of several as ``(W x^T)^T``.

    Args:
        x: ``[..., E]``.
        weight: ``[V, E]``.

    Returns:
        ``[..., V]``; equal to ``x @ weight.t()`` up to rounding.

    Example:
        >>> x, weight = torch.randn(1, 5), torch.randn(11, 5)
        >>> torch.testing.assert_close(logits_in_parts(x, weight), x @ weight.t())
    """
    rows = x.reshape(-1, x.size(-1))
    if rows.size(0) > 1:
        return (weight @ rows.t()).t().reshape(*x.shape[:-1], -1)
    parts = min(_PER_THREAD * torch.get_num_threads(), weight.size(0))
    each = weight.size(0) // parts
    shares = weight[: parts * each].view(parts, each, -1).transpose(1, 2)  # (parts, E, V / parts)
    logits = torch.bmm(rows.expand(parts, 1, -1), shares).view(1, -1)
    rest = F.linear(rows, weight[parts * each :])  # GPT-2's 50,257 ids are an odd number
    return torch.cat([logits, rest], dim=1).view(*x.shape[:-1], -1)


# --------------------------------------------------------------------------------------------- LayerNorm, dropout


class LayerNorm(nn.Module):
    """Each token to mean 0 and variance 1 over its features, then a learned gain and bias.

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
        if self.compute.layer_norm == "textbook":
            mean = x.mean(dim=-1, keepdim=True)
            variance = x.var(dim=-1, keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + self.eps) * weight + bias
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)


class Dropout(nn.Dropout):
    """In training, each number becomes 0 with probability ``p`` and the others ``1 / (1 - p)`` of themselves.

    Otherwise nothing happens, and nothing is called: a step of decoding passes three of them in every block.
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


def _half_first(x: Tensor) -> Tensor:  # gelu_tanh with x multiplied first: the order of `gelu_python_tanh`
    return x * 0.5 * (1.0 + torch.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * torch.pow(x, 3.0))))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _laplace(x: Tensor) -> Tensor:
    mu, sigma = (
        0.707107,
        0.282095,
    )  # sqrt(1/2) and sqrt(1/(4 pi)) as rounded by MEGA, https://arxiv.org/abs/2209.10655
    return 0.5 * (1.0 + torch.erf((x - mu).div(sigma * math.sqrt(2.0))))


def _fused_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


class Activation(NamedTuple):
    """One elementwise function, computed in each of the three ways."""

    textbook: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    fused: Callable[[Tensor], Tensor]


def _sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


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
        return getattr(ACTIVATIONS[self.name], self.compute.activation)(x)  # type: ignore[no-any-return]

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
    """Which keys each query may see, in the form that `attention` takes for this way. Made once per forward pass.

    Query ``i`` of the T new tokens stands at position ``S - T + i`` and sees the keys up to itself, less the padding.

    Args:
        way: how attention will be computed.
        padding: bool ``[B, S]``, False at padding tokens; None where there is none.
        batch: ``B``.
        queries: ``T``.
        keys: ``S``, cached tokens included.
        dtype: of the hidden states; the additive mask of ``eager`` has it.
        device: of the result.

    Returns:
        ``textbook``: bool ``[B, 1, T, S]``. ``eager``: 0 or the lowest finite number, same shape, added to the scores.
        ``sdpa``: bool, or None where plain causal attention says the same and the fast kernel may be used.
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


def attention(
    way: AttentionWay,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    upcast: bool,
    dropout: Callable[[Tensor], Tensor],
    dropout_p: float,
) -> Tensor:
    """``softmax(q k^T * scale + mask) v``: each token's average of the values, weighted by how well key fits query.

    Args:
        way: how to compute it.
        q: queries ``[B, H, T, d]``.
        k: keys ``[B, H, S, d]``.
        v: values ``[B, H, S, d]``.
        mask: from `causal_mask`, for the same way.
        scale: multiplies the scores; GPT-2: ``1 / sqrt(d)``.
        upcast: scores and softmax in float32 (`reorder_and_upcast_attn`); ``sdpa`` has no such switch, as in
            transformers.
        dropout: applied to the attention probabilities (``textbook`` and ``eager``).
        dropout_p: the same rate as a number, 0 outside training, for the fused kernel.

    Returns:
        ``[B, H, T, d]``.
    """
    if way == "sdpa":
        causal = mask is None and q.size(2) > 1
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=causal, scale=scale
        )
    assert mask is not None, "only sdpa goes without a mask"
    if way == "eager":
        scores = _upcast_scores(q, k, scale) if upcast else torch.matmul(q, k.transpose(-1, -2)) * scale
        probabilities = F.softmax(scores + mask, dim=-1)  # (B, H, T, S)
        return torch.matmul(dropout(probabilities.type(v.dtype)), v)
    if upcast and torch.finfo(q.dtype).bits < 32:
        q, k = q.float(), k.float()
    scores = (q @ k.transpose(-1, -2)) * scale
    # The lowest finite number, not -inf: a padding token sees no key at all, and exp(-inf) / 0 would be NaN.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    exponentials = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    probabilities = exponentials / exponentials.sum(dim=-1, keepdim=True)
    return dropout(probabilities.to(v.dtype)) @ v


def _upcast_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    batch, heads, queries, width = q.shape
    keys = k.size(2)
    flat_q = q.reshape(-1, queries, width).float()
    flat_k = k.transpose(-1, -2).reshape(-1, width, keys).float()
    unused = torch.empty(batch * heads, queries, keys, dtype=torch.float32, device=q.device)  # beta=0: never read
    return torch.baddbmm(unused, flat_q, flat_k, beta=0, alpha=scale).view(batch, heads, queries, keys)
