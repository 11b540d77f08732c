"""What ends a process and no `except` catches: the command line says what happened, and it looks like no verdict.

The one idea: real processes, and real signals from outside. Most of them die in a Python file that the command line is
told to take a layout from, because that is read before anything that takes long.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpt2_from_scratch.loading import TINY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one process here, which nothing outlives")

PROGRAM = (sys.executable, "-m", "gpt2_from_scratch")
PATIENCE = 60.0  # seconds until a process that hangs is given up; the slowest measured, under load: 13


def inspecting(code: str, tmp_path: Path) -> list[str]:
    """`gpt2 inspect` with a file of this code."""
    (tmp_path / "layout.py").write_text(code)
    return [*PROGRAM, "inspect", "--quick", "--file-layout", f"{tmp_path / 'layout.py'}:NAME"]


def ended(code: str, tmp_path: Path, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    run = subprocess.run(inspecting(code, tmp_path), input=stdin, capture_output=True, text=True, timeout=PATIENCE)
    return run.returncode, run.stdout, run.stderr


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


def child_of(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100)


def test_a_file_cut_short_while_it_is_mapped(generating: Start, tmp_path: Path) -> None:
    process = generating()
    cut(tmp_path)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "memory map was cut short" in err and "SIGBUS" in err and "--no-mmap" in err and "Traceback" not in err


def test_a_file_cut_short_that_was_read(generating: Start, tmp_path: Path) -> None:
    process = generating("--no-mmap", "--max-new-tokens", "60")
    cut(tmp_path)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and len(out.split()) > 30 and err == ""


def test_a_process_that_the_system_kills_for_its_memory(generating: Start) -> None:
    process = generating()
    os.kill(child_of(process), signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "memory ran out" in err and "SIGKILL" in err


@pytest.mark.parametrize("whole_group", [False, True], ids=["from a program", "from a terminal"])
def test_an_interrupt(whole_group: bool, generating: Start) -> None:
    process = generating()
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err == "gpt2: interrupted\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_goes_on_when_the_program_is_ended(how: int, tmp_path: Path) -> None:
    """Else a pipe stays open, and who waits for its end waits for a process that nobody knows of."""
    command = inspecting("import time\nprint('busy', flush=True)\ntime.sleep(3600)", tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        child = child_of(process)
        os.kill(process.pid, how)
        try:
            process.communicate(timeout=PATIENCE)  # until the child has closed the pipe, too
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert process.returncode == -how


def test_a_crash_in_compiled_code(tmp_path: Path) -> None:
    code, out, err = ended("import ctypes\nctypes.string_at(0)", tmp_path)
    assert code == 2 and out == "" and "it crashed" in err and "SIGSEGV" in err


def test_a_script_that_ends_by_itself(tmp_path: Path) -> None:
    code, out, err = ended("import sys\nsys.exit(0)", tmp_path)
    assert code == 2 and out == "" and "sys.exit(0); nothing was verified" in err


def test_input_and_exit_code_pass_through(tmp_path: Path) -> None:
    code, out, err = ended("NAME = input()", tmp_path, stdin="huggingface\n")
    assert code == 0 and "layout huggingface" in out.replace("      ", " ").replace("  ", " ") and err == ""
    code, out, err = ended("NAME = input()", tmp_path, stdin="gpt3\n")
    assert code == 2 and out == "" and "there is no layout 'gpt3'" in err
