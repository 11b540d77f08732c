"""Apple's mlx-lm: Hugging Face's names under ``model.``, `nn.Linear`'s orientation ``[out, in]``, a tied head."""

from gpt2_from_scratch.mapping import Layout, embedding, linear, norm, tied

MLX = (
    Layout(
        "mlx",
        (
            embedding("wte", "model.wte"),
            embedding("wpe", "model.wpe"),
            norm("h.*.ln_1", "model.h.*.ln_1"),
            linear("h.*.attn.c_attn", "model.h.*.attn.c_attn"),
            linear("h.*.attn.c_proj", "model.h.*.attn.c_proj"),
            norm("h.*.ln_2", "model.h.*.ln_2"),
            linear("h.*.mlp.c_fc", "model.h.*.mlp.c_fc"),
            linear("h.*.mlp.c_proj", "model.h.*.mlp.c_proj"),
            norm("ln_f", "model.ln_f"),
            tied("lm_head", "lm_head", to="wte", written=False),
        ),
        about="mlx-lm",
    ),
)
