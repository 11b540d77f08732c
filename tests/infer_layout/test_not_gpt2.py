"""What is not GPT-2 is said by what does not fit, and where: one small model, and a departure from GPT-2 at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import CandidateError, GPTModel, load_into, verify
from gpt2_from_scratch.asking import Call
from gpt2_from_scratch.building import load_object
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout import InferredLayout, Status, infer_layout, inference, to_python
from gpt2_from_scratch.infer_layout.tracing import trace

CONFIG = GPTConfig(vocab_size=67, n_positions=23, n_embd=24, n_layer=2, n_head=4)

MODEL = """
import math
import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        spread = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return centred / spread * self.g + self.b


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.one, self.two = Norm(width), Norm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        b, t, c = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, c))

    def feed_forward(self, x):
        h = self.up(x)
        h = F.gelu(h, approximate="tanh")
        return self.down(h)

    def forward(self, x):
        x = x + self.attention(self.one(x))
        return x + self.feed_forward(self.two(x))


class GPT(nn.Module):
    def __init__(self, n_vocab, n_ctx, width, heads, layers):
        super().__init__()
        self.tokens, self.places = nn.Embedding(n_vocab, width), nn.Embedding(n_ctx, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last = Norm(width)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.last(x) @ self.tokens.weight.T
"""


def inferred(folder: Path, *edits: tuple[str, str]) -> tuple[InferredLayout, nn.Module]:
    """The answer for the model with each edit made, and the model."""
    source = MODEL
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    file = folder / "theirs.py"
    file.write_text(source)
    module = load_object(f"{file}:GPT", CONFIG).object
    return infer_layout(module, CONFIG), module


def line(folder: Path, text: str) -> str:
    """The place of a text in the edited file, as answers name it."""
    (number,) = (n for n, each in enumerate((folder / "theirs.py").read_text().splitlines(), 1) if text in each)
    return f"theirs.py:{number}"


# The same mathematics, written in other ways.
STILL_GPT2: dict[str, tuple[tuple[str, str], ...]] = {
    "no edit": (),
    "one by the deviation, and then the values": (("centred / spread * self.g", "(1 / spread) * centred * self.g"),),
    "the gain by the deviation": (("centred / spread * self.g", "self.g / spread * centred"),),
    "the mean of the squares less the squared mean": (
        ("(centred**2).mean(-1, keepdim=True)", "(x**2).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2"),
    ),
    "weights on the left": (("h = self.up(x)", "h = (self.up.weight @ x.mT).mT + self.up.bias"),),
    "written into a buffer": (
        (
            "return self.out((weights @ v).transpose(1, 2).reshape(b, t, c))",
            "all = x.new_empty(b, t, c); all[:] = (weights @ v).transpose(1, 2).flatten(2); return self.out(all)",
        ),
    ),
}


@pytest.mark.parametrize("what", STILL_GPT2)
def test_gpt2_is_recognised_however_it_is_written(what: str, tmp_path: Path) -> None:
    found, _ = inferred(tmp_path, *STILL_GPT2[what])
    assert str(found) == "PROVEN"


def test_of_a_long_context_the_tables_alone_are_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, lengths = CONFIG.replace(n_positions=97), []

    def watched(module: nn.Module, call: Call, ids: Tensor, **options: Any) -> object:
        lengths.append(ids.size(1))
        return trace(module, call, ids, **options)

    monkeypatch.setattr(inference, "trace", watched)
    (tmp_path / "theirs.py").write_text(MODEL)
    assert str(infer_layout(load_object(f"{tmp_path / 'theirs.py'}:GPT", config).object, config)) == "PROVEN"
    assert max(lengths) < 97


ROTATED = """
        def turned(x):
            angle = torch.arange(t)[:, None] / 10000 ** (torch.arange(x.size(-1) // 2) / (x.size(-1) // 2))
            one, two = x.chunk(2, -1)
            return torch.cat([one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()], -1)
        q, k = turned(q), turned(k)
"""
ENCODED = """
        places = torch.arange(ids.size(1))[:, None] / 10000 ** (torch.arange(12) / 12)
        x = self.tokens(ids) + torch.cat([places.sin(), places.cos()], -1)
"""
POST_NORM = """
        x = self.one(x + self.attention(x))
        return self.two(x + self.feed_forward(x))
"""
Edits = tuple[tuple[str, str], ...]

# What does not fit -> how the model is written so, the sentence that says so, and a text in the line that it names.
NOT_GPT2: dict[str, tuple[Edits, str, str]] = {
    "RMSNorm": (
        (
            ("        centred = x - x.mean(-1, keepdim=True)\n", ""),
            ("(centred**2)", "(x**2)"),
            ("centred / spread", "x / spread"),
        ),
        "does not subtract the mean (RMSNorm",
        "x / spread",
    ),
    "rotary positions": (
        (
            ("        scores = q @", ROTATED.lstrip("\n") + "        scores = q @"),
            (
                "        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))\n",
                "        x = self.tokens(ids)\n",
            ),
        ),
        "columns are mixed with each other before the scores, as rotary positions do",
        "one * angle.cos()",
    ),
    "sinusoidal positions": (
        (("        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))\n", ENCODED.lstrip("\n")),),
        "no learned positions [23, 24] are added to the tokens: they are computed (sinusoidal, for example), or there",
        "",
    ),
    "a gated feed-forward": (
        (
            ("        self.out, self.up", "        self.gate = nn.Linear(width, 4 * width)\n        self.out, self.up"),
            ('h = F.gelu(h, approximate="tanh")', "h = F.silu(self.gate(x)) * h"),
        ),
        "two projections are multiplied with each other (a gated feed-forward, such as SwiGLU)",
        "F.silu",
    ),
    "grouped queries": (
        (
            (
                "(nn.Linear(width, width) for _ in range(3))",
                "(nn.Linear(width, n) for n in (width, width // 2, width // 2))",
            ),
            (
                "scores = q @",
                "k, v = (x.repeat_interleave(2, 1) for x in (k, v))\n        scores = q @",
            ),
            ("view(b, t, self.heads, -1)", "view(b, t, -1, c // self.heads)"),
        ),
        "several heads share key columns of blocks.0.key.weight (grouped queries)",
        "",
    ),
    "post-norm": (
        (
            (
                "        x = x + self.attention(self.one(x))\n        return x + self.feed_forward(self.two(x))\n",
                POST_NORM.lstrip("\n"),
            ),
        ),
        "the residual stream itself is normalised (post-norm)",
        "centred / spread",
    ),
    "a bias on the scores": (
        (
            ("self.heads = heads\n", "self.heads = heads\n        self.far = nn.Parameter(torch.ones(23, 23))\n"),
            ("math.sqrt(q.size(-1))", "math.sqrt(q.size(-1)) + self.far[:t, :t]"),
        ),
        "the attention's scores are changed: a sum or a product of scores and a parameter of blocks.1.far",
        "self.far[:t, :t]",
    ),
    "a second product": (
        (
            ("        self.out, self.up", "        self.more = nn.Linear(width, 4 * width)\n        self.out, self.up"),
            ("h = self.up(x)", "h = self.up(x) + self.more(x)"),
        ),
        "a second product is added to the first (blocks.1.",
        "",
    ),
    "a third table": (
        (
            ("self.last = Norm(width)", "self.last, self.kinds = Norm(width), nn.Embedding(n_ctx, width)"),
            (
                "self.places(torch.arange(ids.size(1)))",
                "self.places.weight[:ids.size(1)] + self.kinds.weight[:ids.size(1)]",
            ),
        ),
        "a second table is added to the residual stream",
        "",
    ),
    # Formulas that no fault table names: what was read, what does not fit, and where.
    "an activation": (
        (('F.gelu(h, approximate="tanh")', "h * torch.sigmoid(1.3 * h)"),),
        "the activation is none of the 22 that GPT-2's configurations name",
        "torch.sigmoid(1.3 * h)",
    ),
    "a norm": (
        (("torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)", "centred.abs().mean(-1, keepdim=True) + 1e-5"),),
        "the norm divides by something else than the standard deviation",
        "centred / spread",
    ),
    "the scores": (
        (
            (
                "/ math.sqrt(q.size(-1))",
                "/ math.sqrt(q.size(-1)) - 0.1 * (torch.arange(t)[:, None] - torch.arange(t)).abs()",
            ),
        ),
        "something is added to the scores",
        "weights @ v",
    ),
}


@pytest.mark.parametrize("what", NOT_GPT2)
def test_what_does_not_fit_is_said(what: str, tmp_path: Path) -> None:
    edits, sentence, place = NOT_GPT2[what]
    found, _ = inferred(tmp_path, *edits)
    assert found.status is Status.NOT_FOUND
    assert sentence in str(found), str(found)
    assert not place or line(tmp_path, place) in str(found), str(found)


def test_a_model_of_another_width_was_built_for_another_checkpoint(tmp_path: Path) -> None:
    _, module = inferred(tmp_path)
    GPTModel(CONFIG.replace(n_embd=32)).save_pretrained(tmp_path / "wider")
    with pytest.raises(CandidateError, match=r"other sizes than the checkpoint: .*\[67, 24\], expected \[67, 32\]"):
        verify(module, tmp_path / "wider")


def test_parameters_that_gpt2_lacks_are_a_condition_and_are_set_to_zero(tmp_path: Path) -> None:
    found, module = inferred(
        tmp_path,
        ("self.heads = heads\n", "self.heads = heads\n        self.heat = nn.Parameter(torch.ones(1))\n"),
        ("math.sqrt(q.size(-1))", "math.sqrt(q.size(-1)) * (1 + float(self.heat))"),
    )
    assert str(found) == "PROVEN, provided that blocks.{0...1}.heat is zero: GPT-2 has no such parameter"
    assert found.layout is not None
    assert "zero=True" in to_python(found.layout)
    GPTModel(CONFIG).save_pretrained(tmp_path / "weights")
    report = load_into(module, tmp_path / "weights")
    assert any("heat" in note and "set to zero: GPT-2 has no such parameter" in note for note in report.notes)
    assert all(not parameter.any() for name, parameter in module.named_parameters() if name.endswith("heat"))
    assert report


def test_parameters_that_are_never_used_are_named(tmp_path: Path) -> None:
    found, _ = inferred(tmp_path, ("self.last = Norm(width)", "self.last, self.spare = Norm(width), nn.Linear(3, 5)"))
    assert found.status is Status.PROVEN
    assert "never used: spare.weight, spare.bias" in " ".join(found.evidence)


# Formulas that are put together from what GPT-2 has, with another number in it.
NAMED: dict[str, tuple[Edits, str]] = {
    "a scale": ((("math.sqrt(q.size(-1))", "3.7"),), "scores are multiplied by 0.27027 instead of 0.408248"),
    "a window": (
        (("triu(1)", "triu(1) | torch.ones(t, t, dtype=torch.bool).tril(-5)"),),
        "each token sees only itself and the 4 before it",
    ),
    "no scale": ((("/ math.sqrt(q.size(-1))", ""),), "scores are not scaled"),
    "an epsilon": ((("1e-5)", "3e-4)"),), "epsilon is 0.0003 instead of 1e-05"),
    "probabilities in bfloat16": (
        ((".softmax(-1)\n", ".softmax(-1).bfloat16().to(x.dtype)\n"),),
        "numbers are rounded to bfloat16 (theirs.py:32)",
    ),
    "the exact GELU": ((('(h, approximate="tanh")', "(h)"),), "the activation is gelu instead of gelu_new"),
}


@pytest.mark.parametrize("what", NAMED)
def test_formulas_with_another_number_are_proven_up_to_it(what: str, tmp_path: Path) -> None:
    edits, sentence = NAMED[what]
    found, module = inferred(tmp_path, *edits)
    assert found.status is Status.PROVEN_UP_TO, str(found)
    assert sentence in str(found), str(found)
    assert found.layout is not None
    with torch.no_grad():
        assert module(torch.arange(5)[None]).shape == (1, 5, 67)
