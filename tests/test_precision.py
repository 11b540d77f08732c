"""A run in float64 is float64 through and through, costs no memory for the weights, and leaves the model as it was."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2_from_scratch import load_into
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.precision import InFloat64, in_float64, parameters_in_float64, run_in_float64
from gpt2_from_scratch.testing import perturbed_checkpoint
from tests.modules import STYLES, Style, logits


@pytest.fixture(autouse=True)
def _drawn_alike() -> Iterator[None]:
    """Layers are drawn from one seed: where a sum nearly cancels, a constant shows more than it moves."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perturbed_checkpoint(tmp_path_factory.mktemp("perturbed"), n_layer=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_it_is_the_model_converted_to_float64(style: Style, dtype: torch.dtype, checkpoint: Path) -> None:
    """Against `.double()`, which writes the module: the same mathematics, from the same (rounded) weights."""
    config = open_checkpoint(checkpoint).config
    model = style(config)
    load_into(model, checkpoint, style.layout)
    model.to(dtype)
    ids = torch.arange(30).view(2, 15) * 7
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with in_float64():
        actual = logits(model, ids)
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert actual.dtype == torch.float64
    # What is not rounding but a number: `-inf` masks, epsilons and scale are the same; 1e-12 is 2^12 float64 units.
    torch.testing.assert_close(actual, logits(model.double(), ids), rtol=0, atol=1e-12 * float(actual.abs().max()))


Code = Callable[[Tensor, Tensor], Tensor]

# Code, and what it means: the same without the narrow type that it asks for. Nothing is computed after the cast, so a
# cast that does narrow leaves a float32 number behind.
NARROWING: dict[str, tuple[Code, Code]] = {
    ".float()": (lambda x, w: (x @ w).float(), lambda x, w: x @ w),
    ".to(torch.float32)": (lambda x, w: (x @ w).to(torch.float32), lambda x, w: x @ w),
    ".to(device, dtype)": (lambda x, w: (x @ w).to("cpu", torch.float32), lambda x, w: x @ w),
    ".to(weight)": (lambda x, w: (x @ w).to(w), lambda x, w: x @ w),
    ".type(torch.float32)": (lambda x, w: (x @ w).type(torch.float32), lambda x, w: x @ w),
    ".bfloat16()": (lambda x, w: (x @ w).bfloat16(), lambda x, w: x @ w),
    ".type_as(weight)": (lambda x, w: (x @ w).type_as(w), lambda x, w: x @ w),
    "softmax(dtype=)": (lambda x, w: (x @ w).softmax(-1, dtype=torch.float32), lambda x, w: (x @ w).softmax(-1)),
    "F.softmax(dtype=)": (
        lambda x, w: F.softmax(x @ w, dim=-1, dtype=torch.float32),
        lambda x, w: (x @ w).softmax(-1),
    ),
    "log_softmax(dtype=)": (
        lambda x, w: (x @ w).log_softmax(-1, torch.float32),
        lambda x, w: (x @ w).log_softmax(-1),
    ),
    "cumsum(dtype=)": (lambda x, w: (x @ w).cumsum(-1, dtype=torch.float32), lambda x, w: (x @ w).cumsum(-1)),
    "sum(dtype=)": (lambda x, w: (x @ w).sum(-1, dtype=torch.float32), lambda x, w: (x @ w).sum(-1)),
    "a weight's .bfloat16()": (lambda x, w: x @ w.bfloat16(), lambda x, w: x @ w),
    "a weight's .float()": (lambda x, w: x @ w.float(), lambda x, w: x @ w),
    "float32 zeros": (lambda x, w: torch.zeros(2, 4, dtype=torch.float32).add_(x @ w), lambda x, w: x @ w),
    "float32 empty": (lambda x, w: torch.empty(2, 4, dtype=torch.float32).copy_(x @ w), lambda x, w: x @ w),
    "new_empty": (lambda x, w: x.new_empty(2, 4).copy_(x @ w), lambda x, w: x @ w),
    "empty_like": (lambda x, w: torch.empty_like(x @ w).copy_(x @ w), lambda x, w: x @ w),
    "in place": (lambda x, w: (x @ w).add_(1).mul_(w.max()), lambda x, w: ((x @ w) + 1) * w.max()),
    "into a slice": (
        lambda x, w: torch.cat([x @ w, x @ w]).index_copy(0, torch.tensor([0]), (x @ w)[:1] / 3),
        lambda x, w: torch.cat([(x @ w)[:1] / 3, (x @ w)[1:], x @ w]),
    ),
    "matmul of a view": (lambda x, w: x @ w.t().contiguous().t()[:, :2], lambda x, w: x @ w[:, :2]),
    "einsum": (lambda x, w: torch.einsum("be,ef->bf", x, w), lambda x, w: x @ w),
    "index": (lambda x, w: w[torch.tensor([0, 2])] / 3 + x[:, :1], lambda x, w: w[[0, 2]] / 3 + x[:, :1]),
    "index_select": (lambda x, w: w.index_select(0, torch.tensor([0, 2])) / 3, lambda x, w: w[[0, 2]] / 3),
    "layer norm": (
        lambda x, w: F.layer_norm((x @ w).float(), (4,), w[0], w[1], 1e-5),
        lambda x, w: F.layer_norm(x @ w, (4,), w[0], w[1], 1e-5),
    ),
    "fused attention": (
        lambda x, w: F.scaled_dot_product_attention(*(x.expand(1, 2, 2, 3).float() for _ in range(3))),
        lambda x, w: F.scaled_dot_product_attention(*(x.expand(1, 2, 2, 3) for _ in range(3))),
    ),
    "autocast": (lambda x, w: _autocast(x, w), lambda x, w: x @ w),
}


def _autocast(x: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return x @ w


@pytest.mark.parametrize("recording", [True, False], ids=["with autograd", "without"])
@pytest.mark.parametrize("name", NARROWING)
def test_no_step_falls_back_to_a_narrower_type(name: str, recording: bool) -> None:
    """Autograd takes composite operations apart before they are seen; inference mode hands them over whole."""
    code, meaning = NARROWING[name]
    x, w = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 12).view(3, 4)
    expected = meaning(x.double(), w.double())
    assert not torch.equal(expected.float().double(), expected), "the case has digits to lose"
    with in_float64(), torch.inference_mode(not recording):
        actual = code(x, w)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-15)


# ------------------------------------------------------------------------------------------------------- constants

CONSTANTS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "a float32 tensor": (lambda x: x * torch.tensor(0.044715, dtype=torch.float32), True),
    "a numpy number": (lambda x: x * float(numpy.float32(0.044715)), True),
    "a decimal of eight digits": (lambda x: x * 0.79788456, True),
    "a table of sines": (lambda x: x + torch.from_numpy(numpy.sin(numpy.arange(3, dtype=numpy.float32))), True),
    "a decimal that is meant": (lambda x: x * 0.044715 + 1e-5, False),
    "a formula": (lambda x: x * math.sqrt(2 / math.pi), False),
    "a tensor without a type": (lambda x: x * torch.tensor(0.044715), False),
    "a mask": (lambda x: x.masked_fill(torch.from_numpy(numpy.tri(2, 3, dtype=numpy.float32)) == 0, -1e10), False),
    "the lowest number": (lambda x: x + torch.full((3,), 0.0) * torch.finfo(torch.float32).min, False),
    "a whole number": (lambda x: x + torch.tensor(10007.0, dtype=torch.float32), False),
    "a power of two": (lambda x: x * torch.tensor(0.125, dtype=torch.float32), False),
    "a mask that is multiplied": (
        lambda x: (
            x * torch.from_numpy(numpy.tri(2, 3, dtype=numpy.float32))
            - 1e10 * (1 - torch.from_numpy(numpy.tri(2, 3, dtype=numpy.float32)))
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_in_float32_are_seen_and_moved(name: str) -> None:
    """Weights are exact and never moved; a rounded number that is none is known to half a unit in the last place."""
    code, rounded = CONSTANTS[name]
    layer, x = nn.Linear(3, 3), torch.linspace(-1, 1, 6).view(2, 3)

    def run() -> Tensor:
        with torch.inference_mode():
            return code(layer(x.double()))

    with in_float64(layer) as met:
        once = run()
    assert met.constants is rounded and not met.left_torch
    result, moved = run_in_float64(run, layer)
    torch.testing.assert_close(result, once, rtol=0, atol=0)
    assert len(moved) == (2 if rounded else 0)
    for other in moved:
        share = float(((other - result) / result).abs().max())
        assert 2.0**-27 < share < 2.0**-20, "half a unit in the last place of float32 is 2^-24 of the constant"


def test_two_runs_show_constants_that_cancel_out_in_one() -> None:
    """``a x - b x`` stays when both move up; their difference does not when they move apart."""
    layer, x = nn.Linear(3, 3), torch.ones(2, 3)
    one, other = torch.tensor(0.7, dtype=torch.float32), torch.tensor(0.71, dtype=torch.float32)
    up = [int(abs(torch.frexp(each.double())[0]) * 2**7) % 2 for each in (one, other)]
    assert up[0] != up[1]
    with torch.inference_mode():
        result, moved = run_in_float64(lambda: layer(x) * one - layer(x) * other, layer)
        wide = layer.double()(x.double()).abs()
    together, apart = ((each - result).abs() / wide for each in moved)
    assert float(together.max()) < 2.0**-29, "nearly nothing of 0.7 x 2^-24"
    torch.testing.assert_close(together + apart, torch.full_like(wide, 1.41 * 2.0**-24), rtol=0.05, atol=0)


def test_the_input_of_a_module_without_constants_is_no_constant() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh"), nn.LayerNorm(4))
    with in_float64(layer) as met, torch.inference_mode():
        layer(torch.ones(2, 3))
    assert met == InFloat64()


def test_numbers_that_come_back_from_numpy_are_not_trusted() -> None:
    layer = nn.Linear(3, 3)

    def through(dtype: str) -> Callable[[], Tensor]:
        return lambda: torch.from_numpy(layer(torch.ones(1, 3)).detach().numpy().astype(dtype)) * 2

    result, moved = run_in_float64(through("float64"), layer)
    assert result.dtype == torch.float64 and not moved
    with pytest.raises(NotImplementedError, match="leave torch"):
        run_in_float64(through("float32"), layer)


class Casts(TorchDispatchMode):
    """How many numbers each cast to another type makes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype):
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize("form", ["linear", "linear without bias", "addmm", "mm", "matmul"])
def test_large_products_are_computed_in_slabs(form: str) -> None:
    """The same numbers, and no float64 copy of the whole weight."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((2050, 2061), (2050,), (10, 2061)))
    batched = x.view(2, 5, 2061)
    run: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: F.linear(x, weight, bias),
        "linear without bias": lambda: F.linear(x, weight),
        "addmm": lambda: torch.addmm(bias, x, weight.t()),
        "mm": lambda: torch.mm(x, weight.t()),
        "matmul": lambda: (batched @ weight.t()).flatten(0, 1),
    }
    with Casts() as casts, in_float64(), torch.inference_mode():
        actual = run[form]()
    exact = F.linear(x.double(), weight.double(), bias.double() if form in ("linear", "addmm") else None)
    torch.testing.assert_close(actual, exact, rtol=0, atol=1e-11)  # sums of two thousand products
    assert 1 << 22 >= max(casts.sizes) > weight.numel() / 2, "32 MB, and more than half of this weight"


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a buffer": lambda buffer, x: buffer.add_(x),
    "a slice": lambda buffer, x: buffer[:1].copy_(x[:1]),
    "by index": lambda buffer, x: buffer.__setitem__(slice(0, 1), x[:1]),
    "out=": lambda buffer, x: torch.add(x, x, out=buffer),
    "index_copy_": lambda buffer, x: buffer.index_copy_(0, torch.tensor([0]), x[:1] * 2),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_into_a_narrow_tensor_is_refused(write: Callable[[Tensor, Tensor], Any]) -> None:
    """Otherwise it would be lost: what is written to is a copy in float64."""
    buffer, x = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(NotImplementedError, match=r"writes into a tensor of torch\.float32"), in_float64():
        write(buffer, x)
    assert not buffer.any()


def test_integers_and_masks_stay_what_they_are() -> None:
    with in_float64():
        assert torch.arange(3).dtype == torch.int64
        assert torch.ones(2, 2, dtype=torch.bool).tril().dtype == torch.bool
        assert (torch.arange(3) > 1).dtype == torch.bool
        assert torch.arange(3).cumsum(0).dtype == torch.int64
        assert torch.linspace(0, 1, 3).dtype == torch.float64


def test_afterwards_nothing_is_wide() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes"), in_float64():
        layer(torch.ones(1, 3))
    assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_numbers_made_of_integers_are_exact() -> None:
    with in_float64():
        thirds, tenths, constant = torch.arange(3) / 3, torch.arange(3) * 0.1, torch.tensor(0.1)
    assert torch.equal(thirds, torch.arange(3).double() / 3)
    assert torch.equal(tenths, torch.arange(3).double() * 0.1)
    assert float(constant) == 0.1


def test_compiled_code_runs_uncompiled() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2), nn.GELU()), backend="eager")
    with torch.inference_mode():
        compiled(torch.ones(1, 2))
        with in_float64():
            assert compiled(torch.ones(1, 2)).dtype == torch.float64
        assert compiled(torch.ones(1, 2)).dtype == torch.float32


def test_parameters_in_float64_have_gradients_in_float64() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.ones(2, 3)
    x, pointer, before = torch.randn(4, 3), layer.weight.data_ptr(), layer.weight.detach().clone()
    with parameters_in_float64(layer):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), [layer.weight])
    assert gradient.dtype == torch.float64
    exact = nn.Linear(3, 2).double()
    exact.load_state_dict(layer.state_dict())
    (expected,) = torch.autograd.grad(exact(x.double()).square().sum(), [exact.weight])
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)
    assert layer.weight.data_ptr() == pointer and torch.equal(layer.weight, before)
    assert torch.equal(layer.weight.grad, torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="shapes"), parameters_in_float64(layer):
        layer(torch.ones(1, 2))
    assert layer.weight.dtype == torch.float32
