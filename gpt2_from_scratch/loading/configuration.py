"""What a checkpoint says of its model, what its tensors show, and what has to be asked for.

The one idea: nothing is guessed in silence. Where there is no `config.json` and the file itself leaves questions open,
sizes are read off the tensors whose names are known, and a tied head is seen by comparing it with the embedding. What
leaves no trace in weights (heads, activation, epsilon) comes from tables of known models and code bases, and each such
assumption is noted; what the tables do not know is demanded by name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import Container, Located
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig, check_fields, official_size
from gpt2_from_scratch.errors import ConfigError, MappingError
from gpt2_from_scratch.mapping import Layout, Matching, Shape, listed, match, read_canonical, sizes

# What a file says that leaves no question open.
_EVERYTHING = gpt2_config(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1).keys()

# What the code behind a layout computes, where it is not certain to be GPT-2's own tanh GELU.
_ACTIVATIONS = {
    "nanogpt": ("gelu", "nanoGPT's since May 2023; in older ones, and in minGPT, it is gelu_new"),
    "mingpt": ("gelu_new", "minGPT's and makemore's"),
}
_GPT2S_ACTIVATION = ("gelu_new", "GPT-2's")

# What wrappers put before every name: torch.compile, DistributedDataParallel, and a model in an attribute.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "module._orig_mod.", "_orig_mod.module.")
# Parts of names that say what a file is when it is not a plain GPT-2.
_STRANGERS = {
    "lora_": "LoRA adapters: merge them into the base model first",
    "crossattention": "cross-attention: the decoder of an encoder-decoder model, not a GPT-2 language model",
    "qweight": "GPTQ-quantised weights: load the unquantised checkpoint",
    ".scales": "MLX-quantised weights: load the unquantised checkpoint",
    "SCB": "bitsandbytes-quantised weights: load the unquantised checkpoint",
    "rotary": "rotary positions: not the GPT-2 architecture",
    ".attn.c_q.": "nanochat's model: rotary positions, RMSNorm and squared ReLU, not the GPT-2 architecture",
    "beta": "LayerNorm gains and biases named gamma and beta, as in TensorFlow: rename them to weight and bias",
    "gamma": "gains named gamma, and no biases beside them: RMSNorm, not the GPT-2 architecture",
}
# Of transformers' models with another head on the same trunk.
_OTHER_HEADS = ("score.", "classifier.", "qa_outputs.", "multiple_choice_head.")


def describe(
    located: Located,
    container: Container,
    layouts: Sequence[Layout],
    overrides: Mapping[str, Any],
    *,
    layout_given: bool,
) -> tuple[GPTConfig, tuple[str, ...]]:
    """The configuration of a checkpoint, and a note of what was assumed.

    Args:
        located: where its files are.
        container: its tensors, and what it says itself.
        layouts: what the tensors may be called. If none fits, the configuration is that of the nearest.
        overrides: config.json fields that replace or complete what the checkpoint says.
        layout_given: whether the caller said which code base the file is of.

    Raises:
        ConfigError: malformed, contradictory, or something that nobody says.
        MappingError: there is no configuration, and the tensors are of no known layout.
    """
    check_fields(overrides)
    said = {**(container.config or {}), **overrides}
    if located.config is not None:
        config = GPTConfig.from_file(located.config)
        if said.get("n_head", config.n_head) != config.n_head and "n_head" not in overrides:
            raise ConfigError(
                f"{located.config} says n_head {config.n_head}, and {located.weights.name} itself {said['n_head']}",
                hint="if the config.json is of another model, move it away; an override of n_head decides, too",
            )
        return config.replace(**overrides), ()
    if said.keys() >= _EVERYTHING:
        return GPTConfig.from_hf(said, where=located.source).replace(**overrides), ()
    config, notes = _described(located.source, container, layouts, said, layout_given)
    return config.replace(**overrides), notes


def _described(
    source: str, container: Container, layouts: Sequence[Layout], said: Mapping[str, Any], layout_given: bool
) -> tuple[GPTConfig, tuple[str, ...]]:
    shapes = container.shapes
    fits = []
    for layout in layouts:
        if shown := sizes(layout, shapes):
            fields = gpt2_config(**{"n_head": 1, **shown}) | {key: said[key] for key in said if key not in shown}
            if shown["n_inner"] == 4 * shown["n_embd"]:
                fields["n_inner"] = None  # as config.json has it
            config = GPTConfig.from_hf(fields, where=source)
            fits.append((match(layout, config, shapes), config, shown))
    if not fits:
        raise MappingError(
            f"{source}: its tensors are of no known layout: {listed(shapes)}",
            hint=strange(shapes, shapes, lambda names: any(sizes(layout, names) for layout in layouts))
            or "if it is a GPT-2, describe its names with a Layout of your own",
        )
    matching, config, shown = min(fits, key=lambda fit: fit[0].distance)
    if not matching:
        return config, ()  # the caller matches the names, too, and says what does not fit
    for field, size in shown.items():
        if said.get(field) not in (None, size):
            raise ConfigError(f"{source}: {field} is said to be {said[field]}, and the tensors show {size}")
    if "tie_word_embeddings" not in said:
        heads = stored_head(matching, config, container)
        config = config.replace(tie_word_embeddings=all(same(head, embedding) for _, head, embedding in heads))

    assumed: list[str] = []
    missing: dict[str, str] = {}
    if "n_head" not in {**shown, **said}:
        if official := official_size(config.n_layer, config.n_embd):
            config = config.replace(n_head=GPTConfig.for_size(official).n_head)
            assumed.append(f"n_head {config.n_head} (the official {official}'s)")
        else:
            missing["n_head"] = f"a divisor of n_embd {config.n_embd}"
    if "activation_function" not in said:
        code = matching.layout.name
        if code == "nanogpt" and not layout_given and container.layout is None:
            # So do minGPT and makemore name them, whose heads are not tied. A tied one may have been tied by anybody.
            code = "" if config.tie_word_embeddings else "mingpt"
        if code:
            activation, whose = _ACTIVATIONS.get(code, _GPT2S_ACTIVATION)
            config = config.replace(activation_function=activation)
            assumed.append(f"activation_function {activation} ({whose})")
        else:
            missing["activation_function"] = "gelu or gelu_new"
    if "layer_norm_epsilon" not in said:
        assumed.append(f"layer_norm_epsilon {config.layer_norm_epsilon}")
    if missing:
        raise ConfigError(
            f"{source} does not say its {' and '.join(missing)}, and weights do not show it",
            hint="put the model's config.json beside it, or give overrides: "
            + ", ".join(f"{field} ({values})" for field, values in missing.items()),
        )
    return config, (f"assumed, and not said by the file: {', '.join(assumed)}",) if assumed else ()


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


def strange(
    shapes: Mapping[str, Shape], names: Iterable[str], fits: Callable[[Mapping[str, Shape]], bool]
) -> str | None:
    """What names say about a file that does not fit, and what to do; None if they say nothing.

    Args:
        shapes: all tensors of the file.
        names: those that have no place.
        fits: whether tensors fit after all; asked about names without a wrapper's prefix.
    """
    for prefix in _WRAPPERS:
        bare = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        if len(bare) == len(shapes) and fits(bare):
            return f"every name carries the wrapper's prefix {prefix!r}: pass strip_prefix={prefix!r}"
    names = list(names)
    for part, meaning in _STRANGERS.items():
        if any(part in name for name in names):
            return meaning
    if heads := tuple(name for name in names if name.startswith(_OTHER_HEADS)):
        return f"of another head than the language model's: ignore={heads} leaves it out"
    return None
