"""A tensor that no row claims is an error wherever a layout is used: opening, loading, verifying."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gpt2_from_scratch import verify
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.weights import check_weights, fit
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose import Checked, diagnose
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import load_into, open_checkpoint
from gpt2_from_scratch.mapping import Layout, Row, bare, linear, match, sizes, write_theirs
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.reference import load_reference
from tests.modules import STYLES

ROWS = LAYOUTS["gpt2_from_scratch"][0].rows
WEIGHTS = [row.site for row in ROWS if isinstance(row, Row) and row.parameters and row.site != "lm_head"]


def without(site: str) -> Layout:
    return Layout("mine", tuple(row for row in ROWS if getattr(row, "site", "") != site))


@pytest.mark.parametrize("site", WEIGHTS)
def test_a_row_left_out_is_an_error_for_opening_loading_and_verifying(site: str) -> None:
    lacking = "\\.".join(["h", r"\{0\.\.\.11\}", *site.split(".")[2:]]) if "*" in site else site
    expected = rf"(no|without a) row .*{lacking}\.weight"
    checkpoint = open_checkpoint("tiny")
    model = GPTModel.from_pretrained("tiny")
    with pytest.raises(MappingError, match=expected) as caught:
        load_into(model, checkpoint, layout=without(site))
    assert "complete the layout" in caught.value.hint or "fits" in caught.value.hint
    with pytest.raises(MappingError, match=expected):
        open_checkpoint("tiny", file_layout=without(site))
    with pytest.raises(MappingError, match=expected):
        write_theirs(without(site), checkpoint.config, checkpoint.read)
    if site in ("wpe", "h.*.attn.c_proj"):  # a verdict takes seconds
        with pytest.raises(MappingError, match=expected):
            verify(model, checkpoint, layout=without(site))


def test_the_row_of_a_tied_head_may_be_left_out_of_a_files_layout() -> None:
    opened = open_checkpoint("tiny", file_layout=without("lm_head"))
    assert torch.equal(opened.read("wte.weight"), open_checkpoint("tiny").read("wte.weight"))


def test_a_row_is_also_missing_where_the_module_lacks_its_parameters() -> None:
    """Dropping the row and the parameters must not cancel each other: 24 weights would be lost without a word."""
    checkpoint = open_checkpoint("tiny")
    model = GPTModel(checkpoint.config)
    for block in model.h:
        block.attn.c_proj = nn.Identity()
    with pytest.raises(
        MappingError, match=r"without a row in the layout \(24\): h\.\{0\.\.\.11\}\.attn\.c_proj\.weight"
    ):
        load_into(model, checkpoint, layout=without("h.*.attn.c_proj"))


def test_an_untied_head_needs_a_row_and_a_tied_one_does_not() -> None:
    layout = without("lm_head")
    config = GPTConfig(n_layer=1, n_embd=8, n_head=2, vocab_size=13, n_positions=5)
    shapes = {
        name: shape for link in layout.unroll(config) for name, shape in zip(link.theirs, link.shapes, strict=True)
    }
    assert match(layout, config, shapes)
    assert match(layout, config.replace(tie_word_embeddings=False), shapes).unmapped == ("lm_head.weight",)


# ------------------------------------------------------------------------------------------- a key without a bias


class KeyWithoutBias(nn.Module):
    """The book's model, whose keys have no bias."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for block in model.trf_blocks:
            block.att.W_key.bias = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids)


KEY_WITHOUT_BIAS = Layout(
    "mine",
    tuple(
        linear(
            row.site,
            *(f"model.trf_blocks.*.att.W_{part}" for part in ("query", "key", "value")),
            bias=("bias", None, "bias"),
        )
        if isinstance(row, Row) and row.site == "h.*.attn.c_attn"
        else Row(row.site, tuple(f"model.{name}" for name in row.theirs), row.parameters, row.tied_to)
        for row in LAYOUTS["llms_from_scratch"][0].rows
        if isinstance(row, Row)
    ),
)


def test_only_the_bias_of_the_key_may_be_absent_as_it_changes_no_logit() -> None:
    checkpoint = open_checkpoint("tiny")
    bias = checkpoint.read("h.3.attn.c_attn.bias")
    width = checkpoint.config.n_embd
    assert bias[width : 2 * width].any(), "the trained model has biases for its keys"
    model = KeyWithoutBias(STYLES["book"](checkpoint.config))
    report = load_into(model, checkpoint, layout=KEY_WITHOUT_BIAS)
    assert any("key's bias, which changes no logit" in note for note in report.notes)
    ids = torch.arange(20)[None]
    expected = GPTModel.from_pretrained("tiny")(ids)
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-4)  # two roundings of logits up to 10
    matched = match(KEY_WITHOUT_BIAS, checkpoint.config, {n: tuple(p.shape) for n, p in model.named_parameters()})
    (link,) = (link for link in matched.links if link.canonical == "h.3.attn.c_attn.bias")
    restored = link.to_canonical([model.get_parameter(name) for name in link.theirs])
    assert torch.equal(restored, link.without_absent(bias))
    assert not torch.equal(restored, bias)
    weights = check_weights(fit(Candidate(model, checkpoint.config), checkpoint.config, [KEY_WITHOUT_BIAS]), checkpoint)
    assert weights, weights.details()


def test_any_other_absent_bias_must_be_zero() -> None:
    checkpoint = open_checkpoint("tiny")
    rows = (*(row for row in ROWS if getattr(row, "site", "") != "h.*.mlp.c_fc"), bare("h.*.mlp.c_fc", "h.*.fc"))
    with pytest.raises(MappingError, match=r"h\.\{0\.\.\.11\}\.mlp\.c_fc\.bias.* not zero in the checkpoint"):
        write_theirs(Layout("mine", rows), checkpoint.config, checkpoint.read)
    attention = linear("h.*.attn.c_attn", "q.*", "k.*", "v.*", bias=("bias", "bias", None))
    rows = tuple(attention if getattr(row, "site", "") == attention.site else row for row in ROWS)
    with pytest.raises(MappingError, match=r"h\.\{0\.\.\.11\}\.attn\.c_attn\.bias.* not zero in the checkpoint"):
        write_theirs(Layout("mine", rows), checkpoint.config, checkpoint.read)


# --------------------------------------------------------------------------------------------- what can be compared


@pytest.mark.parametrize(
    ("row", "modules"),
    [
        (linear("h.*.attn.c_attn", "h.*.qkv"), ("h.1.qkv",)),
        (linear("h.*.attn.c_attn", "h.*.q", "h.*.kv", parts=("q", "kv")), ("h.1.q", "h.1.kv")),
        (
            linear("h.*.attn.c_attn", "h.*.heads.*.q", "h.*.heads.*.k", "h.*.heads.*.v"),
            tuple(f"h.1.heads.{head}.{part}" for part in "qkv" for head in range(2)),
        ),
        (linear("h.*.attn.c_attn", "h.*.qkv", out="h p d"), None),
        (linear("h.*.attn.c_attn", "h.*.qkv", parts=("vqk",)), None),
        (linear("h.*.attn.c_attn", "h.*.heads.*.qkv"), None),
        (linear("h.*.attn.c_attn", "qkv", weight="weight[*]", bias="bias[*]"), None),
        (bare("h.*.attn.c_attn", "h.*.W", "h.*.b"), None),
    ],
)
def test_modules_are_compared_only_if_their_outputs_are_gpt2s(row: Row, modules: tuple[str, ...] | None) -> None:
    config = GPTConfig(n_layer=2, n_embd=8, n_head=2)
    assert dict(Layout("mine", (row,)).sites(config)).get("h.1.attn.c_attn") == modules


# --------------------------------------------------------------------------------------------------- a wrong layout


@pytest.mark.parametrize(
    ("style", "wrong", "fitting"), [("book", "nanogpt", "llms_from_scratch"), ("nanogpt", "mlx", "nanogpt")]
)
def test_a_wrong_layout_is_answered_by_the_one_that_fits(style: str, wrong: str, fitting: str) -> None:
    checkpoint = open_checkpoint("tiny")
    with pytest.raises(MappingError) as caught:
        load_into(STYLES[style](checkpoint.config), checkpoint, layout=wrong)
    assert caught.value.hint == f"the layout '{fitting}' fits this module"


def test_a_layout_is_not_advised_where_none_fits(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("tiny")
    with pytest.raises(MappingError) as caught:
        load_into(nn.Linear(3, 5), checkpoint, layout="nanogpt")
    assert "no built-in layout fits" in caught.value.hint


# ------------------------------------------------------------------------------------------- the variant that fits


def test_a_remedy_speaks_of_modules_that_the_candidate_has() -> None:
    """The book's fused model fits the second variant of its layout; the first one has names that it lacks."""
    checkpoint = open_checkpoint("tiny")
    config = checkpoint.config
    model = STYLES["book_fused"](config)
    load_into(model, checkpoint, layout="llms_from_scratch")
    with torch.no_grad():
        for block in model.trf_blocks:
            query, key, value = block.att.qkv.weight.clone().chunk(3)
            block.att.qkv.weight.copy_(torch.cat([key, query, value]))
            query, key, value = block.att.qkv.bias.clone().chunk(3)
            block.att.qkv.bias.copy_(torch.cat([key, query, value]))
    variants, reference = LAYOUTS["llms_from_scratch"], load_reference(checkpoint)
    candidate = Candidate(model, config)
    checked = Checked(inside=fit(candidate, config, variants), weights_right=False)
    found = diagnose(candidate, checkpoint, reference, checked)
    assert found, str(found)
    remedies = " ".join(f"{finding.remedy.text} {finding.remedy.code}" for finding in found.faults)
    assert "trf_blocks.*.att.qkv" in remedies
    assert "W_query" not in remedies


def test_a_place_without_a_module_is_told_by_the_names_of_its_weight() -> None:
    assert bare("h.*.ln_1", "norms[*,0]", "norms[*,1]").place == "norms[*,0]"
    assert bare("h.*.attn.c_attn", ("W_Q.*", "W_K.*", "W_V.*"), "b.*").place == "W_Q.* / W_K.* / W_V.*"
    assert linear("h.*.attn.c_attn", "q.*", "k.*", "v.*").place == "q.* / k.* / v.*"


# -------------------------------------------------------------------------------------------------------- unrolling


def test_a_layout_is_unrolled_once_for_each_size() -> None:
    layout = LAYOUTS["nanogpt"][0]
    config = GPTConfig(n_layer=3)
    first = layout.unroll(config)
    assert layout.unroll(GPTConfig(n_layer=3, activation_function="relu", extra={"any": "thing"})) is first
    assert layout.unroll(config.replace(n_layer=4)) is not first
    assert layout.unroll(config.replace(n_head=6)) is not first


def test_sizes_are_read_off_heads_that_are_modules() -> None:
    rows = tuple(row for row in ROWS if getattr(row, "site", "") != "h.*.attn.c_attn")
    layout = Layout("mine", (*rows, linear("h.*.attn.c_attn", *(f"h.*.heads.*.{part}" for part in "qkv"))))
    config = GPTConfig(n_layer=3, n_embd=35, n_head=5, vocab_size=13, n_positions=11)
    shapes = {
        name: shape for link in layout.unroll(config) for name, shape in zip(link.theirs, link.shapes, strict=True)
    }
    assert sizes(layout, shapes) == {
        "vocab_size": 13, "n_positions": 11, "n_embd": 35, "n_layer": 3, "n_inner": 140, "n_head": 5,
    }  # fmt: skip
