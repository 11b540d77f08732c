"""GPT-2 in einsum, for a reader who thinks in axes: one weight ``[E, 3, H, D]`` makes queries, keys and values.

Axes: b batch, t and s positions, e width, h head, d head width, f inner width, v vocabulary.
"""

import math

import torch
from torch import nn


def init(*shape):
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[0]))


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mu = x.mean(-1, keepdim=True)
        centred = x - mu
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + 1e-5) * self.scale + self.offset


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        size = width // heads
        self.qkv = init(width, 3, heads, size)
        self.qkv_bias = nn.Parameter(torch.zeros(3, heads, size))
        self.out = init(heads, size, width)
        self.out_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        q, k, v = torch.einsum("bte,echd->cbthd", x, self.qkv) + self.qkv_bias[:, None, None]
        logits = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
        steps = torch.arange(x.shape[1], device=x.device)
        visible = steps[:, None] >= steps[None, :]
        logits = torch.where(visible, logits, -torch.inf)
        weights = torch.softmax(logits, dim=-1)
        mixed = torch.einsum("bhts,bshd->bthd", weights, v)
        return torch.einsum("bthd,hde->bte", mixed, self.out) + self.out_bias


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up, self.up_bias = init(width, inner), nn.Parameter(torch.zeros(inner))
        self.down, self.down_bias = init(inner, width), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        h = torch.einsum("bte,ef->btf", x, self.up) + self.up_bias
        h = h * 0.5 * (1 + torch.tanh(0.7978845608028654 * h * (1 + 0.044715 * h * h)))
        return torch.einsum("btf,fe->bte", h, self.down) + self.down_bias


class Gpt2(nn.Module):
    def __init__(self, *, vocab, length, width, heads, depth, expansion=4):
        super().__init__()
        self.tokens = init(vocab, width)
        self.positions = init(length, width)
        self.attns = nn.ModuleList(Attention(width, heads) for _ in range(depth))
        self.mlps = nn.ModuleList(Mlp(width, expansion * width) for _ in range(depth))
        self.norms = nn.ModuleList(Norm(width) for _ in range(2 * depth + 1))

    def forward(self, ids):
        x = self.tokens[ids] + self.positions[: ids.shape[1]]
        for i, (attn, mlp) in enumerate(zip(self.attns, self.mlps, strict=True)):
            x = x + attn(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return torch.einsum("bte,ve->btv", self.norms[-1](x), self.tokens)
