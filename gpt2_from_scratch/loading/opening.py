"""Opens a checkpoint: finds its files, works out its configuration and layout, and matches every tensor to GPT-2's.

The result is a `Checkpoint`, which all other functions take. Weights are read only where a decision depends on them: is
a stored head the embedding, is a tensor that GPT-2 lacks zero.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, Unpack, cast

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container, HubOptions, Located, locate, open_container
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError, short_repr
from gpt2_from_scratch.layouts import DETECTABLE, LayoutChoice, layout_variants
from gpt2_from_scratch.loading.configuration import given_config, infer_config
from gpt2_from_scratch.loading.facts import Fact, Origin, fields_from
from gpt2_from_scratch.loading.hints import Misfit, MissingFields, change_that_helps, distance, explanation
from gpt2_from_scratch.loading.renaming import Renaming, match_with_ties, renamings, without, without_prefix
from gpt2_from_scratch.loading.values import check_tied_head, check_zeros, floating_dtype
from gpt2_from_scratch.mapping import Layout, Matching, read_canonical

Source: TypeAlias = str | os.PathLike[str]


class OpenOptions(HubOptions, total=False):
    """How a checkpoint is opened. Every function that opens one takes these by name; each may be left out.

    Args:
        file_layout: of the file: a name from `LAYOUTS`, or a `Layout`. By default, the one that fits every
            tensor.
        config: used instead of the checkpoint's own.
        overrides: fields of config.json that replace what the checkpoint says, or complete it:
            ``{"n_head": 6, "activation_function": "gelu_new"}``.
        key: of a PyTorch file that holds several state dicts: which one, such as ``"ema"``.
        ignore: tensors to leave out, by their whole names: ``("score.weight", "h.*.gate", "metric.**")``, where ``*``
            is a number and ``**`` anything.
        strip_prefix: removed from every name that `ignore` leaves, such as ``"gpt2."``; each must have it. Names of
            wrappers and prefixes that all names share are found without it.
        mmap: map the files, the default. False reads them, which a file that may change or be cut short needs:
            touching a mapped file that somebody else truncates kills the process (SIGBUS), in any library.
        revision: branch, tag or commit on the Hub.
        token: for private repositories on the Hub.
        cache_dir: instead of the user's Hub cache.
        local_files_only: no network.
    """

    file_layout: LayoutChoice | None
    config: GPTConfig | None
    overrides: Mapping[str, Any]
    key: str
    ignore: Sequence[str]
    strip_prefix: str
    mmap: bool


# Options with which a file may be read as another model than it says by itself.
_FROM_OUTSIDE = ("file_layout", "config", "overrides", "strip_prefix", "key")


@dataclass(frozen=True, repr=False, eq=False)
class Checkpoint:
    """An opened checkpoint: its configuration is known, and every tensor is matched to one of GPT-2's.

    Each is equal to itself alone, so what was read for one can be remembered with it.

    Args:
        located: where its files are.
        container: its tensors, as stored.
        config: of the model.
        matching: what each stored tensor is.
        tensors: canonical name -> a function that reads it, ``[in, out]``; without ``lm_head.weight`` when tied.
        dtype: floating dtype of the weights; of several, one that holds them all.
        notes: remarks for people.
        options: what it was opened with.
        facts: field of the configuration -> its value and where it comes from.
        renamed: whether names of wrappers were taken off, or a tied tensor was found under its other name.
    """

    located: Located
    container: Container
    config: GPTConfig
    matching: Matching
    tensors: Mapping[str, Callable[[], Tensor]]
    dtype: torch.dtype
    notes: tuple[str, ...] = ()
    options: OpenOptions = field(default_factory=OpenOptions)
    facts: Mapping[str, Fact] = field(default_factory=dict)
    renamed: bool = False

    def __repr__(self) -> str:
        what = f"{self.located.source}, {self.container.form}, {self.config.num_parameters:,} parameters"
        return short_repr("Checkpoint", what)

    @property
    def as_found(self) -> bool:
        """Whether the files were opened as they are: no option says what they hold, and no name was changed."""
        return not self.renamed and not any(self.options.get(name) for name in _FROM_OUTSIDE)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Fields of the configuration that are assumed, and why: ``n_head 12 (the official 124M's)``."""
        return fields_from(Origin.ASSUMED, self.facts)

    @property
    def set_by_user(self) -> tuple[str, ...]:
        """Fields of the configuration that were given when it was opened: ``n_head 12``."""
        return fields_from(Origin.USER, self.facts)

    @property
    def mapped(self) -> bool:
        """Whether its tensors may be views of the mapped file."""
        return self.options.get("mmap", True)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that say what it is: weights and configuration. Nothing may be written in their place."""
        beside = (self.located.directory / name for name in ("config.json", "generation_config.json", "hparams.json"))
        return (*self.container.files, *(path for path in beside if path.is_file()))

    @property
    def hub_options(self) -> HubOptions:
        """Those of `options` that say where on the Hub its other files are."""
        return hub_options(self.options)

    @property
    def layout(self) -> Layout:
        """The layout its names were read by."""
        return self.matching.layout

    def read(self, name: str) -> Tensor:
        """One canonical tensor, in the file's dtype; a view of the mapped file where the layout allows."""
        return self.tensors[name]()


def open_checkpoint(source: Source | Checkpoint, **options: Unpack[OpenOptions]) -> Checkpoint:
    """Opens a checkpoint and matches every tensor in it to one of GPT-2's.

    No weight is read, except a head that repeats the embedding (with it) and a tensor that must be zero.

    Args:
        source: a file, a directory, a Hub id such as ``openai-community/gpt2``, or ``tiny``, the trained model inside
            the package. One that is open already is returned as it is.
        **options: see `OpenOptions`.

    Returns:
        The checkpoint, for every function that takes one.

    Raises:
        CheckpointError: not found, not weights, damaged, not GPT-2; or tensors missing, unexpected, misshapen.
        TypeError: an unknown option, a `config` that is none, or any option for a checkpoint that is open already.

    Example:
        >>> checkpoint = open_checkpoint("tiny")
        >>> checkpoint.layout.name, checkpoint.config.n_layer
        ('huggingface', 12)
        >>> open_checkpoint(checkpoint) is checkpoint
        True
    """
    if unknown := options.keys() - OpenOptions.__annotations__.keys():
        raise TypeError(
            f"open_checkpoint has no option {', '.join(sorted(unknown))}; it has "
            + ", ".join(OpenOptions.__annotations__)
        )
    if not isinstance(config := options.get("config"), GPTConfig | None):
        raise TypeError(
            f"config is a GPTConfig, not a {type(config).__name__}: GPTConfig.from_file(PATH) reads a config.json, "
            "GPTConfig.from_hf(FIELDS) takes its fields"
        )
    if isinstance(source, Checkpoint):
        if options:
            raise TypeError(f"the checkpoint is open already: give {', '.join(sorted(options))} to open_checkpoint")
        return source
    return _open(source, options)


def open_anew(checkpoint: Checkpoint, mmap: bool) -> Checkpoint:
    """The same files, opened with the same options for one who shares them with nobody.

    Args:
        checkpoint: an opened one.
        mmap: see `OpenOptions`.
    """
    return _open(checkpoint.located.source, {**checkpoint.options, "mmap": mmap})


def _open(source: Source, options: OpenOptions) -> Checkpoint:
    located = locate(source, **hub_options(options))
    container = open_container(located.weights, options.get("mmap", True), key=options.get("key", ""))
    if not container.tensors:
        raise CheckpointError(f"{located.weights} holds no tensor", hint="the save that wrote it was given no weights")
    outcome = _settled(located, container, options)
    if isinstance(outcome, Checkpoint):
        return outcome
    if isinstance(outcome, MissingFields):
        raise ConfigError(outcome.message, outcome.bare_hint, options=outcome.options)
    if not isinstance(outcome, Misfit):
        raise outcome

    def outcome_of(other: Mapping[str, Any]) -> CheckpointError | None:
        found = _settled(located, container, cast(OpenOptions, other))
        return found if isinstance(found, CheckpointError) else None

    found = outcome.container
    named_otherwise = (found.renamed(renaming.names) for renaming in renamings(list(found.tensors)))
    likeliest = min((found, *named_otherwise), key=distance)
    if (change := change_that_helps(likeliest, options, outcome_of)) is not None:
        raise MappingError(outcome.message, change.why, options=change.options)
    raise MappingError(outcome.message, outcome.bare_hint)


def _settled(located: Located, container: Container, options: OpenOptions) -> "Checkpoint | CheckpointError":
    """The checkpoint under these options, if necessary without the names of wrappers; or what is wrong with it."""
    outcome = _attempted(located, container, options)
    if not isinstance(outcome, Misfit):
        return outcome
    for renaming in renamings(list(outcome.container.tensors)):
        again = _attempted(located, container, options, renaming)
        if not isinstance(again, Misfit):
            return again
    return outcome


def _attempted(
    located: Located, container: Container, options: OpenOptions, renaming: Renaming | None = None
) -> "Checkpoint | CheckpointError":
    """The checkpoint, or what is wrong with it: a value, as the next attempt depends on it."""
    try:
        return _checkpoint(located, container, options, renaming)
    except CheckpointError as error:
        return error


def _checkpoint(located: Located, container: Container, options: OpenOptions, renaming: Renaming | None) -> Checkpoint:
    source = located.source
    container, left_out = without(container, options.get("ignore", ()), source)
    if prefix := options.get("strip_prefix"):
        container = without_prefix(container, prefix, source)
    if renaming is not None:
        container = container.renamed(renaming.names)
    file_layout, config, overrides = options.get("file_layout"), options.get("config"), options.get("overrides", {})
    if type(vocabulary := overrides.get("vocab_size")) is int and vocabulary > 0:
        container = container.without_padding(vocabulary)
    choice = file_layout if file_layout is not None else container.layout
    layouts = layout_variants(choice) if choice is not None else DETECTABLE
    if config is not None:
        configuration = given_config(config, overrides)
    else:
        configuration = infer_config(located, container, layouts, overrides, layout_given=file_layout is not None)
    config = configuration.config
    container = container.without_padding(config.vocab_size)
    _check_scale(config, container, source)  # before anything is unrolled
    container, matching, ties = match_with_ties(container, layouts, config)
    if not matching:
        raise Misfit(f"{source}: {matching}", explanation(matching, container, config), container)
    dtype, mixed = floating_dtype(matching, container, source)
    check_zeros(matching, container, source)
    check_tied_head(matching, config, container, source)
    renamed = (renaming.what,) if renaming is not None else ()
    notes = (*container.notes, *configuration.notes, *renamed, *ties, *mixed)
    return Checkpoint(
        located,
        container,
        config,
        replace(matching, ignored={**matching.ignored, **left_out}),
        read_canonical(matching, config, lambda name: container.tensors[name].read()),
        dtype,
        notes,
        options,
        configuration.facts,
        renaming is not None or bool(ties),
    )


def hub_options(options: OpenOptions) -> HubOptions:
    """Those of the options that `HubOptions` has."""
    return cast(HubOptions, {name: value for name, value in options.items() if name in HubOptions.__annotations__})


# A file may lack the biases (nanoGPT's `bias=False`). Their share is largest at width 1: 10 of a block's 16 numbers.
_MOST_PARAMETERS_PER_VALUE = 3


def _check_scale(config: GPTConfig, container: Container, source: str) -> None:
    """Refuses a configuration that is much larger than the file: comparing the two would take very long."""
    values = sum(math.prod(tensor.shape) for tensor in container.tensors.values())
    too_deep = container.layout is None and config.n_layer > len(container.tensors)
    if too_deep or config.num_parameters > _MOST_PARAMETERS_PER_VALUE * values:
        raise ConfigError(
            f"{source}: the configuration ({config.n_layer:,} layers, width {config.n_embd:,}, inner width "
            f"{config.inner_dim:,}, vocabulary {config.vocab_size:,}, context {config.n_positions:,}) is that of a "
            f"much larger model: the file holds {values:,} values in {len(container.tensors):,} tensors",
            hint="the config.json belongs to another model, or the file is incomplete",
        )
