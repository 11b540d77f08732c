"""One table, three readings: how the tensors of somebody's code base correspond to GPT-2's.

A `Layout` is a tuple of rows in execution order. A row pairs one *canonical* module (Hugging Face's `GPT2Model` names
without a prefix, linear weights ``[in, out]``) with the module, or the modules, that hold the same weights elsewhere.
Loading runs down the table, saving runs it backwards, and the verifier walks it to find the first place that differs.

The one idea: everything a code base does to a tensor is one of a small closed set of operations, each of which is
*asked for its inverse*. No direction is ever written twice, and nothing is inferred from a shape: GPT-2's attention
projection is square, so a wrong orientation there has the right shape.

    operations.py   what may be done to a tensor, and how it is undone
    layout.py       rows, and what they become for a model of so many layers
    accounting.py   which tensor is which: all of them, or every problem at once
    directions.py   their tensors to GPT-2's, and back
    wording.py      many names in few words
"""

from gpt2_from_scratch.mapping.accounting import Accounting, account, best_fit, depth, sizes
from gpt2_from_scratch.mapping.directions import Reader, read_canonical, write_theirs
from gpt2_from_scratch.mapping.layout import (
    Ignore,
    Layout,
    Link,
    Parameter,
    Row,
    Shape,
    conv1d,
    embedding,
    ignore,
    linear,
    norm,
    site,
    tied,
)
from gpt2_from_scratch.mapping.operations import (
    AddAxis,
    DropAxis,
    Dropped,
    Join,
    MergeHeads,
    Operation,
    Split,
    SplitHeads,
    Stack,
    Tensors,
    Transpose,
    Unstack,
    Zeros,
)
from gpt2_from_scratch.mapping.wording import collapse, listed

__all__ = [
    "Accounting",
    "AddAxis",
    "DropAxis",
    "Dropped",
    "Ignore",
    "Join",
    "Layout",
    "Link",
    "MergeHeads",
    "Operation",
    "Parameter",
    "Reader",
    "Row",
    "Shape",
    "Split",
    "SplitHeads",
    "Stack",
    "Tensors",
    "Transpose",
    "Unstack",
    "Zeros",
    "account",
    "best_fit",
    "collapse",
    "conv1d",
    "depth",
    "embedding",
    "ignore",
    "linear",
    "listed",
    "norm",
    "read_canonical",
    "site",
    "sizes",
    "tied",
    "write_theirs",
]
