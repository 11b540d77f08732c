"""This package's own `GPTModel`: canonical names, canonical orientation, so nothing is rearranged."""

from gpt2_from_scratch.mapping import Layout, conv1d, embedding, norm, site, tied

GPT2_FROM_SCRATCH = (
    Layout(
        "gpt2_from_scratch",
        (
            embedding("wte", "wte"),
            embedding("wpe", "wpe"),
            site("drop", "drop"),
            norm("h.*.ln_1", "h.*.ln_1"),
            conv1d("h.*.attn.c_attn", "h.*.attn.c_attn"),
            conv1d("h.*.attn.c_proj", "h.*.attn.c_proj"),
            site("h.*.attn", "h.*.attn"),
            norm("h.*.ln_2", "h.*.ln_2"),
            conv1d("h.*.mlp.c_fc", "h.*.mlp.c_fc"),
            site("h.*.mlp.act", "h.*.mlp.act"),
            conv1d("h.*.mlp.c_proj", "h.*.mlp.c_proj"),
            site("h.*.mlp", "h.*.mlp"),
            site("h.*", "h.*"),
            norm("ln_f", "ln_f"),
            tied("lm_head", "lm_head", to="wte"),
        ),
        about="GPTModel of this package",
    ),
)
