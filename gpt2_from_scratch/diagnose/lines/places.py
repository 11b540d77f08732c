"""Where in the user's source an operation is: the line that runs it, and the call that built its module.

The line of an operation is in the innermost function. If other calls use that function rightly, the line is that of
the call. Operations of torch's modules have a second place: the call that built the module.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from gpt2_from_scratch.anatomy.identity import ROUNDED, Table
from gpt2_from_scratch.diagnose.lines import classes, origins, source
from gpt2_from_scratch.diagnose.lines.built import argument_named, building_call
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot, last_name
from gpt2_from_scratch.diagnose.lines.trial import VIEWS, Trial
from gpt2_from_scratch.recorder import Frame, Operation

Role = Literal["made here", "used here", "passed on here", "edited by the patch"]
Spots = list[tuple[Spot | None, Role]]


@dataclass(frozen=True)
class Observed:
    """What is known of a candidate when lines are named.

    Args:
        root: the candidate's module, None for functions.
        trial: the run in which the operation was explained.
        table: GPT-2's values.
        before: the run before that, in which the operation was wrong.
    """

    root: nn.Module | None
    trial: Trial
    table: Table
    before: Trial

    def parameter(self, key: str) -> nn.Parameter | None:
        """The candidate's parameter that holds a weight of GPT-2's, None if there is none."""
        for each in self.root.parameters() if self.root is not None else ():
            entry = self.table.identify(each).entry
            if entry is not None and entry.key == key:
                return each
        return None


def spot_of(frame: Frame) -> Spot:
    """The place that a frame executes."""
    return Spot(frame.file, frame.line, frame.column, frame.function)


def function_of(frame: Frame) -> tuple[str, str, int]:
    """The function that a frame is a call of: its file, its name and its first line."""
    return frame.file, frame.function, frame.first_line


def use_of(observed: Observed, operation: Operation | None) -> Spot | None:
    """The line of an operation; of one in a function that other calls use rightly, the line of the call."""
    if operation is None or not operation.frames:
        return None
    depth = blamed_depth(observed, operation)
    return call_at(operation.frames, depth) if depth else spot_of(operation.frames[0])


def call_at(frames: Sequence[Frame], depth: int) -> Spot:
    """The place that a frame executes; of a call of a function that was handed in, where that was given."""
    here = source.at(frames[depth], depth)
    called = here.node.func if here is not None and isinstance(here.node, ast.Call) else None
    handed = source.caller(Expression(here.file, called, depth), frames) if here is not None and called else None
    return handed.spot if handed is not None else spot_of(frames[depth])


def blamed_depth(observed: Observed, operation: Operation) -> int:
    """How many calls up the line is that is to blame: 0 unless calls from other lines gave a number of GPT-2's."""
    frames, before = operation.frames, observed.before
    label = before.labels[operation.outputs[0]] if operation.outputs else None
    wrong = label is None or not label.known
    for depth in range(1, len(frames)):
        for other in before.recording.operations:
            if (
                other.index == operation.index
                or len(other.frames) != len(frames)
                or other.frames[:depth] != frames[:depth]
                or other.frames[depth + 1 :] != frames[depth + 1 :]
                or function_of(other.frames[depth]) != function_of(frames[depth])
                or other.frames[depth].line == frames[depth].line
                or not other.outputs
            ):
                continue
            gave = before.labels[other.outputs[0]]
            if gave.entry is None or not gave.known or abs(gave.factor - 1) > ROUNDED:
                continue
            if gave.entry.main or wrong:
                return depth
    return 0


def source_of(operation: Operation, position: int) -> Expression | None:
    """The expression in the source that an operation takes as one of its inputs."""
    here = source.at(operation.frames[0])
    if here is None:
        return None
    place = operation.places[position]
    if operation.module is not None:
        if place != 0 or not isinstance(here.node, ast.Call) or not here.node.args:
            return here
        return Expression(here.file, here.node.args[0], 0)
    return source.operand(here, place)


def first_maker(observed: Observed, number: int) -> Operation | None:
    """The first operation in the making of a constant."""
    maker = observed.trial.recording.maker(number)
    while maker is not None and maker.name in VIEWS and maker.inputs:
        earlier = observed.trial.recording.maker(maker.inputs[0])
        if earlier is None or not earlier.frames:
            return maker
        maker = earlier
    return maker


def owner_of(observed: Observed, number: int) -> Spot | None:
    """Where the class that owns a buffer makes it."""
    users = observed.trial.consumers.get(number, [])
    for user in users:
        here = source.at(user.frames[0]) if user.frames else None
        if here is None:
            continue
        for node in ast.walk(here.node):
            if isinstance(node, ast.Attribute) and source.is_self(node.value):
                around = source.class_around(node)
                found = classes.attribute_of(here.file, around, node.attr) if around is not None else None
                if found is not None:
                    inner = source.moved(found)
                    while isinstance(inner.node, ast.Subscript):
                        inner = Expression(inner.file, inner.node.value, None)
                    return (origins.origin(inner, ()) if isinstance(inner.node, ast.Name) else found).spot
            elif isinstance(node, ast.Name):
                found = origins.origin(Expression(here.file, node, 0), user.frames)
                found = classes.attribute_behind(found) or found
                if found.node is not node and isinstance(found.node, ast.Call):
                    return found.spot
    return None


def built_at(observed: Observed, operation: Operation, arguments: Sequence[str] = ()) -> Spot | None:
    """Where one of torch's modules was built, if the operation is in one.

    Args:
        observed: the candidate's run.
        operation: in the module.
        arguments: of the call, that decide what is wrong: the line is that of the first one that is given.
    """
    call = construction(observed, operation)
    if call is None:
        return None
    kind = getattr(nn, last_name(call.node.func), None) if isinstance(call.node, ast.Call) else None
    argument = argument_named(call, arguments, kind if isinstance(kind, type) else None)
    return (argument or call).spot


def plain_built_at(observed: Observed, operation: Operation) -> Spot | None:
    """Where a module without matrices was built: an activation or a norm, whose choice may be wrong."""
    module = operation.module
    matrices = isinstance(module, nn.Module) and any(each.dim() > 1 for each in module.parameters())
    return None if matrices else built_at(observed, operation, ("activation",))


def construction(observed: Observed, operation: Operation) -> Expression | None:
    """The call that built one of torch's modules, if the operation is in one."""
    module = operation.module
    if observed.root is None or not isinstance(module, nn.Module):
        return None
    found = building_call(observed.root, module)
    if found is not None:
        return found
    return classes.only_construction(type(module), operation.frames[0].file) if operation.frames else None


def composite_at(observed: Observed, operation: Operation) -> Spot | None:
    """Where a layer of torch's was built that an operation is in, and that decides what the operation takes."""
    names = {id(module): name for name, module in observed.root.named_modules()} if observed.root is not None else {}
    parts = names.get(id(operation.module), "").split(".")
    here = source.at(operation.frames[0]) if operation.frames else None
    if here is not None and isinstance(here.node, ast.Call) and last_name(here.node.func) == parts[-1]:
        return None  # the user's own line calls the part
    for count in range(len(parts) - 1, 0, -1):
        assert observed.root is not None
        owner = observed.root.get_submodule(".".join(parts[:count]))
        if type(owner).__module__.startswith("torch.nn.modules.transformer") and operation.frames:
            call = classes.only_construction(type(owner), operation.frames[0].file)
            if call is None:
                return None
            after = getattr(owner, "norm_first", True) is False
            order = argument_named(call, ("norm_first",), type(owner)) if after else None
            return (order or call).spot
    return None


def shared_line(mine: Sequence[Frame], *others: Sequence[Frame]) -> Spot | None:
    """My line in the innermost call of a function that others are in, too."""
    deepest = -1
    for frames in others:
        for depth, (frame, other) in enumerate(zip(reversed(mine), reversed(frames), strict=False)):
            if (frame.file, frame.function, frame.first_line) != (other.file, other.function, other.first_line):
                break
            deepest = max(deepest, depth)
            if frame != other:  # from here on they are in different calls
                break
    return spot_of(mine[len(mine) - 1 - deepest]) if deepest >= 0 else None


def switch_before(observed: Observed, frames: Sequence[Frame]) -> Spot | None:
    """Where the condition is written of a step that the code around an operation could take and did not take."""
    run = {(frame.file, frame.line) for each in observed.trial.recording.operations for frame in each.frames}
    for depth, frame in enumerate(frames):
        here = source.at(frame, depth)
        scope = source.enclosing(here.file, here.node) if here is not None else None
        for each in ast.walk(scope) if here is not None and scope is not None else ():
            if not isinstance(each, ast.If) or each.lineno > frame.line or not each.body:
                continue
            lines = range(each.body[0].lineno, (each.body[-1].end_lineno or each.body[-1].lineno) + 1)
            if any((frame.file, line) in run for line in lines):
                continue
            test = each.test.operand if isinstance(each.test, ast.UnaryOp) else each.test
            calls = any(isinstance(part, ast.Call) for step in each.body for part in ast.walk(step))
            if calls and here is not None and isinstance(test, ast.Name | ast.Attribute | ast.Subscript):
                written = origins.origin(Expression(here.file, test, depth), frames)
                if isinstance(written.node, ast.Attribute):
                    written = classes.attribute_behind(written) or written
                if isinstance(written.node, ast.Constant):
                    return written.spot
    return None
