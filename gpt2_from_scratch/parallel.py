"""Tensor parallelism: each rank computes some of a block's heads, and some of its feed-forward layer's features.

A pair of linear layers is divided so that nothing is sent between the two: the first by its outputs, the second by its
inputs. What the ranks' second layers return is then summed. `GPTModel.parallelize` divides a model;
https://arxiv.org/abs/1909.08053 section 3 has the reasons.
"""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from gpt2_from_scratch.layers import Linear
from gpt2_from_scratch.ranks import local


class ColumnLinear(Linear):
    """A linear layer that computes this rank's outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, local(self.weight), local(self.bias))


class RowLinear(Linear):
    """A linear layer that has this rank's inputs. All ranks return all outputs."""

    mesh: DeviceMesh

    def forward(self, x: Tensor) -> Tensor:
        first = self.mesh.get_local_rank() == 0  # the others add no bias
        y = self.product(x, local(self.weight), self.bias if first else torch.zeros_like(self.bias))
        distributed.all_reduce(y, group=self.mesh.get_group())
        return y


def divide(first: Linear, second: Linear, mesh: DeviceMesh, parts: int = 1) -> None:
    """Divides a pair of linear layers, in place. Each rank cuts its part out of its own weights; nothing is sent.

    Args:
        first: its outputs are the inputs of the other.
        second: its outputs are summed.
        mesh: of one dimension.
        parts: that lie side by side in the first one's outputs, each to be divided: 3 for query, key and value.
    """
    outputs: tuple[Placement, Placement] = (Shard(1), Shard(0))
    if parts > 1:  # a rank holds several pieces
        outputs = (_StridedShard(1, split_factor=parts), _StridedShard(0, split_factor=parts))
    for layer, name, placement in (
        (first, "weight", outputs[0]),
        (first, "bias", outputs[1]),
        (second, "weight", Shard(0)),
    ):
        part = distribute_tensor(getattr(layer, name).detach(), mesh, [placement], src_data_rank=None)
        setattr(layer, name, nn.Parameter(part, requires_grad=False))
    first.__class__, second.__class__ = ColumnLinear, RowLinear
    second.mesh = mesh  # type: ignore[assignment]
