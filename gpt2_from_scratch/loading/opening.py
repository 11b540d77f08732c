"""Opens a checkpoint: finds its files, settles its configuration and layout, and says what every tensor in it is.

No weight is read here. What comes out is a `Checkpoint`, which the rest of the package is handed.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, TypeAlias, Unpack, cast

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container, HubOptions, Located, locate, open_container
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError
from gpt2_from_scratch.layouts import DETECTABLE, LayoutChoice, fitting_layout, layout_variants
from gpt2_from_scratch.loading.configuration import describe, same, stored_head, strange
from gpt2_from_scratch.mapping import Layout, Matching, best_match, depth, listed, read_canonical

Source: TypeAlias = str | os.PathLike[str]


class OpenOptions(HubOptions, total=False):
    """How a checkpoint is opened. Every function that opens one takes these by name; each may be left out.

    Args:
        file_layout: of the file: a name from `LAYOUTS`, or a `Layout`. By default, the one that fits every
            tensor.
        config: used instead of the checkpoint's own.
        overrides: fields of config.json that replace what the checkpoint says, or complete it:
            ``{"n_head": 6, "activation_function": "gelu_new"}``.
        strip_prefix: removed from every name, such as ``"_orig_mod."``.
        ignore: tensors to leave out, by their whole names, ``*`` for a number: ``("score.weight",)``.
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
    strip_prefix: str
    ignore: Sequence[str]
    mmap: bool


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: configuration known, every tensor matched, no weight read yet.

    Args:
        located: where its files are.
        container: its tensors, as stored.
        config: of the model.
        matching: what each stored tensor is.
        tensors: canonical name -> a function that reads it, ``[in, out]``; without ``lm_head.weight`` when tied.
        dtype: floating dtype of the weights; of several, one that holds them all.
        notes: remarks for people.
        options: what it was opened with.
    """

    located: Located
    container: Container
    config: GPTConfig
    matching: Matching
    tensors: Mapping[str, Callable[[], Tensor]]
    dtype: torch.dtype
    notes: tuple[str, ...] = ()
    options: OpenOptions = field(default_factory=OpenOptions)

    @property
    def as_found(self) -> bool:
        """Whether the files say it all: no layout, configuration or prefix was given from outside."""
        return not any(self.options.get(name) for name in ("file_layout", "config", "overrides", "strip_prefix"))

    @property
    def mapped(self) -> bool:
        """Whether its tensors may be views of the mapped file."""
        return self.options.get("mmap", True)

    @property
    def hub_options(self) -> HubOptions:
        """Where on the Hub its other files are."""
        return _hub_options(self.options)

    @property
    def layout(self) -> Layout:
        """The layout its names were read by."""
        return self.matching.layout

    def read(self, name: str) -> Tensor:
        """One canonical tensor, in the file's dtype; a view of the mapped file where the layout allows."""
        return self.tensors[name]()


def open_checkpoint(source: Source | Checkpoint, **options: Unpack[OpenOptions]) -> Checkpoint:
    """Opens a checkpoint and matches every tensor in it to one of GPT-2's, without reading one.

    Args:
        source: a file, a directory, a Hub id such as ``openai-community/gpt2``, or ``tiny``, the trained model inside
            the package. One that is open already is returned as it is.
        **options: see `OpenOptions`.

    Raises:
        CheckpointError: not found, not weights, damaged, not GPT-2; or tensors missing, unexpected, misshapen.
        TypeError: an option that there is not, or any for a checkpoint that is open already.

    Example:
        >>> checkpoint = open_checkpoint("tiny")
        >>> checkpoint.layout.name, checkpoint.config.n_layer
        ('huggingface', 12)
        >>> open_checkpoint(checkpoint) is checkpoint
        True
    """
    if unknown := options.keys() - OpenOptions.__annotations__.keys():
        raise TypeError(
            f"a checkpoint is not opened with {', '.join(sorted(unknown))}; there are "
            + ", ".join(OpenOptions.__annotations__)
        )
    if isinstance(source, Checkpoint):
        if options:
            raise TypeError(f"the checkpoint is open already: give {', '.join(sorted(options))} to open_checkpoint")
        return source
    return _open(source, options)


def _open(source: Source, options: OpenOptions) -> Checkpoint:
    file_layout, config, overrides = options.get("file_layout"), options.get("config"), options.get("overrides", {})
    strip_prefix, ignore = options.get("strip_prefix", ""), options.get("ignore", ())
    located = locate(source, **_hub_options(options))
    container = open_container(located.weights, options.get("mmap", True))
    if not container.tensors:
        raise CheckpointError(f"{located.weights} holds no tensor", hint="the save that wrote it was given no weights")
    if strip_prefix:
        container = _without_prefix(container, strip_prefix, located)
    container, left_out = _without(container, ignore, located)
    choice = file_layout if file_layout is not None else container.layout
    layouts = layout_variants(choice) if choice is not None else DETECTABLE
    assumed: tuple[str, ...] = ()
    if config is None:
        config, assumed = describe(located, container, layouts, overrides, layout_given=file_layout is not None)
    elif overrides:
        config = config.replace(**overrides)
    _check_scale(config, container, located.source)  # before anything is unrolled
    matching = best_match(layouts, config, container.shapes)
    if not matching:
        raise MappingError(f"{located.source}: {matching}", hint=_remedy(matching, container, config))
    dtype, notes = _floating_dtype(matching, container, located.source)
    tensors = read_canonical(matching, config, lambda name: container.tensors[name].read())
    notes = (*container.notes, *assumed, *notes)
    matching = replace(matching, ignored={**matching.ignored, **left_out})
    checkpoint = Checkpoint(located, container, config, matching, tensors, dtype, notes, options)
    _check_zeros(checkpoint)
    _check_tied_head(checkpoint)
    return checkpoint


def _hub_options(options: OpenOptions) -> HubOptions:
    return cast(HubOptions, {name: value for name, value in options.items() if name in HubOptions.__annotations__})


# A file may lack the biases (nanoGPT's `bias=False`): at width 1, the most they can be, 10 of 16 numbers of a block.
_MOST_PARAMETERS_PER_VALUE = 3


def _check_scale(config: GPTConfig, container: Container, source: str) -> None:
    """A configuration of another order of magnitude than the file would take forever to compare with it."""
    values = sum(math.prod(tensor.shape) for tensor in container.tensors.values())
    too_deep = container.layout is None and config.n_layer > len(container.tensors)
    if too_deep or config.num_parameters > _MOST_PARAMETERS_PER_VALUE * values:
        raise ConfigError(
            f"{source}: the configuration ({config.n_layer:,} layers, width {config.n_embd:,}, inner width "
            f"{config.inner_dim:,}, vocabulary {config.vocab_size:,}, context {config.n_positions:,}) is that of a "
            f"much larger model: the file holds {values:,} values in {len(container.tensors):,} tensors",
            hint="the config.json belongs to another model, or the file is incomplete",
        )


def _without_prefix(container: Container, prefix: str, located: Located) -> Container:
    strange = [name for name in container.tensors if not name.startswith(prefix)]
    if strange:
        raise MappingError(
            f"{located.source}: {len(strange)} of {len(container.tensors)} names do not start with {prefix!r}: "
            + listed(strange)
        )
    return container.renamed({name: name.removeprefix(prefix) for name in container.tensors})


def _without(container: Container, patterns: Sequence[str], located: Located) -> tuple[Container, dict[str, str]]:
    """The container without the tensors that are to be left out, and these, with the reason."""
    left_out: dict[str, str] = {}
    for pattern in patterns:
        whole = re.compile(re.escape(pattern).replace(r"\*", "[0-9]+"))
        matches = [name for name in container.tensors if whole.fullmatch(name)]
        if not matches:
            raise MappingError(f"{located.source} has no tensor {pattern!r} to ignore", hint="whole names are meant")
        left_out |= dict.fromkeys(matches, "left out on request")
    kept = {name: tensor for name, tensor in container.tensors.items() if name not in left_out}
    return replace(container, tensors=kept), left_out


def _floating_dtype(matching: Matching, container: Container, source: str) -> tuple[torch.dtype, tuple[str, ...]]:
    dtypes: dict[torch.dtype, list[str]] = {}
    for link in matching.links:
        for name in link.theirs:
            dtypes.setdefault(container.tensors[name].dtype, []).append(name)
    wrong = {dtype: names for dtype, names in dtypes.items() if not dtype.is_floating_point}
    if wrong:
        which = "; ".join(f"{listed(names)} {dtype_name(dtype)}" for dtype, names in wrong.items())
        raise MappingError(
            f"{source}: weights that are not floating point: {which}", hint="quantised? load the original"
        )
    dtype = reduce(torch.promote_types, dtypes)
    if len(dtypes) == 1:
        return dtype, ()
    counts = ", ".join(f"{len(names)} {dtype_name(each)}" for each, names in dtypes.items())
    return dtype, (f"mixed dtypes ({counts}) loaded as {dtype_name(dtype)}, which holds them all",)


def _check_zeros(checkpoint: Checkpoint) -> None:
    """A parameter that GPT-2 does not have must have no effect."""
    for name in (name for link in checkpoint.matching.links if link.canonical is None for name in link.theirs):
        tensor = checkpoint.container.tensors[name].read()
        if tensor.any():
            raise MappingError(
                f"{checkpoint.located.source}: GPT-2 has nothing like {name}, and it is not zero (up to "
                f"{float(tensor.abs().max()):.3g})",
                hint=_PROCESSED if checkpoint.layout.name == "transformer_lens" else "",
            )


def _check_tied_head(checkpoint: Checkpoint) -> None:
    """A head stored although the configuration ties it must repeat the embedding."""
    source, config = checkpoint.located.source, checkpoint.config
    if not config.tie_word_embeddings:
        return
    for name, head, embedding in stored_head(checkpoint.matching, config, checkpoint.container):
        if not same(head, embedding):
            for which, tensor in (("wte.weight", embedding), (name, head)):
                check_values(source, which, tensor, tensor.dtype)  # NaN equals nothing
            gap = float((head.double() - embedding.double()).abs().max())
            raise MappingError(
                f"{source}: tie_word_embeddings is true, but {name} differs from the token embedding (by up to "
                f"{gap:.3g})",
                hint="to use the stored head, set tie_word_embeddings to false in config.json (transformers 5 does so "
                "silently, transformers 4 drops the head)",
            )


def check_values(source: str, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Every value must be finite, and stay finite in the dtype it is loaded or written as."""
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    limit = torch.finfo(dtype).max
    if -limit <= low and high <= limit:  # NaN fails every comparison
        return
    bad = int((~torch.isfinite(tensor)).sum())
    if bad == 0:
        raise MappingError(
            f"{source}: {name} has values up to {max(-low, high):.3g}, {dtype_name(dtype)} ends at {limit:.3g}",
            hint="use float32 or bfloat16",
        )
    raise MappingError(
        f"{source}: {name} has {bad:,} of {tensor.numel():,} values that are NaN or infinite",
        hint="training diverged or the file is damaged: use an earlier checkpoint, or fetch it again",
    )


def _remedy(matching: Matching, container: Container, config: GPTConfig) -> str:
    """The likeliest reason why a file does not fit, found by trying it."""
    shapes = container.shapes
    if hint := strange(shapes, matching.unexpected, lambda names: bool(best_match(DETECTABLE, config, names))):
        return hint
    if matching.layout.name == "transformer_lens" and any(name.endswith("ln1.w") for name in matching.missing):
        return _PROCESSED
    if (name := fitting_layout(config, shapes)) and name != matching.layout.name:
        return f"the layout {name!r} fits every tensor: pass file_layout={name!r}"
    if matching.unmapped:
        return "complete the layout: each of GPT-2's tensors needs a row"
    for tied in (True, False):
        if best_match(DETECTABLE, config.replace(tie_word_embeddings=tied), shapes):
            return f"it fits with tie_word_embeddings {str(tied).lower()}: correct the configuration"
    layers = depth(matching.layout, shapes)
    if layers not in (0, config.n_layer):
        return f"the file has {layers} layers, the configuration says {config.n_layer}"
    if matching.misshapen:
        return "the configuration belongs to another model, or the tensors were written with another orientation"
    if matching.missing and not matching.unexpected:
        return "the file is incomplete: fetch it again, or all of its shards"
    return "`gpt2 inspect` lists what the file holds"


_PROCESSED = "TransformerLens has folded the LayerNorms away: save what from_pretrained_no_processing loads"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
