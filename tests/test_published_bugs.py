"""Bugs that people have published: the line is named, what stands there is said, and the patch is right.

In the image GPT of `shared_checkpoints` the attention's shortcut starts behind the norm. Its blocks are written anew
here, and filled with the published weights. The same mistake, and values made by the key's layer, stand in the book's
style, where readers make them.
"""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.forward import logits
from gpt2_from_scratch.checkpoint.torch_pickle import load
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.lines import Accusation, accuse
from gpt2_from_scratch.diagnose.patch import RIGHT, find_patch
from tests.bugs import Bug
from tests.bugs.patching import CONFIG, patched, weights
from tests.foreign import STYLES, import_file

IMAGE_GPT = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        mask = torch.full((len(x), len(x)), -float("Inf"), dtype=x.dtype).triu(diagonal=1)
        x = self.ln_1(x)
        a, _ = self.attn(x, x, x, attn_mask=mask, need_weights=False)
        x = x + a
        m = self.mlp(self.ln_2(x))
        return x + m


class ImageGPT(nn.Module):
    def __init__(self, width=16, heads=2, layers=8, positions=784, tones=16):
        super().__init__()
        self.token_embeddings = nn.Embedding(tones, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.layers = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, tones, bias=False)

    def forward(self, pixels):
        x = pixels.T
        positions = torch.arange(len(x))[:, None]
        h = self.token_embeddings(x) + self.position_embeddings(positions)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.ln_f(h)).transpose(0, 1)
"""
IMAGE_CONFIG = GPTConfig(
    vocab_size=16,
    n_positions=784,
    n_embd=16,
    n_layer=8,
    n_head=2,
    activation_function="gelu",
    tie_word_embeddings=False,
)


def theirs_and_canonical(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The published parameters under their own names, and under GPT-2's."""
    published = load(folder / "mnist_gen.ckpt")["state_dict"]
    kept = ("token_embeddings.", "position_embeddings.", "layers.", "ln_f.", "head.")
    parts = {name.removeprefix("gpt."): each for name, each in published.items() if name.startswith("gpt.")}
    theirs = {name: each.clone() for name, each in parts.items() if name.startswith(kept)}
    canonical = {}
    for name, each in theirs.items():
        for old, new in (
            ("token_embeddings", "wte"),
            ("position_embeddings", "wpe"),
            ("head.", "lm_head."),
            ("layers.", "h."),
            ("attn.in_proj_", "attn.c_attn."),
            ("attn.out_proj", "attn.c_proj"),
            ("mlp.0", "mlp.c_fc"),
            ("mlp.2", "mlp.c_proj"),
        ):
            name = name.replace(old, new)
        linear = name.endswith(".weight") and (".attn." in name or ".mlp." in name)
        canonical[name] = each.T.contiguous() if linear else each
    return theirs, canonical


def module_of(source: str, folder: Path) -> ModuleType:
    file = folder / "image_gpt.py"
    file.write_text(source)
    return import_file(file)


def says(found: Accusation) -> str:
    line = found.lines[0]
    return f"{line.text} | {line.says}; {line.expected}"


@pytest.mark.slow
def test_the_shortcut_of_the_published_image_gpt_starts_behind_the_norm(shared_checkpoints: Path, tmp_path: Path):
    theirs, canonical = theirs_and_canonical(shared_checkpoints / "image-gpt-teddykoker")

    def built(source: str, folder: Path) -> torch.nn.Module:
        model: torch.nn.Module = module_of(source, folder).ImageGPT()
        model.load_state_dict(theirs)
        return model

    found = accuse(built(IMAGE_GPT, tmp_path), IMAGE_CONFIG, canonical)
    assert found.proven
    assert says(found) == (
        "x = self.ln_1(x) | this is the output of the first norm of block 0; GPT-2 has the sum of the embeddings here"
    )
    pixels = torch.arange(14).view(2, 7)
    expected = logits(IMAGE_CONFIG, {name: each.double() for name, each in canonical.items()}, pixels)

    def judge(source: str) -> float:
        trials = tmp_path / "trials"
        trials.mkdir(exist_ok=True)
        try:
            with torch.no_grad():
                answer = built(source, trials).double()(pixels)
        except Exception:  # an edit may do anything
            return torch.inf
        return float((answer - expected).abs().max() / expected.abs().max())

    assert judge(IMAGE_GPT) > RIGHT
    patch = find_patch(tmp_path / "image_gpt.py", [line.line for line in found.lines], judge, seconds=60)
    assert patch is not None and judge(patch.after) <= RIGHT


BOOK = (
    Bug(
        "book",
        "shortcut_behind_the_norm",
        "wiring",
        "The shortcut is kept when the stream is normed already.",
        (
            (
                "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n",
                "        x = self.norm1(x)\n        shortcut = x\n        x = shortcut + self.att(x)\n",
            ),
        ),
        guilty=("        x = self.norm1(x)", "        shortcut = x"),
    ),
    Bug(
        "book",
        "values_of_the_key_layer",
        "attention",
        "The values are made by the key's layer.",
        (("values = self.split_heads(self.W_value(x))", "values = self.split_heads(self.W_key(x))"),),
    ),
)
SAYS = {
    "shortcut_behind_the_norm": "this is the output of the first norm of block 0; GPT-2 has the sum of the embeddings",
    "values_of_the_key_layer": "this is the keys of block 0; GPT-2 has the values of block 0 here",
}


@pytest.mark.parametrize("bug", BOOK, ids=lambda bug: bug.name)
def test_what_readers_of_the_book_write(bug: Bug, tmp_path: Path):
    tensors = {name: each.float() for name, each in weights(CONFIG).items()}
    model = bug.load(tensors, CONFIG, tmp_path / "theirs_too")
    found = accuse(model, CONFIG, tensors, call=lambda ids: STYLES["book"].logits(model, ids))
    assert found.proven and found.lines[0].line in bug.lines and SAYS[bug.name] in says(found)
    patch = patched(bug, tmp_path, [line.line for line in found.lines], seconds=60)
    assert patch is not None and patch.proof
