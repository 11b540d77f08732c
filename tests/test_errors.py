"""Errors: foreign text is harmless on its way out, and a crash in the user's code shows the user's own lines."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import GPTConfig
from gpt2_from_scratch.building import load_object
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.errors import CandidateError, CheckpointError, crash_place, crash_report, printable

HOSTILE = "a\x1b[2J\x00\rb\u202ec\ud800\n::error file=x::owned\n  ##[error]owned"


def test_foreign_text_cannot_steer_a_terminal_or_a_runner() -> None:
    shown = printable(HOSTILE)
    assert all(each.isprintable() or each == "\n" for each in shown)
    for escaped in (r"\x1b[2J", r"\x00", r"\r", r"\u202e", r"\ud800"):
        assert escaped in shown
    lines = shown.split("\n")
    assert lines[1] == r"\x3a:error file=x::owned" and lines[2] == r"  \x23#[error]owned"
    assert "\n" not in printable(HOSTILE, lines=False)


def test_plain_text_stays_as_it_is() -> None:
    for text in ("", "naïve café 漢字 ✓ a::b", "two\nlines, a\ttab", "C:\\path"):
        assert printable(text) == text


def test_foreign_text_has_an_end() -> None:
    shown = printable("x" * 1_000_000)
    assert len(shown) < 10_000 and shown.endswith("(1,000,000 characters)")
    assert printable("abcdef", most=3) == "abc... (6 characters)"


@pytest.mark.parametrize("kind", [CheckpointError, CandidateError])
def test_every_error_goes_that_way(kind: type[CheckpointError | CandidateError]) -> None:
    error = kind(HOSTILE, hint=HOSTILE)
    assert error.message == error.hint == printable(HOSTILE)
    assert str(error) == f"{error.message}\n  hint: {error.hint}"
    assert str(pickle.loads(pickle.dumps(kind("message")))) == "message"


CONFIG = GPTConfig(n_layer=1, n_embd=8, n_head=2, vocab_size=32, n_positions=16)


def test_a_crash_shows_the_users_own_lines(tmp_path: Path) -> None:
    file = tmp_path / "my_gpt2.py"
    file.write_text(
        "import torch\n\n\nclass GPT(torch.nn.Module):\n    def forward(self, ids):\n        return self.embed(ids)\n\n"
        "    def embed(self, ids):\n        return pos_embedz(ids)\n\n\n"
        "def build(config):\n    return undefined_here\n"
    )
    candidate = Candidate(load_object(f"{file}:GPT()", CONFIG).object, CONFIG)
    with pytest.raises(CandidateError) as raised:
        candidate.logits(torch.tensor([[1, 2]]))
    message = raised.value.message
    assert "NameError: name 'pos_embedz' is not defined" in message
    assert f'{file}", line 9, in embed\n    return pos_embedz(ids)' in message.replace("      ", "    ")
    assert "line 6, in forward" in message and message.count("File ") == 2, "none of torch's lines, none of ours"
    assert raised.value.hint == "", "no advice on how a model is called where the call was right"
    with pytest.raises(CandidateError, match="line 13, in build"):
        load_object(f"{file}:build()", CONFIG)


def test_a_file_that_is_no_python_shows_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ny = = 2\n")
    with pytest.raises(CandidateError, match=r"SyntaxError: invalid syntax\n +File .*broken.py\", line 2\n +y = = 2"):
        load_object(f"{file}:x")


def test_an_exception_without_words_has_a_name() -> None:
    assert crash_report(ZeroDivisionError()) == "ZeroDivisionError"


def test_generated_code_is_nobodys_line() -> None:
    @dataclass
    class Config:
        heads: int

        def __post_init__(self) -> None:
            raise ValueError("no such number of heads")

    try:
        Config(5)
    except ValueError as error:
        text, place = crash_report(error), crash_place(error)
    assert "<string>" not in text and text.count("File ") == 2 and "in __post_init__" in text
    assert place is not None and place[0] == __file__
