"""Every torch module that a layout describes, built from our configuration: ours, transformers', and other people's.

A style is a layout's name and how to build the module it describes; what a test does with the two is the
same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.model import GPTModel
from tests.foreign import book, book_fused, mingpt, nanogpt, parallel_heads


@dataclass(frozen=True)
class Style:
    """One way to write GPT-2.

    Args:
        layout: name of its layout.
        build: makes the module, freshly initialised. Styles without an inner width of their own have ``4 E``.
        always_tied: embedding and head are one parameter, whatever the configuration says.
    """

    layout: str
    build: Callable[[GPTConfig], nn.Module]
    always_tied: bool = False

    def __call__(self, config: GPTConfig) -> nn.Module:
        """The module in eval mode."""
        return self.build(config).eval()


def logits(module: nn.Module, ids: Tensor) -> Tensor:
    """Logits ``[B, T, V]``, whatever the module wraps them in."""
    with torch.inference_mode():
        output = module(ids)
    if isinstance(output, tuple):
        output = output[0]
    result: Tensor = getattr(output, "logits", output)
    return result


def book_config(config: GPTConfig, qkv_bias: bool = True) -> dict[str, Any]:
    """The dictionary that the book's models are configured by."""
    sizes = {"vocab_size": config.vocab_size, "context_length": config.n_positions, "emb_dim": config.n_embd}
    return sizes | {"n_heads": config.n_head, "n_layers": config.n_layer, "drop_rate": 0.1, "qkv_bias": qkv_bias}


def _karpathy(config: GPTConfig) -> dict[str, int]:
    sizes = {name: getattr(config, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    return sizes | {"block_size": config.n_positions}


def _nanogpt(config: GPTConfig) -> nn.Module:
    return nanogpt.GPT(nanogpt.GPTConfig(**_karpathy(config), gelu="tanh"), all_positions=True)


def _parallel_heads(config: GPTConfig) -> nn.Module:
    sizes = {"d_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_layers": config.n_layer}
    widths = {"d_model": config.n_embd, "n_heads": config.n_head, "d_head": config.head_dim, "d_mlp": config.inner_dim}
    return parallel_heads.Transformer(parallel_heads.Config(**sizes, **widths))


def _transformers(config: GPTConfig) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**config.to_hf() | {"use_cache": False}))


STYLES = {
    "ours": Style("gpt2_from_scratch", GPTModel),
    "transformers": Style("huggingface", _transformers),
    "book": Style("llms_from_scratch", lambda config: book.GPTModel(book_config(config))),
    "book_fused": Style("llms_from_scratch", lambda config: book_fused.GPTModel(book_config(config))),
    "nanogpt": Style("nanogpt", _nanogpt, always_tied=True),
    "mingpt": Style("mingpt", lambda config: mingpt.GPT(mingpt.Config(**_karpathy(config)))),
    "parallel_heads": Style("transformer_lens", _parallel_heads),
}
