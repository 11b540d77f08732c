"""A hundred mutated files of each form: read, or refused with a reason, at once and within bounded memory.

Forms, mutations and bounds are those of `tests/fuzz_parsers.py`, which tries a million of them.
"""

import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz_parsers import FORMS, Attempts, mutated

# Seconds of CPU. Measured: 0.0003 to 0.06, and 0.3 for a pickle of ten thousand times the same instruction.
AT_ONCE = 2.0


@pytest.mark.parametrize("name", FORMS)
def test_a_mutated_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    attempt = Attempts(FORMS[name], tmp_path)
    assert attempt(attempt.content) is None, "the good file is refused, so nothing would be shown"
    refusals: set[str] = set()

    @settings(max_examples=120, derandomize=True, deadline=None, database=None)
    @given(st.randoms(use_true_random=False))
    def one_more(chance: Random) -> None:
        content = mutated(FORMS[name], attempt.content, chance)
        start = time.process_time()
        error = attempt(content)
        assert time.process_time() - start < AT_ONCE
        if error is not None:
            assert str(tmp_path) in error.message, "it does not say which file is meant"
            refusals.add(error.message)

    one_more()
    assert len(refusals) > 2, "all mutations are stopped at the same place"
