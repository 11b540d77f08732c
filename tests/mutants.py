"""The bug zoo: every fault that the product claims to name, and how to put it into somebody else's GPT-2.

The idea: a mutant breaks one thing, in one of three places, and always in a *foreign* model, never in the
package's own:

* ``weights``: the checkpoint is edited before it is loaded, so it breaks any model, whatever its style;
* ``part``: one small formula is replaced by a wrong one. The same formula goes into ``foreign/book.py`` and
  ``foreign/numpy_gpt2.py``, which are cut into the same parts;
* ``code``: something in ``foreign/book.py`` is done wrong that is not a formula.

    model = mutant.in_book(load(book.GPTModel(cfg), mutant.checkpoint(tensors, n_head)))
    logits = numpy_gpt2.gpt2(mutant.checkpoint(tensors, n_head), n_head, **mutant.in_numpy())

``where`` is the first site, in the order in which modules finish, that is never called or whose inputs are
right and whose outputs are not; ids and positions count as right. ``"logits"`` is the whole model: every module
in it is right and what it returns is not. It is ``None`` where no site can be named. The sites are those of a
model of 12 layers: with fewer than 11, ``layers_lexicographic`` is no fault.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch.diagnose import Diagnosis, Finding
from tests.foreign import book
from tests.foreign.numpy_gpt2 import PARTS

Tensors = dict[str, Tensor]
Edit = Callable[[Tensors, int], Tensors]  # (tensors, n_head) -> the tensors that change
Code = Callable[[book.GPTModel], object]
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Mutant:
    """One fault and one way to commit it.

    Attributes:
        name: the catalogue's name for the fault.
        where: canonical name of the site where it first shows; see the module's docstring.
        weights: returns the tensors it changes, and writes into none.
        part: the name of a formula and the wrong formula.
        code: breaks a loaded ``book.GPTModel`` in place.
        visible: whether the logits can show it at all.
    """

    name: str
    where: str | None
    weights: Edit | None = None
    part: tuple[str, Callable[..., Any]] | None = None
    code: Code | None = None
    visible: bool = True

    def checkpoint(self, tensors: Tensors, n_head: int) -> Tensors:
        """Returns the tensors to load, edited if need be: Hugging Face's names, linear weights [in, out]."""
        return tensors | self.weights(tensors, n_head) if self.weights else tensors

    def in_book(self, model: book.GPTModel) -> book.GPTModel:
        """Breaks a loaded book model in place, and returns it; the classes stay as they are."""
        if self.part:
            name, formula = self.part
            owner, method, as_method = _BOOK_PARTS[name]
            _replace(owner, method, as_method(formula))(model)
        if self.code:
            self.code(model)
        return model

    @property
    def portable(self) -> bool:
        """Whether the mutant exists outside the book's code, so that ``in_numpy`` is all of it."""
        return self.code is None and (self.part is None or self.part[0] in PARTS)

    def in_numpy(self) -> dict[str, Callable[..., Any]]:
        """Returns the keywords that break ``numpy_gpt2.gpt2``; a portable mutant's only."""
        assert self.portable, f"{self.name} exists only in the book's style"
        if not self.part:
            return {}
        name, formula = self.part
        return {name: formula if name == "block" else _on_arrays(formula)}


# -- weights: how a checkpoint is edited -----------------------------------------------------------


def _in_every_block(edit: Edit) -> Edit:
    """Makes an edit of a whole checkpoint out of one of a block, where names go without ``h.N.``."""

    def edit_all(tensors: Tensors, n_head: int) -> Tensors:
        changed: Tensors = {}
        for prefix in {name[: name.index(".", 2) + 1] for name in tensors if name.startswith("h.")}:
            block = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            changed |= {prefix + name: t for name, t in edit(block, n_head).items()}
        return changed

    return edit_all


def _qkv(rearrange: Callable[[Tensor, int], Tensor]) -> Edit:
    """Rearranges the columns of the fused query-key-value layer, weight and bias alike."""
    names = ("attn.c_attn.weight", "attn.c_attn.bias")
    return _in_every_block(lambda block, n_head: {name: rearrange(block[name], n_head) for name in names})


def _qkv_order(*order: int) -> Edit:
    return _qkv(lambda t, _: torch.cat([t.chunk(3, dim=-1)[i] for i in order], dim=-1))


def _swap(one: str, other: str) -> Edit:
    """Swaps two modules' tensors, or two tensors, in every block."""

    def edit(block: Tensors, _: int) -> Tensors:
        pairs = {name: name.replace(one, other) for name in block if name.startswith(one)}
        return {a: block[b] for a, b in pairs.items()} | {b: block[a] for a, b in pairs.items()}

    return _in_every_block(edit)


def _zero(*ends: str) -> Edit:
    return lambda tensors, _: {name: 0 * t for name, t in tensors.items() if name.endswith(ends)}


def _share_norms(block: Tensors, _: int) -> Tensors:
    return {f"ln_2.{end}": block[f"ln_1.{end}"] for end in ("weight", "bias")}


def _transpose_cproj(block: Tensors, _: int) -> Tensors:
    return {"attn.c_proj.weight": block["attn.c_proj.weight"].T.contiguous()}


def _interleave(columns: Tensor, n_head: int) -> Tensor:
    """Reads the columns as if each head had its q, k and v side by side, as in GPT-NeoX and Megatron."""
    return columns.unflatten(-1, (n_head, 3, -1)).transpose(-3, -2).flatten(-3)


def _zero_key_bias(block: Tensors, _: int) -> Tensors:
    query, key, value = block["attn.c_attn.bias"].chunk(3)
    return {"attn.c_attn.bias": torch.cat([query, torch.zeros_like(key), value])}


def _fresh_norms(tensors: Tensors, _: int) -> Tensors:
    fresh = {".weight": torch.ones_like, ".bias": torch.zeros_like}
    norms = {name: t for name, t in tensors.items() if "ln_" in name}
    return {name: fresh[name[name.rindex(".") :]](t) for name, t in norms.items()}


def _lexicographic(tensors: Tensors, _: int) -> Tensors:
    """Gives layer i the i-th of the layers sorted as text: h.0 h.1 h.10 h.11 h.2 ..."""
    layers = {name.split(".")[1] for name in tensors if name.startswith("h.")}
    source = dict(zip(sorted(layers, key=int), sorted(layers), strict=True))
    parts = {name: name.split(".", 2) for name in tensors if name.startswith("h.")}
    return {name: tensors[f"h.{source[layer]}.{rest}"] for name, (_h, layer, rest) in parts.items()}


def _rounded(dtype: torch.dtype) -> Edit:
    return lambda tensors, _: {name: t.to(dtype).to(t.dtype) for name, t in tensors.items()}


# -- parts: wrong formulas -------------------------------------------------------------------------


def _norm(eps: float) -> Callable[..., Tensor]:
    """The right LayerNorm with its own epsilon."""
    return lambda x, gain, bias, _eps: F.layer_norm(x, gain.shape, gain, bias, eps)


def _norm_unbiased(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + eps) + bias


def _norm_std_plus_eps(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + eps) + bias


def _norm_rms(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) + bias


def _scaled(scale: Callable[[int, int], float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Attention scores times ``scale(number of heads, head width)``."""
    return lambda q, k: q @ k.mT * scale(q.shape[1], q.shape[3])


def _later(scores: Tensor, by: int = 1) -> Tensor:
    """Where the key comes ``by`` positions after the query, or later: the future, for 1."""
    return torch.ones_like(scores, dtype=torch.bool).triu(by)


def _masked(by: int = 1, fill: float = -math.inf, dim: int = -1) -> Callable[[Tensor], Tensor]:
    return lambda scores: scores.masked_fill(_later(scores, by), fill).softmax(dim)


def _masked_past(scores: Tensor) -> Tensor:
    return scores.masked_fill(_later(scores).mT, -math.inf).softmax(-1)


def _split_by_view(x: Tensor, n_head: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.reshape(batch, n_head, tokens, width // n_head)


def _split_head_width_first(x: Tensor, n_head: int) -> Tensor:
    return x.unflatten(-1, (-1, n_head)).permute(0, 3, 1, 2)


def _merge_by_view(x: Tensor) -> Tensor:
    batch, heads, tokens, head_width = x.shape
    return x.reshape(batch, tokens, heads * head_width)


# Blocks: these only add up what other functions return, so they work on numpy arrays as they are.


def _post_ln(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    x = ln_1(x + attn(x))
    return ln_2(x + mlp(x))


def _resid_from_norm(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    x = ln_1(x)
    x = ln_2(x + attn(x))
    return x + mlp(x)


def _no_attn_resid(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    x = attn(ln_1(x))
    return x + mlp(ln_2(x))


def _no_mlp_resid(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return mlp(ln_2(x + attn(ln_1(x))))


def _parallel(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return x + attn(ln_1(x)) + mlp(ln_2(x))


def _no_ln_2(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    x = x + attn(ln_1(x))
    return x + mlp(x)


def _on_arrays(formula: Callable[..., Tensor]) -> Callable[..., Any]:
    """Lets a formula written in torch take and return numpy arrays."""

    def run(*args: Any) -> Any:
        return formula(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args)).numpy()

    return run


# For each part: the class and the method of the book that hold it, and the method made of a formula.
_BOOK_PARTS: dict[str, tuple[type[nn.Module], str, Callable[..., Any]]] = {
    "gelu": (book.GELU, "forward", lambda f: lambda self, x: f(x)),
    "layer_norm": (book.LayerNorm, "forward", lambda f: lambda m, x: f(x, m.scale, m.shift, m.eps)),
    "split_heads": (book.MultiHeadAttention, "split_heads", lambda f: lambda self, x: f(x, self.n_heads)),
    "attn_scores": (book.MultiHeadAttention, "attn_scores", lambda f: lambda self, q, k: f(q, k)),
    "attn_weights": (book.MultiHeadAttention, "attn_weights", lambda f: lambda self, scores: f(scores)),
    "merge_heads": (book.MultiHeadAttention, "merge_heads", lambda f: lambda self, x: f(x)),
    "block": (book.TransformerBlock, "forward", lambda f: lambda m, x: f(x, m.norm1, m.att, m.norm2, m.ff)),
    "logits": (book.GPTModel, "forward", lambda f: lambda self, ids: f(book.GPTModel.forward(self, ids))),
}


# -- code: what only the book's model can do wrong -------------------------------------------------


def _replace(owner: type[nn.Module], method: str, wrong: Callable[..., Any]) -> Callable[[nn.Module], None]:
    """Gives every ``owner`` inside a model its own ``wrong`` method."""

    def replace(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, owner):
                setattr(module, method, MethodType(wrong, module))

    return replace


def _embed(positions: Callable[[int, int], Tensor]) -> Code:
    """Looks up ``positions(tokens, context length)`` in place of 0, 1, 2, ..."""

    def embed(model: book.GPTModel, ids: Tensor) -> Tensor:
        rows = positions(ids.shape[1], model.pos_emb.num_embeddings)
        return model.tok_emb(ids) + model.pos_emb(rows.to(ids.device))

    return _replace(book.GPTModel, "embed", embed)


def _embed_sqrt_d(model: book.GPTModel) -> None:
    scale = math.sqrt(model.tok_emb.embedding_dim)
    _replace(nn.Embedding, "forward", lambda m, ids: m.weight[ids] * scale)(model.tok_emb)


def _forget_last_layer(model: book.GPTModel, ids: Tensor) -> Tensor:
    return model.out_head(model.final_norm(model.trf_blocks[:-1](model.embed(ids))))


def _forget_final_norm(model: book.GPTModel, ids: Tensor) -> Tensor:
    return model.out_head(model.trf_blocks(model.embed(ids)))


def _scale_by_inverse_layer(model: book.GPTModel) -> None:
    for number, block in enumerate(model.trf_blocks, start=1):
        scaled = partial(lambda number, heads, width: 1 / math.sqrt(width) / number, number)
        block.att.attn_scores = _scaled(scaled)


def _wrong_n_head(model: book.GPTModel) -> None:
    """The next smaller number of heads that divides the width: no shape tells."""
    width = model.tok_emb.embedding_dim
    for block in model.trf_blocks:
        block.att.n_heads = max(n for n in range(1, block.att.n_heads) if width % n == 0)


def _random_head(model: book.GPTModel) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = model.out_head.weight.data
    model.out_head.weight.data = 0.02 * torch.randn(weight.shape, generator=generator).to(weight)


def _head_with_bias(model: book.GPTModel) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = model.out_head.weight
    model.out_head.bias = nn.Parameter(0.02 * torch.randn(len(weight), generator=generator).to(weight))


def _centred_head(model: book.GPTModel) -> None:
    weight = model.out_head.weight.data
    model.out_head.weight.data = weight - weight.mean(dim=0)


# -- the zoo, in the catalogue's order -------------------------------------------------------------

MUTANTS: tuple[Mutant, ...] = (
    # weights in the wrong place
    Mutant("qk_swapped", "h.0.attn.c_attn", weights=_qkv_order(1, 0, 2)),
    Mutant("kv_swapped", "h.0.attn.c_attn", weights=_qkv_order(0, 2, 1)),
    Mutant("qv_swapped", "h.0.attn.c_attn", weights=_qkv_order(2, 1, 0)),
    Mutant("qkv_interleaved", "h.0.attn.c_attn", weights=_qkv(_interleave)),
    Mutant("qkv_bias_dropped", "h.0.attn.c_attn", weights=_zero("attn.c_attn.bias")),
    # softmax does not see what is added to all scores of a query
    Mutant("key_bias_dropped", "h.0.attn.c_attn", weights=_in_every_block(_zero_key_bias), visible=False),
    Mutant("attn_cproj_not_T", "h.0.attn.c_proj", weights=_in_every_block(_transpose_cproj)),
    Mutant("proj_biases_swapped", "h.0.attn.c_proj", weights=_swap("attn.c_proj.bias", "mlp.c_proj.bias")),
    Mutant("cproj_bias_dropped", "h.0.attn.c_proj", weights=_zero("attn.c_proj.bias")),
    Mutant("ln1_ln2_swapped", "h.0.ln_1", weights=_swap("ln_1", "ln_2")),
    Mutant("ln_shared", "h.0.ln_2", weights=_in_every_block(_share_norms)),
    Mutant("ln_bias_dropped", "h.0.ln_1", weights=_zero("ln_1.bias", "ln_2.bias", "ln_f.bias")),
    Mutant("ln_not_loaded", "h.0.ln_1", weights=_fresh_norms),
    Mutant("layers_lexicographic", "h.2.ln_1", weights=_lexicographic),
    Mutant("last_layer_skipped", "h.11.ln_1", code=_replace(book.GPTModel, "forward", _forget_last_layer)),
    Mutant("lm_head_random", "lm_head", code=_random_head),
    # activation
    Mutant("gelu_erf", "h.0.mlp.act", part=("gelu", F.gelu)),
    Mutant("gelu_quick", "h.0.mlp.act", part=("gelu", lambda x: x * torch.sigmoid(1.702 * x))),
    Mutant("relu", "h.0.mlp.act", part=("gelu", F.relu)),
    Mutant("silu", "h.0.mlp.act", part=("gelu", F.silu)),
    # LayerNorm
    Mutant("ln_unbiased", "h.0.ln_1", part=("layer_norm", _norm_unbiased)),
    Mutant("ln_eps_1e-6", "h.0.ln_1", part=("layer_norm", _norm(1e-6))),
    Mutant("ln_eps_1e-12", "h.0.ln_1", part=("layer_norm", _norm(1e-12))),
    Mutant("ln_eps_1e-3", "h.0.ln_1", part=("layer_norm", _norm(1e-3))),
    Mutant("ln_std_plus_eps", "h.0.ln_1", part=("layer_norm", _norm_std_plus_eps)),
    Mutant("ln_rms", "h.0.ln_1", part=("layer_norm", _norm_rms)),
    # scale of the scores
    Mutant("no_scale", "h.0.attn.probabilities", part=("attn_scores", _scaled(lambda heads, width: 1.0))),
    Mutant(
        "scale_d_model",
        "h.0.attn.probabilities",
        part=("attn_scores", _scaled(lambda heads, width: (heads * width) ** -0.5)),
    ),
    Mutant("scale_twice", "h.0.attn.probabilities", part=("attn_scores", _scaled(lambda heads, width: 1 / width))),
    Mutant("inverse_layer_idx", "h.1.attn.probabilities", code=_scale_by_inverse_layer),
    # mask and softmax
    Mutant("mask_missing", "h.0.attn.probabilities", part=("attn_weights", lambda scores: scores.softmax(-1))),
    Mutant("mask_leaks_one", "h.0.attn.probabilities", part=("attn_weights", _masked(by=2))),
    Mutant("mask_transposed", "h.0.attn.probabilities", part=("attn_weights", _masked_past)),
    Mutant("mask_no_self", "h.0.attn.probabilities", part=("attn_weights", _masked(by=0))),
    Mutant(
        "mask_after_softmax", "h.0.attn.probabilities", part=("attn_weights", lambda scores: scores.softmax(-1).tril())
    ),
    Mutant("mask_zero_fill", "h.0.attn.probabilities", part=("attn_weights", _masked(fill=0.0))),
    Mutant("mask_minus_10", "h.0.attn.probabilities", part=("attn_weights", _masked(fill=-10.0))),
    Mutant("softmax_dim_q", "h.0.attn.probabilities", part=("attn_weights", _masked(dim=-2))),
    # heads
    Mutant("split_view_no_transpose", "h.0.attn.probabilities", part=("split_heads", _split_by_view)),
    Mutant("split_headdim_first", "h.0.attn.probabilities", part=("split_heads", _split_head_width_first)),
    Mutant("merge_no_transpose", "h.0.attn.merged", part=("merge_heads", _merge_by_view)),
    Mutant("wrong_n_head", "h.0.attn.probabilities", code=_wrong_n_head),
    # residual wiring
    Mutant("post_ln", "h.0", part=("block", _post_ln)),
    Mutant("resid_from_norm", "h.0", part=("block", _resid_from_norm)),
    Mutant("attn_resid_missing", "h.0", part=("block", _no_attn_resid)),
    Mutant("mlp_resid_missing", "h.0", part=("block", _no_mlp_resid)),
    Mutant("parallel_block", "h.0", part=("block", _parallel)),
    Mutant("mlp_no_ln2", "h.0.ln_2", part=("block", _no_ln_2)),
    Mutant("ln_f_missing", "ln_f", code=_replace(book.GPTModel, "forward", _forget_final_norm)),
    # embeddings
    Mutant("no_pos", "wpe", code=_replace(book.GPTModel, "embed", lambda self, ids: self.tok_emb(ids))),
    # the last row wraps around, so that a prompt of full length runs
    Mutant("pos_plus1", "wpe", code=_embed(lambda tokens, context: torch.arange(1, tokens + 1) % context)),
    Mutant("pos_reversed", "wpe", code=_embed(lambda tokens, context: torch.arange(tokens).flip(0))),
    Mutant("emb_sqrt_d", "wte", code=_embed_sqrt_d),
    # F.dropout acts in eval mode too unless told otherwise; different at each call, so no site can be named
    Mutant("dropout_on", None, code=_replace(nn.Dropout, "forward", lambda self, x: F.dropout(x, 0.1))),
    # what comes after the last block
    Mutant("lm_head_bias", "lm_head", code=_head_with_bias),
    Mutant("center_unembed", "lm_head", code=_centred_head),
    Mutant("softmax_output", "logits", part=("logits", lambda logits: logits.softmax(-1))),
    Mutant("log_softmax_output", "logits", part=("logits", lambda logits: logits.log_softmax(-1))),
    Mutant("shifted_by_one", "logits", part=("logits", lambda logits: logits.roll(-1, dims=1))),
)

# Not bugs, and no check may call them one. The first stays within the noise; the others choose a precision.
LEGITIMATE: tuple[Mutant, ...] = (
    Mutant("mask_minus_1e4", None, part=("attn_weights", _masked(fill=-1e4)), visible=False),
    Mutant("fp16_weights", "wte", weights=_rounded(torch.float16)),
    Mutant("bf16_weights", "wte", weights=_rounded(torch.bfloat16)),
    Mutant("bf16_compute", "wte", code=lambda model: model.bfloat16()),
)

# -- beyond the catalogue: the other faults that diagnosis knows -----------------------------------


def _from_layer(source: Callable[[int, int], int]) -> Edit:
    """Gives layer i the tensors of layer ``source(i, number of layers)``."""

    def edit(tensors: Tensors, _: int) -> Tensors:
        parts = {name: name.split(".", 2) for name in tensors if name.startswith("h.")}
        layers = 1 + max(int(layer) for _h, layer, _rest in parts.values())
        return {name: tensors[f"h.{source(int(layer), layers)}.{rest}"] for name, (_h, layer, rest) in parts.items()}

    return edit


def _bias_part(part: int) -> Edit:
    def edit(block: Tensors, _: int) -> Tensors:
        parts = list(block["attn.c_attn.bias"].chunk(3))
        parts[part] = torch.zeros_like(parts[part])
        return {"attn.c_attn.bias": torch.cat(parts)}

    return _in_every_block(edit)


def _transpose_qkv(block: Tensors, _: int) -> Tensors:
    return {"attn.c_attn.weight": torch.cat([part.T for part in block["attn.c_attn.weight"].chunk(3, 1)], dim=1)}


def _transpose_square(block: Tensors, n_head: int) -> Tensors:
    return _transpose_qkv(block, n_head) | _transpose_cproj(block, n_head)


def _exchange_gains(tensors: Tensors, _: int) -> Tensors:
    other = {"weight": "bias", "bias": "weight"}
    split = {name: name.rsplit(".", 1) for name in tensors if "ln_" in name}
    return {name: tensors[f"{module}.{other[end]}"] for name, (module, end) in split.items()}


def _fresh_ln_f(tensors: Tensors, _: int) -> Tensors:
    return {"ln_f.weight": torch.ones_like(tensors["ln_f.weight"]), "ln_f.bias": 0 * tensors["ln_f.bias"]}


def _fresh_fc(tensors: Tensors, _: int) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    fc = tensors["h.1.mlp.c_fc.weight"]
    return {"h.1.mlp.c_fc.weight": 0.02 * torch.randn(fc.shape, generator=generator).to(fc)}


def _norm_unbiased_outside(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) + bias


def _norm_by_variance(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps) + bias


def _norm_over_tokens(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return gain * (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + eps) + bias


def _norm_gain_plus_one(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, gain.shape, 1 + gain, bias, eps)


def _gelu_tanh(cubic: float = 0.044715, scale: float = math.sqrt(2 / math.pi)) -> Function:
    return lambda x: 0.5 * x * (1 + torch.tanh(scale * (x + cubic * x**3)))


def _scaled_late(attention: book.MultiHeadAttention, scores: Tensor) -> Tensor:
    root = math.sqrt(attention.W_query.out_features // attention.n_heads)
    return (scores * root).masked_fill(_later(scores), -math.inf).softmax(-1) / root


def _merge_head_width_first(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], -1)


def _no_resid(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return mlp(ln_2(attn(ln_1(x))))


def _stale_resid(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return x + mlp(ln_2(x + attn(ln_1(x))))


def _no_ln_1(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    x = x + attn(x)
    return x + mlp(ln_2(x))


def _no_attn(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return x + mlp(ln_2(x))


def _no_mlp(x: Any, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    return x + attn(ln_1(x))


def _embed_sinusoids(model: book.GPTModel, ids: Tensor) -> Tensor:
    width = model.tok_emb.embedding_dim
    position = torch.arange(ids.shape[1], dtype=torch.float64)[:, None]
    wave = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(1e4) / width))
    table = torch.zeros(ids.shape[1], width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(position * wave), torch.cos(position * wave)
    return model.tok_emb(ids) + table.to(model.tok_emb.weight)


def _embed_scaled(model: book.GPTModel, ids: Tensor) -> Tensor:
    return book.GPTModel.embed(model, ids) * math.sqrt(model.tok_emb.embedding_dim)


def _embed_next_ids(model: book.GPTModel, ids: Tensor) -> Tensor:
    return book.GPTModel.embed(model, (ids + 1) % model.tok_emb.num_embeddings)


def _final_norm_twice(model: book.GPTModel, ids: Tensor) -> Tensor:
    return model.out_head(model.final_norm(model.final_norm(model.trf_blocks(model.embed(ids)))))


_FC, _CPROJ = ("mlp.c_fc.bias",), ("attn.c_proj.bias", "mlp.c_proj.bias")

BEYOND: tuple[Mutant, ...] = (
    # weights
    Mutant("layers_reversed", "h.0.ln_1", weights=_from_layer(lambda layer, layers: layers - 1 - layer)),
    Mutant("layers_shifted", "h.0.ln_1", weights=_from_layer(lambda layer, layers: (layer - 1) % layers)),
    Mutant("layers_shared", "h.0.ln_1", weights=_from_layer(lambda layer, layers: layers - 1)),
    Mutant("qkv_rotated", "h.0.attn.c_attn", weights=_qkv_order(2, 0, 1)),
    Mutant(
        "qkv_strided", "h.0.attn.c_attn", weights=_qkv(lambda t, _: torch.cat([t[..., i::3] for i in range(3)], -1))
    ),
    Mutant("qkv_not_transposed", "h.0.attn.c_attn", weights=_in_every_block(_transpose_qkv)),
    Mutant("query_bias_dropped", "h.0.attn.c_attn", weights=_bias_part(0)),
    Mutant("value_bias_dropped", "h.0.attn.c_attn", weights=_bias_part(2)),
    Mutant("square_not_transposed", "h.0.attn.c_attn", weights=_in_every_block(_transpose_square)),
    Mutant("cproj_biases_dropped", "h.0.attn.c_proj", weights=_zero(*_CPROJ)),
    Mutant("mlp_cproj_bias_dropped", "h.0.mlp.c_proj", weights=_zero("mlp.c_proj.bias")),
    Mutant("fc_bias_dropped", "h.0.mlp.c_fc", weights=_zero(*_FC)),
    Mutant("linear_biases_dropped", "h.0.attn.c_attn", weights=_zero("attn.c_attn.bias", *_FC, *_CPROJ)),
    Mutant("all_biases_dropped", "h.0.ln_1", weights=_zero(".bias")),
    Mutant("ln_f_not_loaded", "ln_f", weights=_fresh_ln_f),
    Mutant("ln_gain_and_bias_exchanged", "h.0.ln_1", weights=_exchange_gains),
    Mutant("tensors_differ", "h.1.mlp.c_fc", weights=_fresh_fc),
    # formulas
    Mutant("ln_unbiased_std_plus_eps", "h.0.ln_1", part=("layer_norm", _norm_unbiased_outside)),
    Mutant("ln_divided_by_variance", "h.0.ln_1", part=("layer_norm", _norm_by_variance)),
    Mutant("ln_over_tokens", "h.0.ln_1", part=("layer_norm", _norm_over_tokens)),
    Mutant("ln_gain_plus_one", "h.0.ln_1", part=("layer_norm", _norm_gain_plus_one)),
    Mutant("act_other", "h.0.mlp.act", part=("gelu", F.mish)),
    Mutant("gelu_cubic", "h.0.mlp.act", part=("gelu", _gelu_tanh(cubic=0.44715))),
    Mutant("gelu_without_root", "h.0.mlp.act", part=("gelu", _gelu_tanh(scale=2 / math.pi))),
    # attention
    Mutant("scale_other", "h.0.attn", part=("attn_scores", _scaled(lambda heads, width: 0.1))),
    Mutant("mask_added", "h.0.attn", part=("attn_weights", lambda scores: (scores + (~_later(scores))).softmax(-1))),
    Mutant("softmax_dim_heads", "h.0.attn", part=("attn_weights", _masked(fill=-1e9, dim=1))),
    Mutant("scale_after_softmax", "h.0.attn", code=_replace(book.MultiHeadAttention, "attn_weights", _scaled_late)),
    Mutant("merge_headdim_first", "h.0.attn", part=("merge_heads", _merge_head_width_first)),
    # residual wiring
    Mutant("resid_missing", "h.0", part=("block", _no_resid)),
    Mutant("shortcut_not_updated", "h.0", part=("block", _stale_resid)),
    Mutant("attn_no_ln1", "h.0.ln_1", part=("block", _no_ln_1)),
    Mutant("attn_missing", "h.0.attn", part=("block", _no_attn)),
    Mutant("mlp_missing", "h.0.mlp", part=("block", _no_mlp)),
    # both ends
    Mutant("pos_zero", "wpe", code=_embed(lambda tokens, context: torch.zeros(tokens, dtype=torch.int64))),
    Mutant("pos_sinusoidal", "wpe", code=_replace(book.GPTModel, "embed", _embed_sinusoids)),
    Mutant("sum_sqrt_d", "h.0", code=_replace(book.GPTModel, "embed", _embed_scaled)),
    Mutant("ids_offset", "wte", code=_replace(book.GPTModel, "embed", _embed_next_ids)),
    Mutant("ln_f_twice", "ln_f", code=_replace(book.GPTModel, "forward", _final_norm_twice)),
    Mutant("logits_scaled", "logits", part=("logits", lambda logits: logits / 0.7)),
    Mutant("shifted_back", "logits", part=("logits", lambda logits: logits.roll(1, dims=1))),
    Mutant("logits_capped", "logits", part=("logits", lambda logits: 30 * torch.tanh(logits / 30))),
)

# Where diagnosis has one row for several mutants: its name, and the value of its parameter.
ROWS: dict[str, tuple[str, Any]] = {
    "ln_eps_1e-6": ("ln_eps", 1e-6),
    "ln_eps_1e-12": ("ln_eps", 1e-12),
    "ln_eps_1e-3": ("ln_eps", 1e-3),
    "mask_minus_10": ("mask_fill", -10.0),
    "last_layer_skipped": ("layer_skipped", None),
    "lm_head_random": ("lm_head_not_tied", None),
    "pos_plus1": ("pos_offset", 1),
}


def by_turns(mutants: Sequence[Mutant], turn: int, of: int) -> list[Any]:
    """These mutants as parameters of a test, every `of`-th in the default tier, the others marked `slow`.

    Several tests put every fault through a different check. With another `turn` in each of them, the default tier as a
    whole meets most faults, and ``-m slow`` meets every fault in every test.
    """
    number = {mutant.name: index for index, mutant in enumerate((*MUTANTS, *BEYOND))}
    return [
        pytest.param(each, id=each.name, marks=() if number[each.name] % of == turn else pytest.mark.slow)
        for each in mutants
    ]


def row_of(mutant: Mutant) -> tuple[str, Any]:
    """The row of the fault table that a mutant commits, and the value of its parameter, None where there is none."""
    return ROWS.get(mutant.name, (mutant.name, None))


def is_named(diagnosis: Diagnosis, *truth: tuple[str, Any]) -> bool:
    """Whether exactly these faults are named, or are one of the sets that are reported together."""
    sets = [diagnosis.faults, *diagnosis.alternatives] if diagnosis else []

    def same(found: Sequence[Finding]) -> bool:
        pairs = zip(sorted(found, key=lambda each: each.name), sorted(truth), strict=False)
        return len(found) == len(truth) and all(
            one.name == name and (value is None or math.isclose(one.value, value, rel_tol=0.05))
            for one, (name, value) in pairs
        )

    return any(same(each) for each in sets)
