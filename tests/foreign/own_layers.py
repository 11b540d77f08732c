"""GPT-2 by a student who may not use ``torch.nn`` layers: own Linear, Embedding, LayerNorm, softmax and attention."""

import math

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        std = math.sqrt(2 / (d_in + d_out))
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(d_out, d_in), std=std, a=-3 * std, b=3 * std))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.weight) + self.bias


class Embedding(nn.Module):
    def __init__(self, num_embeddings: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_embeddings, d_model))

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.weight[token_ids]


class LayerNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(d_model))
        self.beta = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        mean = x.sum(-1, keepdim=True) / d
        var = ((x - mean) ** 2).sum(-1, keepdim=True) / d
        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta


def softmax(x: Tensor, dim: int) -> Tensor:
    rescaled = x - torch.max(x, dim=dim, keepdim=True)[0]
    exponentiated = torch.exp(rescaled)
    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True)


def gelu(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + torch.tanh(inner))


def scaled_dot_product_attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor) -> Tensor:
    d_k = K.shape[-1]
    scores = torch.einsum("...qd,...kd->...qk", Q, K) / math.sqrt(d_k)
    scores = torch.where(mask, scores, float("-inf"))
    probs = softmax(scores, dim=-1)
    return torch.einsum("...qk,...kd->...qd", probs, V)


class CausalMultiHeadSelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.d_k = d_model // num_heads
        self.q_proj = Linear(d_model, d_model)
        self.k_proj = Linear(d_model, d_model)
        self.v_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.d_k)).movedim(-2, -3)

    def forward(self, x: Tensor) -> Tensor:
        seq = torch.arange(x.shape[-2], device=x.device)
        mask = seq[:, None] >= seq
        Q, K, V = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        out = scaled_dot_product_attention(Q, K, V, mask)
        return self.output_proj(out.movedim(-3, -2).flatten(-2))


class TransformerBlock(nn.Module):
    def __init__(self, d_model: int, num_heads: int, d_ff: int):
        super().__init__()
        self.ln1, self.ln2 = LayerNorm(d_model), LayerNorm(d_model)
        self.attn = CausalMultiHeadSelfAttention(d_model, num_heads)
        self.w1, self.w2 = Linear(d_model, d_ff), Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attn(self.ln1(x))
        return y + self.w2(gelu(self.w1(self.ln2(y))))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int, context_length: int, d_model: int, num_layers: int, num_heads: int, d_ff: int):
        super().__init__()
        self.token_embeddings = Embedding(vocab_size, d_model)
        self.position_embeddings = Embedding(context_length, d_model)
        self.layers = nn.ModuleList([TransformerBlock(d_model, num_heads, d_ff) for _ in range(num_layers)])
        self.ln_final = LayerNorm(d_model)

    def forward(self, in_indices: Tensor) -> Tensor:
        x = self.token_embeddings(in_indices)
        x = x + self.position_embeddings(torch.arange(in_indices.shape[-1], device=x.device))
        for layer in self.layers:
            x = layer(x)
        return torch.einsum("...d,vd->...v", self.ln_final(x), self.token_embeddings.weight)
