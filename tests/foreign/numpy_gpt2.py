"""GPT-2 in plain numpy, over a flat dictionary with Hugging Face's names.

The idea: a model can be nothing but a callable ``ids -> logits``: no torch, no modules, nothing to hook.
:func:`gpt2` builds one. Each small function before it can be replaced by name, ``gpt2(..., gelu=my_gelu)``.
"""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Array, gain: Array, bias: Array, eps: float) -> Array:
    return gain * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) + bias


def split_heads(x: Array, n_head: int) -> Array:
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, n_head, width // n_head).swapaxes(1, 2)


def attn_scores(q: Array, k: Array) -> Array:
    return q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])


def attn_weights(scores: Array) -> Array:
    scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def merge_heads(x: Array) -> Array:
    batch, heads, tokens, head_width = x.shape
    return x.swapaxes(1, 2).reshape(batch, tokens, heads * head_width)


def block(x: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Array:
    x = x + attn(ln_1(x))
    return x + mlp(ln_2(x))


_PARTS = (gelu, layer_norm, split_heads, attn_scores, attn_weights, merge_heads, block)
PARTS: dict[str, Callable[..., Any]] = {part.__name__: part for part in _PARTS}


def gpt2(
    weights: Mapping[str, Array],
    n_head: int,
    eps: float = 1e-5,
    dtype: DTypeLike = np.float32,
    **replaced: Callable[..., Any],
) -> Function:
    """Builds the callable ``ids -> logits``: integers [batch, tokens] to [batch, tokens, vocabulary].

    Args:
        weights: Hugging Face's GPT2Model names without prefix; linear weights [in, out]; the head is
            ``lm_head.weight`` if there is one, else ``wte.weight``.
        n_head: number of attention heads.
        eps: LayerNorm's epsilon.
        dtype: what to compute in.
        **replaced: functions to use in place of those in :data:`PARTS`.
    """
    use = SimpleNamespace(**PARTS | replaced)
    w = {name: np.asarray(value, dtype) for name, value in weights.items()}
    n_layer = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))

    def norm(name: str) -> Function:
        return lambda x: use.layer_norm(x, w[name + ".weight"], w[name + ".bias"], eps)

    def linear(name: str, x: Array) -> Array:
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def attention(name: str) -> Function:
        def run(x: Array) -> Array:
            q, k, v = (use.split_heads(y, n_head) for y in np.split(linear(name + ".c_attn", x), 3, axis=-1))
            return linear(name + ".c_proj", use.merge_heads(use.attn_weights(use.attn_scores(q, k)) @ v))

        return run

    def mlp(name: str) -> Function:
        return lambda x: linear(name + ".c_proj", use.gelu(linear(name + ".c_fc", x)))

    def logits(ids: Array) -> Array:
        x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
        for h in (f"h.{i}" for i in range(n_layer)):
            x = use.block(x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + ".ln_2"), mlp(h + ".mlp"))
        return norm("ln_f")(x) @ w.get("lm_head.weight", w["wte.weight"]).T

    return logits
