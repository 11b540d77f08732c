"""Works out a checkpoint's configuration, and where each of its fields comes from.

Where neither a `config.json` nor the file itself gives every field, sizes are read from the tensors whose names are
known, and a tied head is recognised by comparing it with the embedding. The number of heads, the activation and the
epsilon cannot be seen in weights: they are taken from tables of known models and code bases. Each such assumption is
named in every output. For a field that the tables do not have, the error asks by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container, Located
from gpt2_from_scratch.checkpoint.other_settings import OTHER_PROGRAMS
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig, check_fields, field_of, gives_a_size, official_size, read_json
from gpt2_from_scratch.errors import ConfigError
from gpt2_from_scratch.loading.facts import Fact, Origin
from gpt2_from_scratch.loading.hints import Misfit, MissingFields, what_it_is
from gpt2_from_scratch.loading.renaming import Fit, fit_of
from gpt2_from_scratch.mapping import Layout, Matching, listed, read_canonical

# With these fields a configuration is complete.
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
# The fields that weights do not show. Where a config.json leaves one out, GPT2Config's default is an assumption.
_UNSEEN = ("n_head", "activation_function", "layer_norm_epsilon")


@dataclass(frozen=True)
class Configuration:
    """A configuration, with the origin of each field on which the logits depend.

    Args:
        config: the configuration.
        facts: field -> its value and where it comes from.
        notes: remarks for people.
    """

    config: GPTConfig
    facts: Mapping[str, Fact]
    notes: tuple[str, ...] = ()


# Where a size comes from that the tensors contradict -> the hint.
_CORRECTIONS = {
    Origin.USER: "you have set it: correct it, or leave it out",
    Origin.CONFIG_JSON: "config.json says so: it is of another model",
    Origin.FILE: "the file itself says so: it contradicts itself, or other settings were saved with it",
}


@dataclass
class _Known:
    """The fields that are known so far. The most trusted origin is added first."""

    values: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], origin: Origin, why: str = "") -> None:
        """Adds the fields that are not known yet."""
        for name, value in values.items():
            if name not in self.values:
                self.values[name] = value
                self.facts[name] = Fact(value, origin, why)

    @property
    def set_by_user(self) -> dict[str, Any]:
        """The fields that the user has set."""
        return {name: self.values[name] for name, fact in self.facts.items() if fact.origin is Origin.USER}


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
        container: its tensors, and the fields that the file itself gives.
        layouts: those that the file may have. If none fits, the sizes are read by the closest.
        given: config.json fields that the user has set. They override everything else.
        layout_given: whether the user said which code base the file is of.

    Returns:
        The configuration, with the origin of its fields.

    Raises:
        ConfigError: a field is malformed, contradictory, or unknown.
        MappingError: there is no configuration, and the tensors are of no known layout.
    """
    check_fields(given)
    trusted = not given and not layout_given
    found = _config_json(located.config, given, trusted=trusted) if located.config else _ConfigJson()
    if (config := found.config) is not None:
        if "n_head" not in given:
            _check_heads(config, container, located)
        facts = {name: Fact(getattr(config, name), Origin.CONFIG_JSON) for name in MATHS}
        for name in found.left_out:
            facts[name] = Fact(getattr(config, name), Origin.ASSUMED, "config.json leaves it out")
        set_by_user = {name: Fact(value, Origin.USER) for name, value in given.items() if name in MATHS}
        return Configuration(config, facts | set_by_user, found.notes)
    known = _Known()
    known.add(given, Origin.USER)
    known.add(found.partly, Origin.CONFIG_JSON)
    known.add(container.config or {}, Origin.FILE)
    if known.values.keys() >= _EVERYTHING:
        config = GPTConfig.from_hf(known.values, where=located.source)
    else:
        config = _from_tensors(located.source, container, layouts, known, layout_given).replace(**given)
    facts = {name: known.facts[name] for name in MATHS if name in known.facts}
    return Configuration(config, facts, found.notes)


def given_config(config: GPTConfig, overrides: Mapping[str, Any]) -> Configuration:
    """The configuration where the user gives all of it.

    Args:
        config: the user's.
        overrides: fields that replace its own.
    """
    config = config.replace(**overrides) if overrides else config
    return Configuration(config, {name: Fact(getattr(config, name), Origin.USER) for name in MATHS})


# -------------------------------------------------------------------------------------------- the config.json


@dataclass(frozen=True)
class _ConfigJson:
    """The config.json beside the weights: a whole configuration, some fields of one, or another model's, not used."""

    config: GPTConfig | None = None
    left_out: tuple[str, ...] = ()  # of the configuration's fields that weights do not show
    partly: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _config_json(path: Path, given: Mapping[str, Any], *, trusted: bool) -> _ConfigJson:
    """Reads a config.json.

    Args:
        path: the file.
        given: fields that the user has set; what the file says of them is not looked at.
        trusted: whether it is an error if the file names another architecture; otherwise the file is not used.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path} holds a {type(content).__name__}, not a JSON object", "correct it")
        if trusted and content.get("model_type") not in (None, "gpt2"):
            GPTConfig.from_hf(content, where=str(path))  # says what it is of
    except ConfigError as error:
        if trusted:
            why = f"{error.bare_hint}. If the weights are a GPT-2's, say so, and it is not used"
            raise ConfigError(error.message, why, options={"overrides": {"n_head": "..."}}) from None
        return _ConfigJson(notes=(f"{path.name} beside the weights was not used: {error.message}",))
    for program, settings in OTHER_PROGRAMS.items():
        if (partly := settings(content)) is not None:
            return _ConfigJson(partly=partly, notes=(f"{path.name} is {program}'s",))
    kind = content.get("model_type")
    if (kind is None and not gives_a_size(content)) or (kind not in (None, "gpt2") and not trusted):
        says = ", ".join(map(str, content))[:80]
        what = f"of a {kind!r} model" if kind is not None else f"no GPT-2's: it says {says}"
        return _ConfigJson(notes=(f"{path.name} beside the weights was not used, as it is {what}",))
    if not gives_a_size(content):  # GPT2Config's defaults are no sizes of these weights
        return _ConfigJson(partly={field_of(key): value for key, value in content.items()})
    where = f"{path}, with what you have set" if given else str(path)
    said = {key: value for key, value in content.items() if field_of(key) not in given} | {**given}
    left_out = tuple(name for name in _UNSEEN if name not in map(field_of, said))
    return _ConfigJson(GPTConfig.from_hf(said, where=where), left_out)


def _check_heads(config: GPTConfig, container: Container, located: Located) -> None:
    """The config.json must not contradict the file's own number of heads."""
    heads = (container.config or {}).get("n_head", config.n_head)
    if heads != config.n_head:
        raise ConfigError(
            f"{located.config} says n_head {config.n_head}, and {located.weights.name} itself {heads}",
            hint="if the config.json is of another model, move it away; an override of n_head decides, too",
        )


# ------------------------------------------------------------------------------------ what the tensors' shapes show


def _from_tensors(
    source: str, container: Container, layouts: Sequence[Layout], known: _Known, layout_given: bool
) -> GPTConfig:
    """A configuration from the known fields, from what the tensors show, and from assumptions about the rest."""
    fit = _closest(source, container, layouts, known)
    if not fit.matching:
        return fit.config  # the caller matches the names again, and its error lists what does not fit
    for name, size in fit.shown.items():
        if name in known.values and known.values[name] not in (None, size):
            raise ConfigError(
                f"{source}: {name} is said to be {known.values[name]}, and the tensors show {size}",
                hint=_CORRECTIONS[known.facts[name].origin],
            )
    known.add(fit.shown, Origin.TENSORS)
    config = fit.config
    if "tie_word_embeddings" not in known.values:
        heads = stored_head(fit.matching, config, fit.container)
        tied = all(same(head, embedding) for _, head, embedding in heads)
        known.add({"tie_word_embeddings": tied}, Origin.TENSORS)
        config = config.replace(tie_word_embeddings=tied)
    code_base = fit.matching.layout.name
    if code_base == "nanogpt" and not layout_given and container.layout is None:
        # minGPT and makemore have the same names, and their heads are not tied. A tied head may be any of the three's.
        code_base = "" if config.tie_word_embeddings else "mingpt"
    return _completed(source, config, code_base, known)


def _closest(source: str, container: Container, layouts: Sequence[Layout], known: _Known) -> Fit:
    fits = [fit for layout in layouts if (fit := fit_of(container, layout, known.values, source)) is not None]
    if not fits:
        raise Misfit(
            f"{source}: its tensors are of no known layout: {listed(container.shapes)}",
            what_it_is(list(container.tensors)) or "if it is a GPT-2, describe its names with a Layout of your own",
            container,
        )
    return min(fits, key=lambda fit: fit.matching.distance)


def _completed(source: str, config: GPTConfig, code_base: str, known: _Known) -> GPTConfig:
    """The configuration, with assumptions for fields that cannot be seen in weights.

    Args:
        source: what to call the file in an error.
        config: with the fields that are known.
        code_base: the code that wrote the file; "" where several code bases name their tensors alike.
        known: the known fields; assumptions are added.

    Raises:
        ConfigError: there is no assumption for a field; names each.
    """
    missing: dict[str, str] = {}
    if "n_head" not in known.values:
        if official := official_size(config.n_layer, config.n_embd):
            heads = GPTConfig.for_size(official).n_head
            known.add({"n_head": heads}, Origin.ASSUMED, f"the official {official}'s")
        else:
            missing["n_head"] = f"a divisor of n_embd {config.n_embd}"
    if "activation_function" not in known.values:
        if code_base:
            activation, whose = _ACTIVATIONS.get(code_base, _GPT2S_ACTIVATION)
            known.add({"activation_function": activation}, Origin.ASSUMED, whose)
        else:
            missing["activation_function"] = "gelu or gelu_new"
    known.add({"layer_norm_epsilon": config.layer_norm_epsilon}, Origin.ASSUMED)
    if missing:
        raise MissingFields(
            f"{source} does not say its {' and '.join(missing)}, and weights do not show it",
            "put the model's config.json beside it, or give "
            + ", ".join(f"{name} ({values})" for name, values in missing.items()),
            {**known.set_by_user, **dict.fromkeys(missing, "...")},
        )
    assumed = {name: fact.value for name, fact in known.facts.items() if fact.origin is Origin.ASSUMED}
    return config.replace(**assumed)


# ------------------------------------------------------------------------------------------------- the stored head


def stored_head(matching: Matching, config: GPTConfig, container: Container) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Reads a stored head and the token embedding.

    Args:
        matching: what the file's tensors are.
        config: of the model.
        container: the file.

    Yields:
        The head's name in the file, the head and the embedding, both ``[V, E]``; nothing where no head is stored.
    """
    for link in matching.links:
        if link.tied_to is not None:
            head = link.to_canonical([container.tensors[name].read() for name in link.theirs])
            tensors = read_canonical(matching, config, lambda name: container.tensors[name].read())
            yield link.theirs[0], head, tensors[link.tied_to]()


def same(head: Tensor, embedding: Tensor) -> bool:
    """Whether a head repeats the embedding, bit for bit."""
    return head.data_ptr() == embedding.data_ptr() or (head.dtype == embedding.dtype and torch.equal(head, embedding))
