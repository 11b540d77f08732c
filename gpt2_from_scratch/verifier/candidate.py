"""The model under test, whoever wrote it: a torch module, or any function from ids to logits.

The one idea: a candidate is adapted or refused *by name*. What returns a tuple, a dictionary or numpy arrays is
understood; what returns last-position logits or a padded vocabulary is named as such; nothing is compared that is not
logits ``[B, T, V]``.
"""

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError


class Candidate:
    """Asks the model under test for logits, and insists on getting them.

    Args:
        model: an `nn.Module`, or a callable ``ids -> logits`` that takes int64 ids ``[B, T]`` as a tensor, or as a
            numpy array if it does not accept tensors.
        config: of the checkpoint; says which shape the logits must have.
    """

    def __init__(self, model: Any, config: GPTConfig) -> None:
        if not callable(model):
            raise CandidateError(
                f"the candidate is a {type(model).__name__}, which cannot be called",
                hint="give an nn.Module, or a function from ids [B, T] to logits [B, T, V]",
            )
        self.model = model
        self.config = config
        self._as_numpy = False

    @property
    def module(self) -> nn.Module | None:
        """The model, if it is a torch module."""
        return self.model if isinstance(self.model, nn.Module) else None

    @property
    def name(self) -> str:
        """What to call it: its class, or the function's name."""
        return getattr(self.model, "__name__", type(self.model).__name__)

    @property
    def dtype(self) -> torch.dtype:
        """Precision it computes in, by its floating parameters; float32 for functions."""
        dtypes = {p.dtype for p in self.module.parameters() if p.is_floating_point()} if self.module else set()
        return dtypes.pop() if len(dtypes) == 1 else torch.float32

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In eval mode for the check; every submodule is given back in the mode it was in."""
        modes = {module: module.training for module in self.module.modules()} if self.module else {}
        for module in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` on the CPU, in the candidate's dtype.

        Raises:
            CandidateError: it crashed, or returned something else; says what.
        """
        output = self._call(input_ids)
        logits = _logits_in(output)
        if logits is None:
            raise CandidateError(
                f"{self.name} returned {_describe(output)}, in which there are no logits",
                hint="return a tensor [B, T, V], a tuple that starts with it, or an object with .logits",
            )
        self._check_shape(logits, input_ids)
        return logits.detach().cpu()

    def _call(self, input_ids: Tensor) -> Any:
        parameter = next(self.module.parameters(), None) if self.module is not None else None
        ids = input_ids.to(parameter.device) if parameter is not None else input_ids
        try:
            with torch.inference_mode():
                return self._torch_or_numpy(ids)
        except Exception as error:
            raise CandidateError(
                f"{self.name} crashed on ids of shape {list(input_ids.shape)}: {type(error).__name__}: {error}",
                hint="it must take int64 ids [B, T] and nothing else",
            ) from error

    def _torch_or_numpy(self, ids: Tensor) -> Any:
        """Modules get tensors. A function gets a tensor too, and a numpy array from the first time that fails."""
        if self._as_numpy:
            return self.model(ids.numpy())
        try:
            return self.model(ids)
        except Exception:
            if self.module is not None:
                raise
            with contextlib.suppress(Exception):
                output = self.model(ids.numpy())
                self._as_numpy = True
                return output
            raise

    def _check_shape(self, logits: Tensor, input_ids: Tensor) -> None:
        expected = (*input_ids.shape, self.config.vocab_size)
        found = tuple(logits.shape)
        if found == expected and logits.is_floating_point():
            return
        batch, length, vocab = expected
        what = f"{self.name} returned {logits.dtype} {list(found)} for ids {list(input_ids.shape)}"
        if found in ((batch, 1, vocab), (batch, vocab)) and length > 1:
            raise CandidateError(
                f"{what}: logits of the last position only",
                hint="verify needs those of every position; nanoGPT returns them when targets are given",
            )
        if found[:-1] == expected[:-1] and found[-1] > vocab:
            raise CandidateError(
                f"{what}: {found[-1] - vocab} columns more than the vocabulary of {vocab}",
                hint=f"a padded vocabulary? return logits[..., :{vocab}]",
            )
        raise CandidateError(f"{what}; expected floating-point logits {list(expected)}")


def _logits_in(output: Any) -> Tensor | None:
    """The logits in what a model returned: itself, `.logits`, ``["logits"]``, or the first item of a tuple."""
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if hasattr(output, "__array__") and not isinstance(output, Tensor):
        import numpy

        output = torch.from_numpy(numpy.ascontiguousarray(output))
    return output if isinstance(output, Tensor) else None


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def load_object(spec: str, config: GPTConfig | None = None) -> Any:
    """What ``FILE.py:NAME`` or ``FILE.py:NAME()`` stands for. The file's folder is importable while it runs.

    Args:
        spec: split at the last colon. With ``()`` the object is called first; if it takes one required argument, it
            gets the configuration.
        config: of the checkpoint.

    Raises:
        CandidateError: no such file or name, or the user's code failed.
    """
    file, colon, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not colon or not name:
        raise CandidateError(f"{spec!r} is not FILE.py:OBJECT", hint="for example my_gpt2.py:model or my_gpt2.py:GPT()")
    if not path.is_file():
        raise CandidateError(f"{file} does not exist")
    called = name.endswith("()")
    name = name.removesuffix("()")
    module = _import(path)
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise CandidateError(f"{file} has no {name!r}", hint="it has " + ", ".join(public[:20]))
    target = getattr(module, name)
    if not called:
        if inspect.isclass(target):
            raise CandidateError(f"{spec} is a class", hint=f"write {spec}() to build it")
        return target
    try:
        return target(config) if _wants_config(target) else target()
    except Exception as error:
        raise CandidateError(f"{spec} failed: {type(error).__name__}: {error}") from error


def _wants_config(target: Callable[..., Any]) -> bool:
    required = [
        parameter
        for parameter in inspect.signature(target).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 1


def _import(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise CandidateError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles in the file look themselves up here
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise CandidateError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module
