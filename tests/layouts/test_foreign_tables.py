"""Tables for the styles of `tests.foreign` that no row helper alone can say, each against the style's own answer.

The answers in `tests.foreign` are written without `mapping`: they cut and join tensors. A table has to move every
element to the same place, in both directions.
"""

import pytest
import torch

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import (
    Ignore,
    Layout,
    Row,
    bare,
    conv1d,
    embedding,
    linear,
    match,
    norm,
    read_canonical,
    write_theirs,
)
from tests.foreign import STYLES
from tests.perturbed import SIZES

C_ATTN, C_PROJ, C_FC, MLP_PROJ = "h.*.attn.c_attn", "h.*.attn.c_proj", "h.*.mlp.c_fc", "h.*.mlp.c_proj"
OUT_IN = "i o -> o i"

TABLES: dict[str, tuple[Row | Ignore, ...]] = {
    "functional": (
        bare("wte", "wte"),
        bare("wpe", "wpe"),
        norm("h.*.ln_1", "blocks.*.ln_1", weight="g", bias="b"),
        *(conv1d(f"h.*.{name}", f"blocks.*.{name}", weight="w", bias="b") for name in ("attn.c_attn", "attn.c_proj")),
        norm("h.*.ln_2", "blocks.*.ln_2", weight="g", bias="b"),
        *(conv1d(f"h.*.{name}", f"blocks.*.{name}", weight="w", bias="b") for name in ("mlp.c_fc", "mlp.c_proj")),
        norm("ln_f", "ln_f", weight="g", bias="b"),
    ),
    "numpy_gpt2": tuple(row for row in LAYOUTS["gpt2_from_scratch"][0].rows if row.site != "lm_head"),
    "einsum_fused": (
        bare("wte", "tokens"),
        bare("wpe", "positions"),
        norm("h.*.ln_1", "norms.{2*layer}", weight="scale", bias="offset"),
        bare(C_ATTN, "attns.*.qkv", "attns.*.qkv_bias", "e (p h d) -> e p h d", "(p h d) -> p h d"),
        bare(C_PROJ, "attns.*.out", "attns.*.out_bias", "(h d) e -> h d e"),
        norm("h.*.ln_2", "norms.{2*layer+1}", weight="scale", bias="offset"),
        bare(C_FC, "mlps.*.up", "mlps.*.up_bias"),
        bare(MLP_PROJ, "mlps.*.down", "mlps.*.down_bias"),
        norm("ln_f", "norms.{2*layers}", weight="scale", bias="offset"),
    ),
    "jax_dict": (
        bare("wte", "transformer/embed:embeddings"),
        bare("wpe", "transformer:pos_embs"),
        norm("h.*.ln_1", "transformer/h*_ln_1", weight="scale", bias="offset"),
        conv1d(C_ATTN, *(f"transformer/h*_attn/{name}" for name in ("query", "key", "value")), weight="w", bias="b"),
        conv1d(C_PROJ, "transformer/h*_attn/linear", weight="w", bias="b"),
        norm("h.*.ln_2", "transformer/h*_ln_2", weight="scale", bias="offset"),
        conv1d(C_FC, "transformer/h*_mlp/linear", weight="w", bias="b"),
        conv1d(MLP_PROJ, "transformer/h*_mlp/linear_1", weight="w", bias="b"),
        norm("ln_f", "transformer/ln_f", weight="scale", bias="offset"),
    ),
    "array_list": (
        bare("wte", "0"),
        bare("wpe", "1"),
        bare("h.*.ln_1", "{12*layer+2}", "{12*layer+3}"),
        bare(C_ATTN, "{12*layer+4}", "{12*layer+5}"),
        bare(C_PROJ, "{12*layer+6}", "{12*layer+7}"),
        bare("h.*.ln_2", "{12*layer+8}", "{12*layer+9}"),
        bare(C_FC, "{12*layer+10}", "{12*layer+11}"),
        bare(MLP_PROJ, "{12*layer+12}", "{12*layer+13}"),
        bare("ln_f", "{12*layers+2}", "{12*layers+3}"),
    ),
    "numbered_sequence": (
        embedding("wte", "0"),
        bare("wpe", "1.table.weight"),
        norm("h.*.ln_1", "{2*layer+2}.fn.0"),
        linear(C_ATTN, "{2*layer+2}.fn.1"),
        linear(C_PROJ, "{2*layer+2}.fn.5"),
        norm("h.*.ln_2", "{2*layer+3}.fn.0"),
        linear(C_FC, "{2*layer+3}.fn.1"),
        linear(MLP_PROJ, "{2*layer+3}.fn.3"),
        norm("ln_f", "{2*layers+2}"),
    ),
    "one_norm_tensor": (
        bare("wte", "table[:vocab_size]"),
        bare("wpe", "table[vocab_size:]"),
        bare("h.*.ln_1", "norms[*,0,0]", "norms[*,0,1]"),
        bare(C_ATTN, "qkv_w.*", "qkv_b.*", "i (p h d) -> (h d p) i", "(p h d) -> (h d p)"),
        linear(C_PROJ, "out.*"),
        bare("h.*.ln_2", "norms[*,1,0]", "norms[*,1,1]"),
        linear(C_FC, "mlp.*.0"),
        linear(MLP_PROJ, "mlp.*.1"),
        bare("ln_f", "last_norm[0]", "last_norm[1]"),
    ),
}  # fmt: skip
SEPARATORS = {"jax_dict": ":"}
CONFIG = GPTConfig(**SIZES | {"n_inner": None})  # most styles have no inner width of their own


def test_every_style_has_a_table() -> None:
    without = {style.name for style in STYLES.values() if style.layout is None}
    assert without <= TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_the_table_moves_every_element_to_where_the_answer_has_it(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in CONFIG.tensor_shapes().items()}
    layout = Layout(name, TABLES[name], separator=SEPARATORS.get(name, "."))
    expected = STYLES[name].arrange(tensors, CONFIG)
    written = {key: read() for key, read in write_theirs(layout, CONFIG, tensors.__getitem__).items()}
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(written[key], tensor), key

    matching = match(layout, CONFIG, {key: tuple(tensor.shape) for key, tensor in expected.items()})
    assert matching, str(matching)
    back = {key: read() for key, read in read_canonical(matching, CONFIG, expected.__getitem__).items()}
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(back[key], tensor), key
