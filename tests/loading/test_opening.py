"""An opened checkpoint is opened once and handed on, whoever asks for it."""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

import gpt2_from_scratch
from gpt2_from_scratch import GPTModel, load_into, load_tokenizer, open_checkpoint, verify
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.diagnose.grade import grade
from gpt2_from_scratch.inspecting import inspect_checkpoint
from gpt2_from_scratch.loading import OpenOptions, opening
from gpt2_from_scratch.mapping import matching, unrolling
from tests.test_cli import run

BUILDS = """
from gpt2_from_scratch import GPTModel

def build():
    from gpt2_from_scratch import GPTConfig
    return GPTModel(GPTConfig.from_hf({config}))
"""


def test_verify_opens_its_checkpoint_and_its_tokenizer_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: `gpt2 verify --model F:build() --layout L` finds, opens and describes the files once, and the tokenizer."""
    from gpt2_from_scratch import tokenizer

    asked: Counter[str] = Counter()

    def counted(module: object, name: str) -> None:
        function = getattr(module, name)

        def count(*arguments: object, **options: object) -> object:
            asked[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, count)

    for name in ("locate", "open_container", "infer_config"):
        counted(opening, name)
    counted(tokenizer, "tokenizer_at")
    code = tmp_path / "mine.py"
    code.write_text(BUILDS.format(config=open_checkpoint("tiny").config.to_hf()))
    asked.clear()
    unrolling.unrolled.cache_clear()
    matching._of_shapes.cache_clear()
    layout, page = "gpt2_from_scratch", str(tmp_path / "page.html")
    words = ("verify", "tiny", "--model", f"{code}:build()", "--layout", layout, "--html", page)
    exit_code, out, _ = run(capsys, *words)
    assert exit_code == 0, out
    assert matching._of_shapes.cache_info().misses == 1  # loading and the weights ask the same
    assert asked == {"locate": 1, "open_container": 1, "infer_config": 1, "tokenizer_at": 1}
    tables = unrolling.unrolled.cache_info()
    assert 2 <= tables.misses == tables.currsize, "the file's side and the module's, and none twice"


def test_what_is_public_has_a_short_repr(tmp_path: Path) -> None:
    opened = open_checkpoint("tiny")
    report = load_into(GPTModel(opened.config), opened, layout="gpt2_from_scratch")
    written = convert(opened, tmp_path / "out", "huggingface")
    shown = [opened, report, written, inspect_checkpoint(opened, statistics=False), inspect_checkpoint(tmp_path)]
    assert [len(repr(each)) < 200 and "tiny" in repr(each) for each in shown[:2]] == [True, True]
    assert all(len(repr(each)) < 200 and "\n" not in repr(each) for each in shown[2:])
    assert report._repr_html_().startswith("<p>tiny: 148 tensors")


def test_an_opened_checkpoint_is_taken_wherever_a_source_is(tmp_path: Path) -> None:
    opened = open_checkpoint("tiny")
    model = GPTModel.from_pretrained(opened)
    assert load_into(GPTModel(opened.config), opened, layout="gpt2_from_scratch").source == "tiny"
    assert verify(model, opened, skip=("logits", "generation", "where"), layout="gpt2_from_scratch")
    assert convert(opened, tmp_path / "out", "huggingface").source == "tiny"
    assert load_tokenizer(opened).encode("a") == load_tokenizer("tiny").encode("a")
    assert grade(lambda model: True, opened, faults=[]).caught == ()


def test_options_are_for_what_is_not_open_yet() -> None:
    with pytest.raises(TypeError, match="open already: give mmap to open_checkpoint"):
        GPTModel.from_pretrained(open_checkpoint("tiny"), mmap=False)


@pytest.mark.parametrize("config", [Path("config.json"), "config.json", {"n_head": 4}])
def test_a_configuration_of_another_type_is_told_how_one_is_made(config: Any) -> None:
    with pytest.raises(TypeError, match=rf"not a {type(config).__name__}: GPTConfig.from_file\(PATH\) reads"):
        open_checkpoint("tiny", config=config)


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"open_checkpoint has no option layout; it has .*file_layout"):
        open_checkpoint("tiny", layout="huggingface")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["open_checkpoint", "load_into", "convert", "verify"])
def test_the_options_have_types_and_are_spelled_once(name: str) -> None:
    """Law: what opens a checkpoint takes `OpenOptions`, so that a type checker helps whoever calls it."""
    parameters = inspect.signature(getattr(gpt2_from_scratch, name)).parameters
    (options,) = get_args(parameters["options"].annotation)
    assert OpenOptions.__annotations__.keys() <= options.__annotations__.keys()
    assert not OpenOptions.__annotations__.keys() & parameters.keys()


def test_tiny_is_a_name_unless_something_here_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("tiny").located.directory == gpt2_from_scratch.checkpoint.TINY
    convert("tiny", tmp_path / "tiny", "huggingface")
    assert open_checkpoint("tiny").located.directory == Path("tiny")
