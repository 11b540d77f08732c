"""`scripts/bench.py` measures what it says: every subcommand runs, and nobody is timed who computes something else.

On the model inside the package, and between contenders that start quickly: what the numbers are does not matter here.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a quarter of a minute of CPU each

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench.py"
QUICK = ["--sizes", "tiny", "--runs", "1", "--threads", "1", "--contenders", "ours", "bare torch"]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *map(str, arguments)], capture_output=True, text=True)


def measured(*arguments: object) -> Any:
    """What the last line of stdout says of the model inside the package."""
    run = bench(*arguments)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])["medians"]["tiny"]


def test_decode_says_how_fast_and_how_it_grows():
    found = measured("decode", *QUICK, "--contexts", 8, 64, "--new", 3, "--dtypes", "float32", "bfloat16")
    assert found["rows"].keys() == {"ours", "ours, bfloat16", "bare torch", "bare torch, bfloat16"}
    ours = found["rows"]["ours"]
    assert 0 < ours["share"] < 1, "faster than memory can be read"
    assert ours["intercept"] + (64 + 1) * ours["slope"] == pytest.approx(found["seconds by context"]["64"]["ours"])


def test_a_contender_that_computes_something_else_is_refused():
    found = measured("prefill", *QUICK, "bare torch, erf GELU", "--lengths", 4)
    assert found["rows by length"]["4"].keys() == {"ours", "bare torch"}
    assert "computes something else: its logits differ by" in found["left out"]["bare torch, erf GELU"]


def test_batch_counts_the_tokens_of_all_texts():
    found = measured("batch", *QUICK, "--batches", 1, 3, "--new", 3)
    row = found["rows by batch"]["3"]["bare torch"]
    assert row["tokens/s"] == pytest.approx(3 / row["seconds"])


def test_diagnose_counts_what_is_named():
    run = bench("diagnose", "--sizes", "tiny", "--threads", 1, "--faults", "gelu_erf", "qk_swapped")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])["medians"]["tiny"]
    assert found["rows"].keys() == {"gelu_erf", "qk_swapped"} and (found["named"], found["wrong"]) == (2, 0)


def test_own_code_says_what_a_line_and_a_layout_cost():
    found = measured("own-code", "--sizes", "tiny", "--runs", 1, "--threads", 1)
    assert found.keys() == {"diagnosis", "map"}
    assert all(row["proven"] and row["passes"] > 1 and row["peak"] > 1e8 for row in found.values())


def test_first_token_and_memory_start_from_nothing(tmp_path: Path):
    first, memory = tmp_path / "first.jsonl", tmp_path / "memory.jsonl"
    assert measured("first-token", *QUICK, "--save", first)["rows"]["ours"]["seconds"] > 0.1, "torch was not imported"
    found = measured("memory", *QUICK, "--new", 2, "--save", memory)
    assert found["rows"]["ours"]["peak"] > found["rows"]["ours"]["anonymous"]

    results, readme = tmp_path / "results.jsonl", tmp_path / "README.md"
    results.write_text(first.read_text() + memory.read_text())
    readme.write_text("before\n")
    run = bench("readme", results, "--readme", readme)
    assert run.returncode == 1
    marks = run.stderr.splitlines()[-2:]
    readme.write_text("\n".join(["before", marks[0], "stale", marks[1], "after", ""]))
    assert bench("readme", results, "--readme", readme).returncode == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{marks[0]}\n")
    assert text.endswith(f"{marks[1]}\nafter\n")
    assert "| cold process to first token |" in text
    assert "stale" not in text

    document = json.loads(memory.read_text())
    document["environment"]["threads"] = 97
    results.write_text(first.read_text() + json.dumps(document) + "\n")
    assert "different environments, {'threads': (1, 97)}" in bench("readme", results, "--readme", readme).stderr


def test_a_verdict_is_measured_against_the_tokens_of_its_prompts():
    run = bench("verify", "--sizes", "tiny", "--runs", "1", "--threads", "1", "--tokens", "128", "512")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])["medians"]["tiny"]["growth"]
    assert found["intercept"] + 512 * found["slope"] == pytest.approx(found["512"])
    assert "verify tiny against the tokens of its prompts" in run.stdout
