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
    Parameter,
    Row,
    bare,
    conv1d,
    embedding,
    linear,
    match,
    norm,
    read_canonical,
    tied,
    write_theirs,
)
from tests.foreign import STYLES
from tests.perturbed import SIZES

C_ATTN, C_PROJ, C_FC, MLP_PROJ = "h.*.attn.c_attn", "h.*.attn.c_proj", "h.*.mlp.c_fc", "h.*.mlp.c_proj"
OUT_IN = "i o -> o i"

TABLES: dict[str, tuple[Row | Ignore, ...]] = {
    "parallel_heads": LAYOUTS["transformer_lens"][0].rows,
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
    "head_list": (
        embedding("wte", "token_embedding_table"),
        embedding("wpe", "position_embedding_table"),
        norm("h.*.ln_1", "blocks.*.ln1"),
        linear(C_ATTN, *(f"blocks.*.sa.heads.*.{name}" for name in ("query", "key", "value"))),
        linear(C_PROJ, "blocks.*.sa.proj"),
        norm("h.*.ln_2", "blocks.*.ln2"),
        linear(C_FC, "blocks.*.ffwd.net.0"),
        linear(MLP_PROJ, "blocks.*.ffwd.net.2"),
        norm("ln_f", "ln_f"),
        tied("lm_head", "lm_head", to="wte"),
    ),
    "torch_mha": (
        embedding("wte", "embed"),
        embedding("wpe", "pos"),
        norm("h.*.ln_1", "layers.*.norm_attn"),
        bare(C_ATTN, "layers.*.attn.in_proj_weight", "layers.*.attn.in_proj_bias", OUT_IN),
        linear(C_PROJ, "layers.*.attn.out_proj"),
        norm("h.*.ln_2", "layers.*.norm_ff"),
        linear(C_FC, "layers.*.ff.0"),
        linear(MLP_PROJ, "layers.*.ff.2"),
        norm("ln_f", "norm"),
        tied("lm_head", "to_logits", to="wte"),
    ),
    "encoder_layers": (
        embedding("wte", "word_embeddings"),
        embedding("wpe", "position_embeddings"),
        norm("h.*.ln_1", "encoder.layers.*.norm1"),
        bare(C_ATTN, *(f"encoder.layers.*.self_attn.in_proj_{end}" for end in ("weight", "bias")), OUT_IN),
        linear(C_PROJ, "encoder.layers.*.self_attn.out_proj"),
        norm("h.*.ln_2", "encoder.layers.*.norm2"),
        linear(C_FC, "encoder.layers.*.linear1"),
        linear(MLP_PROJ, "encoder.layers.*.linear2"),
        norm("ln_f", "encoder.norm"),
    ),
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
    "scan_stack": (
        bare("wte", "wte"),
        bare("wpe", "wpe"),
        bare("h.*.ln_1", "blocks.ln1_g[*]", "blocks.ln1_b[*]"),
        bare(C_ATTN, "blocks.wqkv[*]", "blocks.bqkv[*]"),
        bare(C_PROJ, "blocks.wo[*]", "blocks.bo[*]"),
        bare("h.*.ln_2", "blocks.ln2_g[*]", "blocks.ln2_b[*]"),
        bare(C_FC, "blocks.w1[*]", "blocks.b1[*]"),
        bare(MLP_PROJ, "blocks.w2[*]", "blocks.b2[*]"),
        bare("ln_f", "lnf_g", "lnf_b"),
    ),
    "interleaved": (
        embedding("wte", "word_embeddings"),
        embedding("wpe", "position_embeddings"),
        norm("h.*.ln_1", "layers.*.input_layernorm"),
        linear(C_ATTN, "layers.*.self_attention.query_key_value", out="h p d"),
        linear(C_PROJ, "layers.*.self_attention.dense"),
        norm("h.*.ln_2", "layers.*.post_attention_layernorm"),
        linear(C_FC, "layers.*.mlp.dense_h_to_4h"),
        linear(MLP_PROJ, "layers.*.mlp.dense_4h_to_h"),
        norm("ln_f", "final_layernorm"),
    ),
    "hardcoded": (
        embedding("wte", "tok"),
        bare("wpe", "pos", pattern="c e -> 1 c e"),
        norm("h.*.ln_1", "layer*.n1"),
        linear(C_ATTN, "layer*.kqv", parts=("kqv",)),
        linear(C_PROJ, "layer*.o"),
        norm("h.*.ln_2", "layer*.n2"),
        linear(C_FC, "layer*.f1"),
        linear(MLP_PROJ, "layer*.f2"),
        norm("ln_f", "norm"),
        tied("lm_head", "head", to="wte"),
    ),
    "needs_targets": (
        embedding("wte", "token_emb"),
        embedding("wpe", "pos_emb"),
        norm("h.*.ln_1", "layers.*.norms.before_attention"),
        linear(C_ATTN, "layers.*.attention.to_q", "layers.*.attention.to_kv", parts=("q", "kv")),
        linear(C_PROJ, "layers.*.attention.to_out"),
        norm("h.*.ln_2", "layers.*.norms.before_mlp"),
        linear(C_FC, "layers.*.mlp_in"),
        linear(MLP_PROJ, "layers.*.mlp_out"),
        norm("ln_f", "norm_out"),
    ),
    "padded_context": (
        embedding("wte", "tok"),
        bare("wpe", "pos"),
        norm("h.*.ln_1", "blocks.*.ln_a"),
        linear(C_ATTN, "blocks.*.mha.query_key", "blocks.*.mha.value", parts=("qk", "v")),
        linear(C_PROJ, "blocks.*.mha.mix"),
        norm("h.*.ln_2", "blocks.*.ln_b"),
        linear(C_FC, "blocks.*.expand"),
        linear(MLP_PROJ, "blocks.*.contract"),
        norm("ln_f", "ln_out"),
        tied("lm_head", "unembed", to="wte"),
        *(Ignore(name, "never used") for name in STYLES["padded_context"].spare),
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
    "variable_store": (
        bare("wte", "variables.model/wte"),
        bare("wpe", "variables.model/wpe"),
        bare("h.*.ln_1", "variables.model/h*/ln_1/g", "variables.model/h*/ln_1/b"),
        *(
            bare(f"h.*.{name}", f"variables.model/h*/{path}/w", f"variables.model/h*/{path}/b", "i o -> 1 i o")
            for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            for path in [name.replace(".", "/")]
        ),
        bare("h.*.ln_2", "variables.model/h*/ln_2/g", "variables.model/h*/ln_2/b"),
        bare("ln_f", "variables.model/ln_f/g", "variables.model/ln_f/b"),
    ),
    "head_sum": (
        bare("wte", "W_embed"),
        bare("wpe", "W_position"),
        norm("h.*.ln_1", "ln_before_attention.*"),
        bare(C_ATTN, "attention.*.W_QKV", "attention.*.B_QKV"),
        bare(C_PROJ, "attention.*.W_O", "attention.*.B_O"),
        norm("h.*.ln_2", "ln_before_mlp.*"),
        bare(C_FC, "mlp.*.read", "mlp.*.threshold", OUT_IN),
        bare(MLP_PROJ, "mlp.*.write", "mlp.*.offset"),
        norm("ln_f", "ln_final"),
    ),
    "conv1x1": (
        embedding("wte", "emb"),
        bare("wpe", "emb_pos", pattern="c e -> 1 e c"),
        norm("h.*.ln_1", "norm_layers_1.*", weight="gamma", bias="beta"),
        Row(
            C_ATTN,
            ("attn_layers.*.conv_q", "attn_layers.*.conv_k", "attn_layers.*.conv_v"),
            (Parameter("weight", "weight", "i (p o) -> (p o) i 1"), Parameter("bias", "bias", "(p o) -> (p o)")),
        ),
        *(
            Row(site, (theirs,), (Parameter("weight", "weight", "i o -> o i 1"), Parameter("bias", "bias")))
            for site, theirs in (
                (C_PROJ, "attn_layers.*.conv_o"),
                (C_FC, "ffn_layers.*.conv_1"),
                (MLP_PROJ, "ffn_layers.*.conv_2"),
            )
        ),
        norm("h.*.ln_2", "norm_layers_2.*", weight="gamma", bias="beta"),
        norm("ln_f", "norm_out", weight="gamma", bias="beta"),
        tied("lm_head", "proj_out", to="wte", pattern="v e -> v e 1"),
    ),
    "one_hot": (
        bare("wte", "word_matrix.weight", pattern="v e -> e v"),
        bare("wpe", "place_matrix.weight", pattern="c e -> e c"),
        norm("h.*.ln_1", "units.*.std1", weight="gain", bias="shift"),
        linear(C_ATTN, *(f"units.*.mixer.qkv.{part}" for part in range(3))),
        linear(C_PROJ, "units.*.mixer.back"),
        norm("h.*.ln_2", "units.*.std2", weight="gain", bias="shift"),
        linear(C_FC, "units.*.wide"),
        linear(MLP_PROJ, "units.*.slim"),
        norm("ln_f", "std_final", weight="gain", bias="shift"),
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
    "pre_norm": (
        embedding("wte", "token_emb"),
        embedding("wpe", "pos_emb"),
        norm("h.*.ln_1", "transformer.layers.*.0.norm"),
        linear(
            C_ATTN, "transformer.layers.*.0.fn.to_q", "transformer.layers.*.0.fn.to_kv", parts=("q", "kv")
        ),
        linear(C_PROJ, "transformer.layers.*.0.fn.to_out.0"),
        norm("h.*.ln_2", "transformer.layers.*.1.norm"),
        linear(C_FC, "transformer.layers.*.1.fn.net.0"),
        linear(MLP_PROJ, "transformer.layers.*.1.fn.net.3"),
        norm("ln_f", "to_logits.0"),
        tied("lm_head", "to_logits.1", to="wte"),
    ),
}  # fmt: skip
SEPARATORS = {"jax_dict": ":"}
CONFIG = GPTConfig(**SIZES | {"n_inner": None})  # most styles have no inner width of their own


def test_every_style_has_a_table() -> None:
    assert {style.name for style in STYLES.values() if style.layout is None} == TABLES.keys()


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
