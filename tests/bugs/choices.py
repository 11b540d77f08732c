"""Bugs in which Python chooses wrongly: by a name, a loop, an unpacking, a default, a closure or a return.

Whoever wrote the rules for them wrote these bugs, so their rate says nothing of others.
"""

from tests.bugs import Bug

SINGLE = (
    Bug(
        "annotated",
        "sublayer_index",
        "layers",
        "The index of the wrapper is 0 twice, so the feed-forward gets the norm of attention.",
        (("return self.sublayer[1](x, self.feed_forward)", "return self.sublayer[0](x, self.feed_forward)"),),
    ),
    Bug(
        "array_list",
        "rest_offset",
        "layers",
        "The last two arrays are unpacked in another order, so gain and shift of the last norm are exchanged.",
        (("wte, wpe, *rest, g, b = parameters", "wte, wpe, *rest, b, g = parameters"),),
    ),
    Bug(
        "book",
        "inplace_residual",
        "residual",
        "The sum is in place, so the shortcut that was kept under another name changes with it.",
        (
            (
                "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n        return x +",
                """\
        shortcut = x
        x += self.drop_shortcut(self.att(self.norm1(x)))
        return shortcut + x +""",
            ),
        ),
        guilty=("return shortcut + x +",),
    ),
    Bug(
        "book_fused",
        "permute_order",
        "heads",
        "Two axes are not exchanged, neither before nor after attention, so heads look at heads.",
        (
            ("qkv.permute(2, 0, 3, 1, 4)", "qkv.permute(2, 0, 1, 3, 4)"),
            ("context.transpose(1, 2).reshape", "context.reshape"),
        ),
        guilty=("queries, keys, values = qkv.permute(2, 0, 1, 3, 4)",),
    ),
    Bug(
        "conv1d_port",
        "a_forgotten",
        "residual",
        "What attention gives has a name, and is added nowhere.",
        (("x = x + a\n        m", "m"),),
        guilty=("a, present = self.attn(self.ln_1(x), layer_past)",),
    ),
    Bug(
        "einsum_fused",
        "mlp_names",
        "projection",
        "In the place of the last bias stands the layer's input.",
        (
            (
                'return torch.einsum("btf,fe->bte", h, self.down) + self.down_bias',
                'return torch.einsum("btf,fe->bte", h, self.down) + x',
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "norms_zip",
        "layers",
        "The pairs of norms are zipped in the other order before the loop.",
        (
            (
                """\
        for i, (attn, mlp) in enumerate(zip(self.attns, self.mlps, strict=True)):
            x = x + attn(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))""",
                """\
        pairs = zip(self.norms[1::2], self.norms[0::2])
        for (attn, mlp), (one, two) in zip(zip(self.attns, self.mlps), pairs):
            x = x + attn(one(x))
            x = x + mlp(two(x))""",
            ),
        ),
        guilty=("pairs = zip(self.norms[1::2], self.norms[0::2])",),
    ),
    Bug(
        "functional",
        "argument_default",
        "normalisation",
        "The default of epsilon is that of another library.",
        (
            (
                "def gpt2(ids: Tensor, params: Params, n_head: int, eps: float = 1e-5)",
                "def gpt2(ids: Tensor, params: Params, n_head: int, eps: float = 1e-12)",
            ),
        ),
    ),
    Bug(
        "functional",
        "movedim_wrong",
        "dataflow",
        "The fused result is unpacked as key, value, query.",
        (("q, k, v = qkv.movedim(2, 0)", "k, v, q = qkv.movedim(2, 0)"),),
    ),
    Bug(
        "german",
        "root_of_width",
        "attention scores",
        "The root is of the model's width, which has a name like that of a head.",
        (
            (
                "naehe = naehe / math.sqrt(schluessel.size(-1))",
                "breite = x.size(-1)\n        naehe = naehe / math.sqrt(breite)",
            ),
        ),
        guilty=(
            "breite = x.size(-1)",
            "naehe = naehe / math.sqrt(breite)",
        ),
    ),
    Bug(
        "hardcoded",
        "layers_skip",
        "layers",
        "A condition in the loop leaves out every third layer.",
        (
            (
                '            x = getattr(self, f"layer{i}")(x, self.mask)',
                """\
            if i % 3 != 1:
                x = getattr(self, f"layer{i}")(x, self.mask)""",
            ),
        ),
        guilty=("if i % 3 != 1:",),
    ),
    Bug(
        "head_list",
        "head_of_last_loop",
        "heads",
        "Each head is put before the others, so they are joined backwards.",
        (
            (
                "out = torch.cat([h(x) for h in self.heads], dim=-1)",
                """\
outs = []
        for h in self.heads:
            out = h(x)
            outs = [out, *outs]
        out = torch.cat(outs, dim=-1)""",
            ),
        ),
        guilty=("outs = [out, *outs]",),
    ),
    Bug(
        "head_sum",
        "range_of_heads",
        "heads",
        "The loop over the heads starts at the second.",
        (("for head in range(self.n_heads):", "for head in range(1, self.n_heads):"),),
    ),
    Bug(
        "head_sum",
        "split_order",
        "dataflow",
        "The weights of keys and values are unpacked in each other's place, their biases are not.",
        (("W_Q, W_K, W_V = self.W_QKV.split(d_resid, dim=1)", "W_Q, W_V, W_K = self.W_QKV.split(d_resid, dim=1)"),),
    ),
    Bug(
        "head_sum",
        "starts_from_stream",
        "projection",
        "The sum over the heads starts from the layer's input and not from the bias.",
        (("out = self.B_O.expand_as(resid)", "out = resid"),),
    ),
    Bug(
        "interleaved",
        "old_layernorm_output",
        "normalisation",
        "The second norm is called, and its result is thrown away.",
        (
            (
                """\
        layernorm_output = self.post_attention_layernorm(layernorm_input)
        mlp_output""",
                "        self.post_attention_layernorm(layernorm_input)\n        mlp_output",
            ),
        ),
        guilty=("self.post_attention_layernorm(layernorm_input)",),
    ),
    Bug(
        "jax_dict",
        "h_norm_reused",
        "normalisation",
        "The second norm is never taken, so the feed-forward reads what attention read.",
        (('        h_norm = layer_norm(h, params[f"transformer/h{i}_ln_2"])\n', ""),),
        guilty=('h = h + dense_block(h_norm, params, f"transformer/h{i}_mlp")',),
    ),
    Bug(
        "mingpt",
        "early_return",
        "residual",
        "The block returns before the feed-forward.",
        (
            (
                "        x = x + self.attn(self.ln_1(x))\n        return x +",
                """\
        x = x + self.attn(self.ln_1(x))
        if x.dim() == 3:
            return x
        return x +""",
            ),
        ),
        guilty=(
            "if x.dim() == 3:",
            "            return x",
        ),
    ),
    Bug(
        "needs_targets",
        "mask_of_ones",
        "attention mask",
        "The lower triangle is not taken, so the mask hides nothing.",
        (
            (
                "mask = torch.tril(torch.ones(length, length, device=inputs.device)).bool()",
                "mask = torch.ones(length, length, device=inputs.device).bool()",
            ),
        ),
    ),
    Bug(
        "needs_targets",
        "norms_unpacked",
        "layers",
        "The values of a dictionary are unpacked in the other order.",
        (
            (
                """\
        x = x + self.attention(self.norms["before_attention"](x), mask)
        x = x + self.mlp_out(self.mlp_act(self.mlp_in(self.norms["before_mlp"](x))))""",
                """\
        second, first = self.norms.values()
        x = x + self.attention(first(x), mask)
        x = x + self.mlp_out(self.mlp_act(self.mlp_in(second(x))))""",
            ),
        ),
        guilty=("second, first = self.norms.values()",),
    ),
    Bug(
        "needs_targets",
        "per_head_shadowed",
        "attention scores",
        "The width of a head gets a new value before it is used: the number of heads.",
        (("        att = (q @ k.mT)", "        per_head = k.shape[1]\n        att = (q @ k.mT)"),),
        guilty=("per_head = k.shape[1]",),
    ),
    Bug(
        "numbered_sequence",
        "index_flipped",
        "embedding",
        "The buffer of positions counts down.",
        (("torch.arange(length), persistent", "torch.arange(length).flip(0), persistent"),),
    ),
    Bug(
        "numpy_gpt2",
        "block_parameter_names",
        "layers",
        "Two parameters of a function are in each other's place, and it is called by position.",
        (
            (
                """\
def block(x: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function)""",
                """\
def block(x: Array, ln_2: Function, attn: Function, ln_1: Function, mlp: Function)""",
            ),
        ),
    ),
    Bug(
        "numpy_gpt2",
        "eps_squared",
        "normalisation",
        "The default of epsilon is a hundred times too large.",
        (("eps: float = 1e-5", "eps: float = 1e-3"),),
    ),
    Bug(
        "numpy_gpt2",
        "last_generator",
        "layers",
        "The loop's generator names each even layer twice.",
        (('for h in (f"h.{i}" for i in range(n_layer)):', 'for h in (f"h.{i // 2 * 2}" for i in range(n_layer)):'),),
    ),
    Bug(
        "one_norm_tensor",
        "mlp_of_next",
        "layers",
        "The sign of the index is wrong, so the feed-forwards are taken from the end.",
        (("up, down = self.mlp[layer]", "up, down = self.mlp[-layer]"),),
    ),
    Bug(
        "own_layers",
        "cached_norm",
        "normalisation",
        "A cache keeps the first norm's result, and gives it for the second, too.",
        (
            (
                """\
    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attn(self.ln1(x))
        return y + self.w2(gelu(self.w1(self.ln2(y))))""",
                """\
    def forward(self, x: Tensor) -> Tensor:
        norm = {}
        def normed(z):
            return norm.setdefault("z", self.ln1(z))
        y = x + self.attn(normed(x))
        return y + self.w2(gelu(self.w1(normed(y))))""",
            ),
        ),
        guilty=(
            'return norm.setdefault("z", self.ln1(z))',
            "return y + self.w2(gelu(self.w1(normed(y))))",
        ),
    ),
    Bug(
        "own_layers",
        "heads_shadow",
        "dataflow",
        "A chained assignment makes the keys the queries.",
        (
            (
                """\
Q, K, V = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))""",
                "Q = K = self.heads(self.q_proj(x))\n        V = self.heads(self.v_proj(x))",
            ),
        ),
        guilty=("Q = K = self.heads(self.q_proj(x))",),
    ),
    Bug(
        "own_layers",
        "kwargs_exchanged",
        "dataflow",
        "Keys and values are handed on under each other's keyword.",
        (
            (
                "out = scaled_dot_product_attention(Q, K, V, mask)",
                "out = scaled_dot_product_attention(Q, V=K, K=V, mask=mask)",
            ),
        ),
    ),
    Bug(
        "padded_context",
        "gen_order",
        "dataflow",
        "A generator runs over the three in another order than that of the names.",
        (("for z in (q, k, v))", "for z in (q, v, k))"),),
    ),
    Bug(
        "parallel_heads",
        "ignore_is_zero",
        "attention mask",
        "The buffer with which scores are hidden holds 0.",
        (("torch.tensor(-torch.inf)", "torch.tensor(0.0)"),),
    ),
    Bug(
        "pico",
        "heads_zip_reversed",
        "dataflow",
        "The three parts of the fused result are reversed before they are unpacked.",
        (("np.split(x, 3, axis=-1)]", "reversed(np.split(x, 3, axis=-1))]"),),
    ),
    Bug(
        "pico",
        "mask_added_after",
        "attention mask",
        "The mask is added after the softmax.",
        (
            (
                "return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v",
                "return (softmax(q @ k.T / q.shape[-1] ** 0.5) + mask) @ v",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "attn_returned",
        "projection",
        "The method returns before the last projection.",
        (("return self.out_proj(attn), attn_weights", "return attn, attn_weights"),),
    ),
    Bug(
        "token_by_token",
        "values_given_keys",
        "dataflow",
        "The memory keeps the key where it should keep the value.",
        (("self.values[layer].append(value)", "self.values[layer].append(key)"),),
    ),
    Bug(
        "torch_mha",
        "mask_dropped",
        "attention mask",
        "None is handed on in the place of the mask.",
        (("x = layer(x, causal)", "x = layer(x, None)"),),
    ),
)

BUGS = SINGLE
