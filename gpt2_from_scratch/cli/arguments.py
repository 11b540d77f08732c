"""Every command and option, with the text that `--help` shows."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeAlias

from gpt2_from_scratch import __version__
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.cli import commands as run
from gpt2_from_scratch.cli import generating, mapping

_DTYPES = ("float32", "float64", "float16", "bfloat16")
# `converting.TARGETS`, written out because `--help` imports nothing heavy; a test compares them.
FORMS = ("huggingface", "openai", "llm.c", "gguf", "nanogpt", "mingpt", "llms_from_scratch", "transformer_lens", "mlx")

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_CONFIG_HELP = "an argument of your model's constructor, by its name there; repeatable"
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
    for add in (_add_verify, _add_map, _add_record, _add_grade, _add_generate, _add_inspect, _add_convert):
        add(commands)
    return parser


def _command(
    commands: _Commands, usage: str, run: Callable[[argparse.Namespace], int], help: str, description: str
) -> Callable[..., argparse.Action]:
    """Adds a command, with the options that all of them have, and returns the function that adds another option."""
    command = commands.add_parser(usage.split()[0], usage=f"gpt2 {usage} [options]", help=help, description=description)
    command.set_defaults(run=run)
    _add_checkpoint_options(command.add_argument_group("checkpoint").add_argument)
    return command.add_argument


def _add_verify(commands: _Commands) -> None:
    option = _command(
        commands,
        "verify [FILE.py:OBJECT] [CHECKPOINT]",
        run.verify,
        "check a model against transformers' GPT2LMHeadModel",
        "Checks a model against transformers' GPT2LMHeadModel with the same checkpoint's weights. Without "
        "FILE.py:OBJECT, this package's own model is checked. Exit code 0: verified, 1: diverged, 2: could not check. "
        "A model on several ranks (FSDP2, tensor parallel, DDP) is checked with: torchrun --nproc-per-node N -m "
        "gpt2_from_scratch verify 'my.py:build()' CHECKPOINT. Every rank builds its part, and rank 0 prints. torchrun "
        "itself exits with 0 (verified) or 1 (anything else).",
    )
    named = "[FILE.py:OBJECT] [CHECKPOINT]"
    option("named", nargs="*", metavar=named, help=f"your model, see --model; and the checkpoint: {_CHECKPOINT_HELP}")
    option(
        "--model",
        metavar="FILE.py:OBJECT",
        help="your model in a Python file: a module, a class, which is built, or a function from ids to logits. With "
        "OBJECT(), what the call returns is checked. Or another engine's model: a .onnx, .gguf or .pt2 file, or the "
        "folder of a CTranslate2 model",
    )
    option("--config", action="append", default=[], metavar="NAME=VALUE", help=_CONFIG_HELP)
    option("--layout", metavar="NAME|FILE.py:NAME", help="where your model keeps GPT-2's weights; default: found out")
    option("--dtype", choices=_DTYPES, default="float32", help="precision of this package's own model (%(default)s)")
    option("--outputs", metavar="FILE", help="check the logits in FILE instead of a model; see `gpt2 record`")
    option("--skip", action="append", default=[], choices=PARTS, help="do not check this part; repeatable")
    option("--gradients", action="store_true", help="compare the loss and all gradients, too")
    option("--thorough", action="store_true", help="ask for every token id, and for more lengths; takes longer")
    option("--train", action="store_true", help="check training mode, too: dropout, mask, gradients")
    option("--atol", type=float, help="judge by |difference| <= ATOL + RTOL * |logit|, not by the noise floor")
    option("--rtol", type=float, help="see --atol")
    option("--json", metavar="FILE", help="write the verdict as JSON; the schema is in the package")
    option("--junit-xml", metavar="FILE", help="write the verdict as JUnit XML")
    option("--html", metavar="FILE", help="write the verdict as an HTML page with pictures")
    option("--fix", action="store_true", help="write a proven patch into your file; the old file is kept beside it")
    option("--no-diagnose", action="store_true", help="do not search for the bug when logits differ")
    seconds = "processor time for that search (%(default)g); confirming a patch may take a minute more"
    option("--diagnose-seconds", type=float, default=60.0, metavar="S", help=seconds)
    option("-v", "--verbose", action="store_true", help="show every prompt, every compared module, the environment")


def _add_map(commands: _Commands) -> None:
    option = _command(
        commands,
        "map FILE.py:OBJECT [CHECKPOINT]",
        mapping.find,
        "find out which parameter of your model is which of GPT-2's",
        "Finds out which parameter of your model is which of GPT-2's, proves it in float64, and prints the layout as "
        "Python, for `--layout FILE.py:LAYOUT`. Parameters may have any names. Exit code 0: proven, 1: proven except "
        "for a fault, which is named, 2: not found; the last line on stderr says which.",
    )
    option("model", metavar="FILE.py:OBJECT", help="your model, or its class, which is then built")
    option("checkpoint", nargs="?", help=f"the checkpoint whose sizes your model has: {_CHECKPOINT_HELP}")
    option("--config", action="append", default=[], metavar="NAME=VALUE", help=_CONFIG_HELP)
    option("--json", action="store_true", help="print status, reasons, layout and evidence as JSON")
    option("-v", "--verbose", action="store_true", help="say on stderr how each decision was made")


def _add_record(commands: _Commands) -> None:
    option = _command(
        commands,
        "record [CHECKPOINT] FILE",
        run.record,
        "write prompts for a port in another language",
        "Writes prompts into FILE, as token ids. A port in another language adds its logits to the file, and "
        "`gpt2 verify CHECKPOINT --outputs FILE` checks them.",
    )
    option("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    option("file", help="the file to write: .safetensors or .npz")


def _add_grade(commands: _Commands) -> None:
    option = _command(
        commands,
        "grade FILE.py:CHECK",
        run.grade,
        "find the known faults that a check of your own misses",
        "Gives your check a right model, and then a model with each known fault. The check returns False or raises an "
        "exception where it finds a model wrong. Exit code 0: it misses none of the faults that can be seen in the "
        "logits, 1: it misses some.",
    )
    option("check", metavar="FILE.py:CHECK", help="a function of one model; the model is a torch module, ids -> logits")
    option("--checkpoint", help=_CHECKPOINT_HELP)


def _add_generate(commands: _Commands) -> None:
    option = _command(
        commands,
        "generate [PROMPT]",
        generating.generate,
        "continue a text",
        "Continues a text, or token ids, greedily by default. The text is printed as it comes.",
    )
    option("prompt", nargs="?", help="the text to continue; - reads it from stdin, as a pipe does")
    option("--ids", type=_ids, metavar="5,3,1", help="token ids to continue, instead of a text")
    option("--checkpoint", help=_CHECKPOINT_HELP)
    option("--max-new-tokens", type=int, default=100, metavar="N", help="generate N tokens at most (%(default)s)")
    option("--temperature", type=float, default=0.0, metavar="T", help="0: greedy; above: sampled (%(default)s)")
    option("--top-k", type=int, metavar="K", help="sample among the K most probable tokens")
    option("--top-p", type=float, metavar="P", help="sample among the most probable tokens that sum to P")
    option("--repetition-penalty", type=float, metavar="R", help="above 1: less repetition; default: the checkpoint's")
    option("--seed", type=int, help="makes sampling repeatable; sample number i is drawn with SEED + i")
    option("--num-samples", type=int, default=1, metavar="N", help="continue N times (%(default)s)")
    option("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    option("--json", action="store_true", help="print ids, texts and why they ended as JSON")
    option("--dtype", choices=_DTYPES, help="precision of the model; default: the file's")
    option("--device", default="cpu", help="where the model runs, such as cuda (%(default)s)")


def _add_inspect(commands: _Commands) -> None:
    option = _command(
        commands, "inspect [CHECKPOINT]", run.inspect, "say what a checkpoint is", "Says what a checkpoint is."
    )
    option("checkpoint", nargs="?", help=_CHECKPOINT_HELP)
    option("--json", action="store_true", help="print JSON, with statistics of each tensor")
    option("--quick", action="store_true", help="do not read weights: no statistics, and not whether they are OpenAI's")
    option("--checksum", action="store_true", help="compare the file's SHA-256 with that of the official file")


def _add_convert(commands: _Commands) -> None:
    option = _command(
        commands,
        "convert CHECKPOINT DESTINATION",
        run.convert,
        "write a checkpoint in another form",
        "Writes a checkpoint in another form. Files appear complete or not at all.",
    )
    option("checkpoint", help=_CHECKPOINT_HELP)
    option("destination", help="the directory to write, or the file where the form is a single file")
    option("--to", default=FORMS[0], metavar="FORM", help=f"{', '.join(FORMS)} (default: %(default)s)")
    option("--dtype", choices=_DTYPES, help="precision of the written weights; default: the file's")
    tokenizer = "the tokenizer to write, instead of the checkpoint's own: a directory, a file in it, or a Hub id"
    option("--tokenizer", metavar="DIR", help=tokenizer)
    option("--no-bias", action="store_true", help="leave out biases that are zero, where the form allows it")
    option("--overwrite", action="store_true", help="replace files that are there")


def _add_checkpoint_options(option: Callable[..., argparse.Action]) -> None:
    """How the checkpoint is opened: the same for every command."""
    names = "the layout of the names in the file; default: found out"
    option("--file-layout", metavar="NAME|FILE.py:NAME", help=names)
    option("--key", default="", metavar="NAME", help="which state dict to take, where a PyTorch file has several")
    ignored = "leave out the tensors of this name; * stands for a number, ** for anything; repeatable"
    option("--ignore", action="append", default=[], metavar="NAME", help=ignored)
    option("--strip-prefix", default="", metavar="TEXT", help="remove TEXT from the front of the tensors' names")
    field = "a field of config.json, such as n_head=6, in place of what the checkpoint says; repeatable"
    option("--set", action="append", default=[], metavar="KEY=VALUE", help=field)
    option("--no-mmap", action="store_true", help="read the file instead of mapping it")
    option("--revision", help="branch, tag or commit on the Hub")
    option("--cache-dir", metavar="DIR", help="where files from the Hub are kept; default: the user's Hub cache")
    option("--local-files-only", action="store_true", help="take files of the Hub from the cache only")
