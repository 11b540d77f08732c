"""TensorFlow 2, as transformers 4 wrote it in `tf_model.h5` or safetensors: ``transformer/h_._0/attn/c_attn/weight:0``.

Linear weights are ``[in, out]``, and their biases ``[1, out]``. The token embedding is called ``weight`` in older files
and ``embeddings`` in newer ones.
"""

from gpt2_from_scratch.mapping import Layout, Parameter, Row, embedding, norm, tied

_BLOCK = "transformer/h_._*"


def _conv1d(site: str, theirs: str) -> Row:
    return Row(site, (theirs,), (Parameter("weight", "weight:0"), Parameter("bias", "bias:0", "o -> 1 o")))


def _layout(table: str) -> Layout:
    return Layout(
        "tf_keras",
        (
            embedding("wte", "transformer/wte", weight=table),
            embedding("wpe", "transformer/wpe", weight="embeddings:0"),
            norm("h.*.ln_1", f"{_BLOCK}/ln_1", weight="gamma:0", bias="beta:0"),
            _conv1d("h.*.attn.c_attn", f"{_BLOCK}/attn/c_attn"),
            _conv1d("h.*.attn.c_proj", f"{_BLOCK}/attn/c_proj"),
            norm("h.*.ln_2", f"{_BLOCK}/ln_2", weight="gamma:0", bias="beta:0"),
            _conv1d("h.*.mlp.c_fc", f"{_BLOCK}/mlp/c_fc"),
            _conv1d("h.*.mlp.c_proj", f"{_BLOCK}/mlp/c_proj"),
            norm("ln_f", "transformer/ln_f", weight="gamma:0", bias="beta:0"),
            tied("lm_head", "transformer/lm_head", to="wte", weight="weight:0", written=False),
        ),
        separator="/",
        about=f"transformers' TensorFlow 2 models, token embedding {table!r}",
    )


TF_KERAS = (_layout("embeddings:0"), _layout("weight:0"))
