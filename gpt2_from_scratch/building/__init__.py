"""Imports somebody's Python file and builds the object it names, with GPT-2's settings under that code's own names.

People call the same setting by many names: ``n_embd``, ``d_model``, ``emb_dim``. They pass settings as keyword
arguments, a dictionary, a dataclass, a configuration class, an argparse namespace, or as globals of their file. What a
constructor asks for is read from its signature, and from what it reads out of the object that it is given. A name in
`WORDS` is answered from the checkpoint's configuration; a name that is not there is asked for, never guessed.

    words.py      other people's names for GPT-2's settings
    importing.py  imports a file
    reading.py    what a constructor asks for, read from its source
    answers.py    calls a constructor with what it asks for
    binding.py    gives a plain function what it takes beside the ids: settings and arrays
"""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gpt2_from_scratch.building.answers import Answers
from gpt2_from_scratch.building.binding import bound
from gpt2_from_scratch.building.importing import executed, import_file, is_of
from gpt2_from_scratch.building.reading import words_in
from gpt2_from_scratch.building.words import WORDS, Setting, built_with, settings_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, short_repr

__all__ = ["WORDS", "Loaded", "Setting", "built_with", "load_object", "settings_of"]


@dataclass(frozen=True)
class Loaded:
    """The object that ``FILE.py:OBJECT`` names.

    Args:
        object: the model, function, layout or check.
        built: whether it was made just now, so that the weights of a module are still random.
        settings: what its constructor was given; empty where nothing was built or nothing was asked for.
        notes: remarks on how it was made.
        later: words in its file, which it may ask for when it runs.
        file: the file that was named.
        engine: the program that computes it, where that is no Python code: its weights and operations are not seen.
        arithmetic: the coarsest precision that this program is known to compute in; None where that is not known.
        again: makes the same object from another source of that file, for a model of this configuration.
    """

    object: Any
    built: bool = False
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()
    later: frozenset[str] = field(default=frozenset(), repr=False)
    file: Path | None = None
    engine: str = ""
    arithmetic: torch.dtype | None = None
    again: Callable[[str, GPTConfig | None], Any] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr("Loaded", f"{type(self.object).__name__} of {self.file}")


def load_object(
    spec: str,
    config: GPTConfig | None = None,
    *,
    biases: bool = True,
    settings: Mapping[str, Any] = types.MappingProxyType({}),
) -> Loaded:
    r"""Imports or builds the object that ``FILE.py:NAME``, ``FILE.py:NAME()`` or ``package.module:NAME`` names.

    An object is used as it is. A class, and a name with ``()``, is called; its arguments come from `config`, in the
    words of its own constructor. What the file and the constructor print goes to stderr.

    Args:
        spec: split at the last colon. The file's folder is importable while the file is imported.
        config: of the checkpoint; without it a constructor can be given only `settings`.
        biases: whether the checkpoint has biases (``bias=False`` of nanoGPT has none).
        settings: values for names in the constructor's own words; they override everything else.

    Returns:
        The object, and what was done to make it.

    Raises:
        CandidateError: there is no such file or name, the user's code failed (with its file and line), or the
            constructor asks for something that is unknown (with its name).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "my_gpt.py"
        ...     _ = file.write_text("class GPT:\n    def __init__(self, cfg): self.width = cfg['emb_dim']\n")
        ...     load_object(f"{file}:GPT", GPTConfig()).object.width
        768
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not name or not place:
        missing = "" if colon or Path(spec).expanduser().exists() else "does not exist, and "
        raise CandidateError(
            f"{spec!r} {missing}is not FILE.py:OBJECT", hint="for example my_gpt2.py:model or 'my_gpt2.py:GPT()'"
        )
    loaded = _made(spec, None, config, biases, settings)
    asked = [setting.name for setting in loaded.settings]
    for setting in settings:
        if setting not in asked and setting not in loaded.later:
            raise CandidateError(
                f"{spec} never asked for {setting!r}", hint="it asked for " + (", ".join(asked) or "nothing")
            )
    if not (file := Path(place).expanduser()).is_file():
        return loaded

    def again(source: str, config: GPTConfig | None) -> Any:
        return _made(spec, source, config, biases, settings).object

    return replace(loaded, file=file, again=again)


def _made(spec: str, source: str | None, config: GPTConfig | None, biases: bool, settings: Mapping[str, Any]) -> Loaded:
    """The object of a specification; `source` takes the place of what the file holds."""
    place, _, name = spec.rpartition(":")
    called = name.endswith("()")
    name = name.removesuffix("()")
    with contextlib.redirect_stdout(sys.stderr):
        module = import_file(place) if source is None else executed(Path(place).expanduser(), source=source)
        if not hasattr(module, name):
            public = [each for each, value in vars(module).items() if is_of(module, value) and each[0] != "_"]
            raise CandidateError(f"{place} has no {name!r}", hint="it has " + (", ".join(public[:20]) or "nothing"))
        target = getattr(module, name)
        answers = Answers(spec, module, config, biases, settings)
        if not called and not inspect.isclass(target):
            return _with_arguments(target, answers)
        if not callable(target):
            raise CandidateError(f"{spec}: {name} is a {type(target).__name__}, which cannot be called")
        if not inspect.signature(target).parameters and (file := Path(place).expanduser()).is_file():
            target = getattr(answers.with_globals(file, source), name)
        built = answers.build(target)
    later = frozenset(words_in(module)) if answers.answers_later else frozenset()
    return Loaded(built, built=True, settings=tuple(answers.given.values()), later=later)


def _with_arguments(target: Any, answers: Answers) -> Loaded:
    """An object as it is; a function that demands more than ids with all of that."""
    if not isinstance(target, types.FunctionType):
        return Loaded(target)
    found = bound(target, answers)
    if found is None:
        return Loaded(target)
    return Loaded(found.function, built=found.made, settings=tuple(answers.given.values()), notes=found.about)
