"""The models that tests compare with: transformers' GPT-2 with every parameter perturbed.

A freshly initialised GPT-2 has biases that are all 0 and gains that are all 1, so swapped norms, dropped
biases and the wrong GELU leave its logits as they are, and a test that passes on it proves little. Here normal noise is
added to every parameter. There are 12 layers, because with fewer than 11 the lexicographic order of ``h.10`` and
``h.2`` is the right one, and no two sizes are equal, because equal sizes hide transposed and exchanged axes.
"""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layers import EXACT, Compute
from gpt2_from_scratch.model import GPTModel

SIZES = {"vocab_size": 211, "n_positions": 37, "n_embd": 44, "n_inner": 89, "n_layer": 12, "n_head": 4}  # heads of 11
SPECIAL_TOKENS = {"bos_token_id": 199, "eos_token_id": 197}  # transformers wants them inside the vocabulary
DROPOUT = {"embd_pdrop": 0.13, "attn_pdrop": 0.17, "resid_pdrop": 0.19}  # three rates: an exchanged pair shows
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)

# Standard deviation of the noise at the width above; of matrices in wider models it is less, so that sums over the
# width stay as they are. Pre-activations spread over about +-1.3, which reaches the region near 2.7 where tanh and erf
# GELU are furthest apart, and attention is neither flat nor one-hot.
NOISE = 0.2


def perturbed(
    *, attention: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 1, **config: Any
) -> GPT2LMHeadModel:
    """A small transformers GPT-2 in eval mode, every parameter perturbed; the same one for the same arguments.

    Args:
        attention: transformers' ``attn_implementation``, "eager" or "sdpa".
        dtype: of the parameters; the values are those of float32, rounded.
        seed: of the noise, and of the initialisation below it.
        **config: fields of `GPT2Config`, instead of the defaults above.

    Example:
        >>> perturbed(n_layer=1, tie_word_embeddings=False).lm_head.weight.shape
        torch.Size([211, 44])
    """
    fields = {**SIZES, **SPECIAL_TOKENS, **DROPOUT, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**fields, attn_implementation=attention))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = math.sqrt(SIZES["n_embd"] / fields["n_embd"]) if parameter.dim() > 1 else 1.0
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE * spread)
    return model.to(dtype).eval()


def ours(reference: GPT2LMHeadModel, compute: Compute = EXACT) -> GPTModel:
    """Our model with the reference's configuration and a copy of its weights, in eval mode; no file in between."""
    model = GPTModel(GPTConfig.from_hf(reference.config.to_dict()), compute, device="meta")
    weights = {name.removeprefix("transformer."): tensor.clone() for name, tensor in reference.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.wte.weight
    return model.eval()


def save(model: GPT2LMHeadModel, directory: Path) -> Path:
    """Writes the model as a Hugging Face directory, through transformers; returns the directory."""
    model.save_pretrained(directory)
    return directory
