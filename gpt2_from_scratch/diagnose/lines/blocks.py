"""The lines for weights of another block or of another module.

Weights of another block are accused where the block is chosen: its index, the loop over the blocks, or the list that
holds one block several times. Weights of another module are accused in the class that owns both modules.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import Identity
from gpt2_from_scratch.diagnose.lines import classes, origins, source
from gpt2_from_scratch.diagnose.lines.built import one_object, too_few_blocks
from gpt2_from_scratch.diagnose.lines.explain import Explanation, is_weight
from gpt2_from_scratch.diagnose.lines.missing import not_called
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Spots,
    blamed_depth,
    call_at,
    function_of,
    shared_line,
    source_of,
    spot_of,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Frame, Operation

_HALVES = {"attention": ("att", "ln1", "ln_1", "self_att"), "feed-forward": ("ff", "mlp", "feed", "ln2", "ln_2")}


def weight_spots(observed: Observed, explained: Explanation, label: Identity, wanted: Identity) -> Spots:
    """The lines for a weight in whose place GPT-2 has another weight."""
    operation = explained.operation
    assert label.entry is not None
    assert wanted.entry is not None
    assert explained.position is not None
    use = use_of(observed, operation)
    frames = operation.frames
    owner = _owner_of_both(observed, label.entry.key, wanted.entry.key)
    second_name = one_object(observed.root, observed.parameter(label.entry.key))
    if second_name is not None:
        return [(second_name.spot, "made here"), (use, "used here")]
    unpacked = _unpacked(observed, operation, explained.position, wanted)
    if unpacked is not None:
        return [(unpacked, "made here"), (use, "used here")]
    seldom = _taken_by_others(observed, operation, label, wanted)
    if seldom is not None:
        return [(seldom, "used here"), (use, "used here")]
    other_block = label.entry.layer != wanted.entry.layer and None not in (label.entry.layer, wanted.entry.layer)
    if other_block:
        index = _always(observed, operation) or _arithmetic(frames) or _bound_late(frames)
        if index is not None:
            return [(index, "used here"), (use, "used here")]
    data = [each for each in operation.inputs if not is_weight(observed.trial.labels[each])]
    module = wanted.entry.key.rpartition(".")[0]
    left = bool(data) and label.entry.layer != wanted.entry.layer and label.entry.place != wanted.entry.place
    absent = not_called(observed, operation, data[0], module) if left else None
    absent = absent or _skipped(observed, operation, label, wanted)
    if absent is not None:
        return [(absent, "made here"), (use, "used here")]
    if other_block:
        shared = shared_modules(observed) or _built_once(observed, operation, label.entry.key)
        if shared is not None:
            return [(shared, "made here"), (use, "used here")]
        loop = loop_line(observed, frames)
        if loop is not None and label.entry.place == wanted.entry.place:
            order, layers = _order(observed), _layers(observed)
            header = _header(frames, set(order) != layers) if order not in ([], sorted(layers)) else None
            return [(header, "used here"), (loop, "used here"), (use, "used here")]
        inside = _in_class(frames, owner)
        if inside is not None:
            return [(inside, "used here"), (use, "used here")]
        return [(use, "used here"), (spot_of(frames[-1]), "used here")]
    module, wanted_module = label.entry.key.rsplit(".", 1)[0], wanted.entry.key.rsplit(".", 1)[0]
    if module == wanted_module:
        return [(use, "used here")]
    inside = use if blamed_depth(observed, operation) else _in_class(frames, owner)
    if inside is not None:
        named = _handed_out(frames, inside)
        labels = observed.before.labels
        right = any(  # then its name is right
            labels[each.outputs[0]].known and any(labels[number].entry is label.entry for number in each.inputs)
            for each in observed.before.recording.operations
            if each.outputs and each.index != operation.index and not is_weight(labels[each.outputs[0]])
            if any(source.called_alike(frame, inside) for frame in each.frames)
        )
        right = right or _half_of(inside.text) == _half_of(label.entry.key) != ""
        spots: Spots = [(inside, "used here"), *named] if right else [*named, (inside, "used here")]
        return [*spots, (use, "used here")]
    here = source.at(frames[0])
    if operation.module is None and here is not None:
        argument = source.operand(here, operation.places[explained.position])
        for depth in range(len(frames)):
            if argument is None:
                break
            argument = source.handed_on(argument)
            if (
                isinstance(argument.node, ast.Attribute)
                and source.is_self(argument.node.value)
                and len(frames) > depth + 1
            ):
                return [(spot_of(frames[depth + 1]), "used here"), (use, "used here")]
            outer = source.caller(argument, frames)
            if outer is None:
                around = argument.depth + 1 if argument.depth is not None else len(frames)
                if source.is_parameter(argument) and len(frames) > around:
                    return [(spot_of(frames[around]), "used here"), (use, "used here")]
                if source.takes_from_around(argument.node) and len(frames) > around:  # whoever made it chose the weight
                    return [(call_at(frames, around), "used here"), (argument.spot, "used here"), (use, "used here")]
                return [(argument.spot, "used here"), (use, "used here")]
            argument = outer
    return [(use, "used here")]


def _half_of(text: str) -> str:
    """The half of a block that a line, or the key of a weight, names: it only decides between two lines."""
    words = {word for word in re.split(r"[^a-z0-9_]+", text.lower()) if word}
    halves = [half for half, names in _HALVES.items() if any(word.startswith(names) for word in words)]
    return halves[0] if len(halves) == 1 else ""


def _skipped(observed: Observed, operation: Operation, label: Identity, wanted: Identity) -> Spot | None:
    """The line from which a step is missing whose weights nothing takes: it meets the next step of the block there."""
    assert label.entry is not None
    assert wanted.entry is not None
    taken: list[tuple[Operation, Entry]] = []
    for each in observed.before.recording.operations:
        entries = [observed.before.labels[number].entry for number in each.inputs]
        taken += [(each, entry) for entry in entries if entry is not None and entry.weight and each.name not in VIEWS]
    again = len({each.frames for each, entry in taken if entry is label.entry}) > 1  # then it stands in for the other
    if any(entry.place == wanted.entry.place for _, entry in taken) or again:
        return None
    if label.entry.layer is None or label.entry.layer != wanted.entry.layer or label.entry.order < wanted.entry.order:
        return None
    mine, module = operation.index, label.entry.key.rpartition(".")[0]
    next_ones = [each for each, entry in taken if each.index > mine and entry.key.rpartition(".")[0] != module]
    return shared_line(operation.frames, next_ones[0].frames) if next_ones else None


def _taken_by_others(observed: Observed, operation: Operation, label: Identity, wanted: Identity) -> Spot | None:
    """The line that should have taken a weight that nothing takes: it takes the same one of another block."""
    taken: dict[str, Operation] = {}
    assert label.entry is not None
    assert wanted.entry is not None
    for each in observed.before.recording.operations:
        for number in each.inputs:
            entry = observed.before.labels[number].entry
            if entry is not None and entry.place == wanted.entry.place and each.frames:
                taken.setdefault(entry.key, each)
    if not taken or wanted.entry.key in taken or label.entry.place == wanted.entry.place:
        return None
    return shared_line(next(iter(taken.values())).frames, operation.frames)


def _unpacked(observed: Observed, operation: Operation, position: int, wanted: Identity) -> Spot | None:
    """The statement that unpacks several weights, if the wanted one is used wrongly in the same call, too.

    Then two names are exchanged. If both stand in one line as arguments, that line is wrong, unless the names are like
    those of the parameters.
    """
    frames, alike = operation.frames, False
    argument = source_of(operation, position)
    while argument is not None:
        argument = source.moved(argument)
        if isinstance(argument.node, ast.Subscript):  # a part of it
            argument = Expression(argument.file, argument.node.value, argument.depth)
        bound = source.bindings(argument)
        if bound:
            break
        parameter, argument = source.is_parameter(argument), source.caller(argument, frames)
        name = argument.node if argument is not None else None
        alike = isinstance(name, ast.Name) and parameter is not None and name.id.startswith(parameter)
    if argument is None or argument.depth is None or not isinstance(bound[0][0], ast.Assign):
        return None
    if not isinstance(bound[0][0].targets[0], ast.Tuple):
        return None
    around = frames[argument.depth :]
    for other in observed.before.recording.operations:
        there = other.frames[len(other.frames) - len(around) :]
        if len(there) < len(around) or there[1:] != around[1:] or function_of(there[0]) != function_of(around[0]):
            continue
        labels = observed.before.labels
        takes = any(labels[each].entry is wanted.entry and labels[each].fixed == wanted.fixed for each in other.inputs)
        if takes and not labels[other.outputs[0]].known and (alike or there[0].line != around[0].line):
            return Spot(argument.file, bound[0][1].lineno, bound[0][1].col_offset, around[0].function)
    return None


def _handed_out(frames: Sequence[Frame], inside: Spot) -> Spots:
    """Where a name that is called in a line was bound with others: in a loop, or by taking several values apart."""
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        if here is None or spot_of(frame) != inside or not isinstance(here.node, ast.Call):
            continue
        called = here.node.func
        for loop in source.loops_around(here.node):
            if not isinstance(called, ast.Name) or called.id not in source.assigned_names(loop.target):
                continue
            targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
            position = next(at for at, each in enumerate(targets) if called.id in source.assigned_names(each))
            over = Expression(frame.file, source.part_of(loop, position), depth)
            handed = [Expression(frame.file, value, depth) for _, value in source.bindings(over)[:1]]
            target = Expression(frame.file, targets[position], depth)
            listed = [ast.dump(each) for each in loop.iter.args] if isinstance(loop.iter, ast.Call) else []
            twice = listed.count(ast.dump(over.node)) > 1  # in the place of another list
            numbers = [int(number) for each in targets for number in re.findall(r"\d+", ast.unparse(each))]
            counted = len(numbers) > 1 and numbers == sorted(numbers)  # these names are in their order
            lines = [over, target] if twice else [*handed, over, target] if counted else [*handed, target, over]
            return [(each.spot, "used here") for each in lines]
        for statement, value in source.bindings(Expression(frame.file, here.node.func, depth))[:1]:
            if isinstance(statement, ast.Assign):
                return [(Expression(frame.file, value, depth).spot, "used here")]
    return []


def _in_class(frames: Sequence[Frame], names: Sequence[str] | None) -> Spot | None:
    """The innermost line in a method of a class."""
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        around = source.class_around(here.node) if here is not None else None
        if names is not None and around is not None and around.name in names:
            return spot_of(frame)
    return None


def _owner_of_both(observed: Observed, one: str, other: str) -> list[str] | None:
    """Names of the class (and its bases) of the innermost module that holds two of GPT-2's weights."""
    if observed.root is None:
        return None
    names: dict[str, str] = {}
    for name, parameter in observed.root.named_parameters():
        label = observed.table.identify(parameter)
        if label.kind == "entry" and label.entry is not None:
            names.setdefault(label.entry.key, name)
    if one not in names or other not in names:
        return None
    first, second = names[one].split("."), names[other].split(".")
    count = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    while count >= 0:
        owner = observed.root.get_submodule(".".join(first[:count]))
        if not type(owner).__module__.startswith("torch."):
            return [each.__name__ for each in type(owner).__mro__]
        count -= 1
    return None


def shared_modules(observed: Observed) -> Spot | None:
    """Where a list of modules is built that holds one module with weights several times."""
    for name, module in observed.root.named_modules() if observed.root is not None else ():
        inside = [
            each for each in module._modules.values() if each is not None and any(True for _ in each.parameters())
        ]
        if len(inside) < 2 or len({id(each) for each in inside}) == len(inside) or observed.root is None:
            continue
        parent, _, attribute = name.rpartition(".")
        owner = type(observed.root.get_submodule(parent))
        found = classes.attribute_in(owner, attribute)
        if found is not None:
            return origins.returned(found).spot
    return None


def _built_once(observed: Observed, operation: Operation, key: str) -> Spot | None:
    """Where a module was built and given a name, if it stands in several places of the candidate."""
    weight, root = observed.parameter(key), observed.root
    named = list(root.named_modules(remove_duplicate=False)) if root is not None else []
    holding = [each for _, each in named if any(weight is own for own in each.parameters())]
    owner = next((each for each in holding if sum(each is other for other in holding) > 1), None)
    if owner is None:
        return None
    built: list[Spot] = []
    for file in sorted({frame.file for frame in operation.frames}):
        tree = source.tree(file)
        for each in ast.walk(tree) if tree is not None else ():
            call = each.value if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) else None
            if isinstance(call, ast.Call) and source.last_name(call.func) == type(owner).__name__:
                built.append(Expression(file, call, None).spot)
    return built[0] if len(built) == 1 else None


def blocks_end(observed: Observed, operation: Operation, label: Identity, wanted: Identity) -> Spot | None:
    """What ends the run over the blocks, if the final norm comes when a block should: their number, or the loop."""
    if label.entry is None or wanted.entry is None or label.entry.layer is not None:
        return None
    if not label.entry.key.startswith("ln_f.") or not wanted.entry.place.startswith("h.*.ln_1."):
        return None
    last = f"h.{max(_layers(observed))}.ln_1.weight"
    if observed.parameter(last) is None:
        pair = [observed.parameter(f"h.{layer}.ln_1.weight") for layer in (0, 1)]
        count = too_few_blocks(observed.root, *pair)
        if count is not None:
            return count.spot
    for each in observed.before.recording.operations[: operation.index]:
        for number in each.inputs:
            entry = observed.before.labels[number].entry
            norm = entry is not None and entry.weight and entry.place.startswith("h.*.ln_1.")
            header = _header(each.frames, counts=True) if norm else None
            if header is not None:
                return _in_loop_at(operation.frames, header) or header
    return None


def _in_loop_at(frames: Sequence[Frame], header: Spot) -> Spot | None:
    """The line of an operation in the body of the loop with this head, None if it is behind the loop."""
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        loop = source.loop_around(here.node) if here is not None else None
        if loop is not None and (frame.file, loop.lineno) == (header.file, header.line):
            return spot_of(frame)
    return None


def _order(observed: Observed) -> list[int]:
    """The blocks in the order in which the run takes them; empty if it takes one twice, or not as a whole."""
    order: list[int] = []
    norms: Counter[tuple[object, ...]] = Counter()  # uses of a block's first norm, by place
    labels = observed.before.labels
    for each in observed.before.recording.operations:
        gives = labels[each.outputs[0]].entry if each.outputs else None
        for number in each.inputs if gives is None or not gives.weight else ():  # otherwise they are only put ready
            entry = labels[number].entry
            layer = entry.layer if entry is not None and entry.weight else None
            if layer is not None and order[-1:] != [layer]:
                order.append(layer)
            if entry is not None and entry.place == "h.*.ln_1.weight":
                norms[(each.frames, each.name, layer)] += 1
    runs = order.count(order[0]) if len(set(order)) > 1 else 1  # some code runs prompt by prompt
    once = list(dict.fromkeys(order))
    return once if once * runs == order and max(norms.values(), default=0) == runs else []


def _layers(observed: Observed) -> set[int]:
    return {entry.layer for entry in observed.table.entries if entry.layer is not None}


def _always(observed: Observed, operation: Operation) -> Spot | None:
    """Where a block is chosen by a constant index, although other lines take one block after the other."""
    for depth, frame in enumerate(operation.frames):
        here = source.at(frame, depth)
        called = here.node.func if here is not None and isinstance(here.node, ast.Call) else None
        if not isinstance(called, ast.Subscript) or not isinstance(called.slice, ast.Constant | ast.UnaryOp):
            continue
        mine, others = set[int](), set[int]()
        for each in observed.before.recording.operations:
            taken = [observed.before.labels[number].entry for number in each.inputs]
            layers = {entry.layer for entry in taken if entry is not None and entry.weight and entry.layer is not None}
            if each.frames[-len(operation.frames) + depth :] == operation.frames[depth:]:
                mine |= layers
            else:
                others |= layers
        if len(mine) == 1 < len(others):
            return spot_of(frame)
    return None


def _arithmetic(frames: Sequence[Frame]) -> Spot | None:
    """Where a block is chosen by an index that is computed: ``self.blocks[i - 1]``."""
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        if here is None:
            continue
        names = [each for each in _without_calls(here.node) if isinstance(each, ast.Name)]
        bound = [
            value
            for each in names
            for _, value in source.bindings(Expression(here.file, each, depth))[:1]
            if value.lineno <= here.node.lineno
        ]
        for node in (here.node, *bound):
            for part in _without_calls(node):
                index = part.slice if isinstance(part, ast.Subscript) else None
                sign = isinstance(index, ast.UnaryOp) and not isinstance(index.operand, ast.Constant)
                sign = sign or (isinstance(index, ast.Call) and source.last_name(index.func) in ("min", "max", "int"))
                if index is not None and (sign or isinstance(index, ast.BinOp)) and not _is_text(index):
                    return Spot(here.file, node.lineno, node.col_offset, frame.function)
        if source.loop_around(here.node) is not None:
            break
    return None


def _without_calls(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression, without arguments that are calls: they have run before it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Call) or not isinstance(node, ast.Call) or child is node.func:
            yield from _without_calls(child)


def _is_text(node: ast.AST) -> bool:
    """Whether an expression puts texts together: ``w[name + ".weight"]``."""
    return any(
        isinstance(each, ast.JoinedStr) or (isinstance(each, ast.Constant) and isinstance(each.value, str))
        for each in ast.walk(node)
    )


def _bound_late(frames: Sequence[Frame]) -> Spot | None:
    """The line of an inner function that reads the variable of a loop around it: in each call it is the last one."""
    for frame in frames:
        here = source.at(frame)
        scope = source.scope_of(here.node) if here is not None else None
        if here is None or scope is None:
            continue
        names = {each.id for each in ast.walk(here.node) if isinstance(each, ast.Name)}
        names -= set(source.parameters(scope)) if isinstance(scope, ast.FunctionDef | ast.Lambda) else set()
        for around in source.parents(scope):
            targets: list[ast.expr] = []
            if isinstance(around, ast.ListComp | ast.GeneratorExp | ast.DictComp):
                targets = [each.target for each in around.generators]
            elif isinstance(around, ast.For):
                targets = [around.target]
                targets += [target for each in around.body if isinstance(each, ast.Assign) for target in each.targets]
            elif isinstance(around, ast.FunctionDef):
                break
            if any(names & source.assigned_names(target) for target in targets):
                return spot_of(frame)
    return None


def _header(frames: Sequence[Frame], counts: bool) -> Spot | None:
    """The head of the loop over the blocks, unless its body takes another block than the loop's.

    Args:
        frames: of an operation in the loop.
        counts: whether it is their number that is wrong: then it is where that is computed, if it is.
    """
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        loop = source.loop_around(here.node) if here is not None else None
        if here is None or loop is None:
            continue
        targets = source.assigned_names(loop.target)
        chosen = _chosen(here, loop)
        for each in (*ast.walk(here.node), *(ast.walk(chosen) if chosen is not None else ())):
            index = each.slice if isinstance(each, ast.Subscript) else None
            index = index.lower if isinstance(index, ast.Slice) else index
            if isinstance(each, ast.FormattedValue):
                index = each.value
            names = {part.id for part in ast.walk(index) if isinstance(part, ast.Name)} if index is not None else set()
            if isinstance(index, ast.BinOp | ast.UnaryOp | ast.Call) and names & targets:
                return None
        skips = [
            each for each in source.parents(here.node) if isinstance(each, ast.If) and loop in source.parents(each)
        ]
        if skips:  # not every turn of the loop takes its block
            return Expression(frame.file, skips[0].test, depth).spot
        ranges = [each for each in ast.walk(loop.iter) if source.is_range(each)]
        over = ranges[0] if len(ranges) == 1 else loop.iter
        end = origins.end_of_range(Expression(here.file, over, depth)) if counts else None  # type: ignore[arg-type]
        return end.spot if end is not None else Spot(frame.file, loop.lineno, loop.col_offset, frame.function)
    return None


def loop_line(observed: Observed, frames: Sequence[Frame]) -> Spot | None:
    """The loop over the blocks: its head if the block is the loop's variable, otherwise the line in its body."""
    found = _loop_over_blocks(observed, frames)
    if found is None:
        return None
    depth, here, loop = found
    frame, targets = frames[depth], source.assigned_names(loop.target)
    called = here.node.func if isinstance(here.node, ast.Call) else None
    arguments = here.node.args if isinstance(here.node, ast.Call) else []
    plain = isinstance(called, ast.Name) and called.id in targets
    if plain or any(isinstance(each, ast.Name) and each.id in targets for each in arguments):
        return Spot(frame.file, loop.lineno, loop.col_offset, frame.function)
    chosen = _chosen(here, loop)
    if chosen is None and _takes_as_it_is(here.node, targets):
        return Spot(frame.file, loop.lineno, loop.col_offset, frame.function)
    return spot_of(frame) if chosen is None else Spot(frame.file, chosen.lineno, chosen.col_offset, frame.function)


def _loop_over_blocks(observed: Observed, frames: Sequence[Frame]) -> tuple[int, Expression, ast.For] | None:
    """How many calls up the loop over the blocks is, the line in its body, and itself; else the innermost loop."""
    loops: list[tuple[int, Expression, ast.For]] = []
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        loop = source.loop_around(here.node) if here is not None else None
        loops += [(depth, here, loop)] if here is not None and loop is not None else []
    return next((each for each in loops if _over_blocks(observed, frames[each[0] :], each[2])), next(iter(loops), None))


def _over_blocks(observed: Observed, frames: Sequence[Frame], loop: ast.For) -> bool:
    """Whether the body of a loop takes weights of several blocks; a loop over the heads of one block does not."""
    layers = set[int]()
    for each in observed.before.recording.operations:
        inner = each.frames[-len(frames)] if len(each.frames) >= len(frames) else None
        if inner is None or each.frames[len(each.frames) - len(frames) + 1 :] != tuple(frames[1:]):
            continue
        if loop.lineno <= inner.line <= (loop.end_lineno or loop.lineno) and inner.file == frames[0].file:
            entries = [observed.before.labels[number].entry for number in each.inputs]
            layers |= {entry.layer for entry in entries if entry is not None and entry.layer is not None}
    return len(layers) > 1


def _takes_as_it_is(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression takes one of these names, and computes nothing with it but a text."""
    taken = [each for each in ast.walk(node) if isinstance(each, ast.Name) and each.id in names]
    sums = [each for name in taken for each in source.parents(name) if isinstance(each, ast.BinOp | ast.UnaryOp)]
    inside = [each for each in sums if node in source.parents(each)]
    return bool(taken) and all(_is_text(each) for each in inside)


def _chosen(call: Expression, loop: ast.For) -> ast.expr | None:
    """Where the body of a loop chooses what a call in it calls or takes: ``block = self.blocks[i]``."""
    for each in ast.walk(call.node):
        if not isinstance(each, ast.Name):
            continue
        for statement, value in source.bindings(Expression(call.file, each, call.depth)):
            inside = loop in source.parents(statement) and value.lineno < call.node.lineno
            if inside and isinstance(value, ast.Subscript):
                return value
    return None
