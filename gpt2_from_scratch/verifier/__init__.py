"""Is this GPT-2? A verdict, the evidence for it, and the fault if it is not.

"Equal" means: no further from the reference than the reference is from itself. That distance, the noise floor, is
measured in the same run on the same prompts, so there is no tolerance to guess. `verify` runs the checks one after
another, each in a file of `checks`, then the search of `diagnose`; what they found is collected in a `Verdict`.
"""

import math
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn

from gpt2_from_scratch.arrays import arrays_of
from gpt2_from_scratch.building import Loaded
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.generation import check_generation
from gpt2_from_scratch.checks.gradients import check_gradients
from gpt2_from_scratch.checks.logits import Logits, check_logits
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.checks.prompts import TEXT, Prompt, choose_prompts, special_ids
from gpt2_from_scratch.checks.quantized import judged_by_quantization, quantized_weights
from gpt2_from_scratch.checks.recording import Recording
from gpt2_from_scratch.checks.selftests import SelfTests, check_full_cache, check_itself
from gpt2_from_scratch.checks.surroundings import kept_as_it_is
from gpt2_from_scratch.checks.training import check_training
from gpt2_from_scratch.checks.weights import Fitted, check_weights, fit
from gpt2_from_scratch.compare import THRESHOLD
from gpt2_from_scratch.diagnose import Checked, diagnose, prompts_for
from gpt2_from_scratch.diagnose.divergence import Traced, locate
from gpt2_from_scratch.errors import CandidateError, CheckpointError, MappingError, SizesError, TokenizerError
from gpt2_from_scratch.infer_layout import find_layout
from gpt2_from_scratch.layouts import LayoutChoice, layout_variants
from gpt2_from_scratch.loading import TINY, Checkpoint, OpenOptions, Source, open_anew, open_checkpoint
from gpt2_from_scratch.mapping import Layout
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.ranks import Ranks
from gpt2_from_scratch.reference import Reference, can_stream, load_reference
from gpt2_from_scratch.reports.results import Fact
from gpt2_from_scratch.reports.verdict import Verdict
from gpt2_from_scratch.streaming import larger_than_memory
from gpt2_from_scratch.tokenizer import load_tokenizer, tokenizer_files

__all__ = ["Interrupted", "Verdict", "VerifyOptions", "recorded_prompts", "standard_prompts", "verify"]

_GREEDY_STEPS = 12
_GREEDY_PROMPT = 4  # tokens that are continued: few, as everything may be recomputed at every step
_ENOUGH = 17  # tokens that must have been run before the time of the others is estimated
_PROVING = 8  # tokens, at least, on which the reference is compared with our own float64 run
_TRACED = 64  # tokens, at most: every site's numbers are held at once

DIAGNOSE_SECONDS = 60.0  # ends the search on a machine that others use, too; alone, 124M in a module takes 5 to 20 s


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `verify`. `verdict` holds what was found until then, and says so."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary)
        self.verdict = verdict


class VerifyOptions(OpenOptions, total=False):
    """What `verify` looks at, and how the checkpoint is opened. Given by name; each may be left out.

    Args:
        prompts: instead of the standard ones.
        reference: one that was loaded from this checkpoint before, for who judges several candidates; it keeps what it
            has computed in float64.
        threshold: multiples of the noise floor that pass (4).
        tolerance: (atol, rtol) to judge the logits by, instead of the threshold.
        skip: names from `PARTS`. Without logits, generation and gradients, transformers is not needed.
        gradients: compare the loss and every parameter's gradient, too.
        thorough: ask every row of the embedding and many more lengths: minutes at GPT-2's size.
        train: run a module in training mode, too: the same without dropout, dropout's places and rates, gradients.
        stream: hold the reference in memory one block at a time, for a checkpoint larger than memory. None: if it is.
            A `GPTModel` that was loaded with ``stream=True`` is held likewise.
        always_trace: compare inside even when the logits agree, for the report.
        diagnose_seconds: time to search for the fault when weights or logits fail (60); 0 does not search.
        progress: called with the name of each phase as it begins.
        ranks: of a model that runs on several, from the one that leads; the others must be following.
    """

    prompts: Sequence[Prompt] | None
    reference: Reference | None
    threshold: float
    tolerance: tuple[float, float] | None
    skip: Collection[str]
    gradients: bool
    thorough: bool
    train: bool
    stream: bool | None
    always_trace: bool
    diagnose_seconds: float
    progress: Callable[[str], None]
    ranks: Ranks | None


@dataclass(frozen=True)
class _Asked:
    """What `verify` looks at, with what is meant where nothing is said."""

    prompts: Sequence[Prompt] | None = None
    reference: Reference | None = None
    threshold: float = THRESHOLD
    tolerance: tuple[float, float] | None = None
    skip: Collection[str] = ()
    gradients: bool = False
    thorough: bool = False
    train: bool = False
    stream: bool | None = None
    always_trace: bool = False
    diagnose_seconds: float = DIAGNOSE_SECONDS
    progress: Callable[[str], None] = lambda phase: None
    ranks: Ranks | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.skip) - set(PARTS)):
            raise ValueError(f"cannot skip {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
        if not self.threshold > 0 or not math.isfinite(self.threshold):
            raise CandidateError(f"the threshold must be a positive number of noise floors, not {self.threshold}")
        if self.tolerance is not None and not all(math.isfinite(each) and each >= 0 for each in self.tolerance):
            atol, rtol = self.tolerance
            raise CandidateError(f"a tolerance must be a number that is not negative: atol {atol}, rtol {rtol}")
        if not self.diagnose_seconds >= 0:
            seconds = self.diagnose_seconds
            raise CandidateError(f"the diagnosis may take a number of seconds that is not negative, not {seconds}")
        if self.thorough and self.prompts is not None:
            raise ValueError("thorough adds to the standard prompts, so give either thorough=True or prompts")


def verify(
    candidate: "nn.Module | Callable[..., Any] | Recording | Loaded",
    checkpoint: Source | Checkpoint = TINY,
    layout: LayoutChoice | None = None,
    **options: Unpack[VerifyOptions],
) -> Verdict:
    """Checks a model against transformers' `GPT2LMHeadModel` on the same checkpoint; names the fault if it is wrong.

    Args:
        candidate: an `nn.Module` with weights in it, any callable ``ids [B, T] -> logits [B, T, V]``, torch or numpy,
            or a `Recording`. It is checked in eval mode and given back as it was. TF32 is off meanwhile.
        checkpoint: a file, a directory, a Hub id or an opened `Checkpoint`; the default is ``tiny``, the small trained
            model inside the package.
        layout: of the candidate, for modules: a name from `LAYOUTS` or a `Layout`. With it the weights are compared
            too, and a failure is located. None: it is found by names, by values, or by what the module computes.
        **options: what is looked at, see `VerifyOptions`; and how the checkpoint is opened, see `OpenOptions`.

    Returns:
        A `Verdict`, truthy when verified; ``print()`` shows its report.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        CandidateError: the candidate cannot be checked, or nothing is left to check.
        Interrupted: somebody pressed Ctrl-C; carries the verdict so far.

    Example:
        >>> from gpt2_from_scratch import GPTModel, verify
        >>> bool(verify(GPTModel.from_pretrained(), layout="gpt2_from_scratch"))
        True
    """
    given = dict(options)
    asked = _Asked(**{each.name: given.pop(each.name) for each in fields(_Asked) if each.name in given})  # type: ignore[arg-type]
    opened = open_checkpoint(checkpoint, **cast(OpenOptions, given))
    if asked.stream is None:
        asked = replace(asked, stream=can_stream(opened) and larger_than_memory(opened.config.num_parameters))
    if asked.stream:
        opened = open_anew(opened, mmap=False)  # what is read of it is dropped again
    layouts = layout_variants(layout) if layout is not None else ()
    run = _Run(candidate, opened, layouts, asked)
    try:
        with kept_as_it_is(), run.subject.evaluating():
            if layout is None:
                run.find_layout()
            run.check_weights()
            run.check_itself()
            if run.needs_reference:
                run.load_reference()
                run.check_logits()
                run.check_full_cache()
                run.check_generation()
                run.check_gradients()
                run.locate()
            run.diagnose()
    except KeyboardInterrupt:
        raise Interrupted(replace(run.finished(), interrupted=run.phase)) from None
    except SystemExit as error:  # with code 0 it would end the caller's script as if all were well
        raise CandidateError(f"{run.subject.name} called sys.exit({error.code!r}); nothing was verified") from None
    verdict = run.finished()
    if not verdict.compared:
        reasons = "; ".join(f"{part}: {why}" for part, why in run.unchecked.items())
        raise CandidateError(
            f"nothing of {run.subject.name} was checked: {reasons}",
            hint=f"skip less; the parts are {', '.join(PARTS)}",
        )
    return verdict


class _Run:
    """One verification: a method per part, which adds its result to `verdict` or its reason to `unchecked`."""

    def __init__(self, candidate: Any, checkpoint: Checkpoint, layouts: Sequence[Layout], asked: _Asked) -> None:
        self.subject = Candidate(candidate, checkpoint.config, asked.ranks)
        self.recording = self.subject.recording
        self.checkpoint = checkpoint
        self.asked = asked
        self.wanted = frozenset(PARTS) - frozenset(asked.skip) - (frozenset() if asked.gradients else {"gradients"})
        self.phase = "loading"
        self.unchecked: dict[str, str] = {part: "you asked to skip it" for part in PARTS if part in asked.skip}
        self.on_ranks = f"the model runs on {asked.ranks.size} ranks" if asked.ranks is not None else ""
        if self.on_ranks:
            compares = "each compares its weights, and " if self.subject.module is not None else ""
            self.subject.adaptations[f"{self.on_ranks}; {compares}the logits are rank 0's"] = None
        source = checkpoint.located.source
        name = source if source != TINY.name else "the model inside the package"
        environment = _environment(self.subject)
        self.verdict = Verdict(self.subject.name, name, environment=environment, assumed=checkpoint.assumed)
        self.fitted: Fitted | None = None
        self.arrays: Fitted | None = None  # of a function: what it computes with
        self.no_layout = "no layout was given" if self.subject.module is not None else ""
        if self.subject.module is not None and layouts:
            self.fitted = fit(self.subject, checkpoint.config, layouts)
        self.reference: Reference | None = None
        self.prompts: Sequence[Prompt] = ()
        self.traced: Traced | None = None
        self.quantized: Mapping[str, Tensor] | None = None  # the candidate's weights, where another program rounds them

    @property
    def needs_reference(self) -> bool:
        """Whether anything is asked that only the reference can answer."""
        return bool(self.wanted & {"logits", "generation", "gradients"})

    @property
    def _differ(self) -> bool:
        """Whether logits are known that are not the reference's; what crashed has none."""
        return self.verdict.logits is not None and self.verdict.logits.differ

    @property
    def _kind(self) -> str:
        """What a candidate is that is no torch module."""
        return "recording" if self.recording else (self.subject.engine and "model of another program") or "function"

    @property
    def _closed(self) -> str:
        """Why nothing can be said of what is inside, where no layout is known."""
        if self.subject.module is None:
            return f"that takes a torch module, and the candidate is a {self._kind}"
        return "it is not known which of its parameters is which of GPT-2's"

    @property
    def _loaded(self) -> Reference:
        assert self.reference is not None, "needs_reference"
        return self.reference

    def _rounded_alike(self) -> AbstractContextManager[None]:
        """The reference's weights go through the precisions that the candidate's went through, each tensor its own."""
        logits, weights = self.verdict.logits, self.verdict.weights
        if self.quantized is not None:
            return self._loaded.with_weights(self.quantized)
        rounded = (logits.rounded if logits is not None else None) or (
            weights.roundings if weights is not None else None
        )
        return self._loaded.with_weights_in(rounded) if rounded else nullcontext()

    def enter(self, phase: str, more: str = "") -> None:
        self.phase = phase
        weights, tests = self.verdict.weights, self.verdict.self_tests
        wrong = [name for name, part in (("weights", weights), ("self-tests", tests)) if part is not None and not part]
        so_far = f"so far: {' and '.join(wrong)} failed" if wrong else ""
        self.asked.progress(", ".join(each for each in (phase, more, so_far) if each))

    def find_layout(self) -> None:
        """Looks for the layout of a module of which nobody said it; without one, only its outputs can be checked."""
        module = self.subject.module
        if not self.wanted & {"weights", "gradients", "where"} or self.recording is not None or self.subject.engine:
            return
        try:
            arrays = None
            if module is None and not self.on_ranks and "weights" in self.wanted:  # each rank has others
                arrays = arrays_of(self.subject.model)
            searched = module or arrays
            if searched is None:
                return
            self.enter("layout")
            found = find_layout(searched, self.checkpoint.config, self.checkpoint.read)
        except SizesError as error:
            raise CandidateError(error.message, hint=error.hint) from None
        except MappingError as error:
            self.no_layout = error.message
            return
        if module is not None:
            self.fitted = fit(self.subject, self.checkpoint.config, (found.layout,))
        else:
            self.arrays = fit(Candidate(searched, self.checkpoint.config), self.checkpoint.config, (found.layout,))
        self.subject.adaptations[f"its weights are found by {found.how}"] = None

    def check_weights(self) -> None:
        if "weights" not in self.wanted:
            return
        fitted = self.fitted or self.arrays
        if fitted is None:
            why = self.no_layout or f"the candidate is a {self._kind}"
            self.unchecked["weights"] = f"{why} (a dropped key bias cannot be seen in logits)"
            return
        self.enter("weights")
        self.verdict = replace(self.verdict, weights=check_weights(fitted, self.checkpoint, self.asked.ranks))

    def check_itself(self) -> None:
        if "self-tests" not in self.wanted:
            return
        if self.recording is not None:
            self.unchecked["self-tests"] = "a recording cannot be asked anything else"
            return
        self.enter("self-tests")
        tests = check_itself(self.subject, full_context="logits" not in self.wanted)
        if not self.asked.train:
            self.unchecked["training mode"] = "not asked for (--train)"
        elif self.subject.module is None:
            self.unchecked["training mode"] = "only a torch module has one"
        elif (alone := self.alone("training mode")) is not None:
            tests = SelfTests((*tests.results, *check_training(alone)))
        for test in tests.told:
            told = str(test).splitlines()[0]
            self.subject.adaptations[f"{told}; it is not held against the model"] = None
        self.verdict = replace(self.verdict, self_tests=tests)

    def load_reference(self) -> None:
        self.enter("loading the reference")
        prompts = self.asked.prompts
        if prompts is None and self.recording is not None:
            prompts = self.recording.prompts
            if self.asked.thorough:
                self.unchecked["all rows and lengths"] = "a recording cannot be asked anything else"
        if prompts is None:
            prompts = standard_prompts(self.checkpoint, self.unchecked, thorough=self.asked.thorough)
        self.prompts = prompts
        shared = [
            each.ids for each in self.prompts if each.ids.size(0) == 1 and _PROVING <= each.ids.size(1) <= _TRACED
        ]
        shortest = min(shared, key=lambda ids: ids.size(1), default=None)
        self.reference = self.asked.reference or load_reference(self.checkpoint, shortest, bool(self.asked.stream))
        if self.reference.config != self.checkpoint.config:
            raise CandidateError(
                f"the reference is of another configuration than {self.checkpoint.located.source}",
                hint="load it from the same checkpoint: load_reference(open_checkpoint(...))",
            )
        environment = {**self.verdict.environment, "attention": self.reference.attention}
        self.verdict = replace(self.verdict, environment=environment)
        self.excuse()

    def excuse(self) -> None:
        """A self-test that the reference fails on this checkpoint, too, is not held against the candidate."""
        tests = self.verdict.self_tests
        if tests is not None and not tests and self.reference is not None:
            of_reference = check_itself(Candidate(self.reference.model, self.checkpoint.config))
            self.verdict = replace(self.verdict, self_tests=tests.without({test.name for test in of_reference.failed}))

    def check_logits(self) -> None:
        if "logits" not in self.wanted:
            return
        self.enter("logits")
        if max((prompt.ids.size(1) for prompt in self.prompts), default=0) == 1 < self.checkpoint.config.n_positions:
            raise CandidateError(
                "every prompt is one token, which shows no attention score, no mask and no position but the first",
                hint="give a prompt of several tokens, too",
            )
        weights = self.verdict.weights
        remaining = _Remaining(self.prompts)
        with self._rounded_alike():
            logits = check_logits(
                self.subject,
                self._loaded,
                self.prompts,
                self.asked.threshold,
                tolerance=self.asked.tolerance,
                weights_equal=bool(weights),
                progress=lambda phase: self.enter(phase, remaining.before(phase)),
            )
        if weights is not None and weights.roundings and logits.dtype == torch.float32:
            logits = replace(logits, weights_dtype=weights.rounded, rounded=weights.roundings)
        if self.subject.engine and logits.differ and self.asked.tolerance is None:
            self.quantized = quantized_weights(self.subject, self.checkpoint)
            if self.quantized is not None:
                logits = judged_by_quantization(logits, self.subject, self.quantized, self.checkpoint, self._loaded)
        self.verdict = replace(self.verdict, logits=logits)
        if logits.quantized:
            self.unchecked["what is smaller than the quantisation of its weights"] = "verify it in float32 to see it"
        elif torch.finfo(logits.dtype).bits < 32 and logits.exact is None:
            self.unchecked[f"what is smaller than the rounding of {dtype_name(logits.dtype)}"] = (
                "verify in float32 to see it"
            )

    def check_full_cache(self) -> None:
        tests = self.verdict.self_tests
        if tests is not None and "logits" in self.wanted:
            self.enter("self-tests: the cache of a full context")
            self.verdict = replace(self.verdict, self_tests=check_full_cache(self.subject, tests))
            if tests:
                self.excuse()

    def check_generation(self) -> None:
        if "generation" not in self.wanted:
            return
        logits = self.verdict.logits
        if self.recording is not None or (logits is not None and not logits):
            why = "the logits differ" if self._differ else "it crashes on a prompt"
            why = "a recording cannot be continued" if self.recording is not None else why
            self.unchecked["generation"] = why
            return
        self.enter("generation")
        # Logits that passed may each be off by as much as was let pass.
        tie = max(logits.threshold * logits.floor, 2 * logits.max_abs) if logits is not None else 0.0
        beginning = self.prompts[-1]  # natural text, where there is some
        single = Prompt(f"the beginning of {beginning.name}", beginning.ids[:1, :_GREEDY_PROMPT])
        with self._rounded_alike():
            generation = check_generation(
                self.subject, self._loaded, [single], _GREEDY_STEPS, tie, at_once=self._says_the_same_at_once
            )
        self.verdict = replace(self.verdict, generation=generation)

    @property
    def _says_the_same_at_once(self) -> bool:
        """Whether self-tests have shown that its answers depend neither on chance nor on what follows."""
        tests = self.verdict.self_tests
        passed = {test.name for test in (tests.results if tests is not None else ()) if test.status == "passed"}
        return {"deterministic", "causal", "length"} <= passed

    def alone(self, part: str) -> Candidate | None:
        """The candidate on this rank alone, to be looked into; None, and the reason in the report, if it cannot be."""
        try:
            return self.subject.alone
        except NotImplementedError as why:
            self.unchecked[part] = str(why)
            return None

    def fitted_of(self, alone: Candidate, fitted: Fitted) -> Fitted:
        """The layout as that of the candidate on this rank alone."""
        return fitted if alone is self.subject else fit(alone, self.checkpoint.config, (fitted.layout,))

    def check_gradients(self) -> None:
        if "gradients" not in self.wanted:
            return
        fitting = [prompt for prompt in self.prompts if 1 < prompt.ids.size(1) <= _TRACED]
        if self.fitted is None:
            self.unchecked["gradients"] = self._closed
        elif torch.finfo(self.subject.precision).bits < 32:
            self.unchecked["gradients"] = "there is no noise floor for those of lower precision"
        elif not fitting:
            self.unchecked["gradients"] = f"no prompt has 2 to {_TRACED} tokens"
        elif (alone := self.alone("gradients")) is not None:
            self.enter("gradients")
            longest = max(fitting, key=lambda prompt: prompt.tokens)
            fitted = self.fitted_of(alone, self.fitted)
            with self._rounded_alike():
                gradients = check_gradients(alone, self._loaded, longest, fitted, self.asked.threshold)
            self.verdict = replace(self.verdict, gradients=gradients)

    def locate(self) -> None:
        if "where" not in self.wanted or not (self._differ or self.asked.always_trace):
            return
        if self.fitted is None:
            self.unchecked["where"] = self._closed
        elif (alone := self.alone("where")) is not None:
            self.enter("first divergence")
            prompt = _to_trace(self.verdict.logits, self.prompts)
            exact = self._differ and self.verdict.logits is not None and self.verdict.logits.exact is not None
            with self._rounded_alike():
                fitted = self.fitted_of(alone, self.fitted)
                self.traced, divergence = locate(alone, fitted, self._loaded, prompt, exact)
            self.verdict = replace(self.verdict, divergence=divergence)

    def diagnose(self) -> None:
        wrong_weights = self.verdict.weights is not None and not self.verdict.weights
        if not self._differ and not wrong_weights:
            return
        if self.recording is not None and not self._answers_the_search(self.recording):
            self.unchecked["diagnosis"] = "the recording has no answers to the prompts of the search: record it anew"
        elif not self.asked.diagnose_seconds > 0:
            self.unchecked["diagnosis"] = "you asked to skip it"
        elif self.reference is None:
            self.unchecked["diagnosis"] = "it takes the reference, which nothing else needed"
        else:
            self.enter("diagnosis")
            subject, fitted = self.subject, None
            with suppress(NotImplementedError):  # what is found of it says why no line is named
                subject = self.subject.alone
                fitted = self.fitted_of(subject, self.fitted) if self.fitted is not None else None
            most = self.asked.diagnose_seconds
            weights, logits = self.verdict.weights, self.verdict.logits
            try:
                diagnosis = diagnose(
                    subject,
                    self.checkpoint,
                    self.reference,
                    Checked(
                        inside=self.traced if self.traced is not None else fitted,
                        failing=None if logits is None else _to_trace(logits, self.prompts).ids,
                        weights_right=None if weights is None else bool(weights),
                        floor=None if logits is None else logits.floor,
                    ),
                    seconds=most,
                    progress=lambda phase: self.asked.progress(f"diagnosis, at most {most:g} s: {phase}"),
                )
            except CandidateError as error:  # it crashes on a prompt of the search: the verdict stands
                self.unchecked["diagnosis"] = error.message.splitlines()[0]
                return
            self.verdict = replace(self.verdict, diagnosis=diagnosis)

    def _answers_the_search(self, recording: Recording) -> bool:
        config = self.checkpoint.config
        asked = prompts_for(config).all(config.vocab_size)
        return all(any(torch.equal(ids, prompt.ids) for prompt in recording.prompts) for ids in asked)

    def finished(self) -> Verdict:
        return replace(self.verdict, notes=tuple(self.subject.adaptations), unchecked=dict(self.unchecked))


class _Remaining:
    """How long the prompts that are left will take, judged by those that were run.

    Short prompts take longer per token than long ones, so the estimate is rather too long than too short.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.tokens = {f"logits: {prompt.name}": prompt.tokens for prompt in prompts}
        self.done, self.started = 0, time.monotonic()

    def before(self, phase: str) -> str:
        """What is to be told when a prompt begins; empty for other phases."""
        phase = phase.partition(";")[0]  # what shorter prompts have shown comes after it
        if phase not in self.tokens:
            return ""
        left = sum(self.tokens.values())
        seconds = (time.monotonic() - self.started) / max(self.done, 1) * left
        estimate = f", about {math.ceil(seconds):,} s" if self.done >= _ENOUGH else ""
        self.done += self.tokens.pop(phase)
        return f"{left:,} tokens to go{estimate}"


def recorded_prompts(checkpoint: Checkpoint) -> tuple[Prompt, ...]:
    """The prompts for a program that cannot be called: the standard ones, and those of the search for its fault.

    Args:
        checkpoint: an opened one.
    """
    search = prompts_for(checkpoint.config).all(checkpoint.config.vocab_size)
    named = [Prompt(f"for the diagnosis, {ids.size(0)} x {ids.size(1)} tokens", ids) for ids in search]
    return (*standard_prompts(checkpoint), *named)


def standard_prompts(
    checkpoint: Checkpoint, unchecked: dict[str, str] | None = None, thorough: bool = False
) -> tuple[Prompt, ...]:
    """The standard prompts for a checkpoint, with natural text where it has a tokenizer.

    Args:
        checkpoint: an opened one.
        unchecked: where to say why there is no text.
        thorough: ask every row of the embedding, and the lengths around every power of two.
    """
    text = None
    try:
        if checkpoint.located.repo_id is None and not tokenizer_files(checkpoint.located.weights):
            raise TokenizerError(f"{checkpoint.located.source} has no tokenizer files")  # GPT-2's would be fetched
        encoding = load_tokenizer(checkpoint)
        text = torch.tensor([encoding.encode(TEXT)])
    except (CheckpointError, OSError, ValueError) as error:
        if unchecked is not None:
            unchecked["natural text"] = str(error).splitlines()[0]
    return choose_prompts(checkpoint.config, text, special_ids(checkpoint), thorough)


def _to_trace(logits: Logits | None, prompts: Sequence[Prompt]) -> Prompt:
    """The worst prompt among the short ones, since every site's numbers are held; if only a long one fails, that."""
    if logits is None:
        return min(prompts, key=lambda prompt: abs(prompt.tokens - _GREEDY_PROMPT))
    fitting = [each for each in logits.results if 1 < each.prompt.ids.size(1) <= _TRACED >= each.prompt.tokens]
    short = fitting or logits.results
    failing = [result for result in short if not result.comparison.max_abs <= logits.threshold * logits.floor]
    only_long = logits.differ and not failing and logits.multiple > logits.threshold
    worst = max(logits.results if only_long else failing or short, key=lambda result: result.comparison.max_abs)
    prompt, row = worst.prompt, worst.comparison.at[0]
    if prompt.tokens <= _TRACED or prompt.ids.size(0) == 1:
        return prompt
    return Prompt(f"row {row} of {prompt.name}", prompt.ids[row : row + 1])


def _environment(subject: Candidate) -> dict[str, Fact]:
    environment: dict[str, Fact] = {"python": platform.python_version()}
    for package in ("gpt2_from_scratch", "torch", "transformers", "numpy"):
        try:
            environment[package] = version(package)
        except PackageNotFoundError:  # transformers, where only self-tests are run
            environment[package] = None
    device = subject.device
    return environment | {
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": dtype_name(subject.dtype),
        "threads": torch.get_num_threads(),
        "tf32": False,
    }
