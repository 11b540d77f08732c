"""GPT-2 in the style of picoGPT: no classes, a handful of functions over a nested dictionary of tensors.

The idea: ``params`` is all the state there is, and linear weights are [in, out] as GPT-2 stores them::

    {"wte": ..., "wpe": ..., "ln_f": {"g": ..., "b": ...}, "blocks": [{
        "ln_1": {"g", "b"}, "attn": {"c_attn": {"w", "b"}, "c_proj": {"w", "b"}},
        "ln_2": {"g", "b"}, "mlp":  {"c_fc":   {"w", "b"}, "c_proj": {"w", "b"}}}, ...]}
"""

import math
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Any]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Tensor, g: Tensor, b: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return g * centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) + b


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x @ w + b


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    visible = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.where(visible, -torch.inf).softmax(-1) @ v


def multi_head_attention(x: Tensor, c_attn: Params, c_proj: Params, n_head: int) -> Tensor:
    qkv = linear(x, **c_attn).unflatten(-1, (3, n_head, -1))  # [batch, tokens, 3, heads, head width]
    q, k, v = qkv.movedim(2, 0).transpose(2, 3)  # each [batch, heads, tokens, head width]
    return linear(attention(q, k, v).transpose(1, 2).flatten(-2), **c_proj)


def feed_forward(x: Tensor, c_fc: Params, c_proj: Params) -> Tensor:
    return linear(gelu(linear(x, **c_fc)), **c_proj)


def block(x: Tensor, params: Params, n_head: int, eps: float) -> Tensor:
    x = x + multi_head_attention(layer_norm(x, **params["ln_1"], eps=eps), **params["attn"], n_head=n_head)
    return x + feed_forward(layer_norm(x, **params["ln_2"], eps=eps), **params["mlp"])


def gpt2(ids: Tensor, params: Params, n_head: int, eps: float = 1e-5) -> Tensor:
    """From int64 ids [batch, tokens] to logits [batch, tokens, vocabulary], in the dtype of ``params``."""
    x = params["wte"][ids] + params["wpe"][: ids.shape[1]]
    for block_params in params["blocks"]:
        x = block(x, block_params, n_head, eps)
    return layer_norm(x, **params["ln_f"], eps=eps) @ params["wte"].T
