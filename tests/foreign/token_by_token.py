"""GPT-2 that reads one token at a time and remembers keys and values, as a generator does; it needs no mask."""

import math

import torch
from torch import nn


class Memory:
    def __init__(self, n_layers):
        self.keys = [[] for _ in range(n_layers)]
        self.values = [[] for _ in range(n_layers)]

    def append(self, layer, key, value):
        self.keys[layer].append(key)
        self.values[layer].append(value)
        return torch.stack(self.keys[layer], dim=2), torch.stack(self.values[layer], dim=2)


class Cell(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.ln_in = nn.LayerNorm(size)
        self.project_in = nn.Linear(size, 3 * size)
        self.project_out = nn.Linear(size, size)
        self.ln_mid = nn.LayerNorm(size)
        self.hidden = nn.Linear(size, 4 * size)
        self.visible = nn.Linear(4 * size, size)

    def forward(self, x, layer, memory):
        batch, size = x.shape
        q, k, v = self.project_in(self.ln_in(x)).view(batch, 3, self.heads, size // self.heads).unbind(1)
        keys, values = memory.append(layer, k, v)  # [batch, heads, tokens so far, size of a head]
        scores = (keys @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(size // self.heads)
        weights = torch.softmax(scores, dim=-1)
        context = (weights.unsqueeze(-2) @ values).squeeze(-2)
        x = x + self.project_out(context.reshape(batch, size))
        h = self.hidden(self.ln_mid(x))
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return x + self.visible(h)


class RecurrentGPT(nn.Module):
    def __init__(self, n_words, n_steps, size=256, heads=4, layers=4):
        super().__init__()
        self.words = nn.Embedding(n_words, size)
        self.steps = nn.Embedding(n_steps, size)
        self.cells = nn.ModuleList([Cell(size, heads) for _ in range(layers)])
        self.ln_out = nn.LayerNorm(size)
        self.readout = nn.Linear(size, n_words, bias=False)
        self.readout.weight = self.words.weight

    def step(self, word, t, memory):
        x = self.words(word) + self.steps.weight[t]
        for layer, cell in enumerate(self.cells):
            x = cell(x, layer, memory)
        return self.readout(self.ln_out(x))

    def forward(self, words):
        memory = Memory(len(self.cells))
        logits = [self.step(words[:, t], t, memory) for t in range(words.size(1))]
        return torch.stack(logits, dim=1)
