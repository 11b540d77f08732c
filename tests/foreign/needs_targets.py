"""GPT-2 from somebody's training script: a nested dictionary of settings, targets required, a dictionary returned, and
it prints what it does. Keys and values come from one layer, queries from another.
"""

import math

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, model_cfg):
        super().__init__()
        dim = model_cfg["dim"]
        self.heads = model_cfg["heads"]
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_q = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x, mask):
        bs, length, dim = x.shape
        per_head = dim // self.heads
        k, v = torch.chunk(self.to_kv(x), 2, dim=-1)
        q = self.to_q(x)
        q = q.view(bs, length, self.heads, per_head).transpose(1, 2)
        k = k.view(bs, length, self.heads, per_head).transpose(1, 2)
        v = v.view(bs, length, self.heads, per_head).transpose(1, 2)
        att = (q @ k.mT) / math.sqrt(per_head)
        att = att.masked_fill(~mask, float("-inf"))
        att = att - att.amax(dim=-1, keepdim=True)
        att = att.exp()
        att = att / att.sum(dim=-1, keepdim=True)
        y = att @ v
        y = y.transpose(1, 2).contiguous().view(bs, length, dim)
        return self.to_out(y)


class TransformerLayer(nn.Module):
    def __init__(self, model_cfg):
        super().__init__()
        dim = model_cfg["dim"]
        self.norms = nn.ModuleDict({"before_attention": nn.LayerNorm(dim), "before_mlp": nn.LayerNorm(dim)})
        self.attention = SelfAttention(model_cfg)
        self.mlp_in = nn.Linear(dim, model_cfg["mlp_ratio"] * dim)
        self.mlp_act = nn.GELU(approximate="tanh")
        self.mlp_out = nn.Linear(model_cfg["mlp_ratio"] * dim, dim)

    def forward(self, x, mask):
        x = x + self.attention(self.norms["before_attention"](x), mask)
        x = x + self.mlp_out(self.mlp_act(self.mlp_in(self.norms["before_mlp"](x))))
        return x


class GPTForTraining(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        model_cfg, data_cfg = cfg["model"], cfg["data"]
        self.token_emb = nn.Embedding(data_cfg["vocab_size"], model_cfg["dim"])
        self.pos_emb = nn.Embedding(data_cfg["seq_len"], model_cfg["dim"])
        self.layers = nn.ModuleList([TransformerLayer(model_cfg) for _ in range(model_cfg["depth"])])
        self.norm_out = nn.LayerNorm(model_cfg["dim"])
        self.loss_fn = nn.CrossEntropyLoss()
        print(f"model has {sum(p.numel() for p in self.parameters()):,} parameters")

    def forward(self, inputs, targets):
        _, length = inputs.shape
        position = torch.arange(0, length, device=inputs.device)
        x = self.token_emb(inputs) + self.pos_emb(position)
        mask = torch.tril(torch.ones(length, length, device=inputs.device)).bool()
        for layer in self.layers:
            x = layer(x, mask)
        logits = self.norm_out(x) @ self.token_emb.weight.t()
        loss = self.loss_fn(logits.flatten(0, 1), targets.flatten())
        print(f"loss: {loss.item():.4f}")
        return {"loss": loss, "logits": logits}
