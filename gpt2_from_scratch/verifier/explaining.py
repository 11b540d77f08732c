"""The diagnosis as `verify` calls it: `verify(..., diagnose=explaining(seconds=30))`."""

from collections.abc import Callable, Sequence

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.diagnose import Diagnosis, diagnose
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout
from gpt2_from_scratch.reference import Reference
from gpt2_from_scratch.verifier import Diagnose, Verdict


def explaining(seconds: float = 60, progress: Callable[[str], None] = lambda phase: None) -> Diagnose:
    """What `verify` takes as `diagnose`.

    Args:
        seconds: the time that the search may take.
        progress: called with what is being tried.
    """

    def explain(
        candidate: Candidate, checkpoint: Checkpoint, reference: Reference, verdict: Verdict, layouts: Sequence[Layout]
    ) -> Diagnosis:
        return diagnose(
            candidate,
            checkpoint,
            reference,
            layouts=layouts,
            seconds=seconds,
            progress=lambda phase: progress(f"diagnosis: {phase}"),
        )

    return explain
