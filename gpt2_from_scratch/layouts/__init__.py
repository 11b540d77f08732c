"""Where GPT-2's weights are in each code base: a table for each. What a row means is in `mapping`.

To support another code base, add a table. A layout's name stands for one or more *variants* (with or without a prefix;
query, key and value fused or separate). The variant that fits every tensor is used.
"""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts.ctranslate2 import CTRANSLATE2
from gpt2_from_scratch.layouts.flax import FLAX
from gpt2_from_scratch.layouts.gguf import GGUF
from gpt2_from_scratch.layouts.huggingface import HUGGINGFACE
from gpt2_from_scratch.layouts.llmc import LLM_C
from gpt2_from_scratch.layouts.llms_from_scratch import LLMS_FROM_SCRATCH
from gpt2_from_scratch.layouts.megatron import MEGATRON
from gpt2_from_scratch.layouts.mlx import MLX
from gpt2_from_scratch.layouts.nanogpt import MINGPT, NANOGPT
from gpt2_from_scratch.layouts.openai import OPENAI
from gpt2_from_scratch.layouts.own import GPT2_FROM_SCRATCH
from gpt2_from_scratch.layouts.tf_keras import TF_KERAS
from gpt2_from_scratch.layouts.transformer_lens import TRANSFORMER_LENS
from gpt2_from_scratch.mapping import Layout

_ALL = (
    GPT2_FROM_SCRATCH,
    HUGGINGFACE,
    LLMS_FROM_SCRATCH,
    NANOGPT,
    MINGPT,
    OPENAI,
    LLM_C,
    GGUF,
    FLAX,
    TF_KERAS,
    MLX,
    TRANSFORMER_LENS,
    CTRANSLATE2,
    MEGATRON,
)
LAYOUTS: Mapping[str, tuple[Layout, ...]] = MappingProxyType({variants[0].name: variants for variants in _ALL})
EVERY: tuple[Layout, ...] = tuple(layout for variants in _ALL for layout in variants)

# Tried in this order on a file whose format does not determine the layout; those of OpenAI, llm.c, llama.cpp, Flax,
# CTranslate2 and Megatron-LM do. Ours has the names and orientation of Hugging Face's without the prefix, and minGPT's
# those of nanoGPT's, so neither is listed.
DETECTABLE: tuple[Layout, ...] = (*HUGGINGFACE, *LLMS_FROM_SCRATCH, *NANOGPT, *MLX, *TF_KERAS, *TRANSFORMER_LENS)

LayoutChoice: TypeAlias = str | Layout | Sequence[Layout]  # a name from `LAYOUTS`, a table, or several to choose from


def layout_variants(choice: LayoutChoice) -> Sequence[Layout]:
    """The tables that a user's choice stands for: all variants of a name; a `Layout`, or several, are taken as given.

    Args:
        choice: what a function's ``layout`` or ``file_layout`` was given.

    Raises:
        MappingError: no such name, or neither a name nor a `Layout`.

    Example:
        >>> [layout.about for layout in layout_variants("llms_from_scratch")]
        ['LLMs-from-scratch GPTModel, separate W_query, W_key, W_value', 'LLMs-from-scratch GPTModelFast, fused qkv']
    """
    given: object = choice
    if isinstance(given, Layout):
        return (given,)
    if isinstance(given, str):
        if given in LAYOUTS:
            return LAYOUTS[given]
        near = difflib.get_close_matches(given.lower(), LAYOUTS, n=1, cutoff=0.75)
        meant = f"did you mean {near[0]!r}? There are " if near else "one of: "
        raise MappingError(f"there is no layout {given!r}", hint=meant + ", ".join(LAYOUTS))
    several = tuple(given) if isinstance(given, list | tuple) else ()
    if several and all(isinstance(each, Layout) for each in several):
        return several
    what = f"{type(given).__name__} of {len(several)} {type(several[0]).__name__}s" if several else type(given).__name__
    raise MappingError(
        f"a layout is a Layout, and this is a {what}",
        hint='write Layout("mine", (embedding("wte", ...), ...)): a name, and a tuple of rows',
    )


__all__ = ["DETECTABLE", "EVERY", "LAYOUTS", "LayoutChoice", "layout_variants"]
