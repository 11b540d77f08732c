"""What a recording is made of: operations, the values between them, and the lines of code that asked for them."""

import linecache
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Place: TypeAlias = int | str
"""Where an argument stood in a call: its position, or its keyword."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of somebody's code that was being executed.

    Args:
        file: path of the source file.
        function: name of the function that the line belongs to.
        line: first line of the expression, counted from 1.
        end_line: its last line.
        column: offset of its first byte in the first line, counted from 0.
        end_column: offset after its last byte in the last line.
        first_line: first line of the function, which tells functions of one name apart.
    """

    file: str
    function: str
    line: int
    end_line: int
    column: int
    end_column: int
    first_line: int

    @property
    def text(self) -> str:
        """The source line, without its indentation; empty where the source is not at hand."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def expression(self) -> str:
        """The part of the source that was being executed, lines joined by a blank."""
        lines = [linecache.getline(self.file, number).encode() for number in range(self.line, self.end_line + 1)]
        if not any(lines):
            return ""
        lines[-1] = lines[-1][: self.end_column]
        lines[0] = lines[0][self.column :]
        return " ".join(part.decode(errors="replace").strip() for part in lines)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor at one moment: what an operation made, or what was there before (`operation` is None).

    Args:
        number: its position in `Recording.values`.
        operation: the position of the operation that made it, None if no recorded operation did.
        position: which of the operation's outputs it is.
        shape: its shape.
        dtype: its element type as text, such as ``float64``.
    """

    number: int
    operation: int | None
    position: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_floating_point(self) -> bool:
        """Whether it holds real numbers."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a tensor operation.

    Args:
        index: its position in `Recording.operations`, the same in every run of deterministic code.
        name: of the operation: ``linear``, ``matmul``, ``add``, ``getitem``, ``alias`` for memory written through
            another tensor.
        inputs: numbers of the values that it took, in the order of its arguments.
        places: for each input, the argument it was (part of).
        outputs: numbers of the values that it made.
        constants: its other arguments (numbers, texts, slices), by place.
        frames: the user's lines, innermost first; empty if none of them is the user's.
        writes: whether it wrote into memory that was there before.
        module: the innermost module of torch's own (`nn.Linear`, `nn.GELU`) that called it, if one did.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    places: tuple[Place, ...]
    outputs: tuple[int, ...]
    constants: Mapping[Place, object]
    frames: tuple[Frame, ...]
    writes: bool = False
    module: object = field(default=None, repr=False, compare=False)

    @property
    def frame(self) -> Frame | None:
        """The innermost line of the user's."""
        return self.frames[0] if self.frames else None


@dataclass(frozen=True)
class Recording:
    """Every tensor operation of one call.

    Args:
        operations: in the order of execution.
        values: everything that the operations took and made.
        result: what the call returned.
        missing: what could not be recorded, in words; empty if everything was.
    """

    operations: tuple[Operation, ...]
    values: tuple[Value, ...]
    result: object
    missing: tuple[str, ...] = ()
    _numbers: Mapping[int, int] = field(default_factory=dict, repr=False)

    def number_of(self, tensor: object) -> int | None:
        """The value that a tensor (or array) inside `result` is, None if it is not known.

        Only for objects that were alive when the recording ended, such as the result's own tensors.
        """
        return self._numbers.get(id(tensor))

    def maker(self, number: int) -> Operation | None:
        """The operation that made a value, None if it was there before."""
        index = self.values[number].operation
        return None if index is None else self.operations[index]
