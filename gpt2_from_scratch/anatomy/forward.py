"""GPT-2 from canonical weights, in float64: pure functions, nothing hidden, no modules.

Input: a configuration, tensors under canonical names (Hugging Face's `GPT2Model` names without a prefix, linear weights
``[in, out]``) and token ids. Output: logits. This is the project's plain statement of what GPT-2 computes; `entries`
lists every intermediate of the same run. Everything after the embedding is computed in the precision of its input.

Shapes: B prompts, T queries, S keys (as many as T), C width, H heads, D = C / H, F inner width, V vocabulary.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.activations import FORMULAS
from gpt2_from_scratch.config import GPTConfig

Weights = Mapping[str, Tensor]

_ROWS = 1024  # of the vocabulary that are widened at a time: the whole table of GPT-2 is 300 MB in float64


def logits(config: GPTConfig, weights: Weights, ids: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """GPT-2's logits.

    Args:
        config: sizes and options.
        weights: canonical name -> tensor, in any floating-point dtype.
        ids: int64 ``[B, T]``.
        dtype: in which they are computed.

    Returns:
        ``[B, T, V]``; row ``t`` scores the token after token ``t``.

    Example:
        >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)
        >>> weights = {name: torch.randn(shape) for name, shape in config.tensor_shapes().items()}
        >>> logits(config, weights, torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 11])
    """
    x = embedding(weights, ids, dtype)
    for layer in range(config.n_layer):
        x = block(config, weights, layer, x)
    return head(weights, layer_norm(config, weights, "ln_f", x))


def embedding(weights: Weights, ids: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The token's vector plus the position's: ``[B, T]`` -> ``[B, T, C]``."""
    return weights["wte.weight"][ids].to(dtype) + weights["wpe.weight"][: ids.shape[-1]].to(dtype)


def block(config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    """One layer: attention and feed-forward, each added to the stream that it read through its norm."""
    h = f"h.{layer}"
    x = x + attention(config, weights, layer, layer_norm(config, weights, f"{h}.ln_1", x))
    return x + feed_forward(config, weights, layer, layer_norm(config, weights, f"{h}.ln_2", x))


def layer_norm(config: GPTConfig, weights: Weights, name: str, x: Tensor) -> Tensor:
    """Each token to mean 0 and (biased) variance 1, then gain and bias."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(-1, keepdim=True) + config.layer_norm_epsilon)
    return centred / deviation * weights[f"{name}.weight"].to(x.dtype) + weights[f"{name}.bias"].to(x.dtype)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """``x W + b`` with ``W`` stored ``[in, out]``."""
    return x @ weights[f"{name}.weight"].to(x.dtype) + weights[f"{name}.bias"].to(x.dtype)


def scale(config: GPTConfig, layer: int) -> float:
    """What the raw scores of a layer are multiplied by; GPT-2: ``1 / sqrt(D)``."""
    factor = config.head_dim**-0.5 if config.scale_attn_weights else 1.0
    return factor / (layer + 1) if config.scale_attn_by_inverse_layer_idx else factor


def attention(config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    """Each token's average of the values at itself and before it, weighted by how its query fits their keys."""
    q, k, v = queries_keys_values(config, weights, layer, x)
    scores = q @ k.transpose(-1, -2) * scale(config, layer)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    probabilities = torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)  # (B, H, T, S)
    merged = (probabilities @ v).transpose(-3, -2).flatten(-2)  # (B, T, C)
    return linear(weights, f"h.{layer}.attn.c_proj", merged)


def queries_keys_values(config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What attention makes of its input, each ``[B, H, T, D]``."""
    qkv = linear(weights, f"h.{layer}.attn.c_attn", x).view(*x.shape[:-1], 3, config.n_head, config.head_dim)
    q, k, v = qkv.movedim(-3, 0).transpose(-3, -2)
    return q, k, v


def feed_forward(config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    """Two linear layers with the activation between them, on each token by itself."""
    activated = FORMULAS[config.activation_function](linear(weights, f"h.{layer}.mlp.c_fc", x))
    return linear(weights, f"h.{layer}.mlp.c_proj", activated)


def head(weights: Weights, x: Tensor) -> Tensor:
    """``x W^T`` with ``W`` the token embedding, or the head's own where it has one: ``[B, T, C]`` -> ``[B, T, V]``."""
    own = weights.get("lm_head.weight")
    table = weights["wte.weight"] if own is None else own
    # Filled in place: parts kept between the widened rows would keep the heap from using their memory again.
    logits = x.new_empty(*x.shape[:-1], len(table))
    for start in range(0, len(table), _ROWS):
        logits[..., start : start + _ROWS] = x @ table[start : start + _ROWS].to(x.dtype).T
    return logits
