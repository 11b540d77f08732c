"""Rows of a layout: which module of somebody's code holds the weights of which module of GPT-2.

The functions at the end write the usual rows in one line each; `Row` and `Parameter` say everything else.

**Names.** They match whole. The first ``*`` in a name is the layer's number. A second one is the head's, where each
head has a module: ``blocks.*.heads.*.key``. In a list of all layers' parts, a number is computed:
``norms.{2*layer+1}``, and ``norms.{2*layers}`` for what follows the last layer. A name may end in an index where one
tensor holds several of GPT-2's: ``qkv.weight[*]`` is the layer's slice of a tensor ``[L, ...]``, ``norms[*,0,1]`` one
vector of ``[L, 2, 2, E]``, and ``table[vocab_size:]`` the rows behind the token embedding.

**Patterns** lead from GPT-2's tensor to theirs; see `pattern.py`. Two axis names have a meaning of their own: ``p`` is
the parts (query, key and value, or as many as the row has names), and ``h`` is the heads.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping.names import places

ATTENTION = "h.*.attn.c_attn"  # the one module whose output has named parts: query, key, value


def _parameters_of_modules() -> dict[str, dict[str, int]]:
    modules: dict[str, dict[str, int]] = {}
    for name, shape in GPTConfig(n_layer=1, tie_word_embeddings=False).tensor_shapes().items():
        module, _, parameter = name.replace("h.0.", "h.*.").rpartition(".")
        modules.setdefault(module, {})[parameter] = len(shape)
    return modules


# Every module of GPT-2 that a row may name -> its parameters and the number of their axes.
MODULES = {**_parameters_of_modules(), **{name: {} for name in ("drop", "h.*.attn", "h.*.mlp.act", "h.*.mlp", "h.*")}}


def module_of(site: str) -> str:
    """The entry of `MODULES` that a row is about: a row may name one layer, where layers are not called alike.

    Example:
        >>> module_of("h.3.ln_1")
        'h.*.ln_1'
    """
    return re.sub(r"^h\.(0|[1-9][0-9]{0,8})(?=\.|$)", "h.*", site)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a GPT-2 module, and where theirs is.

    Args:
        name: ``weight`` or ``bias``.
        theirs: the name inside their module. Several modules share one name or have a name each; one module may have
            several. None: that module lacks the parameter, which means that it is zero.
        pattern: from GPT-2's axes to theirs; empty where they are the same.
        parts: of query, key and value, those that each name holds, in its order: ``("q", "kv")``. Empty: one name holds
            all three, and three names one each.
        absent_means_zero: a model may lack these tensors, which means that they are zero (``bias=False``). All
            parameters of a layout with this mark are there, or none is.
        must_be_zero: a tensor that GPT-2 lacks: a vector of zeros, as long as this field of the configuration says.
    """

    name: str
    theirs: str | tuple[str | None, ...] | None
    pattern: str = ""
    parts: tuple[str, ...] = ()
    absent_means_zero: bool = False
    must_be_zero: str = ""


@dataclass(frozen=True)
class Row:
    """One module of GPT-2 and its counterparts. A row without parameters is a *site*: a place to compare outputs.

    Args:
        site: GPT-2's module, ``*`` for the layer's number; ``h.3.ln_1`` where a layer has a row of its own.
        theirs: their module, or the modules that hold its parts. Empty: there is no module, and the parameters are
            called by their whole names.
        parameters: which tensors it has.
        tied_to: the canonical tensor that this row's weight repeats in a model with a tied head.
        written_when_tied: whether a file in this layout holds the tied weight a second time.
        compared: whether their modules' outputs, side by side, are the canonical module's output.
    """

    site: str
    theirs: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    tied_to: str | None = None
    written_when_tied: bool = True
    compared: bool = True

    @property
    def place(self) -> str:
        """For people: their modules, or the names of the weight where there is no module."""
        names = self.theirs or self.names(self.parameters[0], "")
        return " / ".join(name for name in names if name is not None)

    def names(self, parameter: Parameter, separator: str) -> tuple[str | None, ...]:
        """The whole names of a parameter's tensors, stars and all; None for one that does not exist."""
        several = isinstance(parameter.theirs, tuple)
        ends = parameter.theirs if isinstance(parameter.theirs, tuple) else (parameter.theirs,)
        if not self.theirs:
            return ends
        modules = self.theirs * len(ends) if several and len(self.theirs) == 1 else self.theirs
        ends = ends if several else ends * len(modules)
        return tuple(
            None if end is None else f"{module}{separator}{end}" for module, end in zip(modules, ends, strict=True)
        )

    def first_name(self, separator: str) -> str:
        """The whole name of the first tensor of its first parameter; "" where that does not exist."""
        return next((name for name in self.names(self.parameters[0], separator) if name is not None), "")


@dataclass(frozen=True)
class Ignore:
    """Tensors that are none of GPT-2's.

    Args:
        theirs: their whole name, ``*`` for the layer's number.
        why: why they are left out.
        zero: whether they have to be zero, so that a model is GPT-2: loading weights into it writes zeros there.
    """

    theirs: str
    why: str
    zero: bool = False


def embedding(site: str, theirs: str, weight: str = "weight") -> Row:
    """A table of vectors, ``[rows, E]`` on both sides.

    Args:
        site: GPT-2's module, ``wte`` or ``wpe``.
        theirs: their module.
        weight: the name of their weight.
    """
    return Row(site, (theirs,), (Parameter("weight", weight),))


def norm(
    site: str, theirs: str, weight: str = "weight", bias: str | None = "bias", absent_bias_is_zero: bool = False
) -> Row:
    """A LayerNorm: gain and bias ``[E]``.

    Args:
        site: GPT-2's module.
        theirs: their module.
        weight: the name of their gain.
        bias: the name of their bias; None if there is none.
        absent_bias_is_zero: a model may lack all biases of this kind.
    """
    parameters = (Parameter("weight", weight), Parameter("bias", bias, absent_means_zero=absent_bias_is_zero))
    return Row(site, (theirs,), parameters)


Bias: TypeAlias = str | tuple[str | None, ...] | None  # one name, or one for each module; None: there is no bias


def linear(
    site: str,
    *theirs: str,
    weight: str = "weight",
    bias: Bias = "bias",
    absent_bias_is_zero: bool = False,
    parts: tuple[str, ...] = (),
    out: str = "",
) -> Row:
    """A linear layer that stores ``[out, in]``, as `nn.Linear` does.

    Args:
        site: GPT-2's module.
        *theirs: their module; or several that share the output: query, key and value.
        weight: the name of their weight.
        bias: the name of their bias; None if there is none. A tuple gives one name for each module.
        absent_bias_is_zero: a model may lack all biases of this kind.
        parts: of query, key and value, those that each module holds: ``("q", "kv")``, or ``("vkq",)`` for one module.
        out: the order of a fused output, ``p`` for query, key, value, ``h`` for heads and ``d`` for a head's features:
            ``"h p d"`` for query, key and value side by side in each head. Empty: GPT-2's, ``"p h d"``.

    Example:
        >>> linear("h.*.attn.c_attn", "blocks.*.qkv", out="h p d").parameters[0].pattern
        'i (p h d) -> (h p d) i'
    """
    return _linear("i {ours} -> {theirs} i", site, theirs, (weight, bias), absent_bias_is_zero, parts, out)


def conv1d(
    site: str,
    *theirs: str,
    weight: str = "weight",
    bias: Bias = "bias",
    absent_bias_is_zero: bool = False,
    parts: tuple[str, ...] = (),
    out: str = "",
) -> Row:
    """A linear layer that stores ``[in, out]``, as GPT-2's own files do. Arguments are those of `linear`."""
    return _linear("i {ours} -> i {theirs}", site, theirs, (weight, bias), absent_bias_is_zero, parts, out)


def _linear(
    pattern: str,
    site: str,
    theirs: tuple[str, ...],
    names: tuple[str, Bias],
    absent_bias_is_zero: bool,
    parts: tuple[str, ...],
    out: str,
) -> Row:
    per_head = any("head" in places(str(name)) for name in theirs)
    axes = out or ("p h d" if per_head else "p o" if parts or len(theirs) > 1 else "o")
    ours = " ".join(sorted(axes.split(), key="phdo".find))
    grouped, target = (f"({side})" if " " in side else side for side in (ours, axes))
    weight, bias = names
    return Row(
        site,
        theirs,
        (
            Parameter("weight", weight, pattern.format(ours=grouped, theirs=target), parts),
            Parameter("bias", bias, f"{grouped} -> {target}", parts, absent_means_zero=absent_bias_is_zero),
        ),
        # Side by side, these modules' outputs are GPT-2's; heads that hold several parts each are in another order.
        compared=axes == ours and "".join(parts) in ("", "qkv") and (not per_head or len(theirs) == 3),
    )


def bare(site: str, weight: str | tuple[str, ...], bias: Bias = None, pattern: str = "", bias_pattern: str = "") -> Row:
    """Parameters that belong to no module, or to one that holds several: their whole names.

    Args:
        site: GPT-2's module.
        weight: the whole name of its weight; several names hold a part each.
        bias: the same for its bias; None if there is none, which means zero where GPT-2 has one.
        pattern: from GPT-2's weight to theirs: ``"i o -> o i"`` where theirs is ``[out, in]``.
        bias_pattern: the same for the bias.

    Example:
        >>> row = bare("h.*.attn.c_attn", "W[*]", "b[*]", "e (p h d) -> p h e d", "(p h d) -> p h d")
    """
    parameters = [Parameter("weight", weight, pattern)]
    if bias is not None or "bias" in MODULES.get(module_of(site), {}):
        parameters.append(Parameter("bias", bias, bias_pattern))
    return Row(site, (), tuple(parameters), compared=False)


def site(site: str, theirs: str) -> Row:
    """A module without parameters of its own, compared by its output.

    Args:
        site: GPT-2's module.
        theirs: their module.
    """
    return Row(site, (theirs,))


def tied(site: str, theirs: str, to: str, weight: str = "weight", written: bool = True, pattern: str = "") -> Row:
    """The head: a copy of the embedding `to`, unless the model is untied.

    Args:
        site: GPT-2's module.
        theirs: their module; empty for a parameter without one.
        to: the canonical module whose weight it repeats.
        weight: the name of their tensor.
        written: whether files in this layout hold the copy.
        pattern: from the embedding's ``[V, E]`` to theirs.
    """
    return Row(
        site,
        (theirs,) if theirs else (),
        (Parameter("weight", weight, pattern),),
        tied_to=f"{to}.weight",
        written_when_tied=written,
        compared=bool(theirs),
    )


def ignore(theirs: str, why: str, zero: bool = False) -> Ignore:
    """Tensors to leave out, such as a mask that is a buffer.

    Args:
        theirs: their whole name, ``*`` for the layer's number.
        why: why they are left out, for reports.
        zero: whether they have to be zero, so that the model is GPT-2: loading writes zeros there.
    """
    return Ignore(theirs, why, zero)


def parts_of(row: Row, parameter: Parameter, count: int) -> tuple[tuple[int, ...], ...]:
    """Which parts of the canonical parameter each of `count` names holds: query 0, key 1, value 2."""
    if parameter.parts:
        return tuple(tuple("qkv".index(letter) for letter in part) for part in parameter.parts)
    if count > 1:
        return tuple((part,) for part in range(count))
    return (tuple(range(3 if module_of(row.site) == ATTENTION else 1)),)
