"""llm.c: ``nn.Linear``'s orientation, ``[out, in]``; the head is tied.

Its files hold no names; these are those of the C struct, ``qkvw`` and so on, with a layer's number in front. In the
file, the tensors of all layers that are of one kind lie together; `checkpoint.llmc` says which bytes those are.
"""

from gpt2_from_scratch.mapping import Layout, bare, tied

LLM_C = (
    Layout(
        "llm.c",
        (
            bare("wte", "wte"),
            bare("wpe", "wpe"),
            bare("h.*.ln_1", "h.*.ln1w", "h.*.ln1b"),
            bare("h.*.attn.c_attn", "h.*.qkvw", "h.*.qkvb", "i o -> o i"),
            bare("h.*.attn.c_proj", "h.*.attprojw", "h.*.attprojb", "i o -> o i"),
            bare("h.*.ln_2", "h.*.ln2w", "h.*.ln2b"),
            bare("h.*.mlp.c_fc", "h.*.fcw", "h.*.fcb", "i o -> o i"),
            bare("h.*.mlp.c_proj", "h.*.fcprojw", "h.*.fcprojb", "i o -> o i"),
            bare("ln_f", "lnfw", "lnfb"),
            tied("lm_head", "", to="wte", weight="lm_head", written=False),
        ),
        about="llm.c",
    ),
)
