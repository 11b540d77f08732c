"""The matrix products of `layers`, arranged for the CPU. A model uses them when it computes as `FUSED`.

Decoding reads every weight of the model once per token and does little arithmetic with it, so a step takes as long as
memory needs to deliver the weights. The ordinary products stay behind that, for two reasons:

- MKL multiplies one row by a matrix in a single thread, which reads at half of the memory's rate. `product_in_parts`
  cuts the weights into parts, without a copy, so that all threads read at once.
- From a few rows on MKL computes at half the speed of oneDNN, from 512 rows on at 0.9 of it. PyTorch comes with both
  libraries and takes MKL for float32; `product_by_onednn` asks for oneDNN.

The results equal those of the plain products up to rounding. Every threshold below was measured with torch 2.13 on two
cores with AVX-512, for weights of 124M and of 1558M parameters.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

MKL = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # only MKL's products were measured
# Not a documented name, but the operator to which torch.compile turns a float32 linear layer on a CPU.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
LARGE = 1 << 18  # weights (1 MB): one thread needs 80 us for them, and waking the other threads takes 5 us
NO_16_BIT_PRODUCTS = torch.backends.cpu.get_cpu_capability() == "AVX2"  # oneDNN's 16-bit kernels need AVX-512

_FEW_ROWS = 2  # up to here parts of the inputs are faster, from 3 rows on oneDNN
_PARTS_PER_THREAD = 2  # two parts per thread, so that one delayed thread does not hold up the rest
_ROWS_TO_WIDEN = 6  # from here on a float32 copy of the 16-bit weights costs less than the slow 16-bit product


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b``, computed in the way that is fastest here.

    Args:
        x: ``[..., in]``.
        weight: ``[in, out]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``, in the dtype of `x`.

    Example:
        >>> x, weight, bias = torch.randn(2, 8), torch.randn(8, 5), torch.randn(5)
        >>> torch.testing.assert_close(product(x, weight, bias), x @ weight + bias)
    """
    rows = x.view(-1, x.size(-1))  # (n, in)
    if faster_in_parts(rows, weight):
        y = product_in_parts(rows, weight, bias)
    elif faster_by_onednn(rows, weight):
        y = product_by_onednn(rows, weight.t(), bias)
    elif slow_in_16_bits(rows):
        y = torch.addmm(bias.float(), rows.float(), weight.float()).to(x.dtype)
    else:
        y = torch.addmm(bias, rows, weight)
    return y.view(*x.shape[:-1], -1)


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T``, computed in the way that is fastest here.

    Args:
        x: ``[..., E]``.
        weight: ``[V, E]``.

    Returns:
        ``[..., V]``.

    Example:
        >>> x, weight = torch.randn(2, 5), torch.randn(11, 5)
        >>> torch.testing.assert_close(logits(x, weight), x @ weight.t())
    """
    return product_by_onednn(x, weight) if faster_by_onednn(x, weight) else F.linear(x, weight)


def faster_in_parts(rows: Tensor, weight: Tensor) -> bool:
    """True if a product of these rows, ``[n, in]``, with these weights, ``[in, out]``, is faster in parts."""
    return MKL and rows.size(0) <= _FEW_ROWS and weight.is_contiguous() and _is_large(rows, weight)


def faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    """True if oneDNN multiplies ``x``, ``[..., in]``, by these weights faster than MKL. It computes no gradients."""
    return ONEDNN and x.dtype == torch.float32 and not torch.is_grad_enabled() and _is_large(x, weight)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return (
        weight.numel() >= LARGE
        and x.is_cpu
        and x.dtype in (torch.float32, torch.float64)  # 16-bit products have other kernels
        and not torch.compiler.is_compiling()  # a compiler chooses for itself
    )


def slow_in_16_bits(rows: Tensor) -> bool:
    """True if this CPU has no fast 16-bit product for ``rows``, ``[n, in]``, so that casting the weights is quicker."""
    is_16_bit = rows.dtype in (torch.bfloat16, torch.float16)
    return NO_16_BIT_PRODUCTS and rows.is_cpu and rows.size(0) >= _ROWS_TO_WIDEN and is_16_bit


def product_in_parts(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b`` as a sum over parts of the inputs, two or more for each thread. Nothing is copied.

    The rows of ``W`` that belong to one part of the inputs are one stretch of memory.

    Args:
        rows: ``[n, in]``.
        weight: ``[in, out]``, contiguous.
        bias: ``[out]``.

    Returns:
        ``[n, out]``; equal to ``rows @ weight + bias`` up to rounding.

    Example:
        >>> rows, weight, bias = torch.randn(1, 8), torch.randn(8, 5), torch.randn(5)
        >>> torch.testing.assert_close(product_in_parts(rows, weight, bias), rows @ weight + bias)
    """
    n_in, n_out = weight.shape
    parts = _divisor(n_in, _PARTS_PER_THREAD * torch.get_num_threads())
    inputs = rows.reshape(-1, parts, n_in // parts).transpose(0, 1)  # (n, in) -> (parts, n, in / parts)
    products = torch.bmm(inputs, weight.view(parts, -1, n_out))  # (parts, n, out)
    return products.sum(dim=0).add_(bias)


@functools.cache
def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`."""
    return next(parts for parts in range(most, 0, -1) if n % parts == 0)


def product_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` by oneDNN, without gradients. Nothing is copied: either side of `weight` may be contiguous.

    Args:
        x: float32 ``[..., in]``.
        weight: float32 ``[out, in]``.
        bias: float32 ``[out]``; None for none.

    Returns:
        float32 ``[..., out]``; equal to ``torch.nn.functional.linear(x, weight, bias)`` up to rounding.

    Example:
        >>> x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
        >>> torch.testing.assert_close(product_by_onednn(x, weight, bias), x @ weight.t() + bias)
    """
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def packed(weight: Tensor) -> Tensor:
    """The same ``[in, out]`` values; those of 16 bits lie as ``[out, in]`` in memory, which is read 17 times as fast.

    Args:
        weight: ``[in, out]``.

    Returns:
        A turned copy, or `weight` itself if it has more than 16 bits or is not on the CPU.

    Example:
        >>> packed(torch.zeros(8, 2).bfloat16()).t().is_contiguous(), packed(torch.zeros(8, 2)).is_contiguous()
        (True, True)
    """
    return weight.t().contiguous().t() if weight.is_cpu and weight.element_size() == 2 else weight
