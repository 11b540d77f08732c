"""How to feed a candidate some tokens after others, for the caches that people write.

A cache is recognised by what the model can be called with, never by its class. One row per convention.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate

Piece: TypeAlias = tuple[Tensor, Mapping[str, Any]]  # ids [B, T_i], and what goes with them, such as a mask

# Pieces -> logits [B, T_i, V] of each, or [B, 1, V] from code that gives only the last position's then.
Feed: TypeAlias = Callable[[Iterable[Piece]], Iterator[Tensor]]


def stepper(candidate: Candidate) -> Feed:
    """The way to run a candidate with its cache.

    Known are: a model with `new_cache` that takes ``cache`` (this package), ``past_key_values`` (transformers),
    `reset_kv_cache` with ``use_cache`` (the book), and ``past``, ``kv_cache`` or ``cache`` given back beside logits.

    Raises:
        NotImplementedError: it has no cache that is known here. To feed it raises this error if it computes on several
            ranks only, each of which has a cache of its own.
    """
    takes = candidate.parameters
    if "cache" in takes and hasattr(candidate.module, "new_cache"):
        return lambda pieces: _filled_in_place(candidate.alone, pieces)
    if {"past_key_values", "use_cache"} <= takes:
        return lambda pieces: _handed_around(candidate.alone, pieces, "past_key_values", {"use_cache": True})
    if "use_cache" in takes and hasattr(candidate.module, "reset_kv_cache"):
        return lambda pieces: _kept_inside(candidate.alone, pieces)
    for name in ("past", "layer_past", "kv_cache", "cache"):
        if name in takes:
            always = {"use_cache": True} if "use_cache" in takes else {}
            return lambda pieces, name=name, always=always: _handed_around(candidate.alone, pieces, name, always)  # type: ignore[misc]
    raise NotImplementedError("it has no cache that is known here")


def without_options(pieces: Iterable[Tensor]) -> Iterator[Piece]:
    """Pieces of ids with which nothing goes."""
    return ((ids, {}) for ids in pieces)


def _filled_in_place(candidate: Candidate, pieces: Iterable[Piece]) -> Iterator[Tensor]:
    assert candidate.module is not None
    cache = None
    for ids, options in pieces:
        cache = candidate.module.new_cache(ids.size(0)) if cache is None else cache  # type: ignore[operator]
        yield candidate.logits_in(candidate.call(ids, cache=cache, **options), ids, last_suffices=True)


def _kept_inside(candidate: Candidate, pieces: Iterable[Piece]) -> Iterator[Tensor]:
    assert candidate.module is not None
    candidate.module.reset_kv_cache()  # type: ignore[operator]
    try:
        for ids, options in pieces:
            yield candidate.logits_in(candidate.call(ids, use_cache=True, **options), ids, last_suffices=True)
    finally:
        candidate.module.reset_kv_cache()  # type: ignore[operator]


def _handed_around(
    candidate: Candidate, pieces: Iterable[Piece], name: str, always: dict[str, bool]
) -> Iterator[Tensor]:
    cache = None
    for ids, options in pieces:
        output = candidate.call(ids, **always, **options, **({} if cache is None else {name: cache}))
        yield candidate.logits_in(output, ids, last_suffices=True)
        cache = _cache_in(output, name)
        if cache is None:
            raise NotImplementedError(f"it takes {name!r}, but gives none back")


def _cache_in(output: Any, name: str) -> Any:
    """By its name; or in a tuple, what follows the logits: the last thing that is made of parts, or else a tensor."""
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if found is None and isinstance(output, tuple | list):
        rest = [item for item in output[1:] if item is not None]
        rest = [item for item in rest if not (isinstance(item, Tensor) and item.dim() == 0)]  # a loss
        parts = [item for item in rest if not isinstance(item, Tensor)]  # beside hidden states, which are a tensor
        found = (parts or rest or [None])[-1]
    return found
