"""From an explanation to lines: where the wrong thing was made, and where it was used.

Which of them is accused depends on what is wrong. A constant is accused where it was written. A torch module's choice
is accused where the module was built. A wrong operand is accused where it is used if the right value is there under
another name, otherwise where the wrong one was made. A missing step is accused where the code that both its neighbours
share should have it.
"""

import ast
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity, Table
from gpt2_from_scratch.diagnose.lines import source
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS, Trial
from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.recorder import Frame, Operation

Role = Literal["made here", "used here", "passed on here"]


@dataclass(frozen=True)
class Line:
    """One line of the user's source, and what is the matter with it.

    Args:
        file: path of the file.
        line: counted from 1.
        column: offset of the expression in the line, counted from 0.
        text: the source line.
        role: whether the wrong thing is made, passed on or used here.
        says: what stands there.
        expected: what GPT-2 has.
        likely: whether a rule about wiring chose this line among several that could be repaired.
    """

    file: str
    line: int
    column: int
    text: str
    role: Role
    says: str
    expected: str
    likely: bool = False

    def __repr__(self) -> str:
        return short_repr("Line", str(self))

    @classmethod
    def of(cls, frame: Frame, role: Role, says: str, expected: str = "") -> "Line":
        """The line that a frame executes."""
        return cls(frame.file, frame.line, frame.column, frame.text, role, says, expected)

    def __str__(self) -> str:
        name = self.file.rsplit("/", 1)[-1]
        said = "; ".join(part for part in (self.says, self.expected) if part)
        return f"{name}:{self.line}  {self.text}   {said}".rstrip()


class Namer:
    """Names lines for explanations of one candidate.

    Args:
        root: the candidate's module, None for functions.
        trial: the run in which the operation was explained.
        table: GPT-2's values.
        before: the run before that, in which the operation was wrong.
    """

    def __init__(self, root: nn.Module | None, trial: Trial, table: Table, before: Trial | None = None) -> None:
        self.root, self.trial, self.table = root, trial, table
        self.before = before or trial

    def lines(self, explained: Explanation, culprit: Operation) -> list[Line]:
        """The lines, the accused first.

        Args:
            explained: what is wrong.
            culprit: the first operation that gives something unknown; the explained one may come a step later.
        """
        operation = explained.operation
        if not operation.frames:
            return []
        spots = _WAYS[explained.kind](self, explained)
        if culprit.index != operation.index:
            spots = [*_WAYS[explained.kind](self, replace(explained, operation=culprit)), *spots]
        if self._depth(operation):  # a function that other calls use rightly may still do this one wrong
            spots.append((_spot(operation.frames[0]), "used here"))
        dead = self._dead(explained) if explained.kind in ("factor", "operand") else None
        spots = [(dead, "made here"), *spots]
        spots += self._between(explained, [spot for spot, _ in spots if spot is not None])
        says, expected = words(explained, self.trial)
        found: list[Line] = []
        for spot, role in spots:
            if spot is None or any((line.file, line.line) == (spot.file, spot.line) for line in found):
                continue
            likely = explained.kind in ("operand", "order", "value", "module", "exchange") and not found
            text = spot.text
            found.append(
                Line(
                    spot.file,
                    spot.line,
                    spot.column,
                    text,
                    role,
                    says if not found else "",
                    expected if not found else "",
                    likely,
                )
            )
        return found[:_MOST_LINES]

    # -- ways

    def _constant(self, explained: Explanation) -> "Spots":
        operation = explained.operation
        built = self._built(operation)
        use = self._use(operation)
        if explained.place == "attn_mask":
            return [(use, "used here"), (built, "made here")]
        if built is not None:
            return [(self._setting(operation, explained), "made here"), (built, "made here"), (use, "used here")]
        here = source.at(operation.frames[0])
        place = explained.place
        written: Spot | None = None
        if here is not None and place is not None:
            argument = self._argument(here, operation, place)
            if argument is not None:
                literal = source.written_as(argument, operation.frames, explained.found)
                written = (literal or source.returned(source.origin(argument, operation.frames))).spot
        return [(written, "made here"), (use, "used here")] if written else [(use, "made here")]

    def _argument(self, here: Expression, operation: Operation, place: int | str) -> Expression | None:
        """The source of a constant; through the wrappers of torch's own the names of keywords change."""
        found = source.operand(here, place)
        if found is None and isinstance(here.node, ast.Call):
            value = operation.constants.get(place)
            literals = [each for each in here.node.args if isinstance(each, ast.Constant) and each.value == value]
            if len(literals) == 1:
                found = Expression(here.file, literals[0], here.depth)
        return found

    def _mask(self, explained: Explanation) -> "Spots":
        operation = explained.operation
        use = self._use(operation)
        if explained.position is None:  # it writes to its first operand
            return [(use, "made here")]
        number = operation.inputs[explained.position]
        label = self.trial.labels[number]
        right = _is_right(label)
        spots: list[tuple[Spot | None, Role]] = []
        if not right:
            pattern = self._pattern(number)
            if pattern is not None:
                spots.append((pattern, "made here"))
        else:
            maker = self.trial.recording.maker(number)
            while maker is not None and (maker.name in VIEWS or maker.name == "bool") and maker.inputs:
                maker = self.trial.recording.maker(maker.inputs[0])
            if maker is not None and maker.frames and maker.name not in ("tril", "triu", "tri"):
                spots.append((self._use(maker), "made here"))
        return [*spots, (use, "used here")]

    def _pattern(self, number: int) -> Spot | None:
        """Where the pattern of a mask was made: the first operation, or the buffer's own line."""
        recording = self.trial.recording
        current = number
        best: Spot | None = None
        while True:
            maker = recording.maker(current)
            if maker is None:
                owner = self._owner(current)
                return owner or best
            if not maker.inputs:
                return best or self._use(maker)
            if maker.name not in VIEWS or best is None:
                best = self._use(maker)
            inside = [each for each in maker.inputs if self.trial.labels[each].kind == "mask"]
            labels = self.trial.labels
            if not inside or (_is_right(labels[inside[0]]) and not _is_right(labels[current])):
                return self._use(maker)
            current = inside[0]

    def _owner(self, number: int) -> Spot | None:
        """Where the class that owns a buffer makes it."""
        value = self.trial.recording.values[number]
        users = self.trial.consumers.get(number, [])
        for user in users:
            here = source.at(user.frames[0]) if user.frames else None
            if here is None:
                continue
            for node in ast.walk(here.node):
                if isinstance(node, ast.Attribute) and source._is_self(node.value):
                    around = source.class_around(node)
                    found = source.attribute_of(here.file, around, node.attr) if around is not None else None
                    if found is not None:
                        return (source.origin(found, ()) if isinstance(found.node, ast.Name) else found).spot
                elif isinstance(node, ast.Name):
                    found = source.origin(Expression(here.file, node, 0), user.frames)
                    if found.node is not node and isinstance(found.node, ast.Call):
                        return found.spot
        del value
        return None

    def _factor(self, explained: Explanation) -> "Spots":
        assert explained.position is not None
        operation, trial = explained.operation, self.trial
        number = operation.inputs[explained.position]
        maker = self._where_factor(number)
        use = self._use(operation)
        if maker is None or not maker.frames:
            return [(use, "used here")]
        spots: list[tuple[Spot | None, Role]] = []
        gave = trial.labels[maker.outputs[0]]
        same = [each for each in maker.inputs if trial.labels[each].entry is gave.entry]
        here = source.at(maker.frames[0])
        numbers = [each for each in maker.constants.values() if isinstance(each, float)]
        root = self.table.sizes.get("D", 1) ** 0.5
        right = any(min(abs(each * root - 1), abs(each / root - 1)) < ROUNDED for each in numbers)  # wrongly used
        if same and here is not None and not right:
            for place in maker.constants:
                argument = source.operand(here, place)
                if argument is not None and not isinstance(argument.node, ast.Slice | ast.Tuple):
                    written = source.origin(argument, maker.frames)
                    if written.node is argument.node and not self._is_width(maker.constants[place]):
                        written = source.size_in(argument) or written
                    if written.node is not argument.node:
                        spots.append((written.spot, "made here"))
                        break
        built = self._built(maker)
        idle = self._idle(number)
        spots += [(idle, "made here"), (built, "made here"), (self._use(maker), "made here")]
        spots += [(self._use(each), "made here") for each in self._scaling(number) if each is not maker]
        return [*spots, (use, "used here")]

    def _idle(self, number: int) -> Spot | None:
        """A multiplication, or a division, on a value's way, that changes nothing: by 1."""
        label = self.trial.labels[number]
        for maker in self._ancestors(number):
            same = [each for each in maker.inputs if _same_step(self.trial.labels[each], label)]
            changes = any(abs(self.trial.labels[each].factor / label.factor - 1) > ROUNDED for each in same)
            if maker.name in ("mul", "div") and same and not changes and len(maker.inputs) == 1:
                return self._use(maker)
        return None

    def _scaling(self, number: int) -> list[Operation]:
        """Operations on a value's way, in the same step, that give a value a factor."""
        labels = self.trial.labels
        found = []
        for maker in self._ancestors(number):
            gave = labels[maker.outputs[0]]
            takes = [labels[each] for each in maker.inputs if labels[each].entry is gave.entry is not None]
            if takes and maker.name not in VIEWS and abs(takes[0].factor / gave.factor - 1) > ROUNDED:
                found.append(maker)
        return found

    def _ancestors(self, number: int) -> Iterator[Operation]:
        """What made a value, and what that took, back to the block's norm."""
        pending, seen = [number], set[int]()
        while pending:
            maker = self.trial.recording.maker(pending.pop())
            if maker is None or maker.index in seen:
                continue
            seen.add(maker.index)
            yield maker
            for each in maker.inputs:
                entry = self.trial.labels[each].entry
                if entry is not None and not entry.weight and ".attn." in entry.key:
                    pending.append(each)

    def _is_width(self, number: object) -> bool:
        """Whether a number is the width of a head, its root, or one by those: then its name is the right one."""
        width = self.table.sizes.get("D", 1)
        powers = (1.0, -1.0, 0.5, -0.5, 2.0)
        return isinstance(number, int | float) and any(abs(number / width**each - 1) <= ROUNDED for each in powers)

    def _where_factor(self, number: int) -> Operation | None:
        """The operation that gave a value its factor."""
        trial = self.trial
        for _ in range(64):
            label = trial.labels[number]
            maker = trial.recording.maker(number)
            if maker is None:
                return None
            same = [
                each
                for each in maker.inputs
                if _same_step(trial.labels[each], label)
                and abs(trial.labels[each].factor / label.factor - 1) <= ROUNDED
            ]
            if same:
                number = same[0]
                continue
            odd = [
                each
                for each in maker.inputs
                if trial.labels[each].entry is not label.entry
                and trial.labels[each].kind == "entry"
                and trial.labels[each].entry is not None
                and not trial.labels[each].entry.weight  # type: ignore[union-attr]
                and abs(trial.labels[each].factor - 1) > ROUNDED
                and maker.name in ("matmul", "bmm", "einsum", "linear", "baddbmm")
            ]
            if len(odd) == 1:
                number = odd[0]
                continue
            return maker
        return None

    def _order(self, explained: Explanation) -> "Spots":
        assert explained.position is not None
        operation = explained.operation
        use = self._use(operation)
        if operation.name in VIEWS:
            return [(use, "used here")]
        number = operation.inputs[explained.position]
        label = self.trial.labels[number]
        if label.kind == "entry" and label.entry is not None and label.order.replace(" ", "") == label.entry.axes:
            return [(use, "used here")]  # it is made in its usual order
        maker = self.trial.recording.maker(number)
        made: Spot | None = None
        if label.kind == "scrambled":
            while maker is not None and maker.inputs and self.trial.labels[maker.inputs[0]].kind == "scrambled":
                maker = self.trial.recording.maker(maker.inputs[0])
        while maker is not None and label.entry is not None and _role_of(label) == "":
            same = [each for each in maker.inputs if self.trial.labels[each].entry is label.entry]
            if not same or self.trial.labels[same[0]].order.replace(" ", "") == label.entry.axes:
                break
            maker = self.trial.recording.maker(same[0])
        if maker is not None and maker.frames:
            made = self._use(maker)
            roles = [_role_of(self.trial.labels[each]) for each in maker.inputs]
            if roles == ["k", "q"]:
                return [*self._bound(maker, 0, "q", made), (made, "used here"), (use, "used here")]
        return [(made, "made here"), (use, "used here")] if made else [(use, "used here")]

    def _exchange(self, explained: Explanation) -> "Spots":
        assert explained.position is not None
        assert isinstance(explained.wanted, Identity)
        use = self._use(explained.operation)
        role = _role_of(explained.wanted)
        return [*self._bound(explained.operation, explained.position, role, use), (use, "used here")]

    def _bound(self, operation: Operation, position: int, role: str, use: Spot | None) -> "Spots":
        """Where operands got their order: the call that exchanged them, or the assignment that named them wrongly."""
        argument = self._source_of(operation, position)
        if argument is None:
            return []
        argument = source.moved(argument)
        is_there = _role_of(self.trial.labels[operation.inputs[position]])
        while (outer := source.caller(argument, operation.frames)) is not None:
            if isinstance(argument.node, ast.Name) and role and _role_in(argument.node.id) == is_there:
                break  # its name is right: it is used wrongly
            argument = source.moved(outer)
        spot = argument.spot
        if use is not None and (spot.file, spot.function) != (use.file, use.function):
            if isinstance(argument.node, ast.Name) and role and _role_in(argument.node.id) == role:
                spots = self._binding_of(argument)
                if spots:
                    return [*spots, (spot, "used here")]
            return [(spot, "used here")]
        if isinstance(argument.node, ast.Name) and (not role or _role_in(argument.node.id) == role):
            return self._binding_of(argument)
        return []

    def _binding_of(self, argument: Expression) -> "Spots":
        """The statement that unpacked several values at once into names, behind statements that only move them."""
        for _, value in source.bindings(argument):
            inner = source.moved(Expression(argument.file, value, argument.depth))
            if isinstance(argument.node, ast.Name) and _renews(inner.node, argument.node.id):
                continue
            if isinstance(value, ast.GeneratorExp | ast.ListComp):  # what it runs over has the order
                value = value.generators[0].iter
                over = source.bindings(Expression(argument.file, value, argument.depth))
                value = over[0][1] if over else value
            return [(Spot(argument.file, value.lineno, value.col_offset), "made here")]
        return []

    def _operation(self, explained: Explanation) -> "Spots":
        built = self._built(explained.operation)
        use = self._use(explained.operation)
        return [(built, "made here"), (use, "used here")] if built else [(use, "made here")]

    def _operand(self, explained: Explanation) -> "Spots":
        assert explained.position is not None
        operation, trial = explained.operation, self.trial
        number = operation.inputs[explained.position]
        label, wanted = trial.labels[number], explained.wanted
        use = self._use(operation)
        whole = self._composite(operation)
        if whole is not None:
            return [(whole, "made here"), (use, "used here")]
        if not isinstance(wanted, Identity) or wanted.entry is None:  # ids, positions
            first = self._first(number) or trial.recording.maker(number)
            made = self._use(first) if first is not None and first.frames else self._owner(number)
            here = source.at(first.frames[0]) if first is not None and first.frames else None
            if first is not None and here is not None and first.name == "arange" and 1 in first.constants:
                start = source.operand(here, 0)
                if start is not None and isinstance(start.node, ast.Name):
                    made = source.origin(start, first.frames).spot
            return [(made, "made here"), (use, "used here")]
        if label.entry is not None and label.entry.weight and wanted.entry.weight:
            return self._weights(explained, label, wanted)
        if label.entry is wanted.entry and "DH" in label.order.replace(" ", ""):
            turned = self._turned(number)
            if turned is not None:
                return [(turned, "made here"), (use, "used here")]
        last = trial.recording.maker(number)
        if label.entry is wanted.entry and label.fixed == wanted.fixed and last is not None and last.name in VIEWS:
            return [(self._use(last), "made here"), (use, "used here")]
        if label.entry is wanted.entry and label.fixed != wanted.fixed:
            rows = trial.made(number)
            taken = [each for each in rows.inputs if trial.recording.values[each].dtype == "int64"] if rows else []
            if taken:
                first = self._first(taken[0])
                made = self._use(first) if first is not None else self._owner(taken[0])
                return [(made, "made here"), (self._use(rows), "used here")]
            written = self._index(rows) if rows is not None else None
            if written is not None:
                return [(written, "made here"), (self._use(rows), "used here"), (use, "used here")]
        if last is not None and last.name == "alias":  # written through another name
            return [(self._use(last), "made here"), (use, "used here")]
        maker = trial.made(number)
        made = self._use(maker) if maker is not None and maker.frames else self._owner(number)
        exists = any(
            trial.labels[value.number].entry is wanted.entry
            and trial.labels[value.number].kind == "entry"
            and abs(trial.labels[value.number].factor - 1) <= ROUNDED
            and trial.labels[value.number].fixed == wanted.fixed
            for value in trial.recording.values
            if value.operation is not None and value.operation < operation.index
        )
        if exists:
            return self._other_name(operation, explained.position, wanted, use, made)
        place, there = wanted.entry.place, label.entry.place if label.entry is not None else ""
        if maker is None or not maker.frames or label.entry is None:
            return [(made, "made here"), (use, "used here")]
        if there.rpartition(".")[2].isdigit():  # some heads are left out of a sum
            here = source.at(maker.frames[0])
            around = source.loop_around(here.node) if here is not None else None
            if here is not None and around is not None:
                return [(Spot(here.file, around.lineno, around.col_offset), "used here"), (made, "made here")]
        if is_sum(place) and not _lacks(there, place):
            parts = _SUMS[place]
            others = [
                frames
                for value in trial.recording.values
                if trial.labels[value.number].entry is not None
                and trial.labels[value.number].entry.place in parts  # type: ignore[union-attr]
                and trial.labels[value.number].entry.place != there  # type: ignore[union-attr]
                and value.number != number
                for frames in (
                    *(user.frames for user in trial.consumers.get(value.number, ()) if user.index < operation.index),
                    *((trial.recording.operations[value.operation].frames,) if value.operation is not None else ()),
                )
            ]
            shared = self._shared(maker.frames, *others) if others else None
            ignored = made if self._ignored(maker, 0) is not None else None
            last_step = self._handed_on(maker, shared)
            return [(ignored, "made here"), (last_step, "made here"), (shared or made, "made here"), (use, "used here")]
        if there.endswith(".mean_square") and place.endswith(".variance"):
            return [(made, "made here"), (use, "used here")]
        if _lacks(place, there):  # what is added later is there already
            return [(made, "made here"), (use, "used here")]
        if place.endswith(".masked"):
            last = trial.recording.maker(number)
            masking = last is not None and last.name in ("masked_fill", "masked_fill_", "where", "add", "sub", "copyto")
            takes = {trial.labels[each].entry for each in last.inputs} if last is not None else set()
            if last is not None and masking and takes & {label.entry, self._scores(label)}:
                fill = self._fill(last) or self._wrong_pattern(last)
                return [(fill, "made here"), (self._use(last), "made here"), (use, "used here")]
            if self._masks_here(operation):
                return [(use, "used here"), (made, "made here")]
            unmasked = self._not_given(operation.frames)
            if unmasked is not None:
                return [(unmasked, "used here"), (use, "used here")]
        if _lacks(there, place):
            while True:
                earlier = next((each for each in maker.inputs if _is_bare(trial.labels[each])), None)
                before = trial.made(earlier) if earlier is not None else None
                if before is None or not before.frames:
                    break
                maker, made = before, self._use(before)
            built = self._built(maker)
            ignored = self._ignored(operation, explained.position)
            return [(ignored, "used here"), (built, "made here"), (made, "made here"), (use, "used here")]
        if label.entry.key.rsplit(".", 1)[0] == wanted.entry.key.rsplit(".", 1)[0] and place[-2:] in (".q", ".k", ".v"):
            return [(made, "made here"), (use, "used here")]
        others = [
            user.frames for user in trial.consumers.get(number, ()) if user.name != operation.name and user.frames
        ]
        if label.entry.layer != wanted.entry.layer and label.entry.place == place:
            loop = self._loop(maker.frames) or self._loop(operation.frames)
            if loop is not None:
                return [(loop, "used here"), (made, "made here")]
        shared = self._shared(operation.frames, maker.frames, *others)
        switch = self._switch(operation.frames)
        return [(switch, "made here"), (shared or use, "used here"), (made, "made here")]

    def _handed_on(self, maker: Operation, line: Spot | None) -> Spot | None:
        """The next statement that takes what a line made, if it calls something with it and computes nothing."""
        for depth, frame in enumerate(maker.frames):
            here = source.at(frame, depth)
            if line is None or here is None or (frame.file, frame.line) != (line.file, line.line):
                continue
            following = source.next_with(here)
            run = {(each.frame.file, each.frame.line) for each in self.trial.recording.operations if each.frame}
            if following is None or not isinstance(following.node, ast.Call) or len(following.node.args) != 1:
                return None
            return None if (following.file, following.node.lineno) in run else following.spot
        return None

    def _switch(self, frames: Sequence[Frame]) -> Spot | None:
        """Where the condition is written of a step that the code around an operation could take and did not take."""
        run = {(frame.file, frame.line) for each in self.trial.recording.operations for frame in each.frames}
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
                    written = source.origin(Expression(here.file, test, depth), frames)
                    if isinstance(written.node, ast.Attribute):
                        written = source.attribute_behind(written) or written
                    if isinstance(written.node, ast.Constant):
                        return written.spot
        return None

    def _ignored(self, operation: Operation, position: int) -> Spot | None:
        """The line that should have used an argument of its function that nothing uses."""
        here = source.at(operation.frames[0])
        scope = source.enclosing(here.file, here.node) if here is not None else None
        if here is None or scope is None:
            return None
        loaded = {each.id for each in ast.walk(scope) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
        if not set(source.parameters(scope)) - loaded - {"self", "cls"}:
            return None
        argument = self._source_of(operation, position)
        names = [] if argument is None else [each for each in ast.walk(argument.node) if isinstance(each, ast.Name)]
        bound = [pair for each in names for pair in source.bindings(Expression(here.file, each, 0))]
        first = next((value for _, value in bound if value.lineno < here.node.lineno), None)
        return here.spot if first is None else Spot(here.file, first.lineno, first.col_offset, here.spot.function)

    def _index(self, rows: Operation) -> Spot | None:
        """Where the index of a row was written, if it was handed on from there."""
        here = source.at(rows.frames[0]) if rows.frames and rows.name in ("getitem", "select") else None
        index = source.operand(here, 1) if here is not None else None
        if index is None or not isinstance(index.node, ast.Name):
            return None
        written = source.origin(index, rows.frames)
        return written.spot if written.node is not index.node else None

    def _turned(self, number: int) -> Spot | None:
        """The operation that put the width of a head before the heads."""
        trial = self.trial
        while (maker := trial.recording.maker(number)) is not None and maker.inputs:
            before = trial.labels[maker.inputs[0]]
            if before.entry is not trial.labels[number].entry or "DH" not in before.order.replace(" ", ""):
                return self._use(maker)
            number = maker.inputs[0]
        return None

    def logits(self) -> list[Line]:
        """The lines for logits that are a multiple of GPT-2's, or another number of GPT-2's."""
        trial = self.trial
        label = trial.labels[trial.logits]
        if label.entry is None:
            return []
        maker = self._where_factor(trial.logits) if abs(label.factor - 1) > ROUNDED else trial.made(trial.logits)
        spot = self._use(maker)
        if spot is None:
            return []
        says = f"the candidate returns {label}"
        return [Line(spot.file, spot.line, spot.column, spot.text, "made here", says, "GPT-2 returns the logits")]

    def _weights(self, explained: Explanation, label: Identity, wanted: Identity) -> "Spots":
        operation = explained.operation
        assert label.entry is not None
        assert wanted.entry is not None
        assert explained.position is not None
        use = self._use(operation)
        frames = operation.frames
        owner = self._owner_of_both(label.entry.key, wanted.entry.key)
        ended = self._ended(operation, label, wanted)
        if ended is not None:
            return [(ended, "used here"), (use, "used here")]
        if label.entry.layer != wanted.entry.layer and None not in (label.entry.layer, wanted.entry.layer):
            index = self._arithmetic(frames)
            if index is not None:
                return [(index, "used here"), (use, "used here")]
            shared = self._shared_blocks()
            if shared is not None:
                return [(shared, "made here"), (use, "used here")]
            loop = self._loop(frames)
            if loop is not None and label.entry.place == wanted.entry.place:
                header = self._header(frames) if self._skips_blocks() else None
                return [(header, "used here"), (loop, "used here"), (use, "used here")]
            inside = self._in_class(frames, owner)
            if inside is not None:
                return [(inside, "used here"), (use, "used here")]
            return [(use, "used here"), (_spot(frames[-1]), "used here")]
        module, wanted_module = label.entry.key.rsplit(".", 1)[0], wanted.entry.key.rsplit(".", 1)[0]
        if module == wanted_module or self._depth(operation):
            return [(use, "used here")]
        inside = self._in_class(frames, owner)
        if inside is not None:
            return [(inside, "used here"), (use, "used here")]
        here = source.at(frames[0])
        if operation.module is None and here is not None:
            argument = source.operand(here, operation.places[explained.position])
            for depth in range(len(frames)):
                if argument is None:
                    break
                if (
                    isinstance(argument.node, ast.Attribute)
                    and source._is_self(argument.node.value)
                    and len(frames) > depth + 1
                ):
                    return [(_spot(frames[depth + 1]), "used here"), (use, "used here")]
                outer = source.caller(argument, frames)
                if outer is None:
                    if (
                        source.is_parameter(argument)
                        and argument.depth is not None
                        and len(frames) > argument.depth + 1
                    ):
                        return [(_spot(frames[argument.depth + 1]), "used here"), (use, "used here")]
                    return [(argument.spot, "used here"), (use, "used here")]
                argument = outer
        return [(use, "used here")]

    def _scores(self, label: Identity) -> object:
        """The entry of the scores that a step in the softmax starts from."""
        return None if label.entry is None else self.table.by_key.get(_masked_of(label.entry.key))

    def _fill(self, operation: Operation) -> Spot | None:
        """Where the number is written that a mask fills in, if that is not in the operation's own line."""
        here = source.at(operation.frames[0]) if operation.frames else None
        argument = source.operand(here, 2) if here is not None and operation.name.startswith("masked_fill") else None
        if argument is None:
            return None
        written = source.returned(source.origin(argument, operation.frames))
        return written.spot if written.node is not argument.node else None

    def _wrong_pattern(self, operation: Operation) -> Spot | None:
        """Where the mask got its pattern, if it hides nothing or everything."""
        for number in operation.inputs:
            value, label = self.trial.recording.values[number], self.trial.labels[number]
            if not value.is_floating_point and label.kind == "uniform" and math.prod(value.shape) > 1:
                return self._pattern(number)
        return None

    def _masks_here(self, operation: Operation) -> bool:
        """Whether the call of the function that an operation is in has an operation with a mask."""
        return any(
            each.index != operation.index
            and [_function(frame) for frame in each.frames[:1]] == [_function(frame) for frame in operation.frames[:1]]
            and each.frames[1:] == operation.frames[1:]
            and any(self.trial.labels[number].kind == "mask" for number in each.inputs)
            for each in self.trial.recording.operations
        )

    def _not_given(self, frames: Sequence[Frame]) -> Spot | None:
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
                    return _spot(frames[depth])
                if not isinstance(given, ast.Name):
                    break
                inner = source.enclosing(outer.file, outer.node)
                if inner is None or given.id not in source.parameters(inner):
                    break
                scope, wanted = inner, given.id
        return None

    def _in_class(self, frames: Sequence[Frame], names: Sequence[str] | None) -> Spot | None:
        """The innermost line in a method of a class."""
        for depth, frame in enumerate(frames):
            here = source.at(frame, depth)
            around = source.class_around(here.node) if here is not None else None
            if names is not None and around is not None and around.name in names:
                return _spot(frame)
        return None

    def _owner_of_both(self, one: str, other: str) -> list[str] | None:
        """Names of the class (and its bases) of the innermost module that holds two of GPT-2's weights."""
        if self.root is None:
            return None
        names: dict[str, str] = {}
        for name, parameter in self.root.named_parameters():
            label = self.table.identify(parameter)
            if label.kind == "entry" and label.entry is not None:
                names.setdefault(label.entry.key, name)
        if one not in names or other not in names:
            return None
        first, second = names[one].split("."), names[other].split(".")
        count = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        while count >= 0:
            owner = self.root.get_submodule(".".join(first[:count]))
            if not type(owner).__module__.startswith("torch."):
                return [each.__name__ for each in type(owner).__mro__]
            count -= 1
        return None

    def _shared_blocks(self) -> Spot | None:
        """Where a list of blocks is built that holds one block several times."""
        for name, module in self.root.named_modules() if self.root is not None else ():
            inside = list(module._modules.values())
            if len(inside) < 2 or len({id(each) for each in inside}) == len(inside) or self.root is None:
                continue
            parent, _, attribute = name.rpartition(".")
            owner = type(self.root.get_submodule(parent))
            found = source.attribute_in(owner, attribute)
            if found is not None:
                return source.returned(found).spot
        return None

    def _ended(self, operation: Operation, label: Identity, wanted: Identity) -> Spot | None:
        """The head of the loop over the blocks, if the final norm comes when a block should."""
        if label.entry is None or wanted.entry is None or label.entry.layer is not None:
            return None
        if not label.entry.key.startswith("ln_f.") or not wanted.entry.place.startswith("h.*.ln_1."):
            return None
        for each in self.before.recording.operations[: operation.index]:
            for number in each.inputs:
                entry = self.before.labels[number].entry
                if entry is not None and entry.weight and entry.place.startswith("h.*.ln_1."):
                    return self._header(each.frames)
        return None

    def _skips_blocks(self) -> bool:
        """Whether the run takes each block's weights together and once, and not all blocks' in their order."""
        order: list[int] = []
        norms: Counter[tuple[object, ...]] = Counter()  # uses of a block's first norm, by place
        for each in self.before.recording.operations:
            for number in each.inputs:
                entry = self.before.labels[number].entry
                layer = entry.layer if entry is not None and entry.weight else None
                if layer is not None and order[-1:] != [layer]:
                    order.append(layer)
                if entry is not None and entry.place == "h.*.ln_1.weight":
                    norms[(each.frames, each.name, layer)] += 1
        runs = order.count(order[0]) if len(set(order)) > 1 else 1  # some code runs prompt by prompt
        once = list(dict.fromkeys(order))
        return once * runs == order and max(norms.values(), default=0) == runs and once != sorted(self._layers())

    def _layers(self) -> set[int]:
        return {entry.layer for entry in self.table.entries if entry.layer is not None}

    def _arithmetic(self, frames: Sequence[Frame]) -> Spot | None:
        """Where a block is chosen by an index that is computed: ``self.blocks[i - 1]``."""
        for depth, frame in enumerate(frames):
            here = source.at(frame, depth)
            if here is None:
                continue
            names = [each for each in ast.walk(here.node) if isinstance(each, ast.Name)]
            bound = [
                value
                for each in names
                for _, value in source.bindings(Expression(here.file, each, depth))[:1]
                if value.lineno <= here.node.lineno
            ]
            for node in (here.node, *bound):
                for part in ast.walk(node):
                    if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.BinOp):
                        return Spot(here.file, node.lineno, node.col_offset, frame.function)
            if source.loop_around(here.node) is not None:
                break
        return None

    def _header(self, frames: Sequence[Frame]) -> Spot | None:
        """The head of the loop over the blocks, unless its body takes another block than the loop's."""
        for depth, frame in enumerate(frames):
            here = source.at(frame, depth)
            loop = source.loop_around(here.node) if here is not None else None
            if here is None or loop is None:
                continue
            targets = source._targets(loop.target)
            chosen = self._chosen(here, loop)
            for each in (*ast.walk(here.node), *(ast.walk(chosen) if chosen is not None else ())):
                index = each.slice if isinstance(each, ast.Subscript) else None
                index = index.lower if isinstance(index, ast.Slice) else index
                if isinstance(each, ast.FormattedValue):
                    index = each.value
                names = (
                    {part.id for part in ast.walk(index) if isinstance(part, ast.Name)} if index is not None else set()
                )
                if isinstance(index, ast.BinOp | ast.UnaryOp | ast.Call) and names & targets:
                    return None
            return Spot(frame.file, loop.lineno, loop.col_offset, frame.function)
        return None

    def _loop(self, frames: Sequence[Frame]) -> Spot | None:
        """The loop over the blocks: its head if the block is the loop's variable, otherwise the line in its body."""
        for depth, frame in enumerate(frames):
            here = source.at(frame, depth)
            if here is None:
                continue
            loop = source.loop_around(here.node)
            if loop is None:
                continue
            called = here.node.func if isinstance(here.node, ast.Call) else None
            targets = source._targets(loop.target)
            plain = isinstance(called, ast.Name) and called.id in targets
            arguments = here.node.args if isinstance(here.node, ast.Call) else []
            plain = plain or any(isinstance(each, ast.Name) and each.id in targets for each in arguments)
            if plain:
                return Spot(frame.file, loop.lineno, loop.col_offset, frame.function)
            chosen = self._chosen(here, loop)
            return (
                _spot(frame) if chosen is None else Spot(frame.file, chosen.lineno, chosen.col_offset, frame.function)
            )
        return None

    def _chosen(self, call: Expression, loop: ast.For) -> ast.expr | None:
        """Where the body of a loop chooses what a call in it calls or takes: ``block = self.blocks[i]``."""
        for each in ast.walk(call.node):
            if not isinstance(each, ast.Name):
                continue
            for statement, value in source.bindings(Expression(call.file, each, call.depth)):
                inside = loop in source.parents(statement) and value.lineno < call.node.lineno
                if inside and isinstance(value, ast.Subscript):
                    return value
        return None

    def _other_name(
        self, operation: Operation, position: int, wanted: Identity, use: Spot | None, made: Spot | None
    ) -> "Spots":
        """The right value is there, under another name: the use is wrong, or the name was bound to the wrong value."""
        argument = self._source_of(operation, position)
        if argument is None:
            return [(use, "used here"), (made, "made here")]
        argument = source.moved(argument)
        highest = self._reach(operation, wanted)
        while (outer := source.caller(argument, operation.frames)) is not None:
            if outer.depth is not None and outer.depth > highest:
                break
            argument = source.moved(outer)
        spot = argument.spot
        wanted_role = _role_of(wanted)
        if isinstance(argument.node, ast.Name) and wanted_role and _role_in(argument.node.id) == wanted_role:
            spots = self._binding_of(argument)
            if spots:
                return [*spots, (spot, "used here"), (made, "made here")]
        bound = source.bindings(argument)
        if not wanted_role and bound and self._together(operation, position, wanted):
            value = bound[0][1]
            return [(Spot(argument.file, value.lineno, value.col_offset), "made here"), (spot, "used here")]
        if bound:
            value = bound[0][1]
            before = [
                user
                for user in self.trial.consumers.get(operation.inputs[position], ())
                if user.index < operation.index and user.name == operation.name
            ]
            where = Spot(argument.file, value.lineno, value.col_offset, spot.function)
            statement = bound[0][0]
            if isinstance(statement, ast.Assign) and len(statement.targets) > 1:  # one name too many
                return [(where, "made here"), (spot, "used here"), (made, "made here")]
            if isinstance(value, ast.Name) and not before:
                return [(where, "made here"), (spot, "used here"), (made, "made here")]
            return [(spot, "used here"), (where, "made here")]
        return [(spot, "used here"), (made, "made here")]

    def _together(self, operation: Operation, position: int, wanted: Identity) -> bool:
        """Whether one operation made what is there and what is wanted: then its results got each other's names."""
        maker = self.trial.recording.maker(operation.inputs[position])
        outputs = maker.outputs if maker is not None and maker.name not in VIEWS else ()
        return any(self._is(self.trial.labels[number], wanted) for number in outputs)

    def _reach(self, operation: Operation, wanted: Identity) -> int:
        """How many calls up from an operation the right value is at hand: where it was made, in the same call."""
        frames, reach = operation.frames, -1
        for earlier in self.trial.recording.operations[: operation.index]:
            if not any(self._is(self.trial.labels[number], wanted) for number in earlier.outputs):
                continue
            pairs = zip(reversed(frames), reversed(earlier.frames), strict=False)
            for depth, (mine, other) in enumerate(pairs):
                if _function(mine) != _function(other):
                    break
                reach = max(reach, depth)
                if mine != other:
                    break
        return len(frames) - 1 - reach if reach >= 0 else len(frames)

    def _is(self, label: Identity, wanted: Identity) -> bool:
        """Whether a value is the one that is wanted, whatever the order of its axes."""
        return label.kind == "entry" and label.entry is wanted.entry and label.fixed == wanted.fixed

    def _dead(self, explained: Explanation) -> Spot | None:
        """Where a value is made that is right, or nearer to it, and that nothing takes."""
        operation, found, wanted = explained.operation, explained.found, explained.wanted
        right = wanted if isinstance(wanted, Identity) else found if isinstance(found, Identity) else None
        if right is None or right.entry is None or right.entry.weight:
            return None
        for earlier in reversed(self.trial.recording.operations[: operation.index]):
            for number in earlier.outputs:
                label = self.trial.labels[number]
                used = any(self.trial.consumers.get(each) for each in earlier.outputs)  # or a part of it
                if used or label.entry is None or not label.known or not earlier.frames:
                    continue
                if isinstance(found, Identity) and _alike(label, found):
                    continue
                here = _function(earlier.frames[0]) in {_function(frame) for frame in operation.frames}
                same = label.entry is right.entry or (
                    isinstance(wanted, float) and here and _masked_of(right.entry.place) == label.entry.place
                )
                if same and abs(label.factor - 1) <= ROUNDED:
                    return self._use(earlier)
        return None

    def _source_of(self, operation: Operation, position: int) -> Expression | None:
        here = source.at(operation.frames[0])
        if here is None:
            return None
        place = operation.places[position]
        if operation.module is not None:
            if place != 0 or not isinstance(here.node, ast.Call) or not here.node.args:
                return here
            return Expression(here.file, here.node.args[0], 0)
        return source.operand(here, place)

    def _value(self, explained: Explanation) -> "Spots":
        operation, use = explained.operation, self._use(explained.operation)
        labels = [self.trial.labels[number] for number in operation.inputs]
        table = any(each.entry is not None and each.entry.key in ("wte.weight", "wpe.weight") for each in labels)
        spots: Spots = []
        for number, label in zip(operation.inputs, labels, strict=True):
            if table and label.entry is None:  # which row it takes
                first = self._first(number)
                spots.append((self._use(first) if first is not None else self._owner(number), "made here"))
        return [*spots, (self._built_plain(operation), "made here"), (use, "made here")]

    def _built_plain(self, operation: Operation) -> Spot | None:
        """Where a module without matrices was built: an activation or a norm, whose choice may be wrong."""
        module = operation.module
        matrices = isinstance(module, nn.Module) and any(each.dim() > 1 for each in module.parameters())
        return None if matrices else self._built(operation)

    # -- places

    def _first(self, number: int) -> Operation | None:
        """The first operation in the making of a constant."""
        maker = self.trial.recording.maker(number)
        while maker is not None and maker.name in VIEWS and maker.inputs:
            earlier = self.trial.recording.maker(maker.inputs[0])
            if earlier is None or not earlier.frames:
                return maker
            maker = earlier
        return maker

    def _use(self, operation: Operation | None) -> Spot | None:
        """The line of an operation; of one in a function that other calls use rightly, the line of the call."""
        if operation is None or not operation.frames:
            return None
        depth = self._depth(operation)
        here = source.at(operation.frames[depth], depth) if depth else None
        if here is not None and isinstance(here.node, ast.Call):  # a function that was handed in
            handed = source.caller(Expression(here.file, here.node.func, depth), operation.frames)
            if handed is not None:
                return handed.spot
        return _spot(operation.frames[depth])

    def _depth(self, operation: Operation) -> int:
        """How many calls up the line is that is to blame: 0 unless calls from other lines gave a number of GPT-2's."""
        frames, before = operation.frames, self.before
        label = before.labels[operation.outputs[0]] if operation.outputs else None
        wrong = label is None or not label.known
        for depth in range(1, len(frames)):
            for other in before.recording.operations:
                if (
                    other.index == operation.index
                    or len(other.frames) != len(frames)
                    or other.frames[:depth] != frames[:depth]
                    or other.frames[depth + 1 :] != frames[depth + 1 :]
                    or _function(other.frames[depth]) != _function(frames[depth])
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

    def _between(self, explained: Explanation, known: Sequence[Spot]) -> "Spots":
        """Lines that pass a wrong operand on, from where it is used back to where it was made."""
        operation, position = explained.operation, explained.position
        if position is None or explained.kind not in ("operand", "factor", "order", "exchange"):
            return []
        found: Spots = []
        argument = self._source_of(operation, position)
        for _ in range(_MOST_STEPS):
            if argument is None:
                break
            argument = source.moved(argument)
            bound = source.bindings(argument) if isinstance(argument.node, ast.Name) else []
            bound = [pair for pair in bound if pair[1].lineno < argument.node.lineno]
            if bound:
                value = bound[0][1]
                found.append((Spot(argument.file, value.lineno, value.col_offset), "passed on here"))
                argument = Expression(argument.file, value, argument.depth)
                if isinstance(source.moved(argument).node, ast.Name):
                    continue
                break
            argument = source.caller(argument, operation.frames)
            if argument is not None:
                found.append((argument.spot, "passed on here"))
        taken = {(spot.file, spot.line) for spot in known}
        return [(spot, role) for spot, role in found if spot is not None and (spot.file, spot.line) not in taken]

    def _setting(self, operation: Operation, explained: Explanation) -> Spot | None:
        """The literal that the construction of one of torch's modules is given by way of a configuration."""
        call = self._construction(operation)
        if call is None or not isinstance(explained.found, float):
            return None
        for argument in (*[each.value for each in call.node.keywords], *call.node.args):  # type: ignore[attr-defined]
            given = Expression(call.file, argument, None)
            written = source.written_as(given, (), explained.found)
            if written is not None and written.node is not argument:
                return written.spot
        return None

    def _built(self, operation: Operation) -> Spot | None:
        """Where one of torch's modules was built, if the operation is in one."""
        call = self._construction(operation)
        return call.spot if call is not None else None

    def _construction(self, operation: Operation) -> Expression | None:
        """The call that built one of torch's modules, if the operation is in one."""
        module = operation.module
        if self.root is None or not isinstance(module, nn.Module):
            return None
        for name, each in self.root.named_modules():
            if each is not module:
                continue
            parts = name.split(".")
            kinds = [type(module)]
            for count in range(len(parts) - 1, -1, -1):
                owner = self.root.get_submodule(".".join(parts[:count]))
                if type(owner).__module__.startswith("torch."):
                    if type(owner).__module__ == "torch.nn.modules.transformer":  # it made the module
                        kinds.append(type(owner))
                    continue
                for kind in kinds:
                    found = source.constructions(kind, type(owner), ".".join(parts[count:]))
                    if found:
                        return found[0]
        return source.only_construction(type(module), operation.frames[0].file) if operation.frames else None

    def _composite(self, operation: Operation) -> Spot | None:
        """Where a layer of torch's was built that an operation is in, and that decides what the operation takes."""
        names = {id(module): name for name, module in self.root.named_modules()} if self.root is not None else {}
        parts = names.get(id(operation.module), "").split(".")
        for count in range(len(parts) - 1, 0, -1):
            assert self.root is not None
            owner = self.root.get_submodule(".".join(parts[:count]))
            if type(owner).__module__.startswith("torch.nn.modules.transformer") and operation.frames:
                call = source.only_construction(type(owner), operation.frames[0].file)
                return call.spot if call is not None else None
        return None

    def _shared(self, mine: Sequence[Frame], *others: Sequence[Frame]) -> Spot | None:
        """My line in the innermost call of a function that others are in, too."""
        deepest = -1
        for frames in others:
            for depth, (frame, other) in enumerate(zip(reversed(mine), reversed(frames), strict=False)):
                if (frame.file, frame.function, frame.first_line) != (other.file, other.function, other.first_line):
                    break
                deepest = max(deepest, depth)
                if frame != other:  # from here on they are in different calls
                    break
        return _spot(mine[len(mine) - 1 - deepest]) if deepest >= 0 else None


Spots = list[tuple[Spot | None, Role]]
_MOST_LINES = 4  # of one finding: more than a screenful of them helps nobody
_MOST_STEPS = 6  # of a value from name to name


def _function(frame: Frame) -> tuple[str, str, int]:
    return frame.file, frame.function, frame.first_line


def _renews(value: ast.expr, name: str) -> bool:
    """Whether a value is that of the name before, or a call that takes it: ``q = self.split_heads(q)``."""
    if isinstance(value, ast.GeneratorExp | ast.ListComp) and isinstance(value.generators[0].iter, ast.Tuple):
        return any(isinstance(each, ast.Name) and each.id == name for each in value.generators[0].iter.elts)
    if isinstance(value, ast.Call):
        return any(isinstance(each, ast.Name) and each.id == name for each in value.args)
    return isinstance(value, ast.Name) and value.id == name


def _spot(frame: Frame) -> Spot:
    return Spot(frame.file, frame.line, frame.column, frame.function)


def _is_right(label: Identity) -> bool:
    """Whether a mask's pattern is the causal one, in either sense."""
    return label.order in ("up to", "beyond") and label.factor == 0


_SUMS = {
    "embedding": ("wte", "wpe"),
    "h.*.middle": ("h.*.attn.output", "h.*.output", "embedding"),
    "h.*.output": ("h.*.mlp.output", "h.*.middle"),
}


def _same_step(one: Identity, other: Identity) -> bool:
    """Whether two values are the same entry, or belong to the same part of a block."""
    if one.entry is None or other.entry is None or one.entry.weight:
        return False
    return one.entry is other.entry or (
        one.entry.key.rsplit(".", 1)[0] == other.entry.key.rsplit(".", 1)[0] and abs(one.factor - 1) > ROUNDED
    )


def _alike(one: Identity, other: Identity) -> bool:
    """Whether two values are the same multiple of the same entry."""
    return one.entry is other.entry and abs(one.factor - other.factor) <= ROUNDED


def _masked_of(place: str) -> str:
    """The step that a step in the softmax starts from: the scores."""
    return f"{place.rpartition('.')[0]}.scores"


def _is_bare(label: Identity) -> bool:
    """Whether a value lacks a bias that GPT-2 adds."""
    return label.entry is not None and label.entry.place.endswith(("_without", ".projected"))


def _role_of(label: Identity) -> str:
    """``q``, ``k`` or ``v`` for queries, keys and values; empty for all else."""
    if label.entry is None:
        return ""
    last = label.entry.key.rsplit(".", 1)[-1].removesuffix("_without")
    if last in ("q", "k", "v"):
        return last
    return "qkv"[dict(label.fixed)["3"]] if last == "qkv" and "3" in dict(label.fixed) else ""


def _role_in(name: str) -> str:
    """The role that a name claims: it only decides between two lines that could both be repaired."""
    plain = name.lower().strip("_")
    for role, wholes in (
        ("q", ("q", "query", "queries")),
        ("k", ("k", "key", "keys")),
        ("v", ("v", "value", "values")),
    ):
        if plain in wholes or any(part in wholes for part in plain.split("_")) or plain.startswith(wholes[1][:3]):
            return role
    return plain[0] if plain[:1] in ("q", "k", "v") and len(plain) <= 3 else ""


def is_sum(place: str) -> bool:
    """Whether a step adds two values that are steps themselves."""
    return place in ("embedding", "h.*.middle", "h.*.output")


def _lacks(there: str, wanted: str) -> bool:
    """Whether one is the other without its bias, or an earlier part of the same step."""
    return (
        there.endswith(("_without", ".projected", ".visible"))
        or there == f"{wanted}.scaled"
        or there == f"{wanted}.normal"
    )


def words(explained: Explanation, trial: Trial) -> tuple[str, str]:
    """What stands there, and what GPT-2 has."""
    found, wanted = explained.found, explained.wanted
    if explained.kind in ("constant",):
        place = explained.place if isinstance(explained.place, str) else "the constant"
        has = "is not given" if found is None else f"is {_shown(found)}"
        return f"{place} {has}", f"GPT-2 has {_shown(wanted)}"
    if explained.kind == "mask" and explained.position is None:
        return "other scores are hidden here than those of later keys", "GPT-2 hides the keys after each query"
    if explained.kind == "mask":
        return f"the mask is {found}", "GPT-2 hides the keys after each query"
    if explained.kind == "factor":
        assert isinstance(found, Identity)
        if found.entry is not None and found.entry.place == "h.*.attn.masked":
            # The accused line may come before the mask. The factor is that of the scores either way.
            found = replace(found, entry=replace(found.entry, words="the attention scores"))
        right = found.entry if wanted == 1.0 else f"{wanted:.6g} times it"
        return f"this is {found}", f"GPT-2 has {right}"
    if explained.kind == "order":
        return f"this is {found} in another order of axes", f"GPT-2 has {explained.becomes} here"
    if explained.kind in ("operand", "module", "exchange"):
        has = (
            str(found)
            if isinstance(found, Identity) and found.kind != "unknown"
            else "a value that GPT-2 does not have"
        )
        exists = isinstance(wanted, Identity) and any(
            label.entry is wanted.entry and label.kind == "entry" for label in trial.labels
        )
        never = "" if exists or not isinstance(wanted, Identity) else ", which are never computed"
        return f"this is {has}", f"GPT-2 has {wanted} here{never}"
    if explained.kind == "extra":
        return f"{found} is applied to {explained.becomes}", "GPT-2 goes on with it as it is"
    if explained.kind == "operation":
        return f"{found} is computed here", f"GPT-2 has {explained.becomes}, by {wanted}"
    return "no number of GPT-2's is made here", f"GPT-2 has {explained.becomes}"


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return "a mask that hides later keys"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


_WAYS = {
    "constant": Namer._constant,
    "mask": Namer._mask,
    "factor": Namer._factor,
    "order": Namer._order,
    "module": Namer._operand,
    "exchange": Namer._exchange,
    "operand": Namer._operand,
    "operation": Namer._operation,
    "extra": Namer._operation,
    "value": Namer._value,
    "rounding": Namer._value,
}
