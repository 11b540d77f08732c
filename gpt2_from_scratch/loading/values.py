"""Checks of a checkpoint that need dtypes or values: mixed dtypes, tensors that must be zero, the tied head, NaN."""

from functools import reduce

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.loading.configuration import same, stored_head
from gpt2_from_scratch.loading.hints import PROCESSED
from gpt2_from_scratch.mapping import Matching, listed
from gpt2_from_scratch.precision import dtype_name


def floating_dtype(matching: Matching, container: Container, source: str) -> tuple[torch.dtype, tuple[str, ...]]:
    """The dtype that holds all weights, and a remark if they have several.

    Args:
        matching: which tensors are weights.
        container: the tensors.
        source: what to call the checkpoint in an error.

    Raises:
        MappingError: weights that are not floating point, or of 8 bits.
    """
    dtypes: dict[torch.dtype, list[str]] = {}
    for link in matching.links:
        for name in link.theirs:
            dtypes.setdefault(container.tensors[name].dtype, []).append(name)
    wrong = {dtype: names for dtype, names in dtypes.items() if not dtype.is_floating_point or dtype.itemsize < 2}
    if wrong:
        which = "; ".join(f"{listed(names)} {dtype_name(dtype)}" for dtype, names in wrong.items())
        raise MappingError(
            f"{source}: weights that are not floating point of 16 bits or more: {which}",
            hint="quantised? load the original",
        )
    dtype = reduce(torch.promote_types, dtypes)
    if len(dtypes) == 1:
        return dtype, ()
    counts = ", ".join(f"{len(names)} {dtype_name(each)}" for each, names in dtypes.items())
    return dtype, (f"mixed dtypes ({counts}) loaded as {dtype_name(dtype)}, which holds them all",)


def check_zeros(matching: Matching, container: Container, source: str) -> None:
    """Refuses a tensor that GPT-2 does not have, unless it is zero and so has no effect.

    Raises:
        MappingError: it is not zero.
    """
    for name in (name for link in matching.links if link.canonical is None for name in link.theirs):
        tensor = container.tensors[name].read()
        if tensor.any():
            raise MappingError(
                f"{source}: GPT-2 has nothing like {name}, and it is not zero (up to {float(tensor.abs().max()):.3g})",
                hint=PROCESSED if matching.layout.name == "transformer_lens" else "",
            )


def check_tied_head(matching: Matching, config: GPTConfig, container: Container, source: str) -> None:
    """Refuses a stored head that differs from the embedding although the configuration ties the two.

    Raises:
        MappingError: they differ.
    """
    if not config.tie_word_embeddings:
        return
    for name, head, embedding in stored_head(matching, config, container):
        if not same(head, embedding):
            for which, tensor in (("wte.weight", embedding), (name, head)):
                check_values(source, which, tensor, tensor.dtype)  # NaN equals nothing
            gap = float((head.double() - embedding.double()).abs().max())
            raise MappingError(
                f"{source}: tie_word_embeddings is true, but {name} differs from the token embedding (by up to "
                f"{gap:.3g})",
                hint="to use the stored head, set tie_word_embeddings to false (transformers 5 does so silently, "
                "transformers 4 drops the head)",
                options={"overrides": {"tie_word_embeddings": False}},
            )


def check_values(source: str, name: str, tensor: Tensor, dtype: torch.dtype, verb: str = "load") -> None:
    """Refuses values that are not finite, or would not be finite in another dtype.

    Args:
        source: what to call the checkpoint in an error.
        name: of the tensor, for the error.
        tensor: the values.
        dtype: that they are loaded or written as.
        verb: ``"load"`` or ``"write"``, for the hint.

    Raises:
        MappingError: names the tensor and says how many values are wrong.
    """
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    limit = torch.finfo(dtype).max
    if -limit <= low and high <= limit:  # NaN fails every comparison
        return
    bad = int((~torch.isfinite(tensor)).sum())
    if bad == 0:
        raise MappingError(
            f"{source}: {name} has values up to {max(-low, high):.3g}, {dtype_name(dtype)} ends at {limit:.3g}",
            hint=f"{verb} it as float32 or bfloat16",
        )
    raise MappingError(
        f"{source}: {name} has {bad:,} of {tensor.numel():,} values that are NaN or infinite",
        hint="training diverged or the file is damaged: use an earlier checkpoint, or fetch it again",
    )
