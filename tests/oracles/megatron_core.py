"""A checkpoint and logits of NVIDIA's Megatron Core: our reader of its names and orders is tested with them.

    python -m venv core && core/bin/pip install torch megatron-core
    core/bin/torchrun --nproc-per-node 3 megatron_core.py        # writes files/megatron_core again

The committed files were written by megatron-core 0.16.1, torch 2.13.0 and Python 3.11 on x86-64. The model has the
sizes of files/source, and noise for weights; three tensor-parallel ranks have a part of it each, and its vocabulary of
31 is padded to 36. The files have the form that Megatron-LM gives them; they are compressed afterwards.
"""

import gzip
import shutil
import zlib
from argparse import Namespace
from contextlib import nullcontext

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from source import FILES, IDS, SIZES

FOLDER = FILES / "megatron_core"
PADDED = 36


def main() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # where Megatron Core makes its buffers
    get_cuda_rng_tracker().fork = nullcontext  # nothing is drawn: there is no dropout
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
    config = TransformerConfig(
        num_layers=SIZES["n_layer"],
        hidden_size=SIZES["n_embd"],
        num_attention_heads=SIZES["n_head"],
        tensor_model_parallel_size=ranks,
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
        part = rank if getattr(parameter, "tensor_model_parallel", False) else 0
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {part}".encode()))
        around = 1.0 if "layernorm.weight" in name else 0.0
        parameter.data = around + 0.5 * torch.randn(parameter.shape, generator=generator)
    ids = torch.tensor(IDS)
    length = ids.shape[1]
    hidden = torch.ones(length, length).triu(1).bool()[None, None]  # what a token may not see
    with torch.no_grad():
        logits = model(ids, torch.arange(length).expand_as(ids), hidden)
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
    folder = FOLDER / "iter_0000100" / f"mp_rank_{rank:02d}"
    if rank == 0:
        shutil.rmtree(FOLDER, ignore_errors=True)
    torch.distributed.barrier()
    folder.mkdir(parents=True)
    content = {"args": arguments, "checkpoint_version": 3.0, "iteration": 100, "model": model.state_dict()}
    torch.save(content, folder / "model_optim_rng.pt")
    with gzip.GzipFile(folder / "model_optim_rng.pt.gz", "wb", mtime=0) as file:
        file.write((folder / "model_optim_rng.pt").read_bytes())
    (folder / "model_optim_rng.pt").unlink()
    torch.distributed.barrier()
    if rank == 0:
        (FOLDER / "latest_checkpointed_iteration.txt").write_text("100")
        np.save(FOLDER / "logits.npy", logits[..., : SIZES["vocab_size"]].numpy())


if __name__ == "__main__":
    main()
