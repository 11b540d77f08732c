"""GPT-2 carried over from TensorFlow line by line: variables by scope in a store, kernels with a first axis of 1."""

import math
from types import SimpleNamespace

import torch
from torch import nn


def shape_list(x):
    return list(x.shape)


def softmax(x, axis=-1):
    x = x - x.max(dim=axis, keepdim=True).values
    ex = torch.exp(x)
    return ex / ex.sum(dim=axis, keepdim=True)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def split_states(x, n):
    *start, m = shape_list(x)
    return x.reshape([*start, n, m // n])


def merge_states(x):
    *start, a, b = shape_list(x)
    return x.reshape([*start, a * b])


def attention_mask(nd, ns, *, dtype):
    i = torch.arange(nd)[:, None]
    j = torch.arange(ns)
    m = i >= j - ns + nd
    return m.to(dtype)


class Model(nn.Module):
    """All of GPT-2 in one class: every method names its scope."""

    def __init__(self, hparams: SimpleNamespace):
        super().__init__()
        self.hparams = hparams
        self.variables = nn.ParameterDict()
        n, std = hparams.n_embd, 0.02
        self.make("wpe", torch.randn(hparams.n_ctx, n) * 0.01)
        self.make("wte", torch.randn(hparams.n_vocab, n) * std)
        for layer in range(hparams.n_layer):
            for scope, nx, nf in (("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n)):
                self.make_conv1d(f"h{layer}/{scope}", nx, nf)
            for scope, nx, nf in (("mlp/c_fc", n, 4 * n), ("mlp/c_proj", 4 * n, n)):
                self.make_conv1d(f"h{layer}/{scope}", nx, nf)
            for scope in ("ln_1", "ln_2"):
                self.make_norm(f"h{layer}/{scope}", n)
        self.make_norm("ln_f", n)

    def make(self, scope, value):
        self.variables["model/" + scope] = nn.Parameter(value)

    def make_conv1d(self, scope, nx, nf):
        self.make(scope + "/w", torch.randn(1, nx, nf) * 0.02)
        self.make(scope + "/b", torch.zeros(nf))

    def make_norm(self, scope, n):
        self.make(scope + "/g", torch.ones(n))
        self.make(scope + "/b", torch.zeros(n))

    def get(self, scope):
        return self.variables["model/" + scope]

    def norm(self, x, scope, *, axis=-1, epsilon=1e-5):
        u = x.mean(dim=axis, keepdim=True)
        s = (x - u).square().mean(dim=axis, keepdim=True)
        x = (x - u) * torch.rsqrt(s + epsilon)
        return x * self.get(scope + "/g") + self.get(scope + "/b")

    def conv1d(self, x, scope, nf):
        *start, nx = shape_list(x)
        w = self.get(scope + "/w")
        c = torch.matmul(x.reshape(-1, nx), w.reshape(-1, nf)) + self.get(scope + "/b")
        return c.reshape([*start, nf])

    def attn(self, x, scope, n_state):
        def split_heads(x):
            return split_states(x, self.hparams.n_head).permute(0, 2, 1, 3)

        def merge_heads(x):
            return merge_states(x.permute(0, 2, 1, 3))

        c = self.conv1d(x, scope + "/c_attn", n_state * 3)
        q, k, v = map(split_heads, torch.split(c, n_state, dim=2))
        w = torch.matmul(q, k.transpose(-1, -2))
        w = w * (1.0 / math.sqrt(v.shape[-1]))
        b = attention_mask(w.shape[-2], w.shape[-1], dtype=w.dtype)
        w = w * b - 1e10 * (1 - b)
        w = softmax(w)
        a = merge_heads(torch.matmul(w, v))
        return self.conv1d(a, scope + "/c_proj", n_state)

    def mlp(self, x, scope, n_state):
        nx = x.shape[-1]
        h = gelu(self.conv1d(x, scope + "/c_fc", n_state))
        return self.conv1d(h, scope + "/c_proj", nx)

    def block(self, x, scope):
        nx = x.shape[-1]
        a = self.attn(self.norm(x, scope + "/ln_1"), scope + "/attn", nx)
        x = x + a
        m = self.mlp(self.norm(x, scope + "/ln_2"), scope + "/mlp", nx * 4)
        x = x + m
        return x

    def forward(self, X):
        wte = self.get("wte")
        _, sequence = shape_list(X)
        h = wte[X] + self.get("wpe")[torch.arange(sequence)]
        for layer in range(self.hparams.n_layer):
            h = self.block(h, f"h{layer}")
        h = self.norm(h, "ln_f")
        logits = torch.matmul(h, wte.T)
        return {"logits": logits}
