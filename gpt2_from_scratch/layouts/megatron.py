"""Megatron-LM's GPT, ``[out, in]``: the older models of Megatron-LM, and those of Megatron Core.

Each head has its query, key and value side by side. In the oldest files it was otherwise, under the same name: their
fused layer has a name of its own here, with which `checkpoint.megatron` gives it GPT-2's order.
"""

from gpt2_from_scratch.mapping import Layout, Row, bare, embedding, linear, norm, tied


def _older(fused: str, order: str, about: str) -> Layout:
    block = "language_model.encoder.layers.*"
    return Layout(
        "megatron",
        (
            embedding("wte", "language_model.embedding.word_embeddings"),
            embedding("wpe", "language_model.embedding.position_embeddings"),
            norm("h.*.ln_1", f"{block}.input_layernorm"),
            linear("h.*.attn.c_attn", f"{block}.self_attention.{fused}", out=order, absent_bias_is_zero=True),
            linear("h.*.attn.c_proj", f"{block}.self_attention.dense", absent_bias_is_zero=True),
            norm("h.*.ln_2", f"{block}.post_attention_layernorm"),
            linear("h.*.mlp.c_fc", f"{block}.mlp.dense_h_to_4h", absent_bias_is_zero=True),
            linear("h.*.mlp.c_proj", f"{block}.mlp.dense_4h_to_h", absent_bias_is_zero=True),
            norm("ln_f", "language_model.encoder.final_layernorm"),
            tied("lm_head", "language_model.output_layer", to="wte", written=False),
        ),
        about=about,
    )


_BLOCK = "decoder.layers.*"
_INSIDE = ("layer_norm_weight", "layer_norm_bias")  # of the linear layer behind them, with which they are one kernel


def _core(first: Row, second: Row, about: str) -> Layout:
    return Layout(
        "megatron",
        (
            embedding("wte", "embedding.word_embeddings"),
            embedding("wpe", "embedding.position_embeddings"),
            first,
            linear("h.*.attn.c_attn", f"{_BLOCK}.self_attention.linear_qkv", out="h p d", absent_bias_is_zero=True),
            linear("h.*.attn.c_proj", f"{_BLOCK}.self_attention.linear_proj", absent_bias_is_zero=True),
            second,
            linear("h.*.mlp.c_fc", f"{_BLOCK}.mlp.linear_fc1", absent_bias_is_zero=True),
            linear("h.*.mlp.c_proj", f"{_BLOCK}.mlp.linear_fc2", absent_bias_is_zero=True),
            norm("ln_f", "decoder.final_layernorm"),
            tied("lm_head", "output_layer", to="wte", written=False),
        ),
        about=about,
    )


MEGATRON = (
    _older("query_key_value", "h p d", "Megatron-LM, query, key and value side by side in each head"),
    _older("query_key_value_v0", "", "Megatron-LM, query before key before value"),
    _core(
        norm("h.*.ln_1", f"{_BLOCK}.input_layernorm"),
        norm("h.*.ln_2", f"{_BLOCK}.pre_mlp_layernorm"),
        "Megatron Core, layers of its own",
    ),
    _core(
        bare("h.*.ln_1", *(f"{_BLOCK}.self_attention.linear_qkv.{name}" for name in _INSIDE)),
        bare("h.*.ln_2", *(f"{_BLOCK}.mlp.linear_fc1.{name}" for name in _INSIDE)),
        "Megatron Core, layers of Transformer Engine",
    ),
)
