"""`gpt2 generate` as a small text tool: where the prompt comes from, what is printed, and how it ends."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2_from_scratch.cli import main
from gpt2_from_scratch.generation import Decoding, stream_text
from gpt2_from_scratch.loading import TINY
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.tokenizer import Tokenizer, load_tokenizer

PROMPT = "Once upon a time"
DRAWN = ("--temperature", "1", "--seed", "5")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["generate", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def continued(tokenizer: Tokenizer) -> str:
    return "".join(stream_text(GPTModel.from_pretrained(TINY), tokenizer, PROMPT, 12))


@pytest.fixture
def without_tokenizer(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, tmp_path)
    return tmp_path


class Pipe(io.StringIO):
    def isatty(self) -> bool:
        return False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("arguments", [("-",), ()], ids=["-", "pipe"])
def test_the_prompt_is_read_from_stdin(
    arguments: tuple[str, ...], continued: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(f"{PROMPT}\n"))
    assert run(capsys, *arguments, "--max-new-tokens", 12) == (0, f"{PROMPT}{continued}\n", "")


def test_a_prompt_goes_before_stdin(
    continued: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe("something else"))
    assert run(capsys, PROMPT, "--max-new-tokens", 12) == (0, f"{PROMPT}{continued}\n", "")


def test_nothing_at_a_terminal_is_no_prompt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "there is no prompt: give a text, - or a pipe for stdin, or --ids 5,3,1" in err


def test_ids_are_continued_as_text_where_there_is_a_tokenizer(
    tokenizer: Tokenizer, continued: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ",".join(map(str, tokenizer.encode(PROMPT)))
    assert run(capsys, "--ids", ids, "--max-new-tokens", 12) == (0, f"{PROMPT}{continued}\n", "")


def test_ids_are_continued_as_ids_where_there_is_none(
    tokenizer: Tokenizer, continued: str, without_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tokenizer.encode(PROMPT)
    code, out, err = run(
        capsys, "--ids", ",".join(map(str, ids)), "--max-new-tokens", 12, "--checkpoint", without_tokenizer
    )
    assert (code, err) == (0, "")
    found = [int(part) for part in out.split(",")]
    assert found[: len(ids)] == ids
    assert tokenizer.decode(found[len(ids) :]) == continued
    for needs_text in ((PROMPT,), ("--ids", "1,2", "--stop", ".")):
        code, out, err = run(capsys, *needs_text, "--checkpoint", without_tokenizer)
        assert (code, out) == (2, "")
        assert "has no tokenizer files" in err


def test_an_error_on_the_way_stands_on_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(TINY / "config.json", tmp_path)
    tensors = load_file(TINY / "model.safetensors")
    save_file({**tensors, "transformer.ln_f.bias": torch.full((64,), torch.nan)}, tmp_path / "model.safetensors")
    code, out, err = run(capsys, "--ids", "5,3", "--checkpoint", tmp_path)
    assert (code, out) == (2, "5,3\n") and err.startswith("gpt2: the logits of token 2 are NaN or infinite")


def test_samples_differ_and_their_seeds_repeat_them(capsys: pytest.CaptureFixture[str]) -> None:
    single = [run(capsys, PROMPT, "--max-new-tokens", 8, "--temperature", 1, "--seed", seed)[1] for seed in (5, 6, 7)]
    assert len(set(single)) == 3
    together = run(capsys, PROMPT, "--max-new-tokens", 8, *DRAWN, "--num-samples", 3)
    assert together == (0, "\n".join(single), "")


def test_the_text_ends_before_a_stop_text(continued: str, capsys: pytest.CaptureFixture[str]) -> None:
    word = continued.split()[2]
    code, out, _ = run(capsys, PROMPT, "--max-new-tokens", 12, "--stop", "xyz", "--stop", word)
    assert (code, out) == (0, f"{PROMPT}{continued[: continued.index(word)]}\n")


def test_json_says_everything(tokenizer: Tokenizer, continued: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, PROMPT, "--max-new-tokens", 12, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["prompt"] == PROMPT
    assert said["prompt_ids"] == tokenizer.encode(PROMPT)
    assert [(sample["text"], sample["ended_by"]) for sample in said["samples"]] == [(continued, "max_new_tokens")]
    assert tokenizer.decode(said["samples"][0]["ids"]) == continued

    word = continued.split()[2]
    said = json.loads(run(capsys, PROMPT, "--max-new-tokens", 12, "--json", "--stop", word)[1])
    (sample,) = said["samples"]
    assert (sample["text"], sample["ended_by"]) == (continued[: continued.index(word)], "stop")
    assert len(sample["ids"]) < 12
    said = json.loads(run(capsys, PROMPT, "--json", "--max-new-tokens", 200, *DRAWN, "--num-samples", 2)[1])
    assert [sample["ended_by"] for sample in said["samples"]] == ["end of text"] * 2
    assert all("<|endoftext|>" not in sample["text"] for sample in said["samples"])


def test_the_penalty_is_that_of_the_library(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    decoding = Decoding(repetition_penalty=1.8)
    expected = "".join(stream_text(GPTModel.from_pretrained(TINY), tokenizer, PROMPT, 20, decoding))
    code, out, _ = run(capsys, PROMPT, "--max-new-tokens", 20, "--repetition-penalty", 1.8)
    assert (code, out) == (0, f"{PROMPT}{expected}\n")


def test_what_generation_config_asks_for_in_vain_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 511, "no_repeat_ngram_size": 2}')
    code, _, err = run(capsys, PROMPT, "--max-new-tokens", 2, "--checkpoint", tmp_path)
    assert (code, err) == (
        0,
        "gpt2: note: generation_config.json asks for what is not followed here: no_repeat_ngram_size=2\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROMPT, "--device", "foo"), "--device 'foo' is none that PyTorch knows: cpu, cuda"),
        ((PROMPT, "--device", "meta"), "--device meta cannot be used here: "),
        ((PROMPT, "--ids", "1,2"), "a prompt and --ids are two beginnings: give one of them"),
        ((PROMPT, "--num-samples", "2"), "without --temperature all samples are the same text"),
        ((PROMPT, "--num-samples", "0", *DRAWN), "--num-samples is 0; it must be at least 1"),
        ((PROMPT, "--stop", ""), "--stop is empty: every text would end at once"),
        ((PROMPT, "--top-k", "5"), "top_k is 5, but at temperature 0 nothing is drawn"),
        ((PROMPT, "--repetition-penalty", "0"), "repetition_penalty is 0.0; it must be above 0"),
        ((PROMPT, "--temperature", "1", "--seed", str(2**70)), f"seed is {2**70}; PyTorch takes 64 bits"),
        (("--ids", "1,512"), f"{TINY / 'vocab.json'} has no token with id 512; its ids end at 511"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "\n" not in err.rstrip("\n").replace("\n  hint:", "")
    assert err.startswith(f"gpt2: {message}")


@pytest.mark.parametrize("ids", ["", "1,,2", "a"])
def test_ids_are_numbers(ids: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "--ids", ids])
    assert exit_.value.code == 2
    assert "is not a list of token ids, as 5,3,1" in capsys.readouterr().err


def test_cuda_where_there_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    code, out, err = run(capsys, PROMPT, "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.startswith("gpt2: --device cuda cannot be used here: ") and err.count("\n") == 1


def test_a_terminal_that_lacks_a_character_goes_on() -> None:
    command = [sys.executable, "-m", "gpt2_from_scratch", "generate", "né", "--max-new-tokens", "2"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("n?")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX shell")
def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m gpt2_from_scratch generate Once | head -c 1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("O141\n", "")
