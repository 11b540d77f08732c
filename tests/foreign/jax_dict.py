"""GPT-2 as pure functions over a dictionary of dictionaries of arrays, in the style of Haiku, run by numpy.

``params["transformer/h3_attn/query"]["w"]`` is one array. Linear weights are [in, out].
"""

import numpy as np

SQRT_2_OVER_PI = 0.7978845608028654  # a Python number: one of numpy's would turn float32 into float64


def layer_norm(x, params):
    mean = np.mean(x, axis=-1, keepdims=True)
    variance = np.var(x, axis=-1, keepdims=True)
    inv = params["scale"] / np.sqrt(variance + 1e-5)
    return inv * (x - mean) + params["offset"]


def linear(x, params):
    return np.dot(x, params["w"]) + params["b"]


def gelu(x):
    cdf = 0.5 * (1.0 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3)))
    return x * cdf


def softmax(x, axis=-1):
    unnormalized = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return unnormalized / np.sum(unnormalized, axis=axis, keepdims=True)


def causal_attention(x, params, name, num_heads):
    batch, seq_len, d_model = x.shape

    def heads(y):
        return np.reshape(y, (batch, seq_len, num_heads, d_model // num_heads))

    q = heads(linear(x, params[f"{name}/query"]))
    k = heads(linear(x, params[f"{name}/key"]))
    v = heads(linear(x, params[f"{name}/value"]))
    attn_logits = np.einsum("bthd,bThd->bhtT", q, k)
    sqrt_key_size = np.sqrt(d_model // num_heads).astype(x.dtype)
    mask = np.tril(np.ones((1, 1, seq_len, seq_len)))
    attn_logits = np.where(mask, attn_logits / sqrt_key_size, -1e30)
    attn_weights = softmax(attn_logits.astype(x.dtype))
    attn = np.einsum("bhtT,bThd->bthd", attn_weights, v)
    return linear(np.reshape(attn, (batch, seq_len, d_model)), params[f"{name}/linear"])


def dense_block(x, params, name):
    return linear(gelu(linear(x, params[f"{name}/linear"])), params[f"{name}/linear_1"])


def forward(params, tokens, num_heads, num_layers):
    """Logits [batch, sequence, vocabulary] in the dtype of the parameters."""
    seq_len = tokens.shape[1]
    h = params["transformer/embed"]["embeddings"][tokens]
    h = h + params["transformer"]["pos_embs"][:seq_len]
    for i in range(num_layers):
        h_norm = layer_norm(h, params[f"transformer/h{i}_ln_1"])
        h = h + causal_attention(h_norm, params, f"transformer/h{i}_attn", num_heads)
        h_norm = layer_norm(h, params[f"transformer/h{i}_ln_2"])
        h = h + dense_block(h_norm, params, f"transformer/h{i}_mlp")
    h = layer_norm(h, params["transformer/ln_f"])
    return np.matmul(h, params["transformer/embed"]["embeddings"].T)
