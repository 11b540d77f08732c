"""A notebook, run by Jupyter's own kernel: what it shows is short, and a wrong model's line is in it."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.test_readme import RIGHT, ROOT, WRONG

LOAD = """
from gpt2_from_scratch import load_into, verify
model = GPT(vocab_size=512, context=256, d_model=64, n_heads=4, n_layers=12)
load_into(model, "tiny")
"""
GUILTY = "scores = q @ k.transpose(-2, -1) / C**0.5"


@pytest.mark.slow
def test_a_notebook_shows_the_line_of_a_wrong_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = (ROOT / "tests" / "readme" / "my_gpt.py").read_text()
    wrong = right.replace(RIGHT, WRONG)
    (tmp_path / "my_gpt.py").write_text(wrong)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    cells = [
        f"from my_gpt import GPT\n{LOAD}",
        "verify(model, 'tiny')",
        f"{right}\n{LOAD}",  # a class of the notebook's own
        "report = verify(model, 'tiny')\nreport",
        f"{wrong}\n{LOAD}\nreport = verify(model, 'tiny')\nreport",
        "print(report)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    kinds = [
        [(output.output_type, output.get("name"), str(output.get("text"))[:200]) for output in each] for each in outputs
    ]
    assert all(len(each) == 1 for each in outputs), kinds
    shown = [each[0].get("data", {}) for each in outputs]
    plain = [each[0].get("text", data.get("text/plain")) for each, data in zip(outputs, shown, strict=True)]
    assert max(len(text.splitlines()) for text in plain) < 60 and max(map(len, plain[:5])) < 200
    assert plain[0].startswith("<LoadReport: tiny: ")
    file, own, fragment = (shown[index]["text/html"] for index in (1, 3, 4))
    assert "<strong>FAILED</strong>" in file and "my_gpt.py:15" in file and GUILTY in file
    assert "<strong>PASSED</strong>" in own
    assert "<strong>FAILED</strong>" in fragment and GUILTY in fragment
    assert plain[5].splitlines()[-1].startswith("FAILED") and GUILTY in plain[5]
