"""`Verdict`: the results of a verification, and how they read for who asks in Python."""

from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.reports import text
from gpt2_from_scratch.reports.html import to_fragment
from gpt2_from_scratch.reports.results import Results


class Verdict(Results):
    """The outcome of `verify`. Truthy when verified; ``print()`` shows the report, a notebook shows a summary.

    Its fields are those of `Results`.
    """

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        return text.summary(self)

    @property
    def cause(self) -> str:
        """What is wrong, in a few words: the fault if one was found, else the place, else the numbers."""
        return text.cause(self)

    def report(self, verbose: bool = False) -> str:
        """All evidence, a few lines per part, and the verdict as the last line.

        Args:
            verbose: every prompt, every self-test, every site, and the environment.
        """
        return text.report(self, verbose)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        what = text.claim(self) if self else f"{self.candidate}, {self.cause}"
        return short_repr(f"Verdict {self.outcome}", what)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_fragment(self)
