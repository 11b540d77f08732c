"""A layout is called proven only if GPT-2's weights, loaded by it, make the module compute GPT-2's logits.

Several hundred wrong models (`tests.bugs`) and right ones of random sizes. What is asserted says nothing about how
often a fault is named: a wrong model's answer may be "not found", but never "proven".
"""

import contextlib
import io
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout import InferredLayout, Status, infer_layout
from gpt2_from_scratch.mapping import write_theirs
from tests.bugs import Bug
from tests.bugs.development import BUGS as DEVELOPMENT
from tests.bugs.fresh import BUGS as FRESH
from tests.bugs.held_out import BUGS as HELD_OUT
from tests.foreign import STYLES, Style

# Right code agrees to 1e-14 of the largest logit in float64, code with constants in float32 to 2e-7.
EQUAL = 1e-6

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's code


def random_config(seed: str) -> GPTConfig:
    chance = random.Random(seed)
    heads = chance.choice([2, 3, 4, 5])
    return GPTConfig(
        vocab_size=chance.randint(30, 260),
        n_positions=chance.randint(5, 40),
        n_embd=heads * chance.choice([5, 6, 7, 8, 11]),
        n_layer=chance.randint(1, 3),
        n_head=heads,
    )


def random_tensors(config: GPTConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: 0.3 * torch.randn(shape, generator=generator) + (".weight" in name and "ln_" in name)
        for name, shape in config.tensor_shapes().items()
    }


def is_gpt2(style: Style, module: nn.Module, found: InferredLayout, config: GPTConfig) -> bool:
    """Loads weights by the layout, and compares logits with GPT-2's at several lengths, the longest the context."""
    assert found.layout is not None
    tensors = random_tensors(config)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if any("the module has no such bias" in condition for condition in found.conditions):
        tensors = {name: 0 * tensor if name.endswith("bias") else tensor for name, tensor in tensors.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()  # whatever GPT-2 lacks has to be zero
        for name, read in write_theirs(found.layout, config, tensors.__getitem__, parameters.__contains__).items():
            parameters[name].copy_(read())
        for length in (1, 4, config.n_positions):
            ids = torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
            expected = forward.logits(config, tensors, ids)
            actual = style.logits(module.double(), ids)
            if not float((actual - expected[:, -actual.shape[1] :]).abs().max()) <= EQUAL * float(expected.abs().max()):
                return False
    return True


def check(style: Style, module: nn.Module, config: GPTConfig) -> Status:
    with contextlib.redirect_stdout(io.StringIO()):
        found = infer_layout(module, config)
        if found.status is Status.PROVEN:
            assert is_gpt2(style, module, found, config), f"a false proof: {found}, {found.evidence}"
    return found.status


WRONG = [
    bug for bug in (*DEVELOPMENT, *HELD_OUT, *FRESH) if not STYLES[bug.style].functions and not STYLES[bug.style].fixed
]
RIGHT = [(name, size) for name, style in STYLES.items() if not style.functions and not style.fixed for size in range(3)]


def wrong_case(bug: Bug, folder: Path) -> Status:
    config = random_config(bug.id)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = bug.load(random_tensors(config), config, folder)
    except Exception:  # a bug may keep the model from being built at these sizes
        pytest.skip("cannot be built")
    return check(STYLES[bug.style], module, config)


@pytest.mark.parametrize("bug", WRONG[::20], ids=lambda bug: bug.id)
def test_some_wrong_models_are_not_proven(bug: Bug, tmp_path: Path) -> None:
    wrong_case(bug, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bug", WRONG, ids=lambda bug: bug.id)
def test_no_wrong_model_is_proven(bug: Bug, tmp_path: Path) -> None:
    wrong_case(bug, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), RIGHT)
def test_right_models_of_random_sizes_are_proven(name: str, size: int) -> None:
    style, config = STYLES[name], random_config(f"{name} {size}")
    with contextlib.redirect_stdout(io.StringIO()):
        module = style.build(style.python(), config).eval().requires_grad_(False)
    assert check(style, module, config) is Status.PROVEN


def test_there_are_enough_cases() -> None:
    assert len(WRONG) + len(RIGHT) >= 300
