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
from tests.forms import write_zero2, write_zero3
from tests.oracles.source import SOURCE
from tests.oracles.source import weights as drawn

WHOLE = "mp_rank_00_model_states.pt"
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


@pytest.mark.parametrize(("ranks", "padded", "mmap"), [(1, True, True), (2, False, True), (3, True, False)])
def test_what_was_trained_is_put_together_and_its_copies_are_under_their_key(
    ranks: int, padded: bool, mmap: bool, tmp_path: Path
) -> None:
    path = write_zero2(tmp_path, drawn(), ranks, padded) / WHOLE
    container, copies = open_container(path, mmap), open_container(path, mmap, key="module")
    assert container.form == f"DeepSpeed ZeRO, {ranks} ranks" and len(container.files) == 1 + ranks
    assert container.tensors.keys() == copies.tensors.keys() == {*drawn(), "lm_head.weight"}
    for name, array in (drawn() | {"lm_head.weight": drawn()["wte.weight"]}).items():
        values = container.tensors[name].read()
        assert values.dtype == container.tensors[name].dtype == torch.float32
        np.testing.assert_array_equal(values.numpy(), array, err_msg=name)
        assert torch.equal(copies.tensors[name].read(), values.bfloat16())
    assert container.tensors["lm_head.weight"] is container.tensors["wte.weight"]


def test_without_zero_the_model_is_in_one_file(tmp_path: Path) -> None:
    state = {name: torch.from_numpy(array) for name, array in drawn().items()}
    torch.save({"module": state, "global_steps": 3, "lr_scheduler": None}, tmp_path / WHOLE)
    torch.save({"optimizer_state_dict": {}}, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    container = open_container(locate(tmp_path).weights)
    assert container.tensors.keys() == state.keys()
    assert "copies" not in str(container.notes)


def test_without_one_ranks_float32_values_the_copies_have_to_be_asked_for(tmp_path: Path) -> None:
    write_zero2(tmp_path, drawn(), 2)
    (tmp_path / OPTIMIZER2).unlink()
    with pytest.raises(FormatError, match=r"is of .* ranks; 1 ranks' files are there") as caught:
        open_container(tmp_path / WHOLE)
    assert caught.value.options == {"key": "module"}


def test_copies_alone_are_called_so(tmp_path: Path) -> None:
    write_zero2(tmp_path, drawn(), 2)
    for path in tmp_path.glob("*optim*"):
        path.unlink()
    container = open_container(tmp_path / WHOLE)
    assert container.notes[-1].endswith("the folder has no files of ZeRO with float32 values")
    assert container.tensors["wte.weight"].dtype == torch.bfloat16


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


def halved(groups: list[torch.Tensor]) -> None:
    groups[:] = [each.half() for each in groups]


def cut(groups: list[torch.Tensor]) -> None:
    groups[0] = groups[0][:-9].clone()


def moved(content: Any) -> None:
    """The position embedding is listed before all others."""
    shapes = content["param_shapes"][0]
    content["param_shapes"][0] = {"wpe.weight": shapes["wpe.weight"], **shapes}


OPTIMIZER2 = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
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
    "no groups": (OPTIMIZER, lambda c: c["optimizer_state_dict"].pop("fp32_flat_groups"), "has no fp32_flat_groups"),
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


COPIES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a parameter more": (WHOLE, shapes(more=torch.Size([5, 3])), "'more' .* is in the optimizer, and not in the model"),
    "a parameter less": (WHOLE, lambda c: c["param_shapes"][0].popitem(), "the parameters of a group take"),
    "another shape": (WHOLE, shapes(**{"wpe.weight": (6, 11)}), r"\[6, 11\] is in the optimizer, and not in the model"),
    "a group less": (WHOLE, lambda c: c["param_shapes"].pop(), "does not say which parameters"),
    "no parameters": (WHOLE, lambda c: c.pop("param_shapes"), "does not say which parameters"),
    "no groups": (OPTIMIZER2, lambda c: c["optimizer_state_dict"].clear(), "has no single_partition_of_fp32_groups"),
    "half precision": (
        OPTIMIZER2,
        lambda c: halved(c["optimizer_state_dict"]["single_partition_of_fp32_groups"]),
        "is not in float32",
    ),
    "a group of a few": (
        OPTIMIZER2,
        lambda c: cut(c["optimizer_state_dict"]["single_partition_of_fp32_groups"]),
        "the parameters of a group take",
    ),
    "another number of ranks": (OPTIMIZER2, states(partition_count=[2, 3]), "is of .* ranks; 2 ranks' files"),
}


@pytest.mark.parametrize("what", COPIES)
def test_float32_values_that_do_not_fit_the_model_are_refused(what: str, tmp_path: Path) -> None:
    write_zero2(tmp_path, drawn(), 2)
    name, how, why = COPIES[what]
    change(tmp_path / name, how)
    with pytest.raises(FormatError, match=why) as caught:
        open_container(tmp_path / WHOLE)
    assert caught.value.options == {"key": "module"}
    assert open_container(tmp_path / WHOLE, key="module").tensors["wte.weight"].read().dtype == torch.bfloat16


@pytest.mark.parametrize("how", [moved, lambda content: content["module"]["wpe.weight"].mul_(1.01)])
def test_values_that_are_not_those_of_the_copy_are_refused(how: Callable[[Any], object], tmp_path: Path) -> None:
    """Parameters in another order, and a model that was changed after its last step."""
    write_zero2(tmp_path, drawn(), 2)
    change(tmp_path / WHOLE, how)
    tensors = open_container(tmp_path / WHOLE).tensors
    np.testing.assert_array_equal(tensors["wte.weight"].read().numpy(), drawn()["wte.weight"])
    with pytest.raises(FormatError, match=r"wpe\.weight: .* not those that the model computed with") as caught:
        tensors["wpe.weight"].read()
    assert caught.value.options == {"key": "module"}


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
