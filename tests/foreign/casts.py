"""Casts that people write into right code, as edits of the styles' files: a matrix of style by cast.

In a float32 model none of them changes more than rounding. In a float64 model all but the mask leave float32's rounding
behind, so a check in float64 finds about a float32 noise floor of difference in right code. `tests.casts` changes what
PyTorch's functions do while any model runs; here the casts stand in the file, on a line of their own.

    path = edited(style, CASTS[style.name]["softmax_float"], folder)
    model = style.load(tensors, config, path)
"""

from collections.abc import Mapping

from tests.foreign import Edit

Edits = tuple[Edit, ...]

# Float32 weights are the only ones with which these run: torch's layer_norm wants input and weight of one dtype.
FLOAT32_ONLY = ("norm_subclass",)
# Zeros, ones and infinities are the same in every dtype.
EXACT = ("mask_float32",)


def softmax(call: str, operand: str, like: str) -> dict[str, Edits]:
    """The two spellings of a softmax in float32.

    Args:
        call: the softmax as it stands in the file.
        operand: what goes into it.
        like: a tensor in whose dtype the result is wanted.
    """
    back = f".to({like}.dtype)"
    method = call.startswith(f"{operand}.softmax")
    old, new = (operand, f"{operand}.float()") if method else (f"({operand}, ", f"(({operand}).float(), ")
    return {
        "softmax_float": ((call, call.replace(old, new, 1) + back),),
        "softmax_dtype": ((call, f"{call[:-1]}, dtype=torch.float32){back}"),),
    }


def scores(expression: str, like: str) -> dict[str, Edits]:
    """Scores that are computed and then turned into float32."""
    return {"scores_float": ((expression, f"({expression}).float().to({like}.dtype)"),)}


def one(name: str, old: str, new: str) -> dict[str, Edits]:
    return {name: ((old, new),)}


def gelu(constant: str) -> dict[str, Edits]:
    """The GELU's root in a tensor, which is float32 unless told otherwise."""
    return {"gelu_constant": ((constant, f"torch.tensor({constant})"),)}


def scale(root: str, value: str) -> dict[str, Edits]:
    """The root of the head's width as people compute it who want a tensor."""
    return {"scale_constant": ((root, f"torch.sqrt(torch.tensor({value}, dtype=torch.float32))"),)}


def functional_norm(call: str, x: str, weights: str) -> dict[str, Edits]:
    """`F.layer_norm` with everything in float32."""
    names = ", ".join(f"{name}.float()" for name in weights.split(", "))
    wide = call.replace(weights, names, 1).replace(f"({x}, ", f"({x}.float(), ", 1)
    return {"norm_float": ((call, f"{wide}.to({x}.dtype)"),)}


def input_norm(first: str, returned: str) -> dict[str, Edits]:
    """A norm by hand that turns its input into float32 and its result back.

    Args:
        first: the first line of its body.
        returned: the last one.
    """
    indent = returned[: len(returned) - len(returned.lstrip())]
    expression = returned.strip().removeprefix("return ")
    return {
        "norm_float": (
            (first, f"{indent}dtype, x = x.dtype, x.float()\n{first}"),
            (returned, f"{indent}return ({expression}).to(dtype)"),
        )
    }


def norm_subclass(before: str, *uses: str) -> dict[str, Edits]:
    """A subclass of `nn.LayerNorm` that computes in float32, in place of some uses of it."""
    subclass = (
        "class LayerNorm(nn.LayerNorm):\n    def forward(self, x):\n"
        "        return super().forward(x.to(torch.float32)).to(x.dtype)\n\n\n"
    )
    return {
        "norm_subclass": (
            (before, subclass + before),
            *((use, use.replace("nn.LayerNorm", "LayerNorm")) for use in uses),
        )
    }


ROOT = "math.sqrt(2 / math.pi)"
CASTS: Mapping[str, Mapping[str, Edits]] = {
    "book": {
        **softmax(
            "torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)",
            "scores.masked_fill(future, -torch.inf)",
            "scores",
        ),
        **scores("queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])", "keys"),
        **input_norm(
            "        mean = x.mean(dim=-1, keepdim=True)",
            "        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift",
        ),
        **gelu(ROOT),
        **scale("math.sqrt(keys.shape[-1])", "keys.shape[-1]"),
    },
    "mingpt": {
        **softmax("att.softmax(dim=-1)", "att", "v"),
    },
    "nanogpt": functional_norm(
        "F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)", "x", "self.weight, self.bias"
    ),
    "parallel_heads": {
        **softmax("scores.softmax(-1)", "scores", "v"),
        **scores('einsum("bqhd,bkhd->bhqk", q, k)', "q"),
        **scale("math.sqrt(q.shape[-1])", "q.shape[-1]"),
    },
    "head_list": {
        **softmax("F.softmax(wei, dim=-1)", "wei", "x"),
        **scores("q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5", "x"),
        **one(
            "mask_float32",
            'wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))',
            'wei + torch.zeros(T, T).masked_fill(self.tril[:T, :T] == 0, float("-inf"))',
        ),
        **norm_subclass(
            "class Block(nn.Module):",
            "self.ln1 = nn.LayerNorm(",
            "self.ln2 = nn.LayerNorm(",
            "self.ln_f = nn.LayerNorm(",
        ),
    },
    "annotated": {
        **softmax("scores.softmax(dim=-1)", "scores", "value"),
        **scores("torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(d_k)", "query"),
        **gelu("math.sqrt(2.0 / math.pi)"),
        **scale("math.sqrt(d_k)", "d_k"),
        **one("mask_float32", "scores.masked_fill(mask == 0, -1e9)", "scores + torch.where(mask, 0.0, -1e9)"),
    },
    "torch_mha": norm_subclass(
        "class Block(nn.Module):", "self.norm_attn = nn.LayerNorm(", "self.norm_ff = nn.LayerNorm("
    ),
    "sequence_first": {
        **softmax("torch.softmax(attn, dim=-1)", "attn", "v"),
        **scores("torch.baddbmm(src_mask, q, k.transpose(1, 2))", "q"),
    },
    "einsum_fused": {
        **softmax("torch.softmax(logits, dim=-1)", "logits", "v"),
        **scores('torch.einsum("bthd,bshd->bhts", q, k)', "q"),
        **gelu("0.7978845608028654"),
        **input_norm(
            "        mu = x.mean(-1, keepdim=True)",
            "        return centred * torch.rsqrt(variance + 1e-5) * self.scale + self.offset",
        ),
    },
    "scan_stack": functional_norm("F.layer_norm(x, (x.shape[-1],), g, b, eps)", "x", "g, b"),
    "interleaved": {
        **softmax("torch.softmax(attention_scores, dim=-1)", "attention_scores", "value"),
        **scores("torch.matmul(query, key.transpose(-1, -2)) / self.norm_factor", "query"),
        **gelu("0.79788456080286541"),
        **norm_subclass(
            "class ParallelTransformerLayer(nn.Module):",
            "self.input_layernorm = nn.LayerNorm(",
            "self.post_attention_layernorm = nn.LayerNorm(",
        ),
    },
    "conv1d_port": {
        **one("softmax_float", "nn.Softmax(dim=-1)(w)", "nn.Softmax(dim=-1)(w.float()).to(v.dtype)"),
        **scores("torch.matmul(q, k)", "q"),
        **gelu(ROOT),
        **scale("math.sqrt(v.size(-1))", "v.size(-1)"),
        **input_norm("        u = x.mean(-1, keepdim=True)", "        return self.g * x + self.b"),
    },
    "german": {
        **softmax("naehe.softmax(dim=-1)", "naehe", "werte"),
        **scores("fragen @ schluessel.transpose(-1, -2)", "fragen"),
        **gelu(ROOT),
        **scale("math.sqrt(schluessel.size(-1))", "schluessel.size(-1)"),
    },
    "hardcoded": {
        **softmax("F.softmax(a, dim=3)", "a", "v"),
        **scores("torch.matmul(q, k.transpose(2, 3)) / (11**0.5)", "q"),
        **scale("(11**0.5)", "11"),
    },
    "research_decoder": {
        **softmax("F.softmax(attn_weights, dim=-1)", "attn_weights", "v"),
        **scores("torch.bmm(q, k.transpose(1, 2))", "q"),
        **one(
            "mask_float32",
            'torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), 1)',
            'torch.full((dim, dim), float("-inf"), dtype=torch.float32), 1)',
        ),
    },
    "needs_targets": {
        **one("softmax_float", "att = att.exp()", "att = att.float().exp().to(v.dtype)"),
        **scores("(q @ k.mT) / math.sqrt(per_head)", "q"),
        **scale("math.sqrt(per_head)", "per_head"),
    },
    "padded_context": {
        **softmax("F.softmax(logits + self.causal, dim=-1)", "logits + self.causal", "v"),
        **scores('torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(d / h)', "q"),
        **scale("math.sqrt(d / h)", "d / h"),
    },
    "variable_store": {
        **one("softmax_float", "w = softmax(w)", "w = softmax(w.float()).to(v.dtype)"),
        **scores("torch.matmul(q, k.transpose(-1, -2))", "q"),
        **gelu(ROOT),
        **one("mask_float32", "return m.to(dtype)", "return m.float()"),
    },
    "own_layers": {
        **one(
            "softmax_float", "probs = softmax(scores, dim=-1)", "probs = softmax(scores.float(), dim=-1).to(V.dtype)"
        ),
        **scores('torch.einsum("...qd,...kd->...qk", Q, K) / math.sqrt(d_k)', "Q"),
        **gelu(ROOT),
        **input_norm(
            "        d = x.shape[-1]",
            "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta",
        ),
    },
    "bert_names": {
        **softmax("nn.functional.softmax(attention_scores, dim=-1)", "attention_scores", "value_layer"),
        **scores("attention_scores / math.sqrt(self.attention_head_size)", "query_layer"),
        **scale("math.sqrt(self.attention_head_size)", "self.attention_head_size"),
        **one(
            "mask_float32",
            "return (1.0 - allowed)[None, None, :, :] * torch.finfo(dtype).min",
            "return (1.0 - allowed.float())[None, None, :, :] * torch.finfo(torch.float32).min",
        ),
    },
    "head_sum": {
        **softmax("score.softmax(-1)", "score", "q"),
        **scores("q @ k.mT / np.sqrt(self.d_head)", "q"),
    },
    "token_by_token": {
        **softmax("torch.softmax(scores, dim=-1)", "scores", "values"),
        **scores("(keys @ q.unsqueeze(-1)).squeeze(-1)", "q"),
        **gelu(ROOT),
    },
    "conv1x1": {
        **softmax("F.softmax(scores, dim=-1)", "scores", "value"),
        **scores("torch.matmul(query, key.transpose(-2, -1)) * self.k_channels**-0.5", "query"),
        **input_norm(
            "        mean = x.mean(1, keepdim=True)",
            "        return x * self.gamma.view(1, -1, 1) + self.beta.view(1, -1, 1)",
        ),
    },
    "one_hot": {
        **softmax("torch.softmax(affinity, dim=-1)", "affinity", "v"),
        **scores("torch.matmul(q, k.swapaxes(2, 3)) * (self.n_heads / C) ** 0.5", "q"),
        **one("mask_float32", "torch.ones(T, T, dtype=x.dtype, device=x.device)", "torch.ones(T, T, device=x.device)"),
    },
    "pre_norm": {
        **softmax("sim.softmax(dim=-1)", "sim", "v"),
        **scores('torch.einsum("b h i d, b h j d -> b h i j", q, k)', "q"),
    },
    "hparams": {
        **softmax("scores.softmax(dim=-1)", "scores", "v"),
        **scores("q @ k.permute(0, 1, 3, 2) / (e // h) ** 0.5", "q"),
        **scale("(e // h) ** 0.5", "e // h"),
    },
}
