"""TransformerLens' `HookedTransformer`: every head has matrices of its own, ``W_Q [H, E, d]``, used as ``x @ W``.

Its attention and feed-forward modules hold all their weights themselves, so there is no module to compare with GPT-2's
linear layers. The output layer has a bias that GPT-2 lacks: zero. This is the unprocessed form; by default
TransformerLens folds LayerNorms into the layers behind them, and what has no gains any more is no GPT-2.
"""

from gpt2_from_scratch.mapping import (
    Layout,
    Parameter,
    Row,
    embedding,
    ignore,
    norm,
    site,
)

_ATTENTION = ("blocks.*.attn",)
_FEED_FORWARD = ("blocks.*.mlp",)

TRANSFORMER_LENS = (
    Layout(
        "transformer_lens",
        (
            embedding("wte", "embed", weight="W_E"),
            embedding("wpe", "pos_embed", weight="W_pos"),
            norm("h.*.ln_1", "blocks.*.ln1", weight="w", bias="b"),
            Row(
                "h.*.attn.c_attn",
                _ATTENTION,
                (
                    Parameter("weight", ("W_Q", "W_K", "W_V"), "e (p h d) -> (p h) e d"),
                    Parameter("bias", ("b_Q", "b_K", "b_V"), "(p h d) -> (p h) d"),
                ),
                compared=False,
            ),
            Row(
                "h.*.attn.c_proj",
                _ATTENTION,
                (Parameter("weight", "W_O", "(h d) e -> h d e"), Parameter("bias", "b_O")),
                compared=False,
            ),
            site("h.*.attn", "blocks.*.attn"),
            norm("h.*.ln_2", "blocks.*.ln2", weight="w", bias="b"),
            Row(
                "h.*.mlp.c_fc",
                _FEED_FORWARD,
                (Parameter("weight", "W_in"), Parameter("bias", "b_in")),
                compared=False,
            ),
            Row(
                "h.*.mlp.c_proj",
                _FEED_FORWARD,
                (Parameter("weight", "W_out"), Parameter("bias", "b_out")),
                compared=False,
            ),
            site("h.*.mlp", "blocks.*.mlp"),
            site("h.*", "blocks.*"),
            norm("ln_f", "ln_final", weight="w", bias="b"),
            Row(
                "lm_head",
                ("unembed",),
                (
                    Parameter("weight", "W_U", "v e -> e v"),
                    Parameter("bias", "b_U", must_be_zero="vocab_size"),
                ),
                tied_to="wte.weight",
            ),
            ignore("blocks.*.attn.mask", why="causal-mask buffer, not a parameter"),
            ignore("blocks.*.attn.IGNORE", why="mask value, not a parameter"),
        ),
        about="TransformerLens, unprocessed",
    ),
)
