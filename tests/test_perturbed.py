"""The model that tests compare with is perturbed indeed; with a freshly initialised one they would prove little.

Eight known faults, such as dropped biases and swapped norms, leave the logits of a fresh GPT-2 bit for bit as they are.
"""

from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from tests.perturbed import NOISE, SIZES, perturbed


def test_every_parameter_is_perturbed(perturbed_reference: GPT2LMHeadModel):
    for name, parameter in perturbed_reference.named_parameters():
        centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        noise = (parameter - centre).abs()
        assert (noise > 0).all(), f"{name} has values that a fresh model has"
        # The mean of |noise| is 0.8 sigma. Over 44 values, the smallest tensors, its standard error is 0.09 sigma: +-4.
        assert 0.44 * NOISE < noise.mean() < 1.16 * NOISE, f"{name} is perturbed by {noise.mean():.3g}"


def test_no_two_tensors_are_equal(perturbed_reference: GPT2LMHeadModel):
    for (name, one), (other, two) in combinations(perturbed_reference.named_parameters(), 2):
        assert one.shape != two.shape or (one != two).any(), f"{name} equals {other}"


def test_no_two_sizes_are_equal_and_layers_sort_wrongly_by_name():
    e, f = SIZES["n_embd"], SIZES["n_inner"]
    sizes = [*SIZES.values(), e // SIZES["n_head"], 3 * e, 3 * f]
    assert len(set(sizes)) == len(sizes)
    assert "h.10" < "h.2"
    assert SIZES["n_layer"] > 10


def test_the_files_hold_the_same_weights(perturbed_reference: GPT2LMHeadModel, perturbed_checkpoint: Path):
    stored = load_file(perturbed_checkpoint / "model.safetensors")
    parameters = dict(perturbed_reference.named_parameters())
    assert stored.keys() == parameters.keys()
    for name, tensor in stored.items():
        assert torch.equal(tensor, parameters[name]), name


def test_the_same_arguments_give_the_same_model_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    one, two = perturbed(), perturbed()
    assert torch.equal(torch.get_rng_state(), state)
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second), name
    assert not torch.equal(perturbed(seed=2).transformer.ln_f.bias, one.transformer.ln_f.bias)
