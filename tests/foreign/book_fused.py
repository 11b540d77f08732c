"""GPT-2 in the style of the book's fast variant: one ``qkv`` layer, torch's LayerNorm and fused attention.

The idea: the same dictionary and outer names as ``book.py``, but inside a block everything is torch's; there
is no mask buffer, and the norms say ``weight`` and ``bias``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.n_heads = cfg["n_heads"]
        self.drop_rate = cfg["drop_rate"]
        self.qkv = nn.Linear(cfg["emb_dim"], 3 * cfg["emb_dim"], bias=cfg["qkv_bias"])
        self.proj = nn.Linear(cfg["emb_dim"], cfg["emb_dim"])

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.n_heads, width // self.n_heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_dim)
        rate = self.drop_rate if self.training else 0.0
        context = F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate, is_causal=True)
        return self.proj(context.transpose(1, 2).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(emb_dim, 4 * emb_dim), nn.GELU(approximate="tanh"), nn.Linear(4 * emb_dim, emb_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TransformerBlock(nn.Module):
    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        width, eps = cfg["emb_dim"], cfg.get("eps", 1e-5)
        self.att = MultiHeadAttention(cfg)
        self.ff = FeedForward(width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """``GPTModel(cfg)(ids) -> logits``, from int64 (batch, tokens) to (batch, tokens, vocab_size).

    Args:
        cfg: ``vocab_size context_length emb_dim n_heads n_layers drop_rate qkv_bias``, maybe ``eps``.
    """

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = nn.LayerNorm(cfg["emb_dim"], eps=cfg.get("eps", 1e-5))
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx: Tensor) -> Tensor:
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        x = self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))
        return self.out_head(self.final_norm(self.trf_blocks(x)))
