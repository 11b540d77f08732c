"""Dropout that acts in eval mode: it cannot be reproduced, but it can be taken away.

The one idea: every call of dropout is seen on its way and answered with its input. A candidate that is random before,
and is not then, has dropout on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gpt2_from_scratch.checks.candidate import Candidate

_DROPOUT = (F.dropout, torch.dropout, torch.dropout_)
_ATTENTION_DROPOUT = 4  # dropout_p is the fifth argument of scaled_dot_product_attention


class WithoutDropout(TorchFunctionMode):
    """Inside, dropout does nothing."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            if len(args) > _ATTENTION_DROPOUT:
                args = (*args[:_ATTENTION_DROPOUT], 0.0, *args[_ATTENTION_DROPOUT + 1 :])
            else:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def is_steady(candidate: Candidate, ids: Tensor) -> bool:
    """Whether the same ids give the same logits, twice."""
    one, other = candidate.logits(ids), candidate.logits(ids)
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
