"""Files made by chance are opened right, or refused with a hint that opens them when it is followed to the letter."""

from pathlib import Path

import pytest

from tests.generated import assert_right, generated, opened


def try_seeds(seeds: range, folder: Path) -> int:
    """How many opened as they are; the others did with a hint."""
    at_once = 0
    for seed in seeds:
        (place := folder / str(seed)).mkdir()
        truth = generated(seed, place)
        truth.story.insert(0, f"seed {seed}")
        checkpoint, followed = opened(truth)
        assert_right(checkpoint, truth)
        at_once += not followed
    return at_once


def test_twenty_files(tmp_path: Path) -> None:
    assert try_seeds(range(20), tmp_path) > 2  # most open as they are; a generator of refusals would show little


@pytest.mark.slow
def test_three_hundred_files(tmp_path: Path) -> None:
    assert try_seeds(range(20, 320), tmp_path) > 60  # open as they are; the rest by their hints
