"""GPT-2 around torch's own ``nn.MultiheadAttention``, with keyword arguments and a head tied by assignment."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, embed_dim, num_heads, ff_dim, dropout):
        super().__init__()
        self.norm_attn = nn.LayerNorm(embed_dim, eps=1e-5)
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)
        self.norm_ff = nn.LayerNorm(embed_dim, eps=1e-5)
        self.ff = nn.Sequential(
            nn.Linear(embed_dim, ff_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(ff_dim, embed_dim),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x, causal):
        h = self.norm_attn(x)
        h, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)
        x = x + self.drop(h)
        h = self.norm_ff(x)
        x = x + self.drop(self.ff(h))
        return x


class Decoder(nn.Module):
    def __init__(
        self,
        vocab_size=50257,
        max_seq_len=1024,
        embed_dim=768,
        num_heads=12,
        num_layers=12,
        ff_dim=3072,
        dropout=0.1,
    ):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.pos = nn.Embedding(max_seq_len, embed_dim)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(embed_dim, num_heads, ff_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)
        self.to_logits = nn.Linear(embed_dim, vocab_size, bias=False)
        self.to_logits.weight = self.embed.weight

    def forward(self, input_ids):
        length = input_ids.size(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)
        positions = torch.arange(length, device=input_ids.device).unsqueeze(0)
        x = self.drop(self.embed(input_ids) + self.pos(positions))
        for layer in self.layers:
            x = layer(x, causal)
        return self.to_logits(self.norm(x))
