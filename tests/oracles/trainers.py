"""Checkpoints of distributed trainers, by their own code: our readers are tested with them.

    python -m venv trainers && trainers/bin/pip install torch transformers deepspeed
    export DS_ACCELERATOR=cpu
    trainers/bin/torchrun --nproc-per-node 2 trainers.py 3           # writes files/deepspeed_zero3 again
    trainers/bin/torchrun --nproc-per-node 2 trainers.py 2 bf16      # files/deepspeed_zero2_bf16, and float32.npz
    trainers/bin/torchrun --nproc-per-node 3 trainers.py 3 frozen    # files/deepspeed_zero3_frozen

The committed files were written by DeepSpeed 0.19.8, torch 2.13.0 and Python 3.11 on x86-64, each from files/source.
The model in bfloat16 is trained for three steps, the others are not. Files of torch.save are compressed afterwards:
three quarters of them are headers.

    deepspeed_zero3         two ranks; every rank's flat values are in several groups
    deepspeed_zero2_bf16    two ranks; the model is bfloat16, and the optimizer's files have float32 values, in two
                            groups: what DeepSpeed's own zero_to_fp32.py makes of them is in float32.npz
    deepspeed_zero3_frozen  three ranks; the position embedding was not trained
"""

import gzip
import shutil
import sys

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from source import FILES, IDS, SOURCE
from transformers import GPT2LMHeadModel


def main(stage: int, *options: str) -> None:
    folder = FILES / "_".join(["deepspeed", f"zero{stage}", *options])
    deepspeed.init_distributed(dist_backend="gloo")
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    model = GPT2LMHeadModel.from_pretrained(SOURCE)
    model.transformer.wpe.weight.requires_grad_("frozen" not in options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": [each for each in trained if (each.dim() > 1) is decays]} for decays in (True, False)]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage} | ({"sub_group_size": 3000} if stage == 3 else {}),
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "bf16" in options},
    }
    optimizer = torch.optim.SGD(groups if "bf16" in options else trained, lr=0.01 if "bf16" in options else 0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for _ in range(3 if "bf16" in options else 0):
        engine.backward(engine(torch.tensor(IDS), labels=torch.tensor(IDS)).loss)
        engine.step()
    engine.save_checkpoint(str(folder))
    dist.barrier()
    if dist.get_rank() == 0:
        if "bf16" in options:
            values = get_fp32_state_dict_from_zero_checkpoint(str(folder)).items()
            np.savez_compressed(folder / "float32.npz", **{name: each.detach().numpy() for name, each in values})
        for program in folder.glob("*.py"):
            program.unlink()
        for path in folder.rglob("*.pt"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
        shutil.copy(SOURCE / "config.json", folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
