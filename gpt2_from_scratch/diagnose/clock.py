"""How long a search may take.

The one idea: whatever is tried is tried one by one, and between two of them the clock is looked at.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """The time that a search may take.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether it has run out."""
        return time.monotonic() >= self.end

    def during(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until time runs out."""
        for item in items:
            if self.over:
                return
            yield item
