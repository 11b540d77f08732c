"""The errors a user can meet: one sentence that says what, where and how much, and a hint that says what to do.

Everything that is wrong with a *file* is a `CheckpointError`; everything that is wrong with a *candidate* (the
user's model under test) is a `CandidateError`; a verdict of "these are not the same numbers" is a `DivergenceError`.
The command line prints ``str(error)`` and nothing else, so the text is the product.

Names of tensors and files, and texts of other people's exceptions, end up in messages, reports and logs. `printable`
is the one way on which such foreign text goes out.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

_MOST_CHARACTERS = 8000  # of a message: a screen or two; a name out of a file may be as long as the file
_MOST_FRAMES = 3  # of the user's code: where it failed, and who called that
# A line that begins like this is a command to the runner of GitHub Actions, whoever wrote it.
_COMMAND = re.compile(r"^(\s*)(::|##\[)", re.MULTILINE)


def printable(text: str, *, most: int = _MOST_CHARACTERS, lines: bool = True) -> str:
    r"""Foreign text as it may go to a terminal, a log or a page: nothing in it is obeyed, and it has an end.

    Control characters, and marks that turn the direction of text around, are spelled out as Python writes them. Lines
    that a CI service would take for a command begin with a spelled-out colon. What is too long is cut.

    Args:
        text: anybody's.
        most: characters that are kept.
        lines: whether line breaks and tabs stay; if not, they are spelled out, too.

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


def crash_report(error: BaseException) -> str:
    """What somebody's code died of, and where in that code: the exception in a line, then file, line and text.

    Frames of this package, of torch and of Python's import machinery are left out: the user did not write them.

    Args:
        error: the exception, with its traceback.

    Example:
        >>> print(crash_report(ValueError("no such layer")))
        ValueError: no such layer
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    places = [(frame.filename, frame.lineno, f", in {frame.name}", frame.line) for frame in frames[-_MOST_FRAMES:]]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename:
        places, text = [(error.filename, error.lineno, "", (error.text or "").strip())], error.msg
    rows = [f'  File "{_short(file)}", line {line}{place}\n    {code}' for file, line, place, code in places]
    return "\n".join([f"{type(error).__name__}: {text}" if text else type(error).__name__, *rows])


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
    """

    def __init__(self, message: str, hint: str = "", *, options: Mapping[str, object] | None = None) -> None:
        self.message = printable(message)
        self.because = printable(hint)
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
            return self.because
        advice = printable(spelled(self.options))
        return f"{self.because}: {advice}" if self.because else advice

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


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, damaged, or not GPT-2's byte-level BPE."""


class CandidateError(_Hinted, ValueError):
    """The model under test cannot be checked: it crashed, or its output is not logits ``[B, T, V]``."""


class DivergenceError(_Hinted, AssertionError):
    """The model under test was checked, and its numbers are not GPT-2's."""
