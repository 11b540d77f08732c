"""The layout of a module: a built-in one whose names fit, otherwise the inferred one."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gpt2_from_scratch.arrays import name_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError, SizesError
from gpt2_from_scratch.infer_layout.inference import infer_layout
from gpt2_from_scratch.infer_layout.recognition import recognise
from gpt2_from_scratch.layouts import EVERY
from gpt2_from_scratch.mapping import Layout, match_module
from gpt2_from_scratch.ranks import is_sharded


@dataclass(frozen=True)
class FoundLayout:
    """A module's layout, and how it is known.

    Args:
        layout: the table.
        how: in words.
    """

    layout: Layout
    how: str


def find_layout(module: nn.Module, config: GPTConfig, read: Callable[[str], Tensor] | None = None) -> FoundLayout:
    """Finds the layout of a module of which nobody has said it.

    A built-in layout is taken if every name and every shape of the module's parameters fits it. Otherwise, a module
    that holds the checkpoint's weights is known by their values, and any other by what it computes.

    Args:
        module: somebody's GPT-2.
        config: of the checkpoint that belongs to it.
        read: canonical name -> the checkpoint's tensor, where the module may hold the weights already.

    Raises:
        SizesError: its streams are not as wide as the checkpoint's.
        MappingError: no layout was found for another reason; says why.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)
        >>> find_layout(GPTModel(config), config).how
        "the names of the built-in layout 'gpt2_from_scratch'"
    """
    matching = match_module(module, config, EVERY)
    if matching:
        return FoundLayout(matching.layout, f"the names of the built-in layout {matching.layout.name!r}")
    if any(map(is_sharded, module.parameters())):
        raise MappingError(
            f"no built-in layout fits {name_of(module)}, and no other can be found out while it is on several ranks",
            hint="find it on one: gpt2 map FILE.py:OBJECT > my_layout.py, and give --layout my_layout.py:LAYOUT",
        )
    if read is not None and (layout := recognise(module, config, read)) is not None:
        return FoundLayout(layout, "a layout that was read from the weights' values")
    inferred = infer_layout(module, config)
    if inferred.width not in (None, config.n_embd):
        raise SizesError(
            f"{name_of(module)} has other sizes than the checkpoint: {'; '.join(inferred.because)}",
            hint="name a checkpoint of its sizes, or give its class, which is built with the checkpoint's",
        )
    if inferred.layout is None:
        raise MappingError(
            f"no layout of {name_of(module)} was given, no built-in one fits, and none was found, because "
            f"{'; '.join(inferred.because)}",
            hint="if it takes ids [B, T] and returns logits [B, T, V], describe its names with a Layout of your own",
        )
    words = str(inferred).replace("PROVEN", "proven")
    return FoundLayout(inferred.layout, f"an inferred layout, {words}")
