"""Who said what about a checkpoint's model: its config.json, its file, the user, its tensors, or nobody."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Said(Enum):
    """Where a field of the configuration comes from."""

    CONFIG_JSON = "config.json"
    FILE = "the file"
    USER = "set by you"
    TENSORS = "read from the tensors"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class Fact:
    """A field of the configuration and its source.

    Args:
        value: of the field.
        said: by whom.
        why: of an assumption: whose code computes so.
    """

    value: object
    said: Said
    why: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.why or self.said.value})"


def assumptions(facts: Mapping[str, Fact]) -> tuple[str, ...]:
    """What nobody said, one text for each field, such as ``activation_function gelu_new (GPT-2's)``."""
    return tuple(
        f"{field} {fact.value} ({fact.why})" if fact.why else f"{field} {fact.value}"
        for field, fact in facts.items()
        if fact.said is Said.ASSUMED
    )
