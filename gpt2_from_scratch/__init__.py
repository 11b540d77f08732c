"""GPT-2 weights into code, and proof that the code is GPT-2.

Nothing is imported until it is used, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2_from_scratch.cache import KVCache
    from gpt2_from_scratch.config import GPTConfig
    from gpt2_from_scratch.converting import convert
    from gpt2_from_scratch.errors import CandidateError, CheckpointError, DivergenceError
    from gpt2_from_scratch.generation import Decoding, generate
    from gpt2_from_scratch.layers import EXACT, FUSED, TEXTBOOK, Compute
    from gpt2_from_scratch.loading import LoadReport, load_into, open_checkpoint
    from gpt2_from_scratch.mapping import Layout
    from gpt2_from_scratch.model import GPTModel
    from gpt2_from_scratch.tokenizer import load_tokenizer
    from gpt2_from_scratch.verifier import verify

__version__ = "0.1.0"

_HOME = {
    "CandidateError": "errors",
    "CheckpointError": "errors",
    "Compute": "layers",
    "Decoding": "generation",
    "DivergenceError": "errors",
    "EXACT": "layers",
    "FUSED": "layers",
    "GPTConfig": "config",
    "GPTModel": "model",
    "KVCache": "cache",
    "Layout": "mapping",
    "LoadReport": "loading",
    "TEXTBOOK": "layers",
    "convert": "converting",
    "generate": "generation",
    "load_into": "loading",
    "load_tokenizer": "tokenizer",
    "open_checkpoint": "loading",
    "verify": "verifier",
}

__all__ = [
    "EXACT",
    "FUSED",
    "TEXTBOOK",
    "CandidateError",
    "CheckpointError",
    "Compute",
    "Decoding",
    "DivergenceError",
    "GPTConfig",
    "GPTModel",
    "KVCache",
    "Layout",
    "LoadReport",
    "convert",
    "generate",
    "load_into",
    "load_tokenizer",
    "open_checkpoint",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
