"""GPT-2 that asks a tokenizer for its vocabulary, uses a fast attention if it is installed, and answers with a tuple
``(loss, logits)``, loss first.
"""

import math

import torch
import torch.nn as nn

try:
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None


class CausalAttention(nn.Module):
    def __init__(self, hidden_dim, num_heads):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.head_dim = hidden_dim // num_heads
        self.wq = nn.Linear(hidden_dim, hidden_dim)
        self.wk = nn.Linear(hidden_dim, hidden_dim)
        self.wv = nn.Linear(hidden_dim, hidden_dim)
        self.wo = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x, bias):
        bsz, seqlen, _ = x.shape
        xq = self.wq(x).view(bsz, seqlen, self.num_heads, self.head_dim)
        xk = self.wk(x).view(bsz, seqlen, self.num_heads, self.head_dim)
        xv = self.wv(x).view(bsz, seqlen, self.num_heads, self.head_dim)
        if flash_attn_func is not None and x.is_cuda:
            output = flash_attn_func(xq, xk, xv, causal=True)
        else:
            xq, xk, xv = xq.transpose(1, 2), xk.transpose(1, 2), xv.transpose(1, 2)
            scores = torch.matmul(xq, xk.transpose(2, 3)) / math.sqrt(self.head_dim)
            scores = scores + bias
            scores = nn.functional.softmax(scores, dim=-1)
            output = torch.matmul(scores, xv).transpose(1, 2)
        return self.wo(output.reshape(bsz, seqlen, self.hidden_dim))


class FeedForward(nn.Module):
    def __init__(self, hidden_dim, multiplier=4):
        super().__init__()
        self.w1 = nn.Linear(hidden_dim, multiplier * hidden_dim)
        self.w2 = nn.Linear(multiplier * hidden_dim, hidden_dim)

    def forward(self, x):
        return self.w2(nn.functional.gelu(self.w1(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    def __init__(self, hidden_dim, num_heads):
        super().__init__()
        self.attention = CausalAttention(hidden_dim, num_heads)
        self.feed_forward = FeedForward(hidden_dim)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.ffn_norm = nn.LayerNorm(hidden_dim)

    def forward(self, x, bias):
        h = x + self.attention(self.attention_norm(x), bias)
        return h + self.feed_forward(self.ffn_norm(h))


class StoryModel(nn.Module):
    def __init__(self, tokenizer, max_seq_len=256, hidden_dim=384, num_blocks=6, num_heads=6):
        super().__init__()
        self.tokenizer = tokenizer
        self.tok_embeddings = nn.Embedding(len(tokenizer), hidden_dim)
        self.pos_embeddings = nn.Embedding(max_seq_len, hidden_dim)
        self.blocks = nn.ModuleList([TransformerBlock(hidden_dim, num_heads) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, len(tokenizer), bias=False)

    def forward(self, input_ids, labels=None):
        seqlen = input_ids.shape[1]
        x = self.tok_embeddings(input_ids)
        x = x + self.pos_embeddings(torch.arange(seqlen, device=x.device))
        bias = torch.full((seqlen, seqlen), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, bias)
        logits = self.output(self.norm(x))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return loss, logits

    @torch.no_grad()
    def complete(self, text, steps=20):
        ids = torch.tensor([self.tokenizer.encode(text)])
        for _ in range(steps):
            _, logits = self(ids)
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        return self.tokenizer.decode(ids[0].tolist())
