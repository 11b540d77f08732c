"""A reading, proven or refuted: the module's logits in float64, with GPT-2's weights in it, beside GPT-2's.

The weights are random, all of them different from zero, and chosen so that every formula of GPT-2 shows: gains are not
1, biases not 0, and the stream's variance is small enough for a norm's epsilon to matter. The module gets them for as
long as the proof takes, and has its own values back afterwards, whatever happens.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from gpt2_from_scratch.asking import Call, in_mode
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import crash_report
from gpt2_from_scratch.infer_layout.events import ROWS, Placed, Record
from gpt2_from_scratch.precision import in_float64, parameters_in_float64, run_in_float64

Weights = Mapping[str, Tensor]


class Failed(Exception):
    """The module ran once, and failed when it was asked again; in words."""


def died(error: Exception) -> str:
    """An exception of somebody's code and the line that raised it, in a line."""
    first, *rows = crash_report(error).splitlines()
    places = [row for row in rows if row.startswith("  File ")]
    file, _, rest = places[-1].removeprefix('  File "').partition('", line ') if places else ("", "", "")
    return f"{first} ({Path(file).name}:{rest.partition(',')[0]})" if places else first


# In float64, correct code agrees with GPT-2 within this share of the largest logit. The styles in tests/foreign agree
# to about 1e-15. A constant with ten digits (0.7978845608 for sqrt(2/pi)) shows at 1e-11 and is no fault.
EXACT = 1e-9

# Code that keeps constants in float32 may be off by what moving them by half a unit does, times this: a constant can be
# off by a whole unit where somebody cut its digits instead of rounding them.
REACH = 2.0

# But never by more than this. A float32 constant is off by 6e-8 of itself, and what it shifts is of that order. The
# mildest of the wrong formulas in `tests.bugs` shifts logits by 4.4e-5: every fourth bug was measured, 37 of them wrong
# formulas in GPT-2's structure.
CONSTANTS = 1e-6

_LENGTHS = (1, 5, 96)  # tokens of the prompts; float64 is slow

# Where code cannot be run in float64 at all: this many times the distance between float32 and float64 logits of GPT-2
# itself. Correct code was measured at 1 to 2 of them.
FLOORS = 4.0


def random_weights(config: GPTConfig, absent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors with random values, float32; zero where `absent` says so.

    Args:
        config: sizes.
        absent: canonical name -> bool tensor, True at elements that the module lacks.
    """
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        values = torch.randn(shape, generator=generator)
        if name.endswith(".bias"):
            values *= 0.2
        elif ".ln_" in name or name.startswith("ln_"):
            values = 1 + 0.2 * values
        elif name.startswith(("wte", "wpe")):
            values *= 0.1
        elif "c_proj" in name:
            values *= 0.1 / math.sqrt(shape[0])
        else:
            values *= 1 / math.sqrt(config.n_embd)
        if name in absent:
            values[absent[name]] = 0
        weights[name] = values
    return weights


def prompts(config: GPTConfig) -> list[Tensor]:
    """Token ids ``[1, T]`` of several lengths, up to the context's."""
    generator = torch.Generator().manual_seed(2)
    lengths = sorted({min(length, config.n_positions) for length in _LENGTHS})
    return [torch.randint(config.vocab_size, (1, length), generator=generator) for length in lengths]


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Afterwards the module is as it was: parameters, buffers, and modes, which are evaluation modes inside."""
    tensors = [(each, each.detach()) for each in (*module.parameters(), *module.buffers()) if not each.is_meta]
    # Whole, as `fill` writes to all of it.
    memories = {each.untyped_storage()._cdata: _memory(each) for each, _ in tensors}
    before = {key: memory.clone() for key, memory in memories.items()}
    try:
        with in_mode(module.modules(), training=False):
            yield
    finally:
        with torch.no_grad():
            for tensor, data in tensors:
                if tensor.data_ptr() != data.data_ptr():  # the module's own code has put something in its place
                    tensor.data = data
            for key, memory in memories.items():
                if not torch.equal(memory, before[key]):
                    memory.copy_(before[key])


def fill(module: nn.Module, record: Record, numbers: Mapping[str, Tensor], weights: Weights) -> None:
    """Writes weights to the elements that the numbers name; every other element of every parameter becomes 0."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        storages = {
            placed.first - parameters[name].storage_offset(): name for name, placed in record.parameters.items()
        }
        firsts = torch.tensor(sorted(storages))
        memories = [_memory(parameters[storages[int(first)]]) for first in firsts]
        for name, places in numbers.items():
            if name in weights:
                for some, values in zip(torch.split(places, ROWS), torch.split(weights[name], ROWS), strict=True):
                    _write(memories, firsts, some.flatten().long(), values.flatten())


def _memory(parameter: Tensor) -> Tensor:
    """All elements that lie in a parameter's memory, one-dimensional: its own, and those of what it is a part of."""
    count = parameter.untyped_storage().nbytes() // parameter.element_size()
    return parameter.detach().as_strided((count,), (1,), 0)


def _write(memories: Sequence[Tensor], firsts: Tensor, places: Tensor, values: Tensor) -> None:
    """Writes values to the elements with these numbers; `firsts`: the number of each memory's first element."""
    owners = torch.bucketize(places, firsts, right=True) - 1  # 0 stands for no element, before all of them
    lowest, highest = int(owners.min()), int(owners.max())
    for owner in range(max(lowest, 0), highest + 1):
        here = slice(None) if lowest == highest else owners == owner
        memories[owner][places[here] - firsts[owner]] = values[here].to(memories[owner].dtype)


def part(flat: Tensor, placed: Placed) -> Tensor:
    """A parameter's elements of a tensor that has one element for each number."""
    return flat.as_strided(placed.shape, placed.strides, placed.first)


@dataclass(frozen=True)
class Agreement:
    """How far two sets of logits are apart, over the largest logit. Truthy where that is no more than `limit`."""

    distance: float
    limit: float
    how: str

    def __bool__(self) -> bool:
        return self.distance <= self.limit

    def __str__(self) -> str:
        return f"logits agree to {self.distance:.1e} of the largest one, {self.how}"


@dataclass(frozen=True)
class Answer:
    """A module's logits.

    Args:
        logits: one tensor ``[1, n, V]`` for each prompt, float64.
        exact: whether they were computed in float64.
        moved: further logits, computed with the code's float32 constants moved by half a unit in the last place; none
            where it has no such constants.
    """

    logits: list[Tensor]
    exact: bool
    moved: tuple[list[Tensor], ...] = ()


def answer(module: nn.Module, call: Call, ids: Sequence[Tensor], nudge: bool = False) -> Answer:
    """Asks the module for its logits, in float64 where it can be run so.

    Args:
        module: to run.
        call: ids to logits, by way of the module.
        ids: prompts.
        nudge: also find out how much rounded constants matter.

    Raises:
        Failed: the module did not answer in any precision.
    """

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [call(each).double() for each in ids]

    for within in (in_float64, parameters_in_float64):
        try:
            if nudge:
                logits, moved = run_in_float64(run, module, within)
                return Answer(logits, True, moved)
            with within(module):
                return Answer(run(), True)
        except Exception:  # a convolution looks at its operands' precisions first; somebody's code may raise anything
            continue
    try:
        return Answer(run(), False)
    except Exception as error:  # somebody's code may raise anything
        raise Failed(f"the module ran once and then failed: {died(error)}") from error


Result = TypeVar("Result")


def wide(module: nn.Module, run: Callable[[], Result]) -> Result:
    """Runs something in float64: with the parameters as they are, or if that fails with float64 copies of them.

    Raises:
        Exception: whatever the second way raised.
    """
    try:
        with torch.no_grad(), in_float64(module):
            return run()
    except (NotImplementedError, RuntimeError):
        with torch.no_grad(), parameters_in_float64(module):
            return run()


def agreement(theirs: Answer, ours: Sequence[Tensor], floor: float = 0.0) -> Agreement:
    """Compares logits prompt by prompt; of the last positions, where theirs has only those.

    Args:
        theirs: the module's.
        ours: ``[1, T, V]`` each, float64.
        floor: for answers that are not exact, the distance that float32 arithmetic leaves, over the largest logit.
    """
    largest = max(float(each.abs().max()) for each in ours)
    if any(other.shape[-1] != mine.shape[-1] for mine, other in zip(ours, theirs.logits, strict=True)):
        return Agreement(math.inf, 0.0, "as there are not as many logits")
    worst = _distance(
        theirs.logits, [mine[:, -other.shape[1] :] for mine, other in zip(ours, theirs.logits, strict=True)]
    )
    worst /= largest
    if not theirs.exact:
        return Agreement(worst, FLOORS * floor, f"in float32, whose own rounding is {floor:.1e}")
    if worst <= EXACT or not theirs.moved:
        return Agreement(worst, EXACT, "in float64")
    reach = sum(_distance(each, theirs.logits) for each in theirs.moved) / largest
    limit = min(CONSTANTS, EXACT + REACH * reach)
    return Agreement(worst, limit, f"in float64, where constants that the code keeps in float32 matter by {reach:.1e}")


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    gaps = [float((a - b).abs().max().nan_to_num(nan=math.inf)) for a, b in zip(one, other, strict=True)]
    return max(gaps)
