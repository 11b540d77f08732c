"""GPT-2 as torch's ``nn.TransformerEncoder`` with a causal mask; the token table is the head, by ``F.linear``."""

from argparse import Namespace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class CausalTransformer(nn.Module):
    def __init__(self, args: Namespace):
        super().__init__()
        self.args = args
        self.word_embeddings = nn.Embedding(args.vocab, args.d_model)
        self.position_embeddings = nn.Embedding(args.seq_len, args.d_model)
        layer = nn.TransformerEncoderLayer(
            d_model=args.d_model,
            nhead=args.nhead,
            dim_feedforward=args.d_ff,
            dropout=args.dropout,
            activation=partial(F.gelu, approximate="tanh"),
            layer_norm_eps=1e-5,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer,
            num_layers=args.num_layers,
            norm=nn.LayerNorm(args.d_model, eps=1e-5),
            enable_nested_tensor=False,
        )

    def forward(self, tokens):
        batch, length = tokens.shape
        weight = self.word_embeddings.weight
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device, dtype=weight.dtype)
        pos = torch.arange(length, device=tokens.device).expand(batch, length)
        x = self.word_embeddings(tokens) + self.position_embeddings(pos)
        x = self.encoder(x, mask=mask)
        return F.linear(x, weight)
