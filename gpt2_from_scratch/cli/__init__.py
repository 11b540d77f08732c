"""The command line: `gpt2 verify`, `record`, `grade`, `generate`, `inspect`, `convert`.

The one idea: the library computes and never prints, this room prints and never computes. Results go to stdout,
progress and errors to stderr. Nothing heavy is imported before the arguments are known to be right.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from gpt2_from_scratch.cli.arguments import parser
from gpt2_from_scratch.cli.exit_codes import COULD_NOT_CHECK, INTERRUPTED
from gpt2_from_scratch.cli.options import as_flags
from gpt2_from_scratch.cli.outliving import outlived
from gpt2_from_scratch.errors import CandidateError, CheckpointError, printable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: arguments without the program's name; None takes them from the command line.
    """
    arguments = parser().parse_args(argv)
    if argv is None and sys.platform == "linux" and (died := outlived()) is not None:
        return died
    try:
        if arguments.checkpoint is None:
            arguments.checkpoint = "tiny"
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except (CheckpointError, CandidateError) as error:
        hint = error.hint_in(as_flags)
        print(f"gpt2: {error.message}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
    except ValueError as error:
        print(f"gpt2: {printable(str(error))}", file=sys.stderr)
    except KeyboardInterrupt:
        print("gpt2: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:  # of a script that was given as a model: its 0 would read as "verified"
        print(f"gpt2: your code called sys.exit({end.code!r}); nothing was verified", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output left: `gpt2 inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a report that cannot be written, a disk that is full
        print(f"gpt2: {printable(str(error))}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
        print("gpt2: unexpected error, see above; nothing was verified", file=sys.stderr)
    return COULD_NOT_CHECK
