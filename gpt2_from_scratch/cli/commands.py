"""What each command does: options in, one call of the library, its result printed; returns the exit code."""

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpt2_from_scratch.cli.exit_codes import DIVERGED, INTERRUPTED, VERIFIED
from gpt2_from_scratch.cli.options import dtype_choice, layout_choice, opened, settings
from gpt2_from_scratch.cli.terminal import bar, progress
from gpt2_from_scratch.errors import CandidateError, CheckpointError

if TYPE_CHECKING:
    from gpt2_from_scratch.building import Loaded
    from gpt2_from_scratch.loading import Checkpoint
    from gpt2_from_scratch.verifier import Verdict


def verify(arguments: argparse.Namespace) -> int:
    """`gpt2 verify`: 0 verified, 1 diverged, 130 interrupted."""
    from gpt2_from_scratch.verifier import Interrupted, verify

    for path in filter(None, (arguments.json, arguments.junit_xml, arguments.html)):
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise ValueError(f"cannot write {path}: there is no folder {os.path.dirname(path)!r}")
    tolerance = None
    if arguments.atol is not None or arguments.rtol is not None:
        tolerance = (arguments.atol or 0.0, arguments.rtol or 0.0)
    checkpoint = opened(arguments)
    candidate, layout = _candidate(arguments, checkpoint)
    try:
        with progress() as report:
            verdict = verify(
                candidate,
                checkpoint,
                layout,
                tolerance=tolerance,
                skip=arguments.skip,
                gradients=arguments.gradients,
                always_trace=arguments.html is not None,
                diagnose_seconds=0.0 if arguments.no_diagnose else arguments.diagnose_seconds,
                progress=report,
            )
    except Interrupted as interrupted:
        _publish(interrupted.verdict, checkpoint, arguments)
        return INTERRUPTED
    _publish(verdict, checkpoint, arguments)
    return VERIFIED if verdict else DIVERGED


def _publish(verdict: "Verdict", checkpoint: "Checkpoint", arguments: argparse.Namespace) -> None:
    """The verdict in every form that was asked for; on the terminal last."""
    from gpt2_from_scratch import reports

    if arguments.json is not None:
        reports.write(arguments.json, reports.to_json(verdict))
    if arguments.junit_xml is not None:
        reports.write(arguments.junit_xml, reports.to_junit(verdict))
    if arguments.html is not None:
        reports.write(arguments.html, reports.to_html(verdict, _token_text(checkpoint)))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(reports.to_annotations(verdict))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(reports.to_summary(verdict) + "\n")
    print(verdict.report(arguments.verbose))


def _token_text(checkpoint: "Checkpoint") -> Callable[[int], str] | None:
    """Token ids in letters, where the checkpoint has a tokenizer."""
    from gpt2_from_scratch.tokenizer import load_tokenizer

    try:
        encoding = load_tokenizer(checkpoint)
    except (CheckpointError, OSError):
        return None
    return lambda token: encoding.decode([token])


def _candidate(arguments: argparse.Namespace, checkpoint: "Checkpoint") -> tuple[Any, Any]:
    """What is to be checked, and its layout: this package's model, the user's, or a port's recorded answers."""
    from gpt2_from_scratch.building import load_object
    from gpt2_from_scratch.verifier import read_recording, standard_prompts

    layout = layout_choice(arguments.layout)
    if arguments.model is None and layout is not None:
        raise ValueError("--layout describes the model given by --model; for the file, use --file-layout")
    if arguments.outputs is not None:
        return read_recording(arguments.outputs, checkpoint.config, standard_prompts(checkpoint)), None
    if arguments.model is not None:
        loaded = load_object(
            arguments.model,
            checkpoint.config,
            biases=not checkpoint.matching.zeros,
            settings=settings(arguments.config, "--config"),
        )
        _fill(loaded, arguments, layout, checkpoint)
        return loaded, layout
    from gpt2_from_scratch.model import GPTModel

    return GPTModel.from_pretrained(checkpoint, dtype=dtype_choice(arguments.dtype)), "gpt2_from_scratch"


def record(arguments: argparse.Namespace) -> int:
    """`gpt2 record`: prompts for a port in another language."""
    from gpt2_from_scratch.verifier import record, standard_prompts

    checkpoint = opened(arguments)
    prompts = standard_prompts(checkpoint)
    record(prompts, arguments.file)
    vocab = checkpoint.config.vocab_size
    for index, prompt in enumerate(prompts):
        answer = f"write logits.{index} float32 {[*prompt.ids.shape, vocab]}"
        print(f"  ids.{index} int64 {list(prompt.ids.shape)} ({prompt.name}): {answer}")
    print(
        f"wrote {arguments.file}; with the answers in it: gpt2 verify {arguments.checkpoint} --outputs {arguments.file}"
    )
    return VERIFIED


def grade(arguments: argparse.Namespace) -> int:
    """`gpt2 grade`: 0 the check misses nothing that can be seen, 1 it misses faults."""
    from gpt2_from_scratch.building import load_object
    from gpt2_from_scratch.diagnose.grade import grade

    checkpoint = opened(arguments)
    check = load_object(arguments.check).object
    with progress() as report:
        result = grade(check, checkpoint, progress=report)
    print(result.report())
    return VERIFIED if result else DIVERGED


def _fill(loaded: "Loaded", arguments: argparse.Namespace, layout: Any, checkpoint: "Checkpoint") -> None:
    """Weights enter a module only through a layout; one that was freshly built without any would be random."""
    from torch import nn

    from gpt2_from_scratch.loading import load_into

    if not isinstance(loaded.object, nn.Module) or not loaded.built:
        return
    if layout is None:
        raise CandidateError(
            f"{arguments.model} was just built, so its weights are random",
            hint="give --layout, by which the checkpoint is loaded into it; or FILE.py:NAME of a model with weights",
        )
    load_into(loaded.object, checkpoint, layout)


def inspect(arguments: argparse.Namespace) -> int:
    """`gpt2 inspect`: what a checkpoint is."""
    import json

    from gpt2_from_scratch.inspecting import inspect_checkpoint, summary

    checkpoint = opened(arguments)
    with progress() as report:
        inspection = inspect_checkpoint(
            checkpoint, statistics=not arguments.quick, checksum=arguments.checksum, progress=report
        )
    if arguments.json:
        print(json.dumps(inspection.to_dict(), indent=2, allow_nan=False))
        return VERIFIED
    print(inspection.source)
    for name, text in summary(inspection):
        print(f"  {name:<11} {text}")
    return VERIFIED


def convert(arguments: argparse.Namespace) -> int:
    """`gpt2 convert`: the same checkpoint in another form."""
    from gpt2_from_scratch.converting import convert

    with bar() as progress:
        report = convert(
            opened(arguments),
            arguments.destination,
            arguments.to,
            dtype=dtype_choice(arguments.dtype),
            bias=not arguments.no_bias,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    print(report)
    return VERIFIED
