"""Which lines of the user's files are being executed now."""

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import CodeType, FrameType

from gpt2_from_scratch.arrays.finding import is_users
from gpt2_from_scratch.recorder.graph import Frame

_HERE = os.path.dirname(__file__) + os.sep
_ARRAYS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "arrays") + os.sep  # its calls of torch are numpy's
_NEVER = ("torch", "numpy", "einops", "jaxtyping", "beartype", "typeguard", "opt_einsum", "scipy", "functorch")
_MODULES = f"{os.sep}torch{os.sep}nn{os.sep}modules{os.sep}"
_END = "_recorded_call"  # the function in this room below which the user's code runs


class Stack:
    """Finds the user's frames.

    Files of the standard library and of installed packages are not the user's.

    Args:
        packages: installed top-level packages that are, because the recorded model was written there.
        skip: files and folders that are not the user's: those of the caller of `record`.
    """

    def __init__(self, packages: Iterable[str] = (), skip: Iterable[str] = ()) -> None:
        self._skip = (_HERE, _ARRAYS, *skip)
        self._packages = frozenset(packages) - frozenset(_NEVER)
        self._files: dict[str, bool] = {}

    def is_users(self, file: str) -> bool:
        """Whether a file counts as the user's."""
        known = self._files.get(file)
        if known is None:
            mine = not file.startswith(self._skip) and is_users(file, self._packages)
            known = self._files[file] = mine
        return known

    def look(self) -> tuple[tuple[Frame, ...], object]:
        """The user's frames, innermost first, of the running thread; and torch's own module that runs, if one does."""
        found: list[Frame] = []
        module: object = None
        current: FrameType | None = sys._getframe(1)
        while current is not None:
            code = current.f_code
            if code.co_name == _END and code.co_filename.startswith(_HERE):
                break
            if self.is_users(code.co_filename):
                found.append(_frame(code.co_filename, code, current.f_lasti))
            elif not found and module is None and code.co_name == "forward" and _MODULES in code.co_filename:
                module = current.f_locals.get("self")
            current = current.f_back
        return tuple(found), module


@lru_cache(maxsize=4096)
def _positions(code: CodeType) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


@lru_cache(maxsize=65536)
def _frame(file: str, code: CodeType, instruction: int) -> Frame:  # equal code may come from different files
    line, end_line, column, end_column = _positions(code)[instruction // 2]  # an instruction takes two bytes
    line = line or code.co_firstlineno
    return Frame(
        file,
        code.co_name,
        line,
        end_line or line,
        column or 0,
        end_column or 0,
        code.co_firstlineno,
    )
