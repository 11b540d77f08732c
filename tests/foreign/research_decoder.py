"""GPT-2 in the style of a research toolkit: a namespace, scaled queries, time first inside, extras returned."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, dropout=0.0):
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.head_dim = embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query, attn_mask):
        tgt_len, bsz, embed_dim = query.size()
        q = self.q_proj(query)
        k = self.k_proj(query)
        v = self.v_proj(query)
        q = q * self.scaling
        q = q.contiguous().view(tgt_len, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        k = k.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        v = v.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        attn_weights = torch.bmm(q, k.transpose(1, 2))
        attn_weights += attn_mask.unsqueeze(0)
        attn_weights = F.softmax(attn_weights, dim=-1)
        attn_probs = F.dropout(attn_weights, p=self.dropout, training=self.training)
        attn = torch.bmm(attn_probs, v)
        attn = attn.transpose(0, 1).contiguous().view(tgt_len, bsz, embed_dim)
        return self.out_proj(attn), attn_weights


class DecoderLayer(nn.Module):
    def __init__(self, args):
        super().__init__()
        embed_dim = args.decoder_embed_dim
        self.self_attn = MultiheadAttention(embed_dim, args.decoder_attention_heads, args.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, args.decoder_ffn_embed_dim)
        self.fc2 = nn.Linear(args.decoder_ffn_embed_dim, embed_dim)
        self.final_layer_norm = nn.LayerNorm(embed_dim)
        self.normalize_before = True

    def forward(self, x, self_attn_mask):
        residual = x
        if self.normalize_before:
            x = self.self_attn_layer_norm(x)
        x, attn = self.self_attn(x, self_attn_mask)
        x = residual + x
        residual = x
        if self.normalize_before:
            x = self.final_layer_norm(x)
        x = F.gelu(self.fc1(x), approximate="tanh")
        x = self.fc2(x)
        x = residual + x
        return x, attn


class TransformerDecoder(nn.Module):
    def __init__(self, args, dictionary):
        super().__init__()
        embed_dim = args.decoder_embed_dim
        self.embed_tokens = nn.Embedding(len(dictionary), embed_dim)
        self.embed_positions = nn.Embedding(args.max_target_positions, embed_dim)
        self.layers = nn.ModuleList([])
        self.layers.extend([DecoderLayer(args) for _ in range(args.decoder_layers)])
        self.layer_norm = nn.LayerNorm(embed_dim)
        self._future_mask = torch.empty(0)

    def buffered_future_mask(self, tensor):
        dim = tensor.size(0)
        if self._future_mask.size(0) < dim or self._future_mask.dtype != tensor.dtype:
            self._future_mask = torch.triu(torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), 1)
        return self._future_mask[:dim, :dim].to(tensor.device)

    def extract_features(self, prev_output_tokens):
        positions = torch.arange(prev_output_tokens.size(1), device=prev_output_tokens.device)
        x = self.embed_tokens(prev_output_tokens)
        x += self.embed_positions(positions)
        x = x.transpose(0, 1)
        mask = self.buffered_future_mask(x)
        inner_states = [x]
        attn = None
        for layer in self.layers:
            x, attn = layer(x, mask)
            inner_states.append(x)
        x = self.layer_norm(x)
        x = x.transpose(0, 1)
        return x, {"attn": [attn], "inner_states": inner_states}

    def forward(self, prev_output_tokens):
        x, extra = self.extract_features(prev_output_tokens)
        x = F.linear(x, self.embed_tokens.weight)
        return x, extra
