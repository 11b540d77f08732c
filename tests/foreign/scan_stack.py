"""GPT-2 with the weights of all layers stacked along a first axis, as a JAX scan wants them, in one ParameterDict."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Hyperparameters:
    n_vocab: int = 50257
    n_ctx: int = 1024
    n_embd: int = 768
    n_head: int = 12
    n_layer: int = 12


def layer_norm(x, g, b, eps=1e-5):
    return F.layer_norm(x, (x.shape[-1],), g, b, eps)


def gelu(x):
    return F.gelu(x, approximate="tanh")


class Transformer(nn.Module):
    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.hp = hp
        L, E = hp.n_layer, hp.n_embd
        shapes = {
            "ln1_g": (L, E),
            "ln1_b": (L, E),
            "wqkv": (L, E, 3 * E),
            "bqkv": (L, 3 * E),
            "wo": (L, E, E),
            "bo": (L, E),
            "ln2_g": (L, E),
            "ln2_b": (L, E),
            "w1": (L, E, 4 * E),
            "b1": (L, 4 * E),
            "w2": (L, 4 * E, E),
            "b2": (L, E),
        }
        self.blocks = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(shape)) for name, shape in shapes.items()}
        )
        self.wte = nn.Parameter(0.02 * torch.randn(hp.n_vocab, E))
        self.wpe = nn.Parameter(0.01 * torch.randn(hp.n_ctx, E))
        self.lnf_g = nn.Parameter(torch.ones(E))
        self.lnf_b = nn.Parameter(torch.zeros(E))

    def attention(self, x, w):
        B, T, E = x.shape
        H = self.hp.n_head
        qkv = torch.addmm(w["bqkv"], x.view(B * T, E), w["wqkv"]).view(B, T, 3, H, E // H)
        q, k, v = qkv.unbind(dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        o = o.transpose(1, 2).reshape(B, T, E)
        return o @ w["wo"] + w["bo"]

    def step(self, x, w):
        x = x + self.attention(layer_norm(x, w["ln1_g"], w["ln1_b"]), w)
        h = layer_norm(x, w["ln2_g"], w["ln2_b"])
        return x + gelu(h @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]

    def forward(self, ids):
        T = ids.shape[1]
        x = F.embedding(ids, self.wte) + self.wpe[:T]
        for i in range(self.hp.n_layer):
            x = self.step(x, {name: stacked[i] for name, stacked in self.blocks.items()})
        x = layer_norm(x, self.lnf_g, self.lnf_b)
        return x @ self.wte.T
