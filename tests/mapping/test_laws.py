"""The laws of the mapping: bijection, inverse, order, no guessing, all errors at once, values in and values out.

A law says nothing about any one code base, so each test runs on all of `LAYOUTS`, and a new table is tested as soon as
it is registered. Tensors are random *bit patterns*, NaNs included, so that "equal" can mean the same
bits.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import einops
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
    Layout,
    Link,
    Parameter,
    Row,
    Shape,
    bare,
    best_match,
    collapse,
    conv1d,
    linear,
    listed,
    match,
    norm,
    parse,
    read_canonical,
    tied,
    write_theirs,
)
from gpt2_from_scratch.mapping.pattern import Pattern
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

# Invented code bases that need everything a table can say, and that no built-in layout needs.
#   - query, key and value in modules per head, with a bias for query and value only; layers stacked; heads as axes;
#     four vectors of two norms in one tensor; parameters without a module
STRANGE = Layout(
    "strange",
    (
        bare("wte", "E"),
        bare("wpe", "P", pattern="c e -> 1 c e"),
        bare("h.*.ln_1", "norms[*,0,0]", "norms[*,0,1]"),
        linear(
            "h.*.attn.c_attn", "b*.heads.*.q", "b*.heads.*.k", "b*.heads.*.v", weight="W", bias=("bias", None, "bias")
        ),
        Row(
            "h.*.attn.c_proj",
            (),
            (
                Parameter("weight", "b*.heads.*.W_O", "(h d) e -> (h d) e"),
                Parameter("bias", "b*.b_O", "e -> 1 e"),
            ),
        ),
        bare("h.*.ln_2", "norms[*, 1, 0]", "norms[*, 1, 1]"),
        bare("h.*.mlp.c_fc", "up[*]", "up_bias[*]", "i o -> o i", "o -> 1 o"),
        bare("h.*.mlp.c_proj", ("d.*.W_0", "d.*.W_1", "d.*.W_2", "d.*.W_3"), "d.*.b", "i (p o) -> (p o) i"),
        norm("ln_f", "last"),
        tied("lm_head", "", to="wte", weight="U", pattern="v e -> e v"),
    ),
)


#   - the fused query, key, value in other orders, and unevenly divided
def _with_attention(name: str, row: Row) -> Layout:
    (own,) = LAYOUTS["gpt2_from_scratch"]
    return Layout(name, tuple(row if getattr(each, "site", "") == row.site else each for each in own.rows))


_ATTENTION = "h.*.attn.c_attn"
UNUSUAL = [
    STRANGE,
    _with_attention("interleaved by head", linear(_ATTENTION, "h.*.qkv", out="h p d")),
    _with_attention("interleaved by dimension", conv1d(_ATTENTION, "h.*.qkv", out="h d p")),
    _with_attention("value first", linear(_ATTENTION, "h.*.qkv", parts=("vqk",))),
    _with_attention("key and value together", conv1d(_ATTENTION, "h.*.q", "h.*.kv", parts=("q", "kv"))),
    _with_attention("value and query, by head", linear(_ATTENTION, "h.*.k", "h.*.vq", parts=("k", "vq"), out="h p d")),
    _with_attention("fused in each head", linear(_ATTENTION, "h.*.heads.*.qkv")),
    _with_attention("for einsum", bare(_ATTENTION, "W[*]", "b[*]", "e (p h d) -> p h e d", "(p h d) -> p h d")),
    _with_attention("three in one", bare(_ATTENTION, ("W[*,0]", "W[*,1]", "W[*,2]"), "h.*.b", "e (p o) -> (p o) e")),
]
every_layout_and_unusual_ones = pytest.mark.parametrize(
    "layout", [*VARIANTS, *UNUSUAL], ids=[*NAMES, *(layout.name for layout in UNUSUAL)]
)


def random_bits(shape: Shape, generator: torch.Generator) -> Tensor:
    """Float32 of any bit pattern: NaNs with payloads, infinities, denormals, negative zeros."""
    return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32).view(torch.float32)


def canonical_tensors(config: GPTConfig, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: random_bits(shape, generator) for name, shape in config.tensor_shapes().items()}


def held_by(layout: Layout, config: GPTConfig, tensors: Tensors) -> Tensors:
    """The tensors as far as a layout can hold them: the key's bias is zero where it has none."""
    links = {link.canonical: link for link in layout.unroll(config)}
    return {name: links[name].without_absent(tensor) for name, tensor in tensors.items()}


def save(layout: Layout, config: GPTConfig, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: read() for name, read in write_theirs(layout, config, tensors.__getitem__).items()}


def load(layout: Layout, config: GPTConfig, theirs: Mapping[str, Tensor]) -> Tensors:
    matching = match(layout, config, shapes_of(theirs))
    assert matching, str(matching)
    return {name: read() for name, read in read_canonical(matching, config, theirs.__getitem__).items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def their_shapes(layout: Layout, config: GPTConfig) -> dict[str, Shape]:
    return shapes_of(save(layout, config, canonical_tensors(config)))


def pieces(link: Link, tensor: Tensor) -> tuple[Tensor, ...]:
    return tuple(link.piece(tensor, piece) for piece in link.pieces)


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
@every_layout_and_unusual_ones
def test_every_name_belongs_to_exactly_one_link(layout: Layout, config: GPTConfig) -> None:
    links = layout.unroll(config)
    theirs = Counter((piece.name, piece.index) for link in links for piece in link.pieces)
    canonical = Counter(link.canonical for link in links if link.canonical is not None)
    assert set(theirs.values()) == {1}
    assert canonical == Counter([*CONFIG.tensor_shapes(), "lm_head.weight"])
    assert layout.unmapped(config) == ()
    assert not [name for name, _ in theirs if layout.ignored(name, config)]


@BOTH
@every_layout_and_unusual_ones
def test_links_know_the_shapes_they_produce(layout: Layout, config: GPTConfig) -> None:
    shapes = their_shapes(layout, config)
    links = layout.unroll(config)
    claimed = {name: shape for link in links for name, shape in zip(link.theirs, link.shapes, strict=True)}
    assert {name: claimed[name] for name in shapes} == shapes


@BOTH_SHALLOW
@every_layout_and_unusual_ones
def test_each_tensor_left_out_is_named(layout: Layout, config: GPTConfig) -> None:
    complete = their_shapes(layout, config)
    links = {name: link for link in layout.unroll(config) for name in link.theirs}
    assert match(layout, config, complete)
    for name in complete:
        matching = match(layout, config, {other: complete[other] for other in complete if other != name})
        if links[name].tied_to is not None and config.tie_word_embeddings:
            assert matching  # a copy that may be absent
        else:
            assert not matching
            assert matching.missing == (name,)
            assert name in str(matching)


@BOTH_SHALLOW
@every_layout_and_unusual_ones
def test_each_tensor_too_many_is_named(layout: Layout, config: GPTConfig) -> None:
    complete = their_shapes(layout, config)
    last = next(name for link in reversed(layout.unroll(config)) for name in link.theirs if name in complete)
    beyond = their_shapes(layout, config.replace(n_layer=config.n_layer + 1))
    for extra in ("stranger", f"{last}.0", f"x{last}", f"{last} ", *(beyond.keys() - complete.keys())):
        matching = match(layout, config, complete | {extra: (2, 3)})
        assert not matching
        assert matching.unexpected == (extra,)


@every_layout_and_unusual_ones
def test_each_wrong_shape_is_named_with_both(layout: Layout) -> None:
    complete = their_shapes(layout, SHALLOW)
    for name, shape in complete.items():
        matching = match(layout, SHALLOW, complete | {name: (*shape, 1)})
        assert matching.misshapen == {name: (shape, (*shape, 1))}
        assert f"{[*shape, 1]}, expected {list(shape)}" in str(matching)
        assert name not in {theirs for link in matching.links for theirs in link.theirs}


def optional_names(layout: Layout, config: GPTConfig) -> set[str]:
    return {name for link in layout.unroll(config) if link.absent_means_zero for name in link.theirs}


@pytest.mark.parametrize(
    "layout", [layout for layout in VARIANTS if optional_names(layout, SHALLOW)], ids=lambda layout: layout.about
)
def test_optional_biases_are_all_there_or_none_is(layout: Layout) -> None:
    """One switch turns them off, so one that is missing alone was lost, and is not zero."""
    complete = their_shapes(layout, SHALLOW)
    optional = optional_names(layout, SHALLOW)
    none = match(layout, SHALLOW, {name: shape for name, shape in complete.items() if name not in optional})
    assert none
    assert {name for link in none.zeros for name in link.theirs} == optional
    for name in optional:
        others = {other: shape for other, shape in complete.items() if other != name}
        assert match(layout, SHALLOW, others).missing == (name,)


@BOTH
def test_absent_biases_are_read_as_zeros(config: GPTConfig) -> None:
    for layout in VARIANTS:
        theirs = save(layout, config, canonical_tensors(config))
        biases = [link for link in layout.unroll(config) if link.absent_means_zero]
        absent = {name for link in biases for name in link.theirs}
        loaded = load(layout, config, {name: tensor for name, tensor in theirs.items() if name not in absent})
        for link in biases:
            assert torch.equal(loaded[link.canonical], torch.zeros(config.tensor_shapes()[link.canonical]))


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
            matching = match(layout, CONFIG, complete | {name: (1, 1, 37, 37)})
            assert matching
            assert matching.ignored.keys() == {name}
            assert matching.ignored[name].strip()
        if "*" in pattern:
            for layer in ("12", "00", "-1", "", "٣", "9" * 5000):  # Python reads ٣ as 3, and refuses 5000 digits
                assert layout.ignored(pattern.replace("*", layer), CONFIG) is None


# ------------------------------------------------------------------------------------------------------ 2. inverse


@BOTH
@every_layout_and_unusual_ones
def test_loading_undoes_saving_bit_for_bit(layout: Layout, config: GPTConfig) -> None:
    tensors = held_by(layout, config, canonical_tensors(config))
    theirs = save(layout, config, tensors)
    assert_same_bits(load(layout, config, theirs), tensors)
    assert_same_bits(save(layout, config, load(layout, config, theirs)), theirs)


@st.composite
def configurations(draw: st.DrawFn) -> GPTConfig:
    """A model of a few small sizes, equal ones among them. One unusual layout divides the width by four."""
    heads = draw(st.integers(1, 3))
    return GPTConfig(
        vocab_size=draw(st.integers(1, 9)),
        n_positions=draw(st.integers(1, 9)),
        n_embd=heads * draw(st.sampled_from([4, 8])),
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_inner=draw(st.integers(1, 9)),
        tie_word_embeddings=draw(st.booleans()),
    )


@every_layout_and_unusual_ones
@hypothesis.given(config=configurations(), seed=st.integers(0, 1000))
@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
def test_both_directions_undo_each_other_at_every_size(layout: Layout, config: GPTConfig, seed: int) -> None:
    tensors = held_by(layout, config, canonical_tensors(config, seed))
    theirs = save(layout, config, tensors)
    assert_same_bits(load(layout, config, theirs), tensors)
    assert_same_bits(save(layout, config, load(layout, config, theirs)), theirs)
    for link in layout.unroll(config):
        if link.canonical in tensors and all(name in theirs for name in link.theirs) and not link.absent:
            there = link.to_canonical([theirs[name] for name in link.theirs])
            assert same_bits(there, tensors[link.canonical])
            assert all(map(same_bits, pieces(link, there), pieces(link, tensors[link.canonical])))


@every_layout_and_unusual_ones
def test_a_tied_head_is_the_embedding_again(layout: Layout) -> None:
    tensors = canonical_tensors(CONFIG)
    theirs = save(layout, CONFIG, tensors)
    (head,) = (link for link in layout.unroll(CONFIG) if link.canonical == "lm_head.weight")
    if head.written_when_tied:
        restored = head.to_canonical([theirs[name] for name in head.theirs])
        assert same_bits(restored, tensors["wte.weight"])
    else:
        assert theirs.keys().isdisjoint(head.theirs)


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A random pattern, with axes of random lengths, permuted and grouped anew on its right side."""
    axes = draw(st.lists(st.sampled_from("abcdhp"), min_size=1, max_size=5, unique=True))

    def side(names: list[str]) -> str:
        groups, rest = [], list(names)
        while rest:
            size = draw(st.integers(1, len(rest)))
            groups.append(rest[0] if size == 1 else f"({' '.join(rest[:size])})")
            groups += ["1"] * draw(st.integers(0, 1))
            rest = rest[size:]
        return " ".join(groups)

    text = f"{side(axes)} -> {side(draw(st.permutations(axes)))}"
    return text, {axis: draw(st.integers(1, 4)) for axis in axes}


@hypothesis.given(drawn=patterns(), seed=st.integers(0, 1000))
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
def test_each_pattern_agrees_with_einops_and_is_undone_by_its_inverse(
    drawn: tuple[str, dict[str, int]], seed: int
) -> None:
    text, sizes = drawn
    pattern = parse(text)
    shape = Pattern(pattern.right, pattern.left).shape(sizes)
    given = random_bits(shape, torch.Generator().manual_seed(seed))
    before, version = given.clone(), given._version
    there = pattern.forward(given, sizes, {})
    expected = einops.rearrange(given.view(torch.int32).numpy(), text, **sizes)  # integers: NaNs keep their bits
    assert there.shape == expected.shape == pattern.shape(sizes)
    assert torch.equal(there.contiguous().view(torch.int32), torch.from_numpy(expected.copy()))
    back = pattern.backward(there, sizes)
    assert same_bits(back, before) and back.shape == before.shape
    assert same_bits(given, before) and given._version == version
    if all(len(group) <= 1 for group in pattern.left):
        assert pattern.solve(shape, {}) == sizes


@hypothesis.given(drawn=patterns(), seed=st.integers(0, 1000), data=st.data())
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_chosen_along_an_axis_goes_back_to_its_place(
    drawn: tuple[str, dict[str, int]], seed: int, data: st.DataObject
) -> None:
    text, sizes = drawn
    pattern = parse(text)
    axis = data.draw(st.sampled_from(sorted(sizes)))
    order = data.draw(st.permutations(range(sizes[axis])))
    cut = data.draw(st.integers(0, len(order)))
    choices = [{axis: tuple(part)} for part in (order[:cut], order[cut:]) if part]
    given = random_bits(Pattern(pattern.right, pattern.left).shape(sizes), torch.Generator().manual_seed(seed))
    back = torch.zeros_like(given)
    for choice in choices:
        chosen = pattern.forward(given, sizes, choice)
        assert chosen.shape == pattern.shape({**sizes, axis: len(choice[axis])})
        pattern.place(chosen, sizes, choice, into=back)
    assert same_bits(back, given)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("i o", "is no pattern"),
        ("i o -> o -> i", "is no pattern"),
        ("i (p o -> p o i", "is no pattern"),
        ("I O -> O I", "is no pattern"),
        ("i ((p o)) -> p o i", "is no pattern"),
        ("i o -> o j", "must have i, j exactly once on each side"),
        ("i i -> i i", "must have i exactly once"),
        ("i o -> o", "must have i exactly once"),
    ],
)
def test_what_is_no_pattern_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(MappingError, match=complaint):
        parse(text)


@pytest.mark.parametrize(
    ("text", "shape", "known"),
    [
        ("i o -> o i", (4,), {}),
        ("i (p o) -> p o i", (4, 7), {"p": 3}),
        ("i (p o) -> p o i", (4, 6), {}),
        ("i h -> h i", (4, 6), {"h": 5}),
        ("1 o -> o", (2, 6), {}),
    ],
)
def test_shapes_that_do_not_fit_a_pattern_have_no_sizes(text: str, shape: Shape, known: dict[str, int]) -> None:
    assert parse(text).solve(shape, known) is None


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


def test_unusual_layouts_say_what_they_claim() -> None:
    """A pattern and its inverse could be wrong together; here is what each layout means, in indices."""
    tensors = canonical_tensors(CONFIG)
    weight, bias, e, d = (
        tensors["h.7.attn.c_attn.weight"],
        tensors["h.7.attn.c_attn.bias"],
        CONFIG.n_embd,
        CONFIG.head_dim,
    )
    saved = {layout.name: save(layout, CONFIG, tensors) for layout in UNUSUAL}

    def columns(part: int, head: int) -> slice:
        return slice(part * e + head * d, part * e + (head + 1) * d)

    strange = saved["strange"]
    assert same_bits(strange["b7.heads.3.v.W"], weight[:, columns(2, 3)].T)
    assert same_bits(strange["b7.heads.3.v.bias"], bias[columns(2, 3)])
    assert not [name for name in strange if ".k.bias" in name]
    assert same_bits(strange["up"][7], tensors["h.7.mlp.c_fc.weight"].T)
    assert same_bits(strange["norms"][7, 1, 0], tensors["h.7.ln_2.weight"])
    quarter = e // 4
    assert same_bits(strange["d.7.W_2"], tensors["h.7.mlp.c_proj.weight"][:, 2 * quarter : 3 * quarter].T)
    for head in range(CONFIG.n_head):
        for part in range(3):
            expected, place = weight[:, columns(part, head)], head * 3 + part
            assert same_bits(saved["interleaved by head"]["h.7.qkv.weight"][place * d : (place + 1) * d], expected.T)
            assert same_bits(
                saved["interleaved by dimension"]["h.7.qkv.weight"][:, head * 3 * d + part :: 3][:, :d], expected
            )
            assert same_bits(saved["for einsum"]["W"][7, part, head], expected)
            assert same_bits(saved["for einsum"]["b"][7, part, head], bias[columns(part, head)])
            assert same_bits(
                saved["fused in each head"][f"h.7.heads.{head}.qkv.weight"][part * d : (part + 1) * d], expected.T
            )
    query, key, value = weight.split(e, dim=1)
    assert same_bits(saved["value first"]["h.7.qkv.weight"], torch.cat([value, query, key], dim=1).T)
    assert same_bits(saved["key and value together"]["h.7.kv.weight"], torch.cat([key, value], dim=1))
    assert same_bits(saved["key and value together"]["h.7.q.bias"], bias[:e])
    by_head = saved["value and query, by head"]["h.7.vq.weight"]
    assert same_bits(by_head[2 * d : 3 * d], weight[:, columns(2, 1)].T)
    assert same_bits(by_head[3 * d : 4 * d], weight[:, columns(0, 1)].T)
    assert same_bits(saved["three in one"]["W"][7, 1], key.T)


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
    fit = best_match(LAYOUTS[STYLES[style].layout], CONFIG, shapes)
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
        rows = [mapping.site(row.site, "h.*.gate") if row.site == "h.*.mlp.act" else row for row in rows]
    with pytest.raises(AssertionError, match=r"h\.\{0\.\.\.11\}\.gate" if wrong == "absent" else None):
        check_order(Layout("wrong", tuple(rows)), GPTModel(CONFIG), set())


# -------------------------------------------------------------------------------------------------- 4. no guessing


@every_layout
def test_a_transposed_projection_has_the_right_shape_and_other_values(layout: Layout) -> None:
    """Which is why its orientation is declared: nothing about the file betrays it."""
    tensors = canonical_tensors(CONFIG)
    theirs = save(layout, CONFIG, tensors)
    link = next(link for link in layout.unroll(CONFIG) if link.canonical == "h.5.attn.c_proj.weight")
    if len(link.shapes[0]) == 3 and link.shapes[0][0] != 1:
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
        assert torch.equal(pieces(link, square)[0], expected)


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
            best = best_match(candidates, CONFIG, shapes)
            assert best
            assert {name for link in best.links for name in link.theirs} == shapes.keys()


def test_where_none_fits_the_closest_layout_explains() -> None:
    """Twelve layers of Hugging Face weights under a configuration of 24: nanoGPT's table, of the same names, would miss
    fewer tensors if it were allowed to call the biases zero."""
    shapes = their_shapes(LAYOUTS["huggingface"][0], CONFIG)
    best = best_match(VARIANTS, CONFIG.replace(n_layer=24), shapes)
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
    matching = match(layout, CONFIG, shapes)
    assert matching.problems == 12 * 3 + 2
    assert str(matching).splitlines() == [
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
@every_layout_and_unusual_ones
def test_neither_direction_writes_into_its_argument(layout: Layout, config: GPTConfig) -> None:
    def run(tensors: Tensors, direction: Callable[[Layout, GPTConfig, Tensors], Tensors]) -> Tensors:
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        versions = {name: tensor._version for name, tensor in tensors.items()}
        result = direction(layout, config, tensors)
        assert {name: tensor._version for name, tensor in tensors.items()} == versions
        assert_same_bits(tensors, before)
        return result

    run(run(canonical_tensors(config), save), load)


# Megatron's: each head's query, key and value lie side by side, and apart in GPT-2.
_BY_HEAD = tuple(f".{layer}.{kind}" for layer in ("query_key_value", "linear_qkv") for kind in ("weight", "bias"))


@every_layout
def test_what_can_be_a_view_is_no_copy(layout: Layout) -> None:
    """A 6 GB checkpoint is mapped, not read; only joining tensors, or heads that lie apart, has to copy."""
    tensors = canonical_tensors(UNTIED)
    theirs = save(layout, UNTIED, tensors)

    def shares(made: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
        memory = {tensor.untyped_storage().data_ptr() for tensor in given}
        return all(tensor.untyped_storage().data_ptr() in memory for tensor in made)

    for link in layout.unroll(UNTIED):
        if link.canonical is None:
            continue  # zeros, out of nothing
        if link.theirs[0].endswith(_BY_HEAD):
            continue
        given = [theirs[name] for name in link.theirs]
        assert shares(pieces(link, tensors[link.canonical]), [tensors[link.canonical]]), link.theirs
        assert shares([link.to_canonical(given)], given) is (len(given) == 1), link.canonical


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
        name = next(name for link in layout.unroll(CONFIG) if link.canonical == "h.3.ln_2.bias" for name in link.theirs)
        makers[name]()
        assert read == ["h.3.ln_2.bias"]
        read.clear()


def test_shapes_are_found_without_memory() -> None:
    """Matching for a terabyte costs nothing: it is done before a file is known to be that large."""
    huge = GPTConfig(n_layer=96, n_embd=65_536, n_head=64, vocab_size=500_000)
    for layout in VARIANTS:
        numbers = sum(math.prod(shape) for link in layout.unroll(huge) if link.canonical for shape in link.shapes)
        assert numbers == huge.num_parameters + huge.vocab_size * huge.n_embd
