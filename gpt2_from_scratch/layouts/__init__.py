"""Where GPT-2's weights live in each code base. Tables only; what a row means is in `mapping`.

A code base is one table, and supporting another one means adding a table. A name stands for one or more *variants* (a
prefix that some files carry; query, key and value fused or separate). The variant that fits every tensor is used.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gpt2_from_scratch.layouts.flax import FLAX
from gpt2_from_scratch.layouts.gguf import GGUF
from gpt2_from_scratch.layouts.huggingface import HUGGINGFACE
from gpt2_from_scratch.layouts.llmc import LLM_C
from gpt2_from_scratch.layouts.llms_from_scratch import LLMS_FROM_SCRATCH
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
)
LAYOUTS: Mapping[str, tuple[Layout, ...]] = MappingProxyType({variants[0].name: variants for variants in _ALL})

# Tried in this order on a file that does not say what it is. Ours is Hugging Face's without the prefix, and minGPT's is
# nanoGPT's: same names, same orientation; so neither is listed. Files of OpenAI, llm.c, llama.cpp and Flax say it.
DETECTABLE: tuple[Layout, ...] = (*HUGGINGFACE, *LLMS_FROM_SCRATCH, *NANOGPT, *MLX, *TF_KERAS, *TRANSFORMER_LENS)

__all__ = ["DETECTABLE", "LAYOUTS"]
