"""The GPT-2 that all oracles write: `files/source`, a Hugging Face directory, and the tokens whose logits they compute.

    python source.py        # needs numpy and safetensors; writes files/source again

Its weights were drawn once and lie here as plain numbers, so what another program's file must hold is
known without that program. Every parameter is noise, there are 12 layers, and no two sizes are equal: see
`tests/perturbed.py`, which says why. It is as narrow as that allows, because each oracle adds a file of its size.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FILES = Path(__file__).parent / "files"
SOURCE = FILES / "source"
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NORMS = ("ln_1", "ln_2")
SIZES = {"vocab_size": 31, "n_positions": 11, "n_embd": 6, "n_layer": 12, "n_head": 3}
IDS = [[5, 17, 2, 29, 0, 30, 11, 23, 7, 13, 19], [1, 1, 28, 3, 24, 9, 9, 16, 4, 26, 12]]  # all positions, two rows

Arrays = dict[str, np.ndarray]

# Pre-activations are sums over 6 inputs of variance 1: this spreads them over about +-1.2, up to where tanh and erf
# GELU are furthest apart.
_NOISE = 0.5


def weights() -> Arrays:
    """Under Hugging Face's names without prefix; linear weights ``[in, out]``; no head, it is tied."""
    return load_file(SOURCE / "model.safetensors")


def config() -> dict[str, object]:
    """The content of its `config.json`."""
    return dict(json.loads((SOURCE / "config.json").read_text()))


def _draw() -> Arrays:
    generator = np.random.default_rng(3)
    width, drawn = SIZES["n_embd"], dict[str, np.ndarray]()

    def draw(name: str, *shape: int, around: float = 0.0) -> None:
        drawn[name] = (around + _NOISE * generator.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        draw(f"{name}.weight", width, around=1.0)
        draw(f"{name}.bias", width)

    draw("wte.weight", SIZES["vocab_size"], width)
    draw("wpe.weight", SIZES["n_positions"], width)
    for layer in range(SIZES["n_layer"]):
        for name in NORMS:
            norm(f"h.{layer}.{name}")
        for name, sizes in zip(LINEAR, ((1, 3), (1, 1), (1, 4), (4, 1)), strict=True):
            draw(f"h.{layer}.{name}.weight", *(width * size for size in sizes))
            draw(f"h.{layer}.{name}.bias", width * sizes[-1])
    norm("ln_f")
    return drawn


def main() -> None:
    SOURCE.mkdir(parents=True, exist_ok=True)
    save_file(_draw(), SOURCE / "model.safetensors", {"format": "pt"})
    fields = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 29, "eos_token_id": 30}
    (SOURCE / "config.json").write_text(json.dumps(fields | SIZES, indent=2) + "\n")


if __name__ == "__main__":
    main()
