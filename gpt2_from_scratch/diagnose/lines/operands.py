"""The lines for an operand in whose place GPT-2 has another value.

If the right value exists under another name, the use is accused. Otherwise the right value is never computed: then the
line that made the wrong value is accused, or the code that should have taken the missing step.
"""

import ast
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity
from gpt2_from_scratch.diagnose.lines import origins, source
from gpt2_from_scratch.diagnose.lines.blocks import blocks_end, loop_line, weight_spots
from gpt2_from_scratch.diagnose.lines.built import without_bias
from gpt2_from_scratch.diagnose.lines.constants import factor_maker
from gpt2_from_scratch.diagnose.lines.explain import STREAMS, Explanation
from gpt2_from_scratch.diagnose.lines.masks import scores_of, unmasked_spots
from gpt2_from_scratch.diagnose.lines.missing import belongs_at, not_built, not_called
from gpt2_from_scratch.diagnose.lines.names import bound_as, other_name
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Spots,
    blamed_depth,
    built_at,
    call_at,
    composite_at,
    construction,
    first_maker,
    function_of,
    owner_of,
    shared_line,
    source_of,
    spot_of,
    switch_before,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS, Trial
from gpt2_from_scratch.recorder import Frame, Operation

_SUMS = {
    "embedding": ("wte", "wpe"),
    "h.*.middle": ("h.*.attn.output", "h.*.output", "embedding"),
    "h.*.output": ("h.*.mlp.output", "h.*.middle"),
}


def lifted(observed: Observed, explained: Explanation, epsilon: float) -> Explanation:
    """An explanation of what an operation takes, said of the operation before, where that is the plainer cause.

    A norm that is written out step by step may be taken of another value, or its epsilon be so small that the sum with
    it is the variance.
    """
    found, wanted, trial = explained.found, explained.wanted, observed.trial
    if explained.kind != "operand" or explained.position is None:
        return explained
    if not isinstance(found, Identity) or not isinstance(wanted, Identity) or not found.entry or not wanted.entry:
        return explained
    maker = trial.recording.maker(explained.operation.inputs[explained.position])
    numbers = [(place, each) for place, each in maker.constants.items() if isinstance(each, float)] if maker else []
    if (
        maker is not None
        and maker.frames
        and wanted.entry.place.endswith(".padded")
        and maker.name == "add"
        and numbers
    ):
        place, small = numbers[0]
        return replace(
            explained, kind="constant", operation=maker, position=None, place=place, found=small, wanted=epsilon
        )
    streams = [_normed(observed, each.key) for each in (found.entry, wanted.entry)]
    if None in streams or streams[0] is streams[1]:
        return explained
    pending, seen = [explained.operation.inputs[explained.position]], set[int]()
    while pending:
        maker = trial.recording.maker(pending.pop())
        if maker is None or maker.index in seen:
            continue
        seen.add(maker.index)
        for position, number in enumerate(maker.inputs):
            if trial.labels[number].entry is streams[0] and maker.frames:
                there = replace(trial.labels[number], entry=streams[1])
                return replace(explained, operation=maker, position=position, found=trial.labels[number], wanted=there)
        pending += maker.inputs
    return explained


def _normed(observed: Observed, key: str) -> Entry | None:
    """What a norm is taken of, given the key of a step inside of that norm; None for other steps."""
    norm, _, step = key.rpartition(".")
    layer, _, name = norm.removeprefix("h.").partition(".")
    if not step or (name not in ("ln_1", "ln_2") and norm != "ln_f"):
        return None
    last = max(each.layer for each in observed.table.entries if each.layer is not None)
    before = last if norm == "ln_f" else int(layer) - 1
    stream = f"h.{layer}.middle" if name == "ln_2" else f"h.{before}.output" if before >= 0 else "embedding"
    return observed.table.by_key.get(stream)


def operand_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for an operand in whose place GPT-2 has another value."""
    assert explained.position is not None
    operation, trial = explained.operation, observed.trial
    number = operation.inputs[explained.position]
    label, wanted = trial.labels[number], explained.wanted
    use = use_of(observed, operation)
    end = blocks_end(observed, operation, label, wanted) if isinstance(wanted, Identity) else None
    if end is not None:
        return [(end, "used here"), (use, "used here")]
    whole = composite_at(observed, operation)
    before = isinstance(wanted, Identity) and wanted.entry is not None and wanted.entry.place == "embedding"
    if whole is not None and not before:  # otherwise it was given another value
        return [(whole, "made here"), (use, "used here")]
    if not isinstance(wanted, Identity) or wanted.entry is None:
        return [(_integers_made(observed, number), "made here"), (use, "used here")]
    if label.entry is not None and label.entry.weight and wanted.entry.weight:
        return weight_spots(observed, explained, label, wanted)
    if wanted.entry.weight and label.entry is not None:  # a bias that is not added
        return other_name(observed, explained, wanted, use, None)
    first = trial.made(number)
    if label.entry is not None and explained.becomes.entry is label.entry and first is not None and first.frames:
        together = function_of(first.frames[0]) == function_of(operation.frames[0])
        if together or not _lacks(wanted.entry.place, label.entry.place):  # a step is taken twice: once too often
            return [(use, "used here"), (use_of(observed, first), "made here")]
    if label.entry is wanted.entry:
        spots = _same_value(observed, number, wanted, use)
        if spots:
            return spots
    last = trial.recording.maker(number)
    if last is not None and last.name == "alias":  # written through another name
        return [(use_of(observed, last), "made here"), (use, "used here")]
    written = _written_over(observed, number, wanted)
    if written is not None:
        return [(written, "made here"), (use, "used here")]
    maker = trial.made(number)
    made = use_of(observed, maker) if maker is not None and maker.frames else owner_of(observed, number)
    stale = not_renewed(observed, explained)
    if stale is not None:
        return [(stale, "used here"), (made, "made here"), (use, "used here")]
    again = _called_again(observed, operation)
    if again is not None:
        return [(again, "used here"), (made, "made here"), (use, "used here")]
    if exists(observed, operation, wanted):
        return other_name(observed, explained, wanted, use, made)
    if maker is None or not maker.frames or label.entry is None:
        limited = maker is not None and getattr(maker.module, "max_norm", None) is not None  # rows are shortened
        built = built_at(observed, maker, ("max_norm",)) if maker is not None and limited else None
        cut = _bound_anew(observed, number, wanted.entry) or _cut_wrongly(observed, number)
        call = shared_line(maker.frames, operation.frames) if maker is not None and label.entry is None else None
        return [(built, "made here"), (cut, "made here"), (call, "made here"), (made, "made here"), (use, "used here")]
    giver = factor_maker(observed, number) if abs(label.factor - 1) > ROUNDED else None
    unlike = _unlike(trial, giver) if giver is not None else None
    if unlike is not None:
        return [(use_of(observed, unlike), "made here"), (made, "made here"), (use, "used here")]
    multiple = trial.labels[giver.outputs[0]].entry if giver is not None else None
    if giver is not None and multiple is not None and multiple.weight:  # a weight times a number
        return [(use_of(observed, giver), "made here"), (made, "made here"), (use, "used here")]
    place, there = wanted.entry.place, label.entry.place
    if label.entry.key.startswith(f"{wanted.entry.key}.") and not there.rpartition(".")[2].isdigit():
        absent = not_built(observed, operation, number, wanted.entry.key)
        if absent is not None:
            return [(absent, "made here"), (made, "made here"), (use, "used here")]
        if not _lacks(there, place) and not place.endswith(".masked"):  # a step that ends too early
            return [(made, "made here"), (use, "used here")]
    step = there.rpartition(".")[2]
    if step.isdigit() or (step == "by_head" and place.rpartition(".")[2].isdigit()):  # heads are left out of a sum
        for depth, frame in enumerate(maker.frames):
            here = source.at(frame, depth)
            around = source.loop_around(here.node) if here is not None else None
            if here is not None and around is not None:
                head = Spot(here.file, around.lineno, around.col_offset)
                return [(head, "used here"), (spot_of(frame), "used here"), (made, "made here")]
    if place == there and _blocks_follow(observed, operation):  # it is taken before the last block has run
        return [(use, "used here"), (made, "made here")]
    if place in STREAMS and not _lacks(there, place):
        return _without_sum(observed, explained, maker, wanted)
    if there.endswith((".mean_square", ".squared_mean")) and place.endswith(".variance"):
        return [(made, "made here"), (use, "used here")]
    if _lacks(place, there):  # what is added later is there already
        return [(made, "made here"), (use, "used here")]
    if place.endswith(".masked") or "_open" in there:
        taken, scores = _at_scores(observed, operation, number)
        spots = unmasked_spots(observed, taken, scores, made)
        if spots:
            return spots
    if _lacks(there, place):
        return _without_bias(observed, explained, maker)
    if giver is not None and giver.frames and any(trial.labels[each].entry is label.entry for each in giver.inputs):
        return [(use_of(observed, giver), "made here"), (use, "used here")]  # the step was taken, wrongly
    sideways = label.entry.place.endswith(".log_probabilities")  # no step of GPT-2's follows from it
    if sideways or (maker.name not in VIEWS and any(trial.labels[each].entry is label.entry for each in maker.inputs)):
        return [(made, "made here"), (use, "used here")]  # or it gave what it took
    return _without_step(observed, explained, maker, wanted)


def _called_again(observed: Observed, operation: Operation) -> Spot | None:
    """The call that takes weights which the same block has taken before, rightly and in another line."""
    labels, depth = observed.before.labels, blamed_depth(observed, operation)

    def weights(each: Operation) -> set[str]:
        entries = [labels[number].entry for number in each.inputs]
        return {entry.key for entry in entries if entry is not None and entry.weight and entry.layer is not None}

    for each in observed.before.recording.operations[: operation.index if depth else 0]:
        elsewhere = len(each.frames) > depth and each.frames[depth].line != operation.frames[depth].line
        if elsewhere and weights(each) & weights(operation) and each.outputs and labels[each.outputs[0]].known:
            return call_at(operation.frames, depth)
    return None


def _blocks_follow(observed: Observed, operation: Operation) -> bool:
    """Whether weights of blocks are taken after an operation that takes none."""

    def layers(each: Operation) -> set[int | None]:
        entries = [observed.before.labels[number].entry for number in each.inputs]
        return {entry.layer for entry in entries if entry is not None and entry.weight}

    following = observed.before.recording.operations[operation.index + 1 :]
    return layers(operation) == {None} and any(layers(each) - {None} for each in following)


def _bound_anew(observed: Observed, number: int, wanted: Entry) -> Spot | None:
    """The line that gave a name something else, where it had a number of GPT-2's that the wanted one is made of."""
    recording, labels = observed.trial.recording, observed.trial.labels
    pending, makers = [number], dict[int, Operation]()
    while pending:
        maker = recording.maker(pending.pop())
        if maker is not None and maker.frames and maker.index not in makers:
            makers[maker.index] = maker
            pending += [each for each in maker.inputs if labels[each].entry is None]
    for index, maker in sorted(makers.items()):
        spot = spot_of(maker.frames[0])
        code = source.code_at(spot.file, spot.line)
        name = code.targets[0] if isinstance(code, ast.Assign) and len(code.targets) == 1 else None
        bound = source.bindings(Expression(spot.file, name, 0))[:1] if name is not None else []
        for _, value in bound:
            for earlier in recording.operations[:index] if value.lineno < spot.line else ():
                entry = labels[earlier.outputs[0]].entry if earlier.outputs else None
                there = any((frame.file, frame.line) == (spot.file, value.lineno) for frame in earlier.frames)
                if there and entry is not None and entry.main and module_of(entry) == module_of(wanted):
                    return spot
    return None


def _cut_wrongly(observed: Observed, number: int) -> Spot | None:
    """The operation that took parts of a parameter which are no weights, if a value is made of these alone."""
    trial, found = observed.before, dict[int, Operation]()
    pending, values = [number], observed.before.recording.values
    while pending:
        number = pending.pop()
        maker = trial.recording.maker(number)
        if maker is None or not values[number].is_floating_point:
            continue
        taken = [each for each in maker.inputs if values[each].is_floating_point]
        if any(trial.labels[each].entry is not None for each in (number, *taken)):
            return None
        source_of_all = [each for each in taken if trial.recording.maker(each) is None]
        if source_of_all and math.prod(values[number].shape) < math.prod(values[source_of_all[0]].shape):
            found[maker.index] = maker
        pending += taken
    return use_of(observed, next(iter(found.values()))) if len(found) == 1 else None


def _unlike(trial: Trial, operation: Operation) -> Operation | None:
    """What made no number of GPT-2's out of some, for an operand of an operation; None if its operands are known."""
    found: Operation | None = None
    pending = [each for each in operation.inputs if not trial.known(each)]
    while pending and (maker := trial.recording.maker(pending.pop())) is not None:
        found = maker
        pending = [each for each in maker.inputs if not trial.known(each)]
    return found


def of_outer_value(observed: Observed, operation: Operation) -> Spot | None:
    """The line in a function that moved the axes of another value than the one that it was given."""
    for number in operation.inputs:
        while (maker := observed.trial.recording.maker(number)) is not None and maker.name in VIEWS and maker.inputs:
            here = source.at(maker.frames[0]) if maker.frames else None
            scope = source.enclosing(here.file, here.node) if here is not None else None
            names = set(source.parameters(scope)) - {"self", "cls"} if scope is not None else set()
            taken = {each.id for each in ast.walk(scope) if isinstance(each, ast.Name)} if scope is not None else set()
            if here is not None and names and not names & taken:
                return here.spot
            number = maker.inputs[0]
    return None


def _at_scores(observed: Observed, operation: Operation, number: int) -> tuple[Operation, int]:
    """The operation that took scores as they are, on the way to a later step of the softmax, and what it took."""
    while (maker := observed.trial.recording.maker(number)) is not None and maker.inputs:
        entry = observed.trial.labels[number].entry
        if entry is None or "_open" not in entry.key:
            break
        operation, number = maker, maker.inputs[0]
    return operation, number


def _written_over(observed: Observed, number: int, wanted: Identity) -> Spot | None:
    """The operation that wrote to the right value's own memory."""
    maker = observed.trial.recording.maker(number)
    while maker is not None and maker.writes and maker.inputs:
        before = observed.trial.labels[maker.inputs[0]]
        if before.entry is wanted.entry and before.known and abs(before.factor - 1) <= ROUNDED:
            return use_of(observed, maker)
        maker = observed.trial.recording.maker(maker.inputs[0])
    return None


def _integers_made(observed: Observed, number: int) -> Spot | None:
    """Where ids or positions were made."""
    first = first_maker(observed, number) or observed.trial.recording.maker(number)
    if first is None or not first.frames:
        return owner_of(observed, number)
    if first.name in VIEWS and not observed.trial.labels[first.inputs[0]].detail.startswith("0, 1,"):
        return owner_of(observed, first.inputs[0]) or use_of(observed, first)
    here = source.at(first.frames[0])
    if here is not None and first.name == "arange" and 1 in first.constants:
        start = source.operand(here, 0)
        if start is not None and isinstance(start.node, ast.Name):
            return origins.origin(start, first.frames).spot
    return use_of(observed, first)


def _same_value(observed: Observed, number: int, wanted: Identity, use: Spot | None) -> Spots:
    """The lines that moved the axes of the right value wrongly, or took other rows of it; none if neither is so."""
    trial, label = observed.trial, observed.trial.labels[number]
    if "DH" in label.order.replace(" ", ""):
        turned = _turned(observed, number)
        if turned is not None:
            return [(turned, "made here"), (use, "used here")]
    if label.fixed == wanted.fixed:
        return []
    rows = trial.made(number)
    if rows is None:
        return []
    taken = [each for each in rows.inputs if trial.recording.values[each].dtype == "int64"]
    if taken:
        first = first_maker(observed, taken[0])
        made = use_of(observed, first) if first is not None else owner_of(observed, taken[0])
        return [(made, "made here"), (use_of(observed, rows), "used here")]
    if rows.name not in ("getitem", "select"):
        return []
    return [(_index(rows), "made here"), (use_of(observed, rows), "made here"), (use, "used here")]


def exists(observed: Observed, operation: Operation, wanted: Identity) -> bool:
    """Whether the value that is wanted was made before an operation."""
    trial = observed.trial
    return any(
        trial.labels[value.number].entry is wanted.entry
        and trial.labels[value.number].kind == "entry"
        and abs(trial.labels[value.number].factor - 1) <= ROUNDED
        and trial.labels[value.number].fixed == wanted.fixed
        for value in trial.recording.values
        if value.operation is not None and value.operation < operation.index
    )


def _without_sum(observed: Observed, explained: Explanation, maker: Operation, wanted: Identity) -> Spots:
    """The lines for a part of a sum that is there instead of the sum."""
    assert explained.position is not None
    assert wanted.entry is not None
    operation, trial = explained.operation, observed.trial
    number = operation.inputs[explained.position]
    there = trial.labels[number].entry
    others: list[Sequence[Frame]] = []  # of what makes, or takes, the other part
    for value in trial.recording.values:
        entry = trial.labels[value.number].entry
        if entry is None or entry.place not in _SUMS[wanted.entry.place] or value.number == number:
            continue
        if there is not None and entry.place == there.place:
            continue
        others += [user.frames for user in trial.consumers.get(value.number, ()) if user.index < operation.index]
        if value.operation is not None:
            others.append(trial.recording.operations[value.operation].frames)
    made, use = use_of(observed, maker), use_of(observed, operation)
    shared = shared_line(maker.frames, *(others or [operation.frames]))
    following = _handed_on(observed, maker, shared)
    dead = _untaken_part(observed, operation, wanted.entry, trial.labels[number])
    if dead is not None:
        summed = abs(trial.labels[number].factor - 1) > ROUNDED  # another sum was taken
        first = made if summed else following or dead
        return [(first, "made here"), (dead, "made here"), (use, "used here"), (made, "made here")]
    ignored = made if _ignored(maker, 0) is not None else None
    outer = _callers_line(observed, maker.frames, shared)
    if outer is not None:
        return [(outer, "made here"), (shared, "made here"), (made, "made here"), (use, "used here")]
    return [(ignored, "made here"), (following, "made here"), (shared or made, "made here"), (use, "used here")]


def not_renewed(observed: Observed, explained: Explanation) -> Spot | None:
    """The line of a loop over the blocks that takes in each turn the stream from before the loop."""
    found, wanted = explained.found, explained.wanted
    if explained.position is None or not isinstance(found, Identity) or not isinstance(wanted, Identity):
        return None
    maker = observed.trial.made(explained.operation.inputs[explained.position])
    stream = found.entry is not None and found.entry.place in STREAMS
    if not stream or wanted.entry is None or wanted.entry.place != "h.*.output" or maker is None:
        return None
    for depth, frame in enumerate(explained.operation.frames):
        here = source.at(frame, depth)
        loop = source.loop_around(here.node) if here is not None else None
        before = [each.line for each in maker.frames if function_of(each) == function_of(frame)]
        if loop is not None and before and before[0] < loop.lineno:
            return spot_of(frame)
    return None


def _untaken_part(observed: Observed, operation: Operation, sum_: Entry, there: Identity) -> Spot | None:
    """The line, beside an operation that takes one part of a sum, that makes the other part, which nothing takes."""
    trial = observed.before
    for value in trial.recording.values:
        entry, maker = trial.labels[value.number].entry, trial.recording.maker(value.number)
        if maker is not None and maker.index > operation.index:
            break
        if entry is None or entry.place not in _SUMS[sum_.place] or entry.layer != sum_.layer or entry is there.entry:
            continue
        if maker is not None and trial.labels[value.number].known and not trial.consumers.get(value.number):
            return shared_line(maker.frames, operation.frames)
    return None


def _callers_line(observed: Observed, frames: Sequence[Frame], line: Spot | None) -> Spot | None:
    """The call of the function that a line is in, if that function is called from another line of the caller, too."""
    for frame, outer in itertools.pairwise(frames):
        if line is None or (frame.file, frame.line) != (line.file, line.line):
            continue
        for each in observed.trial.recording.operations:
            for mine, around in itertools.pairwise(each.frames):
                same = function_of(mine) == function_of(frame) and function_of(around) == function_of(outer)
                if same and around.line != outer.line:
                    return spot_of(outer)
        return None
    return None


def _without_bias(observed: Observed, explained: Explanation, maker: Operation) -> Spots:
    """The lines for a value that lacks its bias, or the last part of its step."""
    assert explained.position is not None
    trial = observed.trial
    while True:
        earlier = next((each for each in maker.inputs if _is_bare(trial.labels[each])), None)
        before = trial.made(earlier) if earlier is not None else None
        if before is None or not before.frames:
            break
        maker = before
    ignored = _ignored(explained.operation, explained.position)
    made, use = use_of(observed, maker), use_of(observed, explained.operation)
    call = construction(observed, maker)
    built = without_bias(call) if call is not None else None
    return [(ignored, "used here"), (built, "made here"), (made, "made here"), (use, "used here")]


def _without_step(observed: Observed, explained: Explanation, maker: Operation, wanted: Identity) -> Spots:
    """The lines for a value of an earlier step, or of another block: the step that should follow is never taken."""
    assert explained.position is not None
    operation, trial = explained.operation, observed.trial
    number = operation.inputs[explained.position]
    label = trial.labels[number]
    assert label.entry is not None
    assert wanted.entry is not None
    place = wanted.entry.place
    made, use = use_of(observed, maker), use_of(observed, operation)
    if label.entry.main and not wanted.entry.main:  # the step is begun with the right value: its first part is left out
        return [(use, "used here"), (made, "made here")]
    for way in (not_built, not_called):
        absent = way(observed, operation, number, wanted.entry.key)
        if absent is not None:
            return [(absent, "made here"), (made, "made here"), (use, "used here")]
    bound = bound_as(operation, explained.position, wanted) if place[-2:] in (".q", ".k", ".v") else None
    if bound is not None:
        return [(bound, "made here"), (made, "made here"), (use, "used here")]
    if label.entry.key.rsplit(".", 1)[0] == wanted.entry.key.rsplit(".", 1)[0] and place[-2:] in (".q", ".k", ".v"):
        return [(made, "made here"), (use, "used here")]
    if label.entry.layer != wanted.entry.layer and label.entry.place == place:
        loop = loop_line(observed, maker.frames) or loop_line(observed, operation.frames)
        if loop is not None:
            return [(loop, "used here"), (made, "made here")]
    same, view = [number], trial.recording.maker(number)
    while view is not None and view.name in VIEWS and view.inputs and trial.labels[view.inputs[0]].entry is label.entry:
        same.append(view.inputs[0])
        view = trial.recording.maker(same[-1])
    users = [user for each in same for user in trial.consumers.get(each, ()) if user.name not in VIEWS]
    others = [user.frames for user in users if user.name != operation.name and user.frames]
    shared = shared_line(operation.frames, maker.frames, *others)
    switch = switch_before(observed, operation.frames)
    owner = belongs_at(observed, operation, wanted.entry.key)
    return [(switch, "made here"), (owner or shared or use, "used here"), (made, "made here")]


def _lacks(there: str, wanted: str) -> bool:
    """Whether one is the other without its bias, or an earlier part of the same step."""
    return (
        there.endswith(("_without", ".projected", ".visible"))
        or there == f"{wanted}.scaled"
        or there == f"{wanted}.normal"
    )


def _is_bare(label: Identity) -> bool:
    """Whether a value lacks a bias that GPT-2 adds."""
    return label.entry is not None and label.entry.place.endswith(("_without", ".projected"))


def _handed_on(observed: Observed, maker: Operation, line: Spot | None) -> Spot | None:
    """The next statement that takes what a line made, if it gives it on and computes nothing."""
    for depth, frame in enumerate(maker.frames):
        here = source.at(frame, depth)
        if line is None or here is None or (frame.file, frame.line) != (line.file, line.line):
            continue
        following = source.next_with(here)
        run = {(each.file, each.line) for other in observed.trial.recording.operations for each in other.frames}
        if following is None:
            return None
        calls = isinstance(following.node, ast.Call) and len(following.node.args) == 1
        if not calls and not (isinstance(following.node, ast.Name) and source.is_assigned(following.node)):
            return None
        idle = (following.file, following.node.lineno) not in run
        return following.spot if idle or source.unread(following.file, following.node.lineno) else None
    return None


def _ignored(operation: Operation, position: int) -> Spot | None:
    """The line that should have used an argument of its function that nothing uses."""
    here = source.at(operation.frames[0])
    scope = source.enclosing(here.file, here.node) if here is not None else None
    if here is None or scope is None:
        return None
    loaded = {each.id for each in ast.walk(scope) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    if not set(source.parameters(scope)) - loaded - {"self", "cls"}:
        return None
    argument = source_of(operation, position)
    names = [] if argument is None else [each for each in ast.walk(argument.node) if isinstance(each, ast.Name)]
    bound = [pair for each in names for pair in source.bindings(Expression(here.file, each, 0))]
    first = next((value for _, value in bound if value.lineno < here.node.lineno), None)
    return here.spot if first is None else Spot(here.file, first.lineno, first.col_offset, here.spot.function)


def _index(rows: Operation) -> Spot | None:
    """Where the index of a row was written, if it was handed on from there."""
    here = source.at(rows.frames[0]) if rows.frames else None
    index = source.operand(here, 1) if here is not None else None
    if index is None or not isinstance(index.node, ast.Name):
        return None
    written = origins.origin(index, rows.frames)
    return written.spot if written.node is not index.node else None


def _turned(observed: Observed, number: int) -> Spot | None:
    """The operation that put the width of a head before the heads."""
    trial = observed.trial
    while (maker := trial.recording.maker(number)) is not None and maker.inputs:
        before = trial.labels[maker.inputs[0]]
        if before.entry is not trial.labels[number].entry or "DH" not in before.order.replace(" ", ""):
            return use_of(observed, maker)
        number = maker.inputs[0]
    return None


def unused_value(observed: Observed, explained: Explanation) -> Spot | None:
    """Where a value is made that is right, or nearer to it, and that nothing takes."""
    operation, found, wanted = explained.operation, explained.found, explained.wanted
    right = wanted if isinstance(wanted, Identity) else found if isinstance(found, Identity) else None
    if right is None or right.entry is None or right.entry.weight:
        return None
    for earlier in reversed(observed.trial.recording.operations[: operation.index]):
        for number in earlier.outputs:
            label = observed.trial.labels[number]
            used = any(observed.trial.consumers.get(each) for each in earlier.outputs)  # or a part of it
            if used or label.entry is None or not label.known or not earlier.frames:
                continue
            if isinstance(found, Identity) and _alike(label, found):
                continue
            here = function_of(earlier.frames[0]) in {function_of(frame) for frame in operation.frames}
            same = label.entry is right.entry or (
                isinstance(wanted, float) and here and scores_of(right.entry.place) == label.entry.place
            )
            if same and abs(label.factor - 1) <= ROUNDED:
                made = use_of(observed, earlier)
                handed = made is not None and isinstance(source.code_at(made.file, made.line), ast.Return)
                handed = handed or earlier.frames[0].function.startswith("<")  # a comprehension
                return shared_line(earlier.frames, operation.frames) if handed else made
    return None


def unread_values(observed: Observed, explained: Explanation) -> list[tuple[Spot, bool, bool]]:
    """Where values of the step that is missing get names that nothing reads, the last one first.

    Returns:
        The places, and of each whether it is the wanted value itself, rather than what that is made of, and whether
        GPT-2 makes it of what is there.
    """
    operation, wanted, trial = explained.operation, explained.wanted, observed.trial
    found: list[tuple[Spot, bool, bool]] = []
    if not isinstance(wanted, Identity) or wanted.entry is None:
        return found
    parts, there = _SUMS.get(wanted.entry.place, ()), explained.found
    after = there.entry if isinstance(there, Identity) and there.entry is not None and not there.entry.weight else None
    for earlier in reversed(trial.recording.operations[: operation.index]):
        for number in earlier.outputs:
            label = trial.labels[number]
            entry = label.entry
            if trial.consumers.get(number) or entry is None or not label.known or abs(label.factor - 1) > ROUNDED:
                continue
            if entry is after:  # it is there
                continue
            part = entry.place.removesuffix(".weight") in parts
            same = entry.layer == wanted.entry.layer and module_of(entry) == module_of(wanted.entry)
            between = after is not None and after.order < entry.order < wanted.entry.order and not entry.weight
            if part or between or (same and not entry.weight):
                unread = (frame for frame in earlier.frames if source.unread(frame.file, frame.line))
                spots = [spot_of(frame) for frame in unread][:1]
                behind = between and (entry.place not in STREAMS or any(map(source.overwritten, spots)))
                found += [(spot, entry is wanted.entry, behind) for spot in spots]
    return found


def module_of(entry: Entry) -> list[str]:
    """The module of GPT-2's that a step belongs to: a norm, attention, the feed-forward layer."""
    return entry.key.split(".")[: 1 if entry.layer is None else 3]


def _alike(one: Identity, other: Identity) -> bool:
    """Whether two values are the same multiple of the same entry."""
    return one.entry is other.entry and abs(one.factor - other.factor) <= ROUNDED
