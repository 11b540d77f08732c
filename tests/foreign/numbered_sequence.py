"""GPT-2 as one ``nn.Sequential``: no name anywhere, only numbers; residual connections are wrappers."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.fn = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.fn(x)


class Positions(nn.Module):
    def __init__(self, length, dim):
        super().__init__()
        self.table = nn.Embedding(length, dim)
        self.register_buffer("index", torch.arange(length), persistent=False)

    def forward(self, x):
        return x + self.table(self.index[: x.size(-2)])


class SplitHeads(nn.Module):
    """From (B, T, 3C) to queries, keys and values, stacked: (3, B, H, T, D)."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, x):
        b, t, c = x.size()
        return x.view(b, t, 3, self.heads, c // self.heads // 3).permute(2, 0, 3, 1, 4)


class Attend(nn.Module):
    def forward(self, qkv):
        q, k, v = qkv
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class MergeHeads(nn.Module):
    def forward(self, x):
        return x.transpose(-2, -3).flatten(-2)


class Unembed(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = [embedding]  # in a list, so that it is not registered a second time

    def forward(self, x):
        return F.linear(x, self.embedding[0].weight)


def gpt(vocab, length, dim, heads, depth):
    embedding = nn.Embedding(vocab, dim)
    layers = [embedding, Positions(length, dim)]
    for _ in range(depth):
        layers.append(
            Residual(
                nn.LayerNorm(dim),
                nn.Linear(dim, 3 * dim),
                SplitHeads(heads),
                Attend(),
                MergeHeads(),
                nn.Linear(dim, dim),
            )
        )
        layers.append(Residual(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim)))
    layers.append(nn.LayerNorm(dim))
    layers.append(Unembed(embedding))
    return nn.Sequential(*layers)
