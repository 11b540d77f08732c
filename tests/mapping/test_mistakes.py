"""What a user's own table gets wrong is said in the words of the table, all at once, before any weight is read."""

from typing import Any

import pytest

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts import EVERY, LAYOUTS, layout_variants
from gpt2_from_scratch.mapping import (
    Layout,
    Parameter,
    Row,
    bare,
    best_match,
    conv1d,
    embedding,
    linear,
    norm,
    parse,
    site,
    tied,
)

C_ATTN = "h.*.attn.c_attn"
WTE, WPE = embedding("wte", "tok"), embedding("wpe", "pos")
TINY = GPTConfig(n_layer=2, n_embd=12, n_head=3, vocab_size=17, n_positions=5)


def complaint(rows: Any, separator: str = ".") -> str:
    with pytest.raises(MappingError) as caught:
        Layout("mine", rows, separator)
    return str(caught.value)


MISTAKES = {
    "misspelt site": (
        [linear("h.*.attn.c_atn", "b.*.qkv")],
        "h.*.attn.c_atn is no module of GPT-2; did you mean h.*.attn.c_attn?",
    ),
    "strange site": ([embedding("zebra", "tok")], "zebra is no module of GPT-2; its modules are wte, wpe, h.*.ln_1,"),
    "tuple for a row": ([WTE, ("wpe", "pos")], "('wpe', 'pos') is a tuple and not a row; a row is written embedding("),
    "name for a row": ([WTE, "pos"], "'pos' is a str and not a row"),
    "dict of rows": ({"wte": "tok"}, "its rows are a dict: give a tuple of rows; a row is written embedding("),
    "one row": (WTE, "its rows are a Row: give a tuple of rows"),
    "two names for three parts": (
        [linear(C_ATTN, "b.*.q", "b.*.k")],
        "h.*.attn.c_attn.weight: 2 names for query, key and value: give one or three, or say parts=('q', 'kv')",
    ),
    "four names": ([conv1d(C_ATTN, *(f"b.*.{x}" for x in "qkvo"))], "4 names for query, key and value"),
    "two biases for three modules": (
        [linear(C_ATTN, "b.*.q", "b.*.k", "b.*.v", bias=("bias", None))],
        "h.*.attn.c_attn.bias: 2 names for 3 modules",
    ),
    "parts without one": (
        [linear(C_ATTN, "b.*.q", "b.*.v", parts=("q", "v"))],
        "parts=('q', 'v') must hold q, k and v exactly once",
    ),
    "parts with one twice": ([linear(C_ATTN, "b.*.qkv", parts=("qkvv",))], "must hold q, k and v exactly once"),
    "parts and names": ([linear(C_ATTN, "b.*.qkv", parts=("q", "kv"))], "describes 2 tensors, but 1 are named"),
    "parts of another module": (
        [linear("h.*.mlp.c_fc", "b.*.up", parts=("q",))],
        "parts are those of query, key and value, which only h.*.attn.c_attn has",
    ),
    "tuple for names": ([linear(C_ATTN, ("b.*.q", "b.*.k"))], "('b.*.q', 'b.*.k') is not a name; write several"),  # type: ignore[arg-type]
    "number for a name": ([norm("ln_f", "last", weight=3)], "ln_f.weight: 3 is not a name"),  # type: ignore[arg-type]
    "no star": ([norm("h.*.ln_1", "norm1")], "h.*.ln_1 is in every layer, so norm1.weight needs a * where"),
    "no star at a site": ([site("h.*.mlp", "mlp")], "h.*.mlp is in every layer, so mlp needs a *"),
    "a star too many": ([norm("ln_f", "norms.*")], "ln_f is there once, but norms.*.weight has a *"),
    "three stars": ([bare("h.*.ln_1", "a.*.b.*.c.*", "d.*")], "a.*.b.*.c.* has 3 stars"),
    "a head without an axis": (
        [bare("h.*.attn.c_proj", "b.*.heads.*.W", "b.*.b")],
        "h.*.attn.c_proj.weight: a name with a second * for the head, but no axis of the pattern is called h",
    ),
    "several names without an axis": (
        [bare("h.*.mlp.c_fc", ("b.*.W1", "b.*.W2"), "b.*.b", "i o -> o i")],
        "h.*.mlp.c_fc.weight: 2 names, but no axis of the pattern is called p",
    ),
    "a pattern of another rank": (
        [linear("h.*.ln_1", "b.*.norm")],
        "the left side of 'i o -> o i' has 2 axes, GPT-2's tensor has 1",
    ),
    "no pattern": ([bare("wte", "tok", pattern="turned")], "wte.weight: 'turned' is no pattern"),
    "a parameter that GPT-2 lacks": (
        [Row("h.*.ln_1", ("n.*",), (Parameter("gain", "g"),))],
        "h.*.ln_1 has no gain: it has weight and bias",
    ),
    "a bias that GPT-2 lacks": ([bare("wte", "tok", "tok_bias")], "wte has no bias: it has weight"),
    "weights of a place to compare": ([norm("h.*.mlp.act", "b.*.act")], "h.*.mlp.act has no weight: it has no param"),
    "another size": (
        [Row("lm_head", ("head",), (Parameter("bias", "b", must_be_zero="vocab"),))],
        "'vocab' is no size of a GPTConfig",
    ),
    "a doubled row": ([WTE, embedding("wte", "tok2")], "wte.weight has 2 rows"),
    "a doubled site": ([site("h.*.mlp", "b.*.mlp"), site("h.*.mlp", "b.*.ff")], "h.*.mlp has 2 rows"),
    "a name twice": ([WTE, embedding("wpe", "tok")], "tok.weight is named 2 times: as wte.weight, wpe.weight"),
    "a module twice": ([linear(C_ATTN, "b.*.q", "b.*.k", "b.*.k")], "b.*.k.weight is named 2 times"),
    "part of a whole": ([bare("wte", "all"), bare("wpe", "all[1]")], "all[1] is part of a tensor that another row"),
    "tied to no embedding": ([tied("lm_head", "head", to="ln_f")], "lm_head is tied to ln_f: GPT-2's lm_head is tied"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_the_words_of_the_table(mistake: str) -> None:
    rows, expected = MISTAKES[mistake]
    message = complaint(tuple(rows) if isinstance(rows, list) else rows)
    assert message.startswith("the layout 'mine' has ")
    assert expected in message


def test_all_mistakes_are_said_at_once() -> None:
    message = complaint((WTE, WTE, norm("h.*.ln1", "n.*"), linear(C_ATTN, "q", "k"), norm("ln_f", "last")))
    assert message.splitlines()[0] == "the layout 'mine' has 5 mistakes:"
    for expected in ("wte.weight has 2 rows", "did you mean h.*.ln_1?", "2 names for query", "so q.weight needs a *"):
        assert expected in message


def test_a_list_of_rows_is_as_good_as_a_tuple() -> None:
    assert Layout("mine", [WTE, WPE]) == Layout("mine", (WTE, WPE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((bare("h.*.ln_1", "norms[*,0]", "norms[*,2]"),), "do not fill norms [2, 3]: 2 of 6 places are in no row"),
        ((bare("wpe", "all[:n_embd]"),), "all[:n_embd] has room for 12, but what it holds is 5 long"),
        ((bare("wte", "all[:vocab_size]"), bare("wpe", "all[16:]")), "0 of 21 places are in no row, 1 in two"),
        ((bare("h.*.ln_1", "norms.{layer}", "norms.{layer+1}"),), "tensors are named twice: norms.1"),
        ((linear("h.*.mlp.c_fc", *(f"b.*.{n}" for n in range(5))),), "h.0.mlp.c_fc.weight [12, 48] cannot be divided"),
    ],
)  # fmt: skip
def test_what_only_a_model_shows_is_said_when_there_is_one(rows: tuple[Row, ...], expected: str) -> None:
    layout = Layout("mine", rows)
    with pytest.raises(MappingError, match="the layout 'mine'") as caught:
        layout.unroll(TINY)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((WTE, WPE), "a layout is a Layout, and this is a tuple of 2 Rows"),
        ([WTE], "this is a list of 1 Rows"),
        ({"wte": "tok"}, "this is a dict"),
        ((), "this is a tuple"),
        (WTE, "this is a Row"),
        (lambda: None, "this is a function"),
        ("nanoGTP", "there is no layout 'nanoGTP'"),
    ],
)
def test_what_is_no_layout_is_refused(choice: Any, expected: str) -> None:
    with pytest.raises(MappingError) as caught:
        layout_variants(choice)
    assert expected in str(caught.value)
    assert "Layout(" in caught.value.hint or "did you mean 'nanogpt'?" in caught.value.hint


def test_a_layout_that_fits_is_found_by_trying() -> None:
    for known, variants in LAYOUTS.items():
        for layout in variants:
            shapes = {
                name: shape
                for link in layout.unroll(TINY)
                for name, shape in zip(link.theirs, link.shapes, strict=True)
            }
            found = best_match(EVERY, TINY, shapes)
            assert found and found.layout.name in {known, "gpt2_from_scratch", "nanogpt"}  # three names, same tensors
            assert not best_match(EVERY, TINY, shapes | {"stranger": (1,)})


def test_the_layouts_in_the_package_use_few_patterns() -> None:
    """A dozen code bases do eleven things to a tensor; a new table that needs a twelfth should be looked at twice."""
    used = {
        parse(parameter.pattern)
        for variants in LAYOUTS.values()
        for layout in variants
        for row in layout.rows
        if isinstance(row, Row)
        for parameter in row.parameters
        if parameter.pattern and len(set(parameter.pattern.split(" -> "))) == 2
    }
    assert len(used) <= 11
