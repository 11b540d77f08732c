"""Which tensor of somebody's code is which of GPT-2's: one table, read in three ways.

A `Layout` is a table of rows in execution order. A row pairs one module of GPT-2 with the module, or the modules, that
hold the same weights elsewhere. GPT-2's names are *canonical*: those of Hugging Face's `GPT2Model`, without a prefix,
with linear weights ``[in, out]``. Loading runs down the table, saving runs it backwards, and the verifier walks it to
find the first module that differs.

What a code base does to a tensor is written as a pattern, ``"i (p o) -> p o i"``; read from right to left, it is the
inverse. Nothing is guessed from a shape: GPT-2's attention projection is square, so a transposed one has the right
shape.

    rows.py         the rows of a table
    pattern.py      how axes are rearranged, and back
    layout.py       a table
    mistakes.py     what is wrong with a table
    unrolling.py    the links that a table becomes for a model of so many layers
    link.py         one tensor of GPT-2 and the tensors that hold it
    matching.py     which tensor is which: all of them, or every problem at once
    translation.py  their tensors to GPT-2's, and back
    names.py        many names in few words
"""

from gpt2_from_scratch.mapping.layout import Layout
from gpt2_from_scratch.mapping.link import Link
from gpt2_from_scratch.mapping.matching import Matching, best_match, depth, match, match_module, sizes
from gpt2_from_scratch.mapping.names import collapse, listed
from gpt2_from_scratch.mapping.pattern import Shape, parse
from gpt2_from_scratch.mapping.rows import (
    Ignore,
    Parameter,
    Row,
    bare,
    conv1d,
    embedding,
    ignore,
    linear,
    norm,
    site,
    tied,
)
from gpt2_from_scratch.mapping.translation import read_canonical, write_theirs

__all__ = [
    "Ignore",
    "Layout",
    "Link",
    "Matching",
    "Parameter",
    "Row",
    "Shape",
    "bare",
    "best_match",
    "collapse",
    "conv1d",
    "depth",
    "embedding",
    "ignore",
    "linear",
    "listed",
    "match",
    "match_module",
    "norm",
    "parse",
    "read_canonical",
    "site",
    "sizes",
    "tied",
    "write_theirs",
]
