"""What no file says about a model is called assumed in every output of `verify`."""

import json
from pathlib import Path

import pytest

from gpt2_from_scratch.converting import convert
from tests.test_cli import run

ASSUMED = "activation_function gelu (nanoGPT's since May 2023; in older ones, and in minGPT, it is gelu_new)"


@pytest.fixture
def unsaid(tmp_path: Path) -> Path:
    """The built-in model as nanoGPT saves it: it is gelu_new, and the file does not say so."""
    path = convert("tiny", tmp_path / "ckpt.pt", "nanogpt").destination
    (tmp_path / "config.json").unlink()
    return path


def test_every_report_of_a_verdict_names_what_is_assumed(
    unsaid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {kind: tmp_path / f"verdict.{kind}" for kind in ("json", "html", "junit-xml")}
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    options = [part for kind, path in written.items() for part in (f"--{kind}", path)]
    code, out, _ = run(capsys, "verify", unsaid, "--skip", "generation", *options)
    assert code == 0
    assert f"  assumed     {ASSUMED}: no file says it" in out
    assert json.loads(written["json"].read_text())["assumed"][0] == ASSUMED
    for text in (written["html"].read_text(), written["junit-xml"].read_text(), (tmp_path / "summary.md").read_text()):
        assert "ssumed" in text and "gelu (nanoGPT" in text.replace("&#95;", "_").replace("&#39;", "'")


def test_what_the_user_says_is_not_assumed(unsaid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--set", "activation_function=gelu_new", "--set", "layer_norm_epsilon=1e-5"]
    code, out, _ = run(capsys, "verify", unsaid, "--skip", "generation", *said)
    assert code == 0 and "assumed" not in out


def test_when_right_code_and_an_assumption_disagree_the_assumption_is_a_suspect(
    unsaid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "mine.py"
    code.write_text("from gpt2_from_scratch import GPTModel\nmodel = GPTModel.from_pretrained()\n")
    layout = ["--layout", "gpt2_from_scratch"]
    exit_code, out, _ = run(capsys, "verify", unsaid, "--model", f"{code}:model", *layout, "--no-diagnose")
    assert exit_code == 1
    assert "one of these may be wrong: say them (activation_function, layer_norm_epsilon) with --set NAME=VALUE" in out
