"""The command line: `gpt2 verify`, `gpt2 generate`, `gpt2 inspect`.

The one idea: the library computes and never prints, this file prints and never computes. Results go to stdout,
progress and errors to stderr; exit codes are 0 verified (or done), 1 diverged, 2 could not check. Nothing heavy is
imported before the arguments are known to be right.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpt2_from_scratch import __version__
from gpt2_from_scratch.errors import CandidateError, CheckpointError

if TYPE_CHECKING:
    import torch

VERIFIED, DIVERGED, COULD_NOT_CHECK = 0, 1, 2
_INTERRUPTED = 130  # the shell's convention: 128 + SIGINT

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: arguments without the program's name; None takes them from the command line.
    """
    arguments = _parser().parse_args(argv)
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
    except BrokenPipeError:  # the reader of our output left: `gpt2 inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        traceback.print_exc()
        print("gpt2: unexpected error, see above; nothing was verified", file=sys.stderr)
    return COULD_NOT_CHECK


# -------------------------------------------------------------------------------------------------------- commands


def _verify(arguments: argparse.Namespace) -> int:
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.verifier import load_object, verify

    options = _checkpoint_options(arguments)
    layout = _layout(arguments.layout)
    if arguments.model is None:
        from gpt2_from_scratch.model import GPTModel

        if layout is not None:
            raise ValueError("--layout describes the model given by --model; for the file, use --file-layout")
        candidate: Any = GPTModel.from_pretrained(arguments.checkpoint, dtype=_dtype(arguments.dtype), **options)
        layout = "gpt2_from_scratch"
    else:
        candidate = load_object(arguments.model, open_checkpoint(arguments.checkpoint, **options).config)
        _fill(candidate, arguments, layout, options)
    with _progress() as report:
        verdict = verify(candidate, arguments.checkpoint, layout, progress=report, **_for_file(options))
    print(verdict.report())
    return VERIFIED if verdict else DIVERGED


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
    from gpt2_from_scratch.loading import dtype_name, open_checkpoint
    from gpt2_from_scratch.mapping import collapse
    from gpt2_from_scratch.tokenizer import tokenizer_files

    checkpoint = open_checkpoint(arguments.checkpoint, **_checkpoint_options(arguments))
    config, container = checkpoint.config, checkpoint.container
    tokenizer = ", ".join(path.name for path in tokenizer_files(checkpoint.located.directory))
    head = "tied to the token embedding" if config.tie_word_embeddings else "separate"
    rows = [
        ("form", f"{container.form}, {len(container.files)} file(s), {container.nbytes:,} bytes"),
        ("layout", f"{checkpoint.layout.name} ({checkpoint.layout.about})"),
        ("tensors", f"{len(container.tensors)}, {dtype_name(checkpoint.dtype)}"),
        ("parameters", f"{config.num_parameters:,}, head {head}"),
        (
            "size",
            f"{config.n_layer} layers, width {config.n_embd}, {config.n_head} heads, feed-forward {config.inner_dim}",
        ),
        ("text", f"vocabulary {config.vocab_size:,}, context {config.n_positions:,}"),
        ("maths", f"{config.activation_function}, epsilon {config.layer_norm_epsilon:g}"),
        ("tokenizer", tokenizer or "none beside the weights"),
    ]
    ignored = checkpoint.accounting.ignored
    rows += [
        ("ignored", f"{', '.join(collapse(name for name in ignored if ignored[name] == why))}: {why}")
        for why in dict.fromkeys(ignored.values())
    ]
    rows += [("note", note) for note in checkpoint.notes]
    print(checkpoint.located.source)
    for name, text in rows:
        print(f"  {name:<11} {text}")
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
    verify.set_defaults(run=_verify)

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
    inspect.set_defaults(run=_inspect)

    for command in (verify, generate, inspect):
        group = command.add_argument_group("checkpoint")
        group.add_argument("--file-layout", metavar="NAME|FILE.py:NAME", help="names in the file; default: found out")
        group.add_argument("--strip-prefix", default="", metavar="TEXT", help="remove from every name, as _orig_mod.")
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
        "mmap": not arguments.no_mmap,
        **_hub_options(arguments),
    }


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
