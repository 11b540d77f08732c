"""What the command line says of processes that end in unusual ways: exit codes are those of verdicts, or none.

Real processes, and real signals from outside. Code that is given with ``--model``, and a check that is graded, run in a
child process, because they may end it without an error.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gpt2_from_scratch.loading import TINY

PROGRAM = (sys.executable, "-m", "gpt2_from_scratch")
PATIENCE = 300.0  # seconds until a process that hangs is given up; the slowest measured, under load: 13
slow = pytest.mark.slow  # two seconds of CPU for each process
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def ended(code: str, tmp_path: Path, *command: str, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that loads a file of this code."""
    (tmp_path / "own.py").write_text(code)
    arguments = [part.replace("FILE", str(tmp_path / "own.py")) for part in command or ("verify", "--model", "FILE:f")]
    run = subprocess.run([*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=PATIENCE)
    return run.returncode, run.stdout, run.stderr


# ------------------------------------------------------------------------------------------- code that ends its process

WRONG = "import torch\ndef f(ids): return torch.zeros(*ids.shape, 512)\n"


@pytest.mark.parametrize(
    ("code", "command", "how"),
    [
        ("import os; os._exit(0)", (), "exit code 0"),
        pytest.param("import os; os._exit(1)", (), "exit code 1", marks=slow),
        pytest.param(
            "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])", (), "exit code 0", marks=slow
        ),
        pytest.param(
            "import os, threading; threading.Thread(target=os._exit, args=(0,)).start()", (), "exit code 0", marks=slow
        ),
        pytest.param("import os; os._exit(0)", ("grade", "FILE:f"), "exit code 0", marks=slow),
        pytest.param("import ctypes; ctypes.string_at(0)", (), "SIGSEGV", marks=[posix, slow]),
        pytest.param("import os; os.kill(os.getpid(), 9)", (), "SIGKILL", marks=posix),
    ],
    ids=["exit 0", "exit 1", "exec", "thread", "grade", "crash", "killed"],
)
def test_code_that_ends_its_process_verifies_nothing(
    code: str, command: tuple[str, ...], how: str, tmp_path: Path
) -> None:
    code, out, err = ended(code, tmp_path, *command)
    assert code == 2
    assert "PASSED" not in out
    assert f"could not check: the process ended before there was a result ({how})" in err


@pytest.mark.parametrize(
    ("raising", "said"),
    [
        ("import sys\nsys.exit(0)", "sys.exit(0)"),
        pytest.param("class Odd(BaseException): pass\nraise Odd('out of cheese')", "out of cheese", marks=slow),
    ],
    ids=["exit", "exception"],
)
def test_what_is_raised_at_import_verifies_nothing(raising: str, said: str, tmp_path: Path) -> None:
    code, out, err = ended(raising, tmp_path)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending",
    [
        "import atexit, os; atexit.register(os._exit, 0)",
        "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()",
    ],
    ids=["exit handler", "thread that goes on"],
)
def test_what_code_leaves_behind_changes_no_verdict(ending: str, tmp_path: Path) -> None:
    code, out, _ = ended(f"{WRONG}{ending}\n", tmp_path, "verify", "--no-diagnose", "--model", "FILE:f")
    assert code == 1
    assert out.splitlines()[-1].startswith("FAILED")


def test_input_and_output_pass_through(tmp_path: Path) -> None:
    command = ("inspect", "--quick", "--file-layout", "FILE:NAME")
    code, out, err = ended("NAME = input()", tmp_path, *command, stdin="huggingface\n")
    assert code == 0
    assert "huggingface" in out
    assert err == ""
    code, out, err = ended("NAME = input()", tmp_path, *command, stdin="gpt3\n")
    assert (code, out) == (2, "")
    assert "there is no layout 'gpt3'" in err


def test_a_file_in_the_folder_one_stands_in_takes_no_modules_place(tmp_path: Path) -> None:
    (tmp_path / "tokenizers.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "own.py").write_text("NAME = 'huggingface'")
    program = [sys.executable, "-P", *PROGRAM[1:]]  # as the installed command, which looks for modules in no folder
    command = [*program, "inspect", "--quick", "--file-layout", f"{tmp_path / 'own.py'}:NAME"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (run.returncode, run.stderr) == (0, "")


# ----------------------------------------------------------------------------------------------------------- interrupts


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, which the programs started here would inherit."""
    if os.name != "posix":
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def busy(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A command whose child has loaded code that goes on for an hour."""
    (tmp_path / "own.py").write_text(
        "import pathlib, time\npathlib.Path(__file__ + '.loaded').touch()\ntime.sleep(3600)"
    )
    command = [*PROGRAM, "verify", "--model", f"{tmp_path / 'own.py'}:f"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            until = time.monotonic() + PATIENCE
            while not (tmp_path / "own.py.loaded").exists():
                assert time.monotonic() < until, "the child did not load the code"
                time.sleep(0.05)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@posix
@pytest.mark.parametrize(
    "whole_group", [pytest.param(False, id="from a program", marks=slow), pytest.param(True, id="from a terminal")]
)
def test_an_interrupt_of_a_child(whole_group: bool, tmp_path: Path) -> None:
    with busy(tmp_path) as process:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "gpt2: interrupted\n")


@posix
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=slow)])
def test_nothing_goes_on_when_the_program_is_ended(how: int, tmp_path: Path) -> None:
    with busy(tmp_path) as process:
        os.kill(process.pid, how)
        process.communicate(timeout=PATIENCE)  # until the child has closed the pipe, too
        assert process.returncode == -how


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def generating(tmp_path: Path) -> Iterator[Start]:
    """Starts `gpt2 generate` with a copy of the model inside the package, and waits for the first of its text."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        for path in TINY.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        command = [*PROGRAM, "generate", "Once", "--checkpoint", str(tmp_path), "--max-new-tokens", "250", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(5) == "Once "  # so the model is loaded, and the first token chosen
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@posix
def test_an_interrupt_while_text_is_written(generating: Start) -> None:
    process = generating()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "gpt2: interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a mapped file cannot be cut short, or ends otherwise")
def test_a_file_cut_short_while_it_is_mapped_is_no_success(generating: Start, tmp_path: Path) -> None:
    process = generating()
    os.truncate(tmp_path / "model.safetensors", 100)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in err, "faulthandler says where it happened"


@slow
@posix
def test_a_file_cut_short_that_was_read(generating: Start, tmp_path: Path) -> None:
    process = generating("--no-mmap", "--max-new-tokens", "60")
    os.truncate(tmp_path / "model.safetensors", 100)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert len(out.split()) > 30
