"""The matrix products of `layers`, arranged for the CPU. A model uses them when it computes as `FUSED`.

Decoding reads every weight of the model once per token and does little arithmetic with it, so a step takes as long as
memory needs to deliver the weights. MKL multiplies one row by a matrix in a single thread, which reads at half of the
memory's rate. `product_in_parts` and `logits_in_parts` cut the weights into parts, without a copy, so that all threads
read at once. Measured with torch 2.13 on two cores: nine tenths of the memory's rate for one row, and 1.1 to 1.4 times
the speed of the ordinary product for up to 256 rows.

The results equal those of the plain products up to rounding. Every threshold below was measured on that machine.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

MKL = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # only MKL's products were measured
LARGE = 1 << 18  # weights (1 MB): one thread needs 80 us for them, and waking the other threads takes 5 us
NO_16_BIT_PRODUCTS = torch.backends.cpu.get_cpu_capability() == "AVX2"  # oneDNN's 16-bit kernels need AVX-512

_MOST_ROWS = 256  # from 512 rows on, the ordinary product is as fast
_FEW_ROWS = 3  # up to here parts of the inputs are faster, from 4 rows on parts of the outputs
_PARTS_PER_THREAD = 2  # two parts per thread, so that one delayed thread does not hold up the rest
_OUTPUT_PARTS = 8  # at least; narrow products are faster, whatever the number of threads
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
    if faster_in_parts(x, weight):
        return product_in_parts(x, weight, bias)
    rows = x.view(-1, x.size(-1))  # (n, in)
    if slow_in_16_bits(rows):
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
    return logits_in_parts(x, weight) if faster_in_parts(x, weight) else F.linear(x, weight)


def faster_in_parts(x: Tensor, weight: Tensor) -> bool:
    """True if a product of ``x``, ``[..., in]``, with these weights is faster in parts."""
    return (
        MKL
        and not torch.compiler.is_compiling()  # asking for the number of threads would break the compiler's graph
        and x.numel() <= _MOST_ROWS * x.size(-1)
        and weight.numel() >= LARGE
        and (weight.is_contiguous() or weight.t().is_contiguous())  # as in the file, or packed
        and x.is_cpu
        and x.dtype in (torch.float32, torch.float64)  # 16-bit products have other kernels
    )


def slow_in_16_bits(rows: Tensor) -> bool:
    """True if this CPU has no fast 16-bit product for ``rows``, ``[n, in]``, so that casting the weights is quicker."""
    is_16_bit = rows.dtype in (torch.bfloat16, torch.float16)
    return NO_16_BIT_PRODUCTS and rows.is_cpu and rows.size(0) >= _ROWS_TO_WIDEN and is_16_bit


def product_in_parts(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b`` in parts, one or more per thread. Nothing is copied.

    For few rows the result is a sum over parts of the inputs: some rows of ``W``, stored ``[in, out]``, are one stretch
    of memory. For more rows, and for packed weights, each part computes some of the outputs.

    Args:
        x: ``[..., in]``.
        weight: ``[in, out]``; packed weights lie in memory as ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``; equal to ``x @ weight + bias`` up to rounding.

    Example:
        >>> x, weight, bias = torch.randn(1, 8), torch.randn(8, 5), torch.randn(5)
        >>> torch.testing.assert_close(product_in_parts(x, weight, bias), x @ weight + bias)
    """
    n_in, n_out = weight.shape
    shape = (*x.shape[:-1], n_out)
    if x.numel() <= _FEW_ROWS * n_in and weight.is_contiguous():
        parts = _divisor(n_in, _PARTS_PER_THREAD * torch.get_num_threads())
        inputs = x.reshape(-1, parts, n_in // parts).transpose(0, 1)  # (..., in) -> (parts, n, in / parts)
        products = torch.bmm(inputs, weight.view(parts, -1, n_out))  # (parts, n, out)
        return products.sum(dim=0).add_(bias).view(shape)
    parts = _divisor(n_out, max(_OUTPUT_PARTS, torch.get_num_threads()))
    inputs = x.reshape(-1, n_in).expand(parts, -1, -1)  # (parts, n, in)
    shares = weight.view(n_in, parts, -1).transpose(0, 1)  # (parts, in, out / parts)
    products = torch.baddbmm(bias.view(parts, 1, -1), inputs, shares)  # (parts, n, out / parts)
    return products.transpose(0, 1).reshape(shape)


@functools.cache
def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`."""
    return next(parts for parts in range(most, 0, -1) if n % parts == 0)


def logits_in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` for a tall ``W``: in parts of the vocabulary for one row, as ``(W x^T)^T`` for several.

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
    parts = min(_PARTS_PER_THREAD * torch.get_num_threads(), weight.size(0))
    each = weight.size(0) // parts
    shares = weight[: parts * each].view(parts, each, -1).transpose(1, 2)  # (parts, E, V / parts)
    most = torch.bmm(rows.expand(parts, 1, -1), shares).view(1, -1)
    rest = F.linear(rows, weight[parts * each :])  # GPT-2's 50,257 ids are an odd number
    return torch.cat([most, rest], dim=1).view(*x.shape[:-1], -1)


def packed(weight: Tensor) -> Tensor:
    """The same ``[in, out]`` values, turned to ``[out, in]`` in memory where the CPU reads them faster in that order.

    All 16-bit weights are turned: the kernels read that order 17 times as fast. Of 32-bit weights those with more
    inputs than outputs are: long rows (3,072 numbers) are read 1.3 times as fast as short ones (768).

    Args:
        weight: ``[in, out]``.

    Returns:
        A turned copy, or `weight` itself where there is nothing to gain or it is not on the CPU.

    Example:
        >>> packed(torch.zeros(8, 2)).t().is_contiguous(), packed(torch.zeros(2, 8)).is_contiguous()
        (True, True)
    """
    n_in, n_out = weight.shape
    if weight.is_cpu and (weight.element_size() == 2 or n_in > n_out):
        return weight.t().contiguous().t()
    return weight
