"""Every style of `tests.foreign` is GPT-2, and its answer is the right one: transformers says so.

The weights are perturbed (`tests.perturbed`), the sizes pairwise different, the inner width ``4 E``, which is what most
styles hard-code. The unit of every float32 threshold is the noise floor: how far transformers' float32 logits are from
its own float64 run.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gpt2_from_scratch import load_into
from gpt2_from_scratch.config import GPTConfig
from tests.foreign import HERE, STYLES, Edit, Style, edited
from tests.foreign.casts import CASTS, FLOAT32_ONLY
from tests.foreign.casts import EXACT as UNROUNDED
from tests.perturbed import SIZES, perturbed

# In noise floors. Two right float32 programs are each about one noise floor from the truth, so at most two from each
# other; twice that leaves room for another order of summation. Measured: 1.7.
NEAR = 4
# Logits are below 5 here and float64 rounds at 1e-16 of that; right code was measured at 9e-15 at most.
EXACT = 1e-10


@dataclass(frozen=True)
class Truth:
    """transformers' perturbed GPT-2: sizes, float64 weights, some ids and their float64 logits, and the noise floor."""

    config: GPTConfig
    tensors: dict[str, Tensor]
    ids: Tensor
    expected: Tensor
    floor: float

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: tensor.to(dtype) for name, tensor in self.tensors.items()}


@pytest.fixture(scope="module")
def truth() -> Truth:
    reference = perturbed(n_inner=None).requires_grad_(False)
    config = GPTConfig.from_hf(reference.config.to_dict())
    ids = torch.randint(SIZES["vocab_size"], (2, 31), generator=torch.Generator().manual_seed(2))
    rough = reference(ids, use_cache=False).logits
    exact = reference.double()(ids, use_cache=False).logits
    tensors = dict(reference.transformer.named_parameters())
    return Truth(config, tensors, ids, exact, (rough - exact).abs().max().item())


in_every_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)


def test_every_file_has_an_answer() -> None:
    others = {"__init__", "casts", "book_cached"}  # the registry, edits of the styles, and a subclass of book's
    assert {path.stem for path in HERE.glob("*.py")} - others == set(STYLES)


@in_every_style
def test_the_entry_makes_the_model(style: Style, truth: Truth) -> None:
    python = style.python()
    entry = getattr(python, style.entry)
    model = style.build(python, truth.config)
    assert isinstance(model, entry) if isinstance(entry, type) else callable(entry) and callable(model)


@in_every_style
def test_float64_logits_are_those_of_transformers(style: Style, truth: Truth) -> None:
    model = style.load(truth.weights(torch.float64), truth.config)
    logits = style.logits(model, truth.ids)
    assert logits.dtype == torch.float64
    assert_close(logits, truth.expected, rtol=0, atol=EXACT)


@in_every_style
def test_float32_logits_are_within_rounding_of_the_truth(style: Style, truth: Truth) -> None:
    model = style.load(truth.weights(torch.float32), truth.config)
    logits = style.logits(model, truth.ids)
    assert logits.dtype == torch.float32
    assert_close(logits.double(), truth.expected, rtol=0, atol=NEAR * truth.floor)


@pytest.mark.parametrize(
    "style", [style for style in STYLES.values() if not style.functions], ids=lambda style: style.name
)
def test_the_layout_says_the_same_as_the_answer(style: Style, truth: Truth, book_checkpoint: Path) -> None:
    module = style.build(style.python(), truth.config)
    assert load_into(module, book_checkpoint, style.layout)
    loaded = dict(module.named_parameters(remove_duplicate=False))
    for name, value in style.arrange(truth.weights(torch.float32), truth.config).items():
        assert torch.equal(loaded[name], value), name


@in_every_style
def test_the_answer_uses_every_value_of_the_checkpoint(style: Style, truth: Truth) -> None:
    """Numbered elements go through it: none is lost, and none is computed."""
    first, numbers = 1, {}
    for name, tensor in truth.tensors.items():
        numbers[name] = torch.arange(first, first + tensor.numel(), dtype=torch.float64).view(tensor.shape)
        first += tensor.numel()
    found = torch.cat([tensor.flatten() for tensor in style.arrange(numbers, truth.config).values()]).unique()
    assert torch.equal(found[found != 0], torch.arange(1, first, dtype=torch.float64))


MATRIX = [
    pytest.param(STYLES[style], name, edits, id=f"{style}-{name}")
    for style, casts in CASTS.items()
    for name, edits in casts.items()
]


def check_cast(style: Style, name: str, edits: tuple[Edit, ...], truth: Truth, folder: Path) -> None:
    """In float32 the model is right; in float64 it is right up to float32's rounding, and no better."""
    path = edited(style, edits, folder)
    model = style.load(truth.weights(torch.float32), truth.config, path)
    logits = style.logits(model, truth.ids)
    assert logits.dtype == torch.float32
    assert_close(logits.double(), truth.expected, rtol=0, atol=NEAR * truth.floor)

    model = style.load(truth.weights(torch.float64), truth.config, path)
    if name in FLOAT32_ONLY:
        with pytest.raises(RuntimeError, match=r"mixed dtype|same dtype|expected scalar type"):
            style.logits(model, truth.ids)
        return
    moved = (style.logits(model, truth.ids) - truth.expected).abs().max().item()
    assert moved <= NEAR * truth.floor
    assert (moved > EXACT) == (name not in UNROUNDED)


@pytest.mark.parametrize(("style", "name", "edits"), MATRIX[::7])
def test_some_casts_leave_a_style_right(
    style: Style, name: str, edits: tuple[Edit, ...], truth: Truth, tmp_path: Path
) -> None:
    check_cast(style, name, edits, truth, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("style", "name", "edits"), MATRIX)
def test_every_cast_leaves_its_style_right(
    style: Style, name: str, edits: tuple[Edit, ...], truth: Truth, tmp_path: Path
) -> None:
    check_cast(style, name, edits, truth, tmp_path)
