"""Every tensor operation of somebody's Python code: what it did, with what, and on which line of which file.

`record` runs a call and returns a `Recording`: operations (`Operation`) and the values between them (`Value`), with the
user's lines (`Frame`). Values are handed to a function as they appear and are not kept. Everything runs in float64.
A function mode sees torch's operations (`torch_calls`), and numpy's, which torch computes (`arrays.followed`). A `tape`
keeps what it saw. Nothing here knows what the code computes.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch

from gpt2_from_scratch.recorder.frames import Stack
from gpt2_from_scratch.recorder.graph import Frame, Operation, Recording, Value
from gpt2_from_scratch.recorder.tape import Again, Change, See, Tape
from gpt2_from_scratch.recorder.torch_calls import TorchCalls

__all__ = ["Again", "Change", "Frame", "Operation", "Recording", "See", "Value", "record"]


def record(
    call: Callable[[], object],
    *,
    see: See | None = None,
    change: Change | None = None,
    packages: Iterable[str] = (),
    arrays: object = None,
    skip: Iterable[str] = (),
) -> Recording:
    """Runs a call once and records every tensor operation in it, in float64 and without gradients.

    The call's own tensors, its modules and the state of the process are afterwards as they were before.

    Args:
        call: what to run.
        see: gets every value as soon as it exists, those that were there before when they are first used.
        change: may replace what an operation made; the run goes on with the replacement.
        packages: installed top-level packages whose lines count as the user's. Others are libraries.
        arrays: for numpy code: the function whose arrays (in closures, globals and attributes) are recorded, too.
        skip: files and folders whose lines are not the user's: those of the caller of `record`.

    Returns:
        What was recorded; `Recording.result` is what the call returned.

    Raises:
        Exception: whatever the call raises.

    Example:
        >>> weight = torch.ones(3, 2)
        >>> recording = record(lambda: torch.ones(2) @ weight.T + 1)
        >>> [operation.name for operation in recording.operations]
        ['ones', 'T', 'matmul', 'add']
    """
    tape = Tape(Stack(packages, skip), see, change)
    calls = TorchCalls(tape)
    default = torch.get_default_dtype()
    with ExitStack() as undo:
        undo.callback(calls.restore)
        undo.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float64)
        undo.enter_context(torch.no_grad())
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        if arrays is not None:
            # Imported here: numpy's functions over tensors, which torch code does not need.
            from gpt2_from_scratch.arrays.followed import following, unwrapped

            undo.enter_context(following(arrays, tape.stack.is_users))
        undo.enter_context(calls)
        result = _recorded_call(call)
        if arrays is not None:
            result = unwrapped(result)
    return Recording(tuple(tape.operations), tuple(tape.values), result, tuple(tape.missing), tape.numbers())


def _recorded_call(call: Callable[[], object]) -> object:
    return call()
