"""GPT-2 in float64, spelled out: what it computes on the way from ids to logits.

`Anatomy` holds a configuration and canonical weights. Start reading at `forward`, which is the whole model in pure
functions.
"""

from torch import Tensor

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.anatomy.forward import Weights
from gpt2_from_scratch.config import GPTConfig

__all__ = ["Anatomy"]


class Anatomy:
    """GPT-2 with given weights, computed in float64 on the CPU.

    Args:
        config: sizes and options.
        weights: canonical name -> tensor (`GPTConfig.tensor_shapes` lists them), in any floating-point dtype. Tensors
            are widened where they are used, so no second copy of the model is kept. An untied head is
            ``lm_head.weight``; a configuration with a tied head ignores it.

    Example:
        >>> import torch
        >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)
        >>> weights = {name: torch.randn(shape) for name, shape in config.tensor_shapes().items()}
        >>> Anatomy(config, weights).logits(torch.tensor([[1, 2, 3]])).dtype
        torch.float64
    """

    def __init__(self, config: GPTConfig, weights: Weights) -> None:
        self.config = config
        names = config.tensor_shapes()
        self.weights: Weights = {name: weights[name].detach() for name in names}

    def logits(self, ids: Tensor) -> Tensor:
        """Logits of every token.

        Args:
            ids: int64 ``[B, T]``.

        Returns:
            float64 ``[B, T, V]``.
        """
        return forward.logits(self.config, self.weights, ids)
