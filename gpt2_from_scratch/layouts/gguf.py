"""llama.cpp's names for GPT-2 in a GGUF file: ``blk.0.attn_qkv.weight``, ``[out, in]``.

A file without ``output.weight`` has a tied head.
"""

from gpt2_from_scratch.mapping import Layout, embedding, linear, norm, tied

GGUF = (
    Layout(
        "gguf",
        (
            embedding("wte", "token_embd"),
            embedding("wpe", "position_embd"),
            norm("h.*.ln_1", "blk.*.attn_norm"),
            linear("h.*.attn.c_attn", "blk.*.attn_qkv"),
            linear("h.*.attn.c_proj", "blk.*.attn_output"),
            norm("h.*.ln_2", "blk.*.ffn_norm"),
            linear("h.*.mlp.c_fc", "blk.*.ffn_up"),
            linear("h.*.mlp.c_proj", "blk.*.ffn_down"),
            norm("ln_f", "output_norm"),
            tied("lm_head", "output", to="wte", written=False),
        ),
        about="llama.cpp",
    ),
)
