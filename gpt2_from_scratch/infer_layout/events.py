"""What a forward pass did with parameters, as a list of events that refer to each other by number.

Every element of every parameter has a number, and so has every feature (column) that an event makes. Number 0 stands
for neither. An event's operands are arrays of such numbers, so the list of events is an expression graph over columns:
`Record.event_of` leads from a column back to the event that made it. `tracing` writes the record; `skeleton` reads it.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal[
    "lookup",  # rows of a table, chosen by the token ids: the table [rows, n]
    "product",  # x W: the features of x [b, k] and W [b, k, n]
    "sum",  # of features [n] or of a parameter [rows, n]; two operands or more
    "gain",  # features [n] times a parameter [rows, n]
    "norm",  # a fused layer norm: features [n], gain [n], bias [n]; zeros where it has none
    "rms_norm",  # a fused norm that subtracts no mean: features [n], gain [n]
    "statistic",  # a number about several features: their numbers
    "centred",  # features [n] less a statistic
    "normalised",  # features [n] divided by a statistic
    "gain_over_statistic",  # a parameter [rows, n] times, or divided by, a statistic: its numbers, the parameter's
    "scores",  # products of features with features, summed over the features: left [b, k], right [b, k]
    "changed_scores",  # scores and a parameter: a sum, or a product
    "mix",  # an average over positions: scores [b], features of what is averaged [b, n]
    "function",  # of two or more different features, or of a feature and a parameter: all of them
    "unknown",  # an operation that this package does not follow: all it was given
]


ROWS = 4096  # of a matrix at a time: indices are widened to 64 bits, and a token table has 38 million elements


@dataclass(frozen=True)
class Event:
    """One use of parameters or features.

    Args:
        kind: what was done.
        operation: PyTorch's name of it.
        first: the number of its first feature.
        count: how many features it made.
        operands: arrays of numbers; see `Kind`.
        rows: of scores, the length of the left operand's position axis: each row has a number of its own.
        keys_left: of a mix, whether the score product's left operand is what positions were chosen by (the key).
        scrambled: whether some column did not show the same feature at every position.
        line: of the user's code, as ``file.py:12``; empty where there is none.
        values: the activations it was given, where the pass kept them, arranged as the first operand is:
            ``[positions, n]``, or ``[b, positions, k]`` for products, scores and mixes.
    """

    kind: Kind
    operation: str
    first: int
    count: int
    operands: tuple[Tensor, ...]
    rows: int = 1
    keys_left: bool = False
    scrambled: bool = False
    line: str = ""
    values: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A parameter and where its elements' numbers are: number of element (0, ..., 0), and the step along each axis."""

    name: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def last(self) -> int:
        """The number of its last element."""
        return self.first + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))


@dataclass
class Record:
    """The events of one pass, in order, and the parameters that have numbers.

    Args:
        parameters: name -> where its elements' numbers are. Names of one tensor have the same numbers.
        last_element: the highest number of an element; features have higher ones.
        narrowed_at: lines that round numbers to a type of 16 bits -> its name.
        changed_at: for each event, by its place, the line that last changed its features without mixing them: scaled
            them, masked them, or applied an elementwise function.
    """

    parameters: Mapping[str, Placed]
    last_element: int
    events: list[Event] = field(default_factory=list)
    narrowed_at: dict[str, str] = field(default_factory=dict)
    changed_at: dict[int, str] = field(default_factory=dict)
    _firsts: list[int] = field(default_factory=list)

    @property
    def next_number(self) -> int:
        """The first number that is free."""
        return self.events[-1].first + self.events[-1].count if self.events else self.last_element + 1

    def add(self, event: Event) -> None:
        """Appends an event; its first number has to be `next_number`."""
        self.events.append(event)
        self._firsts.append(event.first)

    def index_of(self, number: int) -> int:
        """The place in `events` of the event that made a feature."""
        return bisect_right(self._firsts, number) - 1

    def event_of(self, number: int) -> Event:
        """The event that made a feature."""
        return self.events[self.index_of(number)]

    def are_elements(self, numbers: Tensor) -> bool:
        """Whether all of them are parameters' elements, or nothing."""
        return bool((numbers <= self.last_element).all())

    def segments(self, numbers: Tensor) -> list[tuple[int, Tensor]]:
        """The events that made these features, with the places in the array that each of them made.

        Args:
            numbers: one-dimensional, features only.

        Returns:
            Pairs of an index into `events` and an int64 tensor of places.
        """
        firsts = torch.tensor(self._firsts, dtype=numbers.dtype)
        owners = torch.bucketize(numbers.contiguous(), firsts, right=True) - 1
        return [(int(index), (owners == index).nonzero().flatten()) for index in distinct(owners).tolist()]

    def names_of(self, numbers: Tensor) -> list[str]:
        """The parameters to which any of these elements belongs, in the module's order."""
        elements = numbers[(numbers > 0) & (numbers <= self.last_element)].long()
        found = []
        for name, placed in self.parameters.items():
            shown = elements[(placed.first <= elements) & (elements <= placed.last)]
            if not _is_dense(placed):
                shown = shown[torch.isin(shown, _numbers(placed))]
            if len(shown):
                found.append(name)
        return found


def distinct(numbers: Tensor) -> Tensor:
    """The different numbers among these, in order."""
    found: Tensor = torch.unique(numbers)
    return found


def numbers_of(placed: Placed) -> Tensor:
    """The numbers of a parameter's elements, int32, in its shape."""
    return _numbers(placed).to(torch.int32).reshape(placed.shape)


def _numbers(placed: Placed) -> Tensor:
    result = torch.tensor(placed.first)
    for axis, (size, stride) in enumerate(zip(placed.shape, placed.strides, strict=True)):
        shape = [1] * len(placed.shape)
        shape[axis] = size
        result = result + (torch.arange(size) * stride).reshape(shape)
    return result


def _is_dense(placed: Placed) -> bool:
    """Whether the numbers of its elements have no gaps."""
    return placed.last - placed.first + 1 == math.prod(placed.shape)
