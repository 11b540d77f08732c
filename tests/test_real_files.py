"""Models that other people trained do what their authors say, and give the logits of an independent float64 GPT-2.

The files are those of `shared_checkpoints`; every expectation is read from the ``expected.json`` beside them.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gpt2_from_scratch import EXACT, FUSED, TEXTBOOK, CheckpointError, Compute, GPTModel, open_checkpoint, verify

MODELS = (
    "makemore-names-lmj9",
    "makemore-turkish-vkerem0",
    "mingpt-adder2-christianliu",
    "sshleifer-tiny-gpt2",
    "keras-gpt-2-toy",
    "lmbuddy-tiny_gpt2",
    "capp-gpt-onnx",
)
# What these files do not say: the options with which they are opened, and which file of the folder is meant.
SAID = {
    "makemore-nanograd": ("model.pt", {"overrides": {"n_head": 4, "activation_function": "gelu_new"}}),
    "gpt-by-hand-sqtian": ("ckpt.pt", {"overrides": {"n_head": 2, "activation_function": "gelu"}}),
}
# What no option opens as a GPT-2, and how it is called.
REFUSED = {
    "gguf-vocab-only-gpt2": "a vocabulary and no tensors",
    "image-gpt-teddykoker": "of no known layout",
    "lora-gradience": "PEFT adapter",
    "torch-storage-view": "holds a tuple, not a state dict",
}


def expected(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "expected.json").read_text()))


def test_no_file_is_left_out(shared_checkpoints: Path) -> None:
    published = {path.parent.name for path in shared_checkpoints.glob("*/expected.json")}
    assert published == {*MODELS, *SAID, *REFUSED}
    for name in published:
        # The ONNX graph was collected when graphs were not read.
        assert expected(shared_checkpoints / name).get("loads", True) == (name not in (*REFUSED, "capp-gpt-onnx"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_gpt2_is_called_by_its_name(name: str, shared_checkpoints: Path) -> None:
    with pytest.raises(CheckpointError, match=REFUSED[name]):
        open_checkpoint(shared_checkpoints / name)


@pytest.mark.parametrize("name", [*MODELS, *SAID])
@pytest.mark.parametrize("compute", [EXACT, FUSED, TEXTBOOK], ids=["exact", "fused", "textbook"])
def test_logits_of_an_independent_float64_model(name: str, compute: Compute, shared_checkpoints: Path) -> None:
    folder = shared_checkpoints / name
    file, options = SAID.get(name, ("", {}))
    if (table := folder / "byhand_layout.py").exists():
        options = {**options, "file_layout": runpy.run_path(str(table))["LAYOUT"]}
    for dtype, atol in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        # The published digits end at 1e-9; float32 rounding of logits of size 10 through four layers stays below 1e-4.
        model = GPTModel.from_pretrained(folder / file, dtype=dtype, compute=compute, **options)
        for case in expected(folder)["computed"]["cases"]:
            with torch.inference_mode():
                logits = model(torch.tensor([case["input_ids"]]))[0].double()
            published = torch.tensor(case["last_logits_fp64_first8"], dtype=torch.float64)
            torch.testing.assert_close(logits[-1, :8], published, rtol=0, atol=atol)
            assert logits.argmax(-1).tolist() == case["argmax_each"]
            # Sum and norm are over all positions: they bind every logit, not only the eight that are listed.
            assert float(logits.sum()) == pytest.approx(case["logits_sum"], abs=atol * logits.numel())
            assert float(logits.norm()) == pytest.approx(case["logits_l2"], abs=10 * atol)


@pytest.mark.parametrize("name", MODELS[:2])
def test_makemore_gives_its_published_loss(name: str, shared_checkpoints: Path) -> None:
    """Mean negative log-likelihood per character of the held-out names, the end of each included."""
    folder = shared_checkpoints / name
    model, facts = GPTModel.from_pretrained(folder), expected(folder)
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids in facts["test_input_ids"]:
            targets = torch.tensor([*ids[1:], facts["bos_and_stop_token"]])
            total += float(F.cross_entropy(model(torch.tensor([ids]))[0], targets, reduction="sum"))
            count += len(targets)
    assert total / count == pytest.approx(facts["measured_test_nll_token_mean"], abs=1e-6)
    if "Loss/test" in facts["published_log"]:  # the author's own log; he averaged over batches
        assert total / count == pytest.approx(float(facts["published_log"].split()[-1]), abs=1e-3)


# Two have GPT-2's vocabulary and context: five seconds each.
OF_FULL_SIZE = ("sshleifer-tiny-gpt2", "lmbuddy-tiny_gpt2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in OF_FULL_SIZE else ()) for name in MODELS]
)
def test_real_files_are_verified(name: str, shared_checkpoints: Path) -> None:
    model = GPTModel.from_pretrained(shared_checkpoints / name)
    verdict = verify(model, shared_checkpoints / name, "gpt2_from_scratch")
    assert verdict, verdict.report()
