"""GPT-2 that always computes its whole context: ids are padded, the position table is added as a whole, and the answer
is cut to length. Two modules are left over from an earlier experiment and never run.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class MHA(nn.Module):
    def __init__(self, d_model, n_heads, max_len):
        super().__init__()
        self.n_heads = n_heads
        self.query_key = nn.Linear(d_model, 2 * d_model)
        self.value = nn.Linear(d_model, d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.rel_bias = nn.Parameter(torch.randn(n_heads, max_len))  # relative positions: not used any more
        mask = torch.full((max_len, max_len), float("-inf")).triu(1)
        self.register_buffer("causal", mask, persistent=False)

    def forward(self, x):
        b, t, d = x.shape
        h = self.n_heads
        q, k = self.query_key(x).tensor_split(2, dim=-1)
        v = self.value(x)
        q, k, v = (z.view(b, t, h, d // h).permute(0, 2, 1, 3) for z in (q, k, v))
        logits = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(d / h)
        attn = F.softmax(logits + self.causal, dim=-1)
        z = torch.einsum("bhij,bhjd->bihd", attn, v)
        return self.mix(z.reshape(b, t, d))


class EncoderBlock(nn.Module):
    def __init__(self, d_model, n_heads, max_len):
        super().__init__()
        self.ln_a = nn.LayerNorm(d_model)
        self.mha = MHA(d_model, n_heads, max_len)
        self.ln_b = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.contract = nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        x = self.mha(self.ln_a(x)) + x
        return self.contract(F.gelu(self.expand(self.ln_b(x)), approximate="tanh")) + x


class MiniLM(nn.Module):
    def __init__(self, n_tokens, max_len, d_model=512, n_heads=8, n_blocks=6):
        super().__init__()
        self.max_len = max_len
        self.tok = nn.Embedding(n_tokens, d_model)
        self.pos = nn.Parameter(torch.randn(max_len, d_model))
        self.blocks = nn.ModuleList(EncoderBlock(d_model, n_heads, max_len) for _ in range(n_blocks))
        self.ln_out = nn.LayerNorm(d_model)
        self.pooler = nn.Linear(d_model, d_model)  # for the classifier: not used here
        self.unembed = nn.Linear(d_model, n_tokens, bias=False)

    def forward(self, ids):
        length = ids.shape[1]
        ids = F.pad(ids, (0, self.max_len - length))
        x = self.tok(ids) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln_out(x[:, :length]))
