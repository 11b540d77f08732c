"""The reference: transformers' `GPT2LMHeadModel`, built from the file by transformers itself, and imported only here.

The one idea: independence. Wherever transformers can read a checkpoint, it reads it; our loader is not asked. And the
reference is run in more than one way (eager and SDPA attention, float32 and float64), because the distance of the
reference from itself is the floor that every other difference is measured against.

Traps avoided here: transformers follows the file's dtype unless told otherwise; it answers a tensor it cannot find
with random numbers and a log line; its eager attention differs from itself with and without a cache.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout
from gpt2_from_scratch.precision import in_float64, parameters_in_float64
from gpt2_from_scratch.trace import Site, trace


@dataclass(frozen=True)
class Reference:
    """A `GPT2LMHeadModel` in float32, eval mode, without a cache.

    Args:
        model: the transformers model.
        config: of the checkpoint.
    """

    model: Any
    config: GPTConfig

    @property
    def layout(self) -> Layout:
        """Where the model's modules are, under canonical names."""
        return LAYOUTS["huggingface"][0]

    @property
    def attention(self) -> str:
        """Which of transformers' attention implementations it runs."""
        return str(self.model.config._attn_implementation)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Float32 logits ``[B, T, V]`` of ids ``[B, T]``."""
        with torch.inference_mode():
            return self.model(input_ids, use_cache=False).logits  # type: ignore[no-any-return]

    def other_roundings(self, input_ids: Tensor, exact: int | None = None) -> Iterator[tuple[str, Tensor]]:
        """The same logits computed in other ways; only rounding differs. Their distances make the floor.

        Args:
            input_ids: int64 ``[B, T]``.
            exact: tokens that are run in float64, from the beginning; None: all.

        Yields:
            A name, and logits: with the other attention kernel in float32, and in float64.
        """
        for attention in ("eager", "sdpa"):
            if attention != self.model.config._attn_implementation:
                with self._attention(attention):
                    yield attention, self.logits(input_ids)
        yield "float64", self.in_float64(input_ids[:, :exact])

    def in_float64(self, input_ids: Tensor) -> Tensor:
        """Float64 logits ``[B, T, V]``: the same code and weights, rounded 2^29 times finer."""
        with self._not_upcasting(), in_float64():
            return self.logits(input_ids)

    def logits_in(self, dtype: torch.dtype, input_ids: Tensor) -> Tensor:
        """Logits of the same model with weights and arithmetic in a lower precision, as float32."""
        exact = {parameter: parameter.data for parameter in self.model.parameters()}  # rounding cannot be undone
        try:
            for parameter, data in exact.items():
                parameter.data = data.to(dtype)
            return self.logits(input_ids).float()
        finally:
            for parameter, data in exact.items():
                parameter.data = data

    @contextlib.contextmanager
    def with_weights_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside, the weights are rounded to a lower precision; arithmetic stays float32."""
        exact = {parameter: parameter.data for parameter in self.model.parameters()}
        try:
            for parameter, data in exact.items():
                parameter.data = data.to(dtype).to(data.dtype)
            yield
        finally:
            for parameter, data in exact.items():
                parameter.data = data

    def gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """Loss of the next tokens, nats per token, and the gradient of each tensor by canonical name."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        logits = self.model(input_ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(names))
        canonical = (name.removeprefix("transformer.") for name in names.values())
        return float(loss.detach()), dict(zip(canonical, gradients, strict=True))

    def other_gradients(self, input_ids: Tensor) -> Mapping[str, Tensor]:
        """The same gradients, computed with the other attention kernel: their distance is their floor."""
        other = "eager" if self.model.config._attn_implementation == "sdpa" else "sdpa"
        with self._attention(other):
            return self.gradients(input_ids)[1]

    def trace(self, input_ids: Tensor, dtype: torch.dtype = torch.float32) -> Mapping[str, Site]:
        """Inputs and outputs of every module of the layout, by canonical name, in execution order.

        Attention is eager, because fused kernels write no probabilities down.

        Args:
            input_ids: int64 ``[B, T]``.
            dtype: of weights and arithmetic.
        """
        run = {torch.float32: self.logits, torch.float64: self.in_float64}.get(dtype, partial(self.logits_in, dtype))
        names = {theirs[0]: site for site, theirs in self.layout.sites(self.config)}
        attention = [name for name, site in names.items() if site.endswith(".attn")]
        with self._attention("eager"):
            sites = trace(self.model, names, lambda: run(input_ids), attention=attention)
        return {names[name]: site for name, site in sites.items()}

    def exact_gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """The same in float64."""
        with self._not_upcasting(), parameters_in_float64(self.model):
            return self.gradients(input_ids)

    @contextlib.contextmanager
    def _not_upcasting(self) -> Iterator[None]:
        """Without `reorder_and_upcast_attn`, which insists on float32; the mathematics is the same."""
        upcasting = [block.attn for block in self.model.transformer.h if block.attn.reorder_and_upcast_attn]
        try:
            for attention in upcasting:
                attention.reorder_and_upcast_attn = False
            yield
        finally:
            for attention in upcasting:
                attention.reorder_and_upcast_attn = True

    @contextlib.contextmanager
    def _attention(self, name: str) -> Iterator[None]:
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(name)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)


def load_reference(checkpoint: Checkpoint) -> Reference:
    """Builds the reference for a checkpoint.

    transformers reads a Hugging Face checkpoint itself. Forms that it cannot read are handed over tensor by tensor.

    Args:
        checkpoint: an opened one; only its location and configuration are used where transformers can read the file.

    Raises:
        CheckpointError: transformers cannot load the checkpoint, would fill tensors in with random numbers, or is
            not installed.
    """
    with _quiet():
        from transformers import GPT2Config, GPT2LMHeadModel

        # Settings that transformers before 5.4 ignored under SDPA; and one that only eager attention has.
        config = checkpoint.config
        eager = (
            config.reorder_and_upcast_attn or config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights
        )
        transformers_gpt2: Any = GPT2LMHeadModel  # its types do not say what `output_loading_info` returns
        options = {
            "config": GPT2Config(**config.to_hf()),
            "dtype": torch.float32,
            "attn_implementation": "eager" if eager else "sdpa",
            "output_loading_info": True,
        }
        directory = _readable_by_transformers(checkpoint)
        try:
            if directory is not None:
                model, info = transformers_gpt2.from_pretrained(directory, local_files_only=True, **options)
            else:
                state = {
                    name if name.startswith("lm_head") else f"transformer.{name}": read().float()
                    for name, read in checkpoint.tensors.items()
                }
                model, info = transformers_gpt2.from_pretrained(None, state_dict=state, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"transformers cannot load {checkpoint.located.source}: {error}") from None
    missing = sorted(set(info["missing_keys"]) - ({"lm_head.weight"} if config.tie_word_embeddings else set()))
    if missing or info["mismatched_keys"]:
        raise CheckpointError(
            f"transformers would fill {len(missing) + len(info['mismatched_keys'])} tensors of "
            f"{checkpoint.located.source} with random numbers, such as {(missing or info['mismatched_keys'])[0]!r}"
        )
    return Reference(model.eval(), config)


def _readable_by_transformers(checkpoint: Checkpoint) -> str | None:
    """The directory, if it is one that `from_pretrained` reads as it stands."""
    located = checkpoint.located
    standard = located.weights.name in ("model.safetensors", "model.safetensors.index.json")
    if checkpoint.as_found and checkpoint.layout.name == "huggingface" and standard and located.config is not None:
        return str(located.directory)
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the advice of transformers (progress bars, loading tables): it is not the user's business here."""
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise CheckpointError(
            f"the reference, transformers' GPT2LMHeadModel, is not at hand: {error}",
            hint="pip install transformers; or skip what is compared with it: logits, generation, gradients",
        ) from error

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
