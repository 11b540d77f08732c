"""minGPT's `config.json`: the settings of a whole training run, written beside its `model.pt`."""

from collections.abc import Mapping
from typing import Any

# `model_type` -> n_layer, n_head, n_embd; from minGPT's model.py.
_TYPES = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}
_SAME_NAMES = ("n_layer", "n_head", "n_embd", "vocab_size", "embd_pdrop", "resid_pdrop", "attn_pdrop")
_NAMES = {"block_size": "n_positions"} | {name: name for name in _SAME_NAMES}  # minGPT's name -> config.json's
# Hard-coded in minGPT: NewGELU, nn.LayerNorm's epsilon, and an `lm_head` of its own.
_HARD_CODED = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False}


def settings(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translates minGPT's `config.json` into fields of Hugging Face's.

    Args:
        content: of the file.

    Returns:
        The fields that it gives; None if the file is not minGPT's.

    Example:
        >>> settings({"system": {}, "data": {}, "model": {"model_type": "gpt-nano", "n_head": None}})["n_head"]
        3
    """
    model = content.get("model")
    if not isinstance(model, dict) or not {"system", "model"} <= content.keys() or "model_type" not in model:
        return None
    fields = {ours: model[theirs] for theirs, ours in _NAMES.items() if model.get(theirs) is not None}
    if (kind := model["model_type"]) in _TYPES:
        fields |= dict(zip(("n_layer", "n_head", "n_embd"), _TYPES[kind], strict=True))
    return _HARD_CODED | fields
