"""Copies a checkpoint's weights into the parameters of anybody's module, through a layout."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from gpt2_from_scratch.arrays import module_of, name_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts import EVERY, LayoutChoice, layout_variants
from gpt2_from_scratch.loading.opening import Checkpoint, OpenOptions, Source, open_checkpoint
from gpt2_from_scratch.loading.report import LoadReport, report_of
from gpt2_from_scratch.loading.values import check_values
from gpt2_from_scratch.mapping import Matching, listed, match_module, write_theirs
from gpt2_from_scratch.ranks import is_sharded, local, own_part

if TYPE_CHECKING:
    from gpt2_from_scratch.infer_layout import FoundLayout


def load_into(
    module: nn.Module | Callable[..., Any],
    source: Source | Checkpoint,
    layout: LayoutChoice | None = None,
    **options: Unpack[OpenOptions],
) -> LoadReport:
    """Copies a checkpoint's weights into the parameters of any module, or into the arrays of a function.

    Parameters are written in place, so optimizers, hooks and tied references stay valid; only parameters on the meta
    device are replaced. Everything is checked before the first is written.

    Args:
        module: somebody's GPT-2, with its own names and orientation. Or a function from ids to logits: then its
            parameters are the arrays, numpy's or torch's, in its closure, its defaults, and the globals that it reads.
        source: a file, a directory, a Hub id, or an opened `Checkpoint`.
        layout: of the *module*: a name from `LAYOUTS`, or a `Layout`. None: a built-in layout whose names fit, or else
            what `infer_layout` reads and proves; the report says which.
        **options: how the file is opened; see `OpenOptions`.

    Returns:
        What was written, and by which layout.

    Raises:
        CheckpointError: as `open_checkpoint`; or the module's parameters do not fit; or no layout of it was found; or a
            value is not finite.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> checkpoint = open_checkpoint("tiny")
        >>> bool(load_into(GPTModel(checkpoint.config), checkpoint))
        True
    """
    checkpoint = open_checkpoint(source, **options)
    module = _with_parameters(module)
    found: FoundLayout | None = None
    if layout is None:
        # Imported here, as loading by a known layout does not need it.
        from gpt2_from_scratch.infer_layout import find_layout

        found = find_layout(module, checkpoint.config)
        layout = found.layout
    matching = _matched(module, checkpoint, layout)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tensors = _tensors(parameters, matching, checkpoint)
    _write(module, parameters, tensors)
    tied_names = {name for link in matching.links if link.tied_to for name in link.theirs}
    tied = tuple(sorted(tied_names)) if checkpoint.config.tie_word_embeddings else ()
    loaded = tuple(name for name in tensors if name not in tied)
    dtype = reduce(torch.promote_types, (parameters[name].dtype for name in tensors))
    notes = _module_notes(module, matching, checkpoint)
    return report_of(checkpoint, matching.layout, dtype, loaded, tied, found, notes)


def _with_parameters(model: nn.Module | Callable[..., Any]) -> nn.Module:
    """The module itself, or a module whose parameters are a function's arrays.

    Raises:
        MappingError: the function has no arrays.
    """
    module = module_of(model)
    if module is None:
        name = getattr(model, "__name__", type(model).__name__)
        raise MappingError(
            f"{name} has no arrays to load into: there are none in its closure, its defaults, or the globals it reads",
            hint=f"if it takes them as an argument, make arrays of the right sizes and bind them, as in "
            f"functools.partial({name}, params=params), and give that to load_into",
        )
    return module


def _matched(module: nn.Module, checkpoint: Checkpoint, layout: LayoutChoice) -> Matching:
    """Which of the module's parameters is which of GPT-2's.

    Raises:
        MappingError: they do not fit, all problems at once.
    """
    config = checkpoint.config
    matching = match_module(module, config, layout_variants(layout))
    if not matching:
        raise MappingError(
            f"{name_of(module)} does not fit {checkpoint.located.source} (shapes expected from its "
            f"configuration): {matching}",
            hint=_module_remedy(module, matching, config),
        )
    return matching


def _tensors(parameters: Mapping[str, nn.Parameter], matching: Matching, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Parameter name -> the tensor to write, checked; a view of the file where possible.

    Raises:
        MappingError: two tensors belong into one parameter, or a value does not.
    """
    config = checkpoint.config
    _check_sharing(parameters, matching, config)
    reads = write_theirs(matching.layout, config, checkpoint.read, wanted=parameters.__contains__)
    tensors = {name: _own(read(), parameters[name]) for name, read in reads.items()}
    tensors |= {name: torch.zeros(local(parameters[name]).shape) for name in _zeroed(matching, config)}
    for name, tensor in tensors.items():
        check_values(checkpoint.located.source, name, tensor, parameters[name].dtype)
    return tensors


def _own(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """The part of a tensor that this rank holds of the parameter, copied, so that no other part is kept."""
    return tensor[own_part(parameter)].clone() if is_sharded(parameter) else tensor


def _zeroed(matching: Matching, config: GPTConfig) -> list[str]:
    """Parameters that GPT-2 lacks, and without which the module computes GPT-2: they have to be zero."""
    return [name for name in matching.ignored if matching.layout.must_be_zero(name, config)]


def _write(module: nn.Module, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Writes into the parameters; one on the meta device is replaced, under all of its names."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}  # one for one, so that tied parameters stay tied
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameter = parameters[name]
            if parameter.is_meta:
                if parameter not in replaced:
                    device = parameter.device_mesh.device_type if is_sharded(parameter) else "cpu"
                    empty = torch.empty_like(parameter, device=device)
                    replaced[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                parameter = replaced[parameter]
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, parameter)
            local(parameter).copy_(tensor)


def _module_notes(module: nn.Module, matching: Matching, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Notes on tensors and buffers that `load_into` did not write, or set to zero."""
    in_file = {link.canonical for link in checkpoint.matching.links}
    absent = [link.canonical for link in matching.zeros if link.canonical and link.canonical in in_file]
    dropped = [name for name in absent if not checkpoint.read(name).any()]
    unset = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    partly = [name for name in absent if name not in dropped]  # what is not zero and may be absent: a key's bias
    partly += [link.canonical for link in matching.links if link.canonical and link.absent]
    notes = (
        (dropped, "all zero, and absent from the module"),
        (partly, "without what the module lacks: zeros, or the key's bias, which changes no logit"),
        (_zeroed(matching, checkpoint.config), "set to zero: GPT-2 has no such parameter"),
        (unset, "still on the meta device: no parameter"),
    )
    return tuple(f"{listed(names)} {what}" for names, what in notes if names)


def _check_sharing(parameters: Mapping[str, nn.Parameter], matching: Matching, config: GPTConfig) -> None:
    """Refuses two tensors for one parameter, of which the second would overwrite the first; a tied head is allowed."""
    owners: dict[int, str] = {}
    tied = {name for link in matching.links if link.tied_to for name in link.theirs}
    for link in matching.links:
        for name in link.theirs:
            other = owners.setdefault(id(parameters[name]), name)
            if other != name and not (config.tie_word_embeddings and (name in tied or other in tied)):
                raise MappingError(
                    f"{other} and {name} are one parameter in the module, but two different tensors in the checkpoint",
                    hint="build the module with a head of its own (untied)" if name in tied or other in tied else "",
                )


def _module_remedy(module: nn.Module, matching: Matching, config: GPTConfig) -> str:
    """The likeliest reason why a module does not fit, found by trying it."""
    if matching.unexpected and all(name.startswith(("_orig_mod.", "module.")) for name in matching.unexpected):
        return "pass the module inside the wrapper: module._orig_mod of torch.compile, module.module of DDP"
    if (fitting := match_module(module, config, EVERY)) and fitting.layout.name != matching.layout.name:
        return f"the layout {fitting.layout.name!r} fits this module"
    if matching.unmapped:
        return "complete the layout: each of GPT-2's tensors needs a row"
    if matching.problems > len(matching.links):
        return "no built-in layout fits this module: describe its names with a Layout of your own"
    return "build the module with the checkpoint's sizes, or correct the layout"
