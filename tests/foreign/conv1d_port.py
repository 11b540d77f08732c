"""GPT-2 in the style of the first ports from TensorFlow: ``Conv1D``, norms with ``g`` and ``b``, presents returned."""

import math

import torch
import torch.nn as nn


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class LayerNorm(nn.Module):
    def __init__(self, n_state, e=1e-5):
        super().__init__()
        self.g = nn.Parameter(torch.ones(n_state))
        self.b = nn.Parameter(torch.zeros(n_state))
        self.e = e

    def forward(self, x):
        u = x.mean(-1, keepdim=True)
        s = (x - u).pow(2).mean(-1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.e)
        return self.g * x + self.b


class Conv1D(nn.Module):
    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.w = nn.Parameter(torch.empty(nx, nf).normal_(std=0.02))
        self.b = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        size_out = (*x.size()[:-1], self.nf)
        x = torch.addmm(self.b, x.view(-1, x.size(-1)), self.w)
        return x.view(*size_out)


class Attention(nn.Module):
    def __init__(self, nx, n_ctx, cfg, scale=True):
        super().__init__()
        self.n_head = cfg["n_head"]
        self.scale = scale
        self.register_buffer("mask", torch.tril(torch.ones(n_ctx, n_ctx)).view(1, 1, n_ctx, n_ctx))
        self.c_attn = Conv1D(nx * 3, nx)
        self.c_proj = Conv1D(nx, nx)

    def _attn(self, q, k, v):
        w = torch.matmul(q, k)
        if self.scale:
            w = w / math.sqrt(v.size(-1))
        nd, ns = w.size(-2), w.size(-1)
        m = self.mask[:, :, ns - nd : ns, :ns]
        w = w * m - 1e10 * (1 - m)
        w = nn.Softmax(dim=-1)(w)
        return torch.matmul(w, v)

    def merge_heads(self, x):
        x = x.permute(0, 2, 1, 3).contiguous()
        return x.view(*x.size()[:-2], x.size(-2) * x.size(-1))

    def split_heads(self, x, k=False):
        x = x.view(*x.size()[:-1], self.n_head, x.size(-1) // self.n_head)
        return x.permute(0, 2, 3, 1) if k else x.permute(0, 2, 1, 3)

    def forward(self, x, layer_past=None):
        query, key, value = self.c_attn(x).split(x.size(-1), dim=2)
        query = self.split_heads(query)
        key = self.split_heads(key, k=True)
        value = self.split_heads(value)
        if layer_past is not None:
            past_key, past_value = layer_past[0].transpose(-2, -1), layer_past[1]
            key = torch.cat((past_key, key), dim=-1)
            value = torch.cat((past_value, value), dim=-2)
        present = torch.stack((key.transpose(-2, -1), value))
        return self.c_proj(self.merge_heads(self._attn(query, key, value))), present


class Block(nn.Module):
    def __init__(self, n_ctx, cfg):
        super().__init__()
        nx = cfg["n_embd"]
        self.ln_1 = LayerNorm(nx)
        self.attn = Attention(nx, n_ctx, cfg)
        self.ln_2 = LayerNorm(nx)
        self.c_fc = Conv1D(4 * nx, nx)
        self.c_proj = Conv1D(nx, 4 * nx)

    def forward(self, x, layer_past=None):
        a, present = self.attn(self.ln_1(x), layer_past)
        x = x + a
        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))
        return x + m, present


class GPT2LM(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.wte = nn.Embedding(cfg["n_vocab"], cfg["n_embd"])
        self.wpe = nn.Embedding(cfg["n_ctx"], cfg["n_embd"])
        self.h = nn.ModuleList([Block(cfg["n_ctx"], cfg) for _ in range(cfg["n_layer"])])
        self.ln_f = LayerNorm(cfg["n_embd"])

    def forward(self, input_ids, past=None):
        past_length = 0 if past is None else past[0][0].size(-2)
        past = [None] * len(self.h) if past is None else past
        position_ids = torch.arange(past_length, input_ids.size(-1) + past_length, device=input_ids.device)
        hidden_states = self.wte(input_ids) + self.wpe(position_ids)
        presents = []
        for block, layer_past in zip(self.h, past, strict=True):
            hidden_states, present = block(hidden_states, layer_past)
            presents.append(present)
        hidden_states = self.ln_f(hidden_states)
        return torch.matmul(hidden_states, self.wte.weight.t()), presents
