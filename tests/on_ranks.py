"""What a user of torchrun has: the book's GPT-2, divided among the ranks in three ways. `test_ranks` verifies it.

The environment variable ``FAULT`` says what is wrong with it. `loaded` is a model of the kind ``BUILD``, into which the
file itself loads ``WEIGHTS``.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gpt2_from_scratch as own
from gpt2_from_scratch.loading import load_into, open_checkpoint
from gpt2_from_scratch.ranks import local
from tests.foreign.book import GPTModel, LayerNorm

NAMES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")
FAULT = os.environ.get("FAULT", "")
# Without torchrun, which sets both, as where pytest looks for doctests in this file, there is one rank.
LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1
ON_LAST = int(os.environ.get("RANK", "0")) == LAST


class UnbiasedNorm(LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=True)
        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift


def model(cfg: Mapping[str, int]) -> GPTModel:
    gpt = GPTModel({**{name: cfg[name] for name in NAMES}, "drop_rate": 0.1, "qkv_bias": True})
    if FAULT == "unbiased":
        for norm in (each for each in gpt.modules() if isinstance(each, LayerNorm)):
            norm.__class__ = UnbiasedNorm
    return gpt


def with_fault(gpt: nn.Module) -> nn.Module:
    """What goes wrong on the last rank alone: a weight, or the forward pass, in the middle of the model."""
    inner = getattr(gpt, "module", gpt)
    if "WEIGHTS" in os.environ:
        load_into(inner, os.environ["WEIGHTS"])
    layer = inner.trf_blocks[1].ff.layers[2]
    if FAULT == "shard" and ON_LAST:
        with torch.no_grad():
            local(layer.weight)[1, 1] += 1e-3
    if FAULT in ("raises", "killed") and ON_LAST:
        usual, calls = inner.trf_blocks[0].forward, []  # the other ranks then wait for the parameters of the next block

        def forward(x: Tensor) -> Tensor:
            calls.append(x)
            if len(calls) == 5:
                if FAULT == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("on this rank alone")
            return usual(x)

        inner.trf_blocks[0].forward = forward
    return gpt


def fsdp(cfg: Mapping[str, int]) -> nn.Module:
    return with_fault(fully_sharded(model(cfg), MixedPrecisionPolicy()))


def bfloat16(cfg: Mapping[str, int]) -> nn.Module:
    return fully_sharded(model(cfg), MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def fully_sharded(gpt: GPTModel, policy: MixedPrecisionPolicy) -> nn.Module:
    mesh = init_device_mesh("cpu", (LAST + 1,))
    for block in gpt.trf_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(gpt, mesh=mesh, mp_policy=policy)


def cached(cfg: Mapping[str, int]) -> nn.Module:
    """This package's own model, which has a cache, under FSDP2."""
    gpt = own.GPTModel.from_pretrained(os.environ["WEIGHTS"])
    mesh = init_device_mesh("cpu", (LAST + 1,))
    for block in gpt.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(gpt, mesh=mesh)


def meta(cfg: Mapping[str, int]) -> nn.Module:
    with torch.device("meta"):
        gpt = fsdp(cfg)
    for block in gpt.trf_blocks:
        block.att.mask = torch.triu(torch.ones(block.att.mask.shape, device="cpu"), diagonal=1)
    return gpt


def tp(cfg: Mapping[str, int]) -> nn.Module:
    plan = {
        "tok_emb": RowwiseParallel(input_layouts=Replicate()),
        "trf_blocks.*.att.W_*": ColwiseParallel(),
        "trf_blocks.*.att.out_proj": RowwiseParallel(),
        "trf_blocks.*.ff.layers.0": ColwiseParallel(),
        "trf_blocks.*.ff.layers.2": RowwiseParallel(),
        "out_head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
    }
    gpt = model(cfg)
    for block in gpt.trf_blocks:
        block.att.n_heads //= LAST + 1
    return with_fault(parallelize_module(gpt, init_device_mesh("cpu", (LAST + 1,)), plan))


def ddp(cfg: Mapping[str, int]) -> nn.Module:
    init_device_mesh("cpu", (LAST + 1,))
    return with_fault(nn.parallel.DistributedDataParallel(model(cfg)))


def pipeline(cfg: Mapping[str, int]) -> Callable[[Tensor], Tensor | None]:
    """Two stages by hand, each on a rank of its own; rank 0 gets the logits back."""
    init_device_mesh("cpu", (LAST + 1,))
    gpt = model(cfg).eval()
    load_into(gpt, os.environ["WEIGHTS"])

    def logits(ids: Tensor) -> Tensor | None:
        between, result = (torch.empty(*ids.shape, cfg[name]) for name in ("emb_dim", "vocab_size"))
        if not ON_LAST:
            dist.send(gpt.trf_blocks[0](gpt.tok_emb(ids) + gpt.pos_emb(torch.arange(ids.size(1)))), LAST)
            dist.recv(result, LAST)
            return result
        dist.recv(between, 0)
        dist.send(gpt.out_head(gpt.final_norm(gpt.trf_blocks[1](between))), 0)
        return None

    return logits


def stage(cfg: Mapping[str, int]) -> PipelineStage:
    """A stage of torch's own pipeline, which nobody can call."""
    init_device_mesh("cpu", (LAST + 1,))
    return PipelineStage(model(cfg), int(os.environ["RANK"]), LAST + 1, torch.device("cpu"))


def __getattr__(name: str) -> Any:
    if name != "loaded":
        raise AttributeError(name)
    config = open_checkpoint(os.environ["WEIGHTS"]).config
    settings = (config.vocab_size, config.n_positions, config.n_embd, config.n_head, config.n_layer)
    made = globals()["loaded"] = globals()[os.environ["BUILD"]](dict(zip(NAMES, settings, strict=True)))
    return made
