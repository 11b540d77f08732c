"""GPT-2 as numpy functions over one list of arrays, for one sequence at a time; layers are slices of twelve arrays."""

import numpy as np

PER_LAYER = 12


def norm(x, g, b):
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * g + b


def attend(q, k, v):
    n = len(q)
    scores = q @ k.T / np.sqrt(q.shape[1]).astype(q.dtype)
    scores[np.triu_indices(n, 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True) @ v


def layer(x, arrays, n_heads):
    g1, b1, w_qkv, b_qkv, w_o, b_o, g2, b2, w_up, b_up, w_down, b_down = arrays
    q, k, v = np.split(norm(x, g1, b1) @ w_qkv + b_qkv, 3, axis=1)
    per_head = zip(*(np.split(m, n_heads, axis=1) for m in (q, k, v)), strict=True)
    mixed = np.hstack([attend(*head) for head in per_head])
    x = x + mixed @ w_o + b_o
    u = norm(x, g2, b2) @ w_up + b_up
    u = u / (1 + np.exp(-1.5957691216057308 * (u + 0.044715 * u**3)))
    return x + u @ w_down + b_down


def predict(ids, parameters, n_heads):
    """Logits [n, vocabulary] for one sequence of n ids."""
    wte, wpe, *rest, g, b = parameters
    x = wte[ids] + wpe[np.arange(len(ids))]
    for start in range(0, len(rest), PER_LAYER):
        x = layer(x, rest[start : start + PER_LAYER], n_heads)
    return norm(x, g, b) @ wte.T


def predict_batch(batch, parameters, n_heads):
    return np.stack([predict(ids, parameters, n_heads) for ids in batch])
