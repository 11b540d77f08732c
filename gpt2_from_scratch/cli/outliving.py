"""Some ends of a process no `except` can catch; a parent process outlives them, and says what happened."""

import os
import sys
from contextlib import suppress

from gpt2_from_scratch.cli.exit_codes import COULD_NOT_CHECK

# What the system can end a process with, and no `except` can catch: what happened, and what to do.
_DEATHS = {
    "SIGBUS": (
        "a file that was being read through a memory map was cut short, or its disk failed",
        "give --no-mmap, or a copy of the file that nobody writes to",
    ),
    "SIGKILL": (
        "the system ended it, most often because memory ran out",
        "close other programs, or use a machine with more memory",
    ),
}


def outlived() -> int | None:
    """Goes on in a child process, with None; the parent waits, and returns the exit code of whatever came of it.

    Reading a mapped file that somebody cuts short ends the process (SIGBUS), and the kernel does if memory runs out
    (SIGKILL). Neither may look like a verdict, so somebody has to be left to say what happened. This costs a
    millisecond, because nothing heavy has been imported. Linux only: macOS's own libraries do not survive a fork.
    """
    import signal
    import threading

    here, there = os.pipe()  # the system closes the parent's end when the parent ends, however it does
    child = os.fork()

    def follow() -> None:
        os.read(here, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(*_: object) -> None:
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both, and the parent passes its on
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    if not child:
        os.close(there)
        threading.Thread(target=follow, daemon=True).start()
        return None
    os.close(here)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    name = signal.Signals(os.WTERMSIG(status)).name
    what, remedy = _DEATHS.get(name, ("it crashed, or somebody ended it", "please report it if it does so again"))
    print(f"gpt2: could not check: {what} ({name})\n  hint: {remedy}", file=sys.stderr)
    return COULD_NOT_CHECK
