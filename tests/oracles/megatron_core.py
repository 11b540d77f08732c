"""Checkpoints and logits of NVIDIA's Megatron Core: our reader of its names and orders is tested with them.

    python -m venv core && core/bin/pip install torch megatron-core
    core/bin/torchrun --nproc-per-node 3 megatron_core.py        # writes files/megatron_core* again

The committed files were written by megatron-core 0.16.1, torch 2.13.0 and Python 3.11 on x86-64. The models have the
sizes of files/source, the second with 3 layers, and noise for weights; three tensor-parallel ranks have a part of each,
and its vocabulary of 31 is padded to 36. The files are compressed afterwards.

    megatron_core       a file for each rank, in the form that Megatron-LM gives it
    megatron_core_dist  a folder of torch.distributed.checkpoint, which `megatron.core.dist_checkpointing` saves
"""

import gzip
import shutil
import zlib
from argparse import Namespace
from contextlib import nullcontext

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from source import FILES, IDS, SIZES

PADDED = 36


def model_of(layers: int) -> tuple[GPTModel, Namespace, torch.Tensor]:
    """A model, the arguments that describe it, and its logits."""
    config = TransformerConfig(
        num_layers=layers,
        hidden_size=SIZES["n_embd"],
        num_attention_heads=SIZES["n_head"],
        tensor_model_parallel_size=dist.get_world_size(),
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    model = GPTModel(
        config,
        get_gpt_layer_local_spec(),
        vocab_size=PADDED,
        max_sequence_length=SIZES["n_positions"],
        position_embedding_type="learned_absolute",
        share_embeddings_and_output_weights=True,
        parallel_output=False,
    ).eval()
    for name, parameter in model.named_parameters():
        part = dist.get_rank() if getattr(parameter, "tensor_model_parallel", False) else 0
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {part}".encode()))
        around = 1.0 if "layernorm.weight" in name else 0.0
        parameter.data = around + 0.5 * torch.randn(parameter.shape, generator=generator)
    arguments = Namespace(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        layernorm_epsilon=config.layernorm_epsilon,
        bias_gelu_fusion=False,
        position_embedding_type="learned_absolute",
        vocab_size=SIZES["vocab_size"],
        padded_vocab_size=PADDED,
        params_dtype=torch.float32,
    )
    ids = torch.tensor(IDS)
    length = ids.shape[1]
    hidden = torch.ones(length, length).triu(1).bool()[None, None]  # what a token may not see
    with torch.no_grad():
        logits = model(ids, torch.arange(length).expand_as(ids), hidden)
    return model, arguments, logits[..., : SIZES["vocab_size"]]


def write(name: str, layers: int, distributed: bool) -> None:
    model, arguments, logits = model_of(layers)
    rank = dist.get_rank()
    content = {"args": arguments, "checkpoint_version": 3.0, "iteration": 100}
    step = FILES / name / "iter_0000100"
    if rank == 0:
        shutil.rmtree(FILES / name, ignore_errors=True)
        step.mkdir(parents=True)
    dist.barrier()
    if distributed:
        dist_checkpointing.save(content | {"model": model.sharded_state_dict()}, str(step))
    else:
        (step / f"mp_rank_{rank:02d}").mkdir()
        path = step / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        torch.save(content | {"model": model.state_dict()}, path)
    dist.barrier()
    if rank == 0:
        for path in [path for path in step.rglob("*") if path.is_file() and path.suffix != ".json"]:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
        (FILES / name / "latest_checkpointed_iteration.txt").write_text("100")
        np.save(FILES / name / "logits.npy", logits.numpy())


def main() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # where Megatron Core makes its buffers
    torch.cuda.synchronize = lambda: None
    get_cuda_rng_tracker().fork = nullcontext  # nothing is drawn: there is no dropout
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=dist.get_world_size())
    write("megatron_core", SIZES["n_layer"], distributed=False)
    write("megatron_core_dist", 3, distributed=True)


if __name__ == "__main__":
    main()
