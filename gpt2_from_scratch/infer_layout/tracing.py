"""One forward pass of anybody's module, in which every element of every parameter can be followed.

`trace` numbers the elements, runs the module under a dispatch mode, and returns the pass's `Record`. Beside each
storage that holds parameters, or what was computed with them, lies an int32 array with the number that each of its
elements shows (`Memory`). Views share their storage, so they need no rule, and a copy into part of a tensor is a copy
into part of its numbers. An operation that only rearranges is applied to the numbers, too. Any other operation on
numbered tensors is an event. Nothing depends on a name.
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from gpt2_from_scratch.asking import Call
from gpt2_from_scratch.infer_layout.events import Event, Kind, Placed, Record, distinct
from gpt2_from_scratch.infer_layout.memory import Memory, Numbered, numbered
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.recorder.frames import Stack


def trace(
    module: nn.Module, call: Call, ids: Tensor, values: bool = False, numbers: Numbered | None = None
) -> tuple[Record, Tensor | None, Tensor]:
    """Runs the module once and records what became of its parameters.

    Args:
        module: whose parameters are followed.
        call: ids to logits, by way of the module.
        ids: int64 ``[1, T]``.
        values: compute, and keep the activations that events are given. Otherwise a product with a parameter is not
            computed, its result being zeros: only where numbers go matters, and most of the time is saved.
        numbers: of the module's parameters, where several passes are recorded; they are as large as a float32 model.

    Returns:
        The record; the numbers of the logits, int32 in their shape, or None if nothing of them depends on a parameter;
        and the logits.
    """
    numbers = numbers or numbered(module)
    memory = numbers.memory.copy()
    tracer = Tracer(Record(numbers.parameters, numbers.last), memory, ids, values)
    try:
        with _unfused(), torch.no_grad(), tracer:
            logits = call(ids)
        return tracer.record, memory.read(logits), logits
    finally:
        memory.forget()


class _Enough(Exception):
    """Ends a pass of which only the beginning is wanted."""


def trace_tables(call: Call, ids: Tensor, record: Record, numbers: Numbered) -> bool:
    """Completes a record with what a pass over more tokens shows of the tables that are added to the embedding.

    The pass ends where the first layer begins, so it takes no time.

    Args:
        call: as for `trace`.
        ids: int64 ``[1, T]``, as many as the context has.
        record: of a pass over fewer tokens; its tables get all their rows.
        numbers: as for `trace`, the same.

    Returns:
        Whether the passes began alike. If not, the record was left as it was.
    """
    beginning = next((place for place, event in enumerate(record.events) if event.kind not in ("lookup", "sum")), 0)
    memory = numbers.memory.copy()
    tracer = Tracer(Record(numbers.parameters, numbers.last), memory, ids, False, beginning)
    try:
        with _unfused(), torch.no_grad(), tracer:
            call(ids)
    except _Enough:
        pass
    except Exception:  # somebody's code may raise anything
        return False
    finally:
        memory.forget()
    longer = tracer.record.events[:beginning]
    if [(event.kind, event.count) for event in longer] != [
        (event.kind, event.count) for event in record.events[:beginning]
    ]:
        return False
    if any(len(new.operands[-1]) < len(old.operands[-1]) for new, old in zip(longer, record.events, strict=False)):
        return False  # it reads one token after another: the first step shows one row
    for place, event in enumerate(longer):
        record.events[place] = replace(record.events[place], operands=event.operands)
    return True


@contextmanager
def _unfused() -> Any:
    """Keeps `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` from computing everything in one operation."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_NOT_USERS = ("infer_layout", "asking.py", "precision.py")  # rooms below which somebody's code runs

# Operations by name. Rearranging ones are applied to the numbers, too.
_REARRANGING = frozenset(
    "cat stack index index_select gather take_along_dim repeat roll flip constant_pad_nd tril triu select_scatter "
    "slice_scatter index_put repeat_interleave unfold_copy rot90 diag_embed pixel_shuffle".split()
)
_SHARING = frozenset(("_unsafe_view", "_reshape_alias", "lift_fresh", "resize_"))  # views that are not marked as such
_PASSING = frozenset(
    "_softmax _log_softmax _safe_softmax native_dropout dropout masked_fill where clamp nan_to_num fill _to_copy "
    "zero".split()
)
_REDUCING = frozenset(
    "mean sum var std var_mean std_mean amax amin max min logsumexp linalg_vector_norm norm prod median".split()
)
_NARROW = frozenset((torch.bfloat16, torch.float16))
_ADDING = frozenset(("add", "sub", "rsub"))
_PRODUCTS = frozenset(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "convolution"))


class _Operand(NamedTuple):
    """What goes into an elementwise function: the numbers, in the result's shape, and the tensor that shows them."""

    numbers: Tensor
    tensor: Tensor | None


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that PyTorch runs, and keeps the record."""

    def __init__(self, record: Record, memory: Memory, ids: Tensor, values: bool, last: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.memory = memory
        self.ids = ids.flatten()
        self.values = values
        self.last = last  # the pass ends after so many events
        self._known: dict[tuple[object, ...], int] = {}  # what an event is made of -> its place among the events

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        base = name.removesuffix("_") if func._schema.is_mutable else name
        leaves, _ = tree_flatten((args, kwargs))
        if all(self.memory.read(leaf) is None for leaf in leaves if isinstance(leaf, Tensor)):
            return func(*args, **kwargs)
        known = base in _REARRANGING | _PASSING | _REDUCING | _PRODUCTS or torch.Tag.pointwise in func.tags
        if not known and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # inference mode hands these over whole; `reshape` calls itself a view, and may copy
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func.is_view or name in _SHARING:
            return func(*args, **kwargs)
        return self._run(func, base, args, kwargs)

    # ------------------------------------------------------------------------------------------------------ rules

    def _run(self, func: Any, base: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if base in _PRODUCTS:
            return self._product(func, base, args, kwargs)
        numbers: Tensor | None = None
        if base == "copy":
            result = func(*args, **kwargs)
            if (source := self.memory.read(args[1])) is not None:
                self.memory.write(result, source.expand(result.shape))
            return result  # a constant written over features (a mask) leaves them what they are
        if base in ("index", "embedding", "index_select") and (looked_up := self._lookup(base, args)) is not None:
            result = func(*args, **kwargs)
            self.memory.write(result, looked_up)
            return result
        before = [self.memory.read(tensor) for tensor in tree_flatten((args, kwargs))[0] if isinstance(tensor, Tensor)]
        result = func(*args, **kwargs)
        if base in ("embedding",):
            table = self.memory.read(args[0])
            numbers = table[args[1]] if table is not None else None
        elif base == "index_put" and len(before) and before[-1] is None:
            numbers = before[0]
        elif base in _REARRANGING:
            numbers = self._rearranged(func, args, kwargs, before)
        elif base in _REDUCING:
            return self._reduced(base, args, kwargs, result)
        elif base in ("native_layer_norm", "_fused_rms_norm", "rms_norm"):
            numbers = self._layer_norm(base, args)
        elif "scaled_dot_product" in base:
            numbers = self._attention(base, args)
        elif base in _PASSING or torch.Tag.pointwise in func.tags:
            operands = [leaf for leaf in tree_flatten((args, kwargs.get("other")))[0] if isinstance(leaf, Tensor)]
            how = "add" if base in _ADDING else base
            numbers = self._combined(how, base, operands, before, self._first(result))
        else:
            numbers = self._unknown(base, [n for n in before if n is not None], self._first(result))
        first = self._first(result)
        if base == "_to_copy" and first is not None and first.dtype in _NARROW and args[0].dtype not in _NARROW:
            self.record.narrowed_at.setdefault(_line(), dtype_name(first.dtype))
        if first is not None and first.is_floating_point():
            self.memory.write(first, None if numbers is None else numbers.expand(first.shape))
        return result

    @staticmethod
    def _first(result: Any) -> Tensor | None:
        if isinstance(result, Tensor):
            return result
        if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
            return result[0]
        return None

    def _rearranged(self, func: Any, args: Any, kwargs: Any, before: list[Tensor | None]) -> Tensor:
        """The numbers, rearranged as the tensors are."""
        leaves, shape = tree_flatten((args, kwargs))
        shown = iter(before)
        renamed: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                numbers = next(shown)
                if leaf.is_floating_point():
                    leaf = torch.zeros_like(leaf, dtype=torch.int32) if numbers is None else numbers.clone()
            renamed.append(leaf)
        new_args, new_kwargs = tree_unflatten(renamed, shape)
        result: Tensor = func(*new_args, **new_kwargs)
        return result

    def _lookup(self, base: str, args: Any) -> Tensor | None:
        """The features of rows that the token ids chose, if that is what this is."""
        table = self.memory.read(args[0])
        indices = args[1] if base == "embedding" else args[2] if base == "index_select" else None
        if base == "index" and len(args[1]) == 1:
            indices = args[1][0]
        if table is None or table.dim() != 2 or indices is None or indices.is_floating_point():
            return None
        if base == "index_select" and args[1] not in (0, -2):
            return None
        if not self._are_elements(table) or not self._are_tokens(indices.flatten()):
            return None
        made = self._event("lookup", base, (table,), table.shape[1])
        return made.expand(*indices.shape, -1)

    def _are_tokens(self, indices: Tensor) -> bool:
        """Whether these are the prompt's ids, or some of them in a row, where they cannot be positions."""
        if torch.equal(indices, self.ids):
            return True
        if not 0 < len(indices) < len(self.ids) or int(self.ids.min()) < len(self.ids):
            return False
        return bool((self.ids.unfold(0, len(indices), 1) == indices).all(-1).any())

    # ----------------------------------------------------------------------------------------------------- events

    def _event(self, kind: Kind, operation: str, operands: tuple[Tensor, ...], count: int, **more: Any) -> Tensor:
        """Adds an event and returns the numbers of its features, one-dimensional.

        The same function of the same features is the same event, so code that reads one token after another makes the
        features of its first step again and again.
        """
        if not self.values:
            more.pop("values", None)
        elif "values" in more:
            more["values"] = tuple(value.clone() for value in more["values"])
        key = self._key(kind, operation, operands)
        place = None if key is None else self._known.get(key)
        if place is not None and self.record.events[place].count == count:
            self._once_more(place, operands, more)
            first = self.record.events[place].first
        else:
            if self.last is not None and len(self.record.events) >= self.last:
                raise _Enough
            first = self.record.next_number
            if key is not None:
                self._known[key] = len(self.record.events)
            self.record.add(Event(kind, operation, first, count, operands, line=_line(), **more))
        return torch.arange(first, first + count, dtype=torch.int32, device=operands[0].device)

    def _key(self, kind: Kind, operation: str, operands: tuple[Tensor, ...]) -> tuple[object, ...] | None:
        """What makes an event what it is; None for those that are never the same as another.

        The row of a position table that is added to a token does not count: each step adds another one.
        """
        if kind in ("scores", "unknown"):
            return None
        shown = list(operands)
        if kind == "mix":  # the scores of a later step have more rows, but are of the same queries and keys
            scores = self.record.event_of(int(operands[0].flatten()[0]))
            if scores.kind != "scores":
                return None
            shown = [*scores.operands, (operands[0] - scores.first) // scores.rows, operands[1]]
        if kind == "sum" and (table := self._table_of_row(operands)) is not None:
            column = int(operands[1][0, 0] - table.first) % table.strides[0]
            return (kind, operation, _digest(operands[0]), table.name, column)
        return (kind, operation, *(self._identity(each) for each in shown))

    def _table_of_row(self, operands: tuple[Tensor, ...]) -> Placed | None:
        """The parameter with several rows of which this sum adds one to a token's row; None if it is another sum."""
        if len(operands) != 2 or operands[1].dim() != 2 or len(operands[1]) != 1:
            return None
        if self._kind(operands[0]) != "lookup":
            return None
        low, high = int(operands[1].min()), int(operands[1].max())
        tables = (each for each in self.record.parameters.values() if each.first <= low and high <= each.last)
        table = next(tables, None)
        return table if table is not None and len(table.shape) == 2 else None

    def _identity(self, numbers: Tensor) -> tuple[object, ...] | bytes:
        storage = numbers.untyped_storage()._cdata
        if storage in self.memory.of_parameters:  # too large to be looked at
            return (storage, numbers.storage_offset(), numbers.shape, numbers.stride())
        return _digest(numbers)

    def _once_more(self, place: int, operands: tuple[Tensor, ...], more: Mapping[str, Any]) -> None:
        """Notes that an event was seen at another step: which row it added, and what it was given."""
        event = self.record.events[place]
        changes: dict[str, Any] = {}
        if event.kind == "sum" and self._table_of_row(operands) is not None:
            rows = operands[1] if event.operands[1].dim() == 2 else operands[1][None]
            if not bool((event.operands[1] == rows).all(-1).any()):
                changes["operands"] = (event.operands[0], torch.cat([event.operands[1], rows]))
        if event.kind == "mix":  # a step of one token alone does not tell queries from keys
            changes |= {"operands": operands, "keys_left": more["keys_left"]}
        changes["scrambled"] = event.scrambled or bool(more.get("scrambled"))
        values = more.get("values", ())
        if values and event.kind != "mix" and len(values) == len(event.values):
            axis = values[0].dim() - 2
            if not any(
                torch.equal(values[0], each) for each in torch.split(event.values[0], values[0].shape[axis], axis)
            ):
                changes["values"] = tuple(torch.cat(pair, axis) for pair in zip(event.values, values, strict=True))
        self.record.events[place] = replace(event, **changes)

    def _unknown(self, operation: str, shown: list[Tensor], result: Tensor | None) -> Tensor | None:
        if result is None or not result.is_floating_point():
            return None
        operands = tuple(distinct(numbers.flatten()) for numbers in shown)
        return self._event("unknown", operation, operands, 1)[0].expand(result.shape)

    def _combined(
        self,
        how: str,
        operation: str,
        tensors: Sequence[Tensor],
        shown: Sequence[Tensor | None],
        result: Tensor | None,
    ) -> Tensor | None:
        """The numbers that the result of an elementwise function shows, from those that its operands show."""
        if result is None or not result.is_floating_point():
            return None
        numbers: Tensor | None = None
        value: Tensor | None = None
        for tensor, each in zip_longest(tensors, shown):
            if each is None:
                continue
            if numbers is None:
                numbers, value = each.expand(result.shape), tensor
            else:
                numbers = self._combined_numbers(how, operation, numbers, each, result, (value, tensor))
        if numbers is not None and numbers.numel() and (number := int(numbers.flatten()[0])) > self.record.last_element:
            self.record.changed_at[self.record.index_of(number)] = _line()
        return numbers

    def _combined_numbers(
        self,
        how: str,
        operation: str,
        left: Tensor | None,
        right: Tensor | None,
        result: Tensor | None,
        tensors: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor | None:
        """The same for two operands. `tensors`: the operands themselves, whose values the record may keep."""
        if left is None or right is None or result is None:
            return left if right is None else right
        a = _Operand(left.expand(result.shape), tensors[0])
        b = _Operand(right.expand(result.shape), tensors[1])
        if torch.equal(a.numbers, b.numbers):
            return a.numbers
        a_is, b_is = self._are_elements(a.numbers), self._are_elements(b.numbers)
        if a_is and b_is:
            return self._unknown(operation, [a.numbers, b.numbers], result)
        if a_is:
            return self._with_parameter(how, operation, b, a.numbers, divided=how == "div")
        return self._with_parameter(how, operation, a, b.numbers) if b_is else self._of_features(how, operation, a, b)

    def _with_parameter(
        self, how: str, operation: str, a: _Operand, parameter: Tensor, divided: bool = False
    ) -> Tensor:
        """Features and a parameter; `divided`: the parameter is divided by the features."""
        axes, kind = varying(a.numbers), self._kind(a.numbers)
        if kind == "statistic" and (how == "mul" or divided):
            axes = varying(parameter)  # ``gain / s``, to be multiplied by what is normalised
            operands = features(a.numbers, axes), table(parameter, axes)
            return self._laid("gain_over_statistic", operation, operands, axes, parameter.shape)
        if kind == "scores":
            operands = features(a.numbers, axes), distinct(parameter.flatten())
            return self._laid("changed_scores", operation, operands, axes, parameter.shape)
        made: Kind = "sum" if how == "add" else "gain" if how == "mul" else "function"
        operands = features(a.numbers, axes), table(parameter, axes)
        return self._laid(made, operation, operands, axes, parameter.shape, self._value(a, axes))

    def _of_features(self, how: str, operation: str, a: _Operand, b: _Operand) -> Tensor:
        shape = a.numbers.shape
        first, second = self._owner(a.numbers), self._owner(b.numbers)
        kinds = tuple(None if owner is None else owner.kind for owner in (first, second))
        if first is not None and first is second and first.kind == "scores":
            return max(a.numbers, b.numbers, key=lambda numbers: len(varying(numbers)))
        if how == "mul" and kinds[0] != kinds[1] and "gain_over_statistic" in kinds:
            (x, gain), owner = ((b, a), first) if kinds[0] == "gain_over_statistic" else ((a, b), second)
            assert owner is not None
            axes = varying(x.numbers)
            operand, value = features(x.numbers, axes), self._value(x, axes)
            normalised = self._event("normalised", operation, (operand,), len(operand), values=value)
            columns = (features(gain.numbers, axes) - owner.first).long()
            return self._laid("gain", operation, (normalised, owner.operands[1][:, columns]), axes, shape)
        axes = varying(a.numbers)
        if kinds == ("statistic", "statistic"):
            operands = distinct(a.numbers.flatten()), distinct(b.numbers.flatten())
            return self._laid("statistic", operation, operands, sorted({*axes, *varying(b.numbers)}), shape)
        if kinds[0] == "statistic" and how != "div":
            a, b, kinds = b, a, kinds[::-1]
            axes = varying(a.numbers)
        if kinds[1] == "statistic" and how in ("add", "mul", "div"):
            made: Kind = "centred" if how == "add" else "normalised"
            return self._laid(made, operation, (features(a.numbers, axes),), axes, shape, self._value(a, axes))
        both = sorted({*axes, *varying(b.numbers)})
        operands = features(a.numbers, both), features(b.numbers, both)
        return self._laid("sum" if how == "add" else "function", operation, operands, both, shape)

    def _laid(
        self,
        kind: Kind,
        operation: str,
        operands: tuple[Tensor, ...],
        axes: Sequence[int],
        shape: Sequence[int],
        values: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """A new event, with its features along some axes of a shape."""
        count = math.prod(shape[axis] for axis in axes)
        made = self._event(kind, operation, operands, count, values=values)
        return made.reshape([size if axis in axes else 1 for axis, size in enumerate(shape)]).expand(*shape)

    def _value(self, operand: _Operand, axes: list[int]) -> tuple[Tensor, ...]:
        if not self.values or operand.tensor is None:
            return ()
        return (table(operand.tensor.expand(operand.numbers.shape), axes, all_positions=True),)

    def _kind(self, numbers: Tensor) -> Kind | None:
        owner = self._owner(numbers)
        return None if owner is None else owner.kind

    def _owner(self, numbers: Tensor) -> Event | None:
        """The event that made all of these features, if it is one."""
        shown = numbers[tuple(slice(None) if stride else slice(1) for stride in numbers.stride())]
        low, high = int(shown.min()), int(shown.max())
        if low <= self.record.last_element or self.record.index_of(low) != self.record.index_of(high):
            return None
        return self.record.event_of(low)

    # ------------------------------------------------------------------------------- reductions, norms, attention

    def _reduced(self, base: str, args: Any, kwargs: Any, result: Any) -> Any:
        numbers = self.memory.read(args[0])
        if numbers is None:
            return result
        outputs = [result] if isinstance(result, Tensor) else [each for each in result if isinstance(each, Tensor)]
        given = kwargs.get("dim", args[2] if base in ("linalg_vector_norm", "norm") and len(args) > 2 else None)
        if given is None and base not in ("linalg_vector_norm", "norm") and len(args) > 1:
            given = args[1]
        dims = {given} if isinstance(given, int) else set(given or range(numbers.dim()))
        dims = {dim % numbers.dim() for dim in dims}
        axes = varying(numbers)
        first = numbers[tuple(slice(1) if dim in dims else slice(None) for dim in range(numbers.dim()))]
        left = [axis for axis in axes if axis not in dims]
        owner = self._owner(numbers)
        if not dims & set(axes) or (owner is not None and owner.kind == "scores"):
            made = first
        elif self._are_elements(numbers):
            made = self._event("unknown", base, (distinct(numbers.flatten()),), 1).expand(first.shape)
        elif base == "sum" and left:
            operands = tuple(features(each, left) for each in _slices(numbers, sorted(dims & set(axes))))
            made = self._laid("sum", base, operands, left, first.shape)
        else:
            made = self._laid("statistic", base, (features(numbers, axes),), left, first.shape)
        for output in outputs:
            if output.is_floating_point():
                self.memory.write(output, made.reshape(output.shape))
        return result

    def _layer_norm(self, base: str, args: Any) -> Tensor | None:
        x = self.memory.read(args[0])
        if x is None:
            return self._unknown(base, [], None)
        width = math.prod(args[1])
        rows = x.reshape(-1, width)
        nothing = torch.zeros(width, dtype=torch.int32, device=x.device)
        shown = [self.memory.read(each) if isinstance(each, Tensor) else None for each in args[2:4]]
        gain, bias = (nothing if each is None else each.reshape(-1) for each in (*shown, None)[:2])
        values = (args[0].reshape(-1, width),)
        scrambled = not bool((rows == rows[:1]).all())
        kind: Kind = "norm" if base == "native_layer_norm" else "rms_norm"
        made = self._event(kind, base, (rows[0], gain, bias), width, values=values, scrambled=scrambled)
        return made.reshape(tuple(args[1])).expand(x.shape)

    def _attention(self, base: str, args: Any) -> Tensor | None:
        """A fused attention is a score product and a mix."""
        shown = [self.memory.read(each) for each in args[:3]]
        if any(each is None for each in shown):
            return self._unknown(base, [each for each in shown if each is not None], args[0])
        q, k, v = (each for each in shown if each is not None)
        heads = max(each[..., 0, 0].numel() for each in (q, k, v))
        wide = [each.flatten(0, -3) if each.dim() > 3 else each.reshape(-1, *each.shape[-2:]) for each in (q, k, v)]
        wide = [each.repeat_interleave(heads // len(each), 0) for each in wide]
        values = [each.reshape(-1, *each.shape[-2:]) for each in args[:3]]
        scores = self._multiplied(base, (wide[0], wide[1].transpose(1, 2)), (values[0], values[1].transpose(-2, -1)))
        mixed = self._multiplied(base, (scores, wide[2]), (None, values[2]))
        return None if mixed is None else mixed.reshape(*q.shape[:-1], v.shape[-1])

    # --------------------------------------------------------------------------------------------------- products

    def _product(self, func: Any, base: str, args: Any, kwargs: Any) -> Any:
        """Matrix products of every kind, as batches of ``[positions, k] @ [k, n]``."""
        convolution = base == "convolution"
        if base in ("addmm", "baddbmm", "addmv"):
            added, left, right = args[:3]
        else:
            (left, right), added = args[:2], args[2] if convolution else None
        result = self._computed(func, base, args, kwargs, left, right)
        a, b = self.memory.read(left), self.memory.read(right)
        if convolution and (left.dim() != 3 or right.shape[2:] != (1,)):
            self.memory.write(result, self._unknown(base, [each for each in (a, b) if each is not None], result))
            return result
        rows = None if a is None else _rows(a, convolution)
        columns = None if b is None else _columns(b, convolution)
        tensors = _rows(left, convolution), _columns(right, convolution)
        if columns is not None:
            columns = columns.expand(len(tensors[0]), -1, -1)
        made = self._multiplied(base, (rows, columns), tensors)
        if made is not None:
            made = made.transpose(1, 2) if convolution else made.reshape(result.shape)
        bias = self.memory.read(added) if isinstance(added, Tensor) else None
        if bias is not None and kwargs.get("beta", 1) != 0:
            bias = bias[:, None] if convolution else bias
            made = self._combined_numbers("add", base, made, bias.expand(result.shape), result)
        self.memory.write(result, made)
        return result

    def _computed(self, func: Any, base: str, args: Any, kwargs: Any, left: Tensor, right: Tensor) -> Tensor:
        """The result; zeros where a parameter is a factor and only numbers are wanted."""
        weights = [each for each in map(self.memory.read, (left, right)) if each is not None]
        skipped = not self.values and base in ("mm", "bmm", "addmm", "baddbmm") and "out" not in kwargs
        if skipped and any(self._are_elements(each) for each in weights):
            return left.new_zeros(*left.shape[:-1], right.shape[-1])
        result: Tensor = func(*args, **kwargs)
        return result

    def _multiplied(
        self, base: str, numbers: tuple[Tensor | None, Tensor | None], tensors: tuple[Tensor | None, Tensor | None]
    ) -> Tensor | None:
        """The numbers of ``left @ right``, batches of matrices; see `Kind` for what is a product, scores or a mix."""
        left, right = numbers
        if left is None and right is None:
            return None
        left_is, right_is = self._what(left), self._what(right)
        turn = (
            (left_is == "elements" and right_is != "elements")
            or (right_is == "scores" and left_is != "scores")
            or (right_is == "nothing" and left_is == "elements")
        )
        if turn:
            turned = tuple(None if each is None else each.transpose(1, 2) for each in (right, left))
            turned_tensors = tuple(None if each is None else each.transpose(1, 2) for each in (tensors[1], tensors[0]))
            made = self._multiplied(base, turned, turned_tensors)  # type: ignore[arg-type]
            return None if made is None else made.transpose(1, 2)
        if left is None:
            assert right is not None
            return self._chosen(base, tensors[0], right)
        if right is None or "mixed" in (left_is, right_is) or left_is == right_is == "elements":
            operands = tuple(distinct(each.flatten()) for each in (left, right) if each is not None)
            shape = (len(left), left.shape[1], right.shape[2] if right is not None else tensors[1].shape[2])  # type: ignore[union-attr]
            return self._event("unknown", base, operands, 1).expand(shape)
        batch, positions, others = len(left), left.shape[1], right.shape[2]
        if left_is == "scores":
            values = tuple(each for each in tensors if each is not None)
            first = right[:, :1]
            made = self._event(
                "mix",
                base,
                (left[:, 0, 0], first[:, 0]),
                batch * others,
                keys_left=left.shape[2] > 1 and bool((left != left[..., :1]).any()),
                scrambled=not bool((right == first).all()),
                values=values,
            )
            return made.reshape(batch, 1, others).expand(batch, positions, others)
        first = left[:, :1]
        scrambled = not bool((left == first).all())
        values = tuple(each for each in tensors[:1] if each is not None)
        if right_is == "elements":
            same = batch > 1 and bool((left == left[:1]).all()) and bool((right == right[:1]).all())
            kept = 1 if same else batch
            operands = first[:kept, 0], right[:kept]
            made = self._event("product", base, operands, kept * others, scrambled=scrambled, values=values)
            return made.reshape(kept, 1, others).expand(batch, positions, others)
        column = right[..., :1]
        scrambled = scrambled or not bool((right == column).all())
        values = tuple(each for each in tensors if each is not None)
        made = self._event(
            "scores",
            base,
            (first[:, 0], column[..., 0]),
            batch * positions,
            rows=positions,
            scrambled=scrambled,
            values=values,
        )
        return made.reshape(batch, positions, 1).expand(batch, positions, others)

    def _are_elements(self, numbers: Tensor) -> bool:
        return numbers.untyped_storage()._cdata in self.memory.of_parameters or self.record.are_elements(numbers)

    def _what(self, numbers: Tensor | None) -> str:
        if numbers is None:
            return "nothing"
        if self._are_elements(numbers):
            return "elements"
        if int(numbers.min()) <= self.record.last_element:
            return "mixed"
        corner = self.record.event_of(int(numbers.flatten()[0]))
        return "scores" if corner.kind in ("scores", "changed_scores") else "features"

    def _chosen(self, base: str, chooser: Tensor | None, right: Tensor) -> Tensor:
        """A table times rows with a single one: the rows that they choose."""
        rows = right[0]
        if chooser is not None and len(right) == 1 and self._are_elements(rows):
            values, indices = chooser[0].max(dim=-1)
            if bool((values == 1).all()) and bool((chooser[0].abs().sum(-1) == 1).all()):
                if torch.equal(indices, self.ids):
                    return self._event("lookup", base, (rows,), rows.shape[1]).expand(1, len(indices), -1)
                return rows[indices][None]
        count = chooser.shape[1] if chooser is not None else 1
        shape = (len(right), count, right.shape[2])
        return self._event("unknown", base, (distinct(right.flatten()),), 1).expand(shape)


# --------------------------------------------------------------------------------------------------------- arrays


def _rows(left: Tensor, convolution: bool) -> Tensor:
    """The left operand of a product as ``[b, positions, k]``."""
    return left.transpose(1, 2) if convolution else left[(None,) * (3 - left.dim())]


def _columns(right: Tensor, convolution: bool) -> Tensor:
    """The right operand of a product as ``[b, k, n]``."""
    matrix = right[:, :, 0].t() if convolution else right[:, None] if right.dim() == 1 else right
    return matrix[(None,) * (3 - matrix.dim())]


def varying(numbers: Tensor) -> list[int]:
    """The axes along which the numbers change."""
    return [
        axis
        for axis, size in enumerate(numbers.shape)
        if size > 1
        and numbers.stride(axis)
        and bool((numbers.narrow(axis, 1, size - 1) != numbers.narrow(axis, 0, 1)).any())
    ]


def features(numbers: Tensor, axes: Sequence[int]) -> Tensor:
    """The numbers along some axes, at the first place of the others; one-dimensional."""
    kept = set(axes)
    return numbers[tuple(slice(None) if axis in kept else 0 for axis in range(numbers.dim()))].flatten()


def table(numbers: Tensor, axes: Sequence[int], all_positions: bool = False) -> Tensor:
    """``[rows, n]``: the numbers along some axes, once for each place of the others at which they change."""
    others = [axis for axis in range(numbers.dim()) if axis not in axes]
    changing = others if all_positions else [axis for axis in varying(numbers) if axis in others]
    fixed = tuple(0 if axis in others and axis not in changing else slice(None) for axis in range(numbers.dim()))
    left = [axis for axis in range(numbers.dim()) if axis in changing or axis in axes]
    shown = numbers[fixed].permute([left.index(axis) for axis in [*changing, *sorted(axes)]])
    return shown.reshape(math.prod(numbers.shape[axis] for axis in changing), -1)


_STACK = Stack(skip=[str(Path(__file__).parents[1] / room) for room in _NOT_USERS])


def _line() -> str:
    """The line of somebody's code that is being run, as ``file.py:12``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not trace.__code__:
        if _STACK.is_users(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _digest(numbers: Tensor) -> bytes:
    shown = numbers.contiguous().numpy(force=True)
    return hashlib.sha256(shown.tobytes() + repr(shown.shape).encode()).digest()


def _slices(numbers: Tensor, axes: list[int]) -> list[Tensor]:
    """The tensor at every place along some axes, which stay with length 1."""
    slices = [numbers]
    for axis in axes:
        slices = [part for each in slices for part in torch.split(each, 1, axis)]
    return slices
