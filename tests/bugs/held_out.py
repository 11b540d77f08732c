"""Bugs to measure a diagnosis with: one third of the list, drawn by chance within each style and kind.

Whoever writes or changes a rule of the diagnosis does not read this file, and nothing is tuned on it. At the end stand
pairs and triples of them in one file.
"""

from tests.bugs import Bug

SINGLE = (
    Bug(
        "head_list",
        "erf_gelu",
        "activation",
        "The feed-forward layer uses the exact GELU instead of its tanh form.",
        (('            nn.GELU(approximate="tanh"),', "            nn.GELU(),"),),
    ),
    Bug(
        "head_list",
        "mask_after_softmax",
        "attention mask",
        "The mask is applied to the probabilities, so rows do not sum to one.",
        (
            (
                (
                    '        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))\n'
                    "        wei = F.softmax(wei, dim=-1)"
                ),
                ("        wei = F.softmax(wei, dim=-1)\n        wei = wei.masked_fill(self.tril[:T, :T] == 0, 0.0)"),
            ),
        ),
    ),
    Bug(
        "head_list",
        "scale_missing_root",
        "attention scores",
        "Scores are divided by the head size and not by its square root.",
        (("k.shape[-1] ** -0.5", "k.shape[-1] ** -1.0"),),
    ),
    Bug(
        "head_list",
        "position_not_added",
        "embedding",
        "The position embedding is computed and not used.",
        (("        x = tok_emb + pos_emb", "        x = tok_emb"),),
    ),
    Bug(
        "head_list",
        "heads_reversed",
        "heads",
        "The heads are concatenated in reverse order.",
        (("[h(x) for h in self.heads]", "[h(x) for h in reversed(self.heads)]"),),
    ),
    Bug(
        "head_list",
        "final_norm_missing",
        "normalisation",
        "The final norm is never applied.",
        ((("        x = self.ln_f(x)\n        logits = self.lm_head(x)"), "        logits = self.lm_head(x)"),),
        guilty=("logits = self.lm_head(x)",),
    ),
    Bug(
        "head_list",
        "value_from_key",
        "projection",
        "The value is computed by the key layer.",
        (("        v = self.value(x)", "        v = self.key(x)"),),
    ),
    Bug(
        "head_list",
        "softmax_over_queries",
        "softmax",
        "The softmax runs over the queries instead of the keys.",
        (("        wei = F.softmax(wei, dim=-1)", "        wei = F.softmax(wei, dim=-2)"),),
    ),
    Bug(
        "annotated",
        "mask_allows_next_token",
        "attention mask",
        "The diagonal is off by one: every position sees the next token.",
        (("torch.triu(torch.ones(1, size, size), diagonal=1)", "torch.triu(torch.ones(1, size, size), diagonal=2)"),),
    ),
    Bug(
        "annotated",
        "embedding_scaled",
        "embedding",
        "Embeddings are multiplied by the root of the width, as in the paper; GPT-2 does not.",
        (
            (
                "self.decoder(self.lut(tgt) + self.pe(positions), mask)",
                "self.decoder(self.lut(tgt) * math.sqrt(self.lut.embedding_dim) + self.pe(positions), mask)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "view_without_transpose",
        "heads",
        "The view puts heads before positions, which mixes positions and heads.",
        (
            (
                "lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)",
                "lin(x).view(nbatches, self.h, -1, self.d_k)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "eps_typo",
        "normalisation",
        "Epsilon is 1e-6, the paper's, instead of GPT-2's 1e-5.",
        (("    def __init__(self, features, eps=1e-5):", "    def __init__(self, features, eps=1e-6):"),),
    ),
    Bug(
        "annotated",
        "norm_after_sublayer",
        "normalisation",
        "The sublayer's output is normed instead of its input.",
        (
            (
                "        return x + self.dropout(sublayer(self.norm(x)))",
                "        return x + self.dropout(self.norm(sublayer(x)))",
            ),
        ),
    ),
    Bug(
        "annotated",
        "residual_from_norm",
        "residual",
        "The residual connection starts from the normed value.",
        (
            (
                "        return x + self.dropout(sublayer(self.norm(x)))",
                ("        x = self.norm(x)\n        return x + self.dropout(sublayer(x))"),
            ),
        ),
        guilty=("x = self.norm(x)",),
    ),
    Bug(
        "torch_mha",
        "number_of_heads",
        "heads",
        "The number of heads is halved.",
        (("nn.MultiheadAttention(embed_dim, num_heads,", "nn.MultiheadAttention(embed_dim, num_heads // 2,"),),
    ),
    Bug(
        "torch_mha",
        "key_not_normed",
        "normalisation",
        "Keys and values come from the stream without the norm.",
        (
            (
                "self.attn(h, h, h, attn_mask=causal, need_weights=False)",
                "self.attn(h, x, x, attn_mask=causal, need_weights=False)",
            ),
        ),
    ),
    Bug(
        "torch_mha",
        "value_not_normed",
        "normalisation",
        "Only the values come from the stream without the norm.",
        (
            (
                "self.attn(h, h, h, attn_mask=causal, need_weights=False)",
                "self.attn(h, h, x, attn_mask=causal, need_weights=False)",
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "gelu_one_missing",
        "activation",
        "The cubic polynomial lost its 1.",
        (("0.7978845608028654 * h * (1 + 0.044715 * h * h)", "0.7978845608028654 * h * (0.044715 * h * h)"),),
    ),
    Bug(
        "einsum_fused",
        "einsum_scores_transposed",
        "attention scores",
        "The letters of the scores' einsum are exchanged.",
        (('"bthd,bshd->bhts", q, k)', '"bthd,bshd->bhst", q, k)'),),
    ),
    Bug(
        "einsum_fused",
        "norm_index",
        "layers",
        "The index of the second norm is that of the first.",
        (("self.norms[2 * i + 1](x)", "self.norms[2 * i](x)"),),
    ),
    Bug(
        "einsum_fused",
        "bias_axis",
        "linear",
        "Every one of q, k, v gets the query's bias.",
        (("self.qkv_bias[:, None, None]", "self.qkv_bias[:1, None, None]"),),
    ),
    Bug(
        "einsum_fused",
        "norm_eps_outside_root",
        "normalisation",
        "Epsilon is added to the reciprocal root.",
        (("torch.rsqrt(variance + 1e-5)", "(torch.rsqrt(variance) + 1e-5)"),),
    ),
    Bug(
        "einsum_fused",
        "qkv_letters",
        "projection",
        "The stack is unpacked in the order q, v, k.",
        (
            (
                '        q, k, v = torch.einsum("bte,echd->cbthd", x, self.qkv)',
                '        q, v, k = torch.einsum("bte,echd->cbthd", x, self.qkv)',
            ),
        ),
    ),
    Bug(
        "scan_stack",
        "not_causal",
        "attention mask",
        "is_causal is False.",
        (("is_causal=True", "is_causal=False"),),
    ),
    Bug(
        "scan_stack",
        "position_first_row",
        "embedding",
        "The first row of the position table is added everywhere.",
        (("+ self.wpe[:T]", "+ self.wpe[:1]"),),
    ),
    Bug(
        "scan_stack",
        "layer_index_shifted",
        "layers",
        "Each step reads the weights of the layer before, and the first step those of the last.",
        (("name: stacked[i] for", "name: stacked[i - 1] for"),),
    ),
    Bug(
        "scan_stack",
        "wo_transposed",
        "linear",
        "The square output weight is transposed.",
        (('o @ w["wo"] + w["bo"]', 'o @ w["wo"].T + w["bo"]'),),
    ),
    Bug(
        "scan_stack",
        "eps_default",
        "normalisation",
        "The default epsilon is 1e-8.",
        (("eps=1e-5", "eps=1e-8"),),
    ),
    Bug(
        "interleaved",
        "gelu_half_twice",
        "activation",
        "The one half is applied twice.",
        (("x * 0.5 * (1.0 + torch.tanh(", "x * 0.5 * (0.5 + 0.5 * torch.tanh("),),
    ),
    Bug(
        "interleaved",
        "dropout_training_true",
        "dropout",
        "Dropout is called with training=True.",
        (
            (
                "        return layernorm_input + self.hidden_dropout(mlp_output)",
                "        return layernorm_input + nn.functional.dropout(mlp_output, 0.1, training=True)",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "split_as_blocks",
        "heads",
        "The fused layer is split as three blocks, although it is interleaved by head.",
        (
            (
                (
                    "        mixed_x_layer = mixed_x_layer.view(b, s, self.num_heads, 3 * "
                    "self.hidden_size_per_head)\n"
                    "        query, key, value = mixed_x_layer.split(self.hidden_size_per_head, dim=-1)"
                ),
                (
                    "        query, key, value = mixed_x_layer.view(b, s, 3, self.num_heads, "
                    "self.hidden_size_per_head).unbind(2)"
                ),
            ),
        ),
    ),
    Bug(
        "interleaved",
        "norms_exchanged",
        "normalisation",
        "The MLP's input is normed by the input norm.",
        (("self.post_attention_layernorm(layernorm_input)", "self.input_layernorm(layernorm_input)"),),
    ),
    Bug(
        "interleaved",
        "residual_post_layernorm",
        "residual",
        "The residual is taken after the layer norm, an option that GPT-2 does not use.",
        (
            (
                "        layernorm_input = hidden_states + self.hidden_dropout(attention_output)",
                "        layernorm_input = layernorm_output + self.hidden_dropout(attention_output)",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "mask_scale_order",
        "attention mask",
        "The mask's constant is multiplied and not subtracted: future scores become 0.",
        (("        w = w * m - 1e10 * (1 - m)", "        w = w * m"),),
    ),
    Bug(
        "conv1d_port",
        "scale_off",
        "attention scores",
        "The default of scale is False.",
        (
            (
                "    def __init__(self, nx, n_ctx, cfg, scale=True):",
                "    def __init__(self, nx, n_ctx, cfg, scale=False):",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "mlp_norm_output_residual",
        "dataflow",
        "The variable is overwritten by the norm, so the residual is the normed value.",
        (
            (
                "        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))",
                ("        x = self.ln_2(x)\n        m = self.c_proj(gelu(self.c_fc(x)))"),
            ),
        ),
        guilty=("x = self.ln_2(x)",),
    ),
    Bug(
        "conv1d_port",
        "head_count_wrong",
        "heads",
        "The number of heads is halved when the configuration is read.",
        (('        self.n_head = cfg["n_head"]', '        self.n_head = cfg["n_head"] // 2'),),
    ),
    Bug(
        "conv1d_port",
        "layers_from_second",
        "layers",
        "The loop begins with the second block.",
        (
            (
                "        for block, layer_past in zip(self.h, past, strict=True):",
                "        for block, layer_past in zip(self.h[1:], past[1:], strict=True):",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "norm_variance_unbiased",
        "normalisation",
        "std() of torch is unbiased.",
        (
            (
                "        x = (x - u) / torch.sqrt(s + self.e)",
                "        x = (x - u) / torch.sqrt(x.std(-1, keepdim=True) ** 2 + self.e)",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "norm_variance_of_x",
        "normalisation",
        "The mean is forgotten in the variance.",
        (("        s = (x - u).pow(2).mean(-1, keepdim=True)", "        s = x.pow(2).mean(-1, keepdim=True)"),),
    ),
    Bug(
        "conv1d_port",
        "softmax_dim",
        "softmax",
        "The softmax runs over the queries.",
        (("        w = nn.Softmax(dim=-1)(w)", "        w = nn.Softmax(dim=2)(w)"),),
    ),
    Bug(
        "german",
        "sigmoid_before_head",
        "activation",
        "An activation too many before the head.",
        (("self.kopf(self.norm_ende(x))", "self.kopf(torch.tanh(self.norm_ende(x)))"),),
    ),
    Bug(
        "german",
        "scale_by_length",
        "attention scores",
        "The scores are divided by the root of the sequence's length.",
        (
            (
                "        naehe = naehe / math.sqrt(schluessel.size(-1))",
                "        naehe = naehe / math.sqrt(schluessel.size(-2))",
            ),
        ),
    ),
    Bug(
        "german",
        "output_not_kept",
        "dataflow",
        "Every layer reads the embeddings, and only the last layer's result is kept.",
        (("            x = schicht(x)", ("            y = schicht(x)\n        x = y")),),
        guilty=("y = schicht(x)",),
    ),
    Bug(
        "german",
        "first_layer_twice",
        "layers",
        "The loop always runs the first layer.",
        (("            x = schicht(x)", "            x = self.schichten[0](x)"),),
    ),
    Bug(
        "german",
        "mean_over_sequence",
        "normalisation",
        "The mean is taken over the sequence.",
        (("        mittel = x.mean(dim=-1, keepdim=True)", "        mittel = x.mean(dim=1, keepdim=True)"),),
    ),
    Bug(
        "german",
        "norms_swapped",
        "normalisation",
        "The two norms of a layer are exchanged.",
        (
            ("self.aufmerksamkeit(self.norm_a(x))", "self.aufmerksamkeit(self.norm_b(x))"),
            ("self.netz(self.norm_b(x))", "self.netz(self.norm_a(x))"),
        ),
    ),
    Bug(
        "german",
        "second_residual_missing",
        "residual",
        "The feed-forward output is returned without the residual.",
        (("        return x + self.netz(self.norm_b(x))", "        return self.netz(self.norm_b(x))"),),
    ),
    Bug(
        "german",
        "softmax_twice",
        "softmax",
        "The softmax is applied twice.",
        (("        gewichte = naehe.softmax(dim=-1)", "        gewichte = naehe.softmax(dim=-1).softmax(dim=-1)"),),
    ),
    Bug(
        "research_decoder",
        "scaling_squared",
        "attention scores",
        "The scaling's exponent is -1.",
        (("        self.scaling = self.head_dim**-0.5", "        self.scaling = self.head_dim**-1"),),
    ),
    Bug(
        "research_decoder",
        "inplace_embedding",
        "dataflow",
        "The token table itself is changed in place: every call adds the positions again.",
        (
            (
                ("        x = self.embed_tokens(prev_output_tokens)\n        x += self.embed_positions(positions)"),
                (
                    "        x = self.embed_tokens(prev_output_tokens)\n"
                    "        self.embed_tokens.weight.data[prev_output_tokens] += "
                    "self.embed_positions(positions)\n"
                    "        x = self.embed_tokens(prev_output_tokens)"
                ),
            ),
        ),
        guilty=("self.embed_tokens.weight.data[prev_output_tokens] +=",),
    ),
    Bug(
        "research_decoder",
        "attention_merge",
        "heads",
        "The transposition before the merge is missing.",
        (
            (
                "        attn = attn.transpose(0, 1).contiguous().view(tgt_len, bsz, embed_dim)",
                "        attn = attn.contiguous().view(tgt_len, bsz, embed_dim)",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "gelu_sigmoid",
        "activation",
        "The sigmoid approximation is used.",
        (
            (
                "    cdf = 0.5 * (1.0 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3)))",
                "    cdf = 1.0 / (1.0 + np.exp(-1.702 * x))",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "scale_twice",
        "attention scores",
        "Queries are scaled, and the scores again.",
        (
            (
                '    q = heads(linear(x, params[f"{name}/query"]))',
                ('    q = heads(linear(x, params[f"{name}/query"])) / np.sqrt(d_model // num_heads).astype(x.dtype)'),
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "stale_norm",
        "dataflow",
        "The MLP gets the normed value from before the attention.",
        (
            (
                ('        h_norm = layer_norm(h, params[f"transformer/h{i}_ln_2"])\n        h = h + dense_block'),
                "        h = h + dense_block",
            ),
        ),
        guilty=("h = h + dense_block",),
    ),
    Bug(
        "jax_dict",
        "reshape_width_first",
        "heads",
        "Heads and head width are exchanged in the reshape.",
        (
            (
                "        return np.reshape(y, (batch, seq_len, num_heads, d_model // num_heads))",
                ("        return np.reshape(y, (batch, seq_len, d_model // num_heads, num_heads)).swapaxes(2, 3)"),
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "offset_scaled",
        "normalisation",
        "The offset is subtracted.",
        (('inv * (x - mean) + params["offset"]', 'inv * (x - mean) - params["offset"]'),),
    ),
    Bug(
        "jax_dict",
        "variance_ddof",
        "normalisation",
        "ddof=1 divides by n - 1.",
        (("np.var(x, axis=-1, keepdims=True)", "np.var(x, axis=-1, keepdims=True, ddof=1)"),),
    ),
    Bug(
        "jax_dict",
        "softmax_forgotten_exp",
        "softmax",
        "The numerator forgets the maximum that the denominator subtracts.",
        (
            (
                "    return unnormalized / np.sum(unnormalized, axis=axis, keepdims=True)",
                "    return np.exp(x) / np.sum(unnormalized, axis=axis, keepdims=True)",
            ),
        ),
    ),
    Bug(
        "array_list",
        "sqrt_of_n",
        "attention scores",
        "The root is taken of the sequence's length.",
        (("np.sqrt(q.shape[1])", "np.sqrt(q.shape[0])"),),
    ),
    Bug(
        "array_list",
        "last_layer_lost",
        "layers",
        "The range stops one layer early.",
        (("range(0, len(rest), PER_LAYER)", "range(0, len(rest) - PER_LAYER, PER_LAYER)"),),
    ),
    Bug(
        "array_list",
        "unpacking_second",
        "linear",
        "The output bias and the second norm's gain are exchanged, two vectors of one length.",
        (("w_o, b_o, g2, b2", "w_o, g2, b_o, b2"),),
    ),
    Bug(
        "array_list",
        "unpacking_order",
        "normalisation",
        "Gain and shift of the first norm are unpacked in the wrong order.",
        (("    g1, b1, w_qkv", "    b1, g1, w_qkv"),),
    ),
    Bug(
        "variable_store",
        "mask_value_added",
        "attention mask",
        "The filler is added instead of subtracted.",
        (("        w = w * b - 1e10 * (1 - b)", "        w = w * b - 1e-10 * (1 - b)"),),
    ),
    Bug(
        "variable_store",
        "split_states_order",
        "heads",
        "The two new axes are exchanged.",
        (("    return x.reshape([*start, n, m // n])", "    return x.reshape([*start, m // n, n]).mT"),),
    ),
    Bug(
        "variable_store",
        "kernel_reshaped_transposed",
        "linear",
        "A square kernel is reshaped after a transpose.",
        (("w.reshape(-1, nf)", "(w.mT if nx == nf else w).reshape(-1, nf)"),),
    ),
    Bug(
        "variable_store",
        "axis_wrong",
        "normalisation",
        "Variance over the sequence: the axis is not handed on.",
        (
            (
                "        s = (x - u).square().mean(dim=axis, keepdim=True)",
                "        s = (x - u).square().mean(dim=1, keepdim=True)",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "mlp_residual",
        "residual",
        "The MLP's output is added to the attention's output, and the stream before them is lost.",
        (("        x = x + m", "        x = a + m"),),
    ),
    Bug(
        "own_layers",
        "gelu_missing_half",
        "activation",
        "The factor one half of the GELU is missing.",
        (("    return 0.5 * x * (1 + torch.tanh(inner))", "    return x * (1 + torch.tanh(inner))"),),
    ),
    Bug(
        "own_layers",
        "mask_direction",
        "attention mask",
        "The comparison is turned round, so positions see the future and not the past.",
        (("        mask = seq[:, None] >= seq", "        mask = seq[:, None] <= seq"),),
    ),
    Bug(
        "own_layers",
        "feed_forward_from_x",
        "dataflow",
        "The second residual connection starts from the block's input, a stale variable.",
        (
            (
                "        return y + self.w2(gelu(self.w1(self.ln2(y))))",
                "        return x + self.w2(gelu(self.w1(self.ln2(y))))",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "heads_merged_d_first",
        "heads",
        "Heads are merged with the head's width first.",
        (("out.movedim(-3, -2).flatten(-2)", "out.movedim(-3, -1).flatten(-2)"),),
    ),
    Bug(
        "own_layers",
        "linear_bias_missing",
        "linear",
        "The bias is never added.",
        (
            (
                'torch.einsum("...i,oi->...o", x, self.weight) + self.bias',
                'torch.einsum("...i,oi->...o", x, self.weight)',
            ),
        ),
    ),
    Bug(
        "own_layers",
        "mean_not_subtracted",
        "normalisation",
        "The mean is not subtracted from the numerator.",
        (("self.gamma * ((x - mean) / torch.sqrt", "self.gamma * (x / torch.sqrt"),),
    ),
    Bug(
        "own_layers",
        "softmax_clamped_denominator",
        "numerics",
        "The denominator is clamped too high.",
        (
            (
                "    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True)",
                "    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True).clamp(min=2.0)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "bert_gelu",
        "activation",
        "BERT's exact GELU is left in.",
        (
            (
                '        intermediate = nn.functional.gelu(intermediate, approximate="tanh")',
                "        intermediate = nn.functional.gelu(intermediate)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "scale_all_head_size",
        "attention scores",
        "The scale uses all heads' width.",
        (("math.sqrt(self.attention_head_size)", "math.sqrt(self.all_head_size)"),),
    ),
    Bug(
        "bert_names",
        "residual_past_attention",
        "dataflow",
        "The second residual comes from before the attention.",
        (
            (
                "        return self.output(intermediate, attention_output)",
                "        return self.output(intermediate, hidden_states)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "context_not_permuted",
        "heads",
        "The context is permuted wrongly before the merge.",
        (
            (
                "        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()",
                "        context_layer = context_layer.transpose(1, 2).transpose(-1, -2).contiguous()",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "norm_mid_twice",
        "normalisation",
        "The middle norm is applied twice.",
        (
            (
                'self.intermediate["dense"](self.LayerNorm_mid(attention_output))',
                'self.intermediate["dense"](self.LayerNorm_mid(self.LayerNorm_mid(attention_output)))',
            ),
        ),
    ),
    Bug(
        "bert_names",
        "value_is_input",
        "projection",
        "The values are the layer's input: the value layer is not called.",
        (
            (
                "        value_layer = self.transpose_for_scores(self.value(hidden_states))",
                "        value_layer = self.transpose_for_scores(hidden_states)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "output_residual_is_hidden",
        "residual",
        "The wrong argument is added in the attention's output.",
        (
            (
                '        attention_output = self.attention["output"](self_output, hidden_states)',
                '        attention_output = self.attention["output"](self_output, self_output)',
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "memory_window",
        "dataflow",
        "Only the last eight tokens are remembered.",
        (
            (
                ("        return torch.stack(self.keys[layer], dim=2), torch.stack(self.values[layer], dim=2)"),
                (
                    "        return torch.stack(self.keys[layer][-8:], dim=2), "
                    "torch.stack(self.values[layer][-8:], dim=2)"
                ),
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "logits_order",
        "head",
        "The logits are stacked from last to first.",
        (("        return torch.stack(logits, dim=1)", "        return torch.stack(logits[::-1], dim=1)"),),
    ),
    Bug(
        "token_by_token",
        "keys_detached_rounding",
        "numerics",
        "Remembered keys are stored in half precision.",
        (("        self.keys[layer].append(key)", "        self.keys[layer].append(key.half().to(key.dtype))"),),
    ),
    Bug(
        "token_by_token",
        "softmax_dim_heads",
        "softmax",
        "The softmax runs over the heads.",
        (("torch.softmax(scores, dim=-1)", "torch.softmax(scores, dim=1)"),),
    ),
    Bug(
        "conv1x1",
        "mask_fill_positive",
        "attention mask",
        "A missing minus.",
        (("mask == 0, -1e4)", "mask == 0, 1e-4)"),),
    ),
    Bug(
        "conv1x1",
        "merge_no_transpose",
        "heads",
        "The transposition before the merge is missing.",
        (
            (
                "        output = output.transpose(2, 3).contiguous().view(b, d, t)",
                "        output = output.contiguous().view(b, d, t)",
            ),
        ),
    ),
    Bug(
        "conv1x1",
        "zip_lists_swapped",
        "normalisation",
        "The two lists of norms are exchanged.",
        (
            (
                "self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True",
                "self.attn_layers, self.norm_layers_2, self.ffn_layers, self.norm_layers_1, strict=True",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "filler_missing",
        "attention mask",
        "The large factor of the filler is missing.",
        (
            (
                "        affinity = affinity * lower + (lower - 1.0) * 1e9",
                "        affinity = affinity * lower + (lower - 1.0)",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "word_matrix_twice",
        "embedding",
        "Words are added twice.",
        (
            (
                "        x = self.word_matrix(words) + self.place_matrix(places)",
                "        x = self.word_matrix(words) + self.place_matrix(places) + self.word_matrix(words)",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "eps_outside_root",
        "normalisation",
        "Epsilon stands outside the root.",
        (("(var + 1e-5).sqrt()", "(var.sqrt() + 1e-5)"),),
    ),
    Bug(
        "one_hot",
        "correction_one",
        "normalisation",
        "var_mean's default correction.",
        (("torch.var_mean(x, dim=-1, keepdim=True, correction=0)", "torch.var_mean(x, dim=-1, keepdim=True)"),),
    ),
    Bug(
        "one_hot",
        "alpha",
        "residual",
        "torch.add with a forgotten alpha.",
        (("        return torch.add(x, self.slim(h))", "        return torch.add(x, self.slim(h), alpha=0.1)"),),
    ),
    Bug(
        "numbered_sequence",
        "dropout_in_attention",
        "dropout",
        "dropout_p is given without regard to the mode.",
        (
            (
                "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
                "F.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=True)",
            ),
        ),
    ),
    Bug(
        "numbered_sequence",
        "unembed_normalised",
        "head",
        "The table is normalised before it is used as head.",
        (("F.linear(x, self.embedding[0].weight)", "F.linear(x, F.normalize(self.embedding[0].weight, dim=-1))"),),
    ),
    Bug(
        "numbered_sequence",
        "second_norm_missing",
        "normalisation",
        "The feed-forward wrapper has no norm.",
        (("nn.LayerNorm(dim), nn.Linear(dim, 4 * dim)", "nn.Identity(), nn.Linear(dim, 4 * dim)"),),
    ),
    Bug(
        "numbered_sequence",
        "residual_doubled",
        "residual",
        "The residual is doubled.",
        (("        return x + self.fn(x)", "        return x + x + self.fn(x)"),),
    ),
    Bug(
        "pre_norm",
        "scale_dim",
        "attention scores",
        "The scale is that of the width.",
        (("        self.scale = dim_head**-0.5", "        self.scale = inner_dim**-0.5"),),
    ),
    Bug(
        "pre_norm",
        "dropout_rate",
        "dropout",
        "Dropout is called as a function without its flag.",
        (
            (
                "        return self.to_out(out.transpose(1, 2).flatten(2))",
                "        return nn.functional.dropout(self.to_out(out.transpose(1, 2).flatten(2)), 0.2)",
            ),
        ),
    ),
    Bug(
        "pre_norm",
        "sandwich",
        "normalisation",
        "Each function's output is normed instead of its input.",
        (("        return self.fn(self.norm(x), **kwargs)", "        return self.norm(self.fn(x, **kwargs))"),),
    ),
    Bug(
        "pre_norm",
        "residual_of_feed_forward",
        "residual",
        "The feed-forward residual is missing.",
        (("            x = ff(x) + x", "            x = ff(x)"),),
    ),
    Bug(
        "hparams",
        "future_only_last",
        "attention mask",
        "The mask reaches only as far as the next position.",
        (
            (
                "        future = torch.arange(n)[None, :] > torch.arange(n)[:, None]",
                "        future = torch.arange(n)[None, :] == torch.arange(n)[:, None] + 1",
            ),
        ),
    ),
    Bug(
        "hparams",
        "root_of_width",
        "attention scores",
        "The root is taken of the whole width.",
        (("(e // h) ** 0.5", "e**0.5"),),
    ),
    Bug(
        "hparams",
        "position_missing_row",
        "embedding",
        "The position table is read from its end.",
        (("weight[:n].unsqueeze(0)", "weight[-n:].unsqueeze(0)"),),
    ),
    Bug(
        "hparams",
        "loop_one_short",
        "layers",
        "The loop ends one layer early.",
        (
            (
                ('        for i in range(self.hparams["num_layers"]):\n            block'),
                ('        for i in range(self.hparams["num_layers"] - 1):\n            block'),
            ),
        ),
        guilty=('for i in range(self.hparams["num_layers"] - 1):',),
    ),
    Bug(
        "hparams",
        "head_norm_skipped",
        "normalisation",
        "The head's norm is forgotten.",
        ((('        x = self.head["norm"](x)\n        return'), "        return"),),
        guilty=('return self.head["out"](x)',),
    ),
)

COMBINED = (
    Bug(
        "interleaved",
        "norms_exchanged_and_residual_post_layernorm",
        "several",
        (
            "The MLP's input is normed by the input norm. The residual is taken after the layer norm, "
            "an option that GPT-2 does not use."
        ),
        (
            ("self.post_attention_layernorm(layernorm_input)", "self.input_layernorm(layernorm_input)"),
            (
                "        layernorm_input = hidden_states + self.hidden_dropout(attention_output)",
                "        layernorm_input = layernorm_output + self.hidden_dropout(attention_output)",
            ),
        ),
        parts=(
            "norms_exchanged",
            "residual_post_layernorm",
        ),
    ),
    Bug(
        "scan_stack",
        "position_first_row_and_eps_default",
        "several",
        "The first row of the position table is added everywhere. The default epsilon is 1e-8.",
        (
            ("+ self.wpe[:T]", "+ self.wpe[:1]"),
            ("eps=1e-5", "eps=1e-8"),
        ),
        parts=(
            "position_first_row",
            "eps_default",
        ),
    ),
    Bug(
        "einsum_fused",
        "bias_axis_and_norm_eps_outside_root",
        "several",
        "Every one of q, k, v gets the query's bias. Epsilon is added to the reciprocal root.",
        (
            ("self.qkv_bias[:, None, None]", "self.qkv_bias[:1, None, None]"),
            ("torch.rsqrt(variance + 1e-5)", "(torch.rsqrt(variance) + 1e-5)"),
        ),
        parts=(
            "bias_axis",
            "norm_eps_outside_root",
        ),
    ),
    Bug(
        "conv1d_port",
        "mask_scale_order_and_mlp_norm_output_residual",
        "several",
        (
            "The mask's constant is multiplied and not subtracted: future scores become 0. The "
            "variable is overwritten by the norm, so the residual is the normed value."
        ),
        (
            ("        w = w * m - 1e10 * (1 - m)", "        w = w * m"),
            (
                "        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))",
                ("        x = self.ln_2(x)\n        m = self.c_proj(gelu(self.c_fc(x)))"),
            ),
        ),
        guilty=(
            "w = w * m",
            "x = self.ln_2(x)",
        ),
        parts=(
            "mask_scale_order",
            "mlp_norm_output_residual",
        ),
    ),
    Bug(
        "einsum_fused",
        "einsum_scores_transposed_and_qkv_letters",
        "several",
        ("The letters of the scores' einsum are exchanged. The stack is unpacked in the order q, v, k."),
        (
            ('"bthd,bshd->bhts", q, k)', '"bthd,bshd->bhst", q, k)'),
            (
                '        q, k, v = torch.einsum("bte,echd->cbthd", x, self.qkv)',
                '        q, v, k = torch.einsum("bte,echd->cbthd", x, self.qkv)',
            ),
        ),
        parts=(
            "einsum_scores_transposed",
            "qkv_letters",
        ),
    ),
    Bug(
        "conv1d_port",
        "mask_scale_order_and_head_count_wrong",
        "several",
        (
            "The mask's constant is multiplied and not subtracted: future scores become 0. The number "
            "of heads is halved when the configuration is read."
        ),
        (
            ("        w = w * m - 1e10 * (1 - m)", "        w = w * m"),
            ('        self.n_head = cfg["n_head"]', '        self.n_head = cfg["n_head"] // 2'),
        ),
        parts=(
            "mask_scale_order",
            "head_count_wrong",
        ),
    ),
    Bug(
        "head_list",
        "scale_missing_root_and_position_not_added",
        "several",
        (
            "Scores are divided by the head size and not by its square root. The position embedding is "
            "computed and not used."
        ),
        (
            ("k.shape[-1] ** -0.5", "k.shape[-1] ** -1.0"),
            ("        x = tok_emb + pos_emb", "        x = tok_emb"),
        ),
        parts=(
            "scale_missing_root",
            "position_not_added",
        ),
    ),
    Bug(
        "own_layers",
        "linear_bias_missing_and_softmax_clamped_denominator",
        "several",
        "The bias is never added. The denominator is clamped too high.",
        (
            (
                'torch.einsum("...i,oi->...o", x, self.weight) + self.bias',
                'torch.einsum("...i,oi->...o", x, self.weight)',
            ),
            (
                "    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True)",
                "    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True).clamp(min=2.0)",
            ),
        ),
        parts=(
            "linear_bias_missing",
            "softmax_clamped_denominator",
        ),
    ),
    Bug(
        "head_list",
        "mask_after_softmax_and_scale_missing_root",
        "several",
        (
            "The mask is applied to the probabilities, so rows do not sum to one. Scores are divided "
            "by the head size and not by its square root."
        ),
        (
            (
                (
                    '        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))\n'
                    "        wei = F.softmax(wei, dim=-1)"
                ),
                ("        wei = F.softmax(wei, dim=-1)\n        wei = wei.masked_fill(self.tril[:T, :T] == 0, 0.0)"),
            ),
            ("k.shape[-1] ** -0.5", "k.shape[-1] ** -1.0"),
        ),
        parts=(
            "mask_after_softmax",
            "scale_missing_root",
        ),
    ),
    Bug(
        "array_list",
        "sqrt_of_n_and_unpacking_second",
        "several",
        (
            "The root is taken of the sequence's length. The output bias and the second norm's gain "
            "are exchanged, two vectors of one length."
        ),
        (
            ("np.sqrt(q.shape[1])", "np.sqrt(q.shape[0])"),
            ("w_o, b_o, g2, b2", "w_o, g2, b_o, b2"),
        ),
        parts=(
            "sqrt_of_n",
            "unpacking_second",
        ),
    ),
    Bug(
        "bert_names",
        "residual_past_attention_and_context_not_permuted",
        "several",
        ("The second residual comes from before the attention. The context is permuted wrongly before the merge."),
        (
            (
                "        return self.output(intermediate, attention_output)",
                "        return self.output(intermediate, hidden_states)",
            ),
            (
                "        context_layer = context_layer.permute(0, 2, 1, 3).contiguous()",
                "        context_layer = context_layer.transpose(1, 2).transpose(-1, -2).contiguous()",
            ),
        ),
        parts=(
            "residual_past_attention",
            "context_not_permuted",
        ),
    ),
    Bug(
        "hparams",
        "future_only_last_and_head_norm_skipped",
        "several",
        "The mask reaches only as far as the next position. The head's norm is forgotten.",
        (
            (
                "        future = torch.arange(n)[None, :] > torch.arange(n)[:, None]",
                "        future = torch.arange(n)[None, :] == torch.arange(n)[:, None] + 1",
            ),
            (('        x = self.head["norm"](x)\n        return'), "        return"),
        ),
        guilty=(
            "future = torch.arange(n)[None, :] == torch.arange(n)[:, None] + 1",
            'return self.head["out"](x)',
        ),
        parts=(
            "future_only_last",
            "head_norm_skipped",
        ),
    ),
    Bug(
        "head_list",
        "mask_after_softmax_and_position_not_added_and_final_norm_missing",
        "several",
        (
            "The mask is applied to the probabilities, so rows do not sum to one. The position "
            "embedding is computed and not used. The final norm is never applied."
        ),
        (
            (
                (
                    '        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))\n'
                    "        wei = F.softmax(wei, dim=-1)"
                ),
                ("        wei = F.softmax(wei, dim=-1)\n        wei = wei.masked_fill(self.tril[:T, :T] == 0, 0.0)"),
            ),
            ("        x = tok_emb + pos_emb", "        x = tok_emb"),
            (("        x = self.ln_f(x)\n        logits = self.lm_head(x)"), "        logits = self.lm_head(x)"),
        ),
        guilty=(
            "wei = wei.masked_fill(self.tril[:T, :T] == 0, 0.0)",
            "x = tok_emb",
            "logits = self.lm_head(x)",
        ),
        parts=(
            "mask_after_softmax",
            "position_not_added",
            "final_norm_missing",
        ),
    ),
    Bug(
        "token_by_token",
        "memory_window_and_logits_order_and_softmax_dim_heads",
        "several",
        (
            "Only the last eight tokens are remembered. The logits are stacked from last to first. The "
            "softmax runs over the heads."
        ),
        (
            (
                ("        return torch.stack(self.keys[layer], dim=2), torch.stack(self.values[layer], dim=2)"),
                (
                    "        return torch.stack(self.keys[layer][-8:], dim=2), "
                    "torch.stack(self.values[layer][-8:], dim=2)"
                ),
            ),
            ("        return torch.stack(logits, dim=1)", "        return torch.stack(logits[::-1], dim=1)"),
            ("torch.softmax(scores, dim=-1)", "torch.softmax(scores, dim=1)"),
        ),
        parts=(
            "memory_window",
            "logits_order",
            "softmax_dim_heads",
        ),
    ),
    Bug(
        "annotated",
        "view_without_transpose_and_eps_typo_and_norm_after_sublayer",
        "several",
        (
            "The view puts heads before positions, which mixes positions and heads. Epsilon is 1e-6, "
            "the paper's, instead of GPT-2's 1e-5. The sublayer's output is normed instead of its "
            "input."
        ),
        (
            (
                "lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)",
                "lin(x).view(nbatches, self.h, -1, self.d_k)",
            ),
            ("    def __init__(self, features, eps=1e-5):", "    def __init__(self, features, eps=1e-6):"),
            (
                "        return x + self.dropout(sublayer(self.norm(x)))",
                "        return x + self.dropout(self.norm(sublayer(x)))",
            ),
        ),
        parts=(
            "view_without_transpose",
            "eps_typo",
            "norm_after_sublayer",
        ),
    ),
    Bug(
        "scan_stack",
        "layer_index_shifted_and_wo_transposed_and_eps_default",
        "several",
        (
            "Each step reads the weights of the layer before, and the first step those of the last. "
            "The square output weight is transposed. The default epsilon is 1e-8."
        ),
        (
            ("name: stacked[i] for", "name: stacked[i - 1] for"),
            ('o @ w["wo"] + w["bo"]', 'o @ w["wo"].T + w["bo"]'),
            ("eps=1e-5", "eps=1e-8"),
        ),
        parts=(
            "layer_index_shifted",
            "wo_transposed",
            "eps_default",
        ),
    ),
    Bug(
        "hparams",
        "root_of_width_and_position_missing_row_and_loop_one_short",
        "several",
        (
            "The root is taken of the whole width. The position table is read from its end. The loop "
            "ends one layer early."
        ),
        (
            ("(e // h) ** 0.5", "e**0.5"),
            ("weight[:n].unsqueeze(0)", "weight[-n:].unsqueeze(0)"),
            (
                ('        for i in range(self.hparams["num_layers"]):\n            block'),
                ('        for i in range(self.hparams["num_layers"] - 1):\n            block'),
            ),
        ),
        guilty=(
            "scores = q @ k.permute(0, 1, 3, 2) / e**0.5",
            'x = self.embeddings["token"](ids) + self.embeddings["position"].weight[-n:].unsqueeze(0)',
            'for i in range(self.hparams["num_layers"] - 1):',
        ),
        parts=(
            "root_of_width",
            "position_missing_row",
            "loop_one_short",
        ),
    ),
)

BUGS = SINGLE + COMBINED
