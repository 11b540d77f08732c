"""TransformerLens' `HookedTransformer`: every head has matrices of its own, ``W_Q [H, E, d]``, used as ``x @ W``.

Its attention and feed-forward modules hold all their weights themselves, so there is no module to compare with GPT-2's
linear layers. The output layer has a bias that GPT-2 lacks: it must be zero. This is the unprocessed form. By default
TransformerLens folds the gains and biases of LayerNorms into the layers behind them; such a file is refused.
"""

from gpt2_from_scratch.mapping import Layout, Parameter, Row, bare, embedding, ignore, norm, site

_BLOCK = "blocks.*"
_WEIGHTS, _BIASES = (tuple(f"{_BLOCK}.attn.{kind}_{part}" for part in "QKV") for kind in "Wb")

TRANSFORMER_LENS = (
    Layout(
        "transformer_lens",
        (
            embedding("wte", "embed", weight="W_E"),
            embedding("wpe", "pos_embed", weight="W_pos"),
            norm("h.*.ln_1", f"{_BLOCK}.ln1", weight="w", bias="b"),
            bare("h.*.attn.c_attn", _WEIGHTS, _BIASES, "e (p h d) -> (p h) e d", "(p h d) -> (p h) d"),
            bare("h.*.attn.c_proj", f"{_BLOCK}.attn.W_O", f"{_BLOCK}.attn.b_O", "(h d) e -> h d e"),
            site("h.*.attn", f"{_BLOCK}.attn"),
            norm("h.*.ln_2", f"{_BLOCK}.ln2", weight="w", bias="b"),
            bare("h.*.mlp.c_fc", f"{_BLOCK}.mlp.W_in", f"{_BLOCK}.mlp.b_in"),
            bare("h.*.mlp.c_proj", f"{_BLOCK}.mlp.W_out", f"{_BLOCK}.mlp.b_out"),
            site("h.*.mlp", f"{_BLOCK}.mlp"),
            site("h.*", _BLOCK),
            norm("ln_f", "ln_final", weight="w", bias="b"),
            Row(
                "lm_head",
                ("unembed",),
                (Parameter("weight", "W_U", "v e -> e v"), Parameter("bias", "b_U", must_be_zero="vocab_size")),
                tied_to="wte.weight",
            ),
            ignore(f"{_BLOCK}.attn.mask", why="causal-mask buffer, not a parameter"),
            ignore(f"{_BLOCK}.attn.IGNORE", why="mask value, not a parameter"),
        ),
        about="TransformerLens, unprocessed",
    ),
)
