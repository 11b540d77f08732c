"""`gpt2 map`: which parameter of a model is which of GPT-2's, printed as a layout."""

import argparse
import contextlib
import json
import sys

from gpt2_from_scratch.cli.options import opened, settings
from gpt2_from_scratch.cli.terminal import fitted
from gpt2_from_scratch.errors import CandidateError, printable

PROVEN, UP_TO, NOT_FOUND = 0, 1, 2


def find(arguments: argparse.Namespace) -> int:
    """Prints the layout on stdout and what is known of it on stderr: 0 proven, 1 proven up to a fault, 2 not found."""
    from gpt2_from_scratch.building import built_with, load_object
    from gpt2_from_scratch.infer_layout import Status, infer_layout, to_python

    checkpoint = opened(arguments)
    loaded = load_object(
        arguments.model,
        checkpoint.config,
        biases=not checkpoint.matching.zeros,
        settings=settings(arguments.config, "--config"),
    )
    if not callable(loaded.object):
        raise CandidateError(
            f"{arguments.model} is a {type(loaded.object).__name__}, which has no parameters to map",
            hint="name an nn.Module, the class of one, or a function from ids to logits",
        )
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints
        inferred = infer_layout(loaded.object, checkpoint.config)
    text = to_python(inferred.layout) if inferred.layout is not None else None
    if arguments.json:
        answer = {
            "status": inferred.status.value,
            "because": inferred.because,
            "conditions": inferred.conditions,
            "layout": text,
            "built_with": [str(setting) for setting in loaded.settings],
            "evidence": inferred.evidence,
        }
        print(json.dumps(answer, indent=2))
    elif text is not None:
        print(text, end="")
    built = [built_with(loaded.settings)] if loaded.settings else []
    for line in [*built, *loaded.notes, *(inferred.evidence if arguments.verbose else ()), str(inferred)]:
        print(fitted(printable(line), sys.stderr, 2), file=sys.stderr)
    return {Status.PROVEN: PROVEN, Status.PROVEN_UP_TO: UP_TO, Status.NOT_FOUND: NOT_FOUND}[inferred.status]
