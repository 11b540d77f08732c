"""Sebastian Raschka's "Build a Large Language Model (From Scratch)": `GPTModel`, and its fused `GPTModelFast`.

`nn.Linear` stores ``[out, in]``. The head is a layer of its own, so a file holds the tied weight twice. With
``qkv_bias=False``, the book's default, the query, key and value biases do not exist: zeros.
"""

from gpt2_from_scratch.mapping import Layout, embedding, ignore, linear, norm, site, tied

_BLOCK = "trf_blocks.*"

_SEPARATE = Layout(
    "llms_from_scratch",
    (
        embedding("wte", "tok_emb"),
        embedding("wpe", "pos_emb"),
        site("drop", "drop_emb"),
        norm("h.*.ln_1", f"{_BLOCK}.norm1", weight="scale", bias="shift"),
        linear(
            "h.*.attn.c_attn",
            f"{_BLOCK}.att.W_query",
            f"{_BLOCK}.att.W_key",
            f"{_BLOCK}.att.W_value",
            absent_bias_is_zero=True,
        ),
        linear("h.*.attn.c_proj", f"{_BLOCK}.att.out_proj"),
        site("h.*.attn", f"{_BLOCK}.att"),
        norm("h.*.ln_2", f"{_BLOCK}.norm2", weight="scale", bias="shift"),
        linear("h.*.mlp.c_fc", f"{_BLOCK}.ff.layers.0"),
        site("h.*.mlp.act", f"{_BLOCK}.ff.layers.1"),
        linear("h.*.mlp.c_proj", f"{_BLOCK}.ff.layers.2"),
        site("h.*.mlp", f"{_BLOCK}.ff"),
        site("h.*", _BLOCK),
        norm("ln_f", "final_norm", weight="scale", bias="shift"),
        tied("lm_head", "out_head", to="wte"),
        ignore(f"{_BLOCK}.att.mask", why="causal-mask buffer, not a parameter"),
    ),
    about="LLMs-from-scratch GPTModel, separate W_query, W_key, W_value",
)

_FUSED = Layout(
    "llms_from_scratch",
    (
        embedding("wte", "tok_emb"),
        embedding("wpe", "pos_emb"),
        site("drop", "drop_emb"),
        norm("h.*.ln_1", f"{_BLOCK}.norm1"),
        linear("h.*.attn.c_attn", f"{_BLOCK}.att.qkv", absent_bias_is_zero=True),
        linear("h.*.attn.c_proj", f"{_BLOCK}.att.proj"),
        site("h.*.attn", f"{_BLOCK}.att"),
        norm("h.*.ln_2", f"{_BLOCK}.norm2"),
        linear("h.*.mlp.c_fc", f"{_BLOCK}.ff.layers.0"),
        site("h.*.mlp.act", f"{_BLOCK}.ff.layers.1"),
        linear("h.*.mlp.c_proj", f"{_BLOCK}.ff.layers.2"),
        site("h.*.mlp", f"{_BLOCK}.ff"),
        site("h.*", _BLOCK),
        norm("ln_f", "final_norm"),
        tied("lm_head", "out_head", to="wte"),
    ),
    about="LLMs-from-scratch GPTModelFast, fused qkv",
)

LLMS_FROM_SCRATCH = (_SEPARATE, _FUSED)
