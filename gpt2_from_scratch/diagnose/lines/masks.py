"""The lines for a mask that hides the wrong scores, and for scores that are not masked.

A mask with a wrong pattern is accused where the pattern was made. A right mask that is used wrongly is accused where it
is used. Scores without a mask are accused where the mask is lost.
"""

import ast
import math
from collections.abc import Sequence

from gpt2_from_scratch.anatomy.identity import FILL, Identity
from gpt2_from_scratch.diagnose.lines import classes, origins, source
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Role,
    Spots,
    function_of,
    owner_of,
    spot_of,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Frame, Operation

_MASKING = (
    "masked_fill",
    "masked_fill_",
    "where",
    "add",
    "sub",
    "copyto",
    "setitem",
)  # what puts a mask into the scores
_PATTERNS = ("tril", "triu", "tri", "ge", "gt", "le", "lt", "greater", "greater_equal", "less", "less_equal")
_IN_ONE_CALL = ("multi_head_attention_forward", "scaled_dot_product_attention")


def mask_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for a mask that hides other scores than those of later keys."""
    operation = explained.operation
    use = use_of(observed, operation)
    if explained.position is None:  # it writes to its first operand
        fill = _fill(observed, operation) if isinstance(explained.found, float) else None
        return [(fill, "made here"), (use, "used here" if fill else "made here")]
    number = operation.inputs[explained.position]
    label = observed.trial.labels[number]
    right = _is_right(label)
    spots: Spots = []
    if not right:
        pattern = _pattern(observed, number)
        if pattern is not None:
            spots.append((pattern, "made here"))
        last = observed.trial.recording.maker(number)
        steps = _makers(observed, last) if last is not None else []
        return [*spots, (use, "used here"), *((use_of(observed, each), "made here") for each in steps)]
    else:
        maker = _behind_views(observed, number)
        if maker is not None and maker.frames:
            made: tuple[Spot | None, Role] = (use_of(observed, maker), "made here")
            # Attention in one call is torch's own code: then it is not the use that is wrong.
            usual = maker.name in ("tril", "triu", "tri") and operation.name not in _IN_ONE_CALL
            earlier: Spots = [(use_of(observed, each), "made here") for each in _makers(observed, maker)]
            return [(use, "used here"), made] if usual else [made, (use, "used here"), *earlier]
    return [(use, "used here")]


def _behind_views(observed: Observed, number: int) -> Operation | None:
    """What made a mask's numbers; that may be a cast of true and false to numbers."""
    values = observed.trial.recording.values
    maker = observed.trial.recording.maker(number)
    while maker is not None and (maker.name in VIEWS or maker.name == "bool") and maker.inputs:
        if values[maker.outputs[0]].is_floating_point and values[maker.inputs[0]].dtype == "bool":
            return maker
        maker = observed.trial.recording.maker(maker.inputs[0])
    return maker


def _makers(observed: Observed, maker: Operation) -> list[Operation]:
    """What made the mask that an operation takes, the last step first."""
    found = {maker.index: maker}
    waiting = list(maker.inputs)
    while waiting:
        before = observed.trial.recording.maker(waiting.pop())
        if before is not None and before.index not in found:
            found[before.index] = before
            waiting += before.inputs
    return [found[index] for index in sorted(found, reverse=True)]


def _pattern(observed: Observed, number: int) -> Spot | None:
    """Where the pattern of a mask was made: the first operation, or the buffer's own line."""
    recording, labels = observed.trial.recording, observed.trial.labels
    current, plain = number, labels[number].kind == "uniform"  # then it never had a pattern
    best: Spot | None = None
    while True:
        maker = recording.maker(current)
        if maker is None:
            owner = owner_of(observed, current)
            return owner or best
        if not maker.inputs:
            return use_of(observed, maker) if plain else best or use_of(observed, maker)
        if maker.name not in VIEWS or best is None:
            best = use_of(observed, maker)
        inside = [each for each in maker.inputs if labels[each].kind == labels[number].kind]
        if plain and maker.name in _PATTERNS:
            return use_of(observed, maker)
        part = maker.name in VIEWS and recording.maker(maker.inputs[0]) is None  # of a buffer
        if not inside and part and not _is_right(labels[maker.inputs[0]]):
            return owner_of(observed, maker.inputs[0]) or use_of(observed, maker)
        if not inside or (_is_right(labels[inside[0]]) and not _is_right(labels[current])):
            return use_of(observed, maker)
        current = inside[0]


def _is_right(label: Identity) -> bool:
    """Whether a mask's pattern is the causal one, in either sense."""
    return label.order in ("up to", "beyond") and label.factor == 0


def unmasked_spots(observed: Observed, operation: Operation, number: int, made: Spot | None) -> Spots:
    """The lines for scores that a softmax takes without a mask; none if nothing says where the mask is lost.

    Args:
        observed: the candidate's run.
        operation: the operation that takes the scores.
        number: the value that it takes.
        made: the line that made the scores.
    """
    trial, use = observed.trial, use_of(observed, operation)
    label, last = trial.labels[number], trial.recording.maker(number)
    takes = {trial.labels[each].entry for each in last.inputs} if last is not None else set()
    masks = last is not None and (
        last.name in _MASKING or (last.name == "mul" and any(trial.labels[each].kind == "mask" for each in last.inputs))
    )
    if last is not None and masks and takes & {label.entry, _scores(observed, label)}:
        fill = _wrong_pattern(observed, last) or _fill(observed, last)
        return [(fill, "made here"), (use_of(observed, last), "made here"), (use, "used here")]
    masking = _masks_here(observed, operation)
    if masking is not None and masking.index > operation.index and masking.name in _MASKING:  # too late
        return [(use_of(observed, masking), "used here"), (use, "used here"), (made, "made here")]
    if masking is not None:
        return [(use, "used here"), (made, "made here")]
    unmasked = _not_given(operation.frames)
    return [(unmasked, "used here"), (use, "used here")] if unmasked is not None else []


def _fill(observed: Observed, operation: Operation) -> Spot | None:
    """Where the number is written that a mask fills in, if it hides nothing and is not in the operation's own line."""
    here = source.at(operation.frames[0]) if operation.frames else None
    place: int | str | None = 2 if operation.name.startswith("masked_fill") else None
    for number, taken in zip(operation.inputs, operation.places, strict=True):
        label = observed.trial.labels[number]
        if operation.name == "where" and label.kind == "uniform" and label.factor > FILL:
            place = taken
    argument = source.operand(here, place) if here is not None and place is not None else None
    if argument is None:
        return None
    written = origins.returned(origins.origin(argument, operation.frames))
    written = classes.attribute_behind(written) or written
    return written.spot if written.node is not argument.node else None


def _wrong_pattern(observed: Observed, operation: Operation) -> Spot | None:
    """Where the mask got its pattern, if it hides nothing or everything; where it got its numbers, if it is added."""
    for number in operation.inputs:
        value, label = observed.trial.recording.values[number], observed.trial.labels[number]
        if label.kind == "uniform" and math.prod(value.shape) > 1:
            return _pattern(observed, number)
        if value.is_floating_point and label.kind == "mask" and _is_right(label) and operation.name != "mul":
            maker = _behind_views(observed, number)
            return use_of(observed, maker) if maker is not None else owner_of(observed, number)
    return None


def _masks_here(observed: Observed, operation: Operation) -> Operation | None:
    """The last operation with a mask in the call of the function that an operation is in, or of one around it."""
    found = [
        each
        for each in observed.trial.recording.operations
        if each.index != operation.index
        and any(
            function_of(each.frames[0]) == function_of(frame) and each.frames[1:] == operation.frames[depth + 1 :]
            for depth, frame in enumerate(operation.frames)
            if each.frames
        )
        and any(observed.trial.labels[number].kind == "mask" for number in each.inputs)
    ]
    return found[-1] if found else None


def _not_given(frames: Sequence[Frame]) -> Spot | None:
    """The call that does not hand on what the code around an operation would have masked with."""
    here = source.at(frames[0])
    scope = source.enclosing(here.file, here.node) if here is not None else None
    if here is None or scope is None:
        return None
    for name in source.guards(scope):
        wanted = name
        for depth in range(1, len(frames)):
            outer = source.at(frames[depth], depth)
            if outer is None or not isinstance(outer.node, ast.Call) or scope is None:
                break
            given = source.given(outer.node, scope, wanted)
            if given is None or (isinstance(given, ast.Constant) and given.value is None):
                return spot_of(frames[depth])
            if not isinstance(given, ast.Name):
                break
            inner = source.enclosing(outer.file, outer.node)
            if inner is None or given.id not in source.parameters(inner):
                break
            scope, wanted = inner, given.id
    return None


def _scores(observed: Observed, label: Identity) -> object:
    """The entry of the scores that a step in the softmax starts from."""
    return None if label.entry is None else observed.table.by_key.get(scores_of(label.entry.key))


def scores_of(place: str) -> str:
    """The step that a step in the softmax starts from: the scores."""
    return f"{place.rpartition('.')[0]}.scores"
