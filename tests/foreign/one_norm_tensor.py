"""GPT-2 tuned for few, large tensors: all norms in one ``[L, 2, 2, E]``, queries, keys and values alternate in a row,
and the constructor wants a device and a dtype.
"""

import torch
from torch import nn
from torch.nn import functional as F


class FastGPT(nn.Module):
    def __init__(self, n_vocab, n_ctx, n_layer, n_head, d_head, device, dtype=torch.float32):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        d = n_head * d_head
        self.n_layer, self.n_head, self.d_head = n_layer, n_head, d_head
        self.table = nn.Parameter(torch.randn(n_vocab + n_ctx, d, **where))  # words, and below them positions
        self.n_vocab = n_vocab
        self.norms = nn.Parameter(torch.ones(n_layer, 2, 2, d, **where))  # layer, first or second, gain or shift
        self.last_norm = nn.Parameter(torch.ones(2, d, **where))
        self.qkv_w = nn.ParameterList([torch.randn(3 * d, d, **where) for _ in range(n_layer)])
        self.qkv_b = nn.ParameterList([torch.zeros(3 * d, **where) for _ in range(n_layer)])
        self.out = nn.ModuleList([nn.Linear(d, d, **where) for _ in range(n_layer)])
        self.mlp = nn.ModuleList([nn.Sequential(nn.Linear(d, 4 * d, **where), nn.Linear(4 * d, d, **where))])
        for _ in range(n_layer - 1):
            self.mlp.append(nn.Sequential(nn.Linear(d, 4 * d, **where), nn.Linear(4 * d, d, **where)))

    def norm(self, x, gain_and_shift):
        gain, shift = gain_and_shift
        return F.layer_norm(x, gain.shape, gain, shift)

    def attention(self, x, layer):
        batch, length, d = x.shape
        y = F.linear(x, self.qkv_w[layer], self.qkv_b[layer]).view(batch, length, self.n_head, self.d_head, 3)
        q, k, v = y.transpose(1, 2).unbind(-1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out[layer](y.transpose(1, 2).reshape(batch, length, d))

    def feed_forward(self, x, layer):
        up, down = self.mlp[layer]
        return down(F.gelu(up(x), approximate="tanh"))

    def forward(self, ids):
        words, positions = self.table.split([self.n_vocab, self.table.shape[0] - self.n_vocab])
        x = words[ids] + positions[: ids.shape[1]]
        for layer in range(self.n_layer):
            x = x + self.attention(self.norm(x, self.norms[layer, 0]), layer)
            x = x + self.feed_forward(self.norm(x, self.norms[layer, 1]), layer)
        return self.norm(x, self.last_norm) @ words.T
