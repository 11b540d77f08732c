"""GPT-2 with all sizes written into the code, layers as numbered attributes, and queries, keys, values in one order of
its own: key, query, value.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1 = nn.LayerNorm(44)
        self.kqv = nn.Linear(44, 132)
        self.o = nn.Linear(44, 44)
        self.n2 = nn.LayerNorm(44)
        self.f1 = nn.Linear(44, 176)
        self.f2 = nn.Linear(176, 44)

    def forward(self, x, mask):
        n = x.shape[0]
        t = x.shape[1]
        y = self.kqv(self.n1(x))
        k = y[:, :, 0:44].reshape(n, t, 4, 11).transpose(1, 2)
        q = y[:, :, 44:88].reshape(n, t, 4, 11).transpose(1, 2)
        v = y[:, :, 88:132].reshape(n, t, 4, 11).transpose(1, 2)
        a = torch.matmul(q, k.transpose(2, 3)) / (11**0.5)
        a = a + mask[:t, :t]
        a = F.softmax(a, dim=3)
        y = torch.matmul(a, v)
        y = y.transpose(1, 2).reshape(n, t, 44)
        x = x + self.o(y)
        y = self.f1(self.n2(x))
        y = F.gelu(y, approximate="tanh")
        x = x + self.f2(y)
        return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(211, 44)
        self.pos = nn.Parameter(torch.zeros(1, 37, 44))
        for i in range(12):
            setattr(self, f"layer{i}", Layer())
        self.norm = nn.LayerNorm(44)
        self.head = nn.Linear(44, 211, bias=False)
        self.register_buffer("mask", torch.triu(torch.full((37, 37), -10000.0), diagonal=1))

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos[:, : tokens.shape[1]]
        for i in range(12):
            x = getattr(self, f"layer{i}")(x, self.mask)
        x = self.norm(x)
        return self.head(x)
