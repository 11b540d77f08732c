"""Imports somebody's Python file and builds the object it names, with GPT-2's settings under that code's own names.

People call the same setting by many names: ``n_embd``, ``d_model``, ``emb_dim``. They pass settings as keyword
arguments, a dictionary, a dataclass, a configuration class, an argparse namespace, or as globals of their file. What a
constructor asks for is read from its signature, and from what it reads out of the object that it is given. A name in
`WORDS` is answered from the checkpoint's configuration; a name that is not there is asked for, never guessed.
"""

import ast
import contextlib
import copy
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt2_from_scratch.asking import plain
from gpt2_from_scratch.binding import bound
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, CheckpointError, DivergenceError, crash_report, short_repr

# Other people's names for GPT-2's settings, in lower case and without underscores. A list for each setting of
# `settings_of`. Words that mean different things in different code (``hidden_dim``) are in `_DOUBTFUL`.
WORDS: Mapping[str, str] = {
    "vocab_size": "vocabsize nvocab numvocab dvocab vocab vocabulary vocabularysize vocablen vocabdim paddedvocabsize "
    "nwords ntoken ntokens numtokens numembeddings",
    "n_positions": "npositions nctx dctx ctxlen ctxsize contextlength contextlen contextsize contextwindow context "
    "blocksize blocklength maxseqlen maxseqlength maxsequencelength maxsequencelen seqlen seqlength sequencelength "
    "sequencelen maxlen maxlength maxcontext maxcontextlength maxpositionembeddings maxpositions maxposition maxpos "
    "numpositions npos windowsize length",
    "n_embd": "nembd nembed nemb embd embdim embdsize embsize embeddim embedsize embeddingdim embeddingsize "
    "embeddingdimension demb dembed dmodel modeldim modelsize ninp hiddensize width dim nchannels "
    "residdim dresid hiddenchannels",
    "n_layer": "nlayer nlayers nunits numlayers numhiddenlayers numblocks nblock nblocks layers depth "
    "ntransformerlayers numtransformerlayers numtransformerblocks numdecoderlayers",
    "n_head": "nhead nheads numheads numhead heads nattnheads numattnheads numattentionheads attentionheads attnheads",
    "head_dim": "headdim headsize headwidth dhead dimhead",
    "inner_dim": "ninner innerdim dinner dff ffdim ffndim ffsize ffnsize ffhidden ffnhidden ffnhiddensize ffhiddensize "
    "ffhiddendim ffnhiddendim "
    "dmlp mlpdim mlpsize mlphidden mlphiddendim mlphiddensize intermediatesize intermediatedim dimfeedforward "
    "feedforwarddim feedforwardsize filterchannels",
    "inner_ratio": "mlpratio ffratio ffmult ffnmult ffnmultiplier mlpmult mlpmultiplier expansionfactor expansion "
    "ffexpansion mlpexpansion",
    "layer_norm_epsilon": "layernormepsilon layernormeps lnepsilon lneps normeps normepsilon eps epsilon",
    "resid_pdrop": "dropout droprate dropoutrate dropoutp dropoutprob pdrop pdropout residpdrop residdropout "
    "resdropout hiddendropout droprateshortcut mlpdropout ffdropout",
    "attn_pdrop": "attnpdrop attndropout attentiondropout attndroprate droprateattn",
    "embd_pdrop": "embdpdrop embpdrop embdropout embeddropout embeddingdropout embdroprate droprateemb",
    "bias": "bias qkvbias usebias hasbias attnbias attentionbias linearbias mlpbias projbias",
    "tie_word_embeddings": "tieweights tiewordembeddings weighttying tieembeddings tiehead tieembedding tied",
    "activation_function": "activationfunction",
    "device": "device",
    "model_type": "modeltype",
}
_SETTING = {word: setting for setting, words in WORDS.items() for word in words.split()}

# They mean the width of the feed-forward layer in code that has another word for the model's width, and the model's
# width in other code.
_DOUBTFUL = ("hiddendim", "dhidden", "nhidden", "nhid", "hidden")
_KNOWN = frozenset((*_SETTING, *_DOUBTFUL))

# Letters that papers use; case matters. They are recognised only as arguments beside words that are known.
_LETTERS = {"N": "n_layer", "L": "n_layer", "h": "n_head", "H": "n_head", "V": "vocab_size"}

# Names of settings inside settings, as in ``config["model"]["n_layer"]``.
_GROUPS = ("model", "transformer", "gpt", "gpt2", "network", "architecture", "hparams", "params", "config", "data")

_CONTAINER_TYPES = (dict, Mapping, types.SimpleNamespace, object)


@dataclass(frozen=True)
class Setting:
    """One value that somebody's code was given.

    Args:
        name: in their words.
        value: what it was given.
        source: where the value comes from: a field of the checkpoint's configuration, ``--config``, or a place in their
            file.
    """

    name: str
    value: Any
    source: str

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} ({self.source})"


_CHECKPOINTS = "the checkpoint's "


def built_with(settings: Iterable[Setting]) -> str:
    """What a constructor was given, in one sentence.

    A field of the checkpoint's configuration is named where its name is another one.

    Example:
        >>> print(built_with([Setting("d_model", 64, "the checkpoint's n_embd"), Setting("p", 0.1, "set by you")]))
        built with p=0.1 (set by you), and the checkpoint's d_model=64 (n_embd)
    """
    others, theirs = [], []
    for each in settings:
        field_name = each.source.removeprefix(_CHECKPOINTS)
        if field_name == each.source:
            others.append(str(each))
        else:
            theirs.append(f"{each.name}={each.value!r}" + (f" ({field_name})" if field_name != each.name else ""))
    parts = [", ".join(others), _CHECKPOINTS + ", ".join(theirs) if theirs else ""]
    return "built with " + ", and ".join(part for part in parts if part)


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
        raise CandidateError(f"{spec!r} is not FILE.py:OBJECT", hint="for example my_gpt2.py:model or my_gpt2.py:GPT()")
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
        module = import_file(place) if source is None else _executed(Path(place).expanduser(), source=source)
        if not hasattr(module, name):
            public = [each for each, value in vars(module).items() if _is_of(module, value) and each[0] != "_"]
            raise CandidateError(f"{place} has no {name!r}", hint="it has " + (", ".join(public[:20]) or "nothing"))
        target = getattr(module, name)
        if not called and not inspect.isclass(target):
            return _with_arguments(spec, target, module, config, biases, settings)
        if not callable(target):
            raise CandidateError(f"{spec}: {name} is a {type(target).__name__}, which cannot be called")
        answers = _Answers(spec, module, config, biases, settings)
        if not inspect.signature(target).parameters and (file := Path(place).expanduser()).is_file():
            target = getattr(answers.with_globals(file, source), name)
        built = answers.build(target)
    later = frozenset(_words_in(module)) if answers.answers_later else frozenset()
    return Loaded(built, built=True, settings=tuple(answers.given.values()), later=later)


def _with_arguments(
    spec: str,
    target: Any,
    module: types.ModuleType,
    config: GPTConfig | None,
    biases: bool,
    settings: Mapping[str, Any],
) -> Loaded:
    """An object as it is; a function that demands more than ids with all of that."""
    if config is None or not isinstance(target, types.FunctionType):
        return Loaded(target)
    answers = _Answers(spec, module, config, biases, settings)
    found = bound(spec, target, vars(module), config, answers.setting, answers.build)
    if found is None:
        return Loaded(target)
    return Loaded(found.function, built=found.made, settings=tuple(answers.given.values()), notes=found.about)


def settings_of(config: GPTConfig, biases: bool) -> dict[str, tuple[Any, str]]:
    """The settings that `WORDS` has names for: setting -> (value, where it comes from)."""
    ratio = config.inner_dim / config.n_embd
    names = (
        *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "activation_function"),
        *("resid_pdrop", "attn_pdrop", "embd_pdrop", "tie_word_embeddings"),
    )
    settings: dict[str, tuple[Any, str]] = {name: (getattr(config, name), _CHECKPOINTS + name) for name in names}
    return settings | {
        "head_dim": (config.head_dim, "the checkpoint's n_embd / n_head"),
        "inner_dim": (config.inner_dim, "the checkpoint's feed-forward width"),
        "inner_ratio": (int(ratio) if ratio.is_integer() else ratio, "the checkpoint's feed-forward width / n_embd"),
        "bias": (biases, "the checkpoint has biases" if biases else "the checkpoint has no biases"),
        "device": ("cpu", "built on the CPU"),
        "model_type": (None, "the sizes are given one by one"),
    }


# ------------------------------------------------------------------------------------------------------- importing


def import_file(place: str) -> types.ModuleType:
    """Imports a Python file by its path, or a module by its dotted name.

    A file inside a package (a folder with `__init__.py`) is imported as part of it, so its relative imports work.

    Raises:
        CandidateError: there is no such file, or it cannot be imported; with the user's own file and line.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return _executed(path)
    dotted = all(part.isidentifier() for part in place.split("."))
    with _importable(Path.cwd()):
        if dotted and _finds(place):
            return _imported(place, place)
    raise CandidateError(
        f"{place} does not exist",
        hint="give the path of a Python file, or the dotted name of a module that can be imported from here",
    )


def _finds(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _executed(
    path: Path, constants: Mapping[str, Any] = types.MappingProxyType({}), source: str | None = None
) -> types.ModuleType:
    """The module of a file.

    Args:
        path: of the file.
        constants: values for top-level constants of these names, instead of the file's.
        source: taken for what the file holds.
    """
    folder = path.resolve().parent
    parts = [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name, package = ".".join(parts), ".".join(parts[:-1])
    module = types.ModuleType(name)
    module.__file__, module.__package__ = str(path), package
    module.__spec__ = importlib.util.spec_from_file_location(name, path)
    with _importable(folder):
        if package:
            _imported(package, str(path))
        sys.modules[name] = module  # dataclasses and pickles in the file look themselves up here
        try:
            tree = ast.parse(path.read_bytes() if source is None else source, filename=str(path))
            exec(compile(_Constants(constants).visit(tree), str(path), "exec"), module.__dict__)
        except Exception as error:
            raise _failed(f"{path} cannot be imported", error, path) from error
    return module


def _imported(name: str, place: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _failed(f"{place} cannot be imported", error, Path(place)) from error


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(folder))


class _Constants(ast.NodeTransformer):
    """Gives top-level constants of a file other values, so that what the file computes from them follows."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def visit_Module(self, node: ast.Module) -> ast.Module:
        for statement in node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() as constant):
                    self._set(name, constant)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant() as constant):
                    self._set(name, constant)
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=constants)):
                    for each, value in zip(names, constants, strict=False):
                        if isinstance(each, ast.Name) and isinstance(value, ast.Constant):
                            self._set(each.id, value)
        return node

    def _set(self, name: str, constant: ast.Constant) -> None:
        constant.value = self.values.get(name, constant.value)


def _failed(what: str, error: Exception, path: Path) -> CandidateError:
    """The user's own line, and the error that it raised."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != path.stem:
        return CandidateError(f"{what}: it imports {error.name!r}, which is not installed", hint="install it first")
    hint = error.hint if isinstance(error, CheckpointError | CandidateError | DivergenceError) else ""
    return CandidateError(f"{what}: {crash_report(error)}", hint=hint)


def _is_of(module: types.ModuleType, value: Any) -> bool:
    """Whether a name was made in the module, not imported into it."""
    return getattr(value, "__module__", module.__name__) == module.__name__ and not inspect.ismodule(value)


# --------------------------------------------------------------------------------------------------------- building


class NotKnown(KeyError):
    """Somebody's code asked its settings for something that is no setting of GPT-2's."""

    def __str__(self) -> str:
        name = self.args[0]
        return f"{name!r}, which none of GPT-2's settings is known to be: give it with --config {name}=..."


@dataclass
class _Answers:
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
            raise _failed(f"{self.spec} failed", error, Path(self.module.__file__ or "")) from error

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
        if name not in self.settings and plain(name) not in _KNOWN:
            raise KeyError(name)
        return self.answer(name)

    def with_globals(self, file: Path, source: str | None) -> types.ModuleType:
        """The module with its constants set to the checkpoint's settings, where its functions read them."""
        read = _read_by_functions(self.module)
        constants = [
            name
            for name, value in vars(self.module).items()
            if isinstance(value, int | float) and plain(name) in _SETTING and name in read
        ]
        answers = {name: found for name in constants if (found := self._known(name)) is not None}
        if answers:
            self.given |= answers
            self.module = _executed(file, {name: found.value for name, found in answers.items()}, source)
        return self.module

    def _known(self, name: str) -> Setting | None:
        if name in self.settings:
            return Setting(name, self.settings[name], "set by you")
        word = plain(name)
        setting = _SETTING.get(word)
        if word in _DOUBTFUL:
            setting = "inner_dim" if self._has_another_word_for_the_width() else "n_embd"
        if setting is not None and self.config is not None:
            return self._from_checkpoint(name, setting)
        if self.config is not None and not name.startswith("_") and hasattr(self.config, name):
            return Setting(name, getattr(self.config, name), _CHECKPOINTS + name)
        return self._default_in_file(name)

    def _from_checkpoint(self, name: str, setting: str) -> Setting:
        assert self.config is not None
        value, source = settings_of(self.config, self.biases)[setting]
        return Setting(name, value, source)

    def _has_another_word_for_the_width(self) -> bool:
        return any(_SETTING.get(plain(word)) == "n_embd" for word in _words_in(self.module))

    def _default_in_file(self, name: str) -> Setting | None:
        """The value under this name in a dictionary or a configuration class of the same file."""
        for holder, value in vars(self.module).items():
            if isinstance(value, dict) and name in value:
                return Setting(name, value[name], f"from {holder} in the same file")
            holds_settings = inspect.isclass(value) and _is_of(self.module, value) and not issubclass(value, nn.Module)
            if holds_settings and not callable(getattr(value, name, callable)):
                return Setting(name, getattr(value, name), f"the default of {holder} in the same file")
        return None

    def _arguments(self, target: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the named arguments with which a constructor or a function is called."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        hints = _type_hints(target)
        parameters = list(inspect.signature(target).parameters.values())
        strangers = [p for p in parameters if _required(p) and not self.has(p.name)]
        beside_words = any(plain(p.name) in _SETTING for p in parameters)
        for parameter in parameters:
            name = parameter.name
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                read = _keys_read(self.module, target, name)
                named |= {key: self.answer(key) for key in read if self.has(key) and key not in named}
                continue
            if name in self.settings or (plain(name) in _KNOWN and self.config is not None):
                value = self.answer(name)
            elif name in _LETTERS and beside_words and self.config is not None:
                self.given[name] = self._from_checkpoint(name, _LETTERS[name])
                value = self.given[name].value
            elif _is_settings_object(parameter.default):
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
        for name in _attributes(settings):
            if plain(name) in _KNOWN or name in self.settings:
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

    def __init__(self, answers: _Answers) -> None:
        object.__setattr__(self, "_answers", answers)
        object.__setattr__(self, "_own", {})  # what the user's code wrote into it

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if plain(name) in _GROUPS and not self._answers.has(name):
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


# ------------------------------------------------------------------------------------------- reading somebody's code


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _is_settings_object(value: Any) -> bool:
    """Whether a default value is an object of somebody's own class that holds settings."""
    if value is inspect.Parameter.empty or value is None or isinstance(value, int | float | str | bool | dict | tuple):
        return False
    return not inspect.isclass(value) and not callable(value) and bool(_attributes(value))


def _attributes(settings: Any) -> list[str]:
    """Names of the plain values that a settings object holds, its class's included."""
    if isinstance(settings, type):
        return []
    if is_dataclass(settings):
        return [each.name for each in dataclass_fields(settings)]
    names = dict.fromkeys([*vars(settings), *vars(type(settings))]) if hasattr(settings, "__dict__") else {}
    return [name for name in names if not name.startswith("_") and not callable(getattr(settings, name))]


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(constructor)
    except Exception:  # an annotation may name what is not there; then there is no hint
        return {}


def _source_tree(target: Any) -> ast.AST:
    try:
        source = inspect.getsource(target)
        return ast.parse(inspect.cleandoc(source) if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def _keys_read(module: types.ModuleType, target: Callable[..., Any], name: str) -> list[str]:
    """Keys that the code reads from its ``**kwargs``: ``kwargs["x"]``, ``kwargs.get("x")``, ``kwargs.pop("x")``.

    They may be read later, from an attribute that they were kept in (``self.hparams = kwargs``), or as attributes of
    the object (``self.__dict__.update(kwargs)``).
    """
    keys: dict[str, None] = {}
    holders, spread = {name}, False
    for node in ast.walk(_source_tree(target)):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr=kept)], value=value) if _is_kept(value, name):
                holders.add(kept)
            case ast.Call(func=ast.Attribute(attr="update"), args=[ast.Name(id=given)]) if given == name:
                spread = True
    for node in ast.walk(_source_tree(module)):
        match node:
            case ast.Subscript(value=holder, slice=ast.Constant(value=str(key))) if _last_name(holder) in holders:
                keys[key] = None
            case ast.Call(
                func=ast.Attribute(value=holder, attr="get" | "pop"), args=[ast.Constant(value=str(key)), *_]
            ) if _last_name(holder) in holders:
                keys[key] = None
            case ast.Attribute(value=holder, attr=key) if _last_name(holder) in holders - {name} or (
                spread and _last_name(holder) == "self"
            ):
                keys[key] = None
    return list(keys)


def _is_kept(value: ast.expr, name: str) -> bool:
    """Whether an expression is ``kwargs`` itself, or an object made of it: ``SimpleNamespace(**kwargs)``."""
    match value:
        case ast.Name(id=given):
            return given == name
        case ast.Call(args=args, keywords=keywords):
            spread = [each.value for each in keywords if each.arg is None]
            return any(isinstance(each, ast.Name) and each.id == name for each in (*args, *spread))
    return False


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _words_in(module: types.ModuleType) -> set[str]:
    """Names, attributes, argument names and short strings in the source of a module."""
    words: set[str] = set()
    for node in ast.walk(_source_tree(module)):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.Constant(value=str(word)):
                words.add(word)
    return words


def _read_by_functions(module: types.ModuleType) -> set[str]:
    """Global names that functions and methods of the module read."""
    names: set[str] = set()

    def visit(code: types.CodeType) -> None:
        names.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                visit(constant)

    for value in list(vars(module).values()):
        if not _is_of(module, value):
            continue
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else member
            if isinstance(function, types.FunctionType):
                visit(function.__code__)
    return names
