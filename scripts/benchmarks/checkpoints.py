"""Checkpoints to measure with: synthetic, of official shapes, in every form.

Speed does not depend on what the weights are, and official ones would have to be downloaded. Every parameter is random,
and the same every time, so that outputs can be compared, too. The size `tiny` is the trained model inside the package:
too small to say anything about speed, and quick to try a benchmark with.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def checkpoint(size: str, kept: str | None = None, scratch: str | None = None) -> Iterator[tuple[Path, Path]]:
    """A Hugging Face directory of this size, and a folder for what is made from it.

    Args:
        size: official, or ``tiny``.
        kept: where checkpoints of earlier runs are, and stay. None: all is temporary.
        scratch: where temporary folders are made.
    """
    from gpt2_from_scratch.loading import TINY

    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(kept or temporary)
        source = Path(TINY) if size == "tiny" else folder / size
        if not (source / "config.json").exists():
            print(f"{size}: writing a synthetic checkpoint", file=sys.stderr)
            synthesize(size, folder)
        yield source, folder


def synthesize(size: str, folder: Path, dtype_name: str = "float32") -> Path:
    """Writes a Hugging Face directory of official shapes, every parameter random; the same one every time."""
    import torch

    from gpt2_from_scratch.checkpoint import StoredTensor, safetensors
    from gpt2_from_scratch.config import GPTConfig

    config = GPTConfig.for_size(size)
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)

    def values(name: str, shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
        gain = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0
        return lambda: (gain + 0.05 * torch.randn(shape, generator=generator)).to(dtype)

    tensors = {name: StoredTensor(s, dtype, values(name, s)) for name, s in config.tensor_shapes().items()}
    target = folder / size
    target.mkdir(parents=True, exist_ok=True)
    safetensors.write(target / "model.safetensors", tensors)
    (target / "config.json").write_text(json.dumps(config.to_hf()))  # last: with it the checkpoint is complete
    return target


def in_form(form: str, source: Path, folder: Path) -> Path:
    """The same weights in another form; returns what to open: a directory, or the file of those who open files."""
    if form == "huggingface":
        return source
    if form == "pytorch":
        return as_pytorch(source, folder)
    from gpt2_from_scratch.converting import convert

    return convert(source, folder, form).destination


def as_pytorch(source: Path, folder: Path) -> Path:
    """As transformers wrote it before safetensors: names with a prefix, and the head, which shares its embedding."""
    import torch
    from safetensors.torch import load_file

    state = {f"transformer.{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
    folder.mkdir()
    torch.save(state | {"lm_head.weight": state["transformer.wte.weight"]}, folder / "pytorch_model.bin")
    shutil.copy(source / "config.json", folder)
    return folder
