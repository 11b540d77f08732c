"""A module that holds a checkpoint's weights is known by their values, whatever it computes."""

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout.recognition import recognise
from gpt2_from_scratch.mapping import write_theirs
from tests.foreign import STYLES, edited

CONFIG = GPTConfig(vocab_size=61, n_positions=13, n_embd=20, n_layer=3, n_head=4)
# A bias of zeros that GPT-2 lacks; and one tensor in which two tables of GPT-2 lie end to end.
UNSEEN = ("parallel_heads", "one_norm_tensor")
NAMES = [name for name, s in STYLES.items() if not (s.functions or s.fixed or s.spare or name in UNSEEN)]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in CONFIG.tensor_shapes().items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_style_is_recognised(name: str, tensors: dict[str, Tensor]) -> None:
    module = STYLES[name].load(tensors, CONFIG)
    layout = recognise(module, CONFIG, tensors.__getitem__)
    assert layout is not None
    parameters = dict(module.named_parameters(remove_duplicate=False))
    reads = write_theirs(layout, CONFIG, tensors.__getitem__, wanted=parameters.__contains__)
    assert reads.keys() == parameters.keys()
    for each, read in reads.items():
        assert torch.equal(read(), parameters[each]), each


def test_one_wrong_number_is_enough(tensors: dict[str, Tensor]) -> None:
    module = STYLES["german"].load(tensors, CONFIG)
    with torch.no_grad():
        next(module.parameters())[3, 4] += 1e-3
    assert recognise(module, CONFIG, tensors.__getitem__) is None


def test_values_that_are_in_several_places_say_nothing(tensors: dict[str, Tensor]) -> None:
    zeros = {name: torch.zeros_like(each) if name.endswith("bias") else each for name, each in tensors.items()}
    assert recognise(STYLES["german"].load(zeros, CONFIG), CONFIG, zeros.__getitem__) is None


def test_what_the_module_computes_does_not_matter(tensors: dict[str, Tensor], tmp_path: object) -> None:
    style = STYLES["german"]
    path = edited(style, [("self.aufteilen(self.frage(x))", "self.aufteilen(self.schluessel(x))")], tmp_path)  # type: ignore[arg-type]
    right = recognise(style.load(tensors, CONFIG), CONFIG, tensors.__getitem__)
    assert recognise(style.load(tensors, CONFIG, path), CONFIG, tensors.__getitem__) == right
