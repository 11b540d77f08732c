"""The command line: `gpt2 verify`, `record`, `generate`, `inspect`, `convert`.

The one idea: the library computes and never prints, this file prints and never computes. Results go to stdout,
progress and errors to stderr; exit codes are 0 verified (or done), 1 diverged, 2 could not check. Nothing heavy is
imported before the arguments are known to be right.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gpt2_from_scratch import __version__
from gpt2_from_scratch.errors import CandidateError, CheckpointError

if TYPE_CHECKING:
    import torch

    from gpt2_from_scratch.verifier import Verdict

VERIFIED, DIVERGED, COULD_NOT_CHECK = 0, 1, 2
_INTERRUPTED = 130  # the shell's convention: 128 + SIGINT

_DTYPES = ("float32", "float64", "float16", "bfloat16")
# `converting.TARGETS`, written out because `--help` imports nothing heavy; a test compares them.
_FORMS = (
    "huggingface",
    "openai",
    "llm.c",
    "gguf",
    "nanogpt",
    "mingpt",
    "llms_from_scratch",
    "transformer_lens",
    "mlx",
)
# `verifier.PARTS`, as above.
_PARTS = ("weights", "self-tests", "logits", "generation", "gradients", "where")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: arguments without the program's name; None takes them from the command line.
    """
    arguments = _parser().parse_args(argv)
    if argv is None and sys.platform == "linux" and (died := _outlived()) is not None:
        return died
    try:
        if arguments.checkpoint is None:
            from gpt2_from_scratch.loading import TINY

            arguments.checkpoint = TINY
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except (CheckpointError, CandidateError, ValueError) as error:
        print(f"gpt2: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("gpt2: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as end:  # of a script that was given as a model: its 0 would read as "verified"
        print(f"gpt2: your code called sys.exit({end.code!r}); nothing was verified", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output left: `gpt2 inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        traceback.print_exc()
        print("gpt2: unexpected error, see above; nothing was verified", file=sys.stderr)
    return COULD_NOT_CHECK


# -------------------------------------------------------------------------------------------------- outliving a crash

# What the system can end a process with, and no `except` can catch: what happened, and what to do.
_DEATHS = {
    "SIGBUS": (
        "a file that was being read through a memory map was cut short, or its disk failed",
        "give --no-mmap, or a copy of the file that nobody writes to",
    ),
    "SIGKILL": (
        "the system ended it, most often because memory ran out",
        "close other programs, or use a machine with more memory",
    ),
}


def _outlived() -> int | None:
    """Goes on in a child process, with None; the parent waits, and returns the exit code of whatever came of it.

    Reading a mapped file that somebody cuts short ends the process (SIGBUS), and the kernel does if memory runs out
    (SIGKILL). Neither may look like a verdict, so somebody has to be left to say what happened. This costs a
    millisecond, because nothing heavy has been imported. Linux only: macOS's own libraries do not survive a fork.
    """
    import signal
    import threading

    here, there = os.pipe()  # the system closes the parent's end when the parent ends, however it does
    child = os.fork()

    def follow() -> None:
        os.read(here, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(*_: object) -> None:
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both, and the parent passes its on
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    if not child:
        os.close(there)
        threading.Thread(target=follow, daemon=True).start()
        return None
    os.close(here)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    name = signal.Signals(os.WTERMSIG(status)).name
    what, remedy = _DEATHS.get(name, ("it crashed, or somebody ended it", "please report it if it does so again"))
    print(f"gpt2: could not check: {what} ({name})\n  hint: {remedy}", file=sys.stderr)
    return COULD_NOT_CHECK


# -------------------------------------------------------------------------------------------------------- commands


def _verify(arguments: argparse.Namespace) -> int:
    from gpt2_from_scratch.verifier import Interrupted, verify

    for path in filter(None, (arguments.json, arguments.junit_xml, arguments.html)):
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise ValueError(f"cannot write {path}: there is no folder {os.path.dirname(path)!r}")
    tolerance = None
    if arguments.atol is not None or arguments.rtol is not None:
        tolerance = (arguments.atol or 0.0, arguments.rtol or 0.0)
    options = _checkpoint_options(arguments)
    candidate, layout = _candidate(arguments, options)
    try:
        with _progress() as report:
            verdict = verify(
                candidate,
                arguments.checkpoint,
                layout,
                tolerance=tolerance,
                skip=arguments.skip,
                gradients=arguments.gradients,
                always_trace=arguments.html is not None,
                diagnose=None if arguments.no_diagnose else _diagnosing(arguments.diagnose_seconds, report),
                progress=report,
                **_for_file(options),
            )
    except Interrupted as interrupted:
        _publish(interrupted.verdict, arguments)
        return _INTERRUPTED
    _publish(verdict, arguments)
    return VERIFIED if verdict else DIVERGED


def _diagnosing(seconds: float, progress: Callable[[str], None]) -> Callable[..., Any]:
    """What `verify` calls when the logits differ."""

    def explain(candidate: Any, checkpoint: Any, reference: Any, verdict: Any, layouts: Any) -> Any:
        from gpt2_from_scratch.diagnose import diagnose

        return diagnose(
            candidate,
            checkpoint,
            reference,
            layouts=layouts,
            seconds=seconds,
            progress=lambda phase: progress(f"diagnosis: {phase}"),
        )

    return explain


def _publish(verdict: "Verdict", arguments: argparse.Namespace) -> None:
    """The verdict in every form that was asked for; on the terminal last."""
    from gpt2_from_scratch import reports

    if arguments.json is not None:
        reports.write(arguments.json, reports.to_json(verdict))
    if arguments.junit_xml is not None:
        reports.write(arguments.junit_xml, reports.to_junit(verdict))
    if arguments.html is not None:
        reports.write(arguments.html, reports.to_html(verdict, _token_text(arguments)))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(reports.to_annotations(verdict))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(reports.to_summary(verdict) + "\n")
    print(verdict.report(arguments.verbose))


def _token_text(arguments: argparse.Namespace) -> Callable[[int], str] | None:
    """Token ids in letters, where the checkpoint has a tokenizer."""
    from gpt2_from_scratch.tokenizer import load_tokenizer

    try:
        encoding = load_tokenizer(arguments.checkpoint, **_hub_options(arguments))
    except (CheckpointError, OSError):
        return None
    return lambda token: encoding.decode([token])


def _candidate(arguments: argparse.Namespace, options: dict[str, Any]) -> tuple[Any, Any]:
    """What is to be checked, and its layout: this package's model, the user's, or a port's recorded answers."""
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.verifier import load_object, read_recording, standard_prompts

    layout = _layout(arguments.layout)
    if arguments.model is None and layout is not None:
        raise ValueError("--layout describes the model given by --model; for the file, use --file-layout")
    if arguments.outputs is not None:
        opened = open_checkpoint(arguments.checkpoint, **options)
        return read_recording(arguments.outputs, opened.config, standard_prompts(opened)), None
    if arguments.model is not None:
        candidate = load_object(arguments.model, open_checkpoint(arguments.checkpoint, **options).config)
        _fill(candidate, arguments, layout, options)
        return candidate, layout
    from gpt2_from_scratch.model import GPTModel

    model = GPTModel.from_pretrained(arguments.checkpoint, dtype=_dtype(arguments.dtype), **options)
    return model, "gpt2_from_scratch"


def _record(arguments: argparse.Namespace) -> int:
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.verifier import record, standard_prompts

    opened = open_checkpoint(arguments.checkpoint, **_checkpoint_options(arguments))
    prompts = standard_prompts(opened)
    record(prompts, arguments.file)
    vocab = opened.config.vocab_size
    for index, prompt in enumerate(prompts):
        answer = f"write logits.{index} float32 {[*prompt.ids.shape, vocab]}"
        print(f"  ids.{index} int64 {list(prompt.ids.shape)} ({prompt.name}): {answer}")
    print(
        f"wrote {arguments.file}; with the answers in it: gpt2 verify {arguments.checkpoint} --outputs {arguments.file}"
    )
    return VERIFIED


def _fill(candidate: Any, arguments: argparse.Namespace, layout: Any, options: dict[str, Any]) -> None:
    """Weights enter a module only through a layout; one that was freshly built without any would be random."""
    from torch import nn

    from gpt2_from_scratch.loading import load_into

    built = arguments.model.endswith("()")
    if not isinstance(candidate, nn.Module) or not built:
        return
    if layout is None:
        raise CandidateError(
            f"{arguments.model} was just built, so its weights are random",
            hint="give --layout, by which the checkpoint is loaded into it; or FILE.py:NAME of a model with weights",
        )
    load_into(candidate, arguments.checkpoint, layout, **_for_file(options))


def _generate(arguments: argparse.Namespace) -> int:
    from gpt2_from_scratch.generation import stream_text
    from gpt2_from_scratch.model import GPTModel
    from gpt2_from_scratch.tokenizer import load_tokenizer

    model = GPTModel.from_pretrained(
        arguments.checkpoint,
        dtype=_dtype(arguments.dtype),
        device=arguments.device,
        **_checkpoint_options(arguments),
    )
    encoding = load_tokenizer(arguments.checkpoint, vocab_size=model.config.vocab_size, **_hub_options(arguments))
    pieces = stream_text(
        model,
        encoding,
        arguments.prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    print(arguments.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return VERIFIED


def _inspect(arguments: argparse.Namespace) -> int:
    import json

    from gpt2_from_scratch.inspecting import inspect_checkpoint, summary
    from gpt2_from_scratch.loading import open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint, **_checkpoint_options(arguments))
    with _progress() as report:
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


def _convert(arguments: argparse.Namespace) -> int:
    from gpt2_from_scratch.converting import convert

    with _bar() as progress:
        report = convert(
            arguments.checkpoint,
            arguments.destination,
            arguments.to,
            dtype=_dtype(arguments.dtype),
            bias=not arguments.no_bias,
            overwrite=arguments.overwrite,
            progress=progress,
            **_checkpoint_options(arguments),
        )
    print(report)
    return VERIFIED


# ------------------------------------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt2",
        description="GPT-2 weights into code, and proof that the code is GPT-2.",
        epilog="Without a checkpoint, the small trained model inside the package is used.",
    )
    parser.add_argument("--version", action="version", version=f"gpt2_from_scratch {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify",
        help="check a model against transformers' GPT2LMHeadModel",
        description="Checks a model against transformers' GPT2LMHeadModel on the same checkpoint: by default this "
        "package's own, with --model yours. Exit code 0: verified, 1: diverged, 2: could not check.",
    )
    verify.add_argument("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    verify.add_argument("--model", metavar="FILE.py:OBJECT", help="your model or function; OBJECT() is called first")
    verify.add_argument("--layout", metavar="NAME|FILE.py:NAME", help="where your model keeps GPT-2's weights")
    verify.add_argument("--dtype", choices=_DTYPES, default="float32", help="of this package's model (%(default)s)")
    verify.add_argument("--outputs", metavar="FILE", help="judge the logits in FILE; see `gpt2 record`")
    verify.add_argument("--skip", action="append", default=[], choices=_PARTS, help="a part not to check; repeatable")
    verify.add_argument("--gradients", action="store_true", help="compare the loss and all gradients, too")
    verify.add_argument("--atol", type=float, help="judge by |difference| <= ATOL + RTOL * |logit|, not by the floor")
    verify.add_argument("--rtol", type=float, help="see --atol")
    verify.add_argument("--json", metavar="FILE", help="write the verdict as JSON; the schema is in the package")
    verify.add_argument("--junit-xml", metavar="FILE", help="write it as JUnit XML")
    verify.add_argument("--html", metavar="FILE", help="write it as a page, with pictures")
    verify.add_argument("--no-diagnose", action="store_true", help="do not search for the bug when logits differ")
    verify.add_argument(
        "--diagnose-seconds", type=float, default=60.0, metavar="S", help="for that search, at most (%(default)g)"
    )
    verify.add_argument("-v", "--verbose", action="store_true", help="every prompt, every site, the environment")
    verify.set_defaults(run=_verify)

    record = commands.add_parser(
        "record",
        help="write prompts for a port in another language",
        description="Writes token ids for a port in another language. It adds its logits, and "
        "`gpt2 verify CHECKPOINT --outputs FILE` judges them.",
    )
    record.add_argument("checkpoint", help=_CHECKPOINT_HELP)
    record.add_argument("file", help="to write: .safetensors or .npz")
    record.set_defaults(run=_record)

    generate = commands.add_parser(
        "generate", help="continue a text", description="Continues a text, greedily by default."
    )
    generate.add_argument("prompt", help="the text to continue")
    generate.add_argument("--checkpoint", help=_CHECKPOINT_HELP)
    generate.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="(%(default)s)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    generate.add_argument("--top-k", type=int, metavar="K", help="sample among the K most probable tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="sample among the most probable that sum to P")
    generate.add_argument("--seed", type=int, help="makes sampling repeatable")
    generate.add_argument("--dtype", choices=_DTYPES, help="of the model; default: the file's")
    generate.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    generate.set_defaults(run=_generate)

    inspect = commands.add_parser("inspect", help="say what a checkpoint is", description="Says what a checkpoint is.")
    inspect.add_argument("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    inspect.add_argument("--json", action="store_true", help="everything, statistics of each tensor included")
    inspect.add_argument("--quick", action="store_true", help="do not read the weights: no statistics, no identity")
    inspect.add_argument("--checksum", action="store_true", help="compare SHA-256 with the official files'")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser(
        "convert",
        help="write a checkpoint in another form",
        description="Writes a checkpoint in another form. Files appear complete or not at all.",
    )
    convert.add_argument("checkpoint", help=_CHECKPOINT_HELP)
    convert.add_argument("destination", help="a directory, or a file where the form is one")
    convert.add_argument("--to", required=True, metavar="FORM", help=", ".join(_FORMS))
    convert.add_argument("--dtype", choices=_DTYPES, help="of the written weights; default: the file's")
    convert.add_argument("--no-bias", action="store_true", help="leave out biases that may be absent and are zero")
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")
    convert.set_defaults(run=_convert)

    for command in (verify, record, generate, inspect, convert):
        group = command.add_argument_group("checkpoint")
        group.add_argument("--file-layout", metavar="NAME|FILE.py:NAME", help="names in the file; default: found out")
        group.add_argument("--strip-prefix", default="", metavar="TEXT", help="remove from every name, as _orig_mod.")
        group.add_argument(
            "--ignore", action="append", default=[], metavar="NAME", help="leave a tensor out; * is a number"
        )
        group.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a field of config.json, instead of what the checkpoint says, as n_head=6",
        )
        group.add_argument("--no-mmap", action="store_true", help="read the file instead of mapping it")
        group.add_argument("--revision", help="branch, tag or commit on the Hub")
        group.add_argument("--cache-dir", help="instead of the user's Hub cache")
        group.add_argument("--local-files-only", action="store_true", help="no network")
    return parser


_CHECKPOINT_HELP = "a Hub id (openai-community/gpt2), a directory or a file"


def _checkpoint_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the file is opened: the options of `open_checkpoint`."""
    return {
        "layout": _layout(arguments.file_layout),
        "strip_prefix": arguments.strip_prefix,
        "ignore": arguments.ignore,
        "overrides": dict(map(_setting, arguments.set)),
        "mmap": not arguments.no_mmap,
        **_hub_options(arguments),
    }


def _setting(text: str) -> tuple[str, Any]:
    """A field and its value, which is JSON, or else the text itself: ``n_head=6``, ``activation_function=gelu``."""
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--set {text} is not KEY=VALUE, as n_head=6")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _hub_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "revision": arguments.revision,
        "cache_dir": arguments.cache_dir,
        "local_files_only": arguments.local_files_only,
    }


def _for_file(options: dict[str, Any]) -> dict[str, Any]:
    """The same for functions whose `layout` is the candidate's: there the file's is called `file_layout`."""
    return {"file_layout" if name == "layout" else name: value for name, value in options.items()}


def _layout(choice: str | None) -> Any:
    if choice is None or ":" not in choice:
        return choice
    from gpt2_from_scratch.verifier import load_object

    return load_object(choice)


def _dtype(name: str | None) -> "torch.dtype | None":
    if name is None:
        return None
    import torch

    return getattr(torch, name)  # type: ignore[no-any-return]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """The name of the running phase on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda phase: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda phase: status.update(phase)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("")
        yield lambda done, everything: bars.update(task, completed=done, total=everything)
