"""The errors a user can meet: one sentence that says what, where and how much, and a hint that says what to do.

A *file* that cannot be used is a `CheckpointError`. A *candidate*, the user's model under test, that cannot be checked
is a `CandidateError`. The verdict that two models compute different numbers is a `DivergenceError`. The command line
prints ``str(error)`` and nothing else.

Names of tensors and files, and messages of other programs' exceptions, are shown in errors, reports and logs. Such text
passes through `printable`.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

_MOST_CHARACTERS = 8000  # of a message: a screen or two; a name out of a file may be as long as the file
_REPR = 199  # characters: a line or two in a notebook, and less than 200
_MOST_FRAMES = 3  # of the user's code: where it failed, and who called that
# A line that begins like this is a command to the runner of GitHub Actions, whoever wrote it.
_COMMAND = re.compile(r"^(\s*)(::|##\[)", re.MULTILINE)


def printable(text: str, *, most: int = _MOST_CHARACTERS, lines: bool = True) -> str:
    r"""Makes text from elsewhere safe to show on a terminal, in a log or on a page.

    Control characters, and marks that reverse the direction of text, are escaped as in a Python string. The first
    character of a command to a CI service is escaped, too. Text that is too long is cut.

    Args:
        text: such as a tensor's name, or the message of another program's exception.
        most: characters that are kept.
        lines: whether line breaks and tabs stay; if not, they are escaped, too.

    Returns:
        The text, followed by its length if it was cut.

    Example:
        >>> print(printable("bell" + chr(7) + ", right-to-left" + chr(0x202E)))
        bell\x07, right-to-left\u202e
        >>> print(printable("::error::all is well"))
        \x3a:error::all is well
    """
    cut = f"... ({len(text):,} characters)" if len(text) > most else ""
    kept = "\n\t" if lines else ""
    visible = "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode() for each in text[:most]
    )
    return _COMMAND.sub(lambda match: f"{match[1]}\\x{ord(match[2][0]):x}{match[2][1:]}", visible) + cut


def short_repr(kind: str, text: str) -> str:
    """A repr of fewer than 200 characters, on one line.

    Args:
        kind: the object's class.
        text: its description; only the first line is used.

    Example:
        >>> short_repr("Weights", "149 of 149 tensors equal")
        '<Weights: 149 of 149 tensors equal>'
    """
    line = f"<{kind}: {printable(text.partition(chr(10))[0], lines=False, most=10 * _REPR)}"
    return f"{line[: _REPR - 4]}...>" if len(line) >= _REPR else f"{line}>"


def crash_report(error: BaseException) -> str:
    """An exception from the user's code in a few lines: its type and message, then where in that code it was raised.

    Frames of this package, of torch and of Python's import machinery are left out: the user did not write them. So are
    those of code that was made out of a string, such as a dataclass's constructor, where there are others. What this
    package raised in somebody's code is told as its message alone.

    Args:
        error: the exception, with its traceback.

    Returns:
        One line for the exception, then two for each frame: file and line number, and the line's text.

    Example:
        >>> print(crash_report(ValueError("no such layer")))
        ValueError: no such layer
    """
    frames = _users_frames(error)
    places = [(frame.filename, frame.lineno, f", in {frame.name}", frame.line) for frame in frames[-_MOST_FRAMES:]]
    text = str(error)
    if isinstance(error, _Hinted):
        text = error.message
    if isinstance(error, SyntaxError) and error.filename:
        places, text = [(error.filename, error.lineno, "", (error.text or "").strip())], error.msg
    rows = [f'  File "{_short(file)}", line {line}{place}\n    {code}' for file, line, place, code in places]
    first = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return "\n".join([text if isinstance(error, _Hinted) else first, *rows])


def crash_place(error: BaseException) -> tuple[str, int] | None:
    """The file and the line of somebody's code that an exception came out of; None where none of it was theirs.

    Args:
        error: the exception, with its traceback.

    Example:
        >>> crash_place(ValueError("no such layer")) is None
        True
    """
    frames = _users_frames(error)
    return (frames[-1].filename, frames[-1].lineno or 1) if frames else None


def _users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return [frame for frame in frames if frame.line or not frame.filename.startswith("<")] or frames  # generated code


def _is_users(file: str) -> bool:
    parts = Path(file).parts
    ours = Path(file).is_relative_to(Path(__file__).parent)
    torchs = any(pair == ("site-packages", "torch") for pair in pairwise(parts))
    return not ours and not torchs and not file.startswith("<frozen")


def _short(file: str) -> str:
    """The path from the current folder, where the file is in it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class _Hinted(Exception):
    """Keeps message and hint apart, and joins them in ``str()``.

    A hint may end in options to pass. They are kept as values, as Python and the command line spell them differently.

    Args:
        message: what is wrong, where, and by how much.
        hint: what to do next, without the options; `bare_hint` returns it.
        options: name -> value of the options to pass.
    """

    def __init__(self, message: str, hint: str = "", *, options: Mapping[str, object] | None = None) -> None:
        self.message = printable(message)
        self.bare_hint = printable(hint)
        self.options = options or {}
        super().__init__(self.message)

    @property
    def hint(self) -> str:
        """What to do, in Python."""
        return self.hint_in(lambda options: "pass " + ", ".join(f"{name}={each!r}" for name, each in options.items()))

    def hint_in(self, spelled: Callable[[Mapping[str, object]], str]) -> str:
        """What to do.

        Args:
            spelled: how options are written where the user is.
        """
        if not self.options:
            return self.bare_hint
        advice = printable(spelled(self.options))
        return f"{self.bare_hint}: {advice}" if self.bare_hint else advice

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class CheckpointError(_Hinted, ValueError):
    """A checkpoint cannot be used. Nothing has been loaded, nothing has been written.

    Args:
        message: what is wrong, where, and by how much.
        hint: what to do next; printed on a line of its own.

    Example:
        >>> print(CheckpointError("model.safetensors is empty (0 bytes)", hint="download it again"))
        model.safetensors is empty (0 bytes)
          hint: download it again
    """


class ConfigError(CheckpointError):
    """A configuration is malformed, contradicts the weights, or asks for mathematics this model does not have."""


class FormatError(CheckpointError):
    """The bytes on disk are not what they claim to be: damaged, truncated, hostile, or of another kind."""


class MappingError(CheckpointError):
    """The tensors do not fit the layout: missing, unexpected, misshapen, or claimed twice."""


class SizesError(MappingError):
    """A module's parameters have other sizes than the checkpoint's: it was built for another one."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, damaged, or not GPT-2's byte-level BPE."""


class CandidateError(_Hinted, ValueError):
    """The model under test cannot be checked: it crashed, or its output is not logits ``[B, T, V]``."""


class DivergenceError(_Hinted, AssertionError):
    """The model under test was checked, and its numbers are not GPT-2's."""


class RankError(_Hinted, RuntimeError):
    """A model that runs on several ranks cannot be checked: one of them raised an exception, or does not answer."""
