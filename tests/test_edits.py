"""The edits near a guilty line: the one that a person would make is among the first."""

import ast

import pytest

from gpt2_from_scratch.diagnose.edits import edits

_FIRST = 100  # of about a thousand edits of a line and its neighbours

ATTENTION = """
import math
import torch
from torch import nn
from torch.nn import functional as F

class Attention(nn.Module):
    def __init__(self, width, heads):
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask):
        b, t, c = x.shape
        {line}
        return self.out(self.norm(y)).view(b, t, c, self.heads) + self.qkv(mask)
"""
BLOCK = """
class Block:
    def __init__(self, width):
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.attn = Attention(width)
        self.mlp = MLP(width)

    def forward(self, x):
        for layer in self.layers:
            {line}
        return self.attn(x) + self.mlp(self.norm1(layer(x)))
"""
FUNCTION = """
import numpy as np

def f(x, gain, bias):
    mean = x.mean(-1, keepdims=True)
    {line}
    return y + mean + gain + bias
"""
MENDED = (  # where, a line with a mistake, the line without it
    (ATTENTION, "y = F.gelu(x)", 'y = F.gelu(x, approximate="tanh")'),
    (ATTENTION, "y = self.qkv(x).chunk(3, dim=1)", "y = self.qkv(x).chunk(3, dim=-1)"),
    (ATTENTION, "y = x / math.sqrt(c)", "y = x / math.sqrt(c // self.heads)"),
    (ATTENTION, "y = x.masked_fill(mask == 0, 0.0)", 'y = x.masked_fill(mask == 0, -float("inf"))'),
    (ATTENTION, "y = x.masked_fill(mask, -1e9)", "y = x.masked_fill(~mask, -1e9)"),
    (
        ATTENTION,
        "y = x.softmax(-1).dropout()",
        "y = (x + torch.full_like(x, -float('inf')).triu(1)).softmax(-1).dropout()",
    ),
    (
        ATTENTION,
        "y = F.scaled_dot_product_attention(x, x, x, mask)",
        "y = F.scaled_dot_product_attention(x, x, x, is_causal=True)",
    ),
    (ATTENTION, "y = x.tril(-1)", "y = x.triu(1)"),
    (ATTENTION, "y = x.reshape(b, t, c)", "y = x.transpose(1, 2).reshape(b, t, c)"),
    (ATTENTION, "y = torch.stack(x, dim=-1).flatten(-2)", "y = torch.cat(x, dim=-1)"),
    (ATTENTION, "y = self.out(x)[t]", "y = self.out(x)[:t]"),
    (ATTENTION, "y = x[:, c:self.heads]", "y = x[:, c * self.heads:(c + 1) * self.heads]"),
    (ATTENTION, "y = x.mul_(mask)", "y = x.mul(mask)"),
    (BLOCK, "x = x + self.attn(self.norm1(x)); y = 1", "x = x + self.attn(self.norm2(x)); y = 1"),
    (BLOCK, "x = x + self.mlp(x)", "x = x + self.mlp(self.norm1(x))"),
    (BLOCK, "x = self.mlp(self.norm1(x))", "x = self.mlp(self.norm1(x)) + x"),
    (BLOCK, "x = self.mlp(x) + self.norm1(x)", "x = x + self.mlp(self.norm1(x))"),
    (BLOCK, "x = self.norm1(x + self.mlp(x))", "x = x + self.mlp(self.norm1(x))"),
    (BLOCK, "x = self.layers[0](x)", "x = layer(x)"),
    (BLOCK, "y = layer(x)", "x = layer(x)"),
    (BLOCK, "layer(x)", "x = layer(x)"),
    (BLOCK, "x = x + self.attn(x) + self.mlp(x)", "x = x + self.attn(x)\n            x = x + self.mlp(x)"),
    (FUNCTION, "y = gain * x - mean", "y = gain * (x - mean)"),
    (FUNCTION, "y = np.sqrt(mean) + 1e-5", "y = np.sqrt(mean + 1e-5)"),
    (FUNCTION, "y = np.exp(x) - x.max(-1)", "y = np.exp(x - x.max(-1))"),
    (FUNCTION, "y = x.sum()", "y = x.sum(axis=-1, keepdims=True)"),
    (FUNCTION, "y = x ** 2 / np.std(x)", "y = x ** 2 / np.var(x)"),
    (FUNCTION, "y = np.vstack(x)", "y = np.hstack(x)"),
    (FUNCTION, "y = x * -0.5", "y = x ** -0.5"),
    (FUNCTION, "y = x + 0.44715", "y = x + 0.044715"),
)


@pytest.mark.parametrize(("around", "wrong", "right"), MENDED, ids=[wrong for _, wrong, _ in MENDED])
def test_the_edit_that_mends_a_line_is_among_the_first(around: str, wrong: str, right: str):
    source, mended = around.format(line=wrong), ast.dump(ast.parse(around.format(line=right)))
    first = edits(source, [source[: source.index(wrong)].count("\n") + 1])[: 2 * _FIRST]
    made = [edit.apply(source) for edit in first]
    parsed = [ast.dump(tree) for tree in map(_parsed, made) if tree is not None]
    assert mended in parsed, "\n".join(made[:5])
    assert list(dict.fromkeys(parsed)).index(mended) < _FIRST


def _parsed(source: str) -> ast.AST | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def test_a_result_is_returned_behind_the_loop_instead_of_in_it():
    source = "def f(x, layers):\n    for layer in layers:\n        x = layer(x)\n        return x\n"
    made = {edit.apply(source) for edit in edits(source, [4])}
    assert source.replace("        return", "    return") in made
    outside = "def f(x, layers):\n    for layer in layers:\n        x = layer(x)\n    x = x + 1\n    return x\n"
    assert outside.replace("    x = x + 1", "        x = x + 1") in {
        edit.apply(outside) for edit in edits(outside, [4])
    }


def test_every_edit_changes_something():
    source = ATTENTION.format(line="y = self.out(x.view(b, t, -1).transpose(1, 2) @ x) / math.sqrt(c)")
    assert all(edit.apply(source) != source for edit in edits(source, [16]))


def test_statements_on_no_line_have_no_edits():
    assert edits("x = 1\n", [7]) == []
