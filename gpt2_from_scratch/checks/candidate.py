"""The model under test, whoever wrote it: a torch module, or any function from ids to logits.

The one idea: a candidate is adapted or refused *by name*. What returns a tuple, a dictionary or numpy arrays is
understood; what returns last-position logits or a padded vocabulary is named as such; nothing is compared that is not
logits ``[B, T, V]``.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt2_from_scratch.building import Loaded, Setting
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, crash_report
from gpt2_from_scratch.precision import run_in_float64, seeing_arithmetic


@dataclass(frozen=True)
class ExactLogits:
    """What a module computes when its rounding is taken away.

    Args:
        logits: float64 ``[B, T, V]``.
        constants: float64 ``[B, T]``, the most by which rounded constants can have moved each token's logits; None
            where the module keeps none in float32, so that everything is exact.
    """

    logits: Tensor
    constants: Tensor | None = None

    @property
    def moved(self) -> float:
        """The largest of `constants`."""
        return 0.0 if self.constants is None else float(self.constants.max())


class Candidate:
    """Asks the model under test for logits, and insists on getting them.

    Args:
        model: an `nn.Module`; a callable ``ids -> logits`` that takes int64 ids ``[B, T]`` as a tensor, or as a numpy
            array if it does not accept tensors; or one of these as `building.load_object` returned it.
        config: of the checkpoint; says which shape the logits must have.
    """

    def __init__(self, model: Any, config: GPTConfig) -> None:
        built_with: tuple[Setting, ...] = ()
        if isinstance(model, Loaded):
            model, built_with = model.object, model.settings
        if not callable(model):
            raise CandidateError(
                f"the candidate is a {type(model).__name__}, which cannot be called",
                hint="give an nn.Module, or a function from ids [B, T] to logits [B, T, V]",
            )
        self.model = model
        self.config = config
        self.adaptations: dict[str, None] = {}  # what had to be done to get logits, in words, each once
        if built_with:
            self.adaptations["built with " + ", ".join(map(str, built_with))] = None
        self._as_numpy = self._with_targets = False
        self._demands: set[str] | None = None
        self._output_dtype: torch.dtype | None = None  # the finest that its logits need
        self._arithmetic: torch.dtype | None = None  # the coarsest that torch was seen computing with

    @property
    def module(self) -> nn.Module | None:
        """The model, if it is a torch module; of a compiled one, the module that was compiled."""
        if not isinstance(self.model, nn.Module):
            return None
        original = getattr(self.model, "_orig_mod", None)
        return original if isinstance(original, nn.Module) else self.model

    def uncompiled(self) -> "Candidate":
        """The same, with all that was found out about it, but of the module that was compiled."""
        other = copy.copy(self)
        other.model = self.module or self.model
        return other

    @property
    def name(self) -> str:
        """What to call it: its class, or the function's name."""
        return getattr(self.model, "__name__", type(self.module or self.model).__name__)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of its floating parameters; float32 for functions, and where they are mixed."""
        dtypes = set(self.parameter_dtypes)
        return dtypes.pop() if len(dtypes) == 1 else torch.float32

    @property
    def parameter_dtypes(self) -> frozenset[torch.dtype]:
        """Those of its floating parameters; none for functions."""
        parameters = self.module.parameters() if self.module is not None else ()
        return frozenset(parameter.dtype for parameter in parameters if parameter.is_floating_point())

    @property
    def precision(self) -> torch.dtype:
        """The lowest precision that is known to have been computed in.

        Where torch computes, that has been seen. Elsewhere it is that of the logits, whatever type holds them.
        """
        known = {self._arithmetic or self._output_dtype or torch.float32, torch.float32}
        if self._arithmetic is None and self._output_dtype is None:
            known |= self.parameter_dtypes
        return _coarsest(known)

    @property
    def last_cast(self) -> torch.dtype | None:
        """The lower precision that logits are rounded to after they were computed in a finer one, if they are."""
        coarser = self._output_dtype is not None and _coarsest({self._output_dtype, self.precision}) != self.precision
        return self._output_dtype if coarser else None

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU for functions."""
        parameter = next(self.module.parameters(), None) if self.module is not None else None
        return parameter.device if parameter is not None else torch.device("cpu")

    @property
    def parameters(self) -> frozenset[str]:
        """Names of what it can be called with, besides ids; empty where that cannot be found out."""
        try:
            signature = inspect.signature(self.module.forward if self.module is not None else self.model)
        except (TypeError, ValueError):
            return frozenset()
        return frozenset(signature.parameters)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In eval mode for the check; every submodule is given back in the mode it was in."""
        modes = {module: module.training for module in self.model.modules()} if self.module else {}
        for module in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def logits(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Logits ``[B, T, V]`` on the CPU, in the candidate's dtype.

        Args:
            input_ids: int64 ``[B, T]``.
            **options: handed on, such as an attention mask.

        Raises:
            CandidateError: it crashed, or returned something else; says what.
        """
        output = self.call(input_ids, **options)
        if self._wants_targets(output, input_ids):
            output = self.call(input_ids, **options)
        return self.logits_in(output, input_ids)

    def greedy(self, input_ids: Tensor) -> Tensor:
        """The ids ``[B]`` that it would choose next: among all its columns, those beyond the vocabulary included.

        Raises:
            CandidateError: as `logits`.
        """
        output = self.call(input_ids)
        if self._wants_targets(output, input_ids):
            output = self.call(input_ids)
        self.logits_in(output, input_ids)  # insists on logits
        all_columns = _logits_in(output)
        assert all_columns is not None
        return all_columns.detach().reshape(len(input_ids), -1, all_columns.size(-1))[:, -1].argmax(-1).cpu()

    def exact_logits(self, input_ids: Tensor) -> ExactLogits:
        """Its float64 run on ids ``[B, T]``.

        Raises:
            NotImplementedError: it cannot be run so; says why.
        """
        if self.module is None:  # a function may mix torch with numpy, which stays as narrow as it is
            raise NotImplementedError("only a torch module can be run in float64")
        try:
            logits, moved = run_in_float64(lambda: self.logits(input_ids), self.module)
        except CandidateError as error:
            cause = error.__cause__
            raise NotImplementedError(f"in float64 it fails: {cause if cause is not None else error}") from None
        if logits.dtype != torch.float64:
            raise NotImplementedError("its logits are not float64 when it is run in float64")
        distances = [(other - logits).abs().amax(-1) for other in moved]
        return ExactLogits(logits, sum(distances[1:], distances[0]) if distances else None)

    def logits_in(self, output: Any, input_ids: Tensor, last_suffices: bool = False) -> Tensor:
        """The logits in what the model returned for these ids; see `logits`.

        Args:
            output: of `call`.
            input_ids: int64 ``[B, T]``.
            last_suffices: take those of the last position, ``[B, 1, V]``, where there are no others.
        """
        if last_suffices and self._last_only(output, input_ids):
            input_ids = input_ids[:, -1:]
        logits = self._found_in(output, input_ids)
        if self._output_dtype is None or torch.finfo(self._output_dtype).bits < 32:
            self._output_dtype = _finest({_grid(logits), self._output_dtype or torch.bfloat16})
        return logits.detach().to("cpu", copy=True)  # a buffer that it returned may be written to again

    def differentiable(self, input_ids: Tensor) -> Tensor:
        """Logits that remember how they were computed, on the candidate's device.

        Raises:
            CandidateError: it returned no logits.
            Exception: whatever it raised.
        """
        output = self._asked(input_ids)
        if self._wants_targets(output, input_ids):
            output = self._asked(input_ids)
        return self._found_in(output, input_ids)

    def _wants_targets(self, output: Any, input_ids: Tensor) -> bool:
        """Whether it is to be asked again, with targets from now on, as it gives all logits only then."""
        if self._with_targets or "targets" not in self.parameters or not self._last_only(output, input_ids):
            return False
        self._with_targets = True
        self.adaptations["it is called with targets: without, it gives the last position's logits only"] = None
        return True

    def _last_only(self, output: Any, input_ids: Tensor) -> bool:
        logits, (batch, length) = _logits_in(output), input_ids.shape
        return logits is not None and length > 1 and tuple(logits.shape[:-1]) in ((batch, 1), (batch,))

    def _found_in(self, output: Any, input_ids: Tensor) -> Tensor:
        logits = _logits_in(output)
        if logits is None:
            raise CandidateError(
                f"{self.name} returned {_describe(output)}, in which there are no logits",
                hint="return a tensor [B, T, V], a tuple that starts with it, or an object with .logits",
            )
        expected = (*input_ids.shape, self.config.vocab_size)
        if tuple(logits.shape) != expected or not logits.is_floating_point():
            return self._adapted(logits, input_ids)
        return logits

    def call(self, input_ids: Tensor, **options: Any) -> Any:
        """What the model returns, as it is.

        Raises:
            CandidateError: it crashed.
        """
        try:
            with torch.inference_mode():
                if self._arithmetic is None and self.model is (self.module or self.model):
                    return self._seen(input_ids, **options)
                return self._asked(input_ids, **options)
        except Exception as error:
            raise CandidateError(
                f"{self.name} crashed on ids of shape {list(input_ids.shape)}: {crash_report(error)}",
                hint="it must take int64 ids [B, T], at any length up to the context's, and nothing else"
                if isinstance(error, TypeError | IndexError | RuntimeError)  # what a call of another kind dies of
                else "",
            ) from error

    def _seen(self, input_ids: Tensor, **options: Any) -> Any:
        """The first answer, and what precision torch computes it in."""
        with seeing_arithmetic() as seen:
            output = self._asked(input_ids, **options)
        if seen:
            self._arithmetic = _coarsest(seen)
        return output

    def _asked(self, input_ids: Tensor, **options: Any) -> Any:
        """Modules get tensors. A function gets a tensor too, and numpy arrays from the first tensor that fails.

        The ids are a copy each time: a candidate that writes into them changes nobody's question.
        """
        ids = input_ids.to(self.device, copy=True)
        options = self._demanded(ids, options) | options
        if self._with_targets:
            options["targets"] = ids.clone()
        if self._as_numpy:
            return self.model(ids.numpy(), **options)
        try:
            return self.model(ids, **options)
        except Exception:
            if self.module is not None:
                raise
            with contextlib.suppress(Exception):
                output = self.model(input_ids.cpu().clone().numpy(), **options)
                self._as_numpy = True
                why = f"a tensor {list(input_ids.shape)} failed"
                self.adaptations[f"it is called with numpy arrays, as {why}"] = None
                return output
            raise

    def _demanded(self, ids: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        """What its signature demands besides ids, where that has a usual meaning; each is told."""
        if self._demands is None:
            demanded = _required(self.module.forward if self.module is not None else self.model)
            self._demands = set(_USUAL).intersection(demanded)
            for name in sorted(self._demands):
                self.adaptations[f"it is called with {name}, which it demands: {_USUAL[name][0]}"] = None
        return {name: _USUAL[name][1](ids) for name in self._demands if name not in options}

    def _adapted(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        """Logits of the right shape out of those that have another known one; refuses all else by name."""
        batch, length = input_ids.shape
        vocab = self.config.vocab_size
        found = tuple(logits.shape)
        what = f"{self.name} returned {logits.dtype} {list(found)} for ids {list(input_ids.shape)}"
        if not logits.is_floating_point():
            raise CandidateError(f"{what}; expected floating-point logits {[batch, length, vocab]}")
        if found[:-1] == (batch, length) and found[-1] > vocab:
            self.adaptations[f"{found[-1] - vocab} columns beyond the vocabulary of {vocab} are not compared"] = None
            return logits[..., :vocab]
        if found == (batch, vocab) and length == 1:
            return logits[:, None]
        if self._last_only(logits, input_ids) and found[-1] >= vocab:
            raise CandidateError(
                f"{what}: logits of the last position only",
                hint="verify needs those of every position",
            )
        raise CandidateError(f"{what}; expected floating-point logits {[batch, length, vocab]}")


def _required(function: Any) -> list[str]:
    """Names of the arguments after the first that have no default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in parameters[1:] if each.default is each.empty and each.kind in kinds]


_Usual = tuple[str, Callable[[Tensor], Any]]
_ONES: _Usual = ("a mask of ones", torch.ones_like)
_IDS: _Usual = ("the ids", torch.clone)
_PLACES: _Usual = ("0, 1, 2, ...", lambda ids: torch.arange(ids.size(1), device=ids.device).expand_as(ids))
_NOTHING: _Usual = ("None", lambda ids: None)
_NO: _Usual = ("False", lambda ids: False)
_ZERO: _Usual = ("0", lambda ids: 0)

# What people demand beside ids -> what it is, and how to make it for some ids.
_USUAL: Mapping[str, _Usual] = {
    **dict.fromkeys(("attention_mask", "attn_mask", "mask", "padding_mask", "pad_mask"), _ONES),
    **dict.fromkeys(("targets", "target", "labels", "y"), _IDS),
    **dict.fromkeys(("position_ids", "positions", "pos", "position"), _PLACES),
    **dict.fromkeys(("past_key_values", "past", "layer_past", "kv_cache", "cache", "rng", "generator"), _NOTHING),
    **dict.fromkeys(("use_cache", "training", "train", "is_training", "output_attentions"), _NO),
    **dict.fromkeys(("start_pos", "offset", "past_length", "dropout", "dropout_p"), _ZERO),
    "device": ("where its parameters are", lambda ids: ids.device),
}


def _coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _finest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    return min(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _grid(logits: Tensor) -> torch.dtype:
    """The coarsest precision that holds every value: a float32 tensor that came out of bfloat16 arithmetic is one."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(logits.to(dtype).to(logits.dtype), logits):
            return dtype
    return logits.dtype


def _logits_in(output: Any) -> Tensor | None:
    """The logits in what a model returned: itself, `.logits`, ``["logits"]``, or the first item of a tuple."""
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and output:  # a loss may come first
        output = next((item for item in output if getattr(item, "ndim", 0) > 1), output[0])
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
