"""One recorded run of the candidate, with every value labelled: what is GPT-2's, and what is not."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gpt2_from_scratch.anatomy.identity import Identity, Table
from gpt2_from_scratch.diagnose.lines.own_code import OwnCode
from gpt2_from_scratch.recorder import Again, Operation, Recording, Value, record

# Operations whose result has only the shape of what they took.
_MAKERS = frozenset(
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty rand_like randn_like".split()
)
# Operations that put parts together: until the last part is in its place, the whole is no number of GPT-2's.
_ASSEMBLING = frozenset(
    "setitem cat concat concatenate copy_ index_copy_ append hstack vstack stack alias scatter_".split()
)
_PADDING = frozenset(["pad", "cat", "concat", "concatenate", "hstack", "setitem", "copy_"])
# They move numbers and compute nothing.
VIEWS = frozenset(
    "view reshape transpose permute swapaxes swapdims movedim moveaxis T mT t contiguous clone expand "
    "expand_as squeeze unsqueeze flatten unflatten getitem split chunk unbind narrow select to double "
    "type_as detach view_as reshape_as copy astype ravel tensor_split expand_dims array asarray "
    "ascontiguousarray rearrange type dropout broadcast_to repeat hsplit dsplit array_split cat stack "
    "rollaxis diagonal as_tensor from_numpy tensor float identity alias adjoint H data tile cpu".split()
)

# The largest difference of two correct float64 programs, relative to the largest logit, was measured at 1e-12; the
# mildest bug leaves 1e-7.
RIGHT = 1e-10

_SKIPPED = (os.path.dirname(os.path.dirname(__file__)) + os.sep,)  # this room's own lines are nobody's bug

Hook = Callable[[Operation, int, Tensor, Again, "list[Identity]"], Tensor | None]


@dataclass(frozen=True)
class Called:
    """A run of the candidate, to be done once or many times.

    Args:
        run: does it.
        logits_in: the logits in what the run returned.
        packages: see `record`.
        arrays: see `record`.
        own: the candidate's own code. Frames further out are those of its callers, and are left out.
    """

    run: Callable[[], object]
    logits_in: Callable[[object], Tensor]
    own: OwnCode
    packages: tuple[str, ...] = ()
    arrays: object = None


@dataclass(frozen=True)
class Trial:
    """A run, labelled.

    Args:
        recording: its operations.
        labels: what each value is.
        logits: the value that the candidate returned.
        error: the largest difference of its logits from GPT-2's, relative to the largest logit.
    """

    recording: Recording
    labels: Sequence[Identity]
    logits: int
    error: float
    derived: Sequence[bool]
    consumers: dict[int, list[Operation]]

    @property
    def right(self) -> bool:
        """Whether the logits are GPT-2's."""
        return self.error <= RIGHT

    def known(self, number: int) -> bool:
        """Whether a value is accounted for: a number of GPT-2's, or a constant."""
        value, label = self.recording.values[number], self.labels[number]
        if not value.is_floating_point or not self.derived[number]:
            return True
        return label.kind == "entry" and label.known

    def assembling(self, number: int) -> bool:
        """Whether a value is on its way to be put together: all that takes it is the next step of that."""
        maker = self.recording.maker(number)
        users = self.consumers.get(number, [])
        return (
            maker is not None
            and maker.name in _ASSEMBLING
            and bool(users)
            and all(user.name == maker.name or user.name == "alias" for user in users)
            and all(self.known(each) or self.assembling(each) for each in maker.inputs)
        )

    def padding(self) -> Operation | None:
        """The operation that makes ids longer than the prompt, the last one of several; None if nothing is padded."""
        longest, found = 0, None
        for each in self.recording.operations:
            takes = [self.recording.values[number].shape for number in each.inputs]
            makes = [self.recording.values[number] for number in each.outputs[:1]]
            if each.name in _PADDING and makes and not makes[0].is_floating_point and len(makes[0].shape) == 2:
                shorter = any(len(shape) == 2 and shape[1] < makes[0].shape[1] for shape in takes)
                if (shorter and makes[0].shape[1] > longest) or (found is None and each.name in ("setitem", "copy_")):
                    longest, found = makes[0].shape[1], each
        return found

    def culprits(self) -> list[Operation]:
        """Operations on the way to the logits that make something unknown out of what is known, in order."""
        waiting, seen, found = [self.logits], set(), {}
        while waiting:
            number = waiting.pop()
            if number in seen or self.known(number):
                continue
            seen.add(number)
            maker = self.recording.maker(number)
            if maker is None:
                continue
            unknown = [each for each in maker.inputs if not self.known(each) and not self.assembling(each)]
            waiting += unknown
            if not unknown:
                found[maker.index] = maker
        return [found[index] for index in sorted(found)]

    @property
    def meets(self) -> bool:
        """Whether the logits were computed, as far as that was recorded, from a weight of GPT-2's."""
        maker = self.recording.maker(self.logits)
        waiting, seen = [] if maker is None else list(maker.inputs), set()
        while waiting:
            number = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            maker = self.recording.maker(number)
            if maker is None and self.labels[number].kind == "entry":
                return True
            waiting += [] if maker is None else maker.inputs
        return False

    def unknown(self) -> int:
        """How many operations on the way to the logits make something that is not known."""
        waiting, seen, unknown = [self.logits], set(), set()
        while waiting:
            number = waiting.pop()
            maker = self.recording.maker(number)
            if number in seen or maker is None:
                continue
            seen.add(number)
            waiting += maker.inputs
            if not self.known(number) and not self.assembling(number):
                unknown.add(maker.index)
        return len(unknown)

    def weights(self) -> set[str]:
        """Keys of the weights of GPT-2's that operations take, and do more with than move their numbers."""
        entries = [
            self.labels[number].entry
            for each in self.recording.operations
            if each.name not in VIEWS
            for number in each.inputs
        ]
        return {entry.key for entry in entries if entry is not None and entry.weight}

    def made(self, number: int) -> Operation | None:
        """The operation that made a value's numbers, behind all that only moved them."""
        label = self.labels[number]
        maker = self.recording.maker(number)
        while maker is not None and maker.name in VIEWS and maker.inputs:
            before = maker.inputs[0]
            other = self.labels[before]
            earlier = self.recording.maker(before)
            if earlier is None or (
                label.entry is not None and other.entry is not label.entry and other.kind != "entry"
            ):
                return maker
            maker = earlier
        return maker


def run(
    call: Called,
    table: Table,
    hook: Hook | None = None,
    before: tuple["Trial", int] | None = None,
) -> Trial:
    """Runs the candidate once and labels everything that it computes.

    Args:
        call: what to run.
        table: GPT-2's values.
        hook: gets every operation before it is noted, with the labels so far, and may replace what it made.
        before: an earlier run of the same code, and the value from which on this one may differ.
    """
    expected = table.by_key["logits"].value
    labels: list[Identity] = list(before[0].labels[: before[1]]) if before is not None else []
    ready = len(labels)

    def see(value: Value, content: Tensor) -> None:
        if value.number >= ready:
            labels.append(table.identify(content))

    def change(operation: Operation, position: int, content: Tensor, again: Again) -> Tensor | None:
        assert hook is not None
        return hook(replace(operation, frames=call.own.within(operation.frames)), position, content, again, labels)

    recording = record(
        call.run,
        see=see,
        change=change if hook else None,
        packages=call.packages,
        arrays=call.arrays,
        skip=_SKIPPED,
    )
    own = tuple(replace(each, frames=call.own.within(each.frames)) for each in recording.operations)
    recording = replace(recording, operations=own)
    result = recording.result
    tensor = call.logits_in(result)
    number = recording.number_of(tensor)
    if number is None:
        number = next(iter(number_in(recording, result)), len(recording.values) - 1)
    logits = tensor.detach().double().cpu()
    error = math.inf
    if logits.shape == expected.shape:
        error = float((logits - expected).abs().max() / expected.abs().max())
    elif logits.dim() == 3 and logits.shape[1] == 1:  # the last position alone
        error = float((logits - expected[:, -1:]).abs().max() / expected.abs().max())
    elif logits.dim() == 3 and logits.shape[:2] == expected.shape[:2] and logits.shape[2] > expected.shape[2]:
        error = float((logits[..., : expected.shape[2]] - expected).abs().max() / expected.abs().max())
    if math.isnan(error):
        error = math.inf
    derived: list[bool] = []
    for value, label in zip(recording.values, labels, strict=True):
        derived.append(label.kind == "entry" and value.operation is None)
    consumers: dict[int, list[Operation]] = {}
    for operation in recording.operations:
        for each in operation.inputs:
            consumers.setdefault(each, []).append(operation)
        inherited = operation.name not in _MAKERS and any(derived[each] for each in operation.inputs)
        for each in operation.outputs:
            derived[each] = inherited or labels[each].kind == "entry"
    return Trial(recording, labels, number, error, derived, consumers)


def casts_to_half(operation: Operation) -> bool:
    """Whether the user's code asks an operation for numbers of half precision."""
    asked = [operation.name, *(str(each).removeprefix("torch.") for each in operation.constants.values())]
    return bool(operation.frames and operation.inputs) and bool({"half", "bfloat16", "float16"}.intersection(asked))


def number_in(recording: Recording, result: object) -> list[int]:
    """Numbers of the tensors in what a call returned: itself, ``.logits``, a mapping's, a tuple's."""
    direct = recording.number_of(result)
    if direct is not None:
        return [direct]
    if hasattr(result, "logits"):
        return number_in(recording, result.logits)
    if isinstance(result, dict):
        return [number for each in result.values() for number in number_in(recording, each)]
    if isinstance(result, tuple | list):
        return [number for each in result for number in number_in(recording, each)]
    return []
