"""What a module computes otherwise than GPT-2, found out stage by stage from the activations of one float64 pass.

Once it is known which parameter is which, every stage has a known input and a known output: a norm, an attention, an
activation, a sum. `explain` looks for the formula that leads from one to the other, GPT-2's own first, then the common
mistakes. What it finds is put together to a whole model again (`Formulas.logits`), which has to give the module's
logits: only then is a fault named.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.anatomy.activations import FORMULAS
from gpt2_from_scratch.anatomy.forward import Weights
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout.events import Record
from gpt2_from_scratch.infer_layout.skeleton import Branch, Norm, Reading, Stream, role

# A formula explains a stage if it is no further off than this share of the largest value. Float64 leaves 1e-13, and
# constants kept in float32 1e-7. Measured on values as in the proof: two of the 22 activations differ by 1.3e-4 at
# least, or not at all, and a norm with epsilon 1e-5 differs from each of the other norms by 4.7e-5 at least. Epsilons
# of 1e-7 and less are too small to be told from each other here; whether the first that fits is right, logits decide.
CLOSE = 3e-7


_LOWEST = torch.finfo(torch.float64).min  # unlike -inf, it leaves a token that sees nothing with numbers


class Unexplained(Exception):
    """What was read is not GPT-2's with other numbers in it; in words."""


@dataclass(frozen=True)
class NormFormula:
    """``(x - mean) / s``, with ``s`` the deviation in one of these ways, or no norm at all."""

    epsilon: float
    unbiased: bool = False
    outside: bool = False  # epsilon is added to the deviation, not to the variance
    present: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        if not self.present:
            return x
        variance = x.var(-1, keepdim=True, unbiased=self.unbiased)
        deviation = variance.sqrt() + self.epsilon if self.outside else (variance + self.epsilon).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation


@dataclass
class Formulas:
    """A GPT-2 with formulas of its own at each place; see `logits`.

    Args:
        config: sizes.
        norms: by canonical name.
        scales: of the scores, by layer.
        masks: by layer.
        activations: by layer, a key of `FORMULAS`.
        sums: by canonical name of the norm that reads it: term -> coefficient. Terms are "token", "position", and the
            number of a branch.
        factor: of the logits.
    """

    config: GPTConfig
    norms: dict[str, NormFormula] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)
    masks: dict[int, "Mask"] = field(default_factory=dict)
    activations: dict[int, str] = field(default_factory=dict)
    sums: dict[str, dict[str | int, float]] = field(default_factory=dict)
    factor: float = 1.0

    def logits(self, weights: Weights, ids: Tensor) -> Tensor:
        """Logits ``[B, T, V]``, float64."""
        terms: dict[str | int, Tensor] = {
            "token": weights["wte.weight"][ids].double(),
            "position": weights["wpe.weight"][: ids.shape[-1]].double(),
        }
        for branch in range(2 * self.config.n_layer):
            layer = branch // 2
            x = self.normed(weights, place_of(branch), self._sum(place_of(branch), terms))
            if branch % 2 == 0:
                inputs = attention(self.config, weights, layer, x, self.scales[layer], self.masks[layer])
                terms[branch] = forward.linear(weights, f"h.{layer}.attn.c_proj", inputs)
            else:
                inputs = FORMULAS[self.activations[layer]](forward.linear(weights, f"h.{layer}.mlp.c_fc", x))
                terms[branch] = forward.linear(weights, f"h.{layer}.mlp.c_proj", inputs)
        return self.factor * forward.head(weights, self.normed(weights, "ln_f", self._sum("ln_f", terms)))

    def normed(self, weights: Weights, name: str, x: Tensor) -> Tensor:
        """A norm with its gain and bias."""
        formula = self.norms[name]
        if not formula.present:
            return x
        return formula(x) * weights[f"{name}.weight"].double() + weights[f"{name}.bias"].double()

    def _sum(self, name: str, terms: Mapping[str | int, Tensor]) -> Tensor:
        parts = [coefficient * terms[term] for term, coefficient in self.sums[name].items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def place_of(branch: int) -> str:
    """The canonical name of the norm that a branch reads through."""
    return f"h.{branch // 2}.{'ln_1' if branch % 2 == 0 else 'ln_2'}"


@dataclass(frozen=True)
class Mask:
    """A way from scores to the shares in which values are mixed.

    Args:
        apply: scores ``[..., T, T]`` to shares of the same shape.
        wrong: what is wrong about it, in words; empty for GPT-2's.
    """

    apply: Callable[[Tensor], Tensor]
    wrong: str = ""


def _future(scores: Tensor, diagonal: int) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal)


def _softmax(hidden: Callable[[Tensor], Tensor], fill: float = -math.inf, axis: int = -1) -> Callable[[Tensor], Tensor]:
    """A softmax of scores, some of which are replaced."""
    return lambda scores: torch.softmax(scores.masked_fill(hidden(scores), fill), axis)


CAUSAL = Mask(_softmax(lambda scores: _future(scores, 1)))
_MASKS = (
    CAUSAL,
    Mask(lambda scores: torch.softmax(scores, -1), "there is no causal mask"),
    Mask(_softmax(lambda scores: _future(scores, 2)), "the mask lets each token see the one after it"),
    Mask(_softmax(lambda scores: _future(scores, 0), _LOWEST), "the mask hides a token from itself"),
    Mask(_softmax(lambda scores: _future(scores, 1).mT), "the mask hides the past instead of the future"),
    Mask(_softmax(lambda scores: _future(scores, 1), 0), "scores of the future are set to 0, which hides nothing"),
    Mask(
        lambda scores: torch.softmax(scores, -1).masked_fill(_future(scores, 1), 0),
        "the mask is applied after the softmax",
    ),
    Mask(_softmax(lambda scores: _future(scores, 1), axis=-2), "softmax runs over queries instead of keys"),
    Mask(lambda scores: scores.masked_fill(_future(scores, 1), 0), "there is no softmax"),
)


def windowed(width: int) -> Mask:
    """A mask that shows each token this many: itself and those before it."""
    return Mask(
        lambda scores: CAUSAL.apply(scores.masked_fill(_future(scores, width).mT, -math.inf)),
        f"each token sees only itself and the {width - 1} before it",
    )


def attention(config: GPTConfig, weights: Weights, layer: int, x: Tensor, scale: float, mask: Mask) -> Tensor:
    """The merged heads ``[B, T, E]`` before the output projection."""
    q, k, v = forward.queries_keys_values(config, weights, layer, x)
    merged: Tensor = (mask.apply(q @ k.mT * scale) @ v).transpose(-3, -2).flatten(-2)
    return merged


def explain(
    config: GPTConfig, weights: Weights, record: Record, reading: Reading, ids: Tensor, logits: Tensor
) -> tuple[Formulas, list[str]]:
    """Finds the formula of every stage.

    Args:
        config: what GPT-2's formulas are.
        weights: what the module was filled with.
        record: of a pass in float64 that kept its values, over the same prompt.
        reading: of that record.
        ids: the prompt ``[1, T]``.
        logits: of that pass.

    Returns:
        The formulas, and in words how they differ from GPT-2's.

    Raises:
        Unexplained: no formula was found for a stage.
    """
    return _Explaining(config, weights, record, reading, ids).run(logits)


class _Explaining:
    def __init__(self, config: GPTConfig, weights: Weights, record: Record, reading: Reading, ids: Tensor) -> None:
        self.config = config
        self.weights = weights
        self.record = record
        self.reading = reading
        self.ids = ids
        self.formulas = Formulas(config)
        self.terms: dict[str | int, Tensor] = {  # of the residual stream: "token", "position", a branch's number
            "token": weights["wte.weight"][ids[0]].double(),
            "position": weights["wpe.weight"][: ids.shape[1]].double(),
        }
        branches = enumerate(reading.branches)
        self.numbers = {event: number for number, branch in branches for event in branch.all_events}
        self.said: dict[str, list[str]] = defaultdict(list)  # difference -> places

    def run(self, logits: Tensor) -> tuple[Formulas, list[str]]:
        config, formulas = self.config, self.formulas
        for number, branch in enumerate(self.reading.branches):
            layer, name = number // 2, place_of(number)
            x, inputs = self._input(branch), self._projected(branch)
            try:
                if x is None or inputs is None:
                    raise Unexplained("its activations were not recorded position by position")
                self._norm(name, branch.norm, branch.reads, x)
                found = self._branch(branch, layer, x, inputs)
            except Unexplained as error:
                raise Unexplained(f"layer {layer}, {role(branch)}: {error}") from None
            projection = "attn.c_proj" if branch.attention else "mlp.c_proj"
            self.terms[number] = forward.linear(self.weights, f"h.{layer}.{projection}", found)
        x = self._values(self.reading.head_event)
        final, stream = self.reading.final, self.reading.final_stream
        if x is None or final is None or stream is None:
            raise Unexplained("what the head reads is not known")
        x = _in_order(x, stream.columns)
        try:
            self._norm("ln_f", final, stream, x)
        except Unexplained as error:
            raise Unexplained(f"the final norm: {error}") from None
        expected = forward.head(self.weights, x[-logits.shape[1] :])
        factor = float((expected * logits[0]).sum() / expected.square().sum())
        if not _close(factor * expected, logits[0]):
            raise Unexplained("the logits are not the head's product with what it reads")
        if abs(factor - 1) > CLOSE:
            formulas.factor = factor
            self.said[f"the logits are multiplied by {factor:.6g}"].append("")
        return formulas, _in_words(self.said, config.n_layer)

    # ------------------------------------------------------------------------------------------------- activations

    def _values(self, index: int) -> Tensor | None:
        """What a product was given, ``[positions, in]``; None if that was not kept, or differs from head to head."""
        if index < 0:
            return None
        event = self.record.events[index]
        if len(event.values) != 1 or len(event.operands[0]) != 1:
            return None
        value = event.values[0]
        return value[0] if len(value) == 1 else None

    def _input(self, branch: Branch) -> Tensor | None:
        value = self.record.events[branch.input_event].values
        if not value or value[0].shape[1] != self.ids.shape[1]:
            return None
        return _in_order(value[0][0], branch.reads.columns)

    def _projected(self, branch: Branch) -> Tensor | None:
        value = self._values(branch.event) if len(branch.all_events) == 1 else None
        return None if value is None or len(value) != self.ids.shape[1] else value[:, branch.places]

    # ------------------------------------------------------------------------------------------------------ stages

    def _norm(self, name: str, norm: Norm, stream: Stream, output: Tensor) -> None:
        """The sum that a norm reads, and the norm itself.

        Raises:
            Unexplained: one of them is not GPT-2's with other numbers in it.
        """
        x, at = output, self._at(norm.event)
        if norm.normalised:
            values = self.record.events[norm.event].values
            if not values:
                raise Unexplained(f"what its norm reads was not recorded{at}")
            x = _in_order(values[0][:, norm.columns], stream.columns)[-len(output) :]
        if x.shape != output.shape:
            raise Unexplained(f"what its norm reads is no sum of known terms{at}")
        self.formulas.sums[name] = self._sum(name, stream, x, at)
        if not norm.normalised:
            self.formulas.norms[name] = NormFormula(0.0, present=False)
            if not _close(x, output):
                raise Unexplained("it does not read the sum as it is, and there is no norm")
            return
        gain, bias = (self.weights[f"{name}.{end}"].double() for end in ("weight", "bias"))
        formula = self._norm_formula((output - bias) / gain, x, self._at(norm.divides))
        self.formulas.norms[name] = formula
        expected = self.config.layer_norm_epsilon
        if formula.unbiased:
            self.said["the variance is the unbiased one (divided by E - 1)"].append(name)
        if formula.outside:
            self.said["epsilon is added to the deviation instead of the variance"].append(name)
        if formula.epsilon != expected:
            self.said[f"epsilon is {formula.epsilon:.3g} instead of {expected:.3g}"].append(name)

    def _sum(self, name: str, stream: Stream, x: Tensor, at: str) -> dict[str | int, float]:
        """The coefficients of the sum that a norm reads; `x`: its values, of the last positions."""
        parts: list[str | int] = [] if stream.tokens is None else ["token"]
        parts += [] if stream.positions is None else ["position"]
        parts += sorted({self.numbers[event] for event, _ in stream.products if event in self.numbers})
        if any(part not in self.terms for part in parts):
            raise Unexplained("it reads what is computed later")
        if not parts:
            raise Unexplained(f"what its norm reads is no sum of known terms{at}")
        matrix = torch.stack([self.terms[part][-len(x) :].flatten() for part in parts], 1)
        if len(matrix) < 2 * len(parts):  # the head may read one position alone: too little to tell coefficients from
            solved = torch.ones(len(parts), dtype=matrix.dtype)
        else:
            solved = torch.linalg.lstsq(matrix, x.flatten()[:, None]).solution[:, 0]
        if not _close((matrix @ solved).view_as(x), x):
            raise Unexplained(f"something else is in the sum that its norm reads{at}")
        found: dict[str | int, float] = {}
        for part, coefficient in zip(parts, solved.tolist(), strict=True):
            exact = abs(coefficient - 1) <= 10 * CLOSE
            found[part] = 1.0 if exact else coefficient
            if not exact:
                self.said[f"{_term(part)} is multiplied by {coefficient:.6g} in the sum"].append(name)
        return found

    def _at(self, event: int) -> str:
        return _in(self.record.events[event].line if event >= 0 else "")

    def _norm_formula(self, normalised: Tensor, x: Tensor, at: str) -> NormFormula:
        """Finds epsilon and the kind of variance; GPT-2's own first."""
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred * normalised).sum(-1) / normalised.square().sum(-1)
        if not _close(deviation[:, None] * normalised, centred):
            raise Unexplained(f"the norm is not what it reads, less its mean, divided by one number{at}")
        expected = self.config.layer_norm_epsilon
        usual = (expected, 1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 1e-7, 1e-10, 0.0)
        for unbiased in (False, True):
            variance = x.var(-1, unbiased=unbiased)
            for outside in (False, True):
                rest = deviation - variance.sqrt() if outside else deviation.square() - variance
                for epsilon in (*usual, float(rest.mean())):
                    formula = NormFormula(epsilon, unbiased, outside)
                    if epsilon >= 0 and _close(formula(x), normalised):
                        return formula
        times = deviation / x.std(-1, unbiased=False)
        raise Unexplained(
            f"the norm divides by something else than the standard deviation: by {float(times.min()):.4g} to "
            f"{float(times.max()):.4g} times it{at}"
        )

    def _branch(self, branch: Branch, layer: int, x: Tensor, output: Tensor) -> Tensor:
        """Attention's or the feed-forward's formula; gives what the output projection reads.

        Raises:
            Unexplained: it is not GPT-2's with other numbers in it.
        """
        if not branch.attention:
            before = forward.linear(self.weights, f"h.{layer}.mlp.c_fc", x)
            expected = self.config.activation_function
            for name in (expected, *FORMULAS):
                after = FORMULAS[name](before)
                if _close(after, output):
                    self.formulas.activations[layer] = name
                    if name != expected:
                        self.said[f"the activation is {name} instead of {expected}"].append(f"layer {layer}")
                    return after
            raise Unexplained(self._activation(branch, before, output))
        for mask in _MASKS:
            for scale, words in self._scales(layer).items():
                after = attention(self.config, self.weights, layer, x, scale, mask)
                if _close(after, output):
                    self._found_attention(layer, scale, mask, words)
                    return after
        return self._attention(branch, layer, x, output)

    def _found_attention(self, layer: int, scale: float, mask: Mask, scale_wrong: str) -> None:
        self.formulas.scales[layer], self.formulas.masks[layer] = scale, mask
        for wrong in filter(None, (mask.wrong, scale_wrong)):
            self.said[wrong].append(f"layer {layer}")

    def _activation(self, branch: Branch, before: Tensor, after: Tensor) -> str:
        """What an unknown activation is like, in words."""
        expected = self.config.activation_function
        event = self.record.events[branch.event]
        line = self.record.changed_at.get(self.record.index_of(int(event.operands[0].flatten()[0])), "")
        place = int((before - 1).abs().argmin())
        x, y = float(before.flatten()[place]), float(after.flatten()[place])
        ours = float(FORMULAS[expected](torch.tensor(x, dtype=torch.float64)))
        return (
            f"the activation is none of the {len(FORMULAS)} that GPT-2's configurations name: at {x:.4g} it is "
            f"{y:.4g}, {expected} is {ours:.4g}{_in(line)}"
        )

    def _attention(self, branch: Branch, layer: int, x: Tensor, output: Tensor) -> Tensor:
        """Attention with another scale, or a window, as its probabilities show; see `_branch`."""
        index = self.record.index_of(int(self.record.events[branch.event].operands[0].flatten()[0]))
        mix = self.record.events[index]
        line = _in(mix.line)
        tokens, heads = len(x), self.config.n_head
        if mix.kind != "mix" or len(mix.values) != 2 or mix.values[0].shape != (heads, tokens, tokens):
            raise Unexplained("attention computes something else, and its probabilities were not recorded" + line)
        seen = mix.values[0].double()
        if not _close(seen.sum(-1), torch.ones_like(seen.sum(-1))) or bool((seen < 0).any()):
            raise Unexplained("what the values are weighted with does not sum to 1 over what a token sees" + line)
        visible = (seen > 0).any(0)
        width = int(visible.sum(-1).max())
        banded = ~_future(visible, 1) & ~_future(visible, width).mT
        if not torch.equal(visible, banded):
            token = int((visible != banded).any(-1).nonzero()[0])
            others = ", ".join(map(str, visible[token].nonzero().flatten().tolist()))
            raise Unexplained(f"token {token} sees the tokens {others or 'none'}, not those up to itself" + line)
        q, k, _ = forward.queries_keys_values(self.config, self.weights, layer, x)
        products, logs = (_centred(each, visible) for each in (q @ k.mT, seen.log()))
        scale = float((products * logs).sum() / products.square().sum())
        if not _close(scale * products, logs):
            raise Unexplained("something is added to the scores, or multiplies some of them" + line)
        mask = CAUSAL if width == tokens else windowed(width)
        after = attention(self.config, self.weights, layer, x, scale, mask)
        if not _close(after, output):
            raise Unexplained("the probabilities are GPT-2's, but not what is done with the values" + line)
        own = forward.scale(self.config, layer)
        other = abs(scale - own) > CLOSE * own
        wrong = f"scores are multiplied by {scale:.6g} instead of {own:.6g}" if other else ""
        self._found_attention(layer, scale, mask, wrong)
        return after

    def _scales(self, layer: int) -> dict[float, str]:
        """Factors of the scores, GPT-2's own first, with what is wrong about them."""
        config = self.config
        own = forward.scale(config, layer)
        others = (
            (1.0, "scores are not scaled"),
            (config.head_dim**-0.5, "scores are multiplied by 1/sqrt(head width)"),
            (config.n_embd**-0.5, "scores are multiplied by 1/sqrt(E) instead of 1/sqrt(head width)"),
            (1 / config.head_dim, "scores are multiplied by 1/(head width) instead of 1/sqrt(head width)"),
            (config.head_dim**-0.25, "scores are multiplied by (head width)^-1/4"),
            (config.head_dim**0.5, "scores are multiplied by sqrt(head width) instead of 1/sqrt(head width)"),
            (config.n_head**-0.5, "scores are multiplied by 1/sqrt(number of heads)"),
            (config.head_dim**-0.5 / (layer + 1), "scores are also divided by the layer's number"),
        )
        options: dict[float, str] = {own: ""}
        for scale, words in others:
            options.setdefault(scale, words)
        return options


def _centred(values: Tensor, visible: Tensor) -> Tensor:
    """Values ``[H, T, T]`` less the mean of those that each token sees; 0 where it sees none."""
    shown = values.masked_fill(~visible, 0)
    return (shown - shown.sum(-1, keepdim=True) / visible.sum(-1, keepdim=True)).masked_fill(~visible, 0)


def _close(actual: Tensor, expected: Tensor) -> bool:
    gap = float((actual - expected).abs().max().nan_to_num(nan=math.inf))
    return gap <= CLOSE * float(expected.abs().max())


def _in_order(values: Tensor, columns: Tensor) -> Tensor:
    return values[:, columns.argsort()]


def _in(line: str) -> str:
    """A line of the user's code after what happens there; nothing where it is not known."""
    return f" ({line})" if line else ""


def _term(part: str | int) -> str:
    if isinstance(part, int):
        return "attention" if part % 2 == 0 else "the feed-forward"
    return f"the {part} embedding"


def _in_words(said: Mapping[str, list[str]], layers: int) -> list[str]:
    """Each difference once, with the places where it is found, unless it is found everywhere."""
    words = []
    for difference, places in said.items():
        everywhere = (len(places) >= layers and layers > 1) or places == [""]
        words.append(difference if everywhere else f"{difference} ({', '.join(places)})")
    return words
