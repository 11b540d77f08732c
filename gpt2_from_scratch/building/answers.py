"""Calls somebody's constructor with the settings that it asks for, in its own words."""

import contextlib
import copy
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from gpt2_from_scratch.asking import plain
from gpt2_from_scratch.building.importing import executed, failed, is_of
from gpt2_from_scratch.building.reading import (
    attributes,
    is_required,
    is_settings_object,
    keys_read,
    read_by_functions,
    type_hints,
    words_in,
)
from gpt2_from_scratch.building.words import DOUBTFUL, GROUPS, KNOWN, LETTERS, SETTING, Setting, settings_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError

_CONTAINER_TYPES = (dict, Mapping, types.SimpleNamespace, object)


class NotKnown(KeyError):
    """Somebody's code asked its settings for something that is no setting of GPT-2's."""

    def __str__(self) -> str:
        name = self.args[0]
        return f"{name!r}, which none of GPT-2's settings is known to be: give it with --config {name}=..."


@dataclass
class Answers:
    """Answers what a constructor asks for, and notes what it was told."""

    spec: str
    module: types.ModuleType
    config: GPTConfig | None
    biases: bool
    settings: Mapping[str, Any]
    given: dict[str, Setting] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)  # asked for, and not known
    answers_later: bool = False  # whether it was given an object that it may ask when it runs

    def build(self, target: Callable[..., Any]) -> Any:
        """The object, or an error that names what is missing."""
        positional, named = self._arguments(target)
        try:
            return target(*positional, **named)
        except CandidateError:
            raise
        except Exception as error:
            missing = error.args[0] if isinstance(error, KeyError) and error.args else getattr(error, "name", None)
            if missing in self.unknown:
                raise self._question() from error
            raise failed(f"{self.spec} failed", error, Path(self.module.__file__ or "")) from error

    def has(self, name: str) -> bool:
        """Whether `answer` knows it."""
        return self._known(name) is not None

    def answer(self, name: str) -> Any:
        """The value under this name.

        Raises:
            KeyError: it is not known.
        """
        found = self._known(name)
        if found is None:
            self.unknown[name] = None
            raise NotKnown(name)
        self.given[name] = found
        return found.value

    def setting(self, name: str) -> Any:
        """The value of what is one of GPT-2's settings by this name, or was set by the user.

        Raises:
            KeyError: it is neither.
        """
        if name not in self.settings and plain(name) not in KNOWN:
            raise KeyError(name)
        return self.answer(name)

    def with_globals(self, file: Path, source: str | None) -> types.ModuleType:
        """The module with its constants set to the checkpoint's settings, where its functions read them."""
        read = read_by_functions(self.module)
        constants = [
            name
            for name, value in vars(self.module).items()
            if isinstance(value, int | float) and plain(name) in SETTING and name in read
        ]
        answers = {name: found for name in constants if (found := self._known(name)) is not None}
        if answers:
            self.given |= answers
            self.module = executed(file, {name: found.value for name, found in answers.items()}, source)
        return self.module

    def _known(self, name: str) -> Setting | None:
        if name in self.settings:
            return Setting(name, self.settings[name], "set by you")
        word = plain(name)
        setting = SETTING.get(word)
        if word in DOUBTFUL:
            setting = "inner_dim" if self._has_another_word_for_the_width() else "n_embd"
        if setting is not None and self.config is not None:
            return self._from_checkpoint(name, setting)
        if self.config is not None and not name.startswith("_") and hasattr(self.config, name):
            return Setting(name, getattr(self.config, name), name, True)
        return self._default_in_file(name)

    def _from_checkpoint(self, name: str, setting: str) -> Setting:
        assert self.config is not None
        return replace(settings_of(self.config, self.biases)[setting], name=name)

    def _has_another_word_for_the_width(self) -> bool:
        return any(SETTING.get(plain(word)) == "n_embd" for word in words_in(self.module))

    def _default_in_file(self, name: str) -> Setting | None:
        """The value under this name in a dictionary or a configuration class of the same file."""
        for holder, value in vars(self.module).items():
            if isinstance(value, dict) and name in value:
                return Setting(name, value[name], f"from {holder} in the same file")
            holds_settings = inspect.isclass(value) and is_of(self.module, value) and not issubclass(value, nn.Module)
            if holds_settings and not callable(getattr(value, name, callable)):
                return Setting(name, getattr(value, name), f"the default of {holder} in the same file")
        return None

    def _arguments(self, target: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the named arguments with which a constructor or a function is called."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        hints = type_hints(target)
        parameters = list(inspect.signature(target).parameters.values())
        strangers = [p for p in parameters if is_required(p) and not self.has(p.name)]
        beside_words = any(plain(p.name) in SETTING for p in parameters)
        for parameter in parameters:
            name = parameter.name
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                read = keys_read(self.module, target, name)
                named |= {key: self.answer(key) for key in read if self.has(key) and key not in named}
                continue
            if name in self.settings or (plain(name) in KNOWN and self.config is not None):
                value = self.answer(name)
            elif name in LETTERS and beside_words and self.config is not None:
                self.given[name] = self._from_checkpoint(name, LETTERS[name])
                value = self.given[name].value
            elif is_settings_object(parameter.default):
                value = self._filled(copy.copy(parameter.default))
            elif parameter.default is not parameter.empty:
                continue
            elif len(strangers) == 1 and not beside_words:
                value = self._container(target, hints.get(name))
            else:
                for stranger in strangers:
                    self.unknown[stranger.name] = None
                raise self._question()
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[name] = value
        return positional, named

    def _container(self, target: Callable[..., Any], hint: Any) -> Any:
        """The one object that holds all settings: of the annotated class, or one that answers by key and attribute."""
        default = getattr(target, "get_default_config", None)  # minGPT's convention
        if callable(default):
            return self._filled(default())
        if inspect.isclass(hint) and hint not in _CONTAINER_TYPES and hint.__module__ not in ("argparse", "typing"):
            if isinstance(self.config, hint):
                return self.config
            return self._filled(self.build(hint))
        self.answers_later = True
        return _Asked(self)

    def _filled(self, settings: Any) -> Any:
        """A settings object of the user's own, with every attribute that has a known name set."""
        for name in attributes(settings):
            if plain(name) in KNOWN or name in self.settings:
                with contextlib.suppress(AttributeError):  # a frozen dataclass got them through its constructor
                    setattr(settings, name, self.answer(name))
        return settings

    def _question(self) -> CandidateError:
        names = list(self.unknown)
        example = f"{names[0]}=..."
        return CandidateError(
            f"{self.spec} asks for {', '.join(map(repr, names))}, which none of GPT-2's settings is known to be",
            hint=f"give it with --config {example}, or name a function that builds the model by itself",
        )


class _Asked(Mapping[str, Any]):
    """A settings object that answers by key and by attribute; it stands for a dictionary, a namespace or a class."""

    def __init__(self, answers: Answers) -> None:
        object.__setattr__(self, "_answers", answers)
        object.__setattr__(self, "_own", {})  # what the user's code wrote into it

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if plain(name) in GROUPS and not self._answers.has(name):
            return self
        return self._answers.answer(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._own[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._own[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._own or (isinstance(name, str) and self._answers.has(name))

    def __iter__(self) -> Iterator[str]:
        return iter({**self._answers.given, **self._own})

    def __len__(self) -> int:
        return len({**self._answers.given, **self._own})

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Asked":
        return self

    def __repr__(self) -> str:
        return f"settings({', '.join(self)})"
