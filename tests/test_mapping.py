"""The laws of the mapping: bijection, inverse, order, no guessing, all errors at once, values in and values out.

The one idea: a law says nothing about any one code base, so each test runs on all of `LAYOUTS`, and a new table is
tested the moment it is registered. Tensors are random *bit patterns*, NaNs included, so that "equal" can mean the same
bits.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import mapping
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import (
    AddAxis,
    DropAxis,
    Dropped,
    Join,
    Layout,
    Link,
    MergeHeads,
    Operation,
    Parameter,
    Row,
    Shape,
    Split,
    SplitHeads,
    Stack,
    Transpose,
    Unstack,
    Zeros,
    account,
    best_fit,
    collapse,
    conv1d,
    embedding,
    linear,
    listed,
    norm,
    read_canonical,
    tied,
    write_theirs,
)
from gpt2_from_scratch.model import GPTModel
from tests.modules import STYLES
from tests.perturbed import SIZES

Tensors = dict[str, Tensor]

CONFIG = GPTConfig(**SIZES)
UNTIED = CONFIG.replace(tie_word_embeddings=False)
SHALLOW = CONFIG.replace(n_layer=2)  # for tests that run once per tensor
BOTH = pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
BOTH_SHALLOW = pytest.mark.parametrize(
    "config", [SHALLOW, SHALLOW.replace(tie_word_embeddings=False)], ids=["tied", "untied"]
)
VARIANTS = [layout for variants in LAYOUTS.values() for layout in variants]
NAMES = [f"{name}-{n}" for name, variants in LAYOUTS.items() for n in range(len(variants))]
every_layout = pytest.mark.parametrize("layout", VARIANTS, ids=NAMES)

# An invented code base that needs every operation: heads apart, layers stacked, parts joined, unit axes.
STRANGE = Layout(
    "strange",
    (
        embedding("wte", "E"),
        embedding("wpe", "P"),
        norm("h.*.ln_1", "norms_1"),
        Row(
            "h.*.attn.c_attn",
            ("b*.Q", "b*.K", "b*.V"),
            (Parameter("weight", "W", (Split(3, axis=1), SplitHeads(axis=1))), Parameter("bias", "b", (Split(3, 0),))),
        ),
        Row(
            "h.*.attn.c_proj",
            ("b*.O",),
            (Parameter("weight", "W", (SplitHeads(axis=0),)), Parameter("bias", "b", (AddAxis(),))),
        ),
        norm("h.*.ln_2", "norms_2"),
        Row("h.*.mlp.c_fc", ("up",), (Parameter("weight", "W", (Transpose(),)), Parameter("bias", "b", (AddAxis(),)))),
        Row(
            "h.*.mlp.c_proj",
            ("b*.down",),
            (Parameter("weight", "W", (Split(4, axis=1), Join(4, axis=0))), Parameter("bias", "b")),
        ),
        norm("ln_f", "last"),
        tied("lm_head", "U", to="wte"),
    ),
)
every_layout_and_a_strange_one = pytest.mark.parametrize("layout", [*VARIANTS, STRANGE], ids=[*NAMES, "strange"])


def random_bits(shape: Shape, generator: torch.Generator) -> Tensor:
    """Float32 of any bit pattern: NaNs with payloads, infinities, denormals, negative zeros."""
    return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32).view(torch.float32)


def canonical_tensors(config: GPTConfig, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: random_bits(shape, generator) for name, shape in config.tensor_shapes().items()}


def save(layout: Layout, config: GPTConfig, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: read() for name, read in write_theirs(layout, config, tensors.__getitem__).items()}


def load(layout: Layout, config: GPTConfig, theirs: Mapping[str, Tensor]) -> Tensors:
    accounting = account(layout, config, shapes_of(theirs))
    assert accounting, str(accounting)
    return {name: read() for name, read in read_canonical(accounting, config, theirs.__getitem__).items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def their_shapes(layout: Layout, config: GPTConfig) -> dict[str, Shape]:
    return shapes_of(save(layout, config, canonical_tensors(config)))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def assert_same_bits(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    different = [name for name in expected if not same_bits(actual[name], expected[name])]
    assert not different


def test_the_sizes_hide_nothing() -> None:
    """Equal sizes would hide exchanged axes; attn.c_proj alone is square by nature, which is what law 4 is about."""
    sizes = {*SIZES.values(), CONFIG.head_dim, 3 * CONFIG.n_embd}
    assert len(sizes) == len(SIZES) + 2
    assert CONFIG.n_layer >= 11  # fewer hide the lexicographic order of h.10 and h.2


# ---------------------------------------------------------------------------------------------------- 1. bijection


@BOTH
@every_layout_and_a_strange_one
def test_every_name_belongs_to_exactly_one_link(layout: Layout, config: GPTConfig) -> None:
    links = layout.unroll(config)
    theirs = Counter(name for link in links for name in link.theirs)
    canonical = Counter(name for link in links for name in link.canonical)
    assert set(theirs.values()) == {1}
    assert canonical == Counter([*CONFIG.tensor_shapes(), "lm_head.weight"])
    assert not [name for name in theirs if layout.ignored(name, config)]


@BOTH
@every_layout_and_a_strange_one
def test_links_know_the_shapes_they_produce(layout: Layout, config: GPTConfig) -> None:
    shapes = their_shapes(layout, config)
    links = layout.unroll(config)
    claimed = {name: shape for link in links for name, shape in zip(link.theirs, link.shapes, strict=True)}
    assert {name: claimed[name] for name in shapes} == shapes


@BOTH_SHALLOW
@every_layout_and_a_strange_one
def test_each_tensor_left_out_is_named(layout: Layout, config: GPTConfig) -> None:
    complete = their_shapes(layout, config)
    links = {name: link for link in layout.unroll(config) for name in link.theirs}
    assert account(layout, config, complete)
    for name in complete:
        accounting = account(layout, config, {other: complete[other] for other in complete if other != name})
        if links[name].tied_to is not None and config.tie_word_embeddings:
            assert accounting  # a copy that may be absent
        else:
            assert not accounting
            assert accounting.missing == (name,)
            assert name in str(accounting)


@BOTH_SHALLOW
@every_layout_and_a_strange_one
def test_each_tensor_too_many_is_named(layout: Layout, config: GPTConfig) -> None:
    complete = their_shapes(layout, config)
    last = next(name for link in reversed(layout.unroll(config)) for name in link.theirs if name in complete)
    beyond = their_shapes(layout, config.replace(n_layer=config.n_layer + 1))
    for extra in ("stranger", f"{last}.0", f"x{last}", f"{last} ", *(beyond.keys() - complete.keys())):
        accounting = account(layout, config, complete | {extra: (2, 3)})
        assert not accounting
        assert accounting.unexpected == (extra,)


@every_layout_and_a_strange_one
def test_each_wrong_shape_is_named_with_both(layout: Layout) -> None:
    complete = their_shapes(layout, SHALLOW)
    for name, shape in complete.items():
        accounting = account(layout, SHALLOW, complete | {name: (*shape, 1)})
        assert accounting.misshapen == {name: (shape, (*shape, 1))}
        assert f"{[*shape, 1]}, expected {list(shape)}" in str(accounting)
        assert name not in {theirs for link in accounting.links for theirs in link.theirs}


def optional_names(layout: Layout, config: GPTConfig) -> set[str]:
    return {name for link in layout.unroll(config) if link.absent_means_zero for name in link.theirs}


@pytest.mark.parametrize(
    "layout", [layout for layout in VARIANTS if optional_names(layout, SHALLOW)], ids=lambda layout: layout.about
)
def test_optional_biases_are_all_there_or_none_is(layout: Layout) -> None:
    """One switch turns them off, so one that is missing alone was lost, and is not zero."""
    complete = their_shapes(layout, SHALLOW)
    optional = optional_names(layout, SHALLOW)
    none = account(layout, SHALLOW, {name: shape for name, shape in complete.items() if name not in optional})
    assert none
    assert {name for link in none.zeros for name in link.theirs} == optional
    for name in optional:
        others = {other: shape for other, shape in complete.items() if other != name}
        assert account(layout, SHALLOW, others).missing == (name,)


@BOTH
def test_absent_biases_are_read_as_zeros(config: GPTConfig) -> None:
    for layout in VARIANTS:
        theirs = save(layout, config, canonical_tensors(config))
        biases = [link for link in layout.unroll(config) if link.absent_means_zero]
        absent = {name for link in biases for name in link.theirs}
        loaded = load(layout, config, {name: tensor for name, tensor in theirs.items() if name not in absent})
        for link in biases:
            for name in link.canonical:
                assert torch.equal(loaded[name], torch.zeros(config.tensor_shapes()[name]))


def test_biases_that_are_not_zero_have_no_place_in_a_module_without_them() -> None:
    layout = LAYOUTS["llms_from_scratch"][0]
    zeros = {name: torch.zeros(shape) for name, shape in CONFIG.tensor_shapes().items()}

    def wanted(name: str) -> bool:
        return "W_" not in name or not name.endswith("bias")

    assert not [name for name in write_theirs(layout, CONFIG, zeros.__getitem__, wanted) if not wanted(name)]
    zeros["h.3.attn.c_attn.bias"][7] = -0.25
    zeros["h.4.attn.c_attn.bias"][2] = 0.125
    with pytest.raises(MappingError, match=r"no .*\{3\.\.\.4\}\.att\.W_query\.bias.*not zero.*0\.25") as caught:
        write_theirs(layout, CONFIG, zeros.__getitem__, wanted)
    assert "qkv_bias=True" in caught.value.hint


@every_layout
def test_ignored_tensors_have_a_reason_and_a_layer_that_exists(layout: Layout) -> None:
    patterns = [row.theirs for row in layout.rows if isinstance(row, mapping.Ignore)]
    complete = their_shapes(layout, CONFIG)
    for pattern in patterns:
        layers = ("0", "11") if "*" in pattern else ("",)
        for layer in layers:
            name = pattern.replace("*", layer)
            accounting = account(layout, CONFIG, complete | {name: (1, 1, 37, 37)})
            assert accounting
            assert accounting.ignored.keys() == {name}
            assert accounting.ignored[name].strip()
        if "*" in pattern:
            for layer in ("12", "00", "-1", "", "٣", "9" * 5000):  # Python reads ٣ as 3, and refuses 5000 digits
                assert layout.ignored(pattern.replace("*", layer), CONFIG) is None


# ------------------------------------------------------------------------------------------------------ 2. inverse


@BOTH
@every_layout_and_a_strange_one
def test_loading_undoes_saving_bit_for_bit(layout: Layout, config: GPTConfig) -> None:
    tensors = canonical_tensors(config)
    theirs = save(layout, config, tensors)
    assert_same_bits(load(layout, config, theirs), tensors)
    assert_same_bits(save(layout, config, load(layout, config, theirs)), theirs)


@every_layout_and_a_strange_one
def test_a_tied_head_is_the_embedding_again(layout: Layout) -> None:
    tensors = canonical_tensors(CONFIG)
    theirs = save(layout, CONFIG, tensors)
    (head,) = (link for link in layout.unroll(CONFIG) if link.canonical == ("lm_head.weight",))
    if head.written_when_tied:
        (restored,) = head.to_canonical(tuple(theirs[name] for name in head.theirs), CONFIG)
        assert same_bits(restored, tensors["wte.weight"])
    else:
        assert theirs.keys().isdisjoint(head.theirs)


@dataclass(frozen=True)
class Sizes:
    """Small random sizes to build an operation and its arguments from."""

    shape: Shape
    axis: int
    parts: int
    several: int

    def times(self, factor: int) -> Shape:
        """The shape with its axis multiplied."""
        return (*self.shape[: self.axis], self.shape[self.axis] * factor, *self.shape[self.axis + 1 :])


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    return Sizes(shape, draw(st.integers(0, len(shape) - 1)), draw(st.integers(1, 4)), draw(st.integers(1, 3)))


# Operation -> how to build one and the shapes it takes, as many as it takes tensors.
OPERATIONS: dict[type, Callable[[Sizes], tuple[Operation, tuple[Shape, ...]]]] = {
    Transpose: lambda s: (Transpose(), ((s.shape[0], s.parts),) * s.several),
    Split: lambda s: (Split(s.parts, s.axis), (s.times(s.parts),)),
    Join: lambda s: (Join(s.parts, s.axis), (s.shape,) * s.parts),
    SplitHeads: lambda s: (SplitHeads(s.axis), (s.times(CONFIG.n_head),) * s.several),
    MergeHeads: lambda s: (MergeHeads(s.axis), ((CONFIG.n_head, *s.shape),) * s.several),
    AddAxis: lambda s: (AddAxis(), (s.shape,) * s.several),
    DropAxis: lambda s: (DropAxis(), ((1, *s.shape),) * s.several),
    Stack: lambda s: (Stack(), (s.shape,) * s.several),
    Unstack: lambda s: (Unstack(), ((s.several, *s.shape),)),
    Zeros: lambda s: (Zeros("n_embd"), ()),
    Dropped: lambda s: (Dropped("n_embd"), ((CONFIG.n_embd,),)),
}


@pytest.mark.parametrize("kind", OPERATIONS)
@hypothesis.given(sizes=sizes(), seed=st.integers(0, 1000))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_each_operation_is_undone_by_its_inverse_and_writes_into_nothing(kind: type, sizes: Sizes, seed: int) -> None:
    operation, shapes = OPERATIONS[kind](sizes)
    generator = torch.Generator().manual_seed(seed)
    before = tuple(torch.zeros(shape) if kind is Dropped else random_bits(shape, generator) for shape in shapes)
    given = tuple(tensor.clone() for tensor in before)
    versions = [tensor._version for tensor in given]
    back = operation.inverse(operation(given, CONFIG), CONFIG)
    assert operation.inverse.inverse == operation
    assert [tensor.shape for tensor in back] == [tensor.shape for tensor in before]
    assert all(same_bits(a, b) for a, b in zip(back, before, strict=True))
    assert all(same_bits(a, b) for a, b in zip(given, before, strict=True))
    assert [tensor._version for tensor in given] == versions


def test_no_operation_escapes_the_test_above() -> None:
    operations = mapping.operations
    classes = {kind for _, kind in inspect.getmembers(operations, inspect.isclass)}
    classes = {kind for kind in classes if kind.__module__ == operations.__name__}
    assert {kind for kind in classes if hasattr(kind, "inverse")} - {Operation} == OPERATIONS.keys()


def test_operations_say_what_they_claim() -> None:
    """An operation and its inverse could be wrong together; here is what each means, in indices."""
    x = torch.arange(24.0).reshape(4, 6)  # [E, E'] with 4 heads along the first axis
    heads = GPTConfig(**(SIZES | {"n_head": 2}))
    assert Transpose()((x,), CONFIG)[0][5, 3] == x[3, 5]
    assert [part.tolist() for part in Split(3, axis=1)((x,), CONFIG)] == [x[:, i : i + 2].tolist() for i in (0, 2, 4)]
    assert SplitHeads(axis=1)((x,), heads)[0].shape == (2, 4, 3)
    assert SplitHeads(axis=1)((x,), heads)[0][1, 3, 2] == x[3, 5]  # head 1, row 3, feature 2: column 1 * 3 + 2
    assert SplitHeads(axis=0)((x,), heads)[0][1, 1, 4] == x[3, 4]  # head 1, feature 1, column 4: row 1 * 2 + 1
    assert Stack()((x, -x), CONFIG)[0][1, 2, 3] == -x[2, 3]
    assert AddAxis()((x,), CONFIG)[0].shape == (1, 4, 6)


def test_queries_keys_and_values_stay_in_order() -> None:
    """q, k, v split wrongly or swapped would still be a bijection, and its inverse right."""
    tensors = canonical_tensors(CONFIG)
    fused, e = tensors["h.7.attn.c_attn.weight"], CONFIG.n_embd
    theirs = save(LAYOUTS["llms_from_scratch"][0], CONFIG, tensors)
    for n, part in enumerate(("query", "key", "value")):
        columns = slice(n * e, (n + 1) * e)
        assert same_bits(theirs[f"trf_blocks.7.att.W_{part}.weight"], fused[:, columns].T)
        bias = tensors["h.7.attn.c_attn.bias"][columns]
        assert same_bits(theirs[f"trf_blocks.7.att.W_{part}.bias"], bias)
    strange = save(STRANGE, CONFIG, tensors)
    head = slice(2 * e + 3 * CONFIG.head_dim, 2 * e + 4 * CONFIG.head_dim)  # of the values, head 3
    assert same_bits(strange["b7.V.W"][3], fused[:, head])
    assert same_bits(strange["up.W"][7], tensors["h.7.mlp.c_fc.weight"].T)


# -------------------------------------------------------------------------------------------------------- 3. order


# Modules of a style that are never called: containers of what another module calls.
NEVER_CALLED = {"mingpt": {f"transformer.h.{layer}.mlp" for layer in range(CONFIG.n_layer)}}


def execution_order(module: nn.Module) -> list[str]:
    """Names of a module's parts in the order in which they first finish."""
    fired: dict[str, None] = {}
    handles = [
        part.register_forward_hook(lambda *_, name=name: fired.setdefault(name))
        for name, part in module.named_modules()
    ]
    with torch.no_grad():
        module.eval()(torch.tensor([[1, 2, 3]]))
    for handle in handles:
        handle.remove()
    return list(fired)


def check_order(layout: Layout, module: nn.Module, never_called: set[str]) -> None:
    sites = [name for _, theirs in layout.sites(CONFIG) for name in theirs]
    present = dict(module.named_modules())
    absent = [name for name in sites if name not in present]
    assert not absent, f"the layout names modules that {type(module).__name__} does not have: {listed(absent)}"
    fired = execution_order(module)
    assert set(sites) - set(fired) == never_called
    assert [name for name in sites if name in fired] == [name for name in fired if name in sites]


@pytest.mark.parametrize("style", STYLES)
def test_rows_are_in_execution_order(style: str) -> None:
    module = STYLES[style](CONFIG)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters(remove_duplicate=False)}
    fit = best_fit(LAYOUTS[STYLES[style].layout], CONFIG, shapes)
    check_order(fit.layout, module, NEVER_CALLED.get(style, set()))


def test_the_trunk_of_transformers_alone_has_that_order_too(perturbed_reference: GPT2LMHeadModel) -> None:
    rows = LAYOUTS["huggingface"][1].rows
    trunk = Layout("trunk", tuple(row for row in rows if isinstance(row, Row) and row.site != "lm_head"))
    check_order(trunk, perturbed_reference.transformer, set())


@every_layout
def test_every_layout_has_our_models_order(layout: Layout) -> None:
    """Layouts without a module here, file formats among them, are held against the canonical modules."""
    order = execution_order(GPTModel(CONFIG))
    sites = [site for site, _ in layout.sites(CONFIG)]
    assert len(set(sites)) == len(sites)
    assert sites == [name for name in order if name in sites]


@pytest.mark.parametrize("wrong", ["swapped", "absent"])
def test_a_wrong_order_and_an_absent_module_are_noticed(wrong: str) -> None:
    (layout,) = LAYOUTS["gpt2_from_scratch"]
    rows = list(layout.rows)
    if wrong == "swapped":
        rows[0], rows[1] = rows[1], rows[0]
    else:
        rows.append(mapping.site("h.*.gate", "h.*.gate"))
    with pytest.raises(AssertionError, match=r"h\.\{0\.\.\.11\}\.gate" if wrong == "absent" else None):
        check_order(Layout("wrong", tuple(rows)), GPTModel(CONFIG), set())


# -------------------------------------------------------------------------------------------------- 4. no guessing


@every_layout
def test_a_transposed_projection_has_the_right_shape_and_other_values(layout: Layout) -> None:
    """Which is why its orientation is declared: nothing about the file betrays it."""
    tensors = canonical_tensors(CONFIG)
    theirs = save(layout, CONFIG, tensors)
    link = next(link for link in layout.unroll(CONFIG) if link.canonical == ("h.5.attn.c_proj.weight",))
    if any(isinstance(operation, SplitHeads) for operation in link.operations):
        pytest.skip("with heads apart it is not square")
    (name,) = link.theirs
    theirs[name] = theirs[name].transpose(-1, -2)
    loaded = load(layout, CONFIG, theirs)  # fits
    assert same_bits(loaded["h.5.attn.c_proj.weight"], tensors["h.5.attn.c_proj.weight"].T)
    assert not same_bits(loaded["h.5.attn.c_proj.weight"], tensors["h.5.attn.c_proj.weight"])


def test_the_row_decides_the_orientation_of_a_square_weight() -> None:
    square = torch.arange(44.0 * 44).reshape(44, 44)
    for kind, expected in ((linear, square.T), (conv1d, square)):
        link = Layout("one", (kind("h.*.attn.c_proj", "h.*.proj"),)).unroll(CONFIG)[0]
        assert link.shapes == ((44, 44),)
        assert torch.equal(link.to_theirs((square,), CONFIG)[0], expected)


def test_names_match_whole_and_never_by_suffix() -> None:
    layout = LAYOUTS["nanogpt"][0]
    assert layout.ignored("transformer.h.0.attn.bias", CONFIG) is not None
    for other in (
        "transformer.h.0.attn.c_attn.bias",
        "attn.bias",
        "h.0.attn.bias",
        "model.transformer.h.0.attn.bias",
        "transformer.h.0.attn.bias.extra",
        "transformer.h.0.attn.bias\n",
        "transformerxh.0.attn.bias",
        "transformer.h.0.attnxbias",
        "transformer.h.0.1.attn.bias",
    ):
        assert layout.ignored(other, CONFIG) is None


def test_the_layout_that_fits_is_used_whatever_its_place() -> None:
    for layout in VARIANTS:
        shapes = their_shapes(layout, CONFIG)
        for candidates in (VARIANTS, VARIANTS[::-1]):
            best = best_fit(candidates, CONFIG, shapes)
            assert best
            assert {name for link in best.links for name in link.theirs} == shapes.keys()


def test_where_none_fits_the_closest_layout_explains() -> None:
    """Twelve layers of Hugging Face weights under a configuration of 24: nanoGPT's table, of the same names, would miss
    fewer tensors if it were allowed to call the biases zero."""
    shapes = their_shapes(LAYOUTS["huggingface"][0], CONFIG)
    best = best_fit(VARIANTS, CONFIG.replace(n_layer=24), shapes)
    assert best.layout is LAYOUTS["huggingface"][0]
    assert len(best.missing) == 12 * 12
    assert not best.misshapen


# --------------------------------------------------------------------------------------------- 5. all errors at once


def test_everything_that_is_wrong_is_said_at_once_with_layers_collapsed() -> None:
    layout = LAYOUTS["huggingface"][0]
    shapes = their_shapes(layout, CONFIG)
    for layer in range(12):
        shapes[f"transformer.h.{layer}.attn.q_norm.weight"] = (11,)
        del shapes[f"transformer.h.{layer}.ln_1.bias"]
        shapes[f"transformer.h.{layer}.mlp.c_fc.weight"] = (89, 44)
    del shapes["transformer.ln_f.bias"]
    shapes["transformer.h.3.mlp.c_proj.bias"] = (45,)
    accounting = account(layout, CONFIG, shapes)
    assert accounting.problems == 12 * 3 + 2
    assert str(accounting).splitlines() == [
        "122 parameters fit the layout 'huggingface'",  # 148 less 13 missing and 13 of another shape
        "  missing (13): transformer.h.{0...11}.ln_1.bias, transformer.ln_f.bias",
        "  unexpected (12): transformer.h.{0...11}.attn.q_norm.weight",
        "  wrong shape: transformer.h.{0...11}.mlp.c_fc.weight is [89, 44], expected [44, 89]",
        "  wrong shape: transformer.h.3.mlp.c_proj.bias is [45], expected [44]",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["wte.weight"], ["wte.weight"]),
        (["h.5.ln_1.bias"], ["h.5.ln_1.bias"]),
        ([f"h.{n}.a" for n in (2, 0, 1)], ["h.{0...2}.a"]),
        ([f"h.{n}.a" for n in (0, 1)], ["h.{0...1}.a"]),
        ([f"h.{n}.a" for n in (0, 2, 10)], ["h.{0,2,10}.a"]),  # by number, not by letter
        (["h.1.b", "x", "h.0.a", "h.0.b"], ["h.{0...1}.b", "x", "h.0.a"]),  # in order of first appearance
        ([f"trf_blocks.{n}.ff.layers.{m}.weight" for n in (0, 1) for m in (0, 2)],
         ["trf_blocks.{0...1}.ff.layers.0.weight", "trf_blocks.{0...1}.ff.layers.2.weight"]),
        ([f"model/h{n}/ln_1/g" for n in range(12)], ["model/h{0...11}/ln_1/g"]),
        ([f"transformer/h_._{n}/ln_1/gamma:0" for n in range(12)], ["transformer/h_._{0...11}/ln_1/gamma:0"]),
        ([f"blk.{n}.attn_qkv.bias" for n in (0, 1)], ["blk.{0...1}.attn_qkv.bias"]),
        (["conv1.weight", "conv2.weight"], ["conv1.weight", "conv2.weight"]),  # part of a word, not a layer
        (["h.*.a", "h.0.a"], ["h.*.a", "h.0.a"]),  # a star in a file is a star
        (["x." + "7" * 5000 + ".y"], ["x." + "7" * 5000 + ".y"]),  # more digits than Python reads
    ],
)  # fmt: skip
def test_names_collapse(names: list[str], expected: list[str]) -> None:
    assert collapse(names) == expected


def test_a_file_of_something_else_does_not_flood_the_screen() -> None:
    text = listed(f"strange_{n}" for n in range(20_000))
    assert text.startswith("strange_0, strange_1, ")
    assert text.endswith(" and 19,960 more")
    assert listed(["a", "b"]) == "a, b"


# ------------------------------------------------------------------------------------------ 6. values in, values out


@BOTH
@every_layout_and_a_strange_one
def test_neither_direction_writes_into_its_argument(layout: Layout, config: GPTConfig) -> None:
    def run(tensors: Tensors, direction: Callable[[Layout, GPTConfig, Tensors], Tensors]) -> Tensors:
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        versions = {name: tensor._version for name, tensor in tensors.items()}
        result = direction(layout, config, tensors)
        assert {name: tensor._version for name, tensor in tensors.items()} == versions
        assert_same_bits(tensors, before)
        return result

    run(run(canonical_tensors(config), save), load)


@every_layout_and_a_strange_one
def test_what_can_be_a_view_is_no_copy(layout: Layout) -> None:
    """A 6 GB checkpoint is mapped, not read; only joining tensors has to copy."""
    copying = (Join, Stack, MergeHeads)
    tensors = canonical_tensors(UNTIED)
    theirs = save(layout, UNTIED, tensors)

    def shares(link: Link, ours: bool) -> bool:
        sources, results = (link.canonical, link.theirs) if ours else (link.theirs, link.canonical)
        given = tuple((tensors if ours else theirs)[name] for name in sources)
        made = (link.to_theirs if ours else link.to_canonical)(given, UNTIED)
        assert len(made) == len(results)
        memory = {tensor.untyped_storage().data_ptr() for tensor in given}
        return all(tensor.untyped_storage().data_ptr() in memory for tensor in made)

    for link in layout.unroll(UNTIED):
        if not link.canonical:
            continue  # zeros, out of nothing
        if not any(isinstance(operation, copying) for operation in link.operations):
            assert shares(link, ours=True), link.theirs
        if not any(isinstance(operation.inverse, copying) for operation in link.operations):
            assert shares(link, ours=False), link.canonical


def test_our_own_layout_is_the_identity() -> None:
    tensors = canonical_tensors(CONFIG)
    theirs = save(LAYOUTS["gpt2_from_scratch"][0], CONFIG, tensors)
    assert all(theirs[name] is tensor for name, tensor in tensors.items())


# ------------------------------------------------------------------------------------------------------------- cost


def test_nothing_is_read_before_it_is_asked_for() -> None:
    read: list[str] = []
    tensors = canonical_tensors(CONFIG)

    def recorded(name: str) -> Tensor:
        read.append(name)
        return tensors[name]

    for layout in VARIANTS:
        makers = write_theirs(layout, CONFIG, recorded)
        assert not read
        name = next(name for link in layout.unroll(CONFIG) if "h.3.ln_2.bias" in link.canonical for name in link.theirs)
        makers[name]()
        assert "h.3.ln_2.bias" in read
        assert len(read) == len(next(link for link in layout.unroll(CONFIG) if name in link.theirs).canonical)
        read.clear()


def test_shapes_are_found_without_memory() -> None:
    """Accounting for a terabyte costs nothing: it is done before a file is known to be that large."""
    huge = GPTConfig(n_layer=96, n_embd=65_536, n_head=64, vocab_size=500_000)
    for layout in VARIANTS:
        numbers = sum(math.prod(shape) for link in layout.unroll(huge) if link.canonical for shape in link.shapes)
        assert numbers == huge.num_parameters + huge.vocab_size * huge.n_embd
