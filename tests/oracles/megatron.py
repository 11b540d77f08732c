"""Megatron-LM's checkpoints, by the program with which transformers converted models of Hugging Face's into them.

    python -m venv megatron && megatron/bin/pip install torch "transformers<5"
    megatron/bin/python megatron.py        # writes files/megatron again, from files/source

The committed files were written by transformers 4.57.6, torch 2.13.0 and Python 3.11 on x86-64: three tensor-parallel
ranks in two stages of a pipeline, `checkpoint_version` 3. The vocabulary of 31 is padded to 36. They are compressed
afterwards: most of a small file of torch.save is headers.
"""

import gzip
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import torch
from source import FILES, SIZES, SOURCE, weights
from transformers.models.megatron_gpt2 import checkpoint_reshaping_and_interoperability as program

FOLDER = FILES / "megatron"
RANKS, STAGES, MULTIPLE = 3, 2, 4


def padded(size: int, arguments: object) -> int:
    """What Megatron-LM's `_vocab_size_with_padding` gives: the next multiple of 4 for each of 3 ranks."""
    return -(-size // (MULTIPLE * RANKS)) * MULTIPLE * RANKS


def main() -> None:
    for name in ("megatron", "megatron.core", "megatron.training", "megatron.training.tokenizer"):
        sys.modules[name] = ModuleType(name)
    sys.modules["megatron"].__spec__ = Namespace(name="megatron")  # as if it were installed: one function of it is used
    sys.modules["megatron.core"].package_info = Namespace(__version__="0.16.1")
    sys.modules["megatron.training.tokenizer.tokenizer"] = ModuleType("tokenizer")
    sys.modules["megatron.training.tokenizer.tokenizer"]._vocab_size_with_padding = padded
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        state = {f"transformer.{name}": torch.from_numpy(array) for name, array in weights().items()}
        torch.save(state, Path(folder) / "pytorch_model.bin")
        shutil.copy(SOURCE / "config.json", folder)
        program.convert_checkpoint_from_transformers_to_megatron(
            Namespace(
                load_path=folder,
                save_path=str(FOLDER),
                megatron_path=None,
                target_tensor_model_parallel_size=RANKS,
                target_pipeline_model_parallel_size=STAGES,
                target_data_parallel_size=1,
                target_params_dtype="fp32",
                make_vocab_size_divisible_by=MULTIPLE,
                use_distributed_optimizer=False,
                print_checkpoint_structure=False,
            )
        )
    assert SIZES["n_head"] % RANKS == 0
    for path in FOLDER.rglob("*.pt"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


if __name__ == "__main__":
    main()
