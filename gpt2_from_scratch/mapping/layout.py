"""`Layout`: a table of rows in execution order."""

import re
from dataclasses import dataclass
from functools import cached_property

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError, short_repr
from gpt2_from_scratch.mapping.link import Link
from gpt2_from_scratch.mapping.mistakes import mistakes_in
from gpt2_from_scratch.mapping.names import LAYER, numbered, places
from gpt2_from_scratch.mapping.rows import Ignore, Row
from gpt2_from_scratch.mapping.unrolling import of_heads, unrolled, walk


@dataclass(frozen=True)
class Layout:
    """Where GPT-2's weights live in one code base.

    Args:
        name: what users call it.
        rows: the table, in execution order.
        separator: what stands between a module's name and its parameter's.
        about: one line for `gpt2 inspect`.

    Raises:
        MappingError: the table contradicts itself or GPT-2. All mistakes are named at once.

    Example:
        >>> from gpt2_from_scratch.mapping import embedding
        >>> layout = Layout("mine", (embedding("wte", "tok"), embedding("wpe", "pos")))
        >>> [link.theirs for link in layout.unroll(GPTConfig())]
        [('tok.weight',), ('pos.weight',)]
    """

    name: str
    rows: tuple[Row | Ignore, ...]
    separator: str = "."
    about: str = ""

    def __repr__(self) -> str:
        return short_repr("Layout", f"{self.name!r}, {len(self.rows)} rows")

    def __post_init__(self) -> None:
        if isinstance(self.rows, list):
            object.__setattr__(self, "rows", tuple(self.rows))
        if mistakes := mistakes_in(self.rows, self.separator):
            number = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            raise MappingError(f"the layout {self.name!r} has {number}:" + "".join(f"\n  {each}" for each in mistakes))

    def unroll(self, config: GPTConfig) -> tuple[Link, ...]:
        """Every parameter's link, layer by layer, in execution order. The tied head's is included.

        The links are computed once for each layout and each set of sizes, and kept.

        Raises:
            MappingError: the rows do not fit a model of these sizes.
        """
        sizes = (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head, config.n_inner)
        try:
            return unrolled(self.rows, self.separator, GPTConfig(*sizes))
        except MappingError as error:
            raise MappingError(f"the layout {self.name!r}: {error.message}") from None

    def unmapped(self, config: GPTConfig) -> tuple[str, ...]:
        """Canonical tensors that no row claims. A complete layout has none."""
        claimed = {link.canonical for link in self.unroll(config)}
        return tuple(name for name in config.tensor_shapes() if name not in claimed)

    @property
    def first(self) -> str:
        """The name of the first row's first tensor: the token embedding, in every built-in layout."""
        return next(row for row in self.rows if isinstance(row, Row) and row.parameters).first_name(self.separator)

    def sites(self, config: GPTConfig) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each GPT-2 module whose output can be compared, with their modules: layer by layer, in execution order."""
        return tuple(
            (numbered(row.site, layer), tuple(name for each in row.theirs for name in of_heads(each, layer, config)))
            for row, layer in walk(self.rows, config.n_layer)
            if row.compared and ("*" not in row.site or all("layer" in places(name) for name in row.theirs))
        )

    def ignored(self, name: str, config: GPTConfig) -> str | None:
        """Why this tensor of theirs may be left out, or None if it may not."""
        row = self._ignoring(name, config)
        return None if row is None else row.why

    def must_be_zero(self, name: str, config: GPTConfig) -> bool:
        """Whether this tensor of theirs is none of GPT-2's and has to be zero."""
        row = self._ignoring(name, config)
        return row is not None and row.zero

    def _ignoring(self, name: str, config: GPTConfig) -> Ignore | None:
        for pattern, row in self._ignores:
            match = pattern.fullmatch(name)
            if match and all(int(layer) < config.n_layer for layer in match.groups()):
                return row
        return None

    @cached_property
    def _ignores(self) -> tuple[tuple[re.Pattern[str], Ignore], ...]:
        return tuple(
            (re.compile(re.escape(row.theirs).replace(r"\*", LAYER)), row)
            for row in self.rows
            if isinstance(row, Ignore)
        )
