"""Hugging Face transformers: GPT-2's own names, linear weights ``[in, out]``.

`GPT2LMHeadModel` writes its trunk under ``transformer.``; OpenAI's official uploads and `GPT2Model` have no prefix.
The mask buffers that transformers wrote until 4.30 are no parameters.
"""

from gpt2_from_scratch.mapping import Layout, conv1d, embedding, ignore, norm, site, tied


def _layout(trunk: str) -> Layout:
    return Layout(
        "huggingface",
        (
            embedding("wte", f"{trunk}wte"),
            embedding("wpe", f"{trunk}wpe"),
            site("drop", f"{trunk}drop"),
            norm("h.*.ln_1", f"{trunk}h.*.ln_1"),
            conv1d("h.*.attn.c_attn", f"{trunk}h.*.attn.c_attn"),
            conv1d("h.*.attn.c_proj", f"{trunk}h.*.attn.c_proj"),
            site("h.*.attn", f"{trunk}h.*.attn"),
            norm("h.*.ln_2", f"{trunk}h.*.ln_2"),
            conv1d("h.*.mlp.c_fc", f"{trunk}h.*.mlp.c_fc"),
            site("h.*.mlp.act", f"{trunk}h.*.mlp.act"),
            conv1d("h.*.mlp.c_proj", f"{trunk}h.*.mlp.c_proj"),
            site("h.*.mlp", f"{trunk}h.*.mlp"),
            site("h.*", f"{trunk}h.*"),
            norm("ln_f", f"{trunk}ln_f"),
            tied("lm_head", "lm_head", to="wte", written=False),
            ignore(f"{trunk}h.*.attn.bias", why="causal-mask buffer, not a parameter"),
            ignore(f"{trunk}h.*.attn.masked_bias", why="mask value, not a parameter"),
        ),
        about=f"transformers, prefix {trunk!r}" if trunk else "transformers, no prefix",
    )


HUGGINGFACE = (_layout("transformer."), _layout(""))
