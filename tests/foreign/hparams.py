"""GPT-2 as a training framework's module: ``**hparams``, a dictionary of layers, a loss in ``training_step``."""

import torch
from torch import nn
from torch.nn import functional as F


class GPTLightningModule(nn.Module):
    def __init__(self, **hparams):
        super().__init__()
        self.hparams = hparams
        e = hparams["embed_dim"]
        self.embeddings = nn.ModuleDict(
            {"token": nn.Embedding(hparams["num_vocab"], e), "position": nn.Embedding(hparams["max_length"], e)}
        )
        self.stack = nn.ModuleDict()
        for i in range(hparams["num_layers"]):
            self.stack[f"block_{i}"] = nn.ModuleDict(
                {
                    "attn_norm": nn.LayerNorm(e),
                    "q": nn.Linear(e, e),
                    "k": nn.Linear(e, e),
                    "v": nn.Linear(e, e),
                    "o": nn.Linear(e, e),
                    "ff_norm": nn.LayerNorm(e),
                    "ff_in": nn.Linear(e, 4 * e),
                    "ff_out": nn.Linear(4 * e, e),
                }
            )
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(e), "out": nn.Linear(e, hparams["num_vocab"], bias=False)})

    def attention(self, x, block):
        b, n, e = x.shape
        h = self.hparams["num_heads"]
        q, k, v = (block[name](x).view(b, n, h, e // h).permute(0, 2, 1, 3) for name in ("q", "k", "v"))
        scores = q @ k.permute(0, 1, 3, 2) / (e // h) ** 0.5
        future = torch.arange(n)[None, :] > torch.arange(n)[:, None]
        scores[:, :, future] = float("-inf")
        weights = scores.softmax(dim=-1)
        y = (weights @ v).permute(0, 2, 1, 3).reshape(b, n, e)
        return block["o"](y)

    def feed_forward(self, x, block):
        return block["ff_out"](F.gelu(block["ff_in"](x), approximate="tanh"))

    def forward(self, batch):
        ids = batch["input_ids"]
        n = ids.shape[1]
        x = self.embeddings["token"](ids) + self.embeddings["position"].weight[:n].unsqueeze(0)
        for i in range(self.hparams["num_layers"]):
            block = self.stack[f"block_{i}"]
            x = x + self.attention(block["attn_norm"](x), block)
            x = x + self.feed_forward(block["ff_norm"](x), block)
        x = self.head["norm"](x)
        return self.head["out"](x)

    def training_step(self, batch, batch_idx):
        logits = self(batch)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
