"""GPT-2 by somebody from computer vision: channels before time, and every linear layer is a one-by-one convolution."""

import torch
from torch import nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = torch.mean((x - mean) ** 2, 1, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.eps)
        return x * self.gamma.view(1, -1, 1) + self.beta.view(1, -1, 1)


class AttentionBlock(nn.Module):
    def __init__(self, channels, n_heads, p_dropout=0.0):
        super().__init__()
        self.n_heads = n_heads
        self.k_channels = channels // n_heads
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.drop = nn.Dropout(p_dropout)

    def forward(self, x, mask):
        b, d, t = x.shape
        query = self.conv_q(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)
        key = self.conv_k(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)
        value = self.conv_v(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)
        scores = torch.matmul(query, key.transpose(-2, -1)) * self.k_channels**-0.5
        scores = scores.masked_fill(mask == 0, -1e4)
        p_attn = self.drop(F.softmax(scores, dim=-1))
        output = torch.matmul(p_attn, value)  # [b, n_heads, t, k_channels]
        output = output.transpose(2, 3).contiguous().view(b, d, t)
        return self.conv_o(output)


class FFN(nn.Module):
    def __init__(self, channels, filter_channels):
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, filter_channels, 1)
        self.conv_2 = nn.Conv1d(filter_channels, channels, 1)

    def forward(self, x):
        return self.conv_2(F.gelu(self.conv_1(x), approximate="tanh"))


class ConvGPT(nn.Module):
    def __init__(self, n_vocab, n_frames, hidden_channels, filter_channels, n_heads, n_layers):
        super().__init__()
        self.emb = nn.Embedding(n_vocab, hidden_channels)
        self.emb_pos = nn.Parameter(torch.randn(1, hidden_channels, n_frames))
        self.attn_layers = nn.ModuleList()
        self.norm_layers_1 = nn.ModuleList()
        self.ffn_layers = nn.ModuleList()
        self.norm_layers_2 = nn.ModuleList()
        for _ in range(n_layers):
            self.attn_layers.append(AttentionBlock(hidden_channels, n_heads))
            self.norm_layers_1.append(ChannelNorm(hidden_channels))
            self.ffn_layers.append(FFN(hidden_channels, filter_channels))
            self.norm_layers_2.append(ChannelNorm(hidden_channels))
        self.norm_out = ChannelNorm(hidden_channels)
        self.proj_out = nn.Conv1d(hidden_channels, n_vocab, 1, bias=False)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.emb(ids).transpose(1, 2) + self.emb_pos[:, :, :t]
        mask = torch.ones(1, 1, t, t, device=ids.device).tril()
        for attn, norm_1, ffn, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        ):
            x = x + attn(norm_1(x), mask)
            x = x + ffn(norm_2(x))
        return self.proj_out(self.norm_out(x)).transpose(1, 2)
