"""A checkpoint + a layout + a module -> a loaded module and a `LoadReport`. Saving is the same table read backwards.

The one idea: everything is decided before anything is written. Opening a checkpoint settles its configuration, its
layout and the fate of every tensor; only then are parameters touched, so a failure leaves a module as it was.
"""

import gc
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from gpt2_from_scratch.checkpoint import Container, Located, StoredTensor, locate, open_container, safetensors
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.describe import describe, same, stored_head, strange
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError
from gpt2_from_scratch.layers import EXACT, Compute
from gpt2_from_scratch.layouts import DETECTABLE, LAYOUTS
from gpt2_from_scratch.mapping import (
    Accounting,
    Layout,
    account,
    best_fit,
    depth,
    listed,
    read_canonical,
    write_theirs,
)

if TYPE_CHECKING:
    from gpt2_from_scratch.model import GPTModel

Source: TypeAlias = str | os.PathLike[str]
LayoutChoice: TypeAlias = str | Layout | Sequence[Layout]
Model = TypeVar("Model", bound="GPTModel")

TINY = Path(__file__).parent / "tiny"  # the trained model inside the package: the default checkpoint of every command


# ---------------------------------------------------------------------------------------------------- a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: configuration known, every tensor accounted for, no weight read yet.

    Args:
        located: where its files are.
        container: its tensors, as stored.
        config: of the model.
        accounting: what each stored tensor is.
        tensors: canonical name -> a function that reads it, ``[in, out]``; without ``lm_head.weight`` when tied.
        dtype: floating dtype of the weights; of several, one that holds them all.
        notes: remarks for people.
        as_found: whether the files say it all: no layout, configuration or prefix was given from outside.
    """

    located: Located
    container: Container
    config: GPTConfig
    accounting: Accounting
    tensors: Mapping[str, Callable[[], Tensor]]
    dtype: torch.dtype
    notes: tuple[str, ...] = ()
    as_found: bool = True

    @property
    def layout(self) -> Layout:
        """The layout its names were read by."""
        return self.accounting.layout

    def read(self, name: str) -> Tensor:
        """One canonical tensor, in the file's dtype; a view of the mapped file where the layout allows."""
        return self.tensors[name]()


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor. Truthy; ``str()`` is one line.

    Args:
        source: the checkpoint, as asked for.
        form: kind of container.
        layout: of the file's names; after `load_into`, of the module's.
        dtype: of the loaded parameters.
        parameters: number of distinct parameters.
        loaded: names of the module's parameters that were written.
        tied: names that repeat another parameter.
        zeros: parameters that the file lacks because they are zero (``bias=False``).
        ignored: the file's tensors that are no parameters -> why.
        notes: remarks.
    """

    source: str
    form: str
    layout: str
    dtype: torch.dtype
    parameters: int
    loaded: tuple[str, ...]
    tied: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors, {self.parameters:,} parameters, {dtype_name(self.dtype)}"]
        parts.append(f"{self.form}, layout {self.layout}")
        if self.tied:
            parts.append(f"{listed(self.tied)} tied")
        if self.zeros:
            parts.append(f"{listed(self.zeros)} absent, so zero")
        for why in dict.fromkeys(self.ignored.values()):
            count = sum(reason == why for reason in self.ignored.values())
            parts.append(f"{count} ignored ({why})")
        return "; ".join([*parts, *self.notes])


def open_checkpoint(
    source: Source,
    *,
    layout: LayoutChoice | None = None,
    config: GPTConfig | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    strip_prefix: str = "",
    ignore: Sequence[str] = (),
    mmap: bool = True,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Opens a checkpoint and accounts for every tensor in it, without reading one.

    Args:
        source: a file, a directory, or a Hub id such as ``openai-community/gpt2``.
        layout: of the file: a name from `LAYOUTS`, or a `Layout`; None finds the one that accounts for every tensor.
        config: used instead of the checkpoint's own.
        overrides: fields of config.json that replace what the checkpoint says, or complete it:
            ``{"n_head": 6, "activation_function": "gelu_new"}``.
        strip_prefix: removed from every name, such as ``"_orig_mod."``.
        ignore: tensors to leave out, by their whole names, ``*`` for a number: ``("score.weight",)``.
        mmap: map the files; False reads them, which a file that may change or be cut short needs: touching a mapped
            file that somebody else truncates kills the process (SIGBUS), in any library.
        revision: branch, tag or commit on the Hub.
        token: for private repositories on the Hub.
        cache_dir: instead of the user's Hub cache.
        local_files_only: no network.

    Raises:
        CheckpointError: not found, not weights, damaged, not GPT-2; or tensors missing, unexpected, misshapen.

    Example:
        >>> checkpoint = open_checkpoint(TINY)
        >>> checkpoint.layout.name, checkpoint.config.n_layer
        ('huggingface', 12)
    """
    as_found = layout is None and config is None and not overrides and not strip_prefix
    located = locate(source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    container = open_container(located.weights, mmap)
    if not container.tensors:
        raise CheckpointError(f"{located.weights} holds no tensor", hint="the save that wrote it was given no weights")
    if strip_prefix:
        container = _without_prefix(container, strip_prefix, located)
    container, left_out = _without(container, ignore, located)
    choice = layout if layout is not None else container.layout
    layouts = layout_variants(choice) if choice is not None else DETECTABLE
    assumed: tuple[str, ...] = ()
    if config is None:
        config, assumed = describe(located, container, layouts, overrides, layout_given=layout is not None)
    elif overrides:
        config = config.replace(**overrides)
    _check_scale(config, container, located.source)  # before anything is unrolled
    accounting = best_fit(layouts, config, container.shapes)
    if not accounting:
        raise MappingError(f"{located.source}: {accounting}", hint=_remedy(accounting, container, config))
    dtype, notes = _floating_dtype(accounting, container, located.source)
    tensors = read_canonical(accounting, config, lambda name: container.tensors[name].read())
    notes = (*container.notes, *assumed, *notes)
    accounting = replace(accounting, ignored={**accounting.ignored, **left_out})
    checkpoint = Checkpoint(located, container, config, accounting, tensors, dtype, notes, as_found)
    _check_zeros(checkpoint)
    _check_tied_head(checkpoint)
    return checkpoint


# --------------------------------------------------------------------------------------------------------- loading


def from_pretrained(
    cls: type[Model],
    source: Source = TINY,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    compute: Compute = EXACT,
    **options: Any,
) -> Model:
    """Loads a checkpoint into a new model, in eval mode.

    On the CPU, and without a change of dtype, the parameters *are* the memory-mapped file: nothing is copied, loading
    takes milliseconds whatever the size, and pages are read when first used. The mapping is private: training or
    in-place changes never reach the file. Values are checked (finite, and within the dtype) where they are read anyway;
    mapped ones are not.

    Args:
        cls: the model class.
        source: a file, a directory, or a Hub id; the default is the small trained model inside the package.
        dtype: of the parameters; None keeps the file's.
        device: where they go.
        compute: how layers are computed; see `layers.Compute`.
        **options: of `open_checkpoint`: layout, config, overrides, strip_prefix, ignore, mmap, revision, token,
            cache_dir, local_files_only.

    Returns:
        The model; ``model.load_report`` says what became of every tensor.

    Raises:
        CheckpointError: nothing was loaded; the message lists everything that is wrong.
    """
    with _collector_paused():
        return _from_pretrained(cls, source, dtype, device, compute, options)


def _from_pretrained(
    cls: type[Model],
    source: Source,
    dtype: torch.dtype | None,
    device: torch.device | str,
    compute: Compute,
    options: Mapping[str, Any],
) -> Model:
    checkpoint = open_checkpoint(source, **options)
    located = checkpoint.located
    target = dtype or checkpoint.dtype
    parameters = {}
    for name, read in checkpoint.tensors.items():
        stored = read()
        tensor = stored.to(device=device, dtype=target).contiguous()
        if tensor.data_ptr() != stored.data_ptr() or not options.get("mmap", True):
            check_values(located.source, name, stored, target)  # they were read anyway
        parameters[name] = nn.Parameter(tensor)
    model = cls(checkpoint.config, compute, device="meta")
    for name, parameter in parameters.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, parameter)
    if checkpoint.config.tie_word_embeddings:
        model.lm_head.weight = model.wte.weight
    model.load_report = _report(checkpoint, checkpoint.layout, target, tuple(parameters))
    return model.eval()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A full garbage collection visits every object that importing torch made: 0.1 s, thrice as long as the loading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_into(module: nn.Module, source: Source, layout: LayoutChoice, **options: Any) -> LoadReport:
    """Copies a checkpoint's weights into the parameters of any module that a layout describes.

    Parameters are written in place, so optimizers, hooks and tied references stay valid; only parameters on the meta
    device are replaced. Everything is checked before the first is written.

    Args:
        module: somebody's GPT-2, with its own names and orientation.
        source: a file, a directory, or a Hub id.
        layout: of the *module*: a name from `LAYOUTS`, or a `Layout`.
        **options: of `open_checkpoint`, for the file (``file_layout`` instead of ``layout``).

    Raises:
        CheckpointError: as `open_checkpoint`; or the module's parameters do not fit; or a value is not finite.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> checkpoint = open_checkpoint(TINY)
        >>> bool(load_into(GPTModel(checkpoint.config), TINY, layout="gpt2_from_scratch"))
        True
    """
    checkpoint = open_checkpoint(source, layout=options.pop("file_layout", None), **options)
    config = checkpoint.config
    parameters = dict(module.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    accounting = best_fit(layout_variants(layout), config, shapes)
    if not accounting:
        raise MappingError(
            f"{type(module).__name__} does not fit {checkpoint.located.source} (shapes expected from its "
            f"configuration): {accounting}",
            hint=_module_remedy(accounting),
        )
    _check_sharing(parameters, accounting, config)
    reads = write_theirs(accounting.layout, config, checkpoint.read, wanted=parameters.__contains__)
    tensors = {name: read() for name, read in reads.items()}  # views where possible; nothing written yet
    for name, tensor in tensors.items():
        check_values(checkpoint.located.source, name, tensor, parameters[name].dtype)
    replaced: dict[nn.Parameter, nn.Parameter] = {}  # one for one, so that tied parameters stay tied
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameter = parameters[name]
            if parameter.is_meta:
                if parameter not in replaced:
                    replaced[parameter] = _allocated(parameter)
                parameter = replaced[parameter]
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, parameter)
            parameter.copy_(tensor)
    tied_names = {name for link in accounting.links if link.tied_to for name in link.theirs}
    tied = tuple(sorted(tied_names)) if config.tie_word_embeddings else ()
    loaded = tuple(name for name in tensors if name not in tied)
    dtype = reduce(torch.promote_types, (parameters[name].dtype for name in tensors))
    return _report(checkpoint, accounting.layout, dtype, loaded, tied, _module_notes(module, accounting, checkpoint))


def _allocated(parameter: nn.Parameter) -> nn.Parameter:
    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
    return nn.Parameter(empty, requires_grad=parameter.requires_grad)


def _module_notes(module: nn.Module, accounting: Accounting, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What `load_into` left alone, and why that is right or whose business it is."""
    in_file = {name for link in checkpoint.accounting.links for name in link.canonical}
    dropped = [name for link in accounting.zeros for name in link.canonical if name in in_file]
    unset = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    notes = ((dropped, "all zero, and absent from the module"), (unset, "still on the meta device: no parameter"))
    return tuple(f"{listed(names)} {what}" for names, what in notes if names)


# ---------------------------------------------------------------------------------------------------------- saving


def save_pretrained(
    model: "GPTModel", directory: Source, *, max_shard_size: int | str = "5GB", dtype: torch.dtype | None = None
) -> LoadReport:
    """Writes a directory that transformers loads with identical logits: `config.json` and safetensors.

    Files appear complete or not at all; a tied head is written once; what an earlier save left is removed.

    Args:
        model: the model.
        directory: made if needed.
        max_shard_size: bytes, or text such as ``"500MB"``; above it the weights are split over several files.
        dtype: of the file; None keeps the model's.

    Returns:
        A report of what was written.

    Raises:
        CheckpointError: the directory cannot be written, or the model's tied head is no longer tied.

    Example:
        >>> import tempfile
        >>> from gpt2_from_scratch import GPTModel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = GPTModel.from_pretrained().save_pretrained(folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']
    """
    folder = Path(directory)
    config = model.config
    limit = parse_size(max_shard_size)
    own = dict(model.named_parameters(remove_duplicate=False))
    accounting = account(LAYOUTS["gpt2_from_scratch"][0], config, {name: tuple(p.shape) for name, p in own.items()})
    if not accounting:
        raise MappingError(
            f"the model does not fit its own configuration: {accounting}",
            hint="set model.config to what the model is now; parameters that GPT-2 lacks have no place in the file",
        )
    if config.tie_word_embeddings and own["lm_head.weight"] is not own["wte.weight"]:
        raise MappingError(
            "the configuration ties the head to the embedding, but lm_head.weight is a parameter of its own",
            hint="set model.lm_head.weight = model.wte.weight, or tie_word_embeddings=False in its config",
        )
    target = dtype or reduce(torch.promote_types, (parameter.dtype for parameter in own.values()))
    prefixed = LAYOUTS["huggingface"][0]
    reads = write_theirs(prefixed, config, lambda name: own[name].detach())
    shapes = {
        name: shape for link in prefixed.unroll(config) for name, shape in zip(link.theirs, link.shapes, strict=True)
    }
    tensors = {
        name: StoredTensor(shapes[name], target, lambda read=read: read().to(target))  # type: ignore[misc]
        for name, read in reads.items()
    }
    try:
        shards = write_directory(folder, tensors, config, limit)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from None
    return LoadReport(
        source=str(folder),
        form="safetensors" if shards == 1 else f"safetensors, {shards} shards",
        layout=prefixed.name,
        dtype=target,
        parameters=config.num_parameters,
        loaded=tuple(tensors),
        tied=("lm_head.weight",) if config.tie_word_embeddings else (),
    )


def write_directory(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    config: GPTConfig,
    limit: int,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> int:
    """Writes a Hugging Face directory, complete or not at all, and removes what an earlier save left in it.

    Args:
        folder: made if needed.
        tensors: Hugging Face's name -> tensor.
        config: for `config.json`.
        limit: bytes of weights per file.
        files: what else belongs there, such as the tokenizer's: name -> content.

    Returns:
        In how many files the weights are.
    """
    shards = _shards(tensors, limit)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_all(folder, remove=_stale(folder, shards)) as create:
        for name, names in shards.items():
            safetensors.write_to(create(name), {each: tensors[each] for each in names})
        if len(shards) > 1:
            create(safetensors.INDEX).write(_json(_index(tensors, shards)))
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
        create("config.json").write(config_json(config, dtype))
        for name, content in files.items():
            create(name).write(content)
    return len(shards)


def config_json(config: GPTConfig, dtype: torch.dtype) -> bytes:
    """The content of a `config.json` beside weights of this dtype."""
    content = {**config.to_hf(), "dtype": dtype_name(dtype)}
    content.pop("torch_dtype", None)  # the older name of the same field
    return _json(content)


def _shards(tensors: Mapping[str, StoredTensor], limit: int) -> dict[str, list[str]]:
    """File name -> the tensors in it."""
    parts = safetensors.split(tensors, limit)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{n:05d}-of-{len(parts):05d}.safetensors": names for n, names in enumerate(parts, start=1)}


def _index(tensors: Mapping[str, StoredTensor], shards: Mapping[str, list[str]]) -> dict[str, Any]:
    sizes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    metadata = {
        "total_parameters": sum(sizes.values()),
        "total_size": sum(size * tensors[name].dtype.itemsize for name, size in sizes.items()),
    }
    return {"metadata": metadata, "weight_map": {name: shard for shard, names in shards.items() for name in names}}


def _stale(folder: Path, shards: Iterable[str]) -> list[str]:
    """What an earlier save left: other shards, and always its index, which must never be seen beside new shards."""
    earlier = {path.name for path in folder.iterdir() if safetensors.is_shard_or_index(path.name)}
    return sorted(earlier - set(shards))


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def parse_size(size: int | str) -> int:
    """Bytes of ``"5GB"``, ``"200 MB"``, ``"10KB"`` (decimal units, as in transformers) or of a plain number.

    Example:
        >>> parse_size("10KB")
        10000
    """
    if isinstance(size, int):
        value = size
    else:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)B?", size.strip().upper())
        if match is None:
            raise ValueError(f"{size!r} is not a size; write a number of bytes, or 500MB, 5GB")
        value = int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
    if value <= 0:
        raise ValueError(f"a shard needs a size above 0, not {size!r}")
    return value


# ------------------------------------------------------------------------------------------------- what is decided


def layout_variants(choice: LayoutChoice) -> Sequence[Layout]:
    """The layouts that a name stands for; a `Layout`, or several, stand for themselves."""
    if isinstance(choice, Layout):
        return (choice,)
    if not isinstance(choice, str):
        return choice
    if choice not in LAYOUTS:
        raise MappingError(f"there is no layout {choice!r}", hint="one of: " + ", ".join(LAYOUTS))
    return LAYOUTS[choice]


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


def _floating_dtype(accounting: Accounting, container: Container, source: str) -> tuple[torch.dtype, tuple[str, ...]]:
    dtypes: dict[torch.dtype, list[str]] = {}
    for link in accounting.links:
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
    for name in (name for link in checkpoint.accounting.links if not link.canonical for name in link.theirs):
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
    for name, head, embedding in stored_head(checkpoint.accounting, config, checkpoint.container):
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


def _check_sharing(parameters: Mapping[str, nn.Parameter], accounting: Accounting, config: GPTConfig) -> None:
    """Two names for one parameter are fine for a tied head, and a silent overwrite for anything else."""
    owners: dict[int, str] = {}
    tied = {name for link in accounting.links if link.tied_to for name in link.theirs}
    for link in accounting.links:
        for name in link.theirs:
            other = owners.setdefault(id(parameters[name]), name)
            if other != name and not (config.tie_word_embeddings and (name in tied or other in tied)):
                raise MappingError(
                    f"{other} and {name} are one parameter in the module, but two different tensors in the checkpoint",
                    hint="build the module with a head of its own (untied)" if name in tied or other in tied else "",
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
            hint="load it as float32 or bfloat16",
        )
    raise MappingError(
        f"{source}: {name} has {bad:,} of {tensor.numel():,} values that are NaN or infinite",
        hint="training diverged or the file is damaged: use an earlier checkpoint, or fetch it again",
    )


def _report(
    checkpoint: Checkpoint,
    layout: Layout,
    dtype: torch.dtype,
    loaded: tuple[str, ...],
    tied: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> LoadReport:
    if tied is None:
        tied = ("lm_head.weight",) if checkpoint.config.tie_word_embeddings else ()
    return LoadReport(
        source=checkpoint.located.source,
        form=checkpoint.container.form,
        layout=layout.name,
        dtype=dtype,
        parameters=checkpoint.config.num_parameters,
        loaded=loaded,
        tied=tied,
        zeros=tuple(name for link in checkpoint.accounting.zeros for name in link.canonical),
        ignored=checkpoint.accounting.ignored,
        notes=(*checkpoint.notes, *notes),
    )


# -------------------------------------------------------------------------------------------------------- remedies


def _remedy(accounting: Accounting, container: Container, config: GPTConfig) -> str:
    """The likeliest reason why a file does not fit, found by trying it."""
    shapes = container.shapes
    if hint := strange(shapes, accounting.unexpected, lambda names: bool(best_fit(DETECTABLE, config, names))):
        return hint
    if accounting.layout.name == "transformer_lens" and any(name.endswith("ln1.w") for name in accounting.missing):
        return _PROCESSED
    if (other := best_fit(DETECTABLE, config, shapes)) and other.layout.name != accounting.layout.name:
        return f"the layout {other.layout.name!r} accounts for every tensor: pass layout={other.layout.name!r}"
    for tied in (True, False):
        if best_fit(DETECTABLE, config.replace(tie_word_embeddings=tied), shapes):
            return f"it fits with tie_word_embeddings {str(tied).lower()}: correct the configuration"
    layers = depth(accounting.layout, shapes)
    if layers not in (0, config.n_layer):
        return f"the file has {layers} layers, the configuration says {config.n_layer}"
    if accounting.misshapen:
        return "the configuration belongs to another model, or the tensors were written with another orientation"
    if accounting.missing and not accounting.unexpected:
        return "the file is incomplete: fetch it again, or all of its shards"
    return "`gpt2 inspect` lists what the file holds"


_PROCESSED = "TransformerLens has folded the LayerNorms away: save what from_pretrained_no_processing loads"


def _module_remedy(accounting: Accounting) -> str:
    if accounting.unexpected and all(name.startswith(("_orig_mod.", "module.")) for name in accounting.unexpected):
        return "pass the module inside the wrapper: module._orig_mod of torch.compile, module.module of DDP"
    if accounting.problems > len(accounting.links):
        return "is this the right layout? " + ", ".join(LAYOUTS)
    return "build the module with the checkpoint's sizes, or correct the layout"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
