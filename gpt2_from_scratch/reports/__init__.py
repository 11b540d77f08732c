"""A verdict, and the forms in which people and programs read it: text, JSON, JUnit XML, GitHub's annotations, a page.

A report adds nothing. Each form is a function from a `Verdict` to text, the same text for the same verdict, and no form
can look like a pass when the verdict is none.
"""

import os
from pathlib import Path

from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.reports.github import to_annotations, to_summary
from gpt2_from_scratch.reports.html import to_html
from gpt2_from_scratch.reports.json import SCHEMA, to_dict, to_json
from gpt2_from_scratch.reports.junit import to_junit
from gpt2_from_scratch.reports.verdict import Verdict

__all__ = ["SCHEMA", "Verdict", "to_annotations", "to_dict", "to_html", "to_json", "to_junit", "to_summary", "write"]


def write(path: str | os.PathLike[str], text: str) -> None:
    """Writes a report in UTF-8, all of it or nothing: until it is complete, an older report stays.

    What is no plain file (``/dev/stdout``, a pipe, a link) is written to, not replaced.

    Args:
        path: the file; its folder exists.
        text: the report.

    Raises:
        OSError: it cannot be written; the message says why and where.

    Example:
        >>> write("no such folder/report.html", "")
        Traceback (most recent call last):
        FileNotFoundError: cannot write no such folder/report.html: there is no folder 'no such folder'; create it first
    """
    file = Path(path)
    data = text.encode("utf-8", errors="backslashreplace")  # half a surrogate pair, in somebody's class name
    if not file.parent.is_dir():
        raise FileNotFoundError(f"cannot write {file}: there is no folder {str(file.parent)!r}; create it first")
    if file.is_dir():
        raise IsADirectoryError(f"cannot write {file}: it is a folder; name a file in it")
    if file.is_symlink() or (file.exists() and not file.is_file()):
        file.write_bytes(data)
        return
    with replacing(file) as new:
        new.write(data)
