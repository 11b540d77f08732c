"""Reads a `config.json` in which another program wrote its own settings: minGPT, nanoGPT, the book, or CTranslate2.

`OTHER_PROGRAMS` has a function for each, which translates them into fields of Hugging Face's. Fields that they lack are
not filled with Hugging Face's defaults: `loading.configuration` works them out.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
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


def mingpt(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translates minGPT's `config.json` into fields of Hugging Face's.

    Args:
        content: of the file.

    Returns:
        The fields that it gives; None if the file is not minGPT's.

    Example:
        >>> mingpt({"system": {}, "data": {}, "model": {"model_type": "gpt-nano", "n_head": None}})["n_head"]
        3
    """
    model = content.get("model")
    if not isinstance(model, dict) or not {"system", "model"} <= content.keys() or "model_type" not in model:
        return None
    fields = {ours: model[theirs] for theirs, ours in _NAMES.items() if model.get(theirs) is not None}
    if (kind := model["model_type"]) in _TYPES:
        fields |= dict(zip(("n_layer", "n_head", "n_embd"), _TYPES[kind], strict=True))
    return _HARD_CODED | fields


# The sizes in nanoGPT's settings, which many forks write as JSON, and in those of the book -> config.json's.
NANOGPT = {name: _NAMES[name] for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
_BOOK = {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "emb_dim": "n_embd",
    "context_length": "n_positions",
    "vocab_size": "vocab_size",
}


def nanogpt(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translates nanoGPT's settings into fields of Hugging Face's.

    Args:
        content: of the file.

    Returns:
        The fields that it gives; None if it lacks one of nanoGPT's names for the sizes.

    Example:
        >>> nanogpt({"n_layer": 2, "n_head": 4, "n_embd": 8, "block_size": 16, "vocab_size": 65})["n_positions"]
        16
        >>> nanogpt({"n_layer": 2, "n_head": 4, "n_embd": 8, "n_positions": 16, "vocab_size": 65})
    """
    return _renamed(content, NANOGPT)


def book(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translates the settings of "Build a Large Language Model (From Scratch)" into fields of Hugging Face's.

    Args:
        content: of the file.

    Returns:
        The fields that it gives; None if it lacks one of the book's names for the sizes.

    Example:
        >>> book({"n_layers": 2, "n_heads": 4, "emb_dim": 8, "context_length": 16, "vocab_size": 65})["n_head"]
        4
    """
    return _renamed(content, _BOOK)


def ctranslate2(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the only field of CTranslate2's `config.json` that is about the mathematics.

    Args:
        content: of the file.

    Returns:
        The fields that it gives; None if the file is not CTranslate2's.

    Example:
        >>> ctranslate2({"bos_token": "a", "eos_token": "a", "unk_token": "a", "layer_norm_epsilon": None})
        {'layer_norm_epsilon': 1e-05}
    """
    if not content.keys() >= {"bos_token", "eos_token", "unk_token", "layer_norm_epsilon"} or "model_type" in content:
        return None
    epsilon = content["layer_norm_epsilon"]
    return {"layer_norm_epsilon": 1e-5 if epsilon is None else epsilon}  # the engine's, where there is none


def _renamed(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any] | None:
    if not content.keys() >= names.keys() or content.get("model_type") is not None:
        return None
    return {ours: content[theirs] for theirs, ours in names.items()}


# The program -> a function that translates its settings, or returns None for settings of others.
OTHER_PROGRAMS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = MappingProxyType(
    {"minGPT": mingpt, "nanoGPT": nanogpt, "the book": book, "CTranslate2": ctranslate2}
)
