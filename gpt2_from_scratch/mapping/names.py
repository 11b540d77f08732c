"""Names of tensors: with a layer's number put in, and many of them in a short form, ``h.{0...11}.attn.bias``."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping.pattern import Shape

LAYER = "(0|[1-9][0-9]{0,8})"  # a layer's number in a name; bounded, because Python refuses to read 5000 digits
_SIZES = ("vocab_size", "n_positions", "n_embd", "inner_dim")  # fields of a configuration that an index may name
_TERM = rf"(?:(?:[0-9]+\*)?(?:{'|'.join(_SIZES)})|[0-9]+)"
_SUM = rf"{_TERM}(?:\+{_TERM})*"
_STEP = rf"[0-9]+|(?:{_SUM})?:(?:{_SUM})?"
INDEXED = re.compile(rf"(.+)\[((?:{_STEP})(?:, ?(?:{_STEP}))*)\]")  # a tensor, and where in it a piece lies
Index: TypeAlias = tuple[int | slice, ...]


def index_of(text: str, config: GPTConfig) -> Index:
    """The index that stands in the brackets of a name, for a model of these sizes.

    Example:
        >>> index_of("3, 2*n_embd:", GPTConfig())
        (3, slice(1536, None, None))
    """

    def size(terms: str) -> int:
        return sum(math.prod(_factor(factor, config) for factor in term.split("*")) for term in terms.split("+"))

    def step(part: str) -> int | slice:
        start, colon, stop = part.partition(":")
        return slice(size(start or "0"), size(stop) if stop else None) if colon else int(part)

    return tuple(step(part.strip()) for part in text.split(","))


def _factor(text: str, config: GPTConfig) -> int:
    return int(text) if text.isdigit() else int(getattr(config, text))


_PLACE = re.compile(r"\*|\{(?:([0-9]+) ?\* ?)?(layers|layer|head)(?: ?\+ ?([0-9]+))?\}")


def numbered(name: str, layer: int | None, head: int | None = None, layers: int | None = None) -> str:
    """A name of a table with numbers in its places.

    Args:
        name: the first ``*`` is ``{layer}``, a second one ``{head}``; ``{2*layer+1}`` is for lists of several layers.
        layer: the layer's number, or None to leave its places as they are.
        head: the same for the head's.
        layers: how many layers there are.

    Example:
        >>> numbered("blocks.*.heads.*.key.weight", 3, 1)
        'blocks.3.heads.1.key.weight'
        >>> numbered("norms.{2*layer+1}", 3), numbered("norms.{2*layers}", None, layers=12)
        ('norms.7', 'norms.24')
    """
    stars = iter(("layer", "head"))

    def number(place: re.Match[str]) -> str:
        value = {"layer": layer, "head": head, "layers": layers}[place[2] or next(stars)]
        return place[0] if value is None else str(int(place[1] or 1) * value + int(place[3] or 0))

    return _PLACE.sub(number, name)


def places(name: str) -> list[str]:
    """The kinds of numbers for which a table's name has places: ``layer``, ``head`` or ``layers``.

    Example:
        >>> places("blocks.*.heads.*.key.weight")
        ['layer', 'head']
    """
    stars = iter(("layer", "head"))
    return [place[2] or next(stars, "*") for place in _PLACE.finditer(name)]


def collapse(names: Iterable[str]) -> list[str]:
    """Names with their layer numbers folded together, in order of first appearance.

    Example:
        >>> collapse(["h.0.ln_1.bias", "h.1.ln_1.bias", "h.2.ln_1.bias", "wte.weight"])
        ['h.{0...2}.ln_1.bias', 'wte.weight']
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, number, after = _numbers(name)
        layers.setdefault((before, after), []).extend(number)
    return [f"{before}{_range(sorted(set(found)))}{after}" for (before, after), found in layers.items()]


def listed(names: Iterable[str]) -> str:
    """Names in one line, collapsed; if there are many, the first and the number of the others."""
    collapsed = collapse(names)
    more = len(collapsed) - _MOST_LISTED
    return ", ".join(collapsed[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


_MOST_LISTED = 40  # GPT-2 itself has 16 kinds of parameters, and the masks and adapters found beside them are fewer


def _numbers(name: str) -> tuple[str, list[int], str]:
    """Splits a name at its layer number: the text before it, the number (none if it has none), the text after it."""
    match = re.search(rf"(?<![0-9A-Za-z_])(?:h|h_\._)?{LAYER}(?=[./]|$)", name)  # h.0., OpenAI's h0/, Keras' h_._0/
    if match is None:
        return name, [], ""
    return name[: match.start(1)], [int(match[1])], name[match.end(1) :]


def _range(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}...{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def alike(misshapen: Mapping[str, tuple[Shape, Shape]]) -> dict[str, tuple[Shape, Shape]]:
    """Misshapen tensors with equal shapes and equal patterns folded into one line."""
    groups: dict[tuple[str, str, tuple[Shape, Shape]], list[str]] = defaultdict(list)
    for name, both in misshapen.items():
        before, _, after = _numbers(name)
        groups[before, after, both].append(name)
    return {collapse(names)[0]: both for (*_, both), names in groups.items()}
