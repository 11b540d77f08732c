"""A patch is an edit that was tried: its logits are GPT-2's, and the user's file is as it was."""

import math
from pathlib import Path

import pytest

from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.edits import edits
from gpt2_from_scratch.diagnose.patch import RIGHT, find_patch
from tests.bugs import development
from tests.bugs.patching import CONFIG, LARGER, judge_of, patched
from tests.foreign import STYLES

BUGS = {bug.id: bug for bug in development.SINGLE}
SOME = (  # one of each kind of edit
    "own_layers/last_layer_skipped",
    "token_by_token/residual_normed_mid",
    "research_decoder/attn_dropout_training",
    "bert_names/output_arguments_swapped",
    "annotated/gelu_constant_transposed_digits",
    "head_list/query_key_swapped",
    "head_list/post_norm",
    "pre_norm/fill_tiny",
)


@pytest.mark.parametrize("name", SOME)
def test_a_bug_is_repaired_and_the_file_is_as_it_was(name: str, tmp_path: Path):
    bug = BUGS[name]
    patch = patched(bug, tmp_path)
    assert patch, name
    assert judge_of(bug, LARGER, tmp_path)(patch.after) <= RIGHT < judge_of(bug, LARGER, tmp_path)(patch.before)
    assert patch.path.read_text() == patch.before == bug.source
    assert patch.lines
    assert {line[:1] for line in str(patch).splitlines()} == {"-", "+", "@", " "}


def test_what_is_right_at_one_size_only_is_refused(tmp_path: Path):
    """``width ** 0.5`` for the head's width, where both happen to be equal, is the kind of patch that must not pass."""
    bug = BUGS["own_layers/last_layer_skipped"]
    judge = judge_of(bug, CONFIG, tmp_path)
    assert find_patch(bug.write(tmp_path / "theirs"), bug.lines, judge, lambda source: (), clock=Clock(1)) is None


def test_the_search_ends_in_time(tmp_path: Path):
    bug = BUGS["own_layers/last_layer_skipped"]
    assert find_patch(bug.write(tmp_path), bug.lines, lambda source: math.inf, clock=Clock(0)) is None


def test_a_statement_changes_places_with_a_neighbour_that_is_no_block():
    source = "def f(x):\n    a = x + 1\n    b = x * 2\n    if b:\n        b = a\n    return b\n"
    changed = {edit.apply(source) for edit in edits(source, [3], neighbours=False)}
    assert source.replace("    a = x + 1\n    b = x * 2\n", "    b = x * 2\n    a = x + 1\n") in changed
    assert all(text.index("if b") > text.index("a = x") for text in changed)


@pytest.mark.slow
def test_most_bugs_of_one_line_are_repaired(tmp_path: Path):
    """Measured: 76 of 80 drawn from three sets, given the guilty lines."""
    bugs = [bug for bug in development.SINGLE if len(bug.lines) == 1 and not STYLES[bug.style].fixed]
    found = [patched(bug, tmp_path / str(index), seconds=20) for index, bug in enumerate(bugs[::4])]
    assert sum(map(bool, found)) >= 0.85 * len(found)
