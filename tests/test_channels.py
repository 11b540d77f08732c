"""What files and other people's code say is data, wherever it comes out: nothing of it is obeyed, nothing breaks."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2_from_scratch import reports
from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.reports import Verdict
from tests.test_cli import run

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    "a\r\n::error file=x::owned",
    "a\n##[error]owned",
    "\u202e\u2066gpj.exe\u2069",
    "<script>alert(1)</script>",
    "]]><x>&amp;\"'",
    "\x00\x9b31m\u2028\ud800",
    "%0A::set-output name=x::y",
)


def assert_harmless(text: str, where: str) -> None:
    """No control characters, no marks of direction, no workflow command that somebody else wrote."""
    odd = [each for each in text if not each.isprintable() and each not in "\n\t"]
    assert not odd, f"{where}: {odd!r}"
    commands = re.findall(r"^\s*(?:::|##\[).*", text, re.MULTILINE)
    ours = re.compile(r"::(error|warning|notice) (file=[^:]*,)?(line=\d+,)?title=gpt2 verify::")
    assert all(ours.match(each) for each in commands), f"{where}: {commands}"


def a_name_in_an_archive(folder: Path, text: str) -> tuple[object, ...]:
    name = text.replace("/", "_").replace("\x00", "").encode("utf-8", "replace").decode()
    np.savez(folder / "weights.npz", **{name: np.ones(3, np.float32)})
    return "inspect", folder / "weights.npz"


def a_key_beside_the_weights(folder: Path, text: str) -> tuple[object, ...]:
    torch.save({"model": load_file(TINY / "model.safetensors"), text: {text: 1}}, folder / "model.pt")
    return "inspect", "--quick", folder / "model.pt", "--set", "n_head=4"


def a_setting(folder: Path, text: str) -> tuple[object, ...]:
    save_file(load_file(TINY / "model.safetensors"), folder / "model.safetensors")
    content = {**json.loads((TINY / "config.json").read_text()), "activation_function": text, text: text}
    (folder / "config.json").write_text(json.dumps(content))
    return "inspect", "--quick", folder


def a_model_type(folder: Path, text: str) -> tuple[object, ...]:
    save_file(load_file(TINY / "model.safetensors"), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": text, text: text}))
    return "inspect", "--quick", folder


def a_tokenizers_class(folder: Path, text: str) -> tuple[object, ...]:
    save_file(load_file(TINY / "model.safetensors"), folder / "model.safetensors")
    (folder / "config.json").write_bytes((TINY / "config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": text}))
    (folder / "vocab.txt").write_text("a")
    return "generate", "hello", "--checkpoint", folder


def a_path(folder: Path, text: str) -> tuple[object, ...]:
    return "inspect", f"{folder}/{text}"


def an_argument(folder: Path, text: str) -> tuple[object, ...]:
    return "inspect", "--quick", "tiny", "--set", f"n_head={text}", "--key", text, "--ignore", text


Source = Callable[[Path, str], tuple[object, ...]]
SOURCES: list[Source] = [
    a_name_in_an_archive,
    a_key_beside_the_weights,
    a_setting,
    a_model_type,
    a_tokenizers_class,
    a_path,
    an_argument,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_terminal_gets_text(source: Source, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = source(tmp_path, text)
    code, out, err = run(capsys, *command)
    assert code in (0, 2) and "Traceback" not in err
    assert_harmless(out, "stdout")
    assert_harmless(err, "stderr")
    if command[0] == "inspect":
        code, out, _ = run(capsys, *command, "--json")
        assert code == 2 or json.loads(out)
        assert "\x1b" not in out and "\u202e" not in out


@pytest.mark.parametrize("text", HOSTILE)
def test_every_report_holds_text(text: str) -> None:
    verdict = Verdict(text, text, error=f"{text} crashed: {text}", notes=(text,), assumed=(text,))
    assert json.loads(reports.to_json(verdict))["candidate"] == text
    ElementTree.fromstring(reports.to_junit(verdict))
    page = reports.to_html(verdict)
    assert "<script>alert" not in page and "]]><x>" not in page
    for form in (verdict.report(), reports.to_annotations(verdict), verdict.report(verbose=True)):
        assert_harmless(form, "report")
    summary = reports.to_summary(verdict)
    assert "<script>alert" not in summary
    assert_harmless(summary, "summary")
