"""What each command does: options in, one call of the library, its result printed; returns the exit code."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2_from_scratch.cli.child import ranks
from gpt2_from_scratch.cli.exit_codes import COULD_NOT_CHECK, DIVERGED, INTERRUPTED, VERIFIED
from gpt2_from_scratch.cli.options import as_flags, checkpoint_options, dtype_choice, layout_choice, opened, settings
from gpt2_from_scratch.cli.terminal import bar, fitted, for_terminal, progress
from gpt2_from_scratch.errors import CheckpointError, MappingError, printable

if TYPE_CHECKING:
    from gpt2_from_scratch.building import Loaded
    from gpt2_from_scratch.loading import Checkpoint
    from gpt2_from_scratch.ranks import Ranks
    from gpt2_from_scratch.reports import Verdict


def verify(arguments: argparse.Namespace) -> int:
    """`gpt2 verify`: 0 verified, 1 diverged, 130 interrupted. Under torchrun every rank returns what rank 0 does."""
    if ranks() == 1:
        return _verify(arguments, None)
    from gpt2_from_scratch.ranks import Ranks

    several = Ranks()
    if several.rank == 0:
        code = COULD_NOT_CHECK
        try:
            code = _verify(arguments, several)
            return code
        finally:
            several.end(code)
    from gpt2_from_scratch.checks.surroundings import kept_as_it_is

    several.wait_for_rank_0()
    checkpoint = opened(arguments)
    several.joins(_candidate(arguments, checkpoint)[0].object, checkpoint)
    with kept_as_it_is():
        return several.follow()


def _verify(arguments: argparse.Namespace, several: "Ranks | None") -> int:
    """Reports are written where there is no verdict, too."""
    reports = _reports(arguments)
    for path in reports:
        if not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {str(path.parent)!r}")
    if len({os.path.realpath(path) for path in reports}) < len(reports):
        raise ValueError("two reports are to be written to one file: give each its own")
    _check_unread(reports, arguments, None)
    checkpoint: Checkpoint | None = None
    try:
        checkpoint = opened(arguments)
        _check_unread(reports, arguments, checkpoint)
        verdict = _verdict(arguments, checkpoint, several)
    except KeyboardInterrupt as interrupted:
        partial = getattr(interrupted, "verdict", None)
        if partial is None:
            raise
        _publish(partial, arguments, checkpoint)
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        _publish_failure(error, arguments)
        raise
    _publish(verdict, arguments, checkpoint)
    if arguments.fix:
        _fix(verdict)
    return VERIFIED if verdict else DIVERGED


def _reports(arguments: argparse.Namespace) -> list[Path]:
    """The files that reports are written to."""
    return [Path(path) for path in (arguments.json, arguments.junit_xml, arguments.html) if path is not None]


def _check_unread(targets: list[Path], arguments: argparse.Namespace, checkpoint: "Checkpoint | None") -> None:
    """Refuses to write in the place of what the command reads."""
    if any(target.is_file() for target in targets):
        from gpt2_from_scratch.checkpoint.atomic import check_unread

        check_unread(targets, _read(arguments, checkpoint))


def _read(arguments: argparse.Namespace, checkpoint: "Checkpoint | None") -> Iterator[Path]:
    """What a command reads: the checkpoint's files, the recorded answers, the files of code, what these import."""
    from gpt2_from_scratch.checkpoint import WEIGHTS
    from gpt2_from_scratch.tokenizer import FILES, tokenizer_files

    for name in ("model", "layout", "file_layout", "outputs"):
        if given := getattr(arguments, name, None):
            yield Path(given.rpartition(":")[0] or given)
            yield Path(given)
    yield from (Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None)))
    if checkpoint is not None:
        yield from checkpoint.files
        yield from tokenizer_files(checkpoint.located.weights)
        return
    place = Path(str(arguments.checkpoint)).expanduser()  # that may not open
    yield place
    yield from (place / name for name in (*WEIGHTS, *FILES, "config.json", "generation_config.json", "hparams.json"))


def _fix(verdict: "Verdict") -> None:
    """Writes the patch of a verdict, and says where the old file is."""
    from gpt2_from_scratch.diagnose.repair import write_patch

    patch = None if verdict.diagnosis is None else verdict.diagnosis.patch
    if patch is None:
        print("nothing to fix" if verdict else "no patch was found, so nothing was written")
        return
    old = write_patch(patch)
    print(f"wrote the patch into {patch.path}, and the old file into {old}; the verdict above is on the old one")


def _verdict(arguments: argparse.Namespace, checkpoint: "Checkpoint", several: "Ranks | None") -> "Verdict":
    from gpt2_from_scratch.verifier import verify

    tolerance = None
    if arguments.atol is not None or arguments.rtol is not None:
        tolerance = (arguments.atol or 0.0, arguments.rtol or 0.0)
    if several is not None:
        if ":" not in (arguments.model or ":") or arguments.outputs is not None:
            raise ValueError("on several ranks, verify checks this package's model, or --model FILE.py:OBJECT")
        several.go_on()  # what is wrong with the arguments or the checkpoint, rank 0 says alone
    candidate, layout = _candidate(arguments, checkpoint)
    if several is not None:
        several.joins(candidate.object, checkpoint)
    with progress() as report:
        return verify(
            candidate,
            checkpoint,
            layout,
            tolerance=tolerance,
            skip=arguments.skip,
            gradients=arguments.gradients,
            thorough=arguments.thorough,
            train=arguments.train,
            always_trace=arguments.html is not None,
            diagnose_seconds=0.0 if arguments.no_diagnose else arguments.diagnose_seconds,
            progress=report,
            ranks=several,
        )


def _publish_failure(error: Exception | SystemExit, arguments: argparse.Namespace) -> None:
    """Reports for machines about a check that came to no verdict; the terminal gets the error itself."""
    from gpt2_from_scratch.reports import Verdict

    text = f"your code called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    candidate = arguments.model or arguments.outputs or "this package's model"
    _write_reports(Verdict(candidate, str(arguments.checkpoint), error=text), arguments, None)


def _publish(verdict: "Verdict", arguments: argparse.Namespace, checkpoint: "Checkpoint | None") -> None:
    """The verdict in every form that was asked for; on the terminal last."""
    _write_reports(verdict, arguments, checkpoint)
    print(for_terminal(verdict.report(arguments.verbose)))


def _write_reports(verdict: "Verdict", arguments: argparse.Namespace, checkpoint: "Checkpoint | None") -> None:
    from gpt2_from_scratch import reports

    command = shlex.join(["gpt2", *arguments.words])
    date = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    verdict = replace(verdict, environment={"command": command, "date": date, **verdict.environment})
    files: list[tuple[str | None, Callable[[], str]]] = [
        (arguments.json, lambda: reports.to_json(verdict)),
        (arguments.junit_xml, lambda: reports.to_junit(verdict)),
        (arguments.html, lambda: reports.to_html(verdict, _token_text(checkpoint))),
    ]
    for path, form in files:
        if path is not None:
            _attempt(f"{path} was not written", partial(_write, path, form, arguments, checkpoint))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _attempt("there are no annotations", lambda: print(reports.to_annotations(verdict)))
        _attempt("there is no summary", lambda: _append_summary(reports.to_summary(verdict)))


def _write(path: str, form: Callable[[], str], arguments: argparse.Namespace, checkpoint: "Checkpoint | None") -> None:
    from gpt2_from_scratch import reports

    _check_unread([Path(path)], arguments, checkpoint)
    reports.write(path, form())


def _append_summary(text: str) -> None:
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def _attempt(what: str, write: Callable[[], None]) -> None:
    """A report that fails is told on stderr, and changes neither the verdict nor its exit code."""
    try:
        write()
    except Exception as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        print(f"gpt2: {printable(f'{what}: {why}', lines=False)}", file=sys.stderr)


def _token_text(checkpoint: "Checkpoint | None") -> Callable[[int], str] | None:
    """Token ids in letters, where the checkpoint has a tokenizer."""
    if checkpoint is None:
        return None
    from gpt2_from_scratch.tokenizer import load_tokenizer

    try:
        return load_tokenizer(checkpoint).text_of
    except (CheckpointError, OSError):
        return None


def _candidate(arguments: argparse.Namespace, checkpoint: "Checkpoint") -> tuple[Any, Any]:
    """What is to be checked, and its layout: this package's model, the user's, or a port's recorded answers."""
    from gpt2_from_scratch.building import Loaded, load_object
    from gpt2_from_scratch.checks.recording import read_recording
    from gpt2_from_scratch.engines import is_engine_model, load_engine_model
    from gpt2_from_scratch.verifier import recorded_prompts, standard_prompts

    layout = layout_choice(arguments.layout)
    if arguments.model is None and layout is not None:
        raise ValueError("--layout describes the model given by --model; for the file, use --file-layout")
    if arguments.outputs is not None:
        standard = standard_prompts(checkpoint)
        searched = recorded_prompts(checkpoint)[len(standard) :]
        return read_recording(arguments.outputs, checkpoint.config, standard, searched), None
    if arguments.model is not None and is_engine_model(arguments.model):
        return load_engine_model(arguments.model), layout
    if arguments.model is not None:
        loaded = load_object(
            arguments.model,
            checkpoint.config,
            biases=not checkpoint.matching.zeros,
            settings=settings(arguments.config, "--config"),
        )
        if ranks() > 1:
            from gpt2_from_scratch.ranks import inside_ddp

            loaded = replace(loaded, object=inside_ddp(loaded.object))
        return _filled(loaded, layout, checkpoint)
    from gpt2_from_scratch.model import GPTModel
    from gpt2_from_scratch.reference import can_stream
    from gpt2_from_scratch.streaming import larger_than_memory

    stream = ranks() == 1 and larger_than_memory(checkpoint.config.num_parameters) and can_stream(checkpoint)
    model = GPTModel.from_pretrained(checkpoint, dtype=dtype_choice(arguments.dtype), stream=stream)
    if ranks() > 1:
        from torch.distributed.device_mesh import init_device_mesh

        model.parallelize(init_device_mesh("cpu", (ranks(),)))
    return Loaded(model), "gpt2_from_scratch"


def record(arguments: argparse.Namespace) -> int:
    """`gpt2 record`: prompts for a port in another language."""
    from gpt2_from_scratch.checks.recording import check_unanswered, record
    from gpt2_from_scratch.verifier import recorded_prompts

    checkpoint = opened(arguments)
    prompts = recorded_prompts(checkpoint)
    _check_unread([Path(arguments.file)], arguments, checkpoint)
    check_unanswered(Path(arguments.file))
    record(prompts, arguments.file)
    vocab = checkpoint.config.vocab_size
    for index, prompt in enumerate(prompts):
        answer = f"write logits.{index} float32 {[*prompt.ids.shape, vocab]}"
        print(f"  ids.{index} int64 {list(prompt.ids.shape)} ({prompt.name}): {answer}")
    print(
        f"wrote {arguments.file}; when the answers are in it: "
        f"gpt2 verify {arguments.checkpoint} --outputs {arguments.file}"
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
    print(fitted(result.report(), sys.stdout, 4))
    return VERIFIED if result else DIVERGED


def _filled(loaded: "Loaded", layout: Any, checkpoint: "Checkpoint") -> tuple["Loaded", Any]:
    """The user's object with the checkpoint's weights, if it has others; and its layout, if it is known now.

    What was freshly built holds random numbers. A function's arrays are filled, too, if none of the checkpoint's
    tensors is among them; if some are, the user has loaded them, and they are checked as they are. So are arrays of
    which it is not known what they hold.
    """
    from torch import nn

    from gpt2_from_scratch.arrays import arrays_of
    from gpt2_from_scratch.infer_layout import holds_some
    from gpt2_from_scratch.loading import load_into

    def noted(note: str, known: Any = layout) -> tuple["Loaded", Any]:
        return replace(loaded, notes=(*loaded.notes, note)), known

    if isinstance(loaded.object, nn.Module):
        if not loaded.built:
            return loaded, layout
        report = load_into(loaded.object, checkpoint, layout)
        if report.found is None:
            return loaded, layout
        return noted(f"the weights were copied into its parameters by {report.found.how}", report.found.layout)
    arrays = arrays_of(loaded.object) if callable(loaded.object) else None
    if arrays is None:
        return loaded, layout
    if not loaded.built and holds_some(arrays, checkpoint.config, checkpoint.read):
        return noted(f"its arrays ({arrays.where}) were checked as they are")
    try:
        report = load_into(arrays, checkpoint, layout)
    except MappingError as error:
        if loaded.built or layout is not None:
            raise
        return noted(f"its arrays ({arrays.where}) were checked as they are: {error.message}")
    how = "the layout that was given" if report.found is None else report.found.how
    return noted(f"the weights were copied into its arrays ({arrays.where}) by {how}")


def inspect(arguments: argparse.Namespace) -> int:
    """`gpt2 inspect`: what a checkpoint is."""
    import json

    from gpt2_from_scratch.inspecting import Contents, inspect_checkpoint, summary

    with progress() as report:
        found = inspect_checkpoint(
            arguments.checkpoint,
            statistics=not arguments.quick,
            checksum=arguments.checksum,
            progress=report,
            **checkpoint_options(arguments),
        )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
        return VERIFIED
    rows = summary(found)
    if isinstance(found, Contents):
        rows.append(("to do", found.to_do(as_flags)))
    print(printable(found.source))
    for name, text in rows:
        if text:
            print(fitted(printable(f"  {name:<11} " + text.replace("\n", "\n" + " " * 14)), sys.stdout))
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
            tokenizer=arguments.tokenizer,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    print(printable(str(report)))
    return VERIFIED
