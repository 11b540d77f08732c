"""Finds out what a pickle would import and build, without running it.

A pickle is a program. `torch_pickle` and `distributed` call `scan` before they run one, and refuse it if it would
import something dangerous or build too much.
"""

import io
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from gpt2_from_scratch.checkpoint.binary import MAX_TABLE_BYTES, TRUNCATED
from gpt2_from_scratch.errors import FormatError

_DEEPEST = 1_000  # objects inside one another; settings have ten levels, and 800,000 take seconds to walk


@dataclass(eq=False, slots=True)
class _Built:
    """An object that the program would build: what it would hold, and how deeply that is nested.

    A string in `parts` is a string that the object holds, or the name of something that the program imports.
    """

    parts: "list[_Built | str]" = field(default_factory=list)
    depth: int = 0
    maker: str = ""  # the class or function that would be called for it

    def add(self, parts: "Iterable[_Built | str]") -> None:
        for part in parts:
            self.parts.append(part)
            if isinstance(part, _Built):
                self.depth = max(self.depth, part.depth + 1)
        if self.depth > _DEEPEST:
            raise ValueError(f"its objects are nested more than {_DEEPEST:,} deep")


class _OneRanksPart(Exception):
    """It makes tensors of `torch.distributed`, of which each rank has saved its own part."""


class Pickled(NamedTuple):
    """What a pickle would do."""

    names: list[str]  # what it imports
    mappings: set[str]  # the classes among them whose objects get items, as a dictionary does
    sequences: set[str]  # those whose objects get elements, as a list does
    strings: int
    protocol: int


_ATOM = _Built()  # a number or a storage: nothing is ever added to it

# Opcodes that add to the object at the bottom of what they take, and opcodes that call something.
_ADDING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_CALLING = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD")


def scan(path: Path, stream: io.BytesIO, most: int = MAX_TABLE_BYTES) -> Pickled:
    """Follows the next pickle in a stream without running it.

    The program's stack is simulated with strings and `_Built` objects on it. An object that is an argument of a call,
    or a key, is walked each time, as the call may do the same. A small file can make that take hours or gigabytes, with
    tuples of tuples that hold the same tuple twice, or a list that is filled after it was memorised.

    Args:
        path: of the file, for errors.
        stream: at the beginning of the pickle; afterwards behind its end.
        most: how many objects may be walked; about as many as the file may have bytes.

    Returns:
        What it imports and builds.

    Raises:
        FormatError: it is damaged, too long, or would build too much.
    """
    names: dict[str, None] = {}
    mappings: set[str] = set()
    sequences: set[str] = set()
    stack: list[_Built | str] = []
    marks: list[int] = []
    memo: dict[int, _Built | str] = {}
    protocol = strings = walked = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            taken = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                taken = len(stack) - marks.pop() + opcode.stack_before.index(pickletools.markobject)
            parts = stack[len(stack) - taken :]
            del stack[len(stack) - taken :]
            if opcode.name in _CALLING:
                walked = _walk(parts, walked, most)
            match opcode.name, argument:
                case "PROTO", int(protocol):
                    pass
                case "MARK", _:
                    marks.append(len(stack))
                case (("PUT" | "BINPUT" | "LONG_BINPUT"), int(key)):
                    if key > most:
                        raise ValueError("its memo has more places than the file has bytes")
                    memo[key] = stack[-1]
                case "MEMOIZE", _:
                    memo[len(memo)] = parts[0]
                    stack += parts
                case (("GET" | "BINGET" | "LONG_BINGET"), int(key)):
                    stack.append(memo[key])
                case (("GLOBAL" | "INST"), str(name)):
                    stack.append(name.replace(" ", ".", 1))
                    names[name.replace(" ", ".", 1)] = None
                case "STACK_GLOBAL", _:
                    stack.append(".".join(map(_name, parts)))
                    names[".".join(map(_name, parts))] = None
                case "BINPERSID", _:  # a storage
                    stack.append(_ATOM)
                case _, str() | bytes():
                    strings += 1
                    stack.append(str(argument))
                case name, _ if name in _ADDING:
                    target, *rest = parts
                    if not isinstance(target, _Built) or target is _ATOM:
                        raise ValueError(f"{name} on what holds nothing")
                    if name.startswith("SETITEM"):
                        mappings.add(target.maker)
                        walked = _walk(rest[::2], walked, most)  # keys are hashed
                    elif name.startswith("APPEND"):
                        sequences.add(target.maker)
                    target.add(rest)
                    stack.append(target)
                case _ if parts or opcode.name.startswith("EMPTY_") or opcode.name in ("LIST", "DICT"):
                    if opcode.stack_after:
                        built = _Built(maker=_name(parts[0]) if opcode.name in _CALLING else "")
                        _check_call(built.maker, parts)
                        built.add(parts)
                        stack.append(built)
                case _ if opcode.stack_after:
                    stack.append(_ATOM)
    except _OneRanksPart:
        raise FormatError(
            f"{path} holds one rank's parts of a model that was divided among ranks",
            "where it was trained, save a folder of torch.distributed.checkpoint, or the whole model: "
            "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))",
        ) from None
    except (ValueError, OverflowError, LookupError) as error:
        what = f"is damaged, or longer than {most:,} bytes"
        raise FormatError(f"{path}: the pickle in it {what}: {error}", TRUNCATED) from None
    return Pickled(list(names), mappings, sequences, strings, protocol)


def _name(part: "_Built | str") -> str:
    """A part that is a name; what a call of anything else makes has none."""
    return part if isinstance(part, str) else ""


def _check_call(maker: str, parts: "list[_Built | str]") -> None:
    """Refuses calls of what may be imported, but not with any arguments.

    Raises:
        ValueError: bytes are pickled as text to encode in Latin-1, and other codecs take hours, or any memory. A tensor
            with attributes of its own, as DeepSpeed's have, is made from a storage, and has no other's attributes.
        _OneRanksPart: the tensor is one of `torch.distributed`.
    """
    arguments = parts[1].parts if len(parts) > 1 and isinstance(parts[1], _Built) else []
    if maker == "_codecs.encode" and (len(arguments) != 2 or arguments[1] != "latin1"):
        raise ValueError("it encodes text in another way than Python's own pickles do")
    if maker == "torch._tensor._rebuild_from_type_v2":
        if len(arguments) > 1 and _name(arguments[1]).startswith("torch.distributed."):
            raise _OneRanksPart
        attributes = arguments[3].parts if len(arguments) == 4 and isinstance(arguments[3], _Built) else [maker]
        others = [each for each in attributes if each is not _ATOM and hasattr(Tensor, _name(each) or "data")]
        if others or arguments[:2] != ["torch._utils._rebuild_tensor_v2", "torch.Tensor"]:
            raise ValueError("it makes a tensor in another way than torch.save writes")
    if maker == "torch.Tensor":
        raise ValueError("it makes a tensor of any size")


def _walk(parts: "Iterable[_Built | str]", walked: int, most: int) -> int:
    """Counts the objects in these, shared ones each time they occur, on top of those walked before.

    Raises:
        ValueError: there are more than any checkpoint has.
    """
    pending: list[_Built | str] = []
    found = list(parts)
    while True:
        walked += len(found)  # before they are kept: a list that holds itself a thousand times grows at every step
        if walked > most:
            raise ValueError("its objects are nested without end")
        pending += found
        if not pending:
            return walked
        part = pending.pop()
        found = part.parts if isinstance(part, _Built) else []
