"""GPT-2 in the style of the book "Build a Large Language Model (From Scratch)".

The idea: a plain dictionary configures it; query, key and value are three layers, the norms call their
parameters ``scale`` and ``shift``, the causal mask is a saved buffer, and the output head owns its weights.
Attention is spelled out in small steps, so that ``tests/mutants.py`` can get exactly one of them wrong.

Shapes: B prompts, T tokens, C width, H heads, D = C / H.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class LayerNorm(nn.Module):
    def __init__(self, emb_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        var = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift


class GELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class MultiHeadAttention(nn.Module):
    mask: Tensor

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        width, context, qkv_bias = cfg["emb_dim"], cfg["context_length"], cfg["qkv_bias"]
        self.n_heads = cfg["n_heads"]
        self.W_query = nn.Linear(width, width, bias=qkv_bias)
        self.W_key = nn.Linear(width, width, bias=qkv_bias)
        self.W_value = nn.Linear(width, width, bias=qkv_bias)
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(cfg["drop_rate"])
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1))

    def split_heads(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.n_heads, width // self.n_heads).transpose(1, 2)  # (B, H, T, D)

    def attn_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])  # (B, H, T, T)

    def attn_weights(self, scores: Tensor) -> Tensor:
        tokens = scores.shape[-1]
        future = self.mask[:tokens, :tokens].bool()
        return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)

    def merge_heads(self, x: Tensor) -> Tensor:
        batch, heads, tokens, head_dim = x.shape
        return x.transpose(1, 2).reshape(batch, tokens, heads * head_dim)  # (B, T, C)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.split_heads(self.W_query(x))
        keys = self.split_heads(self.W_key(x))
        values = self.split_heads(self.W_value(x))
        weights = self.dropout(self.attn_weights(self.attn_scores(queries, keys)))
        return self.out_proj(self.merge_heads(weights @ values))


class FeedForward(nn.Module):
    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(emb_dim, 4 * emb_dim), GELU(), nn.Linear(4 * emb_dim, emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TransformerBlock(nn.Module):
    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        width, eps = cfg["emb_dim"], cfg.get("eps", 1e-5)
        self.att = MultiHeadAttention(cfg)
        self.ff = FeedForward(width)
        self.norm1 = LayerNorm(width, eps)
        self.norm2 = LayerNorm(width, eps)
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """``GPTModel(cfg)(ids) -> logits``, from int64 (B, T) to (B, T, vocab_size).

    Args:
        cfg: ``vocab_size context_length emb_dim n_heads n_layers drop_rate qkv_bias``, maybe ``eps``.
    """

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"], cfg.get("eps", 1e-5))
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def embed(self, in_idx: Tensor) -> Tensor:
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        return self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))

    def forward(self, in_idx: Tensor) -> Tensor:
        x = self.trf_blocks(self.embed(in_idx))
        return self.out_head(self.final_norm(x))
