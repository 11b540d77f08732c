"""The forms that can be written. A `Target` says what its program can express, and writes it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import torch

from gpt2_from_scratch.checkpoint import StoredTensor, gguf, llmc, safetensors, tensor_bundle, torch_pickle
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.checkpoint.programs import TANH_GELU, Program
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.converting.companions import (
    Companions,
    TokenizerForm,
    gguf_tokenizer,
    huggingface_tokenizer,
    no_tokenizer,
    openai_tokenizer,
)
from gpt2_from_scratch.converting.directory import write_directory
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import Layout

Tensors: TypeAlias = Mapping[str, StoredTensor]

_SAFETENSORS = ".safetensors"
_STATE_DICTS = (".pth", ".pt", ".bin", _SAFETENSORS)


@dataclass(frozen=True)
class Target(ABC):
    """A form that can be written.

    Args:
        name: as users call it.
        layout: names and orientation of its tensors.
        program: the program that reads it, if it hard-codes settings.
        file: its usual file name; empty where the form is a directory.
        suffixes: what its file may end in.
        holds_config: whether it holds the configuration, so that no config.json is needed beside it.
        tokenizer: makes the form's own tokenizer files.
        tokenizer_inside: whether the tokenizer is a part of the weights' file.
    """

    name: str
    layout: Layout
    program: Program | None = None
    file: str = ""
    suffixes: tuple[str, ...] = ()
    holds_config: bool = False
    tokenizer: TokenizerForm = huggingface_tokenizer
    tokenizer_inside: bool = False

    def check(self, config: GPTConfig) -> None:
        """Refuses a model that the form's program would compute differently.

        Raises:
            ConfigError: lists everything the form cannot say.
        """
        if self.program is not None:
            self.program.check(config)

    def dtype_of(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.dtype:
        """The dtype of a tensor where the model is written as `dtype`."""
        return dtype

    def replaces(self, path: Path) -> list[str]:
        """Names of the files in the target's folder that are written, replaced or removed."""
        return [path.name]

    def check_folder(self, folder: Path) -> None:  # noqa: B027 (most forms have no such file)
        """Refuses a folder in which other files would be opened instead of what is written.

        Raises:
            CheckpointError: names the files.
        """

    def advice(self, config: GPTConfig) -> tuple[str, ...]:
        """Notes for whoever uses the written file."""
        return ()

    @abstractmethod
    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        """Writes tensors and their companions, complete or not at all.

        Args:
            path: the file, or the directory; its folder exists.
            tensors: the layout's name -> tensor.
            config: the model's; `check` has passed it.
            companions: the tokenizer and other files.
            overwrite: whether files of these names may exist.

        Raises:
            FileExistsError: one exists, and `overwrite` is False.
        """


@dataclass(frozen=True)
class HuggingFace(Target):
    """A directory with safetensors, in several files if they are large."""

    max_shard_size: int | str = "5GB"

    def replaces(self, path: Path) -> list[str]:
        return [name for name in os.listdir(path) if safetensors.is_shard_or_index(name)] if path.is_dir() else []

    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        write_directory(path, tensors, self.max_shard_size, companions.files, overwrite)


@dataclass(frozen=True)
class OpenAI(Target):
    """A directory as OpenAI published it: a TensorFlow checkpoint and `hparams.json`."""

    def replaces(self, path: Path) -> list[str]:
        return list(tensor_bundle.WRITTEN)

    def check_folder(self, folder: Path) -> None:
        if before := [name for name in ("model.safetensors", safetensors.INDEX) if (folder / name).exists()]:
            raise CheckpointError(
                f"{folder} holds {', '.join(before)}, which would be found before OpenAI's files",
                hint="choose another directory",
            )

    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        tensor_bundle.write(path, tensors, config, companions.files, overwrite)


@dataclass(frozen=True)
class LlmC(Target):
    """One file without names, in the order of llm.c's struct."""

    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        llmc.write(path, tensors, config, overwrite)


@dataclass(frozen=True)
class Gguf(Target):
    """One file that holds configuration, tokenizer and weights."""

    def dtype_of(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.dtype:
        return gguf.written_dtype(name, shape, dtype)

    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        gguf.write(path, tensors, config, companions.vocabulary, overwrite)


@dataclass(frozen=True)
class StateDict(Target):
    """Named tensors in one file: safetensors, or what `torch.save` writes; its suffix says which."""

    def write(self, path: Path, tensors: Tensors, config: GPTConfig, companions: Companions, overwrite: bool) -> None:
        with replacing_all(path.parent, overwrite=overwrite) as create:
            if path.suffix == _SAFETENSORS:
                safetensors.write_to(create(path.name), tensors)
            else:
                torch_pickle.write_to(create(path.name), self.wrapped(tensors, config))
            for name, content in companions.files.items():
                create(name).write(content)

    def wrapped(self, tensors: Tensors, config: GPTConfig) -> Mapping[str, object]:
        """The object that `torch.save` writes: the tensors, and the program's settings where it reads them."""
        return dict(tensors)


@dataclass(frozen=True)
class NanoGPT(StateDict):
    """nanoGPT's checkpoint, with the settings from which its `sample.py` builds the model."""

    def wrapped(self, tensors: Tensors, config: GPTConfig) -> Mapping[str, object]:
        arguments = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
        bias = any(name.endswith(".bias") for name in tensors)
        arguments |= {"block_size": config.n_positions, "bias": bias, "dropout": config.resid_pdrop}
        return {"model": dict(tensors), "model_args": arguments}

    def advice(self, config: GPTConfig) -> tuple[str, ...]:
        if config.activation_function == "gelu":
            return ()
        return ("nanoGPT computes the exact GELU: in its model.py, write nn.GELU(approximate='tanh')",)


def _layout(name: str) -> Layout:
    return LAYOUTS[name][0]


HUGGING_FACE = HuggingFace("huggingface", _layout("huggingface"))

_ALL: tuple[Target, ...] = (
    HUGGING_FACE,
    OpenAI("openai", _layout("openai"), Program("OpenAI's code"), holds_config=True, tokenizer=openai_tokenizer),
    LlmC(
        "llm.c",
        _layout("llm.c"),
        Program("llm.c"),
        file="model.bin",
        suffixes=(".bin",),
        holds_config=True,
        tokenizer=no_tokenizer,
    ),
    Gguf(
        "gguf",
        _layout("gguf"),
        Program("llama.cpp", epsilon=True, inner=True, untied=True),
        file="model.gguf",
        suffixes=(".gguf",),
        holds_config=True,
        tokenizer=gguf_tokenizer,
        tokenizer_inside=True,
    ),
    NanoGPT(
        "nanogpt",
        _layout("nanogpt"),
        # The exact GELU since May 2023, the tanh form before, one line of its model.py: both are nanoGPT's.
        Program("nanoGPT", activations=(*TANH_GELU, "gelu")),
        file="ckpt.pt",
        suffixes=_STATE_DICTS,
    ),
    StateDict("mingpt", _layout("mingpt"), Program("minGPT", untied=True), file="model.pt", suffixes=_STATE_DICTS),
    StateDict(
        "llms_from_scratch",
        _layout("llms_from_scratch"),
        Program("the book's GPTModel", untied=True),
        file="model.pth",
        suffixes=_STATE_DICTS,
    ),
    StateDict("transformer_lens", _layout("transformer_lens"), file="model.pth", suffixes=_STATE_DICTS),
    StateDict(
        "mlx", _layout("mlx"), Program("mlx-lm", epsilon=True), file="model.safetensors", suffixes=(_SAFETENSORS,)
    ),
)
TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})
