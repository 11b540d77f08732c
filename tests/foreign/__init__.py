"""Right GPT-2s in other people's styles, one file each, and for each style the right answer.

A style's file is written as its author would write it and knows nothing of this project. What a test has to know about
it is a `Style`, in `STYLES`: how to build the model from our configuration in the author's own vocabulary, which of
GPT-2's values each of its parameters holds, and how to call it::

    style = STYLES["head_list"]
    model = style.load(tensors, config)     # tensors: Hugging Face names without prefix, linear weights [in, out]
    logits = style.logits(model, ids)       # ids [B, T] to logits [B, T, V]
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import Ignore, Layout, Row, bare, conv1d, embedding, ignore, linear, norm, tied

HERE = Path(__file__).parent
Tensors = Mapping[str, Tensor]
Arrange = Callable[[Tensors, GPTConfig], dict[str, Tensor]]
Edit = tuple[str, str]  # text of a file and what to put in its place; the text occurs exactly once


@dataclass(frozen=True)
class Style:
    """One way to write GPT-2.

    Args:
        name: of the file in this folder.
        entry: the class or function in it that is the model, as in ``FILE.py:entry``.
        build: takes the file as a Python module and our configuration; returns the author's model, freshly initialised.
            For plain functions it returns a function of the parameters (flat, by name) and the ids.
        arrange: which values the model's parameters hold, by name, given GPT-2's tensors (Hugging Face names without
            prefix; linear weights ``[in, out]``). It only rearranges, so that numbered elements can be sent through it.
        call: how to get logits ``[B, T, V]`` from the model and ids ``[B, T]``.
        layout: the same answer as a `Layout`; for plain functions its names are those of their arrays.
        functions: the file holds plain functions over arrays and no module.
        spare: parameters that no forward pass uses; ``*`` is the layer.
        fixed: the sizes are hard-coded, so the style fits only `tests.perturbed.SIZES` with an inner width of ``4 E``.
    """

    name: str
    entry: str
    build: Callable[[ModuleType, GPTConfig], Any]
    arrange: Arrange
    call: Callable[[Any, Tensor], Any] = lambda model, ids: model(ids)
    layout: Layout | None = None  # every style has one; see `test_foreign_tables`
    functions: bool = False
    spare: tuple[str, ...] = ()
    fixed: bool = False

    @property
    def path(self) -> Path:
        return HERE / f"{self.name}.py"

    def python(self, path: Path | None = None) -> ModuleType:
        """The file as a Python module of its own, so that what one test sets in it no other test sees.

        Args:
            path: an edited copy of the file, instead of the file.
        """
        return import_file(path or self.path)

    def load(self, tensors: Tensors, config: GPTConfig, path: Path | None = None) -> Any:
        """The model with these weights, in their dtype and in eval mode.

        Args:
            tensors: GPT-2's tensors.
            config: sizes; `n_inner` must be None or ``4 E``.
            path: an edited copy of the file, instead of the file.

        Returns:
            An `nn.Module`, or for plain functions a function of the ids.
        """
        model = self.build(self.python(path), config)
        arranged = self.arrange(tensors, config)
        if self.functions:
            arrays = {name: tensor.detach().clone().numpy() for name, tensor in arranged.items()}
            return lambda ids: torch.as_tensor(model(arrays, ids.numpy()))
        unused = [name.replace("*", str(layer)) for name in self.spare for layer in range(config.n_layer)]
        if path is not None:  # a mistake may have lost or added parameters
            owned = dict(model.named_parameters(remove_duplicate=False))
            unused += sorted(set(owned) - set(arranged))
            arranged = {name: value for name, value in arranged.items() if name in owned}
        fill(model, arranged, unused)
        return model.to(tensors["wte.weight"].dtype).eval().requires_grad_(False)

    def logits(self, model: Any, ids: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` of ids ``[B, T]``, however the author returns them."""
        output = self.call(model, ids)
        if isinstance(output, tuple):
            output = output[0]
        if isinstance(output, dict):
            output = output["logits"]
        result: Tensor = getattr(output, "logits", output)
        return result


def fill(module: nn.Module, arranged: Tensors, others: Iterable[str] = ()) -> None:
    """Writes every parameter of the module; those named in `others` are the only ones left as they are."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    assert set(parameters) - set(others) == set(arranged), sorted(set(parameters) ^ set(arranged))
    with torch.no_grad():
        for name, value in arranged.items():
            assert parameters[name].shape == value.shape, (name, parameters[name].shape, value.shape)
            parameters[name].data = value.detach().clone()


_numbers = itertools.count()


def import_file(path: Path) -> ModuleType:
    """Imports a file under a name nobody else uses, whatever its folder, and leaves no compiled copy behind."""
    module = ModuleType(f"{path.stem}_{next(_numbers)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look up the types in their fields
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def with_edits(style: Style, edits: Iterable[Edit]) -> str:
    """The text of the style's file with each edit made; every old text has to occur exactly once in the file."""
    original = source = style.path.read_text()
    for old, new in edits:
        assert original.count(old) == 1, f"{style.name}: {original.count(old)} times in the file: {old!r}"
        assert source.count(old) == 1, f"{style.name}: another edit has changed or repeated {old!r}"
        source = source.replace(old, new)
    return source


def edited(style: Style, edits: Iterable[Edit], folder: Path) -> Path:
    """Writes an edited copy of the style's file into the folder, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{style.name}.py"
    path.write_text(with_edits(style, edits))
    return path


# -- answers -----------------------------------------------------------------------------------------

LINEAR = ("attn.c_attn", "attn.c_proj", "attn.q", "attn.k", "attn.v", "mlp.c_fc", "mlp.c_proj")
Get = Callable[[str], Tensor]  # a canonical tensor by name; in a layer without its prefix "h.3."
Source = str | Callable[..., Tensor]


def everything(tensors: Tensors, config: GPTConfig) -> dict[str, Tensor]:
    """GPT-2's tensors and, beside them, the head's weight and each layer's query, key and value apart."""
    found = dict(tensors)
    found.setdefault("lm_head.weight", tensors["wte.weight"])
    for layer in range(config.n_layer):
        h = f"h.{layer}.attn"
        for letter, weight, bias in zip(
            "qkv", tensors[f"{h}.c_attn.weight"].chunk(3, 1), tensors[f"{h}.c_attn.bias"].chunk(3), strict=True
        ):
            found[f"{h}.{letter}.weight"], found[f"{h}.{letter}.bias"] = weight, bias
    return found


def pairs(table: Mapping[str, Source]) -> Iterable[tuple[str, Source]]:
    """The table's lines, with a line about a module written out as one about its weight and one about its bias."""
    for theirs, source in table.items():
        if isinstance(source, str) and source.rpartition(".")[2] not in ("weight", "bias"):
            yield f"{theirs}.weight", f"{source}.weight"
            yield f"{theirs}.bias", f"{source}.bias"
        else:
            yield theirs, source


def named(table: Mapping[str, Source], out_in: bool = True) -> Arrange:
    """An answer as a table from the author's names to GPT-2's.

    Args:
        table: name of a parameter, or of a module with `weight` and `bias`, to GPT-2's name for it. ``*`` is the layer,
            ``attn.q``, ``attn.k`` and ``attn.v`` are thirds of ``attn.c_attn``. What a name cannot say is a function
            of `Get` and the configuration; where the author's name has ``#``, the head's number, of that number, too.
        out_in: whether linear weights that are named (not computed) are stored ``[out, in]``.
    """

    def arrange(tensors: Tensors, config: GPTConfig) -> dict[str, Tensor]:
        found = everything(tensors, config)

        def value(source: Source, layer: int | None, *more: Any) -> Tensor:
            def get(name: str) -> Tensor:
                return found[name if layer is None else f"h.{layer}.{name}"]

            if not isinstance(source, str):
                return source(get, config, *more)
            tensor = get(source.removeprefix("h.*."))
            turned = out_in and source.removeprefix("h.*.").removesuffix(".weight") in LINEAR
            return tensor.t() if turned else tensor

        arranged = {}
        for theirs, source in pairs(table):
            for layer in range(config.n_layer) if "*" in theirs else (None,):
                name = theirs.replace("*", str(layer))
                if "#" in name:
                    arranged |= {name.replace("#", str(h)): value(source, layer, h) for h in range(config.n_head)}
                else:
                    arranged[name] = value(source, layer)
        return arranged

    return arrange


SITES = ("wte", "wpe", "h.*.ln_1", "h.*.attn.c_attn", "h.*.attn.c_proj", "h.*.ln_2", "h.*.mlp.c_fc", "h.*.mlp.c_proj")


def layout_of(name: str, table: Mapping[str, Source], rows: Iterable[Row | Ignore] = (), out_in: bool = True) -> Layout:
    """The same answer as a `Layout`.

    Args:
        name: of the style.
        table, out_in: as in `named`.
        rows: those that the table's names do not say: computed parameters, and modules that hold several rows' weights.
    """
    theirs = {source: name for name, source in pairs(table) if isinstance(source, str)}
    special = {row.site: row for row in rows if isinstance(row, Row)}
    found: list[Row | Ignore] = []
    for site in (*SITES, "ln_f", "lm_head"):
        if site in special:
            found.append(special.pop(site))
        elif site != "lm_head" or "lm_head.weight" in theirs:
            found.append(_row(site, theirs, out_in))
    assert not special, f"{name}: rows of no known site: {sorted(special)}"
    return Layout(name, (*found, *(row for row in rows if isinstance(row, Ignore))))


def _row(site: str, theirs: Mapping[str, str], out_in: bool) -> Row:
    """A usual row: a module with a weight and a bias, or three modules, or parameters without a module."""
    thirds = [site.replace("c_attn", letter) for letter in "qkv"] if f"{site}.weight" not in theirs else [site]
    names = [(theirs[f"{third}.weight"], theirs.get(f"{third}.bias")) for third in thirds]
    modules = [weight.rpartition(".")[0] for weight, _ in names]
    weight, bias = (end and end.rpartition(".")[2] for end in names[0])
    if not all(modules):
        ((whole_weight, whole_bias),) = names
        return bare(site, whole_weight, whole_bias)
    if site in ("wte", "wpe"):
        return embedding(site, *modules, weight=weight)
    if site == "lm_head":
        return tied(site, *modules, to="wte", weight=weight)
    if "ln_" in site:
        return norm(site, *modules, weight=weight, bias=bias)
    return (linear if out_in else conv1d)(site, *modules, weight=weight, bias=bias)


def heads(tensor: Tensor, config: GPTConfig, axis: int = -1) -> Tensor:
    """An axis of width ``E`` as two, ``[H, E / H]``."""
    return tensor.unflatten(axis, (config.n_head, config.head_dim))


def head(name: str) -> Callable[[Get, GPTConfig, int], Tensor]:
    """One head's part of a query, key or value layer, ``[out, in]``."""

    def part(get: Get, config: GPTConfig, number: int) -> Tensor:
        return heads(get(name), config).select(-2, number).t()

    return part


def joined(name: str, order: str) -> Callable[[Get, GPTConfig], Tensor]:
    """Query, key and value below each other in another order, ``[out, in]``; name is ``weight`` or ``bias``."""

    def value(get: Get, config: GPTConfig) -> Tensor:
        return torch.cat([get(f"attn.{letter}.{name}").t() for letter in order])

    return value


def interleaved(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """The fused layer with query, key and value of one head together, ``[out, in]``."""

    def value(get: Get, config: GPTConfig) -> Tensor:
        fused = get(f"attn.c_attn.{name}").unflatten(-1, (3, config.n_head, config.head_dim))
        return fused.transpose(-3, -2).flatten(-3).t()

    return value


def alternating(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """The fused layer with query, key and value of one feature together, ``[out, in]``."""

    def value(get: Get, config: GPTConfig) -> Tensor:
        fused = get(f"attn.c_attn.{name}").unflatten(-1, (3, config.n_head, config.head_dim))
        return fused.movedim(-3, -1).flatten(-3).t()

    return value


def stacked(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """All layers' tensors of one name along a first axis."""
    return lambda get, config: torch.stack([get(f"h.{layer}.{name}") for layer in range(config.n_layer)])


def by_head(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """A query, key or value layer with the heads first: ``[H, E, D]``, and ``[H, D]`` for a bias."""
    return lambda get, config: get(name).unflatten(-1, (config.n_head, config.head_dim)).movedim(-2, 0)


def split(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """The fused layer with its last axis as ``[3, H, D]``."""
    return lambda get, config: get(name).unflatten(-1, (3, config.n_head, config.head_dim))


def one_more_axis(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """``[1, in, out]``."""
    return lambda get, config: get(name).unsqueeze(0)


def kernel(name: str) -> Callable[[Get, GPTConfig], Tensor]:
    """A linear weight as that of a convolution over one frame: ``[out, in, 1]``."""
    return lambda get, config: get(name).t().unsqueeze(-1)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as dictionaries in dictionaries, and numbered entries as lists."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value

    def listed(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        values = {key: listed(value) for key, value in node.items()}
        return [values[str(i)] for i in range(len(values))] if all(key.isdigit() for key in values) else values

    return {key: listed(value) for key, value in tree.items()}


def two_level(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Names ``module:parameter`` as a dictionary of dictionaries."""
    tree: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        module, _, parameter = name.partition(":")
        tree.setdefault(module, {})[parameter] = value
    return tree


# -- the styles --------------------------------------------------------------------------------------

NANOGPT = {
    "transformer.wte.weight": "wte.weight",
    "transformer.wpe.weight": "wpe.weight",
    **{f"transformer.h.*.{name}": f"h.*.{name}" for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2")},
    **{f"transformer.h.*.{name}": f"h.*.{name}" for name in ("mlp.c_fc", "mlp.c_proj")},
    "transformer.ln_f": "ln_f",
    "lm_head.weight": "lm_head.weight",
}


def _sizes(config: GPTConfig, **names: str) -> dict[str, Any]:
    """The author's words for sizes -> our configuration's values."""
    return {theirs: getattr(config, ours) for theirs, ours in names.items()}


PICO = {
    "wte": "wte.weight",
    "wpe": "wpe.weight",
    **{
        f"blocks.*.{name}.{short}": f"h.*.{name}.{end}"
        for name, weight in (
            ("ln_1", "g"),
            ("attn.c_attn", "w"),
            ("attn.c_proj", "w"),
            ("ln_2", "g"),
            ("mlp.c_fc", "w"),
            ("mlp.c_proj", "w"),
        )
        for short, end in ((weight, "weight"), ("b", "bias"))
    },
    "ln_f.g": "ln_f.weight",
    "ln_f.b": "ln_f.bias",
}
JAX_DICT = Layout(
    "jax_dict",
    (
        bare("wte", "transformer/embed:embeddings"),
        bare("wpe", "transformer:pos_embs"),
        norm("h.*.ln_1", "transformer/h*_ln_1", weight="scale", bias="offset"),
        conv1d(
            "h.*.attn.c_attn",
            *(f"transformer/h*_attn/{name}" for name in ("query", "key", "value")),
            weight="w",
            bias="b",
        ),
        conv1d("h.*.attn.c_proj", "transformer/h*_attn/linear", weight="w", bias="b"),
        norm("h.*.ln_2", "transformer/h*_ln_2", weight="scale", bias="offset"),
        conv1d("h.*.mlp.c_fc", "transformer/h*_mlp/linear", weight="w", bias="b"),
        conv1d("h.*.mlp.c_proj", "transformer/h*_mlp/linear_1", weight="w", bias="b"),
        norm("ln_f", "transformer/ln_f", weight="scale", bias="offset"),
    ),
    separator=":",
)
ARRAY_LIST = Layout(
    "array_list",
    (
        bare("wte", "0"),
        bare("wpe", "1"),
        bare("h.*.ln_1", "{12*layer+2}", "{12*layer+3}"),
        bare("h.*.attn.c_attn", "{12*layer+4}", "{12*layer+5}"),
        bare("h.*.attn.c_proj", "{12*layer+6}", "{12*layer+7}"),
        bare("h.*.ln_2", "{12*layer+8}", "{12*layer+9}"),
        bare("h.*.mlp.c_fc", "{12*layer+10}", "{12*layer+11}"),
        bare("h.*.mlp.c_proj", "{12*layer+12}", "{12*layer+13}"),
        bare("ln_f", "{12*layers+2}", "{12*layers+3}"),
    ),
)
NUMPY_GPT2 = Layout("numpy_gpt2", tuple(row for row in LAYOUTS["gpt2_from_scratch"][0].rows if row.site != "lm_head"))
PARALLEL_HEADS = tuple(row for row in LAYOUTS["transformer_lens"][0].rows if isinstance(row, Row) and row.parameters)
KARPATHY = {name: name for name in ("vocab_size", "n_layer", "n_head", "n_embd")} | {"block_size": "n_positions"}


def _style(
    name: str,
    entry: str,
    build: Callable[[ModuleType, GPTConfig], Any],
    table: Mapping[str, Source],
    *,
    out_in: bool = True,
    rows: Iterable[Row | Ignore] = (),
    table_itself: Layout | None = None,
    also: Arrange | None = None,
    **more: Any,
) -> Style:
    """A style whose answer is a table.

    Args:
        name, entry, build: as in `Style`.
        table, out_in: as in `named`.
        rows: as in `layout_of`.
        table_itself: the `Layout`, where `layout_of` cannot make it.
        also: parameters that the table cannot name.
        **more: other fields of `Style`.
    """
    arrange = named(table, out_in)
    return Style(
        name,
        entry,
        build,
        (lambda tensors, config: arrange(tensors, config) | also(tensors, config)) if also else arrange,
        layout=table_itself or layout_of(name, table, rows, out_in),
        **more,
    )


def _book(python: ModuleType, config: GPTConfig) -> nn.Module:
    sizes = _sizes(
        config,
        vocab_size="vocab_size",
        context_length="n_positions",
        emb_dim="n_embd",
        n_heads="n_head",
        n_layers="n_layer",
    )
    return python.GPTModel(sizes | {"drop_rate": 0.1, "qkv_bias": True})


def _norm_list(tensors: Tensors, config: GPTConfig) -> dict[str, Tensor]:
    """One list for the norms of all layers and the last one, as in `einsum_fused`."""
    norms = [f"h.{layer}.{norm}" for layer in range(config.n_layer) for norm in ("ln_1", "ln_2")] + ["ln_f"]
    return {
        f"norms.{number}.{theirs}": tensors[f"{norm}.{ours}"]
        for number, norm in enumerate(norms)
        for theirs, ours in (("scale", "weight"), ("offset", "bias"))
    }


def _all_norms(get: Get, config: GPTConfig) -> Tensor:
    """``[L, 2, 2, E]``, as in `one_norm_tensor`."""
    norms = [get(f"h.{i}.{norm}.{end}") for i in range(config.n_layer) for norm in ("ln_1", "ln_2") for end in ENDS]
    return torch.stack(norms).unflatten(0, (-1, 2, 2))


ENDS = ("weight", "bias")
PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")  # as they run


def _array_list(tensors: Tensors, config: GPTConfig) -> dict[str, Tensor]:
    """Weight and bias of each part in the order in which they are used; the names are the places in the list."""
    modules = [*(f"h.{layer}.{part}" for layer in range(config.n_layer) for part in PARTS), "ln_f"]
    names = ["wte.weight", "wpe.weight", *(f"{module}.{end}" for module in modules for end in ("weight", "bias"))]
    return {str(place): tensors[name] for place, name in enumerate(names)}


def _numbered_sequence(tensors: Tensors, config: GPTConfig) -> dict[str, Tensor]:
    """Each layer is two places of the sequence, after the two embeddings."""
    arranged = {"0.weight": tensors["wte.weight"], "1.table.weight": tensors["wpe.weight"]}
    for layer in range(config.n_layer):
        for step, number, part in zip((0, 0, 0, 1, 1, 1), (0, 1, 5, 0, 1, 3), PARTS, strict=True):
            for end in ("weight", "bias"):
                arranged[f"{2 + 2 * layer + step}.fn.{number}.{end}"] = tensors[f"h.{layer}.{part}.{end}"].t()
    for end in ("weight", "bias"):
        arranged[f"{2 + 2 * config.n_layer}.{end}"] = tensors[f"ln_f.{end}"]
    return arranged


def _head_list(python: ModuleType, config: GPTConfig) -> nn.Module:
    for name, ours in KARPATHY.items():
        setattr(python, name, getattr(config, ours))
    return python.LanguageModel()


_ALL = (
    _style(
        "book",
        "GPTModel",
        _book,
        {
            "tok_emb.weight": "wte.weight",
            "pos_emb.weight": "wpe.weight",
            "trf_blocks.*.norm1.scale": "h.*.ln_1.weight",
            "trf_blocks.*.norm1.shift": "h.*.ln_1.bias",
            "trf_blocks.*.att.W_query": "h.*.attn.q",
            "trf_blocks.*.att.W_key": "h.*.attn.k",
            "trf_blocks.*.att.W_value": "h.*.attn.v",
            "trf_blocks.*.att.out_proj": "h.*.attn.c_proj",
            "trf_blocks.*.norm2.scale": "h.*.ln_2.weight",
            "trf_blocks.*.norm2.shift": "h.*.ln_2.bias",
            "trf_blocks.*.ff.layers.0": "h.*.mlp.c_fc",
            "trf_blocks.*.ff.layers.2": "h.*.mlp.c_proj",
            "final_norm.scale": "ln_f.weight",
            "final_norm.shift": "ln_f.bias",
            "out_head.weight": "lm_head.weight",
        },
    ),
    _style(
        "book_fused",
        "GPTModel",
        _book,
        {
            "tok_emb.weight": "wte.weight",
            "pos_emb.weight": "wpe.weight",
            "trf_blocks.*.norm1": "h.*.ln_1",
            "trf_blocks.*.att.qkv": "h.*.attn.c_attn",
            "trf_blocks.*.att.proj": "h.*.attn.c_proj",
            "trf_blocks.*.norm2": "h.*.ln_2",
            "trf_blocks.*.ff.layers.0": "h.*.mlp.c_fc",
            "trf_blocks.*.ff.layers.2": "h.*.mlp.c_proj",
            "final_norm": "ln_f",
            "out_head.weight": "lm_head.weight",
        },
    ),
    _style(
        "nanogpt",
        "GPT",
        lambda python, config: python.GPT(
            python.GPTConfig(**_sizes(config, **KARPATHY), gelu="tanh"), all_positions=True
        ),
        NANOGPT,
    ),
    _style("mingpt", "GPT", lambda python, config: python.GPT(python.Config(**_sizes(config, **KARPATHY))), NANOGPT),
    _style(
        "parallel_heads",
        "Transformer",
        lambda python, config: python.Transformer(
            python.Config(
                **_sizes(
                    config,
                    d_vocab="vocab_size",
                    n_ctx="n_positions",
                    n_layers="n_layer",
                    d_model="n_embd",
                    n_heads="n_head",
                    d_head="head_dim",
                    d_mlp="inner_dim",
                )
            )
        ),
        {
            "embed.W_E": "wte.weight",
            "pos_embed.W_pos": "wpe.weight",
            "blocks.*.ln1.w": "h.*.ln_1.weight",
            "blocks.*.ln1.b": "h.*.ln_1.bias",
            **{f"blocks.*.attn.W_{x.upper()}": by_head(f"attn.{x}.weight") for x in "qkv"},
            **{f"blocks.*.attn.b_{x.upper()}": by_head(f"attn.{x}.bias") for x in "qkv"},
            "blocks.*.attn.W_O": lambda get, config: heads(get("attn.c_proj.weight"), config, 0),
            "blocks.*.attn.b_O": "h.*.attn.c_proj.bias",
            "blocks.*.ln2.w": "h.*.ln_2.weight",
            "blocks.*.ln2.b": "h.*.ln_2.bias",
            "blocks.*.mlp.W_in": "h.*.mlp.c_fc.weight",
            "blocks.*.mlp.b_in": "h.*.mlp.c_fc.bias",
            "blocks.*.mlp.W_out": "h.*.mlp.c_proj.weight",
            "blocks.*.mlp.b_out": "h.*.mlp.c_proj.bias",
            "ln_final.w": "ln_f.weight",
            "ln_final.b": "ln_f.bias",
            "unembed.W_U": lambda get, config: get("lm_head.weight").t(),
            "unembed.b_U": lambda get, config: torch.zeros_like(get("lm_head.weight")[:, 0]),
        },
        out_in=False,
        rows=PARALLEL_HEADS,
    ),
    Style(
        "functional",
        "gpt2",
        lambda python, config: (
            lambda arrays, ids: python.gpt2(
                torch.from_numpy(ids), nested({name: torch.from_numpy(a) for name, a in arrays.items()}), config.n_head
            )
        ),
        named(PICO, out_in=False),
        layout=layout_of("functional", PICO, out_in=False),
        functions=True,
    ),
    Style(
        "numpy_gpt2",
        "gpt2",
        lambda python, config: (
            lambda arrays, ids: python.gpt2(arrays, config.n_head, dtype=arrays["wte.weight"].dtype)(ids)
        ),
        lambda tensors, config: dict(tensors),
        layout=NUMPY_GPT2,
        functions=True,
    ),
    _style(
        "head_list",
        "LanguageModel",
        _head_list,
        {
            "token_embedding_table.weight": "wte.weight",
            "position_embedding_table.weight": "wpe.weight",
            "blocks.*.ln1": "h.*.ln_1",
            **{
                f"blocks.*.sa.heads.#.{name}.{end}": head(f"attn.{name[0]}.{end}")
                for name in ("query", "key", "value")
                for end in ("weight", "bias")
            },
            "blocks.*.sa.proj": "h.*.attn.c_proj",
            "blocks.*.ln2": "h.*.ln_2",
            "blocks.*.ffwd.net.0": "h.*.mlp.c_fc",
            "blocks.*.ffwd.net.2": "h.*.mlp.c_proj",
            "ln_f": "ln_f",
            "lm_head.weight": "lm_head.weight",
        },
        rows=(linear("h.*.attn.c_attn", *(f"blocks.*.sa.heads.*.{name}" for name in ("query", "key", "value"))),),
    ),
    _style(
        "annotated",
        "Transformer",
        lambda python, config: python.Transformer(
            config.vocab_size,
            N=config.n_layer,
            d_model=config.n_embd,
            d_ff=config.inner_dim,
            h=config.n_head,
            max_len=config.n_positions,
        ),
        {
            "lut.weight": "wte.weight",
            "pe.weight": "wpe.weight",
            "decoder.layers.*.sublayer.0.norm.a_2": "h.*.ln_1.weight",
            "decoder.layers.*.sublayer.0.norm.b_2": "h.*.ln_1.bias",
            "decoder.layers.*.self_attn.linears.0": "h.*.attn.q",
            "decoder.layers.*.self_attn.linears.1": "h.*.attn.k",
            "decoder.layers.*.self_attn.linears.2": "h.*.attn.v",
            "decoder.layers.*.self_attn.linears.3": "h.*.attn.c_proj",
            "decoder.layers.*.sublayer.1.norm.a_2": "h.*.ln_2.weight",
            "decoder.layers.*.sublayer.1.norm.b_2": "h.*.ln_2.bias",
            "decoder.layers.*.feed_forward.w_1": "h.*.mlp.c_fc",
            "decoder.layers.*.feed_forward.w_2": "h.*.mlp.c_proj",
            "decoder.norm.a_2": "ln_f.weight",
            "decoder.norm.b_2": "ln_f.bias",
            "proj.weight": "lm_head.weight",
        },
    ),
    _style(
        "torch_mha",
        "Decoder",
        lambda python, config: python.Decoder(
            **_sizes(
                config,
                vocab_size="vocab_size",
                max_seq_len="n_positions",
                embed_dim="n_embd",
                num_heads="n_head",
                num_layers="n_layer",
                ff_dim="inner_dim",
            )
        ),
        {
            "embed.weight": "wte.weight",
            "pos.weight": "wpe.weight",
            "layers.*.norm_attn": "h.*.ln_1",
            "layers.*.attn.in_proj_weight": joined("weight", "qkv"),
            "layers.*.attn.in_proj_bias": joined("bias", "qkv"),
            "layers.*.attn.out_proj": "h.*.attn.c_proj",
            "layers.*.norm_ff": "h.*.ln_2",
            "layers.*.ff.0": "h.*.mlp.c_fc",
            "layers.*.ff.2": "h.*.mlp.c_proj",
            "norm": "ln_f",
            "to_logits.weight": "lm_head.weight",
        },
        rows=(bare("h.*.attn.c_attn", "layers.*.attn.in_proj_weight", "layers.*.attn.in_proj_bias", "i o -> o i"),),
    ),
    _style(
        "encoder_layers",
        "CausalTransformer",
        lambda python, config: python.CausalTransformer(
            Namespace(
                **_sizes(
                    config,
                    vocab="vocab_size",
                    seq_len="n_positions",
                    d_model="n_embd",
                    nhead="n_head",
                    num_layers="n_layer",
                    d_ff="inner_dim",
                ),
                dropout=0.1,
            )
        ),
        {
            "word_embeddings.weight": "wte.weight",
            "position_embeddings.weight": "wpe.weight",
            "encoder.layers.*.norm1": "h.*.ln_1",
            "encoder.layers.*.self_attn.in_proj_weight": joined("weight", "qkv"),
            "encoder.layers.*.self_attn.in_proj_bias": joined("bias", "qkv"),
            "encoder.layers.*.self_attn.out_proj": "h.*.attn.c_proj",
            "encoder.layers.*.norm2": "h.*.ln_2",
            "encoder.layers.*.linear1": "h.*.mlp.c_fc",
            "encoder.layers.*.linear2": "h.*.mlp.c_proj",
            "encoder.norm": "ln_f",
        },
        rows=(
            bare(
                "h.*.attn.c_attn",
                "encoder.layers.*.self_attn.in_proj_weight",
                "encoder.layers.*.self_attn.in_proj_bias",
                "i o -> o i",
            ),
        ),
    ),
    _style(
        "sequence_first",
        "TransformerModel",
        lambda python, config: python.TransformerModel(
            config.vocab_size,
            config.n_embd,
            config.n_head,
            config.inner_dim,
            config.n_layer,
            max_len=config.n_positions,
        ),
        {
            "encoder.weight": "wte.weight",
            "pos_encoder.weight": "wpe.weight",
            "layers.*.norm1": "h.*.ln_1",
            "layers.*.self_attn.in_proj": "h.*.attn.c_attn",
            "layers.*.self_attn.out_proj": "h.*.attn.c_proj",
            "layers.*.norm2": "h.*.ln_2",
            "layers.*.linear1": "h.*.mlp.c_fc",
            "layers.*.linear2": "h.*.mlp.c_proj",
            "norm": "ln_f",
            "decoder.weight": "lm_head.weight",
        },
        call=lambda model, ids: model(ids.t()).transpose(0, 1),
    ),
    _style(
        "einsum_fused",
        "Gpt2",
        lambda python, config: python.Gpt2(
            **_sizes(config, vocab="vocab_size", length="n_positions", width="n_embd", heads="n_head", depth="n_layer")
        ),
        {
            "tokens": "wte.weight",
            "positions": "wpe.weight",
            "attns.*.qkv": split("attn.c_attn.weight"),
            "attns.*.qkv_bias": split("attn.c_attn.bias"),
            "attns.*.out": lambda get, config: heads(get("attn.c_proj.weight"), config, 0),
            "attns.*.out_bias": "h.*.attn.c_proj.bias",
            "mlps.*.up": "h.*.mlp.c_fc.weight",
            "mlps.*.up_bias": "h.*.mlp.c_fc.bias",
            "mlps.*.down": "h.*.mlp.c_proj.weight",
            "mlps.*.down_bias": "h.*.mlp.c_proj.bias",
        },
        out_in=False,
        rows=(
            norm("h.*.ln_1", "norms.{2*layer}", weight="scale", bias="offset"),
            bare("h.*.attn.c_attn", "attns.*.qkv", "attns.*.qkv_bias", "e (p h d) -> e p h d", "(p h d) -> p h d"),
            bare("h.*.attn.c_proj", "attns.*.out", "attns.*.out_bias", "(h d) e -> h d e"),
            norm("h.*.ln_2", "norms.{2*layer+1}", weight="scale", bias="offset"),
            bare("h.*.mlp.c_fc", "mlps.*.up", "mlps.*.up_bias"),
            bare("h.*.mlp.c_proj", "mlps.*.down", "mlps.*.down_bias"),
            norm("ln_f", "norms.{2*layers}", weight="scale", bias="offset"),
        ),
        also=_norm_list,
    ),
    _style(
        "scan_stack",
        "Transformer",
        lambda python, config: python.Transformer(
            python.Hyperparameters(
                **_sizes(
                    config,
                    n_vocab="vocab_size",
                    n_ctx="n_positions",
                    n_embd="n_embd",
                    n_head="n_head",
                    n_layer="n_layer",
                )
            )
        ),
        {
            "wte": "wte.weight",
            "wpe": "wpe.weight",
            "blocks.ln1_g": stacked("ln_1.weight"),
            "blocks.ln1_b": stacked("ln_1.bias"),
            "blocks.wqkv": stacked("attn.c_attn.weight"),
            "blocks.bqkv": stacked("attn.c_attn.bias"),
            "blocks.wo": stacked("attn.c_proj.weight"),
            "blocks.bo": stacked("attn.c_proj.bias"),
            "blocks.ln2_g": stacked("ln_2.weight"),
            "blocks.ln2_b": stacked("ln_2.bias"),
            "blocks.w1": stacked("mlp.c_fc.weight"),
            "blocks.b1": stacked("mlp.c_fc.bias"),
            "blocks.w2": stacked("mlp.c_proj.weight"),
            "blocks.b2": stacked("mlp.c_proj.bias"),
            "lnf_g": "ln_f.weight",
            "lnf_b": "ln_f.bias",
        },
        out_in=False,
        rows=(
            bare("h.*.ln_1", "blocks.ln1_g[*]", "blocks.ln1_b[*]"),
            bare("h.*.attn.c_attn", "blocks.wqkv[*]", "blocks.bqkv[*]"),
            bare("h.*.attn.c_proj", "blocks.wo[*]", "blocks.bo[*]"),
            bare("h.*.ln_2", "blocks.ln2_g[*]", "blocks.ln2_b[*]"),
            bare("h.*.mlp.c_fc", "blocks.w1[*]", "blocks.b1[*]"),
            bare("h.*.mlp.c_proj", "blocks.w2[*]", "blocks.b2[*]"),
        ),
    ),
    _style(
        "interleaved",
        "GPTNeoStyleModel",
        lambda python, config: python.GPTNeoStyleModel(
            python.TransformerConfig(
                **_sizes(
                    config,
                    hidden_size="n_embd",
                    num_layers="n_layer",
                    num_attention_heads="n_head",
                    padded_vocab_size="vocab_size",
                    max_position_embeddings="n_positions",
                )
            )
        ),
        {
            "word_embeddings.weight": "wte.weight",
            "position_embeddings.weight": "wpe.weight",
            "layers.*.input_layernorm": "h.*.ln_1",
            "layers.*.self_attention.query_key_value.weight": interleaved("weight"),
            "layers.*.self_attention.query_key_value.bias": interleaved("bias"),
            "layers.*.self_attention.dense": "h.*.attn.c_proj",
            "layers.*.post_attention_layernorm": "h.*.ln_2",
            "layers.*.mlp.dense_h_to_4h": "h.*.mlp.c_fc",
            "layers.*.mlp.dense_4h_to_h": "h.*.mlp.c_proj",
            "final_layernorm": "ln_f",
        },
        rows=(linear("h.*.attn.c_attn", "layers.*.self_attention.query_key_value", out="h p d"),),
    ),
    _style(
        "conv1d_port",
        "GPT2LM",
        lambda python, config: python.GPT2LM(
            _sizes(
                config,
                n_vocab="vocab_size",
                n_ctx="n_positions",
                n_embd="n_embd",
                n_head="n_head",
                n_layer="n_layer",
            )
        ),
        {
            "wte.weight": "wte.weight",
            "wpe.weight": "wpe.weight",
            **{
                f"h.*.{theirs}.{short}": f"h.*.{ours}.{end}"
                for theirs, ours, weight in (
                    ("ln_1", "ln_1", "g"),
                    ("attn.c_attn", "attn.c_attn", "w"),
                    ("attn.c_proj", "attn.c_proj", "w"),
                    ("ln_2", "ln_2", "g"),
                    ("c_fc", "mlp.c_fc", "w"),
                    ("c_proj", "mlp.c_proj", "w"),
                )
                for short, end in ((weight, "weight"), ("b", "bias"))
            },
            "ln_f.g": "ln_f.weight",
            "ln_f.b": "ln_f.bias",
        },
        out_in=False,
    ),
    _style(
        "german",
        "Sprachmodell",
        lambda python, config: python.Sprachmodell(
            wortschatz=config.vocab_size,
            laenge=config.n_positions,
            breite=config.n_embd,
            koepfe=config.n_head,
            schichten=config.n_layer,
        ),
        {
            "woerter.weight": "wte.weight",
            "stellen.weight": "wpe.weight",
            "schichten.*.norm_a.faktor": "h.*.ln_1.weight",
            "schichten.*.norm_a.versatz": "h.*.ln_1.bias",
            "schichten.*.aufmerksamkeit.frage": "h.*.attn.q",
            "schichten.*.aufmerksamkeit.schluessel": "h.*.attn.k",
            "schichten.*.aufmerksamkeit.wert": "h.*.attn.v",
            "schichten.*.aufmerksamkeit.ausgang": "h.*.attn.c_proj",
            "schichten.*.norm_b.faktor": "h.*.ln_2.weight",
            "schichten.*.norm_b.versatz": "h.*.ln_2.bias",
            "schichten.*.netz.hinauf": "h.*.mlp.c_fc",
            "schichten.*.netz.hinab": "h.*.mlp.c_proj",
            "norm_ende.faktor": "ln_f.weight",
            "norm_ende.versatz": "ln_f.bias",
            "kopf.weight": "lm_head.weight",
        },
    ),
    _style(
        "hardcoded",
        "Net",
        lambda python, config: python.Net(),
        {
            "tok.weight": "wte.weight",
            "pos": lambda get, config: get("wpe.weight").unsqueeze(0),
            "layer*.n1": "h.*.ln_1",
            "layer*.kqv.weight": joined("weight", "kqv"),
            "layer*.kqv.bias": joined("bias", "kqv"),
            "layer*.o": "h.*.attn.c_proj",
            "layer*.n2": "h.*.ln_2",
            "layer*.f1": "h.*.mlp.c_fc",
            "layer*.f2": "h.*.mlp.c_proj",
            "norm": "ln_f",
            "head.weight": "lm_head.weight",
        },
        rows=(bare("wpe", "pos", pattern="c e -> 1 c e"), linear("h.*.attn.c_attn", "layer*.kqv", parts=("kqv",))),
        fixed=True,
    ),
    _style(
        "research_decoder",
        "TransformerDecoder",
        lambda python, config: python.TransformerDecoder(
            Namespace(
                decoder_embed_dim=config.n_embd,
                decoder_attention_heads=config.n_head,
                decoder_ffn_embed_dim=config.inner_dim,
                decoder_layers=config.n_layer,
                max_target_positions=config.n_positions,
                attention_dropout=0.1,
            ),
            dictionary=range(config.vocab_size),
        ),
        {
            "embed_tokens.weight": "wte.weight",
            "embed_positions.weight": "wpe.weight",
            "layers.*.self_attn_layer_norm": "h.*.ln_1",
            "layers.*.self_attn.q_proj": "h.*.attn.q",
            "layers.*.self_attn.k_proj": "h.*.attn.k",
            "layers.*.self_attn.v_proj": "h.*.attn.v",
            "layers.*.self_attn.out_proj": "h.*.attn.c_proj",
            "layers.*.final_layer_norm": "h.*.ln_2",
            "layers.*.fc1": "h.*.mlp.c_fc",
            "layers.*.fc2": "h.*.mlp.c_proj",
            "layer_norm": "ln_f",
        },
    ),
    _style(
        "needs_targets",
        "GPTForTraining",
        lambda python, config: python.GPTForTraining(
            {
                "model": {
                    "dim": config.n_embd,
                    "heads": config.n_head,
                    "depth": config.n_layer,
                    "mlp_ratio": config.inner_dim // config.n_embd,
                },
                "data": {"vocab_size": config.vocab_size, "seq_len": config.n_positions},
            }
        ),
        {
            "token_emb.weight": "wte.weight",
            "pos_emb.weight": "wpe.weight",
            "layers.*.norms.before_attention": "h.*.ln_1",
            "layers.*.attention.to_kv.weight": joined("weight", "kv"),
            "layers.*.attention.to_kv.bias": joined("bias", "kv"),
            "layers.*.attention.to_q": "h.*.attn.q",
            "layers.*.attention.to_out": "h.*.attn.c_proj",
            "layers.*.norms.before_mlp": "h.*.ln_2",
            "layers.*.mlp_in": "h.*.mlp.c_fc",
            "layers.*.mlp_out": "h.*.mlp.c_proj",
            "norm_out": "ln_f",
        },
        rows=(linear("h.*.attn.c_attn", "layers.*.attention.to_q", "layers.*.attention.to_kv", parts=("q", "kv")),),
        call=lambda model, ids: model(ids, ids),
    ),
    _style(
        "padded_context",
        "MiniLM",
        lambda python, config: python.MiniLM(
            config.vocab_size,
            config.n_positions,
            d_model=config.n_embd,
            n_heads=config.n_head,
            n_blocks=config.n_layer,
        ),
        {
            "tok.weight": "wte.weight",
            "pos": "wpe.weight",
            "blocks.*.ln_a": "h.*.ln_1",
            "blocks.*.mha.query_key.weight": joined("weight", "qk"),
            "blocks.*.mha.query_key.bias": joined("bias", "qk"),
            "blocks.*.mha.value": "h.*.attn.v",
            "blocks.*.mha.mix": "h.*.attn.c_proj",
            "blocks.*.ln_b": "h.*.ln_2",
            "blocks.*.expand": "h.*.mlp.c_fc",
            "blocks.*.contract": "h.*.mlp.c_proj",
            "ln_out": "ln_f",
            "unembed.weight": "lm_head.weight",
        },
        rows=(
            linear("h.*.attn.c_attn", "blocks.*.mha.query_key", "blocks.*.mha.value", parts=("qk", "v")),
            ignore("blocks.*.mha.rel_bias", why="not used"),
            ignore("pooler.weight", why="not used"),
            ignore("pooler.bias", why="not used"),
        ),
        spare=("blocks.*.mha.rel_bias", "pooler.weight", "pooler.bias"),
    ),
    _style(
        "jax_dict",
        "forward",
        lambda python, config: (
            lambda arrays, ids: python.forward(
                two_level(arrays), ids, num_heads=config.n_head, num_layers=config.n_layer
            )
        ),
        {
            "transformer/embed:embeddings": "wte.weight",
            "transformer:pos_embs": "wpe.weight",
            **{
                f"transformer/h*_{theirs}:{end}": f"h.*.{ours}.{end_of}"
                for theirs, ours in (
                    ("attn/query", "attn.q"),
                    ("attn/key", "attn.k"),
                    ("attn/value", "attn.v"),
                    ("attn/linear", "attn.c_proj"),
                    ("mlp/linear", "mlp.c_fc"),
                    ("mlp/linear_1", "mlp.c_proj"),
                )
                for end, end_of in (("w", "weight"), ("b", "bias"))
            },
            **{
                f"transformer/h*_{norm}:{end}": f"h.*.{norm}.{end_of}"
                for norm in ("ln_1", "ln_2")
                for end, end_of in (("scale", "weight"), ("offset", "bias"))
            },
            "transformer/ln_f:scale": "ln_f.weight",
            "transformer/ln_f:offset": "ln_f.bias",
        },
        out_in=False,
        table_itself=JAX_DICT,
        functions=True,
    ),
    Style(
        "pico",
        "gpt2",
        lambda python, config: (
            lambda arrays, ids: np.stack([python.gpt2(row, **nested(arrays), n_head=config.n_head) for row in ids])
        ),
        named(PICO, out_in=False),
        layout=layout_of("pico", PICO, out_in=False),
        functions=True,
    ),
    Style(
        "array_list",
        "predict_batch",
        lambda python, config: lambda arrays, ids: python.predict_batch(ids, list(arrays.values()), config.n_head),
        _array_list,
        layout=ARRAY_LIST,
        functions=True,
    ),
    _style(
        "variable_store",
        "Model",
        lambda python, config: python.Model(
            SimpleNamespace(
                n_vocab=config.vocab_size,
                n_ctx=config.n_positions,
                n_embd=config.n_embd,
                n_head=config.n_head,
                n_layer=config.n_layer,
            )
        ),
        {
            "variables.model/wte": "wte.weight",
            "variables.model/wpe": "wpe.weight",
            **{
                f"variables.model/h*/{name.replace('.', '/')}/{end}": value
                for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
                for end, value in (("w", one_more_axis(f"{name}.weight")), ("b", f"h.*.{name}.bias"))
            },
            **{
                f"variables.model/h*/{name}/{end}": f"h.*.{name}.{end_of}"
                for name in ("ln_1", "ln_2")
                for end, end_of in (("g", "weight"), ("b", "bias"))
            },
            "variables.model/ln_f/g": "ln_f.weight",
            "variables.model/ln_f/b": "ln_f.bias",
        },
        rows=(
            *(
                bare(
                    f"h.*.{name}",
                    *(f"variables.model/h*/{name.replace('.', '/')}/{end}" for end in ("w", "b")),
                    pattern="i o -> 1 i o",
                )
                for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            ),
            bare("wte", "variables.model/wte"),
            bare("wpe", "variables.model/wpe"),
            bare("h.*.ln_1", "variables.model/h*/ln_1/g", "variables.model/h*/ln_1/b"),
            bare("h.*.ln_2", "variables.model/h*/ln_2/g", "variables.model/h*/ln_2/b"),
            bare("ln_f", "variables.model/ln_f/g", "variables.model/ln_f/b"),
        ),
    ),
    _style(
        "own_layers",
        "TransformerLM",
        lambda python, config: python.TransformerLM(
            config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head, config.inner_dim
        ),
        {
            "token_embeddings.weight": "wte.weight",
            "position_embeddings.weight": "wpe.weight",
            "layers.*.ln1.gamma": "h.*.ln_1.weight",
            "layers.*.ln1.beta": "h.*.ln_1.bias",
            "layers.*.attn.q_proj": "h.*.attn.q",
            "layers.*.attn.k_proj": "h.*.attn.k",
            "layers.*.attn.v_proj": "h.*.attn.v",
            "layers.*.attn.output_proj": "h.*.attn.c_proj",
            "layers.*.ln2.gamma": "h.*.ln_2.weight",
            "layers.*.ln2.beta": "h.*.ln_2.bias",
            "layers.*.w1": "h.*.mlp.c_fc",
            "layers.*.w2": "h.*.mlp.c_proj",
            "ln_final.gamma": "ln_f.weight",
            "ln_final.beta": "ln_f.bias",
        },
    ),
    _style(
        "bert_names",
        "BertishForCausalLM",
        lambda python, config: python.BertishForCausalLM(
            python.BertishConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.n_embd,
                num_hidden_layers=config.n_layer,
                num_attention_heads=config.n_head,
                intermediate_size=config.inner_dim,
                max_position_embeddings=config.n_positions,
            )
        ),
        {
            "word_embeddings.weight": "wte.weight",
            "position_embeddings.weight": "wpe.weight",
            "layer.*.LayerNorm_in": "h.*.ln_1",
            "layer.*.attention.self.query": "h.*.attn.q",
            "layer.*.attention.self.key": "h.*.attn.k",
            "layer.*.attention.self.value": "h.*.attn.v",
            "layer.*.attention.output.dense": "h.*.attn.c_proj",
            "layer.*.LayerNorm_mid": "h.*.ln_2",
            "layer.*.intermediate.dense": "h.*.mlp.c_fc",
            "layer.*.output.dense": "h.*.mlp.c_proj",
            "LayerNorm": "ln_f",
            "decoder.weight": "lm_head.weight",
        },
    ),
    _style(
        "head_sum",
        "CleanTransformer",
        lambda python, config: python.CleanTransformer(
            d_vocab=config.vocab_size,
            d_ctx=config.n_positions,
            d_resid=config.n_embd,
            n_layers=config.n_layer,
            n_heads=config.n_head,
        ),
        {
            "W_embed": "wte.weight",
            "W_position": "wpe.weight",
            "ln_before_attention.*": "h.*.ln_1",
            "attention.*.W_QKV": "h.*.attn.c_attn.weight",
            "attention.*.B_QKV": "h.*.attn.c_attn.bias",
            "attention.*.W_O": "h.*.attn.c_proj.weight",
            "attention.*.B_O": "h.*.attn.c_proj.bias",
            "ln_before_mlp.*": "h.*.ln_2",
            "mlp.*.read": lambda get, config: get("mlp.c_fc.weight").t(),
            "mlp.*.threshold": "h.*.mlp.c_fc.bias",
            "mlp.*.write": "h.*.mlp.c_proj.weight",
            "mlp.*.offset": "h.*.mlp.c_proj.bias",
            "ln_final": "ln_f",
        },
        out_in=False,
        rows=(
            bare("h.*.attn.c_attn", "attention.*.W_QKV", "attention.*.B_QKV"),
            bare("h.*.attn.c_proj", "attention.*.W_O", "attention.*.B_O"),
            bare("h.*.mlp.c_fc", "mlp.*.read", "mlp.*.threshold", "i o -> o i"),
            bare("h.*.mlp.c_proj", "mlp.*.write", "mlp.*.offset"),
        ),
    ),
    _style(
        "token_by_token",
        "RecurrentGPT",
        lambda python, config: python.RecurrentGPT(
            config.vocab_size, config.n_positions, size=config.n_embd, heads=config.n_head, layers=config.n_layer
        ),
        {
            "words.weight": "wte.weight",
            "steps.weight": "wpe.weight",
            "cells.*.ln_in": "h.*.ln_1",
            "cells.*.project_in": "h.*.attn.c_attn",
            "cells.*.project_out": "h.*.attn.c_proj",
            "cells.*.ln_mid": "h.*.ln_2",
            "cells.*.hidden": "h.*.mlp.c_fc",
            "cells.*.visible": "h.*.mlp.c_proj",
            "ln_out": "ln_f",
            "readout.weight": "lm_head.weight",
        },
    ),
    _style(
        "conv1x1",
        "ConvGPT",
        lambda python, config: python.ConvGPT(
            n_vocab=config.vocab_size,
            n_frames=config.n_positions,
            hidden_channels=config.n_embd,
            filter_channels=config.inner_dim,
            n_heads=config.n_head,
            n_layers=config.n_layer,
        ),
        {
            "emb.weight": "wte.weight",
            "emb_pos": lambda get, config: get("wpe.weight").t().unsqueeze(0),
            "norm_layers_1.*.gamma": "h.*.ln_1.weight",
            "norm_layers_1.*.beta": "h.*.ln_1.bias",
            **{
                f"{theirs}.{end}": value
                for theirs, name in (
                    ("attn_layers.*.conv_q", "attn.q"),
                    ("attn_layers.*.conv_k", "attn.k"),
                    ("attn_layers.*.conv_v", "attn.v"),
                    ("attn_layers.*.conv_o", "attn.c_proj"),
                    ("ffn_layers.*.conv_1", "mlp.c_fc"),
                    ("ffn_layers.*.conv_2", "mlp.c_proj"),
                )
                for end, value in (("weight", kernel(f"{name}.weight")), ("bias", f"h.*.{name}.bias"))
            },
            "norm_layers_2.*.gamma": "h.*.ln_2.weight",
            "norm_layers_2.*.beta": "h.*.ln_2.bias",
            "norm_out.gamma": "ln_f.weight",
            "norm_out.beta": "ln_f.bias",
            "proj_out.weight": lambda get, config: get("lm_head.weight").unsqueeze(-1),
        },
        rows=(
            bare("wpe", "emb_pos", pattern="c e -> 1 e c"),
            bare(
                "h.*.attn.c_attn",
                tuple(f"attn_layers.*.conv_{letter}.weight" for letter in "qkv"),
                tuple(f"attn_layers.*.conv_{letter}.bias" for letter in "qkv"),
                "i (p o) -> (p o) i 1",
                "(p o) -> (p o)",
            ),
            *(
                bare(f"h.*.{ours}", f"{theirs}.weight", f"{theirs}.bias", "i o -> o i 1")
                for ours, theirs in (
                    ("attn.c_proj", "attn_layers.*.conv_o"),
                    ("mlp.c_fc", "ffn_layers.*.conv_1"),
                    ("mlp.c_proj", "ffn_layers.*.conv_2"),
                )
            ),
            tied("lm_head", "", to="wte", weight="proj_out.weight", pattern="v e -> v e 1"),
        ),
    ),
    _style(
        "one_hot",
        "MatrixGPT",
        lambda python, config: python.MatrixGPT(
            SimpleNamespace(
                vocabulary=config.vocab_size,
                max_length=config.n_positions,
                embed_size=config.n_embd,
                n_heads=config.n_head,
                n_units=config.n_layer,
            )
        ),
        {
            "word_matrix.weight": lambda get, config: get("wte.weight").t(),
            "place_matrix.weight": lambda get, config: get("wpe.weight").t(),
            "units.*.std1.gain": "h.*.ln_1.weight",
            "units.*.std1.shift": "h.*.ln_1.bias",
            **{f"units.*.mixer.qkv.{number}": f"h.*.attn.{letter}" for number, letter in enumerate("qkv")},
            "units.*.mixer.back": "h.*.attn.c_proj",
            "units.*.std2.gain": "h.*.ln_2.weight",
            "units.*.std2.shift": "h.*.ln_2.bias",
            "units.*.wide": "h.*.mlp.c_fc",
            "units.*.slim": "h.*.mlp.c_proj",
            "std_final.gain": "ln_f.weight",
            "std_final.shift": "ln_f.bias",
        },
        rows=(
            bare("wte", "word_matrix.weight", pattern="v e -> e v"),
            bare("wpe", "place_matrix.weight", pattern="c e -> e c"),
        ),
    ),
    Style(
        "numbered_sequence",
        "gpt",
        lambda python, config: python.gpt(
            config.vocab_size, config.n_positions, config.n_embd, config.n_head, config.n_layer
        ),
        _numbered_sequence,
        layout=Layout(
            "numbered_sequence",
            (
                embedding("wte", "0"),
                embedding("wpe", "1.table"),
                norm("h.*.ln_1", "{2*layer+2}.fn.0"),
                linear("h.*.attn.c_attn", "{2*layer+2}.fn.1"),
                linear("h.*.attn.c_proj", "{2*layer+2}.fn.5"),
                norm("h.*.ln_2", "{2*layer+3}.fn.0"),
                linear("h.*.mlp.c_fc", "{2*layer+3}.fn.1"),
                linear("h.*.mlp.c_proj", "{2*layer+3}.fn.3"),
                norm("ln_f", "{2*layers+2}"),
            ),
        ),
    ),
    _style(
        "pre_norm",
        "LM",
        lambda python, config: python.LM(
            num_tokens=config.vocab_size,
            dim=config.n_embd,
            depth=config.n_layer,
            heads=config.n_head,
            max_seq_len=config.n_positions,
        ),
        {
            "token_emb.weight": "wte.weight",
            "pos_emb.weight": "wpe.weight",
            "transformer.layers.*.0.norm": "h.*.ln_1",
            "transformer.layers.*.0.fn.to_q": "h.*.attn.q",
            "transformer.layers.*.0.fn.to_kv.weight": joined("weight", "kv"),
            "transformer.layers.*.0.fn.to_kv.bias": joined("bias", "kv"),
            "transformer.layers.*.0.fn.to_out.0": "h.*.attn.c_proj",
            "transformer.layers.*.1.norm": "h.*.ln_2",
            "transformer.layers.*.1.fn.net.0": "h.*.mlp.c_fc",
            "transformer.layers.*.1.fn.net.3": "h.*.mlp.c_proj",
            "to_logits.0": "ln_f",
            "to_logits.1.weight": "lm_head.weight",
        },
        rows=(
            linear(
                "h.*.attn.c_attn",
                "transformer.layers.*.0.fn.to_q",
                "transformer.layers.*.0.fn.to_kv",
                parts=("q", "kv"),
            ),
        ),
    ),
    _style(
        "hparams",
        "GPTLightningModule",
        lambda python, config: python.GPTLightningModule(
            num_vocab=config.vocab_size,
            max_length=config.n_positions,
            embed_dim=config.n_embd,
            num_heads=config.n_head,
            num_layers=config.n_layer,
        ),
        {
            "embeddings.token.weight": "wte.weight",
            "embeddings.position.weight": "wpe.weight",
            "stack.block_*.attn_norm": "h.*.ln_1",
            "stack.block_*.q": "h.*.attn.q",
            "stack.block_*.k": "h.*.attn.k",
            "stack.block_*.v": "h.*.attn.v",
            "stack.block_*.o": "h.*.attn.c_proj",
            "stack.block_*.ff_norm": "h.*.ln_2",
            "stack.block_*.ff_in": "h.*.mlp.c_fc",
            "stack.block_*.ff_out": "h.*.mlp.c_proj",
            "head.norm": "ln_f",
            "head.out.weight": "lm_head.weight",
        },
        call=lambda model, ids: model({"input_ids": ids}),
    ),
    _style(
        "one_norm_tensor",
        "FastGPT",
        lambda python, config: python.FastGPT(
            config.vocab_size, config.n_positions, config.n_layer, config.n_head, config.head_dim, device="cpu"
        ),
        {
            "table": lambda get, config: torch.cat([get("wte.weight"), get("wpe.weight")]),
            "norms": _all_norms,
            "last_norm": lambda get, config: torch.stack([get("ln_f.weight"), get("ln_f.bias")]),
            "qkv_w.*": alternating("weight"),
            "qkv_b.*": alternating("bias"),
            "out.*": "h.*.attn.c_proj",
            "mlp.*.0": "h.*.mlp.c_fc",
            "mlp.*.1": "h.*.mlp.c_proj",
        },
        rows=(
            bare("wte", "table[:vocab_size]"),
            bare("wpe", "table[vocab_size:]"),
            bare("h.*.ln_1", "norms[*,0,0]", "norms[*,0,1]"),
            bare("h.*.attn.c_attn", "qkv_w.*", "qkv_b.*", "i (p h d) -> (h d p) i", "(p h d) -> (h d p)"),
            bare("h.*.ln_2", "norms[*,1,0]", "norms[*,1,1]"),
            bare("ln_f", "last_norm[0]", "last_norm[1]"),
        ),
    ),
    _style(
        "wants_tokenizer",
        "StoryModel",
        lambda python, config: python.StoryModel(
            range(config.vocab_size),
            max_seq_len=config.n_positions,
            hidden_dim=config.n_embd,
            num_blocks=config.n_layer,
            num_heads=config.n_head,
        ),
        {
            "tok_embeddings.weight": "wte.weight",
            "pos_embeddings.weight": "wpe.weight",
            "blocks.*.attention_norm": "h.*.ln_1",
            "blocks.*.attention.wq": "h.*.attn.q",
            "blocks.*.attention.wk": "h.*.attn.k",
            "blocks.*.attention.wv": "h.*.attn.v",
            "blocks.*.attention.wo": "h.*.attn.c_proj",
            "blocks.*.ffn_norm": "h.*.ln_2",
            "blocks.*.feed_forward.w1": "h.*.mlp.c_fc",
            "blocks.*.feed_forward.w2": "h.*.mlp.c_proj",
            "norm": "ln_f",
            "output.weight": "lm_head.weight",
        },
        call=lambda model, ids: model(ids)[1],
    ),
)
STYLES: Mapping[str, Style] = {style.name: style for style in _ALL}
