"""A checkpoint + a layout + a module -> a loaded module and a `LoadReport`. Saving is the same table read backwards.

The one idea: everything is decided before anything is written. Opening a checkpoint settles its configuration, its
layout and the fate of every tensor; only then are parameters touched, so a failure leaves a module as it was.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from gpt2_from_scratch.checkpoint import Container, Located, StoredTensor, locate, open_container, safetensors
from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError
from gpt2_from_scratch.layers import EXACT, Compute
from gpt2_from_scratch.layouts import DETECTABLE, LAYOUTS
from gpt2_from_scratch.mapping import (
    Accounting,
    Layout,
    best_fit,
    collapse,
    read_canonical,
    write_theirs,
)

if TYPE_CHECKING:
    from gpt2_from_scratch.model import GPTModel

Source: TypeAlias = str | os.PathLike[str]
LayoutChoice: TypeAlias = str | Layout | Sequence[Layout]
Model = TypeVar("Model", bound="GPTModel")

TINY = Path(__file__).parent / "tiny"  # the trained model inside the package: the default checkpoint of every command

# What wrappers put before every name of a state dict: DistributedDataParallel, torch.compile, and a model in an
# attribute.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "module._orig_mod.", "_orig_mod.module.")
# Parts of names that say what a file is when it is not a plain GPT-2.
_STRANGERS = {
    "lora_": "LoRA adapters: merge them into the base model first",
    "crossattention": "cross-attention: the decoder of an encoder-decoder model, not a GPT-2 language model",
    "qweight": "GPTQ-quantised weights: load the unquantised checkpoint",
    "SCB": "bitsandbytes-quantised weights: load the unquantised checkpoint",
    "rotary": "rotary positions: not the GPT-2 architecture",
    "gamma": "LayerNorm gains named gamma/beta, as TensorFlow does: rename them to weight/bias",
}


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
            parts.append(f"{', '.join(collapse(self.tied))} tied")
        if self.zeros:
            parts.append(f"{', '.join(collapse(self.zeros))} absent, so zero")
        for why in dict.fromkeys(self.ignored.values()):
            count = sum(reason == why for reason in self.ignored.values())
            parts.append(f"{count} ignored ({why})")
        return "; ".join([*parts, *self.notes])


def open_checkpoint(
    source: Source,
    *,
    layout: LayoutChoice | None = None,
    config: GPTConfig | None = None,
    strip_prefix: str = "",
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
        strip_prefix: removed from every name, such as ``"_orig_mod."``.
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
    as_found = layout is None and config is None and not strip_prefix
    located = locate(source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    container = open_container(located.weights, mmap)
    if not container.tensors:
        raise CheckpointError(f"{located.weights} holds no tensor")
    if strip_prefix:
        container = _without_prefix(container, strip_prefix, located)
    config = config or _config_of(located, container)
    if config.n_layer > len(container.tensors) and container.layout is None:  # before anything is unrolled
        raise ConfigError(
            f"{located.source}: the configuration says {config.n_layer:,} layers, the file has "
            f"{len(container.tensors):,} tensors in all",
            hint="the config.json belongs to another model",
        )
    choice = layout if layout is not None else container.layout
    accounting = best_fit(layout_variants(choice) if choice is not None else DETECTABLE, config, container.shapes)
    if not accounting:
        raise MappingError(f"{located.source}: {accounting}", hint=_remedy(accounting, container, config))
    dtype, notes = _floating_dtype(accounting, container)
    tensors = read_canonical(accounting, config, lambda name: container.tensors[name].read())
    checkpoint = Checkpoint(located, container, config, accounting, tensors, dtype, (*container.notes, *notes), as_found)
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
    in-place changes never reach the file.

    Args:
        cls: the model class.
        source: a file, a directory, or a Hub id; the default is the small trained model inside the package.
        dtype: of the parameters; None keeps the file's.
        device: where they go.
        compute: how layers are computed; see `layers.Compute`.
        **options: of `open_checkpoint`: layout, config, strip_prefix, mmap, revision, token, cache_dir,
        local_files_only.

    Returns:
        The model; ``model.load_report`` says what became of every tensor.

    Raises:
        CheckpointError: nothing was loaded; the message lists everything that is wrong.
    """
    checkpoint = open_checkpoint(source, **options)
    target = dtype or checkpoint.dtype
    parameters = {}
    for name, read in checkpoint.tensors.items():
        stored = read()
        tensor = stored.to(device=device, dtype=target).contiguous()
        if tensor.data_ptr() != stored.data_ptr() or not options.get("mmap", True):
            _check_finite(name, stored, checkpoint)  # its values were read anyway
        parameters[name] = nn.Parameter(tensor)
    model = cls(checkpoint.config, compute, device="meta")
    for name, parameter in parameters.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, parameter)
    if checkpoint.config.tie_word_embeddings:
        model.lm_head.weight = model.wte.weight
    model.load_report = _report(checkpoint, checkpoint.layout, target, tuple(parameters))
    return model.eval()


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
            f"{type(module).__name__} does not fit {checkpoint.located.source} (shapes expected from its configuration): "
            f"{accounting}",
            hint=_module_remedy(accounting),
        )
    _check_sharing(parameters, accounting, config)
    reads = write_theirs(accounting.layout, config, checkpoint.read, wanted=parameters.__contains__)
    tensors = {name: read() for name, read in reads.items()}  # views where possible; nothing written yet
    for name, tensor in tensors.items():
        _check_finite(name, tensor, checkpoint)
    with torch.no_grad():
        for name, tensor in tensors.items():
            _assign(module, name, parameters[name], tensor)
    tied_names = {name for link in accounting.links if link.tied_to for name in link.theirs}
    tied = tuple(sorted(tied_names)) if config.tie_word_embeddings else ()
    loaded = tuple(name for name in tensors if name not in tied)
    dtype = reduce(torch.promote_types, (parameters[name].dtype for name in tensors))
    return _report(checkpoint, accounting.layout, dtype, loaded, tied)


def _assign(module: nn.Module, name: str, parameter: nn.Parameter, tensor: Tensor) -> None:
    if not parameter.is_meta:
        parameter.copy_(tensor)
        return
    owner, _, attribute = name.rpartition(".")
    fresh = tensor.to(parameter.dtype).clone(memory_format=torch.contiguous_format)
    setattr(module.get_submodule(owner), attribute, nn.Parameter(fresh, requires_grad=parameter.requires_grad))


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
    own = dict(model.named_parameters(remove_duplicate=False))
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
        folder.mkdir(parents=True, exist_ok=True)
        written = _write_shards(folder, tensors, parse_size(max_shard_size))
        with replacing(folder / "config.json") as file:
            content = {**config.to_hf(), "dtype": dtype_name(target)}
            content.pop("torch_dtype", None)  # the older name of the same field
            file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        for stale in folder.glob("model*.safetensors*"):
            if stale.name not in written and safetensors.is_shard_or_index(stale.name):
                stale.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from None
    return LoadReport(
        source=str(folder),
        form="safetensors" if len(written) == 1 else f"safetensors, {len(written) - 1} shards",
        layout=prefixed.name,
        dtype=target,
        parameters=config.num_parameters,
        loaded=tuple(tensors),
        tied=("lm_head.weight",) if config.tie_word_embeddings else (),
    )


def _write_shards(folder: Path, tensors: Mapping[str, StoredTensor], limit: int) -> set[str]:
    """Writes one file, or shards and then their index; returns the names of the files written."""
    shards = safetensors.split(tensors, limit)
    if len(shards) == 1:
        safetensors.write(folder / "model.safetensors", tensors)
        return {"model.safetensors"}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        shard = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(folder / shard, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, shard)
    sizes = {name: tensor.dtype.itemsize * torch.Size(tensor.shape).numel() for name, tensor in tensors.items()}
    metadata = {
        "total_parameters": sum(torch.Size(tensor.shape).numel() for tensor in tensors.values()),
        "total_size": sum(sizes.values()),
    }
    with replacing(folder / safetensors.INDEX) as file:
        index = {"metadata": metadata, "weight_map": weight_map}
        file.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
    return {safetensors.INDEX, *weight_map.values()}


def parse_size(size: int | str) -> int:
    """Bytes of ``"5GB"``, ``"200 MB"``, ``"10KB"`` (decimal units, as in transformers) or of a plain number.

    Example:
        >>> parse_size("10KB")
        10000
    """
    if isinstance(size, int):
        value = size
    else:
        text = size.strip().upper().removesuffix("B")
        unit = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}.get(text[-1:], 1)
        try:
            value = int(float(text.rstrip("KMGT")) * unit)
        except ValueError:
            raise ValueError(f"{size!r} is not a size; write a number of bytes, or 500MB, 5GB") from None
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


def _config_of(located: Located, container: Container) -> GPTConfig:
    if located.config is not None:
        return GPTConfig.from_file(located.config)
    if container.config is not None:
        return GPTConfig.from_hf(container.config, where=located.source)
    raise ConfigError(
        f"{located.source}: no config.json beside {located.weights.name}, and the number of heads, the activation and the "
        "epsilon cannot be read from weights",
        hint="put the model's config.json there, or pass config=GPTConfig(...) (GPTConfig.for_size('124M'))",
    )


def _without_prefix(container: Container, prefix: str, located: Located) -> Container:
    strange = [name for name in container.tensors if not name.startswith(prefix)]
    if strange:
        raise MappingError(
            f"{located.source}: {len(strange)} of {len(container.tensors)} names do not start with {prefix!r}: "
            + ", ".join(collapse(strange)[:4])
        )
    return container.renamed({name: name.removeprefix(prefix) for name in container.tensors})


def _floating_dtype(accounting: Accounting, container: Container) -> tuple[torch.dtype, tuple[str, ...]]:
    dtypes: dict[torch.dtype, list[str]] = {}
    for link in accounting.links:
        for name in link.theirs:
            dtypes.setdefault(container.tensors[name].dtype, []).append(name)
    wrong = {dtype: names for dtype, names in dtypes.items() if not dtype.is_floating_point}
    if wrong:
        listed = "; ".join(f"{', '.join(collapse(names))} {dtype_name(dtype)}" for dtype, names in wrong.items())
        raise MappingError(f"weights that are not floating point: {listed}", hint="quantised? load the original")
    dtype = reduce(torch.promote_types, dtypes)
    if len(dtypes) == 1:
        return dtype, ()
    counts = ", ".join(f"{len(names)} {dtype_name(each)}" for each, names in dtypes.items())
    return dtype, (f"mixed dtypes ({counts}) loaded as {dtype_name(dtype)}, which holds them all",)


def _check_tied_head(checkpoint: Checkpoint) -> None:
    """A head stored although the configuration ties it must repeat the embedding."""
    if not checkpoint.config.tie_word_embeddings:
        return
    for link in checkpoint.accounting.links:
        if link.tied_to is None:
            continue
        (head,) = link.to_canonical(
            tuple(checkpoint.container.tensors[name].read() for name in link.theirs), checkpoint.config
        )
        embedding = checkpoint.read(link.tied_to)
        same_bytes = head.data_ptr() == embedding.data_ptr()
        if not same_bytes and not torch.equal(head, embedding):
            gap = float((head.double() - embedding.double()).abs().max())
            raise MappingError(
                f"{checkpoint.located.source}: tie_word_embeddings is true, but {link.theirs[0]} differs from the token "
                f"embedding (by up to {gap:.3g})",
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


def _check_finite(name: str, tensor: Tensor, checkpoint: Checkpoint) -> None:
    if tensor.numel() == 0 or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor)):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise MappingError(
        f"{checkpoint.located.source}: {name} has {bad:,} of {tensor.numel():,} values that are NaN or infinite",
        hint="training diverged or the file is damaged: use an earlier checkpoint, or fetch it again",
    )


def _report(
    checkpoint: Checkpoint,
    layout: Layout,
    dtype: torch.dtype,
    loaded: tuple[str, ...],
    tied: tuple[str, ...] | None = None,
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
        notes=checkpoint.notes,
    )


# -------------------------------------------------------------------------------------------------------- remedies


def _remedy(accounting: Accounting, container: Container, config: GPTConfig) -> str:
    """The likeliest reason why a file does not fit, found by trying it."""
    shapes = container.shapes
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in shapes):
            stripped = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
            if best_fit(DETECTABLE, config, stripped):
                return f"every name carries the wrapper's prefix {prefix!r}: pass strip_prefix={prefix!r}"
    for part, meaning in _STRANGERS.items():
        if any(part in name for name in accounting.unexpected):
            return meaning
    if (other := best_fit(DETECTABLE, config, shapes)) and other.layout.name != accounting.layout.name:
        return f"the layout {other.layout.name!r} accounts for every tensor: pass layout={other.layout.name!r}"
    for tied in (True, False):
        if best_fit(DETECTABLE, config.replace(tie_word_embeddings=tied), shapes):
            return f"it fits with tie_word_embeddings {str(tied).lower()}: correct the configuration"
    layers = _layers_in(accounting, shapes, config)
    if layers is not None and layers != config.n_layer:
        return f"the file has {layers} layers, the configuration says {config.n_layer}"
    if accounting.misshapen:
        return "the configuration belongs to another model, or the tensors were written with another orientation"
    if accounting.missing and not accounting.unexpected:
        return "the file is incomplete: fetch it again, or all of its shards"
    return "`gpt2 inspect` lists what the file holds"


def _layers_in(accounting: Accounting, shapes: Iterable[str], config: GPTConfig) -> int | None:
    """How many layers the file has, by the names that this layout gives to the first LayerNorm of a layer."""
    names = set(shapes)
    many = config.replace(n_layer=len(names))
    first = [link.theirs[0] for link in accounting.layout.unroll(many) if link.canonical[0].endswith(".ln_1.weight")]
    return sum(name in names for name in first) or None


def _module_remedy(accounting: Accounting) -> str:
    if accounting.problems > len(accounting.links):
        return "is this the right layout? " + ", ".join(LAYOUTS)
    return "build the module with the checkpoint's sizes, or correct the layout"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
