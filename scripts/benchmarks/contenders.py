"""The programs that generate text: this package, its peers, and a bare loop that bounds their speed.

`CONTENDERS` has a line for each. All open the same checkpoint and do two things, in the way their own users would: the
logits of a prompt's last token (with a filled cache), and greedy ids step by step. An opener imports what it needs and
returns the function that opens the checkpoint, so that imports are not measured with the model.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.onnx_runtime import as_onnx

Step = Callable[[], object]  # called after each step


class Engine(Protocol):
    """A model, opened. ``ids`` is an int64 tensor ``[B, T]``; texts do not end before they are long enough."""

    def prefill(self, ids: Any) -> Any:
        """The last token's logits, ``[B, V]``."""

    def generate(self, ids: Any, new: int, on_step: Step) -> list[list[int]]:
        """The greedy ids, without the prompt."""


class Ours:
    """`preset`: which of `gpt2_from_scratch.layers`' ways to compute. `usual`: decode as `generate` does by default."""

    def __init__(self, folder: Path, dtype: Any, preset: str, packed: bool, usual: bool) -> None:
        import torch

        from gpt2_from_scratch import Decoding, GPTModel, layers

        way = getattr(layers, preset)
        self.decoding = Decoding(eos_token_id=()) if usual else Decoding(eos_token_id=(), compute=way)
        self.model = GPTModel.from_pretrained(folder, dtype=dtype, device=torch.get_default_device(), compute=way)
        if packed:
            self.model.pack()

    def prefill(self, ids: Any) -> Any:
        cache = self.model.new_cache(*ids.shape)
        return self.model.lm_head(self.model.hidden_states(ids, cache=cache)[:, -1])

    def generate(self, ids: Any, new: int, on_step: Step) -> list[list[int]]:
        import torch

        from gpt2_from_scratch.generation import steps

        found = []
        for step in steps(self.model, ids, new, self.decoding):
            found.append(step)
            on_step()
        return torch.stack(found, dim=1).tolist()


class Transformers:
    """`options` go to `generate`."""

    def __init__(self, folder: Path, dtype: Any, attention: str, options: dict[str, Any]) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        self.model = model.to(torch.get_default_device()).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0  # never used, but asked for
        self.options = options

    def prefill(self, ids: Any) -> Any:
        return self.model(ids, logits_to_keep=1, use_cache=True).logits[:, -1]

    def generate(self, ids: Any, new: int, on_step: Step) -> list[list[int]]:
        class Streamer:
            prompt = True

            def put(self, _: Any) -> None:
                if not self.prompt:
                    on_step()
                self.prompt = False

            def end(self) -> None: ...

        options = {"max_new_tokens": new, "do_sample": False, "streamer": Streamer(), **self.options}
        out = self.model.generate(ids, attention_mask=ids.new_ones(ids.shape), **options)
        return [row[ids.size(1) :] for row in out.tolist()]


class CTranslate2:
    """CTranslate2 takes words for tokens; the word for an id is the id as text."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        from ctranslate2 import Generator

        self.model = Generator(str(folder), compute_type=dtype, inter_threads=1, intra_threads=threads)

    def prefill(self, ids: Any) -> Any:
        import numpy as np

        results = self._generate(ids, 1, return_logits_vocab=True)
        return np.stack([np.array(result.logits[0][0]) for result in results])

    def generate(self, ids: Any, new: int, on_step: Step) -> list[list[int]]:
        def callback(result: Any) -> bool:
            if result.batch_id == 0:
                on_step()
            return False  # go on

        return [result.sequences_ids[0] for result in self._generate(ids, new, callback=callback)]

    def _generate(self, ids: Any, new: int, **options: Any) -> Any:
        words = [[str(token_id) for token_id in row] for row in ids.tolist()]
        # Without the prompt in the result, CTranslate2 computes the prompt in one pass.
        options |= {"max_length": new, "end_token": [], "include_prompt_in_result": False}
        return self.model.generate_batch(words, **options)


class BareLoop:
    """`options` go to `Bare`."""

    def __init__(self, folder: Path, dtype: Any, options: dict[str, Any]) -> None:
        from benchmarks.bare import Bare

        self.model = Bare(folder, dtype, **options)

    def prefill(self, ids: Any) -> Any:
        import torch

        length = ids.size(1)
        cache = self.model.new_cache(*ids.shape)
        return self.model.forward(ids, torch.arange(length, device=ids.device), cache, length, None)

    def generate(self, ids: Any, new: int, on_step: Step) -> list[list[int]]:
        steps = []
        for step in self.model.generate(ids, new):
            on_step()
            steps.append(step.tolist())
        return [list(row) for row in zip(*steps, strict=True)]


# ----------------------------------------------------------------------------------------------------------- openers

Opener = Callable[[Path, str, int], Callable[[], Engine]]  # (checkpoint, dtype, threads)


def open_ours(preset: str, packed: bool = False, usual: bool = False) -> Opener:
    def opener(folder: Path, dtype: str, _: int) -> Callable[[], Engine]:
        import torch

        import gpt2_from_scratch.generation
        import gpt2_from_scratch.loading  # noqa: F401  (imported lazily otherwise, inside what is measured)

        if packed and dtype == "float32":
            raise ValueError("pack() turns weights of 16 bits only")
        return partial(Ours, folder, getattr(torch, dtype), preset, packed, usual)

    return opener


def open_transformers(attention: str = "sdpa", compiled: bool = False) -> Opener:
    def opener(folder: Path, dtype: str, _: int) -> Callable[[], Engine]:
        import torch
        from transformers import CompileConfig, GPT2LMHeadModel  # noqa: F401
        from transformers.utils import logging

        logging.disable_progress_bar()
        options: dict[str, Any] = {}
        if compiled:
            compile_config = CompileConfig(mode="default")  # "reduce-overhead" is about CUDA graphs
            compile_config._compile_all_devices = True  # there is no public way to have it on a CPU
            options = {"cache_implementation": "static", "compile_config": compile_config}
        return partial(Transformers, folder, getattr(torch, dtype), attention, options)

    return opener


def on_cpu() -> None:
    """Refuses another default device, for peers whose wheels compute on the CPU only."""
    import torch

    if (device := torch.get_default_device()).type != "cpu":
        raise ValueError(f"it is measured on the CPU, not on {device}")


def open_ctranslate2(folder: Path, dtype: str, threads: int) -> Callable[[], Engine]:
    import ctranslate2  # noqa: F401

    on_cpu()
    return partial(CTranslate2, folder, dtype, threads)


def open_onnx(folder: Path, dtype: str, threads: int) -> Callable[[], Engine]:
    import onnxruntime  # noqa: F401

    from benchmarks.onnx_runtime import OnnxRuntime

    on_cpu()
    if dtype != "float32":
        raise ValueError("the graph is written for float32")
    return partial(OnnxRuntime, folder, threads)


def open_bare(**options: Any) -> Opener:
    def opener(folder: Path, dtype: str, _: int) -> Callable[[], Engine]:
        import torch

        import benchmarks.bare  # noqa: F401

        return partial(BareLoop, folder, getattr(torch, dtype), options)

    return opener


def as_ctranslate2(source: Path, folder: Path) -> Path:
    """CTranslate2's own converter, less its tokenizer, which a synthetic checkpoint has not."""
    target = folder / f"{source.name}.ctranslate2"
    if (target / "model.bin").exists():
        return target
    from ctranslate2.converters import transformers as converters
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(source)
    spec = converters.GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([str(token_id) for token_id in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = model.config.layer_norm_epsilon
    spec.validate()
    spec.optimize(quantization="float32")
    target.mkdir()
    spec.save(str(target))
    return target


@dataclass(frozen=True)
class Contender:
    """A program that generates text.

    Args:
        open: imports the program, and returns the function that opens the checkpoint.
        modules: what has to be installed.
        prepare: makes the form of the checkpoint that it reads, once.
        by_default: whether it takes part without being named.
    """

    open: Opener
    modules: tuple[str, ...] = ("torch",)
    prepare: Callable[[Path, Path], Path] | None = None
    by_default: bool = True

    @property
    def missing(self) -> str | None:
        """A module that it needs and that is not installed; None if all are."""
        return next((module for module in self.modules if importlib.util.find_spec(module) is None), None)


CONTENDERS = {
    "ours": Contender(open_ours("EXACT")),
    "ours, generate()": Contender(open_ours("EXACT", usual=True)),
    "ours, fused": Contender(open_ours("FUSED")),
    "ours, packed": Contender(open_ours("FUSED", packed=True)),
    "transformers": Contender(open_transformers(), ("transformers",)),
    "transformers, eager": Contender(open_transformers("eager"), ("transformers",)),
    "transformers, compiled": Contender(open_transformers(compiled=True), ("transformers",), by_default=False),
    "CTranslate2": Contender(open_ctranslate2, ("ctranslate2",), as_ctranslate2),
    "ONNX Runtime": Contender(open_onnx, ("onnx", "onnxruntime"), as_onnx),
    "bare torch": Contender(open_bare()),
    "bare torch, compiled": Contender(open_bare(compiled=True), by_default=False),
    "bare torch, erf GELU": Contender(open_bare(gelu="none"), by_default=False),  # must be refused: a test runs it
}


# A script of a user who wants one token; `{folder}`, `{ids}`, `{threads}` are filled in. It prints the id.
FIRST_TOKEN = {
    "ours": """
import torch
from gpt2_from_scratch import GPTModel, generate
model = GPTModel.from_pretrained({folder!r})
print(generate(model, torch.tensor([{ids}]), 1)[0, -1].item(), flush=True)
""",
    "transformers": """
import torch
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained({folder!r})
ids = torch.tensor([{ids}])
out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
print(out[0, -1].item(), flush=True)
""",
    "CTranslate2": """
import ctranslate2
model = ctranslate2.Generator({folder!r}, compute_type="float32", intra_threads={threads})
words = [str(i) for i in {ids}]
print(model.generate_batch([words], max_length=1, include_prompt_in_result=False)[0].sequences_ids[0][0], flush=True)
""",
    "bare torch": """
import torch
from pathlib import Path
from benchmarks.bare import Bare
print(next(Bare(Path({folder!r})).generate(torch.tensor([{ids}]), 1)).item(), flush=True)
""",
    "import torch, no model": """
import torch
print(flush=True)
""",
}


def shape_of(folder: Path) -> dict[str, int]:
    """Sizes that a benchmark needs of a checkpoint, without importing anything."""
    config = json.loads((folder / "config.json").read_text())
    return {name: config[name] for name in ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions")}
