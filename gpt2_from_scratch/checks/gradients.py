"""Loss and gradients against the reference's: that the candidate would also *train* like GPT-2.

Gradients have a floor as logits have, the distance between two ways in which the reference computes them; and as with
logits the candidate's own float64 run decides, where there is one. A tensor is measured as a whole, against its own
size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.checks.weights import Fitted
from gpt2_from_scratch.compare import (
    EXACT_THRESHOLD,
    GRADIENT_SHARE,
    LOSS_RTOL,
    NEAR,
    THRESHOLD,
    noise_floor,
    scientific,
    times,
)
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.precision import parameters_in_float64, run_in_float64
from gpt2_from_scratch.reference import Reference


@dataclass(frozen=True, repr=False)
class Gradients(Result):
    """Truthy when the loss and every tensor's gradient are within the threshold.

    Args:
        loss: the candidate's and the reference's, nats per token.
        errors: canonical name -> relative error, an L2 norm over the tensor.
        floor: largest relative error between two of the reference's own ways to compute them.
        threshold: multiples of the noise floor that pass.
        exact: largest relative error of float64 gradients, in noise floors, where it was needed and possible.
        exact_threshold: the largest `exact` that passes: `EXACT_THRESHOLD`, or what rounded constants can account for.
        inexact: why there is no float64 run to decide, where one was wanted.
        theirs: canonical name -> the candidate's own, where it is another.
    """

    loss: tuple[float, float]
    errors: Mapping[str, float]
    floor: float
    threshold: float = THRESHOLD
    exact: float | None = None
    exact_threshold: float = EXACT_THRESHOLD
    inexact: str = ""
    theirs: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> tuple[str, float]:
        """The tensor with the largest relative error."""
        return max(self.errors.items(), key=lambda item: item[1])

    @property
    def failed(self) -> tuple[str, ...]:
        """Tensors beyond the threshold."""
        return tuple(name for name, error in self.errors.items() if not error <= self.threshold * self.floor)

    def __bool__(self) -> bool:
        if not self.errors or not abs(self.loss[0] - self.loss[1]) <= LOSS_RTOL * abs(self.loss[1]):
            return False
        return not self.failed if self.exact is None else self.exact <= self.exact_threshold

    def __str__(self) -> str:
        name, error = self.worst
        judged = f"; threshold {self.threshold:g}" + (f", as {self.inexact}" if self.inexact else "") + ")"
        if self.exact is not None:
            judged = (
                f"); in float64, which decides, {times(self.exact)} noise floors "
                f"(threshold {times(self.exact_threshold)})"
            )
        count = f"{len(self.errors)} gradients" + (f" ({len(self.failed)} differ)" if self.failed else "")
        place = f"{self.theirs[name]} ({name})" if name in self.theirs else name
        return (
            f"loss {self.loss[0]:.6f} (reference {self.loss[1]:.6f}), {count}, largest relative error "
            f"{scientific(error)} at {place} = {times(error / self.floor)} noise floors ({scientific(self.floor)} "
            f"each{judged}"
        )


def check_gradients(
    candidate: Candidate, reference: Reference, prompt: Prompt, fitted: Fitted, threshold: float = THRESHOLD
) -> Gradients:
    """Differentiates the loss of one prompt through both models, without dropout. No parameter's `.grad` changes.

    Memory: three sets of gradients, each as large as the parameters, or near the threshold as two in float64.

    Args:
        candidate: a torch module.
        reference: what it should be.
        prompt: its next tokens are the targets, so two tokens at least.
        fitted: its module and layout.
        threshold: multiples of the noise floor that pass.

    Raises:
        CandidateError: it cannot be differentiated.
    """
    loss, expected = reference.gradients(prompt.ids)
    floor = noise_floor(_errors(reference.other_gradients(prompt.ids), expected).values(), scale=1.0)
    mine, actual = _gradients(candidate, prompt.ids, fitted)
    gradients = Gradients((mine, loss), _errors(actual, expected), floor, threshold, theirs=fitted.theirs)
    if not 0 < gradients.worst[1] <= NEAR * floor:
        return gradients
    del actual
    _, exact = reference.exact_gradients(prompt.ids)
    floor = noise_floor((floor, *_errors(expected, exact).values()), scale=1.0)
    del expected
    gradients = replace(gradients, floor=floor)
    try:
        largest, moved = _in_float64(candidate, prompt.ids, fitted, exact)
    except NotImplementedError as why:
        return replace(gradients, inexact=str(why))
    return replace(gradients, exact=largest / floor, exact_threshold=max(EXACT_THRESHOLD, moved / floor))


def _in_float64(candidate: Candidate, ids: Tensor, fitted: Fitted, exact: Mapping[str, Tensor]) -> tuple[float, float]:
    """The largest relative error of the candidate's mathematics, and how much of it rounded constants can make.

    Raises:
        NotImplementedError: it cannot be run in float64; says why.
    """
    try:
        (_, actual), moved = run_in_float64(
            lambda: _gradients(candidate, ids, fitted), fitted.module, parameters_in_float64
        )
    except CandidateError as error:
        raise NotImplementedError(f"in float64 it fails: {error.__cause__ or error}") from None
    if any(gradient.dtype != torch.float64 for gradient in actual.values()):
        raise NotImplementedError("its gradients are not float64 when it is run in float64")
    distances = [_errors(other, actual) for _, other in moved]
    return max(_errors(actual, exact).values()), max(
        (sum(each[name] for each in distances) for name in actual if distances), default=0.0
    )


def _gradients(candidate: Candidate, ids: Tensor, fitted: Fitted) -> tuple[float, Mapping[str, Tensor]]:
    parameters, config = fitted.parameters, fitted.config
    unique = {id(parameter): parameter for parameter in parameters.values()}
    with candidate.differentiating(list(unique.values())):
        logits = candidate.differentiable(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten().to(logits.device))
        gradients = torch.autograd.grad(loss, list(unique.values()), materialize_grads=True)
    found = dict(zip(unique, gradients, strict=True))
    total: dict[str, Tensor] = {}
    counted = set()
    for link in fitted.links:  # a shared parameter has one gradient; copies that should be shared have one each
        theirs = tuple(id(parameters[name]) for name in link.theirs)
        name = link.tied_to if link.tied_to and config.tie_word_embeddings else link.canonical
        if name is not None and (name, theirs) not in counted:
            counted.add((name, theirs))
            value = link.to_canonical([found[key].detach().cpu() for key in theirs])
            total[name] = total[name] + value if name in total else value
    return float(loss.detach()), total


def _errors(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative L2 errors by name, of the tensors that the reference has."""
    norms = {name: float(gradient.double().norm()) for name, gradient in expected.items()}
    least = GRADIENT_SHARE * max(norms.values())
    return {
        name: float((actual[name].double() - gradient.double()).norm()) / max(norms[name], least)
        for name, gradient in expected.items()
        if name in actual
    }
