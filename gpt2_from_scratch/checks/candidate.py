"""The model under test, whoever wrote it: a torch module, or any function from ids to logits.

A candidate is asked in the way that it takes (see `asking`), and whatever is unusual about that is in the report. What
returns last-position logits or a padded vocabulary is named as such. Nothing is compared that is not logits
``[B, T, V]``.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gpt2_from_scratch.asking import Way, find_way, in_mode
from gpt2_from_scratch.building import Loaded, built_with
from gpt2_from_scratch.checks.recording import Recording
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, RankError, crash_place, crash_report
from gpt2_from_scratch.precision import in_float64, run_in_float64, seeing_arithmetic
from gpt2_from_scratch.ranks import Alone, Ranks

_WHOLE = "to check it, let build() leave the model undivided, and verify it without torchrun"
_LOOKED_INTO = "looked into: the whole model on rank 0 alone, which computes the same logits bit for bit"
_ENDING = 3  # tokens at the end of a full context; their logits are compared with those of its cache


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


@dataclass(frozen=True)
class Crash:
    """What the candidate's own code died of.

    Args:
        report: the exception in a line, then the user's lines that it came out of.
        place: the last of these, as file and line; None where none is known.
    """

    report: str
    place: tuple[str, int] | None

    def __str__(self) -> str:
        return self.report.partition("\n")[0]


def crash_in(error: CandidateError) -> Crash | None:
    """The crash that an error tells of; None where the code did not crash, or the machine had too little memory.

    Args:
        error: from a question to a `Candidate`.
    """
    cause = error.__cause__
    if cause is None or isinstance(cause, MemoryError | torch.OutOfMemoryError):
        return None
    if isinstance(cause, RuntimeError) and "memory" in str(cause) and "alloc" in str(cause).lower():
        return None
    return Crash(crash_report(cause), crash_place(cause))


class Candidate:
    """Asks the model under test for logits, and insists on getting them.

    Args:
        model: an `nn.Module`; a callable ``ids -> logits`` that takes int64 ids ``[B, T]`` as a tensor, or as a numpy
            array if it does not accept tensors; or one of these as `building.load_object` returned it.
        config: of the checkpoint; says which shape the logits must have.
        ranks: if it runs on several; this is rank 0's part.
    """

    def __init__(self, model: Any, config: GPTConfig, ranks: Ranks | None = None) -> None:
        self.loaded = model if isinstance(model, Loaded) else None
        if isinstance(model, Loaded):
            model = model.object
        if not callable(model):
            is_stage = type(model).__module__.startswith("torch.distributed.pipelining")
            raise CandidateError(
                f"the candidate is a {type(model).__name__}, which cannot be called",
                hint="give a function that runs the stage on every rank, and returns the logits on rank 0"
                if is_stage
                else "give an nn.Module, or a function from ids [B, T] to logits [B, T, V]",
            )
        if isinstance(model, nn.Module) and any(parameter.is_meta for parameter in model.parameters()):
            raise CandidateError(
                f"{type(model).__name__} has parameters on the meta device, where they have no values",
                hint="build it on the CPU, and fill it with load_into",
            )
        self.model = model
        self.config = config
        self.ranks = ranks
        self.adaptations: dict[str, None] = {}  # what had to be done to get logits, in words, each once
        if self.loaded is not None:
            if self.loaded.settings:
                self.adaptations[built_with(self.loaded.settings)] = None
            self.adaptations |= dict.fromkeys(self.loaded.notes)
        self.full: tuple[Tensor, Tensor] | None = None  # ids [1, C] that fill the context, and the last tokens' logits
        self._way: Way | None = None
        self._output_dtype: torch.dtype | None = None  # the finest that its logits need
        # The coarsest that torch was seen computing with, or that another program is known to compute with.
        self._arithmetic = self.loaded.arithmetic if self.loaded is not None else None

    @property
    def recording(self) -> Recording | None:
        """The model, if it is a file of answers: it knows no others."""
        return self.model if isinstance(self.model, Recording) else None

    @property
    def engine(self) -> str:
        """The program that computes it, where that is no Python code; see `building.Loaded`."""
        return self.loaded.engine if self.loaded is not None else ""

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
        other.model, other._way = self.module or self.model, None
        other.settle()
        return other

    @cached_property
    def alone(self) -> "Candidate":
        """The same on this rank alone, to be looked into: itself, if it does not run on several.

        Of FSDP2's model that is a copy with whole parameters; of `DistributedDataParallel`'s it is rank 0's module.

        Raises:
            NotImplementedError: it does not compute the same on one rank; says why, and what to do.
        """
        if self.ranks is None:
            return self
        several = f"the model runs on {self.ranks.size} ranks"
        ids = torch.arange(min(_ENDING, self.config.n_positions))[None] % self.config.vocab_size
        try:
            other = Candidate(self.ranks.whole(), self.config)
            with Alone():
                logits = other.logits(ids)
        except (NotImplementedError, CandidateError) as error:
            why = str(error.__cause__ or error)[:200]
            raise NotImplementedError(f"{several}, and cannot be run on one ({why}); {_WHOLE}") from None
        if not torch.equal(logits, self.logits(ids)):
            raise NotImplementedError(f"{several}, and computes something else on one; {_WHOLE}")
        self.adaptations[_LOOKED_INTO] = None
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
        if self.ranks is not None:
            return self.ranks.precisions
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
        with in_mode(self.model.modules() if self.module else (), training=False):
            self.settle()
            yield

    def logits(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Logits ``[B, T, V]`` on the CPU, in the candidate's dtype.

        Args:
            input_ids: int64 ``[B, T]``.
            **options: handed on, such as an attention mask.

        Raises:
            CandidateError: it crashed, or returned something else; says what.
        """
        return self.logits_in(self.call(input_ids, **options), input_ids)

    def logits_until_asked_again(self, input_ids: Tensor) -> Tensor:
        """The same without a copy: the candidate may write to what it returned when it is called again."""
        logits = self.logits_in(self.call(input_ids), input_ids, copied=False)
        if self.full is None and tuple(input_ids.shape) == (1, self.config.n_positions):
            self.full = input_ids, logits[:, -_ENDING:].clone()
        return logits

    def greedy(self, input_ids: Tensor) -> Tensor:
        """The ids ``[B, T]`` that it would choose after each token: among all its columns, also beyond the vocabulary.

        Raises:
            CandidateError: as `logits`.
        """
        output = self.call(input_ids)
        self.logits_in(output, input_ids)  # insists on logits
        all_columns = self.way.logits(output, tuple(input_ids.shape))
        assert all_columns is not None
        return all_columns.detach().reshape(*input_ids.shape, all_columns.size(-1)).argmax(-1).cpu()

    def exact_logits(self, input_ids: Tensor) -> ExactLogits:
        """Its float64 run on ids ``[B, T]``.

        Raises:
            NotImplementedError: it cannot be run so; says why.
        """
        if self.module is None:  # a function may mix torch with numpy, which stays as narrow as it is
            raise NotImplementedError("only a torch module can be run in float64")
        try:
            within = in_float64 if self.ranks is None else self.ranks.in_float64
            logits, moved = run_in_float64(lambda: self.logits(input_ids), self.module, within)
        except CandidateError as error:
            cause = error.__cause__
            raise NotImplementedError(f"in float64 it fails: {cause if cause is not None else error}") from None
        if logits.dtype != torch.float64:
            raise NotImplementedError("its logits are not float64 when it is run in float64")
        distances = [(other - logits).abs().amax(-1) for other in moved]
        return ExactLogits(logits, sum(distances[1:], distances[0]) if distances else None)

    def logits_in(self, output: Any, input_ids: Tensor, last_suffices: bool = False, copied: bool = True) -> Tensor:
        """The logits in what the model returned for these ids; see `logits`.

        Args:
            output: of `call`.
            input_ids: int64 ``[B, T]``.
            last_suffices: take those of the last position, ``[B, 1, V]``, where there are no others.
            copied: False if nothing is to be kept beyond the next call.
        """
        if last_suffices and self._last_only(self.way.logits(output, tuple(input_ids.shape)), input_ids):
            input_ids = input_ids[:, -1:]
        logits = self._found_in(output, input_ids)
        if self._output_dtype is None or torch.finfo(self._output_dtype).bits < 32:
            self._output_dtype = _finest({_grid(logits), self._output_dtype or torch.bfloat16})
        return logits.detach().to("cpu", copy=copied)  # a buffer that it returned may be written to again

    def differentiable(self, input_ids: Tensor) -> Tensor:
        """Logits that remember how they were computed, on the candidate's device.

        Raises:
            CandidateError: it returned no logits.
            Exception: whatever it raised.
        """
        return self._found_in(self.way.ask(self._copy(input_ids)), input_ids)

    @contextmanager
    def differentiating(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Inside, gradients of all these parameters can be taken; afterwards each requires them as before.

        Raises:
            CandidateError: it cannot be differentiated, or what it raises itself.
        """
        required = [parameter.requires_grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                yield
        except CandidateError:
            raise
        except Exception as error:  # somebody's code may raise anything
            raise CandidateError(f"{self.name} cannot be differentiated: {crash_report(error)}") from error
        finally:
            for parameter, before in zip(parameters, required, strict=True):
                parameter.requires_grad_(before)

    def settle(self) -> None:
        """Finds out now how it is asked, so that nobody who watches it run sees the attempts."""
        with torch.no_grad():
            assert self.way is not None

    @property
    def way(self) -> Way:
        """How it is asked, found out at the first question."""
        if self._way is None:
            model, alike = self.model, self.module or self.model
            if self.ranks is not None:
                model = alike = self.ranks.calling(self.model)
            self._way = find_way(model, alike, self.config.vocab_size, self.config.n_positions, self.device)
            if self._way.about:
                self.adaptations[self._way.about] = None
        return self._way

    def _last_only(self, logits: Tensor | None, input_ids: Tensor) -> bool:
        batch, length = input_ids.shape
        return logits is not None and length > 1 and tuple(logits.shape[:-1]) in ((batch, 1), (batch,))

    def _found_in(self, output: Any, input_ids: Tensor) -> Tensor:
        logits = self.way.logits(output, tuple(input_ids.shape))
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
        given = self._copy(input_ids)  # out here an ordinary tensor, which threads of the model's own can use, too
        try:
            with torch.inference_mode():
                ask = self.way.ask
                if self._arithmetic is None and self.model is (self.module or self.model):
                    return self._seen(ask, given, **options)
                return ask(given, **options)
        except RankError:
            raise
        except Exception as error:
            raise CandidateError(
                f"{self.name} crashed on ids of shape {list(input_ids.shape)}: {crash_report(error)}",
                hint="it must take int64 ids [B, T], at any length up to the context's, and nothing else"
                if isinstance(error, TypeError | IndexError | RuntimeError)  # what a call of another kind dies of
                else "",
            ) from error

    def _seen(self, ask: Callable[..., Any], given: Tensor, **options: Any) -> Any:
        """The first answer, and what precision torch computes it in."""
        with seeing_arithmetic() as seen:
            output = ask(given, **options)
        if seen:
            self._arithmetic = _coarsest(seen)
        return output

    def _copy(self, input_ids: Tensor) -> Tensor:
        """The ids on the candidate's device. A candidate that writes into them changes nobody's question."""
        return input_ids.to(self.device, copy=True)

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


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
