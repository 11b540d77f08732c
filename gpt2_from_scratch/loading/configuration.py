"""Works out a checkpoint's configuration, and who said each part of it.

Where there is no `config.json` of GPT-2's and the file itself leaves questions open, sizes are read from the tensors
whose names are known, and a tied head is seen by comparing it with the embedding. What leaves no trace in weights
(heads, activation, epsilon) comes from tables of known models and code bases. Each such assumption is named; what the
tables do not know is asked for by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container, Located, mingpt
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig, check_fields, gives_a_size, official_size, read_json
from gpt2_from_scratch.errors import ConfigError
from gpt2_from_scratch.loading.facts import Fact, Said
from gpt2_from_scratch.loading.hints import Misfit, what_it_is
from gpt2_from_scratch.mapping import Layout, Matching, listed, match, read_canonical, sizes

# What a file says that leaves no question open.
_EVERYTHING = gpt2_config(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1).keys()
# The fields on which the logits depend.
MATHS = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function"),
    *("layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"),
)

# What the code behind a layout computes, where it is not certain to be GPT-2's own tanh GELU.
_ACTIVATIONS = {
    "nanogpt": ("gelu", "nanoGPT's since May 2023; in older ones, and in minGPT, it is gelu_new"),
    "mingpt": ("gelu_new", "minGPT's and makemore's"),
}
_GPT2S_ACTIVATION = ("gelu_new", "GPT-2's")


@dataclass(frozen=True)
class Configuration:
    """A configuration, and who said each field on which the logits depend.

    Args:
        config: the configuration.
        facts: field -> its source.
        notes: remarks for people.
    """

    config: GPTConfig
    facts: Mapping[str, Fact]
    notes: tuple[str, ...] = ()


_SPEAKERS = {
    Said.USER: "you have set it: correct it, or leave it out",
    Said.CONFIG_JSON: "config.json says so: it is of another model",
    Said.FILE: "the file itself says so: it contradicts itself, or other settings were saved with it",
}


@dataclass
class _Sayings:
    """What was said so far, the most trusted speaker first: field -> value, and who said it."""

    values: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], said: Said, why: str = "") -> None:
        """Adds what nobody before has said."""
        for name, value in values.items():
            if name not in self.values:
                self.values[name] = value
                self.facts[name] = Fact(value, said, why)


def infer_config(
    located: Located,
    container: Container,
    layouts: Sequence[Layout],
    given: Mapping[str, Any],
    *,
    layout_given: bool = False,
) -> Configuration:
    """The configuration of a checkpoint.

    Args:
        located: where its files are.
        container: its tensors, and what it says itself.
        layouts: what the tensors may be called. If none fits, the configuration is that of the nearest.
        given: config.json fields that the user has set. They go before everything else.
        layout_given: whether the user said which code base the file is of.

    Raises:
        ConfigError: malformed, contradictory, or something that nobody says.
        MappingError: there is no configuration, and the tensors are of no known layout.
    """
    check_fields(given)
    beside = _beside(located.config, trusted=not given and not layout_given) if located.config else _Beside()
    if beside.config is not None:
        config = _agreeing(beside.config, container, given, located)
        facts = {name: Fact(getattr(config, name), Said.CONFIG_JSON) for name in MATHS}
        return Configuration(config, facts | _set_by_user(given), beside.notes)
    sayings = _Sayings()
    sayings.add(given, Said.USER)
    sayings.add(beside.partly, Said.CONFIG_JSON)
    sayings.add(container.config or {}, Said.FILE)
    if sayings.values.keys() >= _EVERYTHING:
        config = GPTConfig.from_hf(sayings.values, where=located.source)
        facts = {name: fact for name, fact in sayings.facts.items() if name in MATHS}
        return Configuration(config, facts, beside.notes)
    config = _from_tensors(located.source, container, layouts, sayings, layout_given).replace(**given)
    facts = {name: sayings.facts[name] for name in MATHS if name in sayings.facts}
    return Configuration(config, facts, beside.notes)


def given_config(config: GPTConfig, overrides: Mapping[str, Any]) -> Configuration:
    """A configuration that the user hands over whole."""
    config = config.replace(**overrides) if overrides else config
    return Configuration(config, {name: Fact(getattr(config, name), Said.USER) for name in MATHS})


def _set_by_user(given: Mapping[str, Any]) -> dict[str, Fact]:
    return {name: Fact(value, Said.USER) for name, value in given.items() if name in MATHS}


# -------------------------------------------------------------------------------------------- the config.json


@dataclass(frozen=True)
class _Beside:
    """What the config.json beside the weights says: everything, some fields, or nothing about a GPT-2."""

    config: GPTConfig | None = None
    partly: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _beside(path: Path, *, trusted: bool) -> _Beside:
    """Reads a config.json.

    Args:
        path: the file.
        trusted: whether another architecture in it is an error. It is not where the user says what the model is.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        return _Beside(GPTConfig.from_hf(content, where=str(path)))
    if (partly := mingpt.settings(content)) is not None:
        return _Beside(partly=partly, notes=(f"{path.name} is minGPT's",))
    kind = content.get("model_type")
    if (kind is None and not gives_a_size(content)) or (kind not in (None, "gpt2") and not trusted):
        says = ", ".join(map(str, content))[:80]
        what = f"of a {kind!r} model" if kind is not None else f"no GPT-2's: it says {says}"
        return _Beside(notes=(f"{path.name} beside the weights was not used, as it is {what}",))
    return _Beside(GPTConfig.from_hf(content, where=str(path)))


def _agreeing(config: GPTConfig, container: Container, given: Mapping[str, Any], located: Located) -> GPTConfig:
    """The config.json with the user's fields; it must not contradict the file's own number of heads."""
    heads = (container.config or {}).get("n_head", config.n_head)
    if "n_head" not in given and heads != config.n_head:
        raise ConfigError(
            f"{located.config} says n_head {config.n_head}, and {located.weights.name} itself {heads}",
            hint="if the config.json is of another model, move it away; an override of n_head decides, too",
        )
    return config.replace(**given)


# -------------------------------------------------------------------------------------- where nobody says it all


@dataclass(frozen=True)
class _Fit:
    """A layout whose names are there, and what the shapes under it show."""

    matching: Matching
    config: GPTConfig
    shown: Mapping[str, int]


def _from_tensors(
    source: str, container: Container, layouts: Sequence[Layout], sayings: _Sayings, layout_given: bool
) -> GPTConfig:
    """A configuration of what was said, what the tensors show, and what is assumed of the rest."""
    fit = _closest(source, container, layouts, sayings)
    if not fit.matching:
        return fit.config  # the caller matches the names, too, and says what does not fit
    for name, size in fit.shown.items():
        if name in sayings.values and sayings.values[name] not in (None, size):
            raise ConfigError(
                f"{source}: {name} is said to be {sayings.values[name]}, and the tensors show {size}",
                hint=_SPEAKERS[sayings.facts[name].said],
            )
    sayings.add(fit.shown, Said.TENSORS)
    config = fit.config
    if "tie_word_embeddings" not in sayings.values:
        heads = stored_head(fit.matching, config, container)
        tied = all(same(head, embedding) for _, head, embedding in heads)
        sayings.add({"tie_word_embeddings": tied}, Said.TENSORS)
        config = config.replace(tie_word_embeddings=tied)
    code_base = fit.matching.layout.name
    if code_base == "nanogpt" and not layout_given and container.layout is None:
        # So do minGPT and makemore name them, whose heads are not tied. A tied one may have been tied by anybody.
        code_base = "" if config.tie_word_embeddings else "mingpt"
    return _completed(source, config, code_base, sayings)


def _closest(source: str, container: Container, layouts: Sequence[Layout], sayings: _Sayings) -> _Fit:
    fits = []
    for layout in layouts:
        if shown := sizes(layout, container.shapes):
            said = {name: value for name, value in sayings.values.items() if name not in shown}
            fields = gpt2_config(**{"n_head": 1, **shown}) | said
            if shown["n_inner"] == 4 * shown["n_embd"]:
                fields["n_inner"] = None  # as config.json has it
            config = GPTConfig.from_hf(fields, where=source)
            fits.append(_Fit(match(layout, config, container.shapes), config, shown))
    if not fits:
        raise Misfit(
            f"{source}: its tensors are of no known layout: {listed(container.shapes)}",
            what_it_is(list(container.tensors)) or "if it is a GPT-2, describe its names with a Layout of your own",
            container,
        )
    return min(fits, key=lambda fit: fit.matching.distance)


def _completed(source: str, config: GPTConfig, code_base: str, sayings: _Sayings) -> GPTConfig:
    """The configuration with what leaves no trace in weights, assumed where a table knows it.

    Args:
        source: what to call the file in an error.
        config: of what is known.
        code_base: whose code the file is of; "" where several code bases name their tensors alike.
        sayings: what was said; what is assumed is added.

    Raises:
        ConfigError: names what nobody says.
    """
    missing: dict[str, str] = {}
    if "n_head" not in sayings.values:
        if official := official_size(config.n_layer, config.n_embd):
            heads = GPTConfig.for_size(official).n_head
            sayings.add({"n_head": heads}, Said.ASSUMED, f"the official {official}'s")
        else:
            missing["n_head"] = f"a divisor of n_embd {config.n_embd}"
    if "activation_function" not in sayings.values:
        if code_base:
            activation, whose = _ACTIVATIONS.get(code_base, _GPT2S_ACTIVATION)
            sayings.add({"activation_function": activation}, Said.ASSUMED, whose)
        else:
            missing["activation_function"] = "gelu or gelu_new"
    sayings.add({"layer_norm_epsilon": config.layer_norm_epsilon}, Said.ASSUMED)
    if missing:
        raise ConfigError(
            f"{source} does not say its {' and '.join(missing)}, and weights do not show it",
            hint="put the model's config.json beside it, or give "
            + ", ".join(f"{name} ({values})" for name, values in missing.items()),
            options={"overrides": dict.fromkeys(missing, "...")},
        )
    assumed = {name: fact.value for name, fact in sayings.facts.items() if fact.said is Said.ASSUMED}
    return config.replace(**assumed)


# ------------------------------------------------------------------------------------------------- the stored head


def stored_head(matching: Matching, config: GPTConfig, container: Container) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The head's name in the file, the head and the token embedding, both ``[V, E]``; nothing where none is stored."""
    for link in matching.links:
        if link.tied_to is not None:
            head = link.to_canonical([container.tensors[name].read() for name in link.theirs])
            tensors = read_canonical(matching, config, lambda name: container.tensors[name].read())
            yield link.theirs[0], head, tensors[link.tied_to]()


def same(head: Tensor, embedding: Tensor) -> bool:
    """Whether a head repeats the embedding, bit for bit."""
    return head.data_ptr() == embedding.data_ptr() or (head.dtype == embedding.dtype and torch.equal(head, embedding))
