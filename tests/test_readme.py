"""The README: short enough to be read, and every example in it runs as it stands.

The examples run in a folder with a GPT-2 of somebody's (``tests/readme``) whose attention scale is wrong until the
README's own command mends it, and with a Hub cache in which openai-community/gpt2 is a small model.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import shtab
import yaml

from gpt2_from_scratch.cli.arguments import parser
from gpt2_from_scratch.loading import TINY

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RIGHT, WRONG = "/ q.shape[-1] ** 0.5", "/ C**0.5"


class Block(NamedTuple):
    language: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)]
SHELL = [
    [line.partition("  #")[0].strip() for line in block.text.splitlines()]
    for block in BLOCKS
    if block.language == "bash"
]
SET_UP, WROTE, CHECKPOINT, CI = SHELL
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
(YAML,) = (block.text for block in BLOCKS if block.language == "yaml")
QUICKSTART, REPORT = (block.text for block in BLOCKS if not block.language)
STEPS = [step["run"] for step in yaml.safe_load(YAML) if "run" in step]


def test_it_takes_two_minutes_to_read() -> None:
    assert len(TEXT) < 12_000
    assert [len(commands) for commands in (WROTE, CHECKPOINT, CI)] == [3, 3, 3], "three stories of three commands"


def test_it_shows_no_option_that_there_is_not() -> None:
    for command in [*WROTE, *CHECKPOINT, *CI, *STEPS]:
        program, *words = shlex.split(command, comments=True)
        if program == "gpt2":
            parser().parse_args(words)
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - {"--shell", "--nproc-per-node"}:
        assert any(f'"{flag}"' in file.read_text() for file in (ROOT / "gpt2_from_scratch/cli").glob("*.py")), flag


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_rooms_of_the_drawing_are_rooms() -> None:
    blocks = re.findall(r"^```\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    (drawing,) = (block for block in blocks if "--->" in block)
    drawn = set(re.findall(r"[a-z_]{5,}", drawing)) & {path.stem for path in (ROOT / "gpt2_from_scratch").iterdir()}
    assert {"checkpoint", "loading", "reference", "checks", "diagnose", "verifier", "reports", "recorder"} <= drawn


def test_the_shell_can_complete_commands_and_options(tmp_path: Path) -> None:
    assert "`shtab --shell=bash gpt2_from_scratch.cli.arguments.parser`" in TEXT
    script = tmp_path / "completion"
    script.write_text(shtab.complete(parser(), "bash"))
    words = (
        'source "$0"; COMP_WORDS=(gpt2 convert --t); COMP_CWORD=2; _shtab_gpt2 gpt2 --t convert; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", words, str(script)], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["--to", "--tokenizer"], "")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for file in (ROOT / "tests" / "readme").glob("*.py"):
        shutil.copy(file, folder)
    mine = folder / "my_gpt.py"
    assert RIGHT in mine.read_text()
    mine.write_text(mine.read_text().replace(RIGHT, WRONG))
    (test,) = (text for text in PYTHON if "def test_" in text)
    (folder / "test_my_gpt.py").write_text(test)
    model = folder / "hub" / "models--openai-community--gpt2"
    shutil.copytree(TINY, model / "snapshots" / "a1")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1")
    (folder / "bin").mkdir()
    for name, module in (("gpt2", "gpt2_from_scratch"), ("pytest", "pytest")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(command: str | list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """A command of the README, in a shell whose PATH has `gpt2`."""
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{place}"}
    environment |= {"HF_HUB_CACHE": str(place / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = ["bash", "-c", command] if isinstance(command, str) else command
    return subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def without_rounding(text: str) -> list[str]:
    """Lines, with # for numbers that rounding moves: those with a point or an exponent."""
    return [re.sub(r"\d+\.\d+(e-?\d+)?|\d+e-?\d+", "#", line).rstrip() for line in text.splitlines()]


def same_lines(shown: str, printed: str) -> None:
    """Compares line by line; a line of three points stands for any number of lines."""
    *parts, last = ("\n".join(without_rounding(shown)) + "\n").split("\n...\n")
    rest = "\n" + "\n".join(without_rounding(printed)) + "\n"
    for index, part in enumerate(parts):
        before, found, behind = rest.partition(f"\n{part}\n")
        assert found and (index or not before), part
        rest = f"\n{behind}"
    assert rest.endswith(f"\n{last}") if parts else rest == f"\n{last}", last


@pytest.mark.slow
def test_the_first_command_prints_what_is_shown(place: Path) -> None:
    first, second = (line.removeprefix("$ ") for line in QUICKSTART.splitlines() if line.startswith("$ "))
    assert [first, second] == re.findall(r"^gpt2 .+", (ROOT / "scripts" / "quickstart").read_text(), flags=re.MULTILINE)
    printed = [run(command, place) for command in (first, second)]
    assert [done.returncode for done in printed] == [0, 0]
    same_lines(QUICKSTART, f"$ {first}\n{printed[0].stdout}$ {second}\n{printed[1].stdout}")


@pytest.mark.slow
def test_i_wrote_a_gpt2(place: Path) -> None:
    mapped, verify, fix = WROTE
    assert "Layout(" in run(mapped, place).stdout
    done = run(verify, place)
    assert done.returncode == 1, done.stderr
    same_lines(REPORT, done.stdout)
    assert "wrote the patch into" in run(fix, place).stdout
    done = run(verify, place)
    assert done.returncode == 0 and "PASSED" in done.stdout
    (python,) = (text for text in PYTHON if "verify(model" in text)
    done = run([sys.executable, "-c", f"{python}\nassert report"], place)
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stderr


@pytest.mark.slow
def test_i_have_a_checkpoint(place: Path) -> None:
    inspect, generate, convert = CHECKPOINT
    assert "649,088" in run(inspect, place).stdout
    assert run(generate, place).stdout.startswith("The flying machine")
    done = run(convert, place)
    assert done.returncode == 0 and (place / "gpt2.gguf").exists(), done.stderr
    (python,) = (text for text in PYTHON if "save_pretrained" in text)
    done = run([sys.executable, "-c", python], place)
    assert done.returncode == 0 and done.stdout.startswith("The flying machine"), done.stderr
    assert (place / "out" / "model.safetensors").exists() and list((place / "out").glob("*vocab*"))


@pytest.mark.slow
def test_i_want_it_in_my_ci(place: Path) -> None:
    verify, test, grade = CI
    mine = place / "my_gpt.py"
    mine.write_text(mine.read_text().replace(WRONG, RIGHT))
    assert run(verify, place).returncode == 0
    assert (place / "gpt2.xml").exists() and (place / "gpt2.html").exists()
    done = run(test, place)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    done = run(grade, place)
    assert done.returncode == 1 and re.search(r"catches \d+ of \d+ faults", done.stdout), done.stderr
    install, step = STEPS
    assert install.startswith("pip install") and step == verify
