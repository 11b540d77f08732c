"""What the user's functions hold under which names at one moment of a run."""

import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from gpt2_from_scratch.anatomy.identity import Identity, Table
from gpt2_from_scratch.recorder import Frame


def scopes(frames: Sequence[Frame], table: Table) -> tuple[Mapping[str, Identity], ...]:
    """Names of arrays in the functions that are running, with what each holds.

    Args:
        frames: of the operation that runs, innermost first.
        table: GPT-2's values.

    Returns:
        A mapping for each frame; fewer, where the functions cannot be found any more.
    """
    running: FrameType | None = sys._getframe(1)
    found: list[Mapping[str, Identity]] = []
    for frame in frames:
        place = (frame.file, frame.function, frame.first_line)
        while running is not None:
            code = running.f_code
            if (code.co_filename, code.co_name, code.co_firstlineno) == place:
                break
            running = running.f_back
        if running is None:
            break
        found.append(_held(running.f_locals, table))
        running = running.f_back
    return tuple(found)


def _held(names: Mapping[str, object], table: Table) -> Mapping[str, Identity]:
    held: dict[str, Identity] = {}
    for name, value in names.items():
        value = getattr(value, "tensor", value)  # of an array that is followed
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ndarray.view(value, np.ndarray))
        if isinstance(value, Tensor) and value.is_floating_point():
            held[name] = table.identify(value)
        if name == "self" and isinstance(value, nn.Module):
            for own, parameter in value.named_parameters(recurse=False):
                held[f"self.{own}"] = table.identify(parameter)
    return held
