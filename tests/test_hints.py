"""A hint helps whoever follows it to the letter, in Python and on the command line.

Hints that carry options, or name a path, are followed here, and those of `tests.test_hints_followed` there. All others
ask for something outside this package (another copy of a file, another build of a model); they are listed by what they
ask for. A new hint of neither kind fails `test_every_hint_is_known`: give it a trial, or say what it asks for.
"""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2_from_scratch import CheckpointError, open_checkpoint
from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.cli.options import as_flags
from tests.test_cli import run
from tests.test_hints_followed import TRIALS as FOLLOWED

PACKAGE = Path(__file__).parent.parent / "gpt2_from_scratch"
ERRORS = {
    *("CheckpointError", "ConfigError", "FormatError", "MappingError", "TokenizerError", "CandidateError"),
    "DivergenceError",
}

# Hints without options, by what they ask for. Nobody can follow these inside a test.
OUTSIDE: dict[str, tuple[str, ...]] = {
    "another copy of the file": (
        r"fetch",
        r"download",
        r"TRUNCATED",
        r"_MALFORMED",
        r"_WHOLE",
        r"different saves",
        r"do not trust",
        r"the same model",
        r"_AGAIN",
    ),
    "another save by the program that has the weights": (
        r"save ",
        r"convert ",
        r"export",
        r"load the (unquantised|original)",
        r"quantised",
        r"PROCESSED",
        r"Keras 3",
        r"tokenize with",
        r"the save that wrote it",
    ),
    "a package to install": (r"pip install",),
    "a right line in the user's own file": (
        r"correct it",
        r"delete it",
        r"is it the right file",
        r"install it first",
        r"verify it again",
    ),
    "a model or a configuration of the right kind": (
        r"build ",
        r"belongs to another",
        r"of another model",
        r"this package loads",
        r"GPT-2's own architecture",
        r"name an nn\.Module",
        r"names the weights that are",
        r"its tensors have other",
        r"llama\.cpp",
        r"replaced functions",
        r"another model's files",
        r"verify needs those",
        r"give a prompt",
        r"give at least",
        r"it gets a GPTModel",
        r"load it from the same",
        r"verify it in",
        r"it is no GPT-2",
    ),
    "a choice out of those that are listed": (
        r"known: ",
        r"supported: ",
        r"it holds",
        r"',\ '\.join",
    ),
    "another place or name": (r"is it a model repository",),
    "the network, or a right to see something": (
        r"network",
        r"auth login",
        r"ask for access",
        r"spelling",
        r"lists branches",
        r"Hub",
    ),
    "the user's own Layout": (
        r"find it on one",
        r"describe its names",
        r"Layout of",
    ),
    "token ids instead of text": (
        r"token ids",
        r"other such id",
    ),
}
# Passed on, or made elsewhere: the hint of another error, of `mistakes.py`, of a tried change.
PASSED_ON = (
    r"^((error|outcome)\.(hint|message|bare_hint)|change\.why|why|hint|remedy|mistake\.remedy|meant|_what_it_is.*)$"
)


def hints() -> Iterator[tuple[str, str, bool]]:
    """Every error that is made with a hint: where, the hint as it stands there, and whether it carries options."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                named = {each.arg: each.value for each in node.keywords}
                hint = named.get("hint") or (node.args[1] if len(node.args) > 1 else None)
                if hint is not None or "options" in named:
                    where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
                    yield where, "" if hint is None else ast.unparse(hint), "options" in named


def test_every_hint_is_known() -> None:
    found = list(hints())
    assert len(found) > 150, "the walk over the package finds no errors"
    # A hint that names a path is followed below, and so are those of errors with options.
    followed = re.compile(
        "|".join([r"did you mean|give (the|a|one)|if a file is meant|f'give ", *map(re.escape, FOLLOWED)])
    )
    known = re.compile("|".join([PASSED_ON, *(each for those in OUTSIDE.values() for each in those)]), re.DOTALL)
    assert not (unused := [each for each in FOLLOWED if not any(each in hint for _, hint, _ in found)]), unused
    unknown = [f"{where}: {hint}" for where, hint, options in found if not options and not known.search(hint)]
    unknown = [each for each in unknown if not followed.search(each)]
    assert not unknown, "hints that nobody has followed:\n" + "\n".join(unknown)


def test_every_error_with_options_is_followed() -> None:
    """As many trials as there are places that advise options; those of `tried` have several."""
    places = {where.partition(":")[0] for where, _, options in hints() if options}
    # That of programs.py, which arises when a file is written, is followed in converting/test_convert.py, and that of
    # deepspeed.py, which takes a folder of DeepSpeed's, in checkpoint/test_deepspeed.py.
    elsewhere = {"checkpoint/programs.py", "checkpoint/deepspeed.py"}
    assert places == {*ADVISED, *elsewhere}, "a place that advises options has no trial"


# ------------------------------------------------------------------------------------------------- hints with options


def weights() -> dict[str, Tensor]:
    return load_file(TINY / "model.safetensors")


def saved(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """The tiny model's folder with these tensors, and these fields in its config.json."""
    folder.mkdir(exist_ok=True)
    content = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def several_state_dicts(folder: Path) -> Path:
    saved(folder, {})
    (folder / "model.safetensors").unlink()
    torch.save({"model": weights(), "ema": weights()}, folder / "pytorch_model.bin")
    return folder


def without_config(folder: Path) -> Path:
    saved(folder, weights())
    (folder / "config.json").unlink()
    return folder


def another_config(folder: Path) -> Path:
    saved(folder, weights())
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def another_head(folder: Path) -> Path:
    return saved(folder, {**weights(), "lm_head.weight": torch.ones(512, 64)})


def plus(name: str, prefix: str = "") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return saved(folder, {**{prefix + each: tensor for each, tensor in weights().items()}, name: torch.ones(3)})

    return write


def rows(folder: Path) -> Path:
    wte = torch.cat([weights()["transformer.wte.weight"], torch.zeros(3, 64)])
    return saved(folder, {**weights(), "transformer.wte.weight": wte})


def head_only(folder: Path) -> Path:
    tensors = weights()
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    saved(folder, tensors)
    (folder / "config.json").unlink()
    return folder


def two_models(folder: Path) -> Path:
    return saved(folder, {f"{who}.{name}": each for who in ("actor", "critic") for name, each in weights().items()})


# A place in the package that advises options -> checkpoints with which it does, and options they are opened with.
ADVISED: dict[str, dict[str, tuple[Callable[[Path], Path], dict[str, Any]]]] = {
    "checkpoint/state_dict.py": {
        "several state dicts": (several_state_dicts, {}),
        "another key": (several_state_dicts, {"key": "emma"}),
    },
    "loading/configuration.py": {"another program's config.json": (another_config, {})},
    "loading/opening.py": {
        "no config.json": (without_config, {}),
        "a head beside the model": (plus("score.weight"), {}),
        "metrics beside a model with a prefix": (plus("metric.total", "net."), {}),
        "more rows": (rows, {}),
        "a wrong layout": (lambda folder: saved(folder, weights()), {"file_layout": "nanogpt"}),
        "a tied pair under the head's name, and no config.json": (head_only, {}),
        "two models": (two_models, {}),
    },
    "loading/renaming.py": {"a prefix that not all have": (plus("extra.scale", "net."), {"strip_prefix": "net."})},
    "loading/values.py": {"a head that is not the embedding": (another_head, {})},
}
TRIALS = [(f"{place}: {name}", *trial) for place, trials in ADVISED.items() for name, trial in trials.items()]
TRUE = {"n_head": 4, "activation_function": "gelu_new"}  # what a hint leaves open, as `...`
MOST = 3  # hints, one after the other


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the command line spells them, as a user types them from a hint."""
    return shlex.split(as_flags(options).removeprefix("give ")) if options else []


def filled_in(value: Any) -> Any:
    return (
        {name: TRUE[name] if said == "..." else said for name, said in value.items()} if type(value) is dict else value
    )


@pytest.mark.parametrize(("make", "options"), [trial[1:] for trial in TRIALS], ids=[trial[0] for trial in TRIALS])
def test_options_that_are_advised_open_the_file(
    make: Callable[[Path], Path], options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, followed = make(tmp_path / "model"), 0
    while True:
        code, _, err = run(capsys, "convert", path, tmp_path / "out", "--to", "huggingface", *flags(options))
        try:
            open_checkpoint(path, **options)
        except CheckpointError as caught:
            error = caught
        else:
            break
        assert code == 2 and error.options, error
        # The command line prints what Python advises, in its own spelling, without a word of Python.
        assert as_flags(error.options) in err and "pass " not in err and "={" not in err, err
        assert followed < MOST, error
        options = {**options, **{name: filled_in(value) for name, value in error.options.items()}}
        followed += 1
    assert followed and code == 0, err


# ---------------------------------------------------------------------------------------------- hints that name a path


def training_run(folder: Path) -> Path:
    for step in (5, 10):
        shutil.copytree(TINY, folder / f"checkpoint-{step}")
    return folder


def hub_cache(folder: Path) -> Path:
    shutil.copytree(TINY, folder / "snapshots" / "abc")
    return folder


def below(folder: Path) -> Path:
    (folder / "logs").mkdir(parents=True)
    torch.save(weights(), folder / "logs" / "last.ckpt")
    shutil.copy(TINY / "config.json", folder / "logs")
    return folder


def misspelt(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    return folder / "modle.safetensors"


def inside(folder: Path) -> Path:
    shutil.copytree(TINY, folder / "a")
    shutil.copytree(TINY, folder / "b")
    return folder


PATHS = [training_run, hub_cache, below, misspelt, inside]


@pytest.mark.parametrize("make", PATHS, ids=lambda make: make.__name__)
def test_a_path_that_is_advised_opens(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(make(tmp_path / "here"))
    paths = [Path(word.strip(",?:;")) for word in caught.value.hint.split() if word.startswith(str(tmp_path))]
    assert paths and open_checkpoint(paths[0]).config.n_layer == 12
