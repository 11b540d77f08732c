"""What a plain function takes beside the ids: settings by their names, and the arrays that it computes with.

``gpt2(ids, params, n_head)`` cannot be called with ids alone. Settings are known by their names. Arrays are those of a
global of the same name, or what a function of the same file makes for this purpose, or a dictionary in a form that many
people use; whether these are what the function takes is found out by calling it. What they hold does not matter here.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from gpt2_from_scratch import asking
from gpt2_from_scratch.arrays import arrays_of
from gpt2_from_scratch.building.answers import Answers
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError

_TOKENS = 3  # of the question that shows whether a function gives logits

# How the functions begin that make fresh parameters. Those that load some may do anything, such as download.
_MAKERS = ("init", "make", "create", "new", "random", "fresh")


@dataclass(frozen=True)
class Bound:
    """A function that takes ids alone.

    Args:
        function: a partial one.
        made: whether its arrays were made just now, so that they hold no weights.
        about: in words, what it was given.
    """

    function: Callable[..., Any]
    made: bool
    about: tuple[str, ...]


def bound(function: types.FunctionType, answers: Answers) -> Bound | None:
    """Gives a function everything that it demands beside the ids.

    Args:
        function: of the ids, and of more.
        answers: the settings by their names.

    Returns:
        None where no checkpoint is given, or it demands nothing that `asking` does not give, such as a mask.

    Raises:
        CandidateError: nothing was found for something that it demands.
    """
    config, scope = answers.config, vars(answers.module)
    if config is None:
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    demanded = [each.name for each in parameters if each.default is each.empty]
    if len([name for name in demanded if not asking.is_filled(name)]) < 2:
        return None
    values: dict[str, Any] = {}
    about: list[str] = []
    for name in [each.name for each in parameters]:
        if name in scope and arrays_of(functools.partial(_nothing, scope[name])) is not None and name in demanded:
            values[name] = scope[name]
            about.append(f"its {name} is the global of that name")
            continue
        if _is_ids(name):
            continue
        try:
            values[name] = answers.setting(name)
        except KeyError:
            continue
    strangers = [name for name in demanded if name not in values and not asking.is_filled(name)]
    order = [each.name for each in parameters]
    if len(strangers) == 1:
        return Bound(_partial(function, order, values), False, tuple(about))
    for tree, origin in _trees(function, answers, config, strangers):
        for given in _shared_out(tree, strangers):
            candidate = _partial(function, order, values | given)
            if _gives_logits(candidate, config):
                told = f"its {', '.join(given)}: {origin}"
                return Bound(candidate, True, (*about, told))
    ids, *others = strangers
    names = ", ".join(map(repr, others if _is_ids(ids) else strangers))
    call = f"{function.__name__}({', '.join(demanded)})"
    raise CandidateError(
        f"{answers.spec} takes {names}, and no arrays that it could be were found",
        hint="put them into a global of that name in the same file, give a setting with --config NAME=VALUE, or name "
        f"a function of the ids alone: def logits(ids): return {call}",
    )


def _nothing(value: Any) -> None:
    """A function that arrays can be bound to, so that `arrays_of` finds them."""


def _partial(function: Callable[..., Any], order: list[str], values: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with these arguments; what comes before the ids is given by position."""
    before = []
    for name in order:
        if name not in values:
            break
        before.append(values[name])
    rest = {name: value for name, value in values.items() if name not in order[: len(before)]}
    result = functools.partial(function, *before, **rest)
    result.__name__ = getattr(function, "__name__", type(function).__name__)  # type: ignore[attr-defined]
    return result


def _is_ids(name: str) -> bool:
    return asking.plain(name) in asking.IDS


def _shared_out(tree: Any, strangers: list[str]) -> Iterator[dict[str, Any]]:
    """Ways to hand arrays to all strangers but one: by their names, or all of them to one stranger."""
    if isinstance(tree, dict):
        named = {name: tree[name] for name in strangers if name in tree}
        if len(named) == len(strangers) - 1:
            yield named
    if len(strangers) == 2:
        for name in sorted(strangers, key=_is_ids):
            yield {name: tree}


def _gives_logits(function: Callable[..., Any], config: GPTConfig) -> bool:
    ids = torch.arange(min(_TOKENS, config.n_positions))[None].remainder(config.vocab_size)
    for way in asking.ways(function):
        try:
            found = way.logits(way.ask(ids.clone()), tuple(ids.shape))
        except Exception:  # somebody's code may raise anything
            continue
        if found is not None and found.dim() == 3 and found.shape[-1] >= config.vocab_size:
            return True
    return False


def _trees(
    function: types.FunctionType, answers: Answers, config: GPTConfig, strangers: list[str]
) -> Iterator[tuple[Any, str]]:
    """Arrays that the function may take, and in words where they come from."""
    scope = vars(answers.module)
    for name, value in scope.items():
        if isinstance(value, types.FunctionType) and value is not function and _makes_parameters(name, strangers):
            try:
                yield answers.build(value), f"what {name}() makes"
            except CandidateError:
                continue
    modules = {value.__name__ for value in scope.values() if isinstance(value, types.ModuleType)}
    generator = torch.Generator().manual_seed(0)
    for library, make in (("numpy", lambda tensor: numpy.array(tensor.numpy())), ("torch", lambda tensor: tensor)):
        if library in modules or not modules & {"numpy", "torch"}:
            drawn = {
                name: make(0.1 * torch.randn(shape, generator=generator))
                for name, shape in config.replace(tie_word_embeddings=True).tensor_shapes().items()
            }
            yield _nested(drawn), f"{library} arrays by OpenAI's names, in a dictionary of dictionaries"
            yield drawn, f"{library} arrays by Hugging Face's names, in one dictionary"


def _makes_parameters(name: str, strangers: list[str]) -> bool:
    plain = name.lower().strip("_")
    return plain.startswith(_MAKERS) and any(word in plain for word in ("param", "weight", *map(str.lower, strangers)))


def _nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """``{"wte", "wpe", "blocks": [{"ln_1": {"g", "b"}, "attn": {"c_attn": {"w", "b"}, ...}, ...}], "ln_f"}``."""
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("h."))
    tree: dict[str, Any] = {"blocks": [{} for _ in range(layers)]}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        node = tree
        if path[0] == "h":
            node, path = tree["blocks"][int(path[1])], path[2:]
        if path[-1] in ("wte", "wpe"):
            tree[path[-1]] = tensor
            continue
        for key in path:
            node = node.setdefault(key, {})
        node["b" if last == "bias" else "g" if path[-1].startswith("ln_") else "w"] = tensor
    return tree
