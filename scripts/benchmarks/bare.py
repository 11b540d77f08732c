"""GPT-2 as a bare loop over a mapped file: how fast plain PyTorch calls are without the code of a library around them.

It bounds the speed of the others: it has no checks, no options, and no batches of different lengths. Compiled, it is
the loop of gpt-fast: a cache of fixed size, and one graph per step.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F


class Bare:
    """The tensors of `model.safetensors` (linear weights ``[in, out]``), and the loop over them.

    Args:
        folder: a Hugging Face directory of official shape; heads are 64 wide, or there are 4 (`tiny`).
        dtype: of all arithmetic; where it is not the file's, the weights are copied.
        compiled: each step is one compiled graph over a cache of the whole context.
        gelu: ``none`` is the exact GELU, which is not GPT-2's: the contender with it must be refused.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype = torch.float32, compiled: bool = False, gelu: str = "tanh"
    ) -> None:
        device = torch.get_default_device()
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            named = {name.removeprefix("transformer."): file.get_tensor(name).to(device, dtype) for name in file.keys()}  # noqa: SIM118
        self.wte, self.wpe = named["wte.weight"], named["wpe.weight"]
        self.ln_f = named["ln_f.weight"], named["ln_f.bias"]
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        n_layer = 1 + max(int(name.split(".")[1]) for name in named if name.startswith("h."))
        self.blocks = [
            [named[f"h.{layer}.{part}.{kind}"] for part in parts for kind in ("weight", "bias")]
            for layer in range(n_layer)
        ]
        width = self.wte.size(1)
        self.n_head = width // 64 if width % 64 == 0 and width > 64 else 4
        self.gelu, self.compiled = gelu, compiled
        self.step: Callable[..., Tensor] = torch.compile(self.forward, dynamic=False) if compiled else self.forward

    def new_cache(self, batch: int, capacity: int) -> Tensor:
        """Keys and values: ``[L, 2, B, H, capacity, d]``."""
        head = self.wte.size(1) // self.n_head
        return self.wte.new_zeros(len(self.blocks), 2, batch, self.n_head, capacity, head)

    def forward(self, ids: Tensor, positions: Tensor, cache: Tensor, end: int, mask: Tensor | None) -> Tensor:
        """Logits ``[B, V]`` of the last token; `cache` holds the tokens before, and is read up to `end`."""
        (batch, new), width = ids.shape, self.wte.size(1)
        x = F.embedding(ids, self.wte) + self.wpe[positions]  # (B, T, E)
        for layer, (g1, b1, wa, ba, wo, bo, g2, b2, wf, bf, wp, bp) in enumerate(self.blocks):
            h = F.layer_norm(x, (width,), g1, b1).view(-1, width)
            q, k, v = torch.addmm(ba, h, wa).view(batch, new, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, d)
            cache[layer, 0].index_copy_(2, positions, k)
            cache[layer, 1].index_copy_(2, positions, v)
            k, v = cache[layer, :, :, :, :end]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and new > 1)
            x = x + torch.addmm(bo, mixed.transpose(1, 2).reshape(-1, width), wo).view(x.shape)
            h = F.layer_norm(x, (width,), g2, b2).view(-1, width)
            h = F.gelu(torch.addmm(bf, h, wf), approximate=self.gelu)
            x = x + torch.addmm(bp, h, wp).view(x.shape)
        return F.linear(F.layer_norm(x[:, -1], (width,), *self.ln_f), self.wte)

    @torch.inference_mode()
    def generate(self, ids: Tensor, new: int) -> Iterator[Tensor]:
        """Greedy ids ``[B]``, step by step."""
        length = ids.size(1)
        cache = self.new_cache(ids.size(0), self.wpe.size(0) if self.compiled else length + new)
        chosen = self.forward(ids, torch.arange(length, device=ids.device), cache, length, None).argmax(dim=-1)
        yield chosen
        for past in range(length, length + new - 1):
            position = torch.tensor([past], device=ids.device)
            if self.compiled:  # the shapes of every step are the same
                mask = torch.arange(cache.size(4), device=ids.device)[None] <= position[:, None]
                logits = self.step(chosen[:, None], position, cache, cache.size(4), mask)
            else:
                logits = self.forward(chosen[:, None], position, cache, past + 1, None)
            chosen = logits.argmax(dim=-1)
            yield chosen
