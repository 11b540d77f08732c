"""Why a file does not fit, and what to do about it. A change of the options is advised only after it was tried."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from gpt2_from_scratch.checkpoint import Container
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError
from gpt2_from_scratch.layouts import DETECTABLE, LAYOUTS
from gpt2_from_scratch.loading.renaming import Fit, fit_of, patterns_of, with_embedding
from gpt2_from_scratch.mapping import Matching, depth, listed

# Parts of names that say what a file is when it is not a plain GPT-2.
_STRANGERS = {
    "lora_": "LoRA adapters: merge them into the base model first",
    "crossattention": "cross-attention: the decoder of an encoder-decoder model, not a GPT-2 language model",
    "qweight": "quantised weights (GPTQ or AWQ): load the unquantised checkpoint",
    ".scales": "MLX-quantised weights: load the unquantised checkpoint",
    "SCB": "bitsandbytes-quantised weights: load the unquantised checkpoint",
    "tokens_embed.": "GPT-1's names (openai-gpt), whose norms stand behind the shortcuts: not the GPT-2 architecture",
    "rotary": "rotary positions: not the GPT-2 architecture",
    ".attn.c_q.": "nanochat's model: rotary positions, RMSNorm and squared ReLU, not the GPT-2 architecture",
    "beta": "LayerNorm gains and biases named gamma and beta, as in TensorFlow: describe the names with a Layout",
    "gamma": "gains named gamma, and no biases beside them: RMSNorm, or LayerNorm without biases. If the code "
    "subtracts the mean, it is LayerNorm: describe the names with a Layout",
}
# Heads that stand beside GPT-2's, or in place of it: how their names begin, and what they are.
_OTHER_HEADS = {
    "score.": "a classifier's head",
    "classifier.": "a classifier's head",
    "qa_outputs.": "a question-answering head",
    "multiple_choice_head.": "a multiple-choice head",
    "v_head.": "trl's value head",
    "value_head.": "a value head",
    "reward_head.": "a reward model's head",
    "lm_head.decoder.": "the head, as old versions of transformers named it",
    "lm_head.bias": "a bias of the head, which GPT-2 does not have: without it, the logits are different",
}
PROCESSED = "TransformerLens has folded the LayerNorms away: save what from_pretrained_no_processing loads"


class Misfit(MappingError):
    """The names of a file's tensors fit no layout. `opening` catches it and raises a `MappingError` with a hint.

    Args:
        message: as in every error.
        hint: for the case that no other options help.
        container: the file, with the names that did not fit.
    """

    def __init__(self, message: str, hint: str, container: Container) -> None:
        super().__init__(message, hint)
        self.container = container


class MissingFields(ConfigError):
    """All names fit a layout, but fields of the configuration are unknown. `opening` catches it, like a `Misfit`.

    Args:
        message: the missing fields.
        hint: values that they may have.
        fields: those that the user has set, and the missing ones, for the hint.
    """

    def __init__(self, message: str, hint: str, fields: Mapping[str, Any]) -> None:
        super().__init__(message, hint, options={"overrides": fields})


@dataclass(frozen=True)
class Change:
    """A change of the options with which a file is opened.

    Args:
        why: the reason, for people: ``"the tensors show vocab_size 50304"``.
        options: to add to those given.
    """

    why: str
    options: Mapping[str, Any]


def what_it_is(names: Sequence[str]) -> str | None:
    """The kind of file, derived from names that a plain GPT-2 does not have; None if there are no such names."""
    return next((meaning for part, meaning in _STRANGERS.items() if any(part in name for name in names)), None)


def changes(container: Container, options: Mapping[str, Any]) -> Iterator[Change]:
    """Options with which a file might open, the likeliest first. Whether it does is for the caller to try.

    Args:
        container: the file, with the names that did not fit.
        options: those it was tried with.
    """
    if options.get("file_layout") is not None or container.layout is not None:
        for name in dict.fromkeys((*(layout.name for layout in DETECTABLE), *LAYOUTS)):
            yield Change(f"the layout {name!r} fits every tensor", {"file_layout": name})
    yield from _sizes_heads_and_ties(container, options)


def _parts_of_the_file(container: Container) -> Iterator[tuple[str, Change]]:
    """For a file that holds more than a model: each beginning of names, and the options that leave out all others."""
    groups = dict.fromkeys(name.partition(".")[0] for name in container.tensors)
    if len(groups) > _MOST_GROUPS:
        return
    for group in groups:
        others = [other for other in groups if other not in (group, "lm_head")]
        if group == "lm_head" or not others:
            continue
        left_out = [other if other in container.tensors else f"{other}.**" for other in others]
        why = f"the model is what begins with {group!r}; beside it are {', '.join(others)}"
        prefix = {} if group == "transformer" or "lm_head" in groups else {"strip_prefix": f"{group}."}
        yield group, Change(why, {"ignore": (*left_out,), **prefix})


_MOST_GROUPS = 8  # first parts of names; a file of something else entirely may have thousands


def _sizes_heads_and_ties(container: Container, options: Mapping[str, Any]) -> Iterator[Change]:
    """Sizes from the tensors, other heads left out, the head tied or not: alone and together."""
    closest = _closest(container)
    if closest is None:
        return
    heads = _beside_the_model(closest.matching)
    shown = closest.shown
    without_heads = ({}, {"ignore": patterns_of(list(heads))}) if heads else ({},)
    other_sizes: list[Mapping[str, Any]] = [{}]
    # Both tables are resized by people. Another depth or width is another model, or half a file.
    for names in (("vocab_size",), ("n_positions",), ("vocab_size", "n_positions"), ("n_inner",)):
        other_sizes.append({name: shown[name] for name in names if name in shown})
    tied: list[Mapping[str, Any]] = [{}, {"tie_word_embeddings": False}, {"tie_word_embeddings": True}]
    for tie, size, ignore in product(tied, other_sizes, without_heads):
        overrides = {**size, **tie}
        if not overrides and not ignore:
            continue
        whys = [f"{listed(heads)} is {', '.join(dict.fromkeys(heads.values()))}"] if ignore else []
        if size:
            whys.append("the tensors show " + ", ".join(f"{name} {value}" for name, value in size.items()))
        if tie:
            whys.append("the head is " + ("the token embedding" if tie["tie_word_embeddings"] else "of its own"))
        given = {**options.get("overrides", {}), **overrides}
        yield Change("; ".join(whys), {**ignore, **({"overrides": given} if overrides else {})})


def _beside_the_model(matching: Matching) -> dict[str, str]:
    """Unexpected tensors that stand in no layer, and what their names say they are."""
    return {
        name: next((what for start, what in _OTHER_HEADS.items() if name.startswith(start)), _UNKNOWN)
        for name in matching.unexpected
        if not _IN_A_LAYER.search(name) and not name.endswith(_SCALES)
    }


_UNKNOWN = "nothing that GPT-2 has: if the model computes its logits with it, they are others without it"
_IN_A_LAYER = re.compile(r"(^|\.)[0-9]+\.")
_SCALES = (".scales", ".qweight", ".qzeros", ".absmax", ".quant_map")  # of quantised weights, which are no GPT-2's


def distance(container: Container) -> float:
    """How far the names of a file are from those of the layout that fits best; infinite where none fits at all."""
    closest = _closest(container)
    return math.inf if closest is None else closest.matching.problems


def _closest(container: Container) -> Fit | None:
    """How the file fits the layout that fits best, in the sizes that the tensors show."""
    known = {"tie_word_embeddings": not any(name.startswith("lm_head") for name in container.shapes)}
    fits: list[Fit | None] = []
    for layout in DETECTABLE:
        with suppress(ConfigError):
            fits.append(fit_of(container, layout, known, ""))
    return min(filter(None, fits), key=lambda fit: fit.matching.distance, default=None)


def explanation(matching: Matching, container: Container, config: GPTConfig) -> str:
    """The hint for a file that does not fit, where no change of the options helps."""
    if what := what_it_is(matching.unexpected):
        return what
    if matching.layout.name == "transformer_lens" and any(name.endswith("ln1.w") for name in matching.missing):
        return PROCESSED
    if matching.unmapped:
        return "complete the layout: each of GPT-2's tensors needs a row"
    layers = depth(matching.layout, container.shapes)
    if layers not in (0, config.n_layer):
        return f"the file has {layers} layers, the configuration says {config.n_layer}"
    if matching.misshapen:
        return "the configuration belongs to another model, or the tensors were written with another orientation"
    if matching.missing and not matching.unexpected:
        kinds, stored = patterns_of(matching.missing), patterns_of(list(container.tensors))
        if all(kind.endswith("bias") and kind not in stored for kind in kinds):
            return (
                "a model without these biases, or an incomplete file. If the model has none, describe the file with a "
                "Layout whose rows say that an absent bias is zero"
            )
        return "the file is incomplete: fetch it again, or all of its shards"
    return "if it is a GPT-2, describe its names with a Layout of your own"


def change_that_helps(
    container: Container,
    options: Mapping[str, Any],
    outcome_of: Callable[[Mapping[str, Any]], CheckpointError | None],
) -> Change | None:
    """The first change with which the file opens; None if none helps, or if its names say that it is something else.

    A change also helps if nothing but fields of the configuration is missing then; they are advised along with it.

    Args:
        container: the file, with the names that did not fit.
        options: those it was tried with.
        outcome_of: tries other options, and says what is wrong then; None if the file opens.
    """
    if what_it_is(list(container.tensors)) is not None:
        return None
    trials = (_helped(change, options, outcome_of) for change in changes(container, options))
    if (helped := next((change for change in trials if change is not None), None)) is not None:
        return helped
    parts = list(_parts_of_the_file(container))
    models = _helpful(parts, options, outcome_of)
    if not models and any(name.endswith(_HEAD) for name in container.tensors):
        tie = {"overrides": {**options.get("overrides", {}), "tie_word_embeddings": True}}
        completed = [both for layout in DETECTABLE if (both := with_embedding(container, layout)[0]) is not container]
        beside = (change for both in completed for change in changes(both, {**options, **tie}))
        for change in (Change("", {}), *beside):
            tied = Change("; ".join(filter(None, [_TIED, change.why])), {**tie, **change.options})
            if (helped := _helped(tied, options, outcome_of)) is not None:
                return helped
        tied_parts = ((group, Change(f"{change.why}; {_TIED}", {**change.options, **tie})) for group, change in parts)
        models = _helpful(tied_parts, options, outcome_of)
    if len(models) > 1:
        first = next(iter(models))
        whole = f"the file holds several models: what begins with {', or with '.join(map(repr, models))}; the first is"
        return Change(whole, models[first].options)
    return next(iter(models.values()), None)


_HEAD = "lm_head.weight"
_TIED = "the head is stored, and no token embedding: the file is whole if they are tied"


def _helpful(
    parts: Iterable[tuple[str, Change]],
    options: Mapping[str, Any],
    outcome_of: Callable[[Mapping[str, Any]], CheckpointError | None],
) -> dict[str, Change]:
    """Those of the parts of a file that open by themselves: how their names begin -> the change."""
    found = ((group, _helped(change, options, outcome_of)) for group, change in parts)
    return {group: change for group, change in found if change is not None}


def _helped(
    change: Change, options: Mapping[str, Any], outcome_of: Callable[[Mapping[str, Any]], CheckpointError | None]
) -> Change | None:
    """The change, if the file opens with it, or with it and fields that the user must give; otherwise None."""
    if "ignore" in change.options and options.get("ignore"):
        both = (*options["ignore"], *change.options["ignore"])
        change = replace(change, options={**change.options, "ignore": both})
    outcome = outcome_of({**options, **change.options})
    if outcome is None:
        return change
    if isinstance(outcome, MissingFields):
        return Change(
            f"{change.why}. Other fields are still unknown: {outcome.bare_hint}", {**change.options, **outcome.options}
        )
    return None
