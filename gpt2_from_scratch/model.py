"""`GPTModel`: GPT-2 from embeddings to logits, and loading and saving its weights.

A residual stream ``x`` of width E passes through the model, and every layer adds to it: attention mixes tokens, the
feed-forward layer works on each token by itself. The name of a parameter here is the name of a tensor in GPT-2's
official files. The formula of each layer is in `layers`, and text is generated in `generation`.

Shapes: B batch, T tokens, S tokens with the cached ones, C context length, E width, H heads, d = E / H, V vocabulary.
"""

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack

import torch
from torch import Tensor, nn

from gpt2_from_scratch.cache import KVCache
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.converting import Progress, Weights, save
from gpt2_from_scratch.errors import CheckpointError, MappingError
from gpt2_from_scratch.generation_config import GenerationConfig, read_generation_config
from gpt2_from_scratch.layers import (
    ATTENTIONS,
    EXACT,
    GELU,
    Compute,
    Dropout,
    Embedding,
    Head,
    LayerNorm,
    Linear,
    causal_mask,
)
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import (
    TINY,
    Checkpoint,
    LoadReport,
    OpenOptions,
    Source,
    check_values,
    open_anew,
    open_checkpoint,
    report_of,
)
from gpt2_from_scratch.mapping import match
from gpt2_from_scratch.speed import packed
from gpt2_from_scratch.streaming import Units

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Device: TypeAlias = torch.device | str | None


class MultiHeadAttention(nn.Module):
    """Compares each token's query with the keys of the tokens up to it, and averages their values by the result."""

    def __init__(self, config: GPTConfig, layer: int, compute: Compute, device: Device = None) -> None:
        super().__init__()
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, compute, device)
        self.c_proj = Linear(config.n_embd, config.n_embd, compute, device)
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.layer = layer
        self.n_head = config.n_head
        self.upcast = config.reorder_and_upcast_attn
        self.compute = compute
        self.scale = config.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None) -> Tensor:
        qkv = self.c_attn(x).view(*x.shape[:-1], 3, self.n_head, -1)  # (B, T, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, d)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, H, S, d)
        attention = ATTENTIONS[self.compute.attention]
        mixed = attention(q, k, v, mask, self.scale, self.upcast, self.attn_dropout)  # (B, H, T, d)
        merged = mixed.transpose(1, 2).flatten(2).contiguous()  # (B, H, T, d) -> (B, T, E)
        return self.resid_dropout(self.c_proj(merged))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, on each token by itself."""

    def __init__(self, config: GPTConfig, compute: Compute, device: Device = None) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner_dim, compute, device)
        self.act = GELU(config.activation_function, compute)
        self.c_proj = Linear(config.inner_dim, config.n_embd, compute, device)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention, then feed-forward. Each normalises its input (pre-norm) and adds its output to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int, compute: Compute, device: Device = None) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon, compute, device)
        self.attn = MultiHeadAttention(config, layer, compute, device)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon, compute, device)
        self.mlp = FeedForward(config, compute, device)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None) -> Tensor:
        shortcut = x
        x = self.attn(self.ln_1(x), mask, cache)
        x = x + shortcut

        shortcut = x
        x = self.mlp(self.ln_2(x))
        return shortcut + x


class GPTModel(nn.Module):
    """GPT-2.

    Built from a configuration it is freshly initialised, GPT-2's way, and in training mode; `from_pretrained` gives the
    trained model, in eval mode.

    Args:
        config: sizes and options.
        compute: how each kind of layer is computed; the default is bit-identical to transformers.
        device: where to build it; on ``"meta"`` nothing is allocated or initialised.

    Example:
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 11])
    """

    def __init__(self, config: GPTConfig, compute: Compute = EXACT, device: Device = None) -> None:
        super().__init__()
        self.config = config
        self.compute = compute
        self.load_report: LoadReport | None = None  # what `from_pretrained` did
        self.generation_config: GenerationConfig | None = None  # of the checkpoint; `generate` follows it
        self.units: Units | None = None  # of a model that streams
        self.wte = Embedding(config.vocab_size, config.n_embd, device)
        self.wpe = Embedding(config.n_positions, config.n_embd, device)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(TransformerBlock(config, layer, compute, device) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon, compute, device)
        head_device = "meta" if config.tie_word_embeddings else device
        self.lm_head = Head(config.vocab_size, config.n_embd, compute, head_device)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.wte.weight
        if not self.wte.weight.is_meta:
            self._initialize()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits of every token.

        Args:
            input_ids: int64 ``[B, T]``; with a cache, only the new tokens.
            attention_mask: ``[B, S]``, 1 at text and 0 at padding, cached tokens included; None: no padding.
            position_ids: int64 ``[B, T]`` or ``[1, T]``; None: counted on from the cached tokens. As in transformers
                they are *not* derived from the mask: pass them with left padding (`generate` does).
            cache: keys and values of earlier tokens; extended in place.
            logits_to_keep: of the last so many tokens only; 0: of all. As in transformers.

        Returns:
            ``[B, T, V]``, in the model's dtype; row ``t`` scores the token that follows token ``t``.

        Raises:
            ValueError: ids outside the vocabulary, more tokens than the context or the cache holds, wrong shapes.
        """
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, cache)
        return self.lm_head(hidden[:, -logits_to_keep:])  # type: ignore[no-any-return]

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The final, normalised hidden states ``[B, T, E]``: `forward` without the head; same arguments.

        ``model.lm_head(model.hidden_states(ids)[:, -1])`` computes one token's logits where ``model(ids)[:, -1]`` would
        compute all of them.
        """
        self._check_input(input_ids, attention_mask, cache)
        batch, new = input_ids.shape
        keys = new if cache is None else cache.length + new
        if position_ids is None:
            position_ids = torch.arange(keys - new, keys, device=input_ids.device)[None]  # (1, T)
        x = self.wte(input_ids) + self.wpe(position_ids)  # (B, T, E)
        padding = attention_mask.bool() if attention_mask is not None else None
        if padding is not None and bool(padding.all()):
            padding = None
        mask = causal_mask(self.compute.attention, padding, batch, new, keys, x.dtype, x.device)
        x = self.drop(x)
        for block in self.h:
            x = block(x, mask, cache)
        if cache is not None:
            cache.length += new
        return self.ln_f(x)  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """An empty `KVCache` that fits this model: its dtype, its device."""
        first = self.h[0]
        assert isinstance(first, TransformerBlock)
        heads = first.attn.n_head  # of this rank
        config = replace(self.config, n_head=heads, n_embd=heads * self.config.head_dim)
        dtype = self.wte.weight.dtype if self.units is None else self.units.dtype
        return KVCache(config, batch_size, capacity, dtype, self.wte.weight.device)

    def set_compute(self, compute: Compute) -> Self:
        """Changes how the layers are computed, in place; the weights stay. Returns the model.

        Example:
            >>> from gpt2_from_scratch.layers import TEXTBOOK
            >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11)).set_compute(TEXTBOOK)
        """
        for module in self.modules():
            if hasattr(module, "compute"):
                module.compute = compute  # type: ignore[assignment]
        return self

    def parallelize(self, mesh: "DeviceMesh") -> Self:
        """Divides the blocks among the ranks of a mesh, in place, to compute logits or generate. Returns the model.

        Every rank calls this on the same weights, and from then on runs the model on the same ids. Each has whole
        embeddings and norms, its share of the heads and of the feed-forward features, and a cache for its heads. The
        logits are on all ranks; they equal those of the whole model up to rounding. There are no gradients.

        Args:
            mesh: of one dimension, such as ``init_device_mesh("cpu", (2,))``.

        Raises:
            ValueError: the number of ranks does not divide that of the heads or of the feed-forward features.

        Example:
            >>> from torch.distributed.device_mesh import init_device_mesh
            >>> model = GPTModel.from_pretrained().parallelize(init_device_mesh("cuda", (2,)))  # doctest: +SKIP
        """
        from gpt2_from_scratch.parallel import divide

        size = mesh.size()
        for what, count in (("heads", self.config.n_head), ("feed-forward features", self.config.inner_dim)):
            if count % size:
                raise ValueError(f"{count} {what} cannot be shared out evenly among {size} ranks")
        for block in self.h:
            assert isinstance(block, TransformerBlock)
            divide(block.attn.c_attn, block.attn.c_proj, mesh, parts=3)
            divide(block.mlp.c_fc, block.mlp.c_proj, mesh)
            block.attn.n_head = self.config.n_head // size
        return self.requires_grad_(False)

    def pack(self) -> Self:
        """Turns linear weights of 16 bits to ``[out, in]`` in memory, for decoding on a CPU. Returns the model.

        A CPU's 16-bit products read that order 17 times as fast (`speed.packed`). A model of 32 bits stays as it is.

        It costs memory: a turned weight is a copy, no longer the mapped file. Names, shapes and values stay. The turned
        parameters are no longer contiguous, which some tools insist on (`safetensors.torch.save_file` does,
        `save_pretrained` does not).

        Example:
            >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11)).to(torch.bfloat16).pack()
            >>> model.h[0].mlp.c_fc.weight.shape
            torch.Size([8, 32])
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.weight.data = packed(module.weight.data)
        return self

    @classmethod
    def from_pretrained(
        cls,
        source: Source | Checkpoint = TINY,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        compute: Compute = EXACT,
        stream: bool = False,
        **options: Unpack[OpenOptions],
    ) -> Self:
        """Loads a checkpoint into a new model, in eval mode.

        On the CPU, and without a change of dtype, the parameters *are* the memory-mapped file: nothing is copied,
        loading takes milliseconds whatever the size, and pages are read when first used. The mapping is private:
        training or in-place changes never reach the file. Values are checked (finite, and within the dtype) where they
        are read anyway; mapped ones are not.

        Args:
            source: a file, a directory, a Hub id, or an opened `Checkpoint`; the default is ``tiny``, the small trained
                model inside the package.
            dtype: of the parameters; None keeps the file's.
            device: where they go.
            compute: how layers are computed; see `layers.Compute`.
            stream: for a file larger than memory. The weights stay in the file, in its dtype, and one block of them at
                a time is in memory. They must not be changed, and the model runs on the CPU, without gradients.
            **options: how the file is opened; see `OpenOptions`.

        Returns:
            The model; ``model.load_report`` says what became of every tensor.

        Raises:
            CheckpointError: nothing was loaded; the message lists everything that is wrong.
            ValueError: it is to stream to another device than the CPU.

        Example:
            >>> model = GPTModel.from_pretrained("openai-community/gpt2", dtype=torch.float32)  # doctest: +SKIP
        """
        if stream and torch.device(device).type != "cpu":
            raise ValueError(f"a model that streams runs on the CPU, not on {device}: leave out stream, or device")
        with _collector_paused():
            checkpoint = open_checkpoint(source, **options)
            if stream:  # pages are given back: nobody else may have changed them
                checkpoint = open_anew(checkpoint, mmap=True)
            target = dtype or checkpoint.dtype
            parameters = {}
            for name, read in checkpoint.tensors.items():
                stored = read()
                tensor = (stored if stream else stored.to(device=device, dtype=target)).contiguous()
                if tensor.data_ptr() != stored.data_ptr() or not checkpoint.mapped:
                    check_values(checkpoint.located.source, name, stored, target)  # they were read anyway
                parameters[name] = nn.Parameter(tensor)
            model = cls(checkpoint.config, compute, device="meta")
            for name, parameter in parameters.items():
                module, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(module), attribute, parameter)
            if checkpoint.config.tie_word_embeddings:
                model.lm_head.weight = model.wte.weight
            if stream:
                model.units = Units((model.wte, model.wpe), (*model.h, model.ln_f, model.lm_head), target)
                held = model.units.stream(checkpoint.container.files)
                if held:
                    raise CheckpointError(
                        f"{checkpoint.located.source} cannot be streamed: {held:,} bytes of its matrices would stay in "
                        "memory, as the file does not hold them in the form in which GPT-2 computes with them",
                        hint="write it as one that does: gpt2 convert SOURCE DESTINATION --to huggingface",
                    )
            model.generation_config = read_generation_config(checkpoint.located.directory)
            model.load_report = report_of(checkpoint, checkpoint.layout, target, tuple(parameters))
            return model.eval()

    def save_pretrained(
        self,
        directory: Source,
        *,
        max_shard_size: int | str = "5GB",
        dtype: torch.dtype | None = None,
        tokenizer: bool = True,
        progress: Progress | None = None,
    ) -> LoadReport:
        """Writes a directory that transformers loads with identical logits: `config.json` and safetensors.

        The files are written complete or not at all. A tied head is written once. Weights of an earlier save into this
        directory are removed.

        Args:
            directory: made if needed.
            max_shard_size: bytes, or text such as ``"500MB"``; above it the weights are split over several files.
            dtype: of the file; None keeps the model's.
            tokenizer: also write the tokenizer and `generation_config.json` of the checkpoint from which the model was
                loaded, if they lie beside it. Nothing is fetched.
            progress: called with the bytes written so far, and of all.

        Returns:
            A report of what was written.

        Raises:
            CheckpointError: the directory cannot be written, a value is not finite or too large for `dtype`, or the
                model's tied head is no longer tied. The old files are as they were.
            ValueError: `max_shard_size` is no size.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     report = GPTModel.from_pretrained().save_pretrained(folder)
            ...     sorted(path.name for path in Path(folder).iterdir())
            ['config.json', 'merges.txt', 'model.safetensors', 'vocab.json']
        """
        own = self._checked_parameters()
        dtype = dtype or reduce(torch.promote_types, (parameter.dtype for parameter in own.values()))
        weights = Weights(type(self).__name__, self.config, lambda name: own[name].detach(), dtype)
        located = self.load_report.located if self.load_report is not None and tokenizer else None
        return save(Path(directory), weights, located, max_shard_size, progress)

    def _checked_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, a tied head under both of its names.

        Raises:
            MappingError: they do not fit the configuration: one of the two was changed after the model was built.
        """
        own = dict(self.named_parameters(remove_duplicate=False))
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        matching = match(LAYOUTS["gpt2_from_scratch"][0], self.config, shapes)
        if not matching:
            raise MappingError(
                f"the model does not fit its own configuration: {matching}",
                hint="set model.config to what the model is now; parameters that GPT-2 lacks have no place in the file",
            )
        if self.config.tie_word_embeddings and own["lm_head.weight"] is not own["wte.weight"]:
            raise MappingError(
                "the configuration ties the head to the embedding, but lm_head.weight is a parameter of its own",
                hint="set model.lm_head.weight = model.wte.weight, or tie_word_embeddings=False in its config",
            )
        return own

    def _initialize(self) -> None:
        """GPT-2's initialisation: normal weights, those that add to the residual stream divided by ``sqrt(2 L)``.

        GPT-2's paper, section 2.3.
        """
        std = self.config.initializer_range
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.dim() == 1:  # LayerNorm gains
                    parameter.fill_(1.0)
                elif name.endswith("c_proj.weight"):
                    parameter.normal_(0.0, std / math.sqrt(2 * self.config.n_layer))
                else:
                    parameter.normal_(0.0, std)

    def _check_input(self, input_ids: Tensor, attention_mask: Tensor | None, cache: KVCache | None) -> None:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"input_ids must be integer token ids [B, T], not {input_ids.dtype} {list(input_ids.shape)}"
            )
        batch, new = input_ids.shape
        total = new if cache is None else cache.length + new
        if new == 0:
            raise ValueError("input_ids holds no token; GPT-2 needs at least one")
        if total > self.config.n_positions:
            raise ValueError(f"{total} tokens do not fit into the context of {self.config.n_positions}")
        if cache is not None and total > cache.capacity:
            raise ValueError(f"{total} tokens do not fit into a cache made for {cache.capacity}")
        if cache is not None and batch != cache.batch_size:
            raise ValueError(f"input_ids has {batch} rows, the cache was made for {cache.batch_size}")
        if attention_mask is not None and attention_mask.shape != (batch, total):
            raise ValueError(
                f"attention_mask must be [B, S] = [{batch}, {total}], cached tokens included, "
                f"not {list(attention_mask.shape)}"
            )
        if input_ids.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere the check would wait
            low, high = (int(bound) for bound in torch.aminmax(input_ids))
            if low < 0 or high >= self.config.vocab_size:
                wrong = low if low < 0 else high
                raise ValueError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Inside, the garbage collector is off.

    A full collection visits every object that importing torch made. That takes 0.1 s, three times as long as loading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
