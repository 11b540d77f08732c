"""GPT-2 with faults in it, as quickly as many simulations need.

A forward pass is a row of stages (embeddings, blocks, final norm, head), and what comes out of a stage
depends on the faults made up to there and on nothing else. So streams are remembered by those faults, and a simulation
resumes by itself at the first stage where it differs from one that was made before.

The model is our own, with the checkpoint's own (mapped) weights; only its attention is cut into the steps that people
get wrong, so that each step is a method with a path: ``h.*.attn.probabilities``.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gpt2_from_scratch.cache import KVCache
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import EMBED, HEAD, NORM, Cause, Causes, place_of, stages
from gpt2_from_scratch.layers import EXACT, TEXTBOOK, causal_mask
from gpt2_from_scratch.model import GPTModel, MultiHeadAttention
from gpt2_from_scratch.precision import in_float64

# How a simulation is rounded: in float32 in two ways, or in float64. Faults are the same in all.
Rounding: TypeAlias = Literal["float32", "textbook", "float64"]

COMPUTE = replace(EXACT, attention="textbook")  # the mask is then bool [B, 1, T, S]: which keys a query may see
_REMEMBERED = 1 << 27  # bytes of streams: a stage of GPT-2 124M on 24 tokens is 74 kB


class Attention(MultiHeadAttention):
    """The model's attention in steps, each a method that a fault may replace."""

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None) -> Tensor:
        assert mask is not None, "COMPUTE makes one"
        q, k, v = (self.split_heads(part) for part in self.c_attn(x).split(x.size(-1), dim=-1))  # each (B, H, T, d)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, H, S, d)
        weights = self.attn_dropout(self.probabilities(self.scores(q, k), mask))
        merged = self.merge_heads(weights @ v).contiguous()  # a fault may leave its axes in any order
        return self.resid_dropout(self.c_proj(merged))  # type: ignore[no-any-return]

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, T, E) -> (B, H, T, d)``."""
        return x.view(*x.shape[:-1], self.n_head, -1).transpose(1, 2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """``(B, H, T, d), (B, H, S, d) -> (B, H, T, S)``."""
        return q @ k.mT * self.scale

    def probabilities(self, scores: Tensor, visible: Tensor) -> Tensor:
        """``(B, H, T, S)``; `visible` says which keys each query may see."""
        # The lowest finite number: a query that sees no key at all, which only padding can be, is then no NaN.
        return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)

    def merge_heads(self, x: Tensor) -> Tensor:
        """``(B, H, T, d) -> (B, T, E)``."""
        return x.transpose(1, 2).flatten(-2)


def simulated(config: GPTConfig, read: Callable[[str], Tensor]) -> GPTModel:
    """Our model with its attention in steps, in eval mode.

    Args:
        config: sizes and options.
        read: canonical name -> tensor; it becomes the parameter, without a copy if it is float32.
    """
    model = GPTModel(config, COMPUTE, device="meta")
    for layer, block in enumerate(model.h):
        block.attn = Attention(config, layer, COMPUTE, device="meta")
    model.load_state_dict({name: read(name).float() for name in config.tensor_shapes()}, strict=False, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.wte.weight
    return model.eval().requires_grad_(False)


class Simulation:
    """What the model with some faults in it would say to one prompt.

    Args:
        model: from `simulated`.
        ids: int64 ``[B, T]``.
    """

    def __init__(self, model: GPTModel, ids: Tensor) -> None:
        self.model = model
        self.ids = ids
        self.stages = stages(model.config)
        self._number = {stage: number for number, stage in enumerate(self.stages)}
        self._streams: OrderedDict[Any, Tensor] = OrderedDict()
        self._bytes = 0

    def logits(self, causes: Causes = (), rounding: Rounding = "float32") -> Tensor:
        """Logits ``[B, T, V]``."""
        return self.run(HEAD, self.stream(NORM, causes, rounding), causes, rounding)

    def stream(self, stage: str, causes: Causes = (), rounding: Rounding = "float32") -> Tensor:
        """What leaves a stage, ``[B, T, E]``. Remembered."""
        number = self._number[stage]
        acting = tuple(cause for cause in causes if self._first(cause) <= number)
        key = (stage, rounding, acting)
        if key in self._streams:
            self._streams.move_to_end(key)
            return self._streams[key]
        before = self.ids if number == 0 else self.stream(self.stages[number - 1], acting, rounding)
        result = self.run(stage, before, acting, rounding)
        self._remember(key, result)
        return result

    def run(self, stage: str, x: Tensor, causes: Causes = (), rounding: Rounding = "float32") -> Tensor:
        """One stage by itself.

        Args:
            stage: its name.
            x: what enters it: ids ``[B, T]``, or the stream ``[B, T, E]``.
            causes: faults; those made in other stages do not matter.
            rounding: how it is computed.
        """
        wide = in_float64() if rounding == "float64" else nullcontext()
        with torch.inference_mode(), _computed(self.model, rounding), injected(self.model, causes, stage), wide:
            return _run(self.model, stage, x)

    def _first(self, cause: Cause) -> int:
        """Number of the first stage in which a fault acts."""
        return min((self._number[stage] for stage in cause.changes(self.model.config)), default=len(self.stages))

    def _remember(self, key: Any, stream: Tensor) -> None:
        self._streams[key] = stream
        self._bytes += stream.nbytes
        while self._bytes > _REMEMBERED and len(self._streams) > 1:
            _, oldest = self._streams.popitem(last=False)
            self._bytes -= oldest.nbytes


def _run(model: GPTModel, stage: str, x: Tensor) -> Tensor:
    if stage == EMBED:
        return model.wte(x) + model.wpe(torch.arange(x.size(1))[None])  # type: ignore[no-any-return]
    if not stage.startswith("h."):
        return model.get_submodule(stage)(x)  # type: ignore[no-any-return]
    return model.get_submodule(stage)(x, _visible(*x.shape[:2]))  # type: ignore[no-any-return]


@lru_cache(maxsize=4)  # one for each prompt of a search
def _visible(batch: int, tokens: int) -> Tensor | None:
    return causal_mask("textbook", None, batch, tokens, tokens, torch.float32, torch.device("cpu"))


@contextmanager
def _computed(model: GPTModel, rounding: Rounding) -> Iterator[None]:
    if rounding != "textbook":
        yield
        return
    model.set_compute(TEXTBOOK)
    try:
        yield
    finally:
        model.set_compute(COMPUTE)


@contextmanager
def injected(model: GPTModel, causes: Causes, stage: str | None = None) -> Iterator[None]:
    """Inside, the model has these faults: in one stage, or in all. It is given back as it was."""
    undo: list[Callable[[], None]] = []
    try:
        for cause in causes:
            inject(model, cause, stage, undo)
        yield
    finally:
        for take_back in reversed(undo):
            take_back()


def inject(
    model: GPTModel, cause: Cause, stage: str | None = None, undo: list[Callable[[], None]] | None = None
) -> None:
    """Makes a fault in a model, in one stage or in all.

    Everything is looked up before anything is changed, so that an exchange is one.

    Args:
        model: from `simulated`; it is changed in place.
        cause: the fault.
        stage: the only one to change.
        undo: gets what takes each change back.
    """
    changes = cause.changes(model.config)
    chosen = changes.values() if stage is None else [changes.get(stage, ())]
    found = []
    for path, change in (pair for pairs in chosen for pair in pairs):
        place = place_of(model, path)
        found.append((place.owner, path.rpartition(".")[2], change(place)))
    for module, name, value in found:
        take_back = _set(module, name, value)
        if undo is not None:
            undo.append(take_back)


def _set(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute, and says how to take that back. A replaced method hides the class's, and is deleted again."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        value = nn.Parameter(value.contiguous(), requires_grad=False)
    own = name in module.__dict__ or name in module._parameters
    before = getattr(module, name)
    setattr(module, name, value)
    return (lambda: setattr(module, name, before)) if own else (lambda: delattr(module, name))
