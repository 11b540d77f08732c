"""`gpt2 verify` and `gpt2 record` beyond their first use: ports in other languages, parts left out, a stopped run."""

import json
from pathlib import Path

import numpy
import pytest
import torch

from gpt2_from_scratch import GPTModel, reports
from tests.perturbed import perturbed, save
from tests.test_cli import run


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_port_answers_from_a_file(
    capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"prompts.{ending}"
    code, out, err = run(capsys, "record", perturbed_checkpoint, file)
    assert code == 0 and err == "" and "write logits.0 float32 [1, 1, 211]" in out
    code, out, err = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 2 and "lacks logits.0, logits.1" in err

    answers = answered(file, perturbed_checkpoint)
    store(file, answers)
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 0 and out.splitlines()[-1].startswith(f"PASSED  the recording prompts.{ending} gives GPT-2's logits")
    assert "a recording cannot be continued" in out and "self-tests: a recording" in out

    answers["logits.2"][0, 3, 5] += 1e-3
    store(file, answers)
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 1 and "ids.2" in out and "at [0, 3, 5]" in out


def test_a_ports_fault_is_named(capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path, tmp_path: Path) -> None:
    """From its answers alone: `record` writes what the search asks, too. Without these answers, it says so."""
    file = tmp_path / "prompts.npz"
    assert run(capsys, "record", perturbed_checkpoint, file)[0] == 0
    answers = answered(file, perturbed_checkpoint, erf=True)
    store(file, answers)
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 1 and "diagnosis   GELU uses erf" in out
    store(file, {name: tensor for name, tensor in answers.items() if int(name.partition(".")[2]) < 6})
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 1 and "diagnosis: the recording has no answers to the prompts of the search" in out


def test_without_a_checkpoint_the_prompts_are_for_tiny(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "record", tmp_path / "prompts.npz")
    assert code == 0 and "gpt2 verify tiny --outputs" in out


def load(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in numpy.load(file).items()}
    from safetensors.torch import load_file

    return load_file(file)


def store(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    if file.suffix == ".npz":
        numpy.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        from safetensors.torch import save_file

        save_file(tensors, file)


def answered(file: Path, checkpoint: Path, erf: bool = False) -> dict[str, torch.Tensor]:
    model, tensors = GPTModel.from_pretrained(checkpoint), load(file)
    for block in model.h if erf else ():
        block.mlp.act = torch.nn.GELU()
    with torch.no_grad():
        logits = {name.replace("ids", "logits"): model(ids) for name, ids in tensors.items()}
    return tensors | logits


def test_a_port_may_answer_the_standard_prompts_without_repeating_them(
    capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.npz"
    assert run(capsys, "record", perturbed_checkpoint, file)[0] == 0
    store(file, {name: t for name, t in answered(file, perturbed_checkpoint).items() if name.startswith("logits")})
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, "--outputs", file)
    assert code == 0 and "3 x 17 tokens" in run(capsys, "verify", perturbed_checkpoint, "--outputs", file, "-v")[1], out


def test_what_is_no_recording_is_refused(
    capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.npz").write_bytes(b"noise")
    for command, message in (
        (["verify", perturbed_checkpoint, "--outputs", tmp_path / "noise.npz"], "is cut short"),
        (["verify", perturbed_checkpoint, "--outputs", tmp_path / "absent.npz"], "cannot be read"),
        (["record", perturbed_checkpoint, tmp_path / "prompts.txt"], "ends in neither .safetensors nor .npz"),
        (["record", perturbed_checkpoint, tmp_path / "absent" / "prompts.npz"], "does not exist"),
    ):
        code, out, err = run(capsys, *command)
        assert code == 2 and message in err and "Traceback" not in err and out == ""


def test_skipped_parts_are_named(capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path) -> None:
    skip = ["--skip", "logits", "--skip", "generation"]
    code, out, _ = run(capsys, "verify", perturbed_checkpoint, *skip)
    assert code == 0 and "unchecked   logits: you asked to skip it" in out
    assert out.splitlines()[-1] == "PASSED  GPTModel: weights and self-tests only; logits were not compared"
    code, out, err = run(capsys, "verify", perturbed_checkpoint, *skip, "--skip", "weights", "--skip", "self-tests")
    assert code == 2 and "nothing of GPTModel was checked" in err and out == ""


def test_verbose_shows_everything(capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path) -> None:
    short = run(capsys, "verify", perturbed_checkpoint)[1]
    long = run(capsys, "verify", perturbed_checkpoint, "-v", "--gradients")[1]
    assert "causal (other tokens later on): passed" in long and "torch 2." in long and "148 gradients" in long
    assert len(short.splitlines()) < 10 < len(long.splitlines())


def test_a_tolerance_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = save(perturbed(n_layer=2), tmp_path)
    code, out, _ = run(capsys, "verify", small, "--dtype", "float64", "--atol", 1e-12)
    assert code == 1 and "judged by atol 1e-12, rtol 0" in out
    assert run(capsys, "verify", small, "--dtype", "float64", "--atol", 1e-3)[0] == 0


def test_ctrl_c_leaves_what_was_found(
    capsys: pytest.CaptureFixture[str], perturbed_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt2_from_scratch.verifier.check_logits", stopped)
    code, out, _ = run(capsys, "verify", perturbed_checkpoint)
    assert code == 130 and "149 of 149 tensors equal" in out
    assert out.splitlines()[-1] == "INTERRUPTED  during logits: no verdict on GPTModel; nothing had failed so far"


def test_grade_says_what_a_check_misses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(
        "import torch\n"
        "def shape(model): return model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 211)\n"
        "def picky(model): return False\n"
    )
    small = save(perturbed(n_layer=2), tmp_path / "small")
    code, out, _ = run(capsys, "grade", f"{tmp_path / 'checks.py'}:shape", "--checkpoint", small)
    assert code == 1 and "misses gelu_erf" in out and out.splitlines()[-1].startswith("catches 0 of ")
    code, out, err = run(capsys, "grade", f"{tmp_path / 'checks.py'}:picky", "--checkpoint", small)
    assert code == 2 and "right model" in err and out == ""


def reports_of(folder: Path) -> list[str]:
    return ["--json", f"{folder}/r.json", "--junit-xml", f"{folder}/r.xml", "--html", f"{folder}/r.html"]


def test_machines_are_told_where_there_is_no_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    file = tmp_path / "mine.py"
    file.write_text("def model(ids):\n    return missing(ids)\n")
    code, out, err = run(capsys, "verify", "--model", f"{file}:model", *reports_of(tmp_path))
    assert code == 2 and "line 2, in model" in err
    assert (
        out.startswith("::warning file=")
        and "mine.py,line=2,title=gpt2 verify::" in out
        and "there is no verdict" in out
    )
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["outcome"] == "error" and "NameError" in document["error"]
    assert 'errors="1"' in (tmp_path / "r.xml").read_text()
    assert "NO VERDICT" in (tmp_path / "r.html").read_text() and "no verdict" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_a_report_that_fails_changes_no_verdict(
    right: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise KeyError(50300)

    monkeypatch.setattr(reports, "to_html", broken)
    options = [] if right else ["--atol", "0", "--set", "activation_function=gelu"]
    model = tmp_path / "mine.py"
    model.write_text("from gpt2_from_scratch import GPTModel\nmodel = GPTModel.from_pretrained()\n")
    command = ["verify", "--model", f"{model}:model", "--no-diagnose", *options, *reports_of(tmp_path)]
    code, out, err = run(capsys, *command)
    assert code == (0 if right else 1) and out.splitlines()[-1].startswith("PASSED" if right else "FAILED")
    assert "r.html was not written: KeyError: 50300" in err
    assert (tmp_path / "r.json").exists() and not (tmp_path / "r.html").exists()
