"""A torch module in training mode, compared with itself in eval mode: what only training would show.

A mask that is missing in training, dropout in a wrong place or at a wrong rate, and a gradient that is cut off change
no logit of a model in eval mode. Dropout itself is random, so it is watched and answered with its input.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gpt2_from_scratch.asking import in_mode
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.selftests import SelfTest
from gpt2_from_scratch.compare import SELF_RTOL
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.precision import parameters_in_float64

_LENGTH = 96  # tokens: beyond 64, where some code takes another way
_STEP = 1e-6  # of the numeric derivative, relative to the weights: its error in float64 is 1e-8 or less
_SLOPE_RTOL = 1e-4  # a gradient that is cut off somewhere is off by a tenth and more
_DROPOUT = (F.dropout, torch.dropout, torch.dropout_, F.dropout1d, F.alpha_dropout)  # of modules and of functions
_ATTENTION_DROPOUT = 4  # dropout_p is the fifth argument of scaled_dot_product_attention

Dropped = tuple[str, float]  # a place, and the rate there


def check_training(candidate: Candidate) -> tuple[SelfTest, ...]:
    """Runs the module in training mode; it is given back in eval mode, and no gradient of it changes.

    Args:
        candidate: a torch module in eval mode.

    Returns:
        Tests of the same kind as the self-tests: the same logits without dropout, dropout at GPT-2's places and
        rates and nowhere in eval mode, gradients that are those of the function computed, and embedding and head as
        one parameter.

    Raises:
        CandidateError: it cannot be run in training mode.
    """
    module, config = candidate.module, candidate.config
    assert module is not None, "only a module has a training mode"
    length = min(_LENGTH, config.n_positions)
    if length == config.n_embd:  # so that scores [T, T] and streams [T, C] are told apart
        length -= 1
    ids = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(29))
    with WithoutDropout() as evaluating:
        expected = candidate.logits(ids)
    with in_mode(module.modules(), training=True), WithoutDropout() as dropout:
        actual = candidate.logits(ids)
        again = candidate.logits(ids)
    limit = SELF_RTOL[candidate.precision]
    what, fault = (
        "in training mode without dropout",
        "training computes something else than eval: look at self.training",
    )
    if not torch.equal(actual, again):
        why = "its dropout is not PyTorch's, so it cannot be taken out"
        return tuple(
            SelfTest(name, what, None, limit, fault, unasked=why) for name in ("training", "dropout", "slopes", "tie")
        )
    share = float((actual.double() - expected.double()).abs().max()) / max(float(expected.abs().max()), 1e-30)
    dropped = dropout.dropped(length, config.n_embd)
    return (
        SelfTest("training", what, share, limit, fault),
        _at_its_places(dropped[: len(dropped) // 2], evaluating.dropped(length, config.n_embd), config),
        _slopes(candidate, ids),
        _tied(module, config),
    )


def _at_its_places(calls: Sequence[Dropped], evaluating: Sequence[Dropped], config: GPTConfig) -> SelfTest:
    """GPT-2 drops the embeddings once, and in each layer the probabilities and what both halves add."""
    what = "GPT-2's three places, at the checkpoint's rates, in training alone"
    said = f"embeddings {config.embd_pdrop:g}, probabilities {config.attn_pdrop:g}, streams {config.resid_pdrop:g}"
    embeddings, layers = int(config.embd_pdrop > 0), config.n_layer * (config.resid_pdrop > 0)
    expected = [config.embd_pdrop] * embeddings + [config.resid_pdrop] * 2 * layers
    streams = [rate for place, rate in calls if place == "the stream"]
    probabilities = [rate for place, rate in calls if place == "the probabilities"]
    wrong = [f"{place} in eval mode" for place, _ in evaluating]
    if not wrong and not calls and (expected or config.attn_pdrop > 0):
        told = f"it drops nothing, where the checkpoint says {said}"
        return SelfTest("dropout", what, 1.0, 0.0, told, advisory=True, compared="")
    wrong += [f"{place} at {rate:g}" for place, rate in calls if place not in ("the stream", "the probabilities")]
    rates = [f"the probabilities at {rate:g}" for rate in probabilities if rate != config.attn_pdrop]
    wrong += rates
    if len(streams) != len(expected):
        wrong.append(f"the stream {len(streams)} times, not {len(expected)}")
    else:
        places = ["the embeddings"] * embeddings + ["the stream"] * 2 * layers
        pairs = zip(places, streams, expected, strict=True)
        wrong += [f"{place} at {rate:g}" for place, rate, right in pairs if rate != right]
    heads = {config.n_layer, config.n_layer * config.n_head} if config.attn_pdrop > 0 else {0}
    if len(probabilities) not in heads and not rates:  # once for all heads, or for each
        wrong.append(f"the probabilities {len(probabilities)} times, not {min(heads)}")
    fault = f"it drops {', '.join(dict.fromkeys(wrong))}; the checkpoint says {said}"
    return SelfTest("dropout", what, float(len(wrong)), 0.0, fault, compared="")


def _tied(module: nn.Module, config: GPTConfig) -> SelfTest:
    """Whether embedding and head are one parameter, which then has the sum of both gradients."""
    what = "one parameter for embedding and head"
    if not config.tie_word_embeddings:
        return SelfTest("tie", what, None, 0.0, "", unasked="the checkpoint has a head of its own")
    found = {
        name: parameter
        for name, parameter in module.named_parameters()  # a shared one once
        if parameter.dim() == 2 and config.n_embd in parameter.shape and max(parameter.shape) >= config.vocab_size
    }
    copies = [
        f"{other} is a copy of {name}"
        for (name, one), (other, two) in combinations(found.items(), 2)
        if any(one.shape == each.shape and torch.equal(one, each) for each in (two, two.t()))
    ]
    fault = f"{'; '.join(copies)}: GPT-2 has one parameter there, with the sum of both gradients"
    return SelfTest("tie", what, float(len(copies)), 0.0, fault, advisory=True, compared="")


def _slopes(candidate: Candidate, ids: Tensor) -> SelfTest:
    """The gradient along a random direction against the difference of two losses beside it, in float64."""
    what, fault = "the gradient against a numeric derivative", "a gradient is cut off: look for detach and no_grad"
    module = candidate.module
    assert module is not None
    parameters = list({id(each): each for each in module.parameters() if each.is_floating_point()}.values())
    generator = torch.Generator().manual_seed(31)

    def loss() -> Tensor:
        logits = candidate.differentiable(ids)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device))

    with (
        candidate.differentiating(parameters),
        in_mode(module.modules(), training=True),
        parameters_in_float64(module),
        torch.inference_mode(False),
        WithoutDropout(),
    ):
        slopes = torch.autograd.grad(loss(), parameters, materialize_grads=True)
        steps = [_direction(each, generator) for each in parameters]
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                _move(parameters, steps, sign * _STEP)
                sides.append(float(loss()))
                _move(parameters, steps, -sign * _STEP)
    numeric = (sides[0] - sides[1]) / (2 * _STEP)
    analytic = sum(float((slope * step).sum()) for slope, step in zip(slopes, steps, strict=True))
    scale = max(abs(numeric), abs(analytic), 1e-30)
    return SelfTest("slopes", what, abs(numeric - analytic) / scale, _SLOPE_RTOL, fault, compared="slopes")


def _direction(parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return direction.to(parameter.device) * parameter.detach().abs().mean()


def _move(parameters: Sequence[nn.Parameter], steps: Sequence[Tensor], by: float) -> None:
    for parameter, step in zip(parameters, steps, strict=True):
        parameter.data = parameter.data + by * step


class WithoutDropout(TorchFunctionMode):
    """Inside, dropout returns its input. `calls` has the shape of each input and the rate; None: the probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Size | None, float]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            x = args[0] if args else kwargs["input"]
            rate = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            training = args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", True))
            if training and rate:
                self.calls.append((x.shape, rate))
            return x
        if func is F.scaled_dot_product_attention:
            rate = args[_ATTENTION_DROPOUT] if len(args) > _ATTENTION_DROPOUT else kwargs.pop("dropout_p", 0.0)
            args = (*args[:_ATTENTION_DROPOUT], *((0.0,) if len(args) > _ATTENTION_DROPOUT else ()), *args[5:])
            if rate:
                self.calls.append((None, rate))
        return func(*args, **kwargs)

    def dropped(self, length: int, width: int) -> list[Dropped]:
        """Where dropout acted, and the rate, in a model of this width over so many tokens."""
        return [(_place(shape, length, width), rate) for shape, rate in self.calls]


def _place(shape: torch.Size | None, length: int, width: int) -> str:
    if shape is None or shape[-2:] == (length, length):
        return "the probabilities"
    return "the stream" if shape[-1:] == (width,) else f"a tensor {list(shape)}"
