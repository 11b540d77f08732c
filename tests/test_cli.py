"""The command line as a user meets it: exit codes, streams, words. Run in this process; a few in a real one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2_from_scratch.cli import main
from gpt2_from_scratch.loading import TINY
from tests.perturbed import perturbed, save

BOOK = Path(__file__).parent / "foreign" / "book.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_verify_ends_with_passed(capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path) -> None:
    code, out, err = run(capsys, "verify", perturbed_checkpoint)
    assert code == 0 and out.splitlines()[-1].startswith("PASSED") and err == ""
    assert "149 of 149 tensors equal" in out and "tokens: identical\n" in out


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """A file that wraps the foreign book model for any configuration; `Wrong` has the wrong GELU."""
    file = tmp_path / "candidate.py"
    file.write_text(
        f"import sys; sys.path.insert(0, {str(BOOK.parents[2])!r})\n"
        "import torch\n"
        "from tests.foreign import book\n"
        "def build(config):\n"
        "    return book.GPTModel({'vocab_size': config.vocab_size, 'context_length': config.n_positions,\n"
        "        'emb_dim': config.n_embd, 'n_heads': config.n_head, 'n_layers': config.n_layer,\n"
        "        'drop_rate': 0.1, 'qkv_bias': True})\n"
        "def wrong(config):\n"
        "    model = build(config)\n"
        "    for block in model.trf_blocks:\n"
        "        block.ff.layers[1] = torch.nn.GELU()\n"
        "    return model\n"
        "def crash(ids): raise RuntimeError('out of cheese')\n"
    )
    return file


def test_your_model_passes_or_fails(capsys: pytest.CaptureFixture[str], candidate: Path, tmp_path: Path) -> None:
    small = save(perturbed(n_layer=2, n_inner=None), tmp_path / "small")
    command = ("verify", small, "--layout", "llms_from_scratch", "--model")
    code, out, _ = run(capsys, *command, f"{candidate}:build()")
    assert code == 0 and out.splitlines()[-1].startswith("PASSED  GPTModel gives GPT-2's logits with the weights of")
    code, out, _ = run(capsys, *command, f"{candidate}:wrong()")
    assert code == 1 and out.splitlines()[-1].startswith("FAILED")
    assert "first divergence at trf_blocks.0.ff.layers.1 (h.0.mlp.act)" in out or re.search(
        r"^  line  .*\.py:\d+", out, re.M
    )
    assert "erf" in out


def test_could_not_check_is_neither(capsys: pytest.CaptureFixture[str], candidate: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "model"
    for arguments, message in (
        (["verify", nowhere], "does not exist"),
        (["verify", "--model", f"{candidate}:crash"], "out of cheese"),
        (["verify", "--model", f"{candidate}:absent"], "has no 'absent'"),
        (["verify", "--layout", "nanogpt"], "--file-layout"),
        (["verify", "--model", f"{candidate}:build()", "--layout", "gpt3"], "there is no layout 'gpt3'"),
        (["inspect", nowhere], "does not exist"),
    ):
        code, out, err = run(capsys, *arguments)
        assert code == 2 and message in err and "Traceback" not in err
        assert "PASSED" not in out and "FAILED" not in out


def test_a_crash_of_our_own_does_not_look_like_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own exit code for a traceback is 1, which would read as "diverged"."""
    monkeypatch.setattr("gpt2_from_scratch.cli.commands.inspect", lambda arguments: {}["gone"])
    code, _, err = run(capsys, "inspect")
    assert code == 2 and "unexpected error" in err and "KeyError" in err


def test_wrong_usage_exits_2() -> None:
    with pytest.raises(SystemExit) as exit:
        main(["verify", "--dtype", "float31"])
    assert exit.value.code == 2


def test_nan_in_a_file_fails_with_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save(perturbed(n_layer=3), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.2.mlp.c_fc.bias"][1] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    code, out, err = run(capsys, "verify", tmp_path, "--no-diagnose")
    assert code == 2 and not out and "GPT-2's own logits are NaN" in err and "`gpt2 inspect` names the weights" in err
    code, out, _ = run(capsys, "inspect", tmp_path)
    assert code == 0 and "h.2.mlp.c_fc.bias" in out


def test_generate_prints_the_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "Once upon a time", "--max-new-tokens", 20]
    code, out, err = run(capsys, *arguments)
    assert code == 0 and out.startswith("Once upon a time") and len(out.split()) > 8 and err == ""
    assert run(capsys, *arguments)[1] == out, "greedy"
    sampled = [run(capsys, *arguments, "--temperature", 1.5, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_generate_says_when_the_context_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    n_positions = json.loads((TINY / "config.json").read_text())["n_positions"]
    code, out, err = run(capsys, "generate", "Once", "--max-new-tokens", n_positions + 1)
    assert code == 2 and str(n_positions) in err and out == ""


def test_inspect_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect")
    assert code == 0
    for fact in ("safetensors", "huggingface", "float32", "12 layers", "gelu_new", "vocab.json"):
        assert re.search(fact, out), fact


def test_script_and_command_are_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    script = str(Path(__file__).parents[1] / "scripts" / "generate.py")
    arguments = ["The", "--max-new-tokens", "3"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    assert run(capsys, "generate", *arguments) == (0, done.stdout, "")
    assert done.stdout


REPORT = """  line        my.py:3  x = self.norm(x) + 1
              this is twice the output of block 0; in GPT-2 the factor is 1
                  passed on here: my.py:4  return self.norm(x + 1) * 3 + 4 + 5
              -        scores = q @ k.transpose(-2, -1) / C**0.5 and so on beyond the edge
FAILED  GPT differs from GPT-2 with the weights of the model: logits: 8.1e5 noise floors (threshold 4)"""


def test_on_a_terminal_lines_fit_and_the_verdict_has_a_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2_from_scratch.cli.terminal import for_terminal

    assert for_terminal(REPORT) == REPORT, "a pipe gets every line as it is"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = for_terminal(REPORT).splitlines()
    assert lines[1:3] == [
        "              this is twice the output of block 0; in GPT-2",
        "              the factor is 1",
    ]
    assert lines[3:5] == [
        "                  passed on here: my.py:4  return",
        "                    self.norm(x + 1) * 3 + 4 + 5",
    ]
    assert lines[5].endswith("\x1b[31m" + REPORT.splitlines()[3].strip() + "\x1b[0m"), "a patch's rows are not broken"
    assert lines[6].startswith("\x1b[1;31mFAILED\x1b[0m  GPT differs from")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in for_terminal(REPORT)
    assert " ".join(for_terminal(REPORT).split()) == " ".join(REPORT.split()), "no word is lost"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_no_error(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert main(["inspect", "tiny", "--quick"]) == 0
    getattr(sys, stream).close()


def test_an_interrupt_while_the_child_is_started_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    monkeypatch.setattr(sys, "argv", ["gpt2", "verify", "mine.py:GPT"])
    assert main() == 130
    assert capsys.readouterr().err == "gpt2: interrupted\n"


def test_what_went_wrong_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("record", "gone.pt", "prompts.npz")
    code, _, piped = run(capsys, *words)
    assert code == 2 and max(map(len, piped.splitlines())) > 50
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    code, _, shown = run(capsys, *words)
    assert code == 2 and max(map(len, shown.splitlines())) <= 50
    assert shown.split() == piped.split(), "no word is lost"
