"""Every style of `tests.foreign` is read and proven, and what was read is the style's own answer."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout import Status, infer_layout, to_python
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import Layout, match_module, write_theirs
from tests.foreign import STYLES, Style
from tests.perturbed import SIZES

CONFIG = GPTConfig(**{**SIZES, "n_inner": None})  # 12 layers: with fewer, wrong orders of layers can look right
MODULES = {name: style for name, style in STYLES.items() if not style.functions}
in_every_style = pytest.mark.parametrize("style", MODULES.values(), ids=MODULES)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in CONFIG.tensor_shapes().items()}


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(remove_duplicate=False))


def written(layout: Layout, module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the layout would write to the module's parameters."""
    reads = write_theirs(layout, CONFIG, tensors.__getitem__, wanted=parameters_of(module).__contains__)
    return {name: read() for name, read in reads.items()}


@pytest.mark.parametrize(
    "style",
    [
        pytest.param(style, id=name, marks=() if turn % 6 == 0 else pytest.mark.slow)
        for turn, (name, style) in enumerate(MODULES.items())
    ],
)
def test_a_style_is_proven_and_read_as_its_author_meant_it(style: Style, tensors: dict[str, Tensor]) -> None:
    module = style.load(tensors, CONFIG)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = infer_layout(module, CONFIG)  # nobody says how it is called
    assert found.status is Status.PROVEN, (found, found.evidence)
    assert found.layout is not None
    values = written(found.layout, module, tensors)
    spare = {re.sub(r"\d+", "*", name) for name in set(parameters_of(module)) - set(values)}
    assert spare <= {re.sub(r"\d+", "*", name) for name in style.spare}
    for name, value in values.items():
        assert torch.equal(value.broadcast_to(parameters_of(module)[name].shape), parameters_of(module)[name]), name
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    built_in = match_module(module, CONFIG, [layout for variants in LAYOUTS.values() for layout in variants])
    assert not built_in or found.layout == built_in.layout
    names: dict[str, Layout] = {}
    exec(to_python(found.layout, name="MINE"), names)
    assert names["MINE"] == found.layout


@in_every_style
def test_a_forward_in_inference_mode_is_followed(style: Style) -> None:
    config = CONFIG if style.fixed else CONFIG.replace(n_layer=1)
    module = style.build(style.python(), config).eval()
    module.forward = torch.inference_mode()(module.forward)
    assert infer_layout(module, config).status is Status.PROVEN


@pytest.mark.slow
def test_a_context_longer_than_the_recorded_pass_is_read_token_by_token() -> None:
    style = STYLES["token_by_token"]
    config = GPTConfig(vocab_size=150, n_positions=67, n_embd=8, n_layer=1, n_head=2)
    assert infer_layout(style.build(style.python(), config), config).status is Status.PROVEN


class Nameless(nn.Module):
    """A module whose parameters have numbers, by chance, instead of names; its submodules cannot be seen."""

    def __init__(self, module: nn.Module, seed: int) -> None:
        super().__init__()
        parameters = list(module.parameters())
        order = torch.randperm(len(parameters), generator=torch.Generator().manual_seed(seed)).tolist()
        self.values = nn.ParameterList([parameters[place] for place in order])
        self.hidden = (module,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.hidden[0](*inputs)


@in_every_style
def test_names_are_not_read(style: Style, tensors: dict[str, Tensor]) -> None:
    config = CONFIG if style.fixed else CONFIG.replace(n_layer=2)
    module = style.build(style.python(), config).eval().requires_grad_(False)
    nameless = Nameless(module, seed=1)
    found = infer_layout(nameless, config, call=lambda ids: style.logits(module, ids))
    if style.name in ("head_list",):  # a row says that heads have modules of their own by counting them
        assert found.status is Status.NOT_FOUND
        assert "no layout can express it" in str(found)
        return
    assert found.status is Status.PROVEN, found
    assert found.layout is not None
    ours = {name: tensors[name] for name in config.tensor_shapes()}
    reads = write_theirs(found.layout, config, ours.__getitem__, wanted=parameters_of(nameless).__contains__)
    with torch.no_grad():
        for name, read in reads.items():
            parameters_of(nameless)[name].copy_(read())
    ids = torch.randint(config.vocab_size, (1, 29), generator=torch.Generator().manual_seed(1))
    expected = forward.logits(config, ours, ids)
    assert_close(style.logits(module.double(), ids), expected, rtol=0, atol=1e-8 * float(expected.abs().max()))
