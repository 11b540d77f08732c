"""Where each field of a configuration comes from: config.json, the weights' file, the user, the tensors, or nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Origin(Enum):
    """Where a field of the configuration comes from."""

    CONFIG_JSON = "config.json"
    FILE = "the file"
    USER = "set by you"
    TENSORS = "read from the tensors"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class Fact:
    """The value of a field of the configuration, and its origin.

    Args:
        value: of the field.
        origin: where the value comes from.
        why: for an assumption, the model or code that has this value, such as ``"the official 124M's"``.
    """

    value: object
    origin: Origin
    why: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.why or self.origin.value})"


def fields_from(origin: Origin, facts: Mapping[str, Fact]) -> tuple[str, ...]:
    """The fields of this origin, one text for each, such as ``activation_function gelu_new (GPT-2's)``."""
    return tuple(
        f"{field} {fact.value} ({fact.why})" if fact.why else f"{field} {fact.value}"
        for field, fact in facts.items()
        if fact.origin is origin
    )
