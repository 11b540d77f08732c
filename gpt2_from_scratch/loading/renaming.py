"""Changes the names of a file's tensors so that a layout may fit.

Tensors are left out on request. Prefixes, and the names of modules that wrap the model, are taken off.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2_from_scratch.checkpoint import Container
from gpt2_from_scratch.checkpoint.programs import gpt2_config
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping import Layout, Matching, best_match, listed, match, sizes

# Modules that wrap another and put their own name into every name below them: torch.compile, DistributedDataParallel,
# activation checkpointing, FSDP.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")


def without(container: Container, patterns: Sequence[str], source: str) -> tuple[Container, dict[str, str]]:
    """Leaves tensors out of a container.

    Args:
        container: an opened one.
        patterns: whole names; ``*`` stands for a number, ``**`` for anything.
        source: what to call the file in an error.

    Returns:
        The container without them; and name -> reason of those that were left out.

    Raises:
        MappingError: no tensor has such a name.
    """
    left_out: dict[str, str] = {}
    for pattern in patterns:
        whole = re.compile(re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[0-9]+"))
        matches = [name for name in container.tensors if whole.fullmatch(name)]
        if not matches:
            raise MappingError(
                f"{source} has no tensor {pattern!r} to ignore",
                hint="give whole names; * stands for a number, ** for anything",
            )
        left_out |= dict.fromkeys(matches, "left out on request")
    kept = {name: tensor for name, tensor in container.tensors.items() if name not in left_out}
    return replace(container, tensors=kept), left_out


def without_prefix(container: Container, prefix: str, source: str) -> Container:
    """The container with a prefix taken off every name.

    Args:
        container: an opened one.
        prefix: that every name must have.
        source: what to call the file in an error.

    Raises:
        MappingError: some names do not have it.
    """
    other = [name for name in container.tensors if not name.startswith(prefix)]
    if other:
        raise MappingError(
            f"{source}: {len(other)} of {len(container.tensors)} names do not start with {prefix!r}: {listed(other)}",
            hint="leave these out by their names, if they are no part of the model",
            options={"strip_prefix": prefix, "ignore": patterns_of(other)},
        )
    return container.renamed({name: name.removeprefix(prefix) for name in container.tensors})


def patterns_of(names: Sequence[str]) -> tuple[str, ...]:
    """Patterns for `without` that match these names, with ``*`` for their numbers."""
    return tuple(dict.fromkeys(re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", name) for name in names))


def match_with_ties(
    container: Container, layouts: Sequence[Layout], config: GPTConfig
) -> tuple[Container, Matching, tuple[str, ...]]:
    """Matches names; a tied embedding may be stored under the head's name only.

    Args:
        container: the file.
        layouts: what its tensors may be called.
        config: of the model.

    Returns:
        The container, with the embedding under its own name; the matching; and remarks.
    """
    matching = best_match(layouts, config, container.shapes)
    if matching or not config.tie_word_embeddings:
        return container, matching, ()
    for layout in layouts:
        both, notes = with_embedding(container, layout)
        if notes and (again := match(layout, config, both.shapes)):
            return both, again, notes
    return container, matching, ()


def with_embedding(container: Container, layout: Layout) -> tuple[Container, tuple[str, ...]]:
    """A file in which a tied pair is stored under the head's name only, with the embedding under its own name, too.

    Args:
        container: the file.
        layout: what its tensors are called.

    Returns:
        The container, and a remark; the same container and nothing where both or none are stored.
    """
    links = {link.canonical: link for link in layout.unroll(GPTConfig(n_layer=1))}
    head = links.get("lm_head.weight")
    owner = links.get(head.tied_to) if head is not None and head.tied_to is not None else None
    if head is None or owner is None or not head.identity or not owner.identity:
        return container, ()  # the table lacks a row; the matching says so
    name, missing = head.theirs[0], owner.theirs[0]
    if name not in container.tensors or missing in container.tensors:
        return container, ()
    both = replace(container, tensors={missing: container.tensors[name], **container.tensors})
    return both, (f"{missing} is stored as {name}, to which it is tied",)


@dataclass(frozen=True)
class Fit:
    """A layout whose names are in the file, the sizes that its tensors show, and a configuration with these sizes."""

    container: Container
    matching: Matching
    config: GPTConfig
    shown: Mapping[str, int]


def fit_of(container: Container, layout: Layout, known: Mapping[str, Any], where: str) -> Fit | None:
    """How a file fits a layout in the sizes that its tensors show; None where they show none.

    Args:
        container: the file.
        layout: what its tensors may be called.
        known: config.json fields that are not read from the tensors.
        where: what to call the file in an error.

    Raises:
        ConfigError: the sizes contradict each other or what is known.
    """
    # A head without an embedding is a tied pair under its other name, if somebody says that they are tied. In
    # nanoGPT's code they always are.
    if known.get("tie_word_embeddings") or container.layout == "nanogpt":
        container, _ = with_embedding(container, layout)
    shown = sizes(layout, container.shapes)
    if not shown:
        return None
    fields = gpt2_config(**{"n_head": 1, **shown}) | {key: value for key, value in known.items() if key not in shown}
    if shown["n_inner"] == 4 * shown["n_embd"]:
        fields["n_inner"] = None  # as config.json has it
    config = GPTConfig.from_hf(fields, where=where)
    return Fit(container, match(layout, config, container.shapes), config, shown)


@dataclass(frozen=True)
class Renaming:
    """Other names for all tensors of a file.

    Args:
        names: old name -> new name.
        what: which part was taken off.
    """

    names: Mapping[str, str]
    what: str


def renamings(names: Sequence[str]) -> Iterator[Renaming]:
    """Names without the modules around the model, from the least that can be taken off to the most.

    Args:
        names: all names of a file.
    """
    bare = {name: _WRAPPERS.sub("", name) for name in names}
    wrappers = sorted({part for name in names for part in _WRAPPERS.findall(name)})
    if not _distinct(bare):  # two tensors would share a name: these are no wrappers
        bare, wrappers = {name: name for name in names}, []
    around = f"the wrappers' names {', '.join(wrappers)}" if wrappers else ""
    if around:
        yield Renaming(bare, f"{around} taken off every name that has them")
    for prefix, stripped, in_its_place in _without_prefixes(bare):
        what = " and ".join(filter(None, [around, f"the prefix {prefix!r}"]))
        yield Renaming(stripped, f"{what} taken off every name that has them")
        yield Renaming(in_its_place, f"{what} taken off every name that has them, and {_TRUNK!r} put before them")
    some = {old: new.removeprefix(_TRUNK) for old, new in bare.items()}
    if some != bare and _distinct(some):
        yield Renaming(some, f"the prefix {_TRUNK!r} taken off those names that have it")


_TRUNK = "transformer."  # before every name but the head's, in transformers' files and nanoGPT's
_HEAD = re.compile(r"lm_head\.\w+")  # stands beside the trunk, and not inside it


def _without_prefixes(names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Prefixes that all names share, or all but the head's, from the shortest: names without, and in the trunk's place.

    Args:
        names: old -> new name.
    """
    taken, current = "", dict(names)
    while trunk := [name for name in current.values() if not _HEAD.fullmatch(name)]:
        first, dot, _ = trunk[0].partition(".")
        prefix = first + dot
        if not dot or not all(name.startswith(prefix) for name in trunk):
            return
        taken += prefix
        stripped = {old: new.removeprefix(prefix) for old, new in current.items()}
        placed = {old: _TRUNK + stripped[old] if new.startswith(prefix) else new for old, new in current.items()}
        if not _distinct(stripped):
            return
        yield taken, stripped, placed
        current = stripped


def _distinct(names: Mapping[str, str]) -> bool:
    return len(set(names.values())) == len(names)
