"""GPT-2 in the style of TransformerLens: each head has its own matrices, and einsum says which axis is which.

The idea: a head dimension in the weights, ``W_Q[head, width, head width]``, no fused layer anywhere, and an
output layer (``unembed``) with a bias that GPT-2 does not have: zero.

Letters in einsum: b batch, q and k positions, h head, e width, d head width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, einsum, nn


@dataclass
class Config:
    d_vocab: int = 50257
    n_ctx: int = 1024
    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    d_head: int = 64
    d_mlp: int = 3072
    eps: float = 1e-5


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(*shape))


def bias(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


class Embed(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_E = weight(cfg.d_vocab, cfg.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.W_E[tokens]


class PosEmbed(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_pos = weight(cfg.n_ctx, cfg.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.W_pos[: tokens.shape[1]].expand(*tokens.shape, -1)


class LayerNorm(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = bias(cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return x / scale * self.w + self.b


class Attention(nn.Module):
    mask: Tensor
    IGNORE: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        h, e, d = cfg.n_heads, cfg.d_model, cfg.d_head
        self.W_Q, self.b_Q = weight(h, e, d), bias(h, d)
        self.W_K, self.b_K = weight(h, e, d), bias(h, d)
        self.W_V, self.b_V = weight(h, e, d), bias(h, d)
        self.W_O, self.b_O = weight(h, d, e), bias(e)
        self.register_buffer("mask", torch.ones(cfg.n_ctx, cfg.n_ctx, dtype=torch.bool).tril())
        self.register_buffer("IGNORE", torch.tensor(-torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        q = einsum("bqe,hed->bqhd", x, self.W_Q) + self.b_Q
        k = einsum("bke,hed->bkhd", x, self.W_K) + self.b_K
        v = einsum("bke,hed->bkhd", x, self.W_V) + self.b_V
        scores = einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        scores = torch.where(self.mask[: x.shape[1], : x.shape[1]], scores, self.IGNORE)
        z = einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return einsum("bqhd,hde->bqe", z, self.W_O) + self.b_O


class MLP(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_in, self.b_in = weight(cfg.d_model, cfg.d_mlp), bias(cfg.d_mlp)
        self.W_out, self.b_out = weight(cfg.d_mlp, cfg.d_model), bias(cfg.d_model)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x @ self.W_in + self.b_in) @ self.W_out + self.b_out


class Block(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.ln1 = LayerNorm(cfg)
        self.attn = Attention(cfg)
        self.ln2 = LayerNorm(cfg)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Unembed(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_U, self.b_U = weight(cfg.d_model, cfg.d_vocab), bias(cfg.d_vocab)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W_U + self.b_U


class Transformer(nn.Module):
    """``Transformer(cfg)(tokens) -> logits``, from int64 [batch, tokens] to [batch, tokens, d_vocab]."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.embed = Embed(cfg)
        self.pos_embed = PosEmbed(cfg)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final = LayerNorm(cfg)
        self.unembed = Unembed(cfg)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.pos_embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln_final(x))
