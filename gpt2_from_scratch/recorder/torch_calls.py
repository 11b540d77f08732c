"""Torch's operations, as Python code calls them.

A function mode sees ``F.layer_norm``, operators, indexing and in-place methods as one call each, on the line that asked
for it. Everything is computed in float64, whatever the candidate's own precision: narrower tensors that were there
before are widened where they are used, and requests for a narrower type give float64. The candidate's own tensors
are neither converted nor, in the end, changed: writing to one writes to its wide copy, or is undone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gpt2_from_scratch.recorder.graph import Place
from gpt2_from_scratch.recorder.tape import Again, Holder, Tape

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_WIDENING = {"float", "half", "bfloat16"}  # methods that ask for a narrow type

# They give no tensor: attributes and sizes. Not recorded, for speed.
_PLAIN = frozenset(
    "shape dtype device requires_grad grad grad_fn is_cuda is_meta is_cpu is_mps is_sparse is_quantized is_xpu ndim "
    "layout itemsize nbytes names is_leaf _version size dim ndimension numel nelement stride storage_offset "
    "is_floating_point is_complex is_contiguous data_ptr element_size __len__ __hash__ __repr__ __str__ __format__ "
    "is_inference untyped_storage storage get_device is_same_size requires_grad_ retain_grad register_hook is_signed "
    "is_pinned _is_view _base is_nested is_mkldnn is_neg is_conj name output_nr __dlpack__ __dlpack_device__ is_tensor "
    "get_default_dtype finfo is_storage result_type broadcast_shapes can_cast typename".split()
)
# They take rows of a table. Rows of a narrow table are widened once they were taken, so that the table is not.
_LOOKING_UP = frozenset(("embedding", "getitem", "index_select"))
# They give numbers to Python.
_LEAVING = frozenset(
    "item tolist __bool__ __int__ __float__ __index__ numpy __array__ __contains__ equal allclose".split()
)

# An operation's name -> its other spellings: reflected and in-place operators, and aliases.
_SPELLINGS = {
    "add": "radd iadd add_",
    "mul": "rmul imul mul_ multiply",
    "sub": "isub sub_ subtract",
    "div": "truediv itruediv div_ divide true_divide",
    "rdiv": "rtruediv",
    "pow": "ipow pow_ power",
    "abs": "absolute",
    "matmul": "imatmul",
    "dropout": "dropout_",
    "softmax": "softmax_",
}
_SAME = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}


def name_of(function: Callable[..., object]) -> str:
    """The plain name of an operation: ``add`` for ``Tensor.__radd__``, ``T`` for the attribute."""
    name = getattr(function, "__name__", "") or type(function).__name__
    if name in ("__get__", "__set__"):
        owner = getattr(function, "__self__", None)
        return str(getattr(owner, "__name__", name)) + ("=" if name == "__set__" else "")
    name = name.strip("_") if name.startswith("__") else name
    return _SAME.get(name, name)


class TorchCalls(TorchFunctionMode):
    """Writes every call to a tape while it is entered."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._keep: list[Tensor] = []  # widened buffers: their memory must not be given to another tensor

    def restore(self) -> None:
        """Undoes what was written to tensors that existed before."""
        with torch.no_grad():
            for tensor, before in reversed(self._saved):
                tensor.copy_(before)
        self._saved.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        raw = getattr(func, "__name__", "")
        name = name_of(func)
        if name in _PLAIN or raw in _PLAIN or name.endswith("="):
            return func(*args, **kwargs)
        call = _Call(self, name, raw, args, kwargs)
        if call.batched:
            self.tape.missing["operations inside torch.vmap"] = None
            return func(*call.args, **call.kwargs)
        if name in _LEAVING or raw in _LEAVING:
            return func(*call.args, **call.kwargs)
        if name in _WIDENING and isinstance(args[0] if args else None, Tensor):
            func = Tensor.double
        asked = [each for each in call.constants.values() if isinstance(each, torch.dtype)]
        half = name in ("half", "bfloat16") or torch.float16 in asked or torch.bfloat16 in asked
        return call.noted(_copying(func) if half else func)  # without the cast there would be nothing to note

    # -- tensors

    def holder(self, tensor: Tensor) -> Holder:
        """The holder of a tensor, known or new."""
        holder = self.tape.known(tensor)
        if holder is not None:
            return holder
        if tensor.dtype not in _NARROW:
            return self.tape.hold(tensor, self.tape.leaf(tensor))
        if isinstance(tensor, nn.Parameter):  # never written in a forward pass, and large: widened where it is used
            return self.tape.hold(tensor, self.tape.leaf(tensor.detach(), torch.float64))
        wide = tensor.detach().to(torch.float64)
        self._keep.append(wide)
        return self.tape.hold(tensor, self.tape.leaf(wide), wide)

    def wide(self, tensor: Tensor, holder: Holder, name: str) -> Tensor:
        """What an operation of this name computes with in the place of a tensor."""
        if holder.shadow is not None:
            return holder.shadow
        if tensor.dtype not in _NARROW:
            return tensor
        return tensor.detach() if name in _LOOKING_UP else tensor.detach().to(torch.float64)

    def save(self, tensor: Tensor) -> None:
        """Keeps what a tensor of the user's holds, before it is written."""
        if not any(tensor is saved for saved, _ in self._saved):
            self._saved.append((tensor, tensor.clone()))


class _Call:
    """One call: its arguments, widened, and the values that they are."""

    def __init__(self, calls: TorchCalls, name: str, raw: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls, self.tape, self.name, self.raw = calls, calls.tape, name, raw
        self.inputs: list[int] = []
        self.places: list[Place] = []
        self.constants: dict[Place, object] = {}
        self.tensors: list[tuple[Tensor, Tensor, Holder]] = []  # the user's, the wide one, its holder
        self.batched = False
        self.args = tuple(self._argument(position, value) for position, value in enumerate(args))
        self.kwargs = {key: self._argument(key, value) for key, value in kwargs.items()}

    def _argument(self, place: Place, value: Any) -> Any:
        before = len(self.inputs)
        wide = self._widened(place, value)
        if len(self.inputs) == before or isinstance(value, tuple | list):
            self.constants[place] = _plain(value)
        return wide

    def _widened(self, place: Place, value: Any) -> Any:
        if isinstance(value, Tensor):
            if torch._C._functorch.is_batchedtensor(value):
                self.batched = True
                return value
            holder = self.calls.holder(value)
            wide = self.calls.wide(value, holder, self.name)
            self.inputs.append(self.tape.current(holder, wide))
            self.places.append(place)
            self.tensors.append((value, wide, holder))
            return wide
        if isinstance(value, torch.dtype):
            return torch.float64 if value in _NARROW else value
        if isinstance(value, tuple | list) and any(isinstance(item, Tensor | tuple | list | slice) for item in value):
            items = [self._widened(place, item) for item in value]
            return type(value)(items) if type(value) in (tuple, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self._widened(place, item) for key, item in value.items()}
        return value

    def _written_by_name(self) -> bool:
        """Whether the call writes to its first tensor, as its name says."""
        raw = self.raw
        if raw.endswith("_") and not raw.endswith("__") and not raw.startswith("_"):
            return True
        if raw.startswith("__i") and raw not in ("__invert__", "__index__", "__int__", "__iter__"):
            return True
        return raw == "__setitem__" or self.kwargs.get("inplace") is True

    def _written(self) -> list[tuple[Tensor, Holder]]:
        """What this call will write to, judged by its name: what is computed with, and its holder."""
        written = [self.tensors[0]] if self.tensors and self._written_by_name() else []
        outs = self.kwargs.get("out")
        if outs is not None:
            targets = outs if isinstance(outs, tuple | list) else (outs,)
            written += [each for each in self.tensors if any(each[1] is target for target in targets)]
        for tensor, wide, holder in written:
            if wide is tensor and self.tape.values[holder.number].operation is None:
                self.calls.save(tensor)
        return [(wide, holder) for _, wide, holder in written]

    def noted(self, func: Callable[..., Any]) -> Any:
        written = self._written()
        before = self._before(written) if self.tape.change is not None else ()
        versions = [_version(wide) for _, wide, _ in self.tensors]
        result = func(*self.args, **self.kwargs)
        for (_, wide, holder), version in zip(self.tensors, versions, strict=True):
            if version is not None and _version(wide) != version and all(other is not holder for _, other in written):
                written.append((wide, holder))
        tensors = list(_tensors_in(result))
        by_wide = {id(wide): holder for _, wide, holder in self.tensors}
        new = [tensor for tensor in tensors if id(tensor) not in by_wide]
        if not new and not written:
            for tensor in tensors:
                self.tape.also(tensor, by_wide[id(tensor)])
            return result
        operation = self.tape.begin(self.name, self.inputs, self.places, self.constants, bool(written))
        again = Again(before, lambda inputs, constants: self._again(func, before, inputs, constants))
        numbers: list[int] = []
        replaced: dict[int, Tensor] = {}
        for wide, holder in written:
            other = self.tape.changed(operation, len(numbers), wide, again)
            if other is not None:
                with torch.no_grad():
                    wide.copy_(other)
            holder.number = self.tape.output(len(numbers), wide)
            holder.stale = None
            numbers.append(holder.number)
        for tensor in new:
            wide = tensor.to(torch.float64) if tensor.dtype in _NARROW else tensor
            other = self.tape.changed(operation, len(numbers), wide, again)
            if other is not None:
                same = other.shape == wide.shape  # then its strides are kept
                wide = torch.empty_like(wide).copy_(other) if same else other.clone()
            if wide is not tensor:
                replaced[id(tensor)] = wide
            number = self.tape.output(len(numbers), wide)
            self.tape.hold(wide, number)
            numbers.append(number)
        self.tape.finish(operation, numbers, [holder for _, holder in written])
        for tensor in tensors:
            if id(tensor) in by_wide:
                self.tape.also(tensor, by_wide[id(tensor)])
        return _with(result, replaced) if replaced else result

    def _before(self, written: list[tuple[Tensor, Holder]]) -> tuple[Tensor, ...]:
        """The inputs as they are before the call; copies of what it will overwrite."""
        overwritten = [id(holder) for _, holder in written]
        return tuple(wide.clone() if id(holder) in overwritten else wide for _, wide, holder in self.tensors)

    def _again(
        self,
        func: Callable[..., Any],
        before: tuple[Tensor, ...],
        inputs: Mapping[int, Tensor],
        constants: Mapping[Place, object],
    ) -> tuple[Tensor, ...]:
        values = [inputs.get(position, value) for position, value in enumerate(before)]
        operands = iter([value.clone() if self._in_place(position) else value for position, value in enumerate(values)])
        first: list[Tensor] = []

        def filled(value: Any) -> Any:
            if isinstance(value, Tensor):
                tensor = next(operands)
                first.append(tensor)
                return tensor
            if isinstance(value, tuple | list):
                items = [filled(item) for item in value]
                return type(value)(items) if type(value) in (tuple, list) else tuple(items)
            if isinstance(value, dict):
                return {key: filled(item) for key, item in value.items()}
            return value

        args = [filled(value) for value in self.args]
        kwargs = {key: filled(value) for key, value in self.kwargs.items()}
        for place, value in constants.items():
            if isinstance(place, int) and place < len(args):
                args[place] = value
            else:
                kwargs[str(place)] = value
        with torch.no_grad():
            result = func(*args, **kwargs)
        return tuple(_tensors_in(result)) or tuple(first[:1])

    def _in_place(self, position: int) -> bool:
        return position == 0 and bool(self._written_by_name())


def _copying(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same call; a tensor that it only hands back is copied, so that it is another one."""

    def copied(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        return result.clone() if any(result is each for each in args) else result

    return copied


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _tensors_in(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for item in result for tensor in _tensors_in(item)]
    return []


def _with(result: Any, replaced: Mapping[int, Tensor]) -> Any:
    if isinstance(result, Tensor):
        return replaced.get(id(result), result)
    if isinstance(result, tuple | list):
        items = [_with(item, replaced) for item in result]
        return type(result)(items) if type(result) in (tuple, list) else type(result)(tuple(items))
    return result


def _plain(value: object) -> object:
    """An argument without its tensors, fit to be kept."""
    if isinstance(value, Tensor):
        return ...
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, bool | int | float | str | slice | torch.dtype) or value is None or value is ...:
        return value
    return type(value).__name__
