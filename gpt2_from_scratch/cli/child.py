"""Runs commands that load somebody's file (`verify --model`, `grade`) in a child process.

Somebody's code can end its process without an error: by `os._exit(0)`, by `exec`, by a crash in C. An exit code of 0
would then read as "verified". So the child tells its result by exit codes that nothing else uses, and any other end is
"could not check". All other commands run in the process that was started.
"""

import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from gpt2_from_scratch.cli.exit_codes import BROKEN_PIPE, COULD_NOT_CHECK, DIVERGED, INTERRUPTED, VERIFIED

# How the child says what `main` returned. Numbers that neither Python, nor shells, nor signals use.
_SAID = {VERIFIED: 210, DIVERGED: 211, COULD_NOT_CHECK: 212, INTERRUPTED: 213, BROKEN_PIPE: 214}
_RETURNED = {said: code for code, said in _SAID.items()}
_PROGRAM = "from gpt2_from_scratch.cli import child, main; child.child(main)"
_SECONDS = 1.0  # between two looks at whether the parent is still there
_LAST = 3.0  # seconds, from torchrun's signal, for a rank that has its result and is about to end; torchrun waits 30

_REMEDIES = {
    "SIGBUS": "a file that was mapped was cut short, or its disk failed: give --no-mmap, or a copy of the file",
    "SIGKILL": "most often memory ran out: close other programs, or use a machine with more memory",
}


def loads_code(arguments: argparse.Namespace) -> bool:
    """Whether the command loads somebody's file, given as FILE.py:NAME, or another rank may end it."""
    if ranks() > 1 and hasattr(arguments, "named"):  # `verify`
        return True
    return any(":" in (getattr(arguments, name, None) or "") for name in ("model", "check", "layout", "file_layout"))


def ranks() -> int:
    """How many processes torchrun has started with this command line; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def speaker() -> str:
    """Who speaks on stderr: ``gpt2``, and under torchrun on which rank."""
    return f"gpt2, rank {os.environ['RANK']}" if ranks() > 1 else "gpt2"


class _Stopped(Exception):
    """torchrun has sent SIGTERM, as it does to all ranks when one has ended with an error, or it is ended itself."""


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def run_in_child() -> int:
    """Runs this command line in a child process, and returns the exit code that its result means."""
    # -P: the folder that somebody stands in may hold a file named like a module of ours.
    # Under torchrun it is in a group of its own, so that torchrun's signal leaves it time to end by itself.
    group = 0 if ranks() > 1 and os.name == "posix" else None
    process = subprocess.Popen([sys.executable, "-P", "-c", _PROGRAM, *sys.argv[1:]], process_group=group)
    if ranks() > 1:
        signal.signal(signal.SIGTERM, _stop)
    interrupts = 0
    while True:
        try:
            ended = process.wait()
            break
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > 1:
                process.kill()
            elif os.name == "posix":  # a terminal has sent it to both, a program only to this process
                process.send_signal(signal.SIGINT)
        except _Stopped:
            try:
                ended = process.wait(_LAST)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                if os.environ["RANK"] == "0":
                    why = "torchrun stopped this rank; the rank that ended first is in torchrun's own report"
                    print(f"{speaker()}: could not check: {why}", file=sys.stderr)
                return COULD_NOT_CHECK
    if ranks() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result is known; Python's own end would forget `_stop`
    if ended in _RETURNED:
        return _RETURNED[ended]
    if interrupts or ended == -signal.SIGINT:
        print(f"{speaker()}: interrupted", file=sys.stderr)
        return INTERRUPTED
    how = f"exit code {ended}" if ended >= 0 else signal.Signals(-ended).name
    remedy = _REMEDIES.get(how, "your code, or what it calls, ended it: run it by itself to see where")
    what = "could not check: the process ended before there was a result"
    print(f"{speaker()}: {what} ({how})\n  hint: {remedy}", file=sys.stderr)
    return COULD_NOT_CHECK


def child(main: Callable[[Sequence[str]], int]) -> None:
    """The child's side: runs the command and ends at once, whatever the loaded code has left behind.

    Args:
        main: runs a command line, and returns its exit code.
    """
    with suppress(AttributeError, OSError, RuntimeError, ValueError):  # as in `main`
        faulthandler.enable()

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it may come twice: from the terminal and from the parent
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it is ignored
        signal.signal(signal.SIGINT, interrupt)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the loaded code, or by a reader that has left
            stream.flush()
    os._exit(_SAID[code])  # past exit handlers and threads of the loaded code, which could end the process otherwise


def _end_with(parent: int) -> None:
    """Ends this process when its parent has gone, however that ended: nobody waits for the result."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(COULD_NOT_CHECK)
