"""What a value is: which of GPT-2's numbers, in which order of axes, times which factor.

A `Table` holds the entries of one run. Looking a value up costs one pass over it: its fingerprint (moments that neither
a permutation nor a factor changes) leads to few entries, and each is then compared number by number under every order
of its axes that the value's shape allows. Large tensors, which are weights, are widened to float64 some rows at a time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import Literal

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.entries import Entry

Kind = Literal["entry", "scrambled", "mask", "positions", "ids", "uniform", "one-hot", "not finite", "unknown"]

# Float64 rounds at 1e-16; after twelve layers the noise was measured at 1e-13 to 1e-12, and the mildest bug at 1e-7.
EXACT = 1e-10
# Constants that somebody keeps in float32 are off by 6e-8 at most, products of a few of them by a little more.
ROUNDED = 3e-7
# Fingerprints of a value off by ROUNDED differ by a few times as much.
_NEAR = 4e-6
# Below any score of a trained model, above every fill that is used: -1e4, -1e9, the lowest finite number, -inf.
FILL = -5e3
_SLICED = "B3HT"  # axes of which code may take one index at a time
_FEWEST = 4  # numbers; of fewer, a match says nothing
_SLAB = 1 << 20  # numbers that are widened at a time: 8 MB of float64
_MOST_SLICES = 4096  # of one entry: code that takes more of one by one would take minutes itself


@dataclass(frozen=True, slots=True)
class Identity:
    """What a value is.

    Args:
        kind: ``entry``: a multiple of one of GPT-2's numbers. ``scrambled``: those numbers in an order that no
            permutation of axes gives. The others are constants, or ``unknown``.
        entry: the entry, for the first two kinds.
        factor: the value is so many times the entry.
        order: the letters of the entry's axes in the value's order, axes that are one in code separated by a blank.
        fixed: axes of which the value has one index: ``(("H", 2),)``.
        error: largest difference, relative to the largest number.
        detail: of a constant, what it is.
        others: entries with the same numbers.
    """

    kind: Kind
    entry: Entry | None = None
    factor: float = 1.0
    order: str = ""
    fixed: tuple[tuple[str, int], ...] = ()
    error: float = 0.0
    detail: str = ""
    others: tuple[Entry, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it is one of GPT-2's numbers or a constant, to the last digits of float64."""
        return self.kind not in ("unknown", "scrambled", "not finite") and self.error <= EXACT

    @property
    def near(self) -> bool:
        """Whether it is one, but for constants rounded to float32."""
        return self.kind == "entry" and (self.error > EXACT or 0 < abs(self.factor - 1) <= ROUNDED)

    def __str__(self) -> str:
        if self.entry is None:
            return self.detail or self.kind
        name = str(self.entry)
        if abs(self.factor - 1) > ROUNDED:
            name = f"{self.factor:.6g} times {name}"
        if self.kind == "scrambled":
            return f"{name}, the numbers in another order"
        for letter, index in self.fixed:
            name += f", {_index_words(letter, index)}"
        return name


def _index_words(letter: str, index: int) -> str:
    if letter == "3":
        return ("queries", "keys", "values")[index]
    return f"{ {'B': 'prompt', 'H': 'head'}.get(letter, 'token') } {index}".strip()


UNKNOWN = Identity("unknown")


@dataclass(slots=True)
class _Bucket:
    """All entries and slices of entries of one size."""

    prints: Tensor  # [n, 4], see `_prints`, sorted by the first column
    which: list[tuple[Entry, tuple[tuple[str, int], ...]]]

    def between(self, low: float, high: float) -> tuple[int, int]:
        """The rows whose first number is between two others."""
        ends = torch.tensor([low, high], dtype=torch.float64)
        first, last = torch.searchsorted(self.prints[:, 0].contiguous(), ends).tolist()
        return first, last


class Table:
    """The entries of one run, to be looked up by value.

    Args:
        entries: of `entries.entries`.
        ids: the run's token ids.
    """

    def __init__(self, entries: Sequence[Entry], ids: Tensor) -> None:
        self.entries = tuple(entries)
        self.by_key = {entry.key: entry for entry in entries}
        self.ids = ids
        self._buckets: dict[int, _Bucket | None] = {}
        self.sizes = {letter: size for entry in entries for letter, size in zip(entry.axes, entry.shape, strict=True)}
        self._by_size: dict[int, list[tuple[Entry, str]]] = {}  # size of a slice -> entries, and the axes cut for it
        for entry in entries:
            for letters in _subsets(entry):
                count = math.prod(entry.shape[entry.axes.index(letter)] for letter in letters)
                if count <= _MOST_SLICES:
                    self._by_size.setdefault(entry.size // count, []).append((entry, letters))

    # -- looking up

    def identify(self, value: Tensor) -> Identity:
        """What a value is.

        Args:
            value: of any shape and dtype.
        """
        value = value.detach()
        if value.dtype == torch.bool or not value.is_floating_point():
            return self._constant(value) or UNKNOWN
        if value.dtype != torch.float64 and (weight := self._weight(value)) is not None:
            return weight
        compact = _without_repeats(value)
        found = self._floating(compact)
        if found.kind == "unknown" and (smaller := _without_equal(compact)) is not None:
            return self._floating(smaller)
        return found

    def entry_of(self, value: Tensor) -> Identity:
        """The entry that a floating-point value is, if any: for most values much cheaper than `identify`."""
        value = value.detach()
        if value.numel() < _FEWEST:
            return UNKNOWN
        return self._number(value, *_range(value))

    def _weight(self, value: Tensor) -> Identity | None:
        """Which weight a value is, bit for bit: no number has to be widened, and few are read where it is another."""
        found: list[Identity] = []
        for entry, letters in self._by_size.get(value.numel(), ()):
            if not entry.weight or entry.kept.dtype != value.dtype or value.numel() < _FEWEST:
                continue
            for fixed in _indices(entry, letters):
                sliced, left = _sliced(entry, fixed)
                for axes in arrangements(tuple(value.shape), left, tuple(sliced.shape)):
                    arranged = sliced.permute([axis for group in axes for axis in group])
                    if torch.equal(value.reshape(arranged.shape), arranged):
                        found.append(Identity("entry", entry, 1.0, _order(axes, left), fixed))
                        break
        if not found or _is_uniform(value):
            return None
        best = min(found, key=_rank)
        others = tuple(each.entry for each in found if each.entry is not None and each.entry is not best.entry)
        return replace(best, others=others)

    def _floating(self, value: Tensor) -> Identity:
        if value.numel() == 0:
            return self._constant(value) or UNKNOWN
        low, high = _range(value)
        if low == high:
            return self._constant(value) or UNKNOWN
        found = self._number(value, low, high)
        return found if found.kind not in ("unknown", "not finite") else self._constant(value) or found

    def _number(self, value: Tensor, low: float, high: float) -> Identity:
        if math.isnan(low):
            return Identity("not finite", detail="not a number")
        masked = False
        if low <= FILL:
            rest = value.masked_fill(value <= FILL, 0.0)
            low_left, high_left = _range(rest)
            masked = max(-low_left, high_left) < -FILL / 5  # otherwise these are just large numbers
            value, low, high = (rest, low_left, high_left) if masked else (value, low, high)
        if math.isinf(low) or math.isinf(high):
            return Identity("not finite", detail="infinite numbers")
        return self._entry(value, masked, max(abs(low), abs(high)))

    def _entry(self, value: Tensor, masked: bool, largest: float) -> Identity:
        bucket = self._bucket(value.numel())
        if bucket is None or largest == 0:
            return UNKNOWN
        in_memory = sorted(range(value.dim()), key=value.stride, reverse=True)  # so that flattening copies nothing
        flat = value.permute(in_memory).reshape(1, -1)
        norm = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
        if norm == 0 or math.isinf(norm):  # squares that float64 cannot hold
            return UNKNOWN
        near = math.log(largest * math.sqrt(value.numel()) / norm)
        low, high = bucket.between(near - _NEAR, near + _NEAR)
        if low == high:  # so it is of most values, which are then read once
            return UNKNOWN
        apart = (bucket.prints[low:high] - _prints(flat)).abs().amax(1)
        best: Identity | None = None
        others: list[Entry] = []
        for position in (low + (apart <= _NEAR).nonzero().flatten()).tolist():
            entry, fixed = bucket.which[position]
            if masked != entry.causal:
                continue
            found = self._compared(value, entry, fixed)
            if found is None:
                continue
            if best is None or _rank(found) < _rank(best):
                if best is not None and best.entry is not None and best.kind == found.kind:
                    others.append(best.entry)
                best = found
            elif found.kind == best.kind and found.error <= max(EXACT, best.error):
                others.append(entry)
        if best is None:
            return UNKNOWN
        same = tuple(entry for entry in others if best.entry is not None and entry is not best.entry)
        return Identity(best.kind, best.entry, best.factor, best.order, best.fixed, best.error, "", same)

    def _compared(self, value: Tensor, entry: Entry, fixed: tuple[tuple[str, int], ...]) -> Identity | None:
        sliced, letters = _sliced(entry, fixed)
        best = _best(value, entry, fixed, sliced, letters)
        for axis in [letters.index(letter) for letter in "23" if letter in letters and best is None]:
            for order in list(permutations(range(sliced.shape[axis])))[1:]:  # key, query, value
                best = best or _best(value, entry, fixed, sliced.index_select(axis, torch.tensor(order)), letters)
        if best is not None:
            return best if best.error <= ROUNDED else None
        mine, theirs = (each.double().flatten().sort().values for each in (value, sliced))
        square = float(theirs.square().sum())
        if square == 0:
            return None
        factor = math.sqrt(float(mine.square().sum()) / square)
        for sign in (1.0, -1.0):
            ordered = theirs if sign > 0 else -theirs.flip(0)
            error = float((mine - factor * ordered).abs().max() / mine.abs().max())
            if error <= EXACT:
                return Identity("scrambled", entry, sign * factor, "", fixed, error)
        return None

    # -- constants

    def _constant(self, value: Tensor) -> Identity | None:
        """Masks, positions, ids and uniform values; None if it is none of them."""
        flat = value.reshape(-1)
        if flat.numel() == 0:
            return Identity("uniform", detail="nothing")
        first = flat[0]
        if bool((flat == first).all()):
            return Identity("uniform", factor=float(first), detail=f"{float(first):g} everywhere")
        if value.numel() > 10_000_000 and value.is_floating_point():
            return None
        squeezed = value.squeeze()
        if not value.is_floating_point() and value.dtype != torch.bool:
            if squeezed.shape == self.ids.squeeze().shape and bool((squeezed == self.ids.squeeze()).all()):
                return Identity("ids", detail="the token ids")
            if squeezed.dim() == 1 and any(
                bool((squeezed == row).all()) for row in self.ids if row.shape == squeezed.shape
            ):
                return Identity("ids", detail="the token ids of one prompt")
            if value.numel() == self.ids.numel() and bool((value.reshape(-1) == self.ids.reshape(-1)).all()):
                return Identity("ids", detail="the token ids")
        compact = _without_repeats(squeezed).squeeze()
        while compact.dim() > 1 and _is_equal_along(compact, 0):
            compact = compact[0]
        if compact.dim() == 2 and compact.shape[1] > 1 and _is_equal_along(compact, 1):
            compact = compact[:, 0]
        if compact.dim() == 1 and compact.numel() > 1:
            steps = compact[1:].double() - compact[:-1].double()
            if bool((steps == steps[0]).all()) and compact.dtype != torch.bool:
                start, step = float(compact[0]), float(steps[0])
                return Identity(
                    "positions", factor=step, detail=f"{start:g}, {start + step:g}, … {float(compact[-1]):g}"
                )
        if compact.dim() >= 2:
            return _mask(compact)
        return None

    # -- fingerprints

    def _bucket(self, size: int) -> _Bucket | None:
        if size not in self._buckets:
            self._buckets[size] = self._build(size) if size >= _FEWEST else None
        return self._buckets[size]

    def _build(self, size: int) -> _Bucket | None:
        prints: list[Tensor] = []
        which: list[tuple[Entry, tuple[tuple[str, int], ...]]] = []
        for entry, letters in self._by_size.get(size, ()):
            axes = [entry.axes.index(letter) for letter in letters]
            rest = [axis for axis in range(len(entry.axes)) if axis not in axes]
            prints.append(_prints(entry.kept.permute(*axes, *rest).reshape(-1, size)))
            which += [(entry, fixed) for fixed in _indices(entry, letters)]
        if not which:
            return None
        table = torch.cat(prints)
        order = table[:, 0].argsort()
        return _Bucket(table[order], [which[index] for index in order.tolist()])


def _best(
    value: Tensor, entry: Entry, fixed: tuple[tuple[str, int], ...], sliced: Tensor, letters: str
) -> Identity | None:
    """The order of axes in which a value is nearest to a multiple of an entry's slice."""
    best: Identity | None = None
    for axes in arrangements(tuple(value.shape), letters, tuple(sliced.shape)):
        flat = [axis for group in axes for axis in group]
        arranged = sliced.permute(flat)
        factor, error = _multiple(value.reshape(arranged.shape), arranged)
        if factor == 0:
            continue
        if error <= ROUNDED * 10 and (best is None or error < best.error):
            best = Identity("entry", entry, factor, _order(axes, letters), fixed, error)
            if error <= EXACT:
                return best
    return best


def _rank(identity: Identity) -> tuple[bool, bool, bool, float, int, bool]:
    """Which of two identities is the better one: right order, exact, factor 1, whole, a main step."""
    entry = identity.entry
    assert entry is not None
    return (
        identity.kind != "entry",
        identity.error > EXACT,
        abs(identity.factor - 1) > ROUNDED,
        abs(math.log(abs(identity.factor))) if abs(identity.factor - 1) > ROUNDED else 0.0,
        len(identity.fixed),
        not entry.main,
    )


def _indices(entry: Entry, letters: str) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every index of some axes."""
    for each in product(*(range(entry.shape[entry.axes.index(letter)]) for letter in letters)):
        yield tuple(zip(letters, each, strict=True))


def _sliced(entry: Entry, fixed: tuple[tuple[str, int], ...]) -> tuple[Tensor, str]:
    """An entry at one index of some axes, as it is kept, and the letters of the axes that are left."""
    sliced, letters = entry.kept, entry.axes
    for letter, index in fixed:
        sliced = sliced.select(letters.index(letter), index)
        letters = letters.replace(letter, "", 1)
    return sliced, letters


def _order(axes: tuple[tuple[int, ...], ...], letters: str) -> str:
    return " ".join("".join(letters[axis] for axis in group) for group in axes)


def _is_uniform(value: Tensor) -> bool:
    low, high = _range(value)
    return low == high


def _subsets(entry: Entry) -> Iterator[str]:
    letters = [letter for letter in entry.axes if letter in _SLICED and (letter != "T" or not entry.weight)]
    if entry.weight:
        letters = [letter for letter in letters if letter in "3H"]
    for count in range(len(letters) + 1):
        for chosen in combinations(letters, count):
            if len(chosen) < len(entry.axes):
                yield "".join(chosen)


def _prints(rows: Tensor) -> Tensor:
    """Fingerprints of rows ``[n, size]``: float64 ``[n, 4]``, unchanged by permutation, factor and sign.

    The largest number beside the norm tells apart what is nearly uniform, such as gains, whose moments are alike.
    """
    sums = torch.zeros(4, rows.shape[0], dtype=torch.float64)
    low, high = torch.aminmax(rows, dim=1, keepdim=True)
    largest = torch.maximum(high, -low).double()
    largest[largest == 0] = 1.0
    for part in torch.split(rows, max(1, _SLAB // rows.shape[0]), dim=1):
        part = part.double() / largest  # no power of it overflows
        square = part.square()
        sums += torch.stack([square.sum(1), part.abs().sum(1), (square * part).sum(1), square.square().sum(1)])
    norm, root = sums[0].sqrt().clamp(min=1e-300), math.sqrt(rows.shape[1])
    peak, first = (root / norm).log(), sums[1] / norm / root
    third, fourth = (sums[2] / norm / norm / norm).abs(), sums[3] / norm / norm / norm / norm
    return torch.stack([peak, first, third, fourth], dim=1)


def _range(value: Tensor) -> tuple[float, float]:
    """The smallest and the largest number; NaN, both, if one is not a number."""
    low, high = torch.aminmax(value)
    return float(low), float(high)


def _multiple(value: Tensor, of: Tensor) -> tuple[float, float]:
    """Which multiple a value is of a tensor of the same shape, and the largest error of that, as a share of the value.

    A factor of 0 says that the two have nothing in common.
    """
    if value.dtype == of.dtype and torch.equal(value, of):
        return 1.0, 0.0
    shared = squares = 0.0
    for mine, theirs in _slabs(value, of):
        shared += float((mine * theirs).sum())
        squares += float(theirs.square().sum())
    if shared == 0 or squares == 0:
        return 0.0, math.inf
    factor = shared / squares
    error = max(float((mine - factor * theirs).abs().max()) for mine, theirs in _slabs(value, of))
    return factor, error / max(map(abs, _range(value)))


def _slabs(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of two tensors of one shape, in float64: along the axis whose parts lie together in memory."""
    if one.dim() == 0 or one.numel() <= _SLAB:
        yield one.double(), other.double()
        return
    axis = max(range(one.dim()), key=lambda each: (one.shape[each] > 1, other.stride(each)))
    rows = max(1, _SLAB * one.shape[axis] // one.numel())
    for mine, theirs in zip(torch.split(one, rows, axis), torch.split(other, rows, axis), strict=True):
        yield mine.double(), theirs.double()


def _without_repeats(value: Tensor) -> Tensor:
    """Expanded axes cut to one index."""
    for axis, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if stride == 0 and size > 1:
            value = value.narrow(axis, 0, 1)
    return value


def _without_equal(value: Tensor) -> Tensor | None:
    """Axes along which the value does not change cut to one index; None if there is none."""
    changed = False
    for axis in range(value.dim()):
        if value.shape[axis] > 1 and _is_equal_along(value, axis):
            value, changed = value.narrow(axis, 0, 1), True
    return value if changed else None


def _is_equal_along(value: Tensor, axis: int) -> bool:
    """Whether a value does not change along an axis; where it changes at once, the rest is not read."""
    if value.shape[axis] > 1 and not torch.equal(value.select(axis, 0), value.select(axis, 1)):
        return False
    return bool((value.narrow(axis, 0, 1) == value).all())


def arrangements(shape: tuple[int, ...], letters: str, sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to read a shape as the axes of an entry, consecutive axes joined to one.

    Args:
        shape: of a value.
        letters: the entry's axes.
        sizes: their sizes.

    Yields:
        For each axis of the shape that is longer than 1, the positions of the entry's axes in it.
    """
    wanted = [size for size in shape if size != 1]
    ones = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    axes = tuple(axis for axis, size in enumerate(sizes) if size != 1)

    def split(position: int, left: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if position == len(wanted):
            if not left:
                yield ()
            return
        for count in range(1, len(left) + 1):
            for group in permutations(left, count):
                if math.prod(sizes[axis] for axis in group) == wanted[position]:
                    rest = tuple(axis for axis in left if axis not in group)
                    for tail in split(position + 1, rest):
                        yield (group, *tail)

    for groups in split(0, axes):
        yield (*groups, ones) if ones else groups


def _mask(value: Tensor) -> Identity | None:
    """A causal pattern: two kinds of numbers, separated by a diagonal of the last two axes."""
    while value.dim() > 2:
        if not bool((value == value[:1]).all()):
            return None
        value = value[0]
    if value.dim() != 2 or min(value.shape) < 2 or torch.unique(value[:, :2]).numel() > 2:
        return None
    numbers = torch.unique(value)
    if numbers.numel() != 2:
        return None
    rows, columns = value.shape
    high = value == numbers[1]
    row = torch.arange(rows)[:, None]
    column = torch.arange(columns)[None, :]
    for offset in range(1 - rows, columns):
        below = column <= row + offset
        for pattern, words, side, first in ((below, "up to", "below", offset), (~below, "beyond", "above", offset + 1)):
            if bool((high == pattern).all()):
                low, up = (f"{float(number):g}" for number in numbers)
                where = f"diagonal {first} (the main one is 0)" if first else "the main diagonal"
                detail = f"{up} on and {side} {where}, {low} elsewhere"
                return Identity("mask", factor=float(offset), order=words, detail=detail)
    return Identity("mask", detail="two numbers, in no causal pattern", order="other", error=0.0)
