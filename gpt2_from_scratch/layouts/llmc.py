"""llm.c: ``nn.Linear``'s orientation, ``[out, in]``; the head is tied.

Its files hold no names; these are those of the C struct, ``qkvw`` and so on, with a layer's number in front. In the
file, all layers of one kind lie together; which bytes those are is the container's business.
"""

from gpt2_from_scratch.mapping import Layout, embedding, linear, norm, tied

LLM_C = (
    Layout(
        "llm.c",
        (
            embedding("wte", "wte", weight=""),
            embedding("wpe", "wpe", weight=""),
            norm("h.*.ln_1", "h.*.ln1", weight="w", bias="b"),
            linear("h.*.attn.c_attn", "h.*.qkv", weight="w", bias="b"),
            linear("h.*.attn.c_proj", "h.*.attproj", weight="w", bias="b"),
            norm("h.*.ln_2", "h.*.ln2", weight="w", bias="b"),
            linear("h.*.mlp.c_fc", "h.*.fc", weight="w", bias="b"),
            linear("h.*.mlp.c_proj", "h.*.fcproj", weight="w", bias="b"),
            norm("ln_f", "lnf", weight="w", bias="b"),
            tied("lm_head", "lm_head", to="wte", weight="", written=False),
        ),
        separator="",
        about="llm.c",
    ),
)
