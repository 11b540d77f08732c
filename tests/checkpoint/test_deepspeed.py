"""DeepSpeed's folders, whole and hostile. Those that DeepSpeed itself wrote: `tests/test_oracles.py`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2_from_scratch import CheckpointError, open_checkpoint
from gpt2_from_scratch.checkpoint import locate, open_container
from gpt2_from_scratch.errors import FormatError
from tests.forms import write_zero3
from tests.oracles.source import SOURCE
from tests.oracles.source import weights as drawn

MODEL, OPTIMIZER = (f"zero_pp_rank_{{}}_mp_rank_00_{kind}_states.pt" for kind in ("model", "optim"))


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """The folder of one step."""
    (tmp_path / "global_step7").mkdir()
    return write_zero3(tmp_path / "global_step7", drawn(), ranks=3, frozen=("wpe.weight",))


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_parts_of_ranks_are_joined_across_groups(ranks: int, groups: int, tmp_path: Path) -> None:
    """Most parameters do not divide by the ranks, and most groups end inside a parameter."""
    write_zero3(tmp_path, drawn(), ranks, groups, frozen=("h.3.mlp.c_fc.bias", "wpe.weight"))
    for mmap in (True, False):
        container = open_container(tmp_path / MODEL.format(0), mmap)
        assert container.form == f"DeepSpeed ZeRO-3, {ranks} ranks"
        assert container.tensors.keys() == {*drawn(), "lm_head.weight"}
        for name, array in drawn().items():
            np.testing.assert_array_equal(container.tensors[name].read().numpy(), array, err_msg=name)


def test_the_file_latest_leads_to_the_step(step: Path) -> None:
    run = step.parent
    (run / "latest").write_text("global_step7\n")
    shutil.copy(SOURCE / "config.json", run)
    checkpoint = open_checkpoint(run)
    assert checkpoint.config.n_head == json.loads((SOURCE / "config.json").read_text())["n_head"]
    assert open_container(step / OPTIMIZER.format(2)).tensors.keys() == checkpoint.container.tensors.keys()
    for tag in ("../global_step7", str(step), "..", ""):
        (run / "latest").write_text(tag)
        with pytest.raises(CheckpointError):
            locate(run)


def test_without_zero_the_model_is_in_one_file(tmp_path: Path) -> None:
    state = {name: torch.from_numpy(array) for name, array in drawn().items()}
    torch.save({"module": state, "global_steps": 3, "lr_scheduler": None}, tmp_path / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    container = open_container(locate(tmp_path).weights)
    assert container.tensors.keys() == state.keys() and "float32 copies" in container.notes[-1]


@pytest.mark.parametrize("name", ["pytorch_model_fsdp_0", "pytorch_model"])
def test_folders_of_accelerate_are_opened(name: str, tmp_path: Path) -> None:
    """FSDP's part is a folder of torch.distributed.checkpoint; DeepSpeed's is named by `latest`."""
    folder = tmp_path / name
    folder.mkdir()
    for beside in ("optimizer.bin", "scheduler.bin", "sampler_1.bin", "random_states_0.pkl"):
        (tmp_path / beside).write_bytes(b"something else")
    if name == "pytorch_model":
        (tmp_path / "latest").write_text(name)
        expected = write_zero3(folder, drawn(), 2) / MODEL.format(0)
    else:
        expected = folder / ".metadata"
        expected.write_bytes(b"\x80\x04N.")
    assert locate(tmp_path).weights == expected


# ------------------------------------------------------------------------------------------------------------ hostile


def change(path: Path, how: Callable[[Any], object]) -> None:
    content = torch.load(path)
    how(content)
    torch.save(content, path)


def shapes(**others: object) -> Callable[[Any], object]:
    return lambda content: content["param_shapes"][0].update(others)


def states(**others: object) -> Callable[[Any], object]:
    return lambda content: content["optimizer_state_dict"].update(others)


HOSTILE: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a parameter more": (MODEL, shapes(more=torch.Size([5, 3])), "its parameters take"),
    "a parameter less": (MODEL, lambda c: c["param_shapes"][0].popitem(), "its parameters take"),
    "a parameter of any size": (MODEL, shapes(more=torch.Size([2**40])), "its parameters take"),
    "a negative size": (MODEL, shapes(more=(-5,)), "has the shape"),
    "no shape": (MODEL, shapes(more=7), "has the shape"),
    "no name": (MODEL, lambda c: c["param_shapes"][0].update({7: (0,)}), "no name"),
    "an unprintable name": (MODEL, shapes(**{"\x1b[2J": (0,)}), "unprintable name"),
    "a parameter twice": (MODEL, lambda c: c["param_shapes"].append({"wte.weight": (0,)}), "is there twice"),
    "no parameters": (MODEL, lambda c: c.pop("param_shapes"), "does not say which parameters"),
    "a frozen parameter of another size": (
        MODEL,
        lambda c: c["frozen_param_shapes"].update({"wpe.weight": (99, 6)}),
        "the parts of wpe.weight are not 198 values",
    ),
    "no groups": (OPTIMIZER, lambda c: c["optimizer_state_dict"].pop("fp32_flat_groups"), "no flat groups"),
    "groups that are no vectors": (OPTIMIZER, states(fp32_flat_groups=[torch.ones(2, 2)]), "no vectors"),
    "several groups of ranks": (OPTIMIZER, states(ds_zero_partition_groups=[[0]]), "several groups of ranks"),
    "another number of ranks": (OPTIMIZER, states(partition_count=4), "is of 4 ranks"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_does_not_fit_together_is_refused(what: str, step: Path) -> None:
    name, how, why = HOSTILE[what]
    change(step / name.format(0), how)
    with pytest.raises(FormatError, match=why):
        open_container(step / MODEL.format(0))


def test_a_rank_of_other_sizes_is_refused(step: Path) -> None:
    change(step / OPTIMIZER.format(1), lambda c: c["optimizer_state_dict"]["fp32_flat_groups"].append(torch.ones(3)))
    with pytest.raises(FormatError, match="the flat groups of rank 1 are of other sizes"):
        open_container(step / MODEL.format(0))


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (OPTIMIZER.format(1), r"the ranks \[0, 2\] only"),
        (OPTIMIZER.format(2), "is of 3 ranks; 2 ranks' files"),
        (MODEL.format(2), "is not there"),
        (MODEL.format(0), "which hold the model"),
    ],
)
def test_a_file_that_is_missing_is_named(missing: str, why: str, step: Path) -> None:
    (step / missing).unlink()
    with pytest.raises(FormatError, match=why):
        open_container(step / OPTIMIZER.format(0))


def test_parts_of_tensor_parallel_ranks_are_refused(step: Path) -> None:
    (step / "mp_rank_01_model_states.pt").write_bytes(b"PK\3\4")
    with pytest.raises(FormatError, match="tensor parallelism"):
        open_container(step / MODEL.format(0))
