"""Every command and option, with the text that `--help` shows."""

import argparse
from collections.abc import Sequence

from gpt2_from_scratch import __version__
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.cli import commands as run
from gpt2_from_scratch.cli import generating, mapping

_DTYPES = ("float32", "float64", "float16", "bfloat16")
# `converting.TARGETS`, written out because `--help` imports nothing heavy; a test compares them.
FORMS = (
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

_CHECKPOINT_HELP = "a Hub id (openai-community/gpt2), a directory, a file, or tiny, the model inside the package"


def _ids(text: str) -> list[int]:
    """Token ids out of "5,3,1"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of token ids, as 5,3,1") from None


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the process where it is wrong."""
    reader = parser()
    arguments = reader.parse_args(argv)
    if hasattr(arguments, "named"):
        _tell_apart(arguments, reader)
    return arguments


def _tell_apart(arguments: argparse.Namespace, reader: argparse.ArgumentParser) -> None:
    """Of what was named without an option, ``FILE.py:OBJECT`` is the model, and the other the checkpoint."""
    models = [name for name in arguments.named if ".py:" in name]
    checkpoints = [name for name in arguments.named if name not in models]
    models += [] if arguments.model is None else [arguments.model]
    if len(models) > 1 or len(checkpoints) > 1:
        reader.error(f"verify takes one model and one checkpoint, not {', '.join(models + checkpoints)}")
    arguments.model = next(iter(models), None)
    arguments.checkpoint = next(iter(checkpoints), None)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="gpt2",
        description="GPT-2 weights into code, and proof that the code is GPT-2.",
        epilog="Without a checkpoint, tiny is used, the small trained model inside the package.",
    )
    parser.add_argument("--version", action="version", version=f"gpt2_from_scratch {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify",
        usage="gpt2 verify [FILE.py:OBJECT] [CHECKPOINT] [options]",
        help="check a model against transformers' GPT2LMHeadModel",
        description="Checks a model against transformers' GPT2LMHeadModel on the same checkpoint: by default this "
        "package's own, with --model yours. Exit code 0: verified, 1: diverged, 2: could not check. For a model on "
        "several ranks (FSDP2, tensor parallel, DDP): torchrun --nproc-per-node N -m gpt2_from_scratch verify "
        "'my.py:build()' CHECKPOINT. Every rank builds its part; rank 0 prints; torchrun's exit code is 0 or 1.",
    )
    verify.add_argument(
        "named",
        nargs="*",
        metavar="[FILE.py:OBJECT] [CHECKPOINT]",
        help=f"your model, as after --model, and {_CHECKPOINT_HELP}",
    )
    verify.add_argument(
        "--model",
        metavar="FILE.py:OBJECT",
        help="your model, class or function; OBJECT() is called. Or a model of another engine: a .onnx, .gguf or .pt2 "
        "file, or the folder of a CTranslate2 model",
    )
    _add_config(verify)
    verify.add_argument("--layout", metavar="NAME|FILE.py:NAME", help="where your model keeps GPT-2's weights")
    verify.add_argument("--dtype", choices=_DTYPES, default="float32", help="of this package's model (%(default)s)")
    verify.add_argument("--outputs", metavar="FILE", help="judge the logits in FILE; see `gpt2 record`")
    verify.add_argument("--skip", action="append", default=[], choices=PARTS, help="a part not to check; repeatable")
    verify.add_argument("--gradients", action="store_true", help="compare the loss and all gradients, too")
    verify.add_argument(
        "--thorough", action="store_true", help="compare every token id, and more lengths, though not all; takes longer"
    )
    verify.add_argument("--train", action="store_true", help="look at training mode, too: dropout, mask, gradients")
    verify.add_argument(
        "--atol", type=float, help="judge by |difference| <= ATOL + RTOL * |logit|, not by the noise floor"
    )
    verify.add_argument("--rtol", type=float, help="see --atol")
    verify.add_argument("--json", metavar="FILE", help="write the verdict as JSON; the schema is in the package")
    verify.add_argument("--junit-xml", metavar="FILE", help="write it as JUnit XML")
    verify.add_argument("--html", metavar="FILE", help="write it as a page, with pictures")
    verify.add_argument("--fix", action="store_true", help="write the patch, if one was found and proven")
    verify.add_argument("--no-diagnose", action="store_true", help="do not search for the bug when logits differ")
    verify.add_argument(
        "--diagnose-seconds", type=float, default=60.0, metavar="S", help="for that search, at most (%(default)g)"
    )
    verify.add_argument("-v", "--verbose", action="store_true", help="every prompt, every site, the environment")
    verify.set_defaults(run=run.verify)

    mapped = commands.add_parser(
        "map",
        help="find out which parameter of your model is which of GPT-2's",
        description="Finds out which parameter of your model is which of GPT-2's, proves it in float64, and prints the "
        "layout as Python, for `--layout FILE.py:LAYOUT`. No names are needed. Exit code 0: proven, 1: proven except "
        "for a fault, which is named, 2: not found; the last line on stderr says which.",
    )
    mapped.add_argument("model", metavar="FILE.py:OBJECT", help="your model, or its class, which is then built")
    mapped.add_argument("checkpoint", nargs="?", help=f"whose sizes your model has: {_CHECKPOINT_HELP}")
    _add_config(mapped)
    mapped.add_argument("--json", action="store_true", help="print status, reasons, layout and evidence as JSON")
    mapped.add_argument("-v", "--verbose", action="store_true", help="how each decision was made, on stderr")
    mapped.set_defaults(run=mapping.find)

    record = commands.add_parser(
        "record",
        help="write prompts for a port in another language",
        description="Writes token ids for a port in another language. It adds its logits, and "
        "`gpt2 verify CHECKPOINT --outputs FILE` judges them.",
    )
    record.add_argument("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    record.add_argument("file", help="to write: .safetensors or .npz")
    record.set_defaults(run=run.record)

    grade = commands.add_parser(
        "grade",
        help="how many known faults does your own check miss?",
        description="Gives your check a right model and then one with each known fault; it returns False or raises "
        "where it finds a model wrong. Exit code 0: it misses nothing that can be seen, 1: it misses faults.",
    )
    grade.add_argument("check", metavar="FILE.py:CHECK", help="a function of a model: torch module, ids -> logits")
    grade.add_argument("--checkpoint", help=_CHECKPOINT_HELP)
    grade.set_defaults(run=run.grade)

    generate = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continues a text, or token ids, greedily by default. The text is printed as it comes.",
    )
    generate.add_argument("prompt", nargs="?", help="the text to continue; - reads it from stdin, as a pipe does")
    generate.add_argument("--ids", type=_ids, metavar="5,3,1", help="token ids to continue, instead of a text")
    generate.add_argument("--checkpoint", help=_CHECKPOINT_HELP)
    generate.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="(%(default)s)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    generate.add_argument("--top-k", type=int, metavar="K", help="sample among the K most probable tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="sample among the most probable that sum to P")
    generate.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1: less repetition; default: the checkpoint's"
    )
    generate.add_argument("--seed", type=int, help="makes sampling repeatable; sample number i is drawn with SEED + i")
    generate.add_argument("--num-samples", type=int, default=1, metavar="N", help="continue N times (%(default)s)")
    generate.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable"
    )
    generate.add_argument("--json", action="store_true", help="print ids, texts and why they ended as JSON")
    generate.add_argument("--dtype", choices=_DTYPES, help="of the model; default: the file's")
    generate.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    generate.set_defaults(run=generating.generate)

    inspect = commands.add_parser("inspect", help="say what a checkpoint is", description="Says what a checkpoint is.")
    inspect.add_argument("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    inspect.add_argument("--json", action="store_true", help="everything, statistics of each tensor included")
    inspect.add_argument("--quick", action="store_true", help="do not read the weights: no statistics, no identity")
    inspect.add_argument("--checksum", action="store_true", help="compare SHA-256 with the official files'")
    inspect.set_defaults(run=run.inspect)

    convert = commands.add_parser(
        "convert",
        help="write a checkpoint in another form",
        description="Writes a checkpoint in another form. Files appear complete or not at all.",
    )
    convert.add_argument("checkpoint", help=_CHECKPOINT_HELP)
    convert.add_argument("destination", help="a directory, or a file where the form is one")
    convert.add_argument("--to", default=FORMS[0], metavar="FORM", help=f"{', '.join(FORMS)} (default: %(default)s)")
    convert.add_argument("--dtype", choices=_DTYPES, help="of the written weights; default: the file's")
    convert.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="the tokenizer to write, instead of the checkpoint's own: a directory, a file in it, or a Hub id",
    )
    convert.add_argument("--no-bias", action="store_true", help="leave out biases that may be absent and are zero")
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")
    convert.set_defaults(run=run.convert)

    for command in (verify, mapped, record, grade, generate, inspect, convert):
        group = command.add_argument_group("checkpoint")
        group.add_argument("--file-layout", metavar="NAME|FILE.py:NAME", help="names in the file; default: found out")
        group.add_argument("--key", default="", metavar="NAME", help="which state dict of a PyTorch file with several")
        group.add_argument(
            "--ignore",
            action="append",
            default=[],
            metavar="NAME",
            help="leave a tensor out; * is a number, ** anything; repeatable",
        )
        group.add_argument(
            "--strip-prefix", default="", metavar="TEXT", help="remove TEXT from the front of the tensors' names"
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


def _add_config(command: argparse.ArgumentParser) -> None:
    """The option with which a user answers what a constructor asks for and the checkpoint does not say."""
    command.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of your model's constructor, by its name there; repeatable",
    )
