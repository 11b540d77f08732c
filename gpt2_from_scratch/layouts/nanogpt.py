"""Karpathy's nanoGPT, and minGPT and makemore, which name and orient their weights alike.

Names are Hugging Face's with the prefix; `nn.Linear` stores ``[out, in]``. With ``bias=False``, nanoGPT's training
default, no linear layer and no LayerNorm has a bias: zeros. A checkpoint does not say which GELU it was trained with:
nanoGPT since May 2023 uses the exact (erf) form, earlier versions, minGPT and makemore the tanh form.
"""

from gpt2_from_scratch.mapping import Layout, embedding, ignore, linear, norm, site, tied

_BLOCK = "transformer.h.*"


def _layout(name: str, activation: str, about: str) -> Layout:
    return Layout(
        name,
        (
            embedding("wte", "transformer.wte"),
            embedding("wpe", "transformer.wpe"),
            site("drop", "transformer.drop"),
            norm("h.*.ln_1", f"{_BLOCK}.ln_1", absent_bias_is_zero=True),
            linear("h.*.attn.c_attn", f"{_BLOCK}.attn.c_attn", absent_bias_is_zero=True),
            linear("h.*.attn.c_proj", f"{_BLOCK}.attn.c_proj", absent_bias_is_zero=True),
            site("h.*.attn", f"{_BLOCK}.attn"),
            norm("h.*.ln_2", f"{_BLOCK}.ln_2", absent_bias_is_zero=True),
            linear("h.*.mlp.c_fc", f"{_BLOCK}.mlp.c_fc", absent_bias_is_zero=True),
            site("h.*.mlp.act", f"{_BLOCK}.mlp.{activation}"),
            linear("h.*.mlp.c_proj", f"{_BLOCK}.mlp.c_proj", absent_bias_is_zero=True),
            site("h.*.mlp", f"{_BLOCK}.mlp"),
            site("h.*", _BLOCK),
            norm("ln_f", "transformer.ln_f", absent_bias_is_zero=True),
            tied("lm_head", "lm_head", to="wte"),
            ignore(f"{_BLOCK}.attn.bias", why="causal-mask buffer, not a parameter"),
        ),
        about=about,
    )


NANOGPT = (_layout("nanogpt", "gelu", about="nanoGPT, minGPT or makemore"),)
MINGPT = (_layout("mingpt", "act", about="minGPT or makemore"),)
