"""The command line: `gpt2 verify`, `map`, `record`, `grade`, `generate`, `inspect`, `convert`.

The library computes and never prints; this room prints and never computes. Results go to stdout, progress and errors
to stderr. Nothing heavy is imported before the arguments are known to be right.
"""

import faulthandler
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from gpt2_from_scratch.cli.arguments import parsed
from gpt2_from_scratch.cli.child import loads_code, run_in_child, speaker
from gpt2_from_scratch.cli.exit_codes import BROKEN_PIPE, COULD_NOT_CHECK, INTERRUPTED
from gpt2_from_scratch.cli.options import as_flags
from gpt2_from_scratch.cli.terminal import fitted
from gpt2_from_scratch.errors import CandidateError, CheckpointError, RankError, printable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: arguments without the program's name; None takes them from the command line.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this: `gpt2 inspect >&-`
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters that are in names
    arguments = parsed(argv)
    arguments.words = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv is None:
            with suppress(AttributeError, OSError, RuntimeError, ValueError):  # stderr may be closed, or be no file
                faulthandler.enable()  # a crash in C, as when a mapped file is cut short, then says where it happened
            if loads_code(arguments):
                return run_in_child()
        if arguments.checkpoint is None:
            arguments.checkpoint = "tiny"
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BaseException as error:
        return _failed(error)


def _failed(error: BaseException) -> int:
    """Says what went wrong, and returns the exit code for it: never one that looks like a verdict."""
    if _was_interrupted(error):
        _say("interrupted")
        return INTERRUPTED
    match error:
        case BrokenPipeError():  # the reader of our output left: `gpt2 inspect ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        case CheckpointError() | CandidateError() | RankError():
            _say(error.message, error.hint_in(as_flags))
        case OSError(filename=str(file), strerror=str(why)):  # a place that is read-only, a disk that is full
            _say(printable(f"{file}: {why}"))
        case ValueError() | OSError():  # a user's mistake, a report that cannot be written
            _say(printable(str(error)))
        case SystemExit():  # of code that was given as a model: its 0 would read as "verified"
            _say(f"your code called sys.exit({error.code!r}); nothing was verified")
        case _:
            traceback.print_exception(error)
            _say("unexpected error, see above: please report it")
    return COULD_NOT_CHECK


def _say(message: str, hint: str = "") -> None:
    """Prints what went wrong, and what to do, on stderr."""
    print(fitted(f"{speaker()}: {message}", sys.stderr, 2), file=sys.stderr)
    if hint:
        print(fitted(f"  hint: {printable(hint)}", sys.stderr, len("  hint: ")), file=sys.stderr)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it is a Ctrl-C, or something that one led to: an import that is interrupted ends in an ImportError."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))
