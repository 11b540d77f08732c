"""CTranslate2's variables: ``decoder/layer_0/self_attention/linear_0/weight``, ``[out, in]``, fused query, key, value.

The head is a variable of its own name, which is another name for the embedding where the two are tied.
"""

from gpt2_from_scratch.mapping import Layout, embedding, linear, norm, tied

_BLOCK = "decoder/layer_*"

CTRANSLATE2 = (
    Layout(
        "ctranslate2",
        (
            embedding("wte", "decoder/embeddings"),
            embedding("wpe", "decoder/position_encodings", weight="encodings"),
            norm("h.*.ln_1", f"{_BLOCK}/self_attention/layer_norm", weight="gamma", bias="beta"),
            linear("h.*.attn.c_attn", f"{_BLOCK}/self_attention/linear_0"),
            linear("h.*.attn.c_proj", f"{_BLOCK}/self_attention/linear_1"),
            norm("h.*.ln_2", f"{_BLOCK}/ffn/layer_norm", weight="gamma", bias="beta"),
            linear("h.*.mlp.c_fc", f"{_BLOCK}/ffn/linear_0"),
            linear("h.*.mlp.c_proj", f"{_BLOCK}/ffn/linear_1"),
            norm("ln_f", "decoder/layer_norm", weight="gamma", bias="beta"),
            tied("lm_head", "decoder/projection", to="wte"),
        ),
        separator="/",
        about="CTranslate2",
    ),
)
