"""GPT-2 written to be taken apart: a Python loop over heads, each head writes to the residual stream by itself."""

import numpy as np
import torch
import torch.nn as nn


class AttentionLayer(nn.Module):
    def __init__(self, d_resid, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.d_head = d_resid // n_heads
        self.W_QKV = nn.Parameter(torch.randn(d_resid, 3 * d_resid) / np.sqrt(d_resid))
        self.B_QKV = nn.Parameter(torch.zeros(3 * d_resid))
        self.W_O = nn.Parameter(torch.randn(d_resid, d_resid) / np.sqrt(d_resid))
        self.B_O = nn.Parameter(torch.zeros(d_resid))

    def head_result(self, resid, head):
        d_resid = resid.shape[-1]
        cols = slice(head * self.d_head, (head + 1) * self.d_head)
        W_Q, W_K, W_V = self.W_QKV.split(d_resid, dim=1)
        B_Q, B_K, B_V = self.B_QKV.split(d_resid)
        q = resid @ W_Q[:, cols] + B_Q[cols]
        k = resid @ W_K[:, cols] + B_K[cols]
        v = resid @ W_V[:, cols] + B_V[cols]
        pattern = self.pattern(q, k)
        return pattern @ v @ self.W_O[cols, :]

    def pattern(self, q, k):
        score = q @ k.mT / np.sqrt(self.d_head)
        n = score.shape[-1]
        hidden = torch.ones_like(score, dtype=torch.bool).triu(1)
        assert hidden.shape[-2:] == (n, n)
        score = score.masked_fill(hidden, -torch.inf)
        return score.softmax(-1)

    def forward(self, resid):
        out = self.B_O.expand_as(resid)
        for head in range(self.n_heads):
            out = out + self.head_result(resid, head)
        return out


class MLPLayer(nn.Module):
    def __init__(self, d_resid, d_neurons):
        super().__init__()
        self.read = nn.Parameter(torch.randn(d_neurons, d_resid) / np.sqrt(d_resid))
        self.threshold = nn.Parameter(torch.zeros(d_neurons))
        self.write = nn.Parameter(torch.randn(d_neurons, d_resid) / np.sqrt(d_neurons))
        self.offset = nn.Parameter(torch.zeros(d_resid))

    def forward(self, resid):
        pre = resid @ self.read.T + self.threshold
        post = torch.nn.functional.gelu(pre, approximate="tanh")
        return post @ self.write + self.offset


class CleanTransformer(nn.Module):
    def __init__(self, d_vocab, d_ctx, d_resid, n_layers, n_heads):
        super().__init__()
        self.W_embed = nn.Parameter(torch.randn(d_vocab, d_resid))
        self.W_position = nn.Parameter(torch.randn(d_ctx, d_resid))
        self.attention = nn.ModuleList()
        self.mlp = nn.ModuleList()
        self.ln_before_attention = nn.ModuleList()
        self.ln_before_mlp = nn.ModuleList()
        for _ in range(n_layers):
            self.attention.append(AttentionLayer(d_resid, n_heads))
            self.mlp.append(MLPLayer(d_resid, 4 * d_resid))
            self.ln_before_attention.append(nn.LayerNorm(d_resid))
            self.ln_before_mlp.append(nn.LayerNorm(d_resid))
        self.ln_final = nn.LayerNorm(d_resid)

    def forward(self, tokens):
        resid = self.W_embed[tokens] + self.W_position[: tokens.shape[-1]]
        for i in range(len(self.attention)):
            resid = resid + self.attention[i](self.ln_before_attention[i](resid))
            resid = resid + self.mlp[i](self.ln_before_mlp[i](resid))
        return self.ln_final(resid) @ self.W_embed.T
