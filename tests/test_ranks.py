"""Models on several ranks: sharded parameters in one process, and whole verifications under torchrun, on gloo."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from gpt2_from_scratch import GPTModel
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.weights import check_weights, fit
from gpt2_from_scratch.errors import FormatError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import load_into, open_checkpoint
from gpt2_from_scratch.ranks import Alone, is_sharded, local, own_part, without_fsdp
from tests.perturbed import perturbed, save

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "tests" / "on_ranks.py"
PATIENCE = 400.0  # seconds until processes that hang are given up; the slowest measured, on a busy machine: 90
slow = pytest.mark.slow  # five processes that import torch, three that import more

# --------------------------------------------------------------------------------------- one process, as one of several


@pytest.fixture
def as_rank() -> Iterator[object]:
    """Makes this process one rank of several, of which the others do not exist: nothing can be sent, only divided."""

    def join(rank: int, size: int) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)

    yield join
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("shape", "mesh", "placements"),
    [
        ((11, 6), (4,), [Shard(0)]),  # 3, 3, 3 and 2 rows
        ((3, 6), (4,), [Shard(0)]),  # the last rank has none
        ((5, 8), (2, 2), [Replicate(), Shard(1)]),
        ((8, 6), (2, 2), [Shard(0), Shard(1)]),
        ((8, 6), (2, 2), [Shard(0), Shard(0)]),
    ],
    ids=["uneven", "none", "columns", "both", "twice"],
)
def test_own_part_is_where_torch_puts_it(shape, mesh, placements, as_rank) -> None:  # type: ignore[no-untyped-def]
    whole = torch.arange(shape[0] * shape[1]).view(shape).float()
    found = torch.zeros(shape)
    for rank in range(4):
        as_rank(rank, 4)
        parameter = distribute_tensor(whole, init_device_mesh("cpu", mesh), placements, src_data_rank=None)
        part = own_part(parameter)
        assert torch.equal(whole[part], parameter.to_local())
        found[part] = whole[part]
    assert torch.equal(found, whole)


def test_a_plain_tensor_is_everybodys(as_rank) -> None:  # type: ignore[no-untyped-def]
    tensor = torch.randn(2, 3)
    assert torch.equal(tensor[own_part(tensor)], tensor)
    assert local(tensor) is tensor


def test_a_rank_gets_its_part_and_compares_it(perturbed_checkpoint: Path, as_rank) -> None:  # type: ignore[no-untyped-def]
    checkpoint = open_checkpoint(perturbed_checkpoint)
    (layout,) = LAYOUTS["gpt2_from_scratch"]
    whole = dict(GPTModel.from_pretrained(checkpoint).named_parameters())
    as_rank(2, 3)
    module = fully_shard(GPTModel(checkpoint.config), mesh=init_device_mesh("cpu", (3,)))
    assert load_into(module, checkpoint)
    for name, parameter in module.named_parameters():
        assert is_sharded(parameter)
        assert torch.equal(local(parameter), whole[name][own_part(parameter)]), name
    fitted = fit(Candidate(module, checkpoint.config), checkpoint.config, (layout,))
    right = check_weights(fitted, checkpoint)
    assert right
    assert right.equal == len(whole) + 1  # the head, which is tied
    with torch.no_grad():
        local(module.h[5].mlp.c_proj.weight)[1, 2] += 0.5
    wrong = check_weights(fitted, checkpoint)
    assert list(wrong.differing) == ["h.5.mlp.c_proj.weight"]
    (difference,) = wrong.differing.values()
    assert difference.at == (2 * 30 + 1, 2)  # 89 rows in thirds
    torch.testing.assert_close(difference.max_abs, 0.5, rtol=1e-5, atol=0)


def test_what_fsdp2_has_divided_is_copied_whole(perturbed_checkpoint: Path, as_rank) -> None:  # type: ignore[no-untyped-def]
    """Of the values only its own part can be checked here: the other rank does not exist."""
    model, right = (GPTModel.from_pretrained(perturbed_checkpoint) for _ in range(2))
    as_rank(0, 2)
    mesh = init_device_mesh("cpu", (2,))
    hook = model.h[2].register_forward_hook(lambda module, args, output: None)
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    whole = without_fsdp(model)
    assert isinstance(whole, nn.Module)
    assert [type(each) for each in whole.modules()] == [type(each) for each in right.modules()]
    assert list(whole.h[2]._forward_hooks) == [hook.id], "the user's own is kept"
    assert not [each for each in whole.modules() if each._forward_pre_hooks or each._state_dict_pre_hooks]
    copied = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        part = own_part(parameter)
        assert is_sharded(parameter) and not is_sharded(copied[name]), "the model is as it was, and the copy whole"
        assert torch.equal(copied[name][part], right.get_parameter(name)[part]), name
    model.group = dist.group.WORLD  # which cannot be copied
    assert "cannot pickle" in str(without_fsdp(model))
    assert all(map(is_sharded, model.parameters()))
    with torch.inference_mode(), Alone():
        assert whole(torch.arange(7)[None]).shape == (1, 7, whole.config.vocab_size)
        with pytest.raises(NotImplementedError, match="sends something to other ranks"):
            model(torch.arange(7)[None])


def test_a_file_of_one_ranks_parts_is_called_so(as_rank, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """What torch.save makes of the state dict of FSDP2; Accelerate saves such files, too."""
    as_rank(1, 2)
    part = distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
    torch.save({"wte.weight": part}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match="holds one rank's parts of a model") as caught:
        open_container(tmp_path / "model.pt")
    assert "full_state_dict=True" in caught.value.hint


def test_what_cannot_be_shared_out_is_refused(perturbed_checkpoint: Path, as_rank) -> None:  # type: ignore[no-untyped-def]
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    as_rank(0, 3)
    with pytest.raises(ValueError, match="4 heads cannot be shared out evenly among 3 ranks"):
        model.parallelize(init_device_mesh("cpu", (3,)))
    as_rank(0, 2)
    with pytest.raises(ValueError, match="89 feed-forward features cannot be shared out evenly among 2 ranks"):
        model.parallelize(init_device_mesh("cpu", (2,)))


# ------------------------------------------------------------------------------------------------------ under torchrun


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose heads can be divided among two and four ranks, and whose vocabulary cannot."""
    return save(perturbed(n_inner=None, n_layer=2), tmp_path_factory.mktemp("small"))


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(ranks: int, checkpoint: Path, name: str, *options: str, **given: str) -> subprocess.Popen[str]:
    command = [
        *TORCHRUN,
        str(ranks),
        "-m",
        "gpt2_from_scratch",
        "verify",
        str(checkpoint),
        "--model",
        f"{CODE}:{name}",
        *options,
    ]
    environment = ENVIRONMENT | given
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


DIVIDED = """
import sys, torch
from torch.distributed.device_mesh import init_device_mesh
from gpt2_from_scratch import GPTModel, generate
from gpt2_from_scratch.layers import EXACT, FUSED, TEXTBOOK
source, size = sys.argv[1], int(sys.argv[2])
ids = torch.randint(0, 211, (2, 30), generator=torch.Generator().manual_seed(1))
with torch.inference_mode():
    for compute in (EXACT, FUSED, TEXTBOOK):
        whole = GPTModel.from_pretrained(source, compute=compute)
        part = GPTModel.from_pretrained(source, compute=compute).parallelize(init_device_mesh("cpu", (size,)))
        expected, exact = whole(ids), GPTModel.from_pretrained(source, dtype=torch.float64)(ids)
        floor = (expected - exact).abs().max()
        assert 0 < floor < 1e-4
        cache = part.new_cache(2)
        pieces = [part(ids[:, start:end], cache=cache) for start, end in ((0, 20), (20, 21), (21, 30))]
        for actual in (part(ids), torch.cat(pieces, dim=1)):
            assert (actual - exact).abs().max() <= 4 * floor, (actual - exact).abs().max() / floor
        assert cache.keys.size(2) == 4 // size
        assert torch.equal(generate(part, ids[:, :7], 20), generate(whole, ids[:, :7], 20))
"""


@slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_this_packages_model_divided_computes_and_generates_the_same(ranks: int, small: Path, tmp_path: Path) -> None:
    script = tmp_path / "divided.py"
    script.write_text(DIVIDED)
    command = [*TORCHRUN, str(ranks), str(script), str(small), str(ranks)]
    run = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr


@slow
def test_without_a_model_this_packages_own_is_divided_and_verified(small: Path) -> None:
    command = [*TORCHRUN, "2", "-m", "gpt2_from_scratch", "verify", str(small)]
    run = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    assert "29 of 29 tensors equal" in run.stdout
    assert "the model runs on 2 ranks" in run.stdout


def finished(process: subprocess.Popen[str], ranks: int) -> tuple[int, str, str]:
    """The exit code of all ranks, stdout and stderr. torchrun itself ends with 0 or 1, and reports the ranks' own."""
    out, err = process.communicate(timeout=PATIENCE)
    if process.returncode == 0:
        return 0, out, err
    codes = [line.split()[2] for line in err.splitlines() if line.strip().startswith("exitcode ")]
    assert len(codes) == ranks
    assert len(set(codes)) == 1, err
    return int(codes[0]), out, err


@slow
@pytest.mark.parametrize(
    ("build", "ranks"), [("fsdp", 2), ("bfloat16", 2), ("meta", 2), ("tp", 2), ("ddp", 2), ("fsdp", 4), ("tp", 4)]
)
def test_a_right_model_passes(build: str, ranks: int, small: Path) -> None:
    code, out, err = finished(start(ranks, small, f"{build}()"), ranks)
    assert code == 0, err
    assert out.count("PASSED") == 1, "rank 0 alone prints"
    assert "in float64" in out
    assert f"the model runs on {ranks} ranks" in out


@slow
@pytest.mark.parametrize("build", ["fsdp", "ddp"])
def test_gradients_and_training_mode_are_those_of_the_whole_model_on_one_rank(build: str, small: Path) -> None:
    code, out, _ = finished(start(2, small, f"{build}()", "--gradients", "--train", "-v"), 2)
    assert code == 1, "its rate of dropout is not the checkpoint's"
    assert "gradients, largest relative error" in out
    assert "training (in training mode without dropout): passed" in out
    assert "looked into: the whole model on rank 0 alone" in out


WRONG = next(at for at, line in enumerate(CODE.read_text().splitlines(), 1) if "unbiased=True" in line)


@slow
@pytest.mark.parametrize("build", ["fsdp", "ddp"])
def test_the_wrong_line_is_named_from_the_whole_model_on_one_rank(build: str, small: Path) -> None:
    code, out, _ = finished(start(2, small, f"{build}()", "--gradients", FAULT="unbiased"), 2)
    assert code == 1
    assert "FAILED" in out
    assert "unbiased" in out
    assert f"on_ranks.py:{WRONG}" in out
    assert "h.0.ln_1" in out, "where it is"
    assert "looked into: the whole model on rank 0 alone" in out


@slow
def test_the_cache_is_that_of_the_whole_model_on_one_rank(small: Path) -> None:
    code, out, err = finished(start(2, small, "loaded", "-v", BUILD="cached", WEIGHTS=str(small)), 2)
    assert code == 0, err
    assert re.search(r"passed: .*\bcache\b", out)
    assert "looked into: the whole model on rank 0 alone" in out


@slow
def test_a_wrong_model_that_computes_on_all_ranks_is_named_and_its_line_is_not(small: Path) -> None:
    code, out, _ = finished(start(2, small, "tp()", FAULT="unbiased"), 2)
    assert code == 1
    assert "FAILED" in out
    assert "unbiased" in out
    assert "the model runs on 2 ranks, and cannot be run on one (" in out
    assert "let build() leave the model undivided" in out


@slow
@pytest.mark.parametrize(("build", "ranks"), [("fsdp", 4), ("tp", 2), ("ddp", 2)])
def test_a_wrong_shard_is_named_with_its_rank(build: str, ranks: int, small: Path) -> None:
    code, out, _ = finished(start(ranks, small, "loaded", FAULT="shard", BUILD=build, WEIGHTS=str(small)), ranks)
    assert code == 1
    assert (
        f"trf_blocks.1.ff.layers.2.weight (h.1.mlp.c_proj.weight): largest difference 1e-3 on rank {ranks - 1}\n" in out
    )
    assert "1 of 29 tensors differ" in out


@slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "rank 1 raised an exception, and rank 0 has not for 10 s: ValueError: on this rank alone"),
        ("killed", "gpt2, rank 1: could not check: the process ended before there was a result (SIGKILL)"),
    ],
)
def test_a_rank_that_fails_alone_ends_all_and_is_named(fault: str, said: str, small: Path) -> None:
    code, out, err = finished(start(2, small, "fsdp()", FAULT=fault), 2)
    assert (code, out) == (2, "")
    assert said in err
    assert 'on_ranks.py", line' in err or fault == "killed"


@slow
def test_stages_of_a_pipeline_are_verified_as_a_function(small: Path) -> None:
    code, out, err = finished(start(2, small, "loaded", BUILD="pipeline", WEIGHTS=str(small)), 2)
    assert code == 0, err
    assert "PASSED" in out
    assert "weights: the candidate is a function" in out
    assert "the model runs on 2 ranks; the logits are rank 0's" in out
    code, _, err = finished(start(2, small, "stage()"), 2)
    assert code == 2
    assert "the candidate is a PipelineStage, which cannot be called" in err
    assert "give a function that runs the stage on every rank, and returns the logits on rank 0" in " ".join(
        err.split()
    )


@slow
def test_what_is_wrong_with_the_checkpoint_is_said_once(tmp_path: Path) -> None:
    code, _, err = finished(start(2, tmp_path / "nowhere", "fsdp()"), 2)
    assert code == 2
    assert err.count("nowhere") == 1
