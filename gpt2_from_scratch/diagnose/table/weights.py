"""Faults of loading: the right code with weights in the wrong place, the wrong order, or not there at all."""

from collections.abc import Callable

import torch
from torch import Tensor

from gpt2_from_scratch.diagnose.fault import Change, Changes, Fault, Place, Remedy
from gpt2_from_scratch.diagnose.table.changes import BLOCK, NORMS, edited, everywhere, from_layer, taken_from, zeroed

_QKV = ("h.*.attn.c_attn",)
_PARTS = ("query", "key", "value")


def _qkv(rearranged: Callable[[Tensor, int], Tensor]) -> Changes:
    """Rearranges the columns of the fused layer, weight and bias alike; the function is given the number of heads."""

    def change(place: Place) -> Tensor:
        return rearranged(place.value, place.model.config.n_head)

    return everywhere(_QKV, "weight", change) | everywhere(_QKV, "bias", change)


def _in_order(order: tuple[int, ...]) -> Changes:
    return _qkv(lambda columns, _: torch.cat([columns.chunk(3, dim=-1)[part] for part in order], dim=-1))


def _interleaved(columns: Tensor, heads: int) -> Tensor:
    """Columns that are three blocks of heads, read as heads of three blocks."""
    return torch.unflatten(columns, -1, (heads, 3, -1)).transpose(-3, -2).flatten(-3)


def _without(part: str) -> Change:
    def change(bias: Tensor) -> Tensor:
        return torch.cat([b * (name != part) for name, b in zip(_PARTS, bias.chunk(3), strict=True)])

    return edited(change)


def _transposed_parts(weight: Tensor) -> Tensor:
    return torch.cat([part.t() for part in weight.chunk(3, dim=1)], dim=1)


def _given(tensor: Tensor) -> Change:
    return lambda place: tensor


def _lexicographic(layer: int, layers: int) -> int:
    return int(sorted(map(str, range(layers)))[layer])


_ROUNDINGS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _rounded(name: str) -> Changes:
    tensors = (*BLOCK, "wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "lm_head.weight")
    return dict.fromkeys(tensors, edited(lambda tensor: tensor.to(_ROUNDINGS[name]).to(tensor.dtype)))


FAULTS = (
    Fault(
        "layers_lexicographic",
        "layers were loaded in the order of their names as text: h.0, h.1, h.10, h.11, h.2 and so on",
        "drift; only in models of more than ten layers",
        Remedy("sort layers by number", "sorted(names, key=lambda name: int(name.split('.')[1]))"),
        "names of files and tensors are sorted as text wherever nothing else is asked for",
        from_layer(_lexicographic),
        needs=lambda config: config.n_layer > 10,
    ),
    Fault(
        "layers_reversed",
        "layers were loaded last to first",
        "gibberish",
        Remedy("load h.0 into the first block"),
        "a list of layers built with insert(0, ...)",
        from_layer(lambda layer, layers: layers - 1 - layer),
        needs=lambda config: config.n_layer > 1,
    ),
    Fault(
        "layers_shifted",
        "layers were loaded one too late: block i has the weights of h.(i-1), and the first those of the last",
        "gibberish",
        Remedy("count layers from 0: names go from h.0 to h.(L-1)"),
        "layers counted from 1",
        from_layer(lambda layer, layers: (layer - 1) % layers),
        needs=lambda config: config.n_layer > 1,
    ),
    Fault(
        "layers_shared",
        "all blocks are one block, and have the weights that were loaded last",
        "gibberish; the number of parameters is too small",
        Remedy(
            "build each block by itself; multiplying a list copies references",
            "[Block(config) for _ in range(n_layer)]",
        ),
        "multiplying a list copies references",
        from_layer(lambda layer, layers: layers - 1),
        needs=lambda config: config.n_layer > 1,
    ),
    Fault(
        "qk_swapped",
        "query and key are exchanged",
        "wrong text; the first position is exact",
        Remedy(
            "c_attn holds query, key, value in this order: load the first third into the query of {h.*.attn.c_attn}"
        ),
        "https://github.com/jsbaan/transformer-from-scratch/issues/1",
        _in_order((1, 0, 2)),
    ),
    Fault(
        "kv_swapped",
        "key and value are exchanged",
        "gibberish",
        Remedy("c_attn holds query, key, value in this order: load the last third into the value of {h.*.attn.c_attn}"),
        "https://github.com/jsbaan/transformer-from-scratch/issues/1",
        _in_order((0, 2, 1)),
    ),
    Fault(
        "qv_swapped",
        "query and value are exchanged",
        "gibberish",
        Remedy("c_attn holds query, key, value in this order: load the last third into the value of {h.*.attn.c_attn}"),
        "split(E) unpacked as v, k, q",
        _in_order((2, 1, 0)),
    ),
    Fault(
        "qkv_rotated",
        "query, key and value are read in the order {value}",
        "gibberish",
        Remedy("c_attn holds query, key, value in this order, in {h.*.attn.c_attn}"),
        "split(E) unpacked in another order",
        lambda order: _in_order(tuple("qkv".index(letter) for letter in order)),
        values=lambda config: ("kvq", "vqk"),
    ),
    Fault(
        "qkv_interleaved",
        "query, key and value are read head by head; GPT-2 keeps all queries, then all keys, then all values",
        "gibberish",
        Remedy("split c_attn into three thirds before splitting heads, in {h.*.attn.c_attn}"),
        "https://github.com/BlackSamorez/tensor_parallel/issues/103: the layout of GPT-NeoX and Megatron",
        _qkv(_interleaved),
        needs=lambda config: config.n_head > 1,
    ),
    Fault(
        "qkv_strided",
        "every third column is read as query, key or value; GPT-2's are three blocks of columns",
        "gibberish",
        Remedy(
            "view the last axis as (3, heads, width of a head), not (heads, width of a head, 3), in {h.*.attn.c_attn}"
        ),
        "reshape(..., 3) with the three on the wrong side",
        _qkv(lambda columns, _: torch.unflatten(columns, -1, (-1, 3)).transpose(-2, -1).flatten(-2)),
    ),
    Fault(
        "qkv_not_transposed",
        "the query, key and value weights are transposed",
        "gibberish; they are square, so no shape tells",
        Remedy(
            "GPT-2's file stores [in, out] and nn.Linear [out, in]: copy the transposed thirds into {h.*.attn.c_attn}"
        ),
        "https://github.com/karpathy/minGPT: the list of weights to transpose in from_pretrained",
        everywhere(_QKV, "weight", edited(_transposed_parts)),
    ),
    Fault(
        "qkv_bias_dropped",
        "query, key and value have no bias",
        "fluent text that drifts",
        Remedy("give the biases of {h.*.attn.c_attn} the file's values"),
        "https://github.com/rasbt/LLMs-from-scratch: qkv_bias=False is the book's default until weights are loaded",
        zeroed("h.*.attn.c_attn.bias"),
        remedies={
            "llms_from_scratch": Remedy("build the model with biases, then load the weights", '"qkv_bias": True')
        },
    ),
    Fault(
        "query_bias_dropped",
        "the query has no bias",
        "subtle drift; the first position is exact",
        Remedy("load the first third of c_attn.bias into {h.*.attn.c_attn}"),
        "one of three assignments forgotten",
        {"h.*.attn.c_attn.bias": _without("query")},
    ),
    Fault(
        "key_bias_dropped",
        "the key has no bias",
        "none in the logits: softmax does not see what is added to all scores of a query; training would differ",
        Remedy("load the second third of c_attn.bias into {h.*.attn.c_attn}"),
        "one of three assignments forgotten",
        {"h.*.attn.c_attn.bias": _without("key")},
    ),
    Fault(
        "value_bias_dropped",
        "the value has no bias",
        "subtle drift",
        Remedy("load the last third of c_attn.bias into {h.*.attn.c_attn}"),
        "one of three assignments forgotten",
        {"h.*.attn.c_attn.bias": _without("value")},
    ),
    Fault(
        "attn_cproj_not_T",
        "the attention's output projection is transposed",
        "gibberish; it is square, so no shape tells",
        Remedy("GPT-2's file stores [in, out] and nn.Linear [out, in]: copy weight.T into {h.*.attn.c_proj}"),
        "https://github.com/karpathy/minGPT: the list of weights to transpose in from_pretrained",
        {"h.*.attn.c_proj.weight": edited(lambda weight: weight.t())},
    ),
    Fault(
        "square_not_transposed",
        "all square weights are transposed: query, key, value and the attention's output projection",
        "gibberish; no shape tells",
        Remedy(
            "GPT-2's file stores [in, out] and nn.Linear [out, in]: transpose every linear weight, not those alone "
            "whose shape does not fit"
        ),
        "`if a.shape != b.shape: a = a.T`",
        {
            "h.*.attn.c_attn.weight": edited(_transposed_parts),
            "h.*.attn.c_proj.weight": edited(lambda weight: weight.t()),
        },
    ),
    Fault(
        "proj_biases_swapped",
        "the biases of the two output projections are exchanged",
        "subtle drift",
        Remedy("attn.c_proj.bias belongs to {h.*.attn.c_proj}, mlp.c_proj.bias to {h.*.mlp.c_proj}"),
        "both are called c_proj, and have the same shape",
        {
            "h.*.attn.c_proj.bias": taken_from("h.*.mlp.c_proj.bias"),
            "h.*.mlp.c_proj.bias": taken_from("h.*.attn.c_proj.bias"),
        },
    ),
    Fault(
        "cproj_bias_dropped",
        "the attention's output projection has no bias",
        "subtle drift",
        Remedy("load attn.c_proj.bias into {h.*.attn.c_proj}"),
        "bias=False in one layer",
        zeroed("h.*.attn.c_proj.bias"),
    ),
    Fault(
        "cproj_biases_dropped",
        "the two output projections have no bias",
        "subtle drift",
        Remedy("load c_proj.bias into {h.*.attn.c_proj} and {h.*.mlp.c_proj}"),
        "names matched by suffix",
        zeroed("h.*.attn.c_proj.bias", "h.*.mlp.c_proj.bias"),
    ),
    Fault(
        "mlp_cproj_bias_dropped",
        "the feed-forward layer's second projection has no bias",
        "subtle drift",
        Remedy("load mlp.c_proj.bias into {h.*.mlp.c_proj}"),
        "bias=False in one layer",
        zeroed("h.*.mlp.c_proj.bias"),
    ),
    Fault(
        "fc_bias_dropped",
        "the feed-forward layer's first projection has no bias",
        "drift",
        Remedy("load mlp.c_fc.bias into {h.*.mlp.c_fc}"),
        "bias=False in one layer",
        zeroed("h.*.mlp.c_fc.bias"),
    ),
    Fault(
        "linear_biases_dropped",
        "no linear layer has a bias",
        "drift",
        Remedy("build linear layers with bias=True and load their biases"),
        "bias=False, as in newer models",
        zeroed(*(f"h.*.{layer}.bias" for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))),
    ),
    Fault(
        "all_biases_dropped",
        "neither linear layers nor LayerNorms have a bias",
        "drift",
        Remedy("build the model with biases and load them"),
        "https://github.com/karpathy/nanoGPT: bias=False is the default for training",
        zeroed(*(path for path in BLOCK if path.endswith("bias")), "ln_f.bias"),
        remedies={"nanogpt": Remedy("build the model with biases, then load the weights", "GPTConfig(bias=True)")},
    ),
    Fault(
        "ln1_ln2_swapped",
        "the two LayerNorms of a block are exchanged",
        "drift",
        Remedy("ln_1 belongs before the attention ({h.*.ln_1}), ln_2 before the feed-forward layer ({h.*.ln_2})"),
        "both have the same shapes",
        {
            f"h.*.{norm}.{end}": taken_from(f"h.*.{other}.{end}")
            for norm, other in (("ln_1", "ln_2"), ("ln_2", "ln_1"))
            for end in ("weight", "bias")
        },
    ),
    Fault(
        "ln_shared",
        "ln_1's parameters serve both LayerNorms of a block",
        "drift",
        Remedy("give the feed-forward layer a LayerNorm of its own, {h.*.ln_2}, with ln_2's parameters"),
        "one norm module called twice",
        {f"h.*.ln_2.{end}": taken_from(f"h.*.ln_1.{end}") for end in ("weight", "bias")},
    ),
    Fault(
        "ln_bias_dropped",
        "no LayerNorm has a bias",
        "drift",
        Remedy("load the biases of {h.*.ln_1}, {h.*.ln_2} and {ln_f}"),
        "bias=False, as in newer models",
        zeroed(*(f"{norm}.bias" for norm in NORMS)),
    ),
    Fault(
        "ln_not_loaded",
        "the LayerNorms still have the parameters they were built with: gains 1, biases 0",
        "near gibberish",
        Remedy("load weight and bias of {h.*.ln_1}, {h.*.ln_2} and {ln_f}"),
        "gains called `scale`, `g` or `gamma`, skipped by strict=False",
        everywhere(NORMS, "weight", edited(torch.ones_like)) | zeroed(*(f"{norm}.bias" for norm in NORMS)),
    ),
    Fault(
        "ln_f_not_loaded",
        "the final LayerNorm still has the parameters it was built with: gains 1, biases 0",
        "drift",
        Remedy("load weight and bias of {ln_f}"),
        "its name lies outside the loop over layers",
        {"ln_f.weight": edited(torch.ones_like), "ln_f.bias": edited(torch.zeros_like)},
    ),
    Fault(
        "ln_gain_and_bias_exchanged",
        "LayerNorm's gain and bias are exchanged",
        "gibberish",
        Remedy("weight is the gain, bias the shift, in {h.*.ln_1}, {h.*.ln_2} and {ln_f}"),
        "scale and shift assigned the wrong way round",
        {f"{norm}.weight": taken_from(f"{norm}.bias") for norm in NORMS}
        | {f"{norm}.bias": taken_from(f"{norm}.weight") for norm in NORMS},
    ),
    Fault(
        "lm_head_not_tied",
        "the head is not the token embedding",
        "noise",
        Remedy("tie the head to the token embedding, after loading", "{lm_head}.weight = {wte}.weight"),
        "https://github.com/openai/gpt-2: the file holds no head, so one that is built stays random",
        lambda weight: {"lm_head.weight": _given(weight)},
        values=lambda config: (),  # it cannot be guessed; it is read from the weights, or fitted to the logits
    ),
    Fault(
        "tensors_differ",
        "some weights are neither the checkpoint's nor a rearrangement of them that is tried here",
        "anything",
        Remedy("load these tensors from the checkpoint; strict=False and partial matches of names skip silently"),
        "an incomplete load, training, or another checkpoint",
        lambda tensors: {name: _given(tensor) for name, tensor in tensors},
        values=lambda config: (),  # read from the weights
    ),
)

# Not faults: choices of precision, recognised so that nobody calls them one.
PRECISIONS = (
    Fault(
        "weights_rounded",
        "the weights were rounded to {value}",
        "slightly different logits",
        Remedy("none is needed; verify in the precision of the checkpoint to compare exactly"),
        "half the memory",
        _rounded,
        values=lambda config: tuple(_ROUNDINGS),
        harmless=True,
    ),
)
