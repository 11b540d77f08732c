"""Checkpoints of Lightning's Trainer, by its own code: our readers are tested with them.

    python -m venv lightning && lightning/bin/pip install torch transformers lightning
    lightning/bin/python lightning_trainers.py lightning            # writes files/lightning again
    lightning/bin/python lightning_trainers.py lightning_sharded    # files/lightning_sharded

The committed files were written by Lightning 2.6.6, torch 2.13.0 and Python 3.11 on x86-64, from files/source, which no
step has changed, and are compressed.

    lightning            one process: one file, with the states of loops, callbacks and the optimizer
    lightning_sharded    FSDP2 on two ranks: a folder of torch.distributed.checkpoint, and Lightning's own meta.pt
"""

import gzip
import shutil
import sys

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from source import FILES, IDS, SOURCE
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from transformers import GPT2LMHeadModel


class Module(lightning.LightningModule):
    def __init__(self, learning_rate: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = GPT2LMHeadModel.from_pretrained(SOURCE)

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            for block in self.model.transformer.h:
                fully_shard(block, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        return self.model(batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


def main(name: str) -> None:
    sharded = name == "lightning_sharded"
    folder = FILES / name
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2 if sharded else 1,
        strategy=ModelParallelStrategy() if sharded else "auto",
        max_steps=2,
        callbacks=[ModelCheckpoint(dirpath=folder, filename="step", every_n_train_steps=2)],
        logger=False,
    )
    trainer.fit(Module(), DataLoader(torch.tensor(IDS), batch_size=1))
    trainer.strategy.barrier()
    if trainer.global_rank == 0:
        if sharded:
            for path in (folder / "step.ckpt").iterdir():
                path.rename(folder / path.name)
            (folder / "step.ckpt").rmdir()
        for path in list(folder.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
        shutil.copy(SOURCE / "config.json", folder)


if __name__ == "__main__":
    main(sys.argv[1])
