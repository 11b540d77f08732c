"""A patch for somebody's model: edits near the guilty lines are tried until the model's logits are GPT-2's.

The edited source is executed in memory; the user's file is not touched. The edited model is run in float64: where its
constructor takes sizes, built small first, with random weights, and then in its own size, with the weights of the model
that was checked, on every length.
"""

import contextlib
import functools
import io
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gpt2_from_scratch.anatomy.forward import logits as exact_logits
from gpt2_from_scratch.arrays import module_of
from gpt2_from_scratch.building import Loaded
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.patch import RIGHT, Judge, Patch, find_patch
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.mapping import Layout, write_theirs
from gpt2_from_scratch.precision import in_float64

# A constant that the code keeps in float32 is off by 6e-8 of itself, and so may the logits be.
_RIGHT_WITH_CONSTANTS = 2e-7
_SHORT = 7  # tokens of the prompts that every edit is tried on
_LENGTHS = 8  # lengths that an accepted edit is confirmed on, beside 1, 2 and the whole context
# Of a context of more than `_LONG` tokens only one other length: at 124M, 1,024 tokens take 12 s of a core in float64.
_LONG, _OTHER = 256, 33
_CONFIRMING = 60  # seconds of all confirmations together: apart from the search, of which the first edit may be right


def repair(
    loaded: Loaded,
    lines: Sequence[int],
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    layout: Layout | None = None,
    *,
    clock: Clock,
) -> Patch | None:
    """The first small edit at these lines with which the model is GPT-2.

    Args:
        loaded: the model that was checked, with the checkpoint's weights in it, as `building.load_object` gave it.
        lines: numbers of the guilty lines in its file, the guiltiest first.
        config: of the checkpoint.
        weights: canonical name -> tensor.
        layout: of the model; with it the patch is proven in another size, too.
        clock: how long to search; where it is over in the end, not all edits were tried. What was found is confirmed
            in a minute at most.

    Returns:
        None if no edit was found in time, or if the model cannot be built again from an edited source.
    """
    if loaded.again is None or loaded.file is None:
        return None
    again, before = loaded.again, loaded.file.read_text(encoding="utf-8")
    short = _Trial(config, weights.__getitem__, _prompts(config, (_SHORT, min(11, config.n_positions))))
    between = range(1, config.n_positions, max(1, config.n_positions // _LENGTHS))
    lengths = sorted({1, 2, *(between if config.n_positions <= _LONG else (_OTHER,)), config.n_positions})
    whole = _Trial(config, weights.__getitem__, _prompts(config, lengths))
    other = _other_size(config)
    in_other_size = _judge_in(other, again, before, layout, clock) if layout is not None and loaded.built else None
    small_first = in_other_size is not None and in_other_size(before) > RIGHT

    confirming = functools.cache(lambda: Clock(_CONFIRMING))  # it starts with the first confirmation

    def in_own_size(source: str, trial: _Trial, clock: Clock) -> float:
        return trial.error(lambda: _with_weights_of(loaded.object, again(source, config)), clock)

    def judge(source: str) -> float:
        return in_other_size(source) if small_first and in_other_size is not None else in_own_size(source, short, clock)

    def confirm(source: str) -> tuple[str, ...]:
        if in_other_size is not None and not small_first and in_other_size(source) > RIGHT:
            return ()
        if in_own_size(source, whole, confirming()) > RIGHT:
            return ()
        proof = f"{len(lengths)} lengths from 1 to {config.n_positions} tokens"
        if in_other_size is None:
            return (proof,)
        return proof, f"a model of width {other.config.n_embd} with {other.config.n_layer} layers"

    return find_patch(loaded.file, lines, judge, confirm, clock=clock)


def _judge_in(
    other: "_Trial", again: Callable[[str, GPTConfig], object], before: str, layout: Layout, clock: Clock
) -> Judge | None:
    """Judges edited sources in another size; None where the code takes only its own."""

    def build(source: str) -> object:
        return _filled(again(source, other.config), layout, other)

    try:
        with _silence():
            build(before)
    except Exception:  # whatever a constructor raises that does not take these sizes
        return None
    return lambda source: other.error(lambda: build(source), clock)


class _Trial:
    """Prompts with GPT-2's float64 logits on given weights."""

    def __init__(self, config: GPTConfig, read: Callable[[str], Tensor], prompts: Sequence[Tensor]) -> None:
        self.config, self.read, self.prompts = config, read, prompts

    @functools.cached_property
    def expected(self) -> list[Tensor]:
        """GPT-2's logits, which are computed for the first model that comes to these prompts."""
        weights = {name: self.read(name).double() for name in self.config.tensor_shapes()}
        return [exact_logits(self.config, weights, ids) for ids in self.prompts]

    def error(self, make: Callable[[], object], clock: Clock) -> float:
        """How far the model is from GPT-2, as a share of the largest logit; infinite where it does not run in time."""
        worst = 0.0
        try:
            with _silence(), clock.ending():  # an edited loop may never end
                candidate = Candidate(make(), self.config)
                for ids, expected in zip(self.prompts, self.expected, strict=True):
                    if clock.over:
                        return math.inf
                    with candidate.evaluating(), in_float64(candidate.module) as met:
                        found = candidate.logits(ids).double()
                    error = float((found - expected).abs().max() / expected.abs().max())
                    error *= RIGHT / _RIGHT_WITH_CONSTANTS if met.constants else 1.0
                    if not error <= RIGHT:  # NaN fails every comparison
                        return error if math.isfinite(error) else math.inf
                    worst = max(worst, error)
        except Exception:  # an edit may do anything
            return math.inf
        return worst


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What edited code prints and warns of is nobody's business."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings(action="ignore"):
        yield


def _with_weights_of(right: object, edited: object) -> object:
    """The edited model with the parameters of the one that was checked; a function's are its arrays."""
    ours, theirs = (module_of(each) if callable(each) else None for each in (right, edited))
    if ours is not None and theirs is not None:
        parameters = dict(ours.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, parameter in theirs.named_parameters(remove_duplicate=False):
                parameter.copy_(parameters[name])
    return edited


def _filled(module: object, layout: Layout, trial: _Trial) -> object:
    if not isinstance(module, nn.Module):
        raise TypeError("a function holds its own weights")
    parameters = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, read in write_theirs(layout, trial.config, trial.read, wanted=parameters.__contains__).items():
            parameters[name].copy_(read())
    return module


_SIZES = ((40, 5), (42, 7), (44, 4))  # width and heads of a small model


def _other_size(config: GPTConfig) -> _Trial:
    """Another GPT-2 with the same options, small, its weights drawn at random, no parameter at its default.

    Each of its sizes is another than the checkpoint's, so a number that the code has instead of one is wrong here.
    """
    own = (config.n_embd, config.n_head, config.head_dim)
    width, heads = next(
        (width, heads) for width, heads in _SIZES if all(map(operator.ne, own, (width, heads, width // heads)))
    )
    layers = 2 if config.n_layer != 2 else 3
    other = config.replace(
        vocab_size=43 if config.vocab_size != 43 else 47,
        n_positions=19 if config.n_positions != 19 else 23,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=None if config.inner_dim == 4 * config.n_embd else 100,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    generator = torch.Generator().manual_seed(0)
    shapes = other.tensor_shapes().items()
    drawn = {name: 0.3 * torch.randn(shape, generator=generator) + ("ln_" in name) for name, shape in shapes}
    return _Trial(other, lambda name: drawn[name], _prompts(other, (_SHORT, other.n_positions, 1, 2, 12)))


def _prompts(config: GPTConfig, lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = [2 if length == _SHORT else 1 for length in lengths]
    return [
        torch.randint(config.vocab_size, (row, min(length, config.n_positions)), generator=generator)
        for row, length in zip(rows, lengths, strict=True)
    ]


def write_patch(patch: Patch) -> Path:
    """Writes a patch into its file. The old content stays beside it, with ``.orig`` behind the name.

    Returns:
        The path of the old content.

    Raises:
        CandidateError: there is such a file already, or the file has changed since the patch was found.
    """
    backup = patch.path.with_name(patch.path.name + ".orig")
    if patch.path.read_text(encoding="utf-8") != patch.before:
        raise CandidateError(
            f"{patch.path} has changed since it was checked; nothing was written", hint="verify it again"
        )
    try:
        with backup.open("x", encoding="utf-8") as file:
            file.write(patch.before)
    except FileExistsError:
        raise CandidateError(
            f"{backup} is there already, from an earlier patch or by you; nothing was written",
            hint=f"move {backup.name} to another place, or delete it",
        ) from None
    patch.path.write_text(patch.after, encoding="utf-8")
    return backup
