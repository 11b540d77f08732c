"""Flax, as transformers 4 wrote it: a nested dictionary, shown here as paths, ``transformer/h/0/attn/c_attn/kernel``.

Its GPT-2 has a linear layer of its own that stores ``[out, in]``; only an untied head is Flax's `Dense`, ``[in, out]``.
`FlaxGPT2Model` has no ``transformer`` level.
"""

from gpt2_from_scratch.mapping import Layout, embedding, linear, norm, tied


def _layout(trunk: str) -> Layout:
    block = f"{trunk}h/*"
    return Layout(
        "flax",
        (
            embedding("wte", f"{trunk}wte", weight="embedding"),
            embedding("wpe", f"{trunk}wpe", weight="embedding"),
            norm("h.*.ln_1", f"{block}/ln_1", weight="scale"),
            linear("h.*.attn.c_attn", f"{block}/attn/c_attn", weight="kernel"),
            linear("h.*.attn.c_proj", f"{block}/attn/c_proj", weight="kernel"),
            norm("h.*.ln_2", f"{block}/ln_2", weight="scale"),
            linear("h.*.mlp.c_fc", f"{block}/mlp/c_fc", weight="kernel"),
            linear("h.*.mlp.c_proj", f"{block}/mlp/c_proj", weight="kernel"),
            norm("ln_f", f"{trunk}ln_f", weight="scale"),
            tied("lm_head", "lm_head", to="wte", weight="kernel", written=False, pattern="v e -> e v"),
        ),
        separator="/",
        about=f"Flax, prefix {trunk!r}" if trunk else "Flax, no prefix",
    )


FLAX = (_layout("transformer/"), _layout(""))
