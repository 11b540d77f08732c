"""GPT-2 with the sequence axis first: ids ``[T, B]`` to logits ``[T, B, V]``, and heads folded into the batch."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, ninp, nhead):
        super().__init__()
        self.nhead = nhead
        self.head_dim = ninp // nhead
        self.in_proj = nn.Linear(ninp, 3 * ninp)
        self.out_proj = nn.Linear(ninp, ninp)

    def forward(self, src, src_mask):
        seq_len, bsz, ninp = src.size()
        q, k, v = self.in_proj(src).chunk(3, dim=-1)
        q = q * self.head_dim**-0.5
        q = q.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)
        k = k.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)
        v = v.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)
        attn = torch.baddbmm(src_mask, q, k.transpose(1, 2))
        attn = torch.softmax(attn, dim=-1)
        out = torch.bmm(attn, v)
        out = out.transpose(0, 1).reshape(seq_len, bsz, ninp)
        return self.out_proj(out)


class Layer(nn.Module):
    def __init__(self, ninp, nhead, nhid, dropout):
        super().__init__()
        self.self_attn = Attention(ninp, nhead)
        self.linear1 = nn.Linear(ninp, nhid)
        self.activation = nn.GELU("tanh")
        self.linear2 = nn.Linear(nhid, ninp)
        self.norm1 = nn.LayerNorm(ninp)
        self.norm2 = nn.LayerNorm(ninp)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, src, src_mask):
        src2 = self.self_attn(self.norm1(src), src_mask)
        src = src + self.dropout1(src2)
        src2 = self.linear2(self.activation(self.linear1(self.norm2(src))))
        src = src + self.dropout2(src2)
        return src


class TransformerModel(nn.Module):
    def __init__(self, ntoken, ninp, nhead, nhid, nlayers, max_len=5000, dropout=0.5):
        super().__init__()
        self.ninp = ninp
        self.encoder = nn.Embedding(ntoken, ninp)
        self.pos_encoder = nn.Embedding(max_len, ninp)
        self.layers = nn.ModuleList([Layer(ninp, nhead, nhid, dropout) for _ in range(nlayers)])
        self.norm = nn.LayerNorm(ninp)
        self.decoder = nn.Linear(ninp, ntoken, bias=False)

    def _generate_square_subsequent_mask(self, sz, like):
        return torch.full((sz, sz), float("-inf"), dtype=like.dtype, device=like.device).triu(diagonal=1)

    def forward(self, src):
        seq_len = src.size(0)
        positions = torch.arange(seq_len, device=src.device)
        x = self.encoder(src) + self.pos_encoder(positions).unsqueeze(1)
        src_mask = self._generate_square_subsequent_mask(seq_len, x)
        for layer in self.layers:
            x = layer(x, src_mask)
        return self.decoder(self.norm(x))
