"""GPT-2 as matrix products only: one-hot words and positions go through bias-free linear layers."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class Standardize(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n))
        self.shift = nn.Parameter(torch.zeros(n))

    def forward(self, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        return (x - mean) / (var + 1e-5).sqrt() * self.gain + self.shift


class Mixer(nn.Module):
    def __init__(self, conf):
        super().__init__()
        self.n_heads = conf.n_heads
        self.qkv = nn.ModuleList([nn.Linear(conf.embed_size, conf.embed_size) for _ in range(3)])
        self.back = nn.Linear(conf.embed_size, conf.embed_size)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = [f(x).reshape(B, T, self.n_heads, C // self.n_heads).swapaxes(1, 2) for f in self.qkv]
        affinity = torch.matmul(q, k.swapaxes(2, 3)) * (self.n_heads / C) ** 0.5
        lower = torch.tril(torch.ones(T, T, dtype=x.dtype, device=x.device))
        affinity = affinity * lower + (lower - 1.0) * 1e9
        attention = torch.softmax(affinity, dim=-1)
        merged = torch.matmul(attention, v).swapaxes(1, 2).reshape(B, T, C)
        return self.back(merged)


class Unit(nn.Module):
    def __init__(self, conf):
        super().__init__()
        self.std1 = Standardize(conf.embed_size)
        self.mixer = Mixer(conf)
        self.std2 = Standardize(conf.embed_size)
        self.wide = nn.Linear(conf.embed_size, 4 * conf.embed_size)
        self.slim = nn.Linear(4 * conf.embed_size, conf.embed_size)

    def forward(self, x):
        x = torch.add(x, self.mixer(self.std1(x)))
        h = self.wide(self.std2(x))
        h = F.gelu(h, approximate="tanh")
        return torch.add(x, self.slim(h))


class MatrixGPT(nn.Module):
    def __init__(self, conf: SimpleNamespace):
        super().__init__()
        self.n_words, self.n_places = conf.vocabulary, conf.max_length
        self.word_matrix = nn.Linear(conf.vocabulary, conf.embed_size, bias=False)
        self.place_matrix = nn.Linear(conf.max_length, conf.embed_size, bias=False)
        self.units = nn.Sequential(*(Unit(conf) for _ in range(conf.n_units)))
        self.std_final = Standardize(conf.embed_size)

    def forward(self, ids):
        matrix = self.word_matrix.weight
        words = F.one_hot(ids, self.n_words).to(matrix.dtype)
        places = torch.eye(self.n_places, dtype=matrix.dtype, device=ids.device)[: ids.shape[1]]
        x = self.word_matrix(words) + self.place_matrix(places)
        x = self.std_final(self.units(x))
        return x @ matrix
