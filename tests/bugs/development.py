"""Bugs to build and tune a diagnosis with: two thirds of the list, drawn by chance within each style and kind.

At the end stand pairs and triples of them in one file.
"""

from tests.bugs import Bug

SINGLE = (
    Bug(
        "head_list",
        "extra_relu_after_projection",
        "activation",
        "An activation too many after the attention's projection.",
        (("        return self.dropout(self.proj(out))", "        return self.dropout(F.relu(self.proj(out)))"),),
    ),
    Bug(
        "head_list",
        "relu",
        "activation",
        "The feed-forward layer uses ReLU.",
        (('            nn.GELU(approximate="tanh"),', "            nn.ReLU(),"),),
    ),
    Bug(
        "head_list",
        "mask_fill_zero",
        "attention mask",
        "Future scores are set to 0, which is an ordinary score.",
        (('self.tril[:T, :T] == 0, float("-inf"))', "self.tril[:T, :T] == 0, 0.0)"),),
    ),
    Bug(
        "head_list",
        "scale_by_model_width",
        "attention scores",
        "Scores are scaled by the model's width instead of the head's.",
        (("k.shape[-1] ** -0.5", "x.shape[-1] ** -0.5"),),
    ),
    Bug(
        "head_list",
        "dropout_functional_always_on",
        "dropout",
        "F.dropout is called without the training flag, so it is on in evaluation.",
        (("        return self.dropout(self.proj(out))", "        return F.dropout(self.proj(out), dropout)"),),
    ),
    Bug(
        "head_list",
        "positions_from_one",
        "embedding",
        "Positions count from 1.",
        (
            (
                "self.position_embedding_table(torch.arange(T, device=idx.device))",
                "self.position_embedding_table(torch.arange(1, T + 1, device=idx.device))",
            ),
        ),
        short=True,
    ),
    Bug(
        "head_list",
        "positions_from_ids",
        "embedding",
        "The position table is indexed by the token ids.",
        (
            (
                "self.position_embedding_table(torch.arange(T, device=idx.device))",
                "self.position_embedding_table(idx % block_size)",
            ),
        ),
    ),
    Bug(
        "head_list",
        "first_head_repeated",
        "heads",
        "Every head's output is the first head's: a wrong index in the comprehension.",
        (("[h(x) for h in self.heads]", "[self.heads[0](x) for h in self.heads]"),),
    ),
    Bug(
        "head_list",
        "blocks_shared",
        "layers",
        "The list repeats one block, so all layers share their weights.",
        (("*[Block(n_embd, n_head=n_head) for _ in range(n_layer)]", "*[Block(n_embd, n_head=n_head)] * n_layer"),),
    ),
    Bug(
        "head_list",
        "same_norm_twice",
        "normalisation",
        "The feed-forward layer uses the first norm again.",
        (("self.ffwd(self.ln2(x))", "self.ffwd(self.ln1(x))"),),
    ),
    Bug(
        "head_list",
        "feed_forward_not_normalised",
        "normalisation",
        "The feed-forward layer gets the residual stream without a norm.",
        (("self.ffwd(self.ln2(x))", "self.ffwd(x)"),),
    ),
    Bug(
        "head_list",
        "post_norm",
        "normalisation",
        "The norm is applied after the attention instead of before it.",
        (("        x = x + self.sa(self.ln1(x))", "        x = self.ln1(x + self.sa(x))"),),
    ),
    Bug(
        "head_list",
        "query_key_swapped",
        "projection",
        "Query and key are exchanged, so scores are transposed.",
        (("        wei = q @ k.transpose(-2, -1)", "        wei = k @ q.transpose(-2, -1)"),),
    ),
    Bug(
        "head_list",
        "attention_residual_missing",
        "residual",
        "The attention's output replaces the residual stream.",
        (("        x = x + self.sa(self.ln1(x))", "        x = self.sa(self.ln1(x))"),),
    ),
    Bug(
        "annotated",
        "gelu_constant_transposed_digits",
        "activation",
        "The GELU's cubic constant has two digits exchanged.",
        (("0.044715", "0.047415"),),
    ),
    Bug(
        "annotated",
        "gelu_square",
        "activation",
        "The GELU uses the square instead of the cube.",
        (("torch.pow(h, 3.0)", "torch.pow(h, 2.0)"),),
    ),
    Bug(
        "annotated",
        "mask_value_small",
        "attention mask",
        "The fill value is -9 and not -1e9, so the future leaks a little.",
        (("mask == 0, -1e9)", "mask == 0, -9.0)"),),
    ),
    Bug(
        "annotated",
        "mask_not_passed",
        "attention mask",
        "The layer forgets to hand the mask on, and the default is no mask.",
        (("self.self_attn(x, x, x, mask)", "self.self_attn(x, x, x)"),),
    ),
    Bug(
        "annotated",
        "log_softmax_head",
        "head",
        "The model returns log-probabilities instead of logits.",
        (
            (
                "        return self.proj(self.decoder(self.lut(tgt) + self.pe(positions), mask))",
                (
                    "        return self.proj(self.decoder(self.lut(tgt) + self.pe(positions), "
                    "mask)).log_softmax(dim=-1)"
                ),
            ),
        ),
    ),
    Bug(
        "annotated",
        "heads_not_transposed_back",
        "heads",
        "Heads are merged without transposing back.",
        (
            (
                "x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)",
                "x.contiguous().view(nbatches, -1, self.h * self.d_k)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "layers_not_copied",
        "layers",
        "clones does not copy, so the layers share their weights.",
        (("nn.ModuleList([copy.deepcopy(module) for _ in range(N)])", "nn.ModuleList([module for _ in range(N)])"),),
    ),
    Bug(
        "annotated",
        "second_sublayer_reused",
        "layers",
        "Both halves of a layer use the first sublayer connection and its norm.",
        (
            (
                "        return self.sublayer[1](x, self.feed_forward)",
                "        return self.sublayer[0](x, self.feed_forward)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "std_plus_eps",
        "normalisation",
        "Epsilon is added to the standard deviation instead of to the variance.",
        (("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)"),),
    ),
    Bug(
        "annotated",
        "unbiased_variance",
        "normalisation",
        "The variance divides by n - 1.",
        (("        var = x.var(-1, keepdim=True, unbiased=False)", "        var = x.var(-1, keepdim=True)"),),
    ),
    Bug(
        "annotated",
        "key_value_swapped_in_call",
        "projection",
        "The layers for key and value are used in the wrong order.",
        (
            (
                "            for lin, x in zip(self.linears, (query, key, value), strict=False)",
                (
                    "            for lin, x in zip([self.linears[0], self.linears[2], self.linears[1]], "
                    "(query, key, value), strict=False)"
                ),
            ),
        ),
    ),
    Bug(
        "annotated",
        "output_projection_is_first_linear",
        "projection",
        "The index of the output projection is wrong.",
        (("        return self.linears[-1](x)", "        return self.linears[0](x)"),),
    ),
    Bug(
        "torch_mha",
        "mask_transposed",
        "attention mask",
        "tril instead of triu: True means hidden in this module.",
        (("device=input_ids.device).triu(1)", "device=input_ids.device).tril(-1)"),),
    ),
    Bug(
        "torch_mha",
        "positions_unsqueezed_wrong",
        "embedding",
        "Every prompt gets one position.",
        ((".unsqueeze(0)", ".unsqueeze(0) * 0 + length - 1"),),
    ),
    Bug(
        "torch_mha",
        "batch_first_missing",
        "heads",
        ("batch_first is left out, so prompts are taken for positions, and the mask was cut until it ran."),
        (
            ("dropout=dropout, batch_first=True)", "dropout=dropout)"),
            (
                "dtype=torch.bool, device=input_ids.device).triu(1)",
                "dtype=torch.bool, device=input_ids.device).triu(1)[: len(input_ids), : len(input_ids)]",
            ),
        ),
        guilty=("dropout=dropout)",),
    ),
    Bug(
        "torch_mha",
        "last_layer_twice",
        "layers",
        "The last layer runs twice.",
        (
            (
                "        return self.to_logits(self.norm(x))",
                ("        x = layer(x, causal)\n        return self.to_logits(self.norm(x))"),
            ),
        ),
    ),
    Bug(
        "torch_mha",
        "eps_final",
        "normalisation",
        "The final norm alone has another epsilon.",
        (
            (
                "        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)",
                "        self.norm = nn.LayerNorm(embed_dim, eps=1e-2)",
            ),
        ),
    ),
    Bug(
        "torch_mha",
        "final_norm_without_gain",
        "normalisation",
        "The final norm is called as a function, without its gain and shift.",
        (("self.to_logits(self.norm(x))", "self.to_logits(nn.functional.layer_norm(x, x.shape[-1:]))"),),
    ),
    Bug(
        "torch_mha",
        "residual_norm",
        "residual",
        "h is overwritten and used as residual.",
        (
            (
                ("        x = x + self.drop(h)\n        h = self.norm_ff(x)"),
                ("        x = x + self.drop(h)\n        x = h = self.norm_ff(x)"),
            ),
        ),
        guilty=("x = h = self.norm_ff(x)",),
    ),
    Bug(
        "einsum_fused",
        "gelu_constant",
        "activation",
        "The constant is sqrt(2) / pi, a typo.",
        (("0.7978845608028654", "0.4501581580785531"),),
    ),
    Bug(
        "einsum_fused",
        "visible_strict",
        "attention mask",
        "Positions see only earlier ones, and a filler keeps the first row finite.",
        (
            (
                "        logits = torch.where(visible, logits, -torch.inf)",
                (
                    "        visible = steps[:, None] > steps[None, :]\n"
                    "        logits = torch.where(visible, logits, torch.finfo(logits.dtype).min)"
                ),
            ),
        ),
        guilty=("visible = steps[:, None] > steps[None, :]",),
    ),
    Bug(
        "einsum_fused",
        "scale_by_heads",
        "attention scores",
        "The scale uses the number of heads.",
        (("q.shape[-1] ** -0.5", "q.shape[-2] ** -0.5"),),
    ),
    Bug(
        "einsum_fused",
        "einsum_scores_sum_heads",
        "attention scores",
        "The scores are summed over heads and repeated.",
        (
            (
                '        logits = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5',
                '        logits = torch.einsum("bthd,bsgd->bts", q, k)[:, None] * q.shape[-1] ** -0.5',
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "position_row_broadcast",
        "embedding",
        "The positions are summed up before they are added.",
        (("self.positions[: ids.shape[1]]", "self.positions[: ids.shape[1]].cumsum(0)"),),
    ),
    Bug(
        "einsum_fused",
        "mlp_of_next_layer",
        "layers",
        "The MLPs are taken in reverse.",
        (("zip(self.attns, self.mlps, strict=True)", "zip(self.attns, reversed(self.mlps), strict=True)"),),
    ),
    Bug(
        "einsum_fused",
        "norm_index_shifted",
        "layers",
        "The list of norms is read as if all first norms came first.",
        (("self.norms[2 * i](x)", "self.norms[i](x)"),),
    ),
    Bug(
        "einsum_fused",
        "out_bias_per_head",
        "linear",
        "The output bias is added once per head.",
        (
            (
                '"bthd,hde->bte", mixed, self.out) + self.out_bias',
                '"bthd,hde->bte", mixed, self.out) + self.out_bias * q.shape[2]',
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "norm_not_centred",
        "normalisation",
        "The output uses the uncentred value.",
        (("        return centred * torch.rsqrt", "        return x * torch.rsqrt"),),
    ),
    Bug(
        "einsum_fused",
        "offset_missing",
        "normalisation",
        "The offset is forgotten.",
        ((" * self.scale + self.offset", " * self.scale"),),
    ),
    Bug(
        "einsum_fused",
        "head_before_norm",
        "normalisation",
        "The head reads the stream before the final norm.",
        (("self.norms[-1](x), self.tokens)", "x, self.tokens)"),),
    ),
    Bug(
        "einsum_fused",
        "values_transposed",
        "softmax",
        "The weights are contracted over the queries.",
        (('"bhts,bshd->bthd", weights, v)', '"bhst,bshd->bthd", weights, v)'),),
    ),
    Bug(
        "scan_stack",
        "bias_inside_gelu",
        "activation",
        "A bracket closes too late: the second bias and product come out of order.",
        (
            (
                '        return x + gelu(h @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]',
                '        return x + (gelu(h @ w["w1"]) + w["b1"]) @ w["w2"] + w["b2"]',
            ),
        ),
    ),
    Bug(
        "scan_stack",
        "scale_given",
        "attention scores",
        "A scale of 1 is given to the fused attention.",
        (("is_causal=True", "is_causal=True, scale=1.0"),),
    ),
    Bug(
        "scan_stack",
        "sqrt_embedding",
        "embedding",
        "Token embeddings are scaled.",
        (("F.embedding(ids, self.wte) + self.wpe", "F.embedding(ids, self.wte) * self.hp.n_embd**0.5 + self.wpe"),),
    ),
    Bug(
        "scan_stack",
        "qkv_unbind_dim",
        "heads",
        "The view has heads before the three parts: as if they were interleaved.",
        (("view(B, T, 3, H, E // H)", "view(B, T, H, 3, E // H).transpose(2, 3)"),),
    ),
    Bug(
        "scan_stack",
        "merged_without_transpose",
        "heads",
        "The transpose before the merge is missing.",
        (("        o = o.transpose(1, 2).reshape(B, T, E)", "        o = o.reshape(B, T, E)"),),
    ),
    Bug(
        "scan_stack",
        "layer_index_constant",
        "layers",
        "Every step reads the first layer's weights.",
        (("name: stacked[i] for", "name: stacked[0] for"),),
    ),
    Bug(
        "scan_stack",
        "bo_forgotten",
        "linear",
        "The output bias is forgotten.",
        (('o @ w["wo"] + w["bo"]', 'o @ w["wo"]'),),
    ),
    Bug(
        "scan_stack",
        "wrong_norm_parameters",
        "normalisation",
        "The second norm has the first one's shift.",
        (('layer_norm(x, w["ln2_g"], w["ln2_b"])', 'layer_norm(x, w["ln2_g"], w["ln1_b"])'),),
    ),
    Bug(
        "scan_stack",
        "gain_shift_swapped",
        "normalisation",
        "Gain and shift of the final norm are exchanged.",
        (("layer_norm(x, self.lnf_g, self.lnf_b)", "layer_norm(x, self.lnf_b, self.lnf_g)"),),
    ),
    Bug(
        "scan_stack",
        "argument_order",
        "projection",
        "Key and value are exchanged in the call of the fused attention.",
        (("F.scaled_dot_product_attention(q, k, v,", "F.scaled_dot_product_attention(q, v, k,"),),
    ),
    Bug(
        "scan_stack",
        "residual_normed",
        "residual",
        "The feed-forward residual starts from the normed h.",
        (("        return x + gelu(h", "        return h + gelu(h"),),
    ),
    Bug(
        "interleaved",
        "mask_inverted",
        "attention mask",
        "The comparison is turned round.",
        (("device=tokens.device)) < 0.5", "device=tokens.device)).transpose(-1, -2) < 0.5"),),
    ),
    Bug(
        "interleaved",
        "norm_factor_plain",
        "attention scores",
        "The norm factor is not a root.",
        (
            (
                "        self.norm_factor = math.sqrt(self.hidden_size_per_head)",
                "        self.norm_factor = self.hidden_size_per_head",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "positions_constant",
        "embedding",
        "All positions are 0.",
        (("position_ids = torch.arange(s, dtype", "position_ids = 0 * torch.arange(s, dtype"),),
    ),
    Bug(
        "interleaved",
        "context_view",
        "heads",
        "The context is viewed before it is permuted.",
        (
            (
                "        context = context.permute(0, 2, 1, 3).contiguous().view(b, s, h)",
                "        context = context.contiguous().view(b, s, h)",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "bias_added_twice",
        "linear",
        "The bias is added by the layer and by the fused GELU.",
        (("nn.functional.linear(hidden_states, self.dense_h_to_4h.weight)", "self.dense_h_to_4h(hidden_states)"),),
    ),
    Bug(
        "interleaved",
        "bias_gelu_arguments",
        "linear",
        "The bias is left out of the GELU's input.",
        (("    x = bias + y", "    x = y"),),
    ),
    Bug(
        "interleaved",
        "probs_rounded",
        "numerics",
        "The probabilities pass through bfloat16.",
        (
            (
                "        context = torch.matmul(attention_probs, value)",
                "        context = torch.matmul(attention_probs.bfloat16().to(value.dtype), value)",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "second_residual_post_layernorm",
        "residual",
        "The second residual is taken after the layer norm.",
        (
            (
                "        return layernorm_input + self.hidden_dropout(mlp_output)",
                "        return layernorm_output + self.hidden_dropout(mlp_output)",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "gelu_cube_outside",
        "activation",
        "The cubic term has the wrong coefficient, by a slipped digit.",
        (("0.044715", "0.44715"),),
    ),
    Bug(
        "conv1d_port",
        "mlp_swallows_activation",
        "activation",
        "The activation is forgotten.",
        (
            (
                "        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))",
                "        m = self.c_proj(self.c_fc(self.ln_2(x)))",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "mask_plus",
        "attention mask",
        "A wrong sign: the future gets +1e10.",
        (("        w = w * m - 1e10 * (1 - m)", "        w = w * m + 1e10 * (1 - m)"),),
    ),
    Bug(
        "conv1d_port",
        "mask_shifted",
        "attention mask",
        "The slice of the mask begins one row too late.",
        (("        m = self.mask[:, :, ns - nd : ns, :ns]", "        m = self.mask[:, :, ns - nd + 1 : ns + 1, :ns]"),),
        short=True,
    ),
    Bug(
        "conv1d_port",
        "scale_inverted",
        "attention scores",
        "Scores are multiplied by the root instead of divided by it.",
        (("            w = w / math.sqrt(v.size(-1))", "            w = w * math.sqrt(v.size(-1))"),),
    ),
    Bug(
        "conv1d_port",
        "attention_twice",
        "dataflow",
        "The attention's output is added twice.",
        (("        return x + m, present", "        return x + m + a, present"),),
    ),
    Bug(
        "conv1d_port",
        "positions_shifted_by_length",
        "embedding",
        "Positions begin at 1: a past of one is assumed.",
        (
            (
                "        past_length = 0 if past is None else past[0][0].size(-2)",
                "        past_length = 1 if past is None else past[0][0].size(-2)",
            ),
        ),
        short=True,
    ),
    Bug(
        "conv1d_port",
        "logits_temperature",
        "head",
        "A temperature is left in from a sampling experiment.",
        (
            (
                "        return torch.matmul(hidden_states, self.wte.weight.t()), presents",
                "        return torch.matmul(hidden_states, self.wte.weight.t()) / 0.8, presents",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "split_width_first",
        "heads",
        "The view has the width of a head before the number of heads.",
        (
            (
                "        x = x.view(*x.size()[:-1], self.n_head, x.size(-1) // self.n_head)",
                ("        x = x.view(*x.size()[:-1], x.size(-1) // self.n_head, self.n_head).transpose(-1, -2)"),
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "merge_permutation",
        "heads",
        "The permutation before the merge puts the heads last.",
        (("        x = x.permute(0, 2, 1, 3).contiguous()", "        x = x.permute(0, 2, 3, 1).contiguous()"),),
    ),
    Bug(
        "conv1d_port",
        "conv1d_without_bias",
        "linear",
        "addmm scales its bias by 0.",
        (
            (
                "        x = torch.addmm(self.b, x.view(-1, x.size(-1)), self.w)",
                "        x = torch.addmm(self.b, x.view(-1, x.size(-1)), self.w, beta=0)",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "conv1d_transposed_when_square",
        "linear",
        "A square weight is transposed once too often.",
        (
            (
                "        x = torch.addmm(self.b, x.view(-1, x.size(-1)), self.w)",
                (
                    "        w = self.w.t() if self.w.size(0) == self.w.size(1) else self.w\n"
                    "        x = torch.addmm(self.b, x.view(-1, x.size(-1)), w)"
                ),
            ),
        ),
        guilty=("w = self.w.t() if",),
    ),
    Bug(
        "conv1d_port",
        "norm_gain_missing",
        "normalisation",
        "The gain is never applied.",
        (("        return self.g * x + self.b", "        return x + self.b"),),
    ),
    Bug(
        "conv1d_port",
        "final_norm_before_blocks",
        "normalisation",
        "The final norm runs before the blocks.",
        (
            ("        hidden_states = self.ln_f(hidden_states)", "        # final norm: see above"),
            ("        presents = []", ("        hidden_states = self.ln_f(hidden_states)\n        presents = []")),
        ),
        guilty=("hidden_states = self.ln_f(hidden_states)",),
    ),
    Bug(
        "conv1d_port",
        "split_value_first",
        "projection",
        "The thirds are taken in the order value, key, query.",
        (
            (
                "        query, key, value = self.c_attn(x).split(x.size(-1), dim=2)",
                "        value, key, query = self.c_attn(x).split(x.size(-1), dim=2)",
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "split_order",
        "projection",
        "The thirds are taken in the order key, query, value.",
        (
            (
                "        query, key, value = self.c_attn(x).split(x.size(-1), dim=2)",
                "        key, query, value = self.c_attn(x).split(x.size(-1), dim=2)",
            ),
        ),
    ),
    Bug(
        "german",
        "gelu_precedence",
        "activation",
        "The division binds the wrong way: y / (2 * (...)).",
        (
            ("        y = y / 2 * (1 + torch.tanh", "        y = y / (2 * (1 + torch.tanh"),
            ("(y + 0.044715 * y**3)))", "(y + 0.044715 * y**3))))"),
        ),
    ),
    Bug(
        "german",
        "tanh_argument_power",
        "activation",
        "The cube stands around the whole bracket.",
        (("(y + 0.044715 * y**3)))", "(y + 0.044715 * y) ** 3))"),),
    ),
    Bug(
        "german",
        "mask_transposed",
        "attention mask",
        "tril instead of triu: the past is masked.",
        (
            (
                "        zukunft = torch.ones(laenge, laenge, device=x.device).triu(diagonal=1).bool()",
                "        zukunft = torch.ones(laenge, laenge, device=x.device).tril(diagonal=-1).bool()",
            ),
        ),
    ),
    Bug(
        "german",
        "mask_from_wrong_axis",
        "attention mask",
        "Only the mask's last row is used, and it hides nothing.",
        (
            (
                '        naehe = naehe.masked_fill(zukunft, float("-inf"))',
                '        naehe = naehe.masked_fill(zukunft[-1:], float("-inf"))',
            ),
        ),
    ),
    Bug(
        "german",
        "scale_by_heads",
        "attention scores",
        "The scores are divided by the root of the number of heads.",
        (
            (
                "        naehe = naehe / math.sqrt(schluessel.size(-1))",
                "        naehe = naehe / math.sqrt(schluessel.size(1))",
            ),
        ),
    ),
    Bug(
        "german",
        "scale_missing",
        "attention scores",
        "The scores are not scaled.",
        (("        naehe = naehe / math.sqrt(schluessel.size(-1))", "        naehe = naehe / math.sqrt(1)"),),
    ),
    Bug(
        "german",
        "positions_reversed",
        "embedding",
        "Positions count backwards.",
        (
            (
                "        x = self.woerter(nummern) + self.stellen(stellen)",
                "        x = self.woerter(nummern) + self.stellen(stellen.flip(0))",
            ),
        ),
    ),
    Bug(
        "german",
        "positions_twice",
        "embedding",
        "Positions are added again in every layer.",
        (("            x = schicht(x)", "            x = schicht(x + self.stellen(stellen))"),),
    ),
    Bug(
        "german",
        "final_norm_is_first",
        "normalisation",
        "The last norm is the first layer's.",
        (("self.kopf(self.norm_ende(x))", "self.kopf(self.schichten[0].norm_a(x))"),),
    ),
    Bug(
        "german",
        "eps_too_large",
        "normalisation",
        "Epsilon is 1e-3.",
        (("streuung + 1e-5", "streuung + 1e-3"),),
    ),
    Bug(
        "german",
        "eps_outside_root",
        "normalisation",
        "Epsilon is added outside the root: a misplaced bracket.",
        (("(streuung + 1e-5) ** 0.5", "(streuung**0.5 + 1e-5)"),),
    ),
    Bug(
        "german",
        "mean_of_squares_not_centred",
        "normalisation",
        "The variance is the mean of squares, without the mean subtracted.",
        (
            (
                "        streuung = ((x - mittel) ** 2).mean(dim=-1, keepdim=True)",
                "        streuung = (x**2).mean(dim=-1, keepdim=True)",
            ),
        ),
    ),
    Bug(
        "german",
        "values_of_keys",
        "projection",
        "The mixed values are the keys.",
        (
            (
                "        gemischt = (gewichte @ werte).transpose(1, 2).flatten(2)",
                "        gemischt = (gewichte @ schluessel).transpose(1, 2).flatten(2)",
            ),
        ),
    ),
    Bug(
        "german",
        "q_as_k",
        "projection",
        "Query and key come from the same layer.",
        (
            (
                "        schluessel = self.aufteilen(self.schluessel(x))",
                "        schluessel = self.aufteilen(self.frage(x))",
            ),
        ),
    ),
    Bug(
        "german",
        "residual_subtracted",
        "residual",
        "The feed-forward output is subtracted.",
        (("        return x + self.netz(self.norm_b(x))", "        return x - self.netz(self.norm_b(x))"),),
    ),
    Bug(
        "german",
        "softmax_over_heads",
        "softmax",
        "The softmax runs over the heads.",
        (("        gewichte = naehe.softmax(dim=-1)", "        gewichte = naehe.softmax(dim=1)"),),
    ),
    Bug(
        "research_decoder",
        "fc2_before_activation",
        "activation",
        "The activation comes after the second layer.",
        (
            (
                ('        x = F.gelu(self.fc1(x), approximate="tanh")\n        x = self.fc2(x)'),
                ('        x = self.fc1(x)\n        x = F.gelu(self.fc2(x), approximate="tanh")'),
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "mask_diagonal",
        "attention mask",
        "The triangle begins at the third diagonal, so two future positions are visible.",
        (
            (
                'torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), 1)',
                'torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), 3)',
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "scaling_after_bias",
        "attention scores",
        "The query is scaled before its bias is added.",
        (
            (
                (
                    "        q = self.q_proj(query)\n"
                    "        k = self.k_proj(query)\n"
                    "        v = self.v_proj(query)\n"
                    "        q = q * self.scaling"
                ),
                (
                    "        q = F.linear(query, self.q_proj.weight) * self.scaling + self.q_proj.bias\n"
                    "        k = self.k_proj(query)\n"
                    "        v = self.v_proj(query)"
                ),
            ),
        ),
        guilty=("q = F.linear(query, self.q_proj.weight) * self.scaling",),
    ),
    Bug(
        "research_decoder",
        "residual_not_updated",
        "dataflow",
        "The second residual is the first one: an assignment is missing.",
        ((("        x = residual + x\n        residual = x\n        if"), ("        x = residual + x\n        if")),),
        guilty=("x = self.fc2(x)\n        x = residual + x",),
    ),
    Bug(
        "research_decoder",
        "attn_dropout_training",
        "dropout",
        "Dropout of the attention is always on.",
        (("training=self.training", "training=True"),),
    ),
    Bug(
        "research_decoder",
        "view_heads_first",
        "heads",
        "The view has heads and batch in the wrong order for values.",
        (
            (
                "        v = v.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)",
                "        v = v.transpose(0, 1).contiguous().view(bsz * self.num_heads, -1, self.head_dim)",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "normalize_after",
        "normalisation",
        "normalize_before is False, so nothing is normed.",
        (("        self.normalize_before = True", "        self.normalize_before = False"),),
    ),
    Bug(
        "research_decoder",
        "final_norm_lost",
        "normalisation",
        "The final norm's result is not used.",
        (("        x = self.layer_norm(x)", "        normed = self.layer_norm(x)"),),
    ),
    Bug(
        "jax_dict",
        "mask_k_one",
        "attention mask",
        "tril with k=1 lets one future position in.",
        (("np.tril(np.ones((1, 1, seq_len, seq_len)))", "np.tril(np.ones((1, 1, seq_len, seq_len)), 1)"),),
    ),
    Bug(
        "jax_dict",
        "mask_upper",
        "attention mask",
        "triu instead of tril.",
        (("np.tril(np.ones((1, 1, seq_len, seq_len)))", "np.triu(np.ones((1, 1, seq_len, seq_len)))"),),
    ),
    Bug(
        "jax_dict",
        "einsum_letters",
        "attention scores",
        "The small and the large letter are exchanged in the second einsum.",
        (('"bhtT,bThd->bthd"', '"bhTt,bThd->bthd"'),),
    ),
    Bug(
        "jax_dict",
        "in_place_residual",
        "dataflow",
        "The residual stream is normed in place through a view.",
        (
            (
                '        h_norm = layer_norm(h, params[f"transformer/h{i}_ln_2"])',
                ('        h_norm = h[...]\n        h_norm[...] = layer_norm(h, params[f"transformer/h{i}_ln_2"])'),
            ),
        ),
        guilty=("h_norm[...] = layer_norm",),
    ),
    Bug(
        "jax_dict",
        "position_offset",
        "embedding",
        "The slice of positions starts at 1.",
        (('["pos_embs"][:seq_len]', '["pos_embs"][1 : seq_len + 1]'),),
        short=True,
    ),
    Bug(
        "jax_dict",
        "logits_shifted",
        "head",
        "The logits are shifted by one position.",
        (
            (
                '    return np.matmul(h, params["transformer/embed"]["embeddings"].T)',
                '    return np.roll(np.matmul(h, params["transformer/embed"]["embeddings"].T), 1, axis=1)',
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "range_from_one",
        "layers",
        "The loop starts at 1.",
        (("    for i in range(num_layers):", "    for i in range(1, num_layers):"),),
    ),
    Bug(
        "jax_dict",
        "mlp_bias_missing",
        "linear",
        "The first bias of the MLP is left out.",
        (
            (
                '    return linear(gelu(linear(x, params[f"{name}/linear"])), params[f"{name}/linear_1"])',
                '    return linear(gelu(x @ params[f"{name}/linear"]["w"]), params[f"{name}/linear_1"])',
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "norm_axis",
        "normalisation",
        "The mean is taken over the sequence.",
        (("np.mean(x, axis=-1, keepdims=True)", "np.mean(x, axis=1, keepdims=True)"),),
    ),
    Bug(
        "jax_dict",
        "scale_not_offset",
        "normalisation",
        "The mean is subtracted after the scaling.",
        (('inv * (x - mean) + params["offset"]', 'inv * x - mean + params["offset"]'),),
    ),
    Bug(
        "jax_dict",
        "key_name",
        "projection",
        "The values are read from the key's parameters.",
        (('params[f"{name}/value"]', 'params[f"{name}/key"]'),),
    ),
    Bug(
        "jax_dict",
        "softmax_axis_default",
        "softmax",
        "The default axis is the queries'.",
        (("def softmax(x, axis=-1):", "def softmax(x, axis=-2):"),),
    ),
    Bug(
        "array_list",
        "gelu_factor",
        "activation",
        "The factor in the exponent is not doubled.",
        (("1.5957691216057308", "0.7978845608028654"),),
    ),
    Bug(
        "array_list",
        "triu_diagonal",
        "attention mask",
        "The triangle begins one diagonal too late, so each position sees the next one.",
        (("np.triu_indices(n, 1)", "np.triu_indices(n, 2)"),),
    ),
    Bug(
        "array_list",
        "head_sequence",
        "attention scores",
        "Probabilities are transposed before they meet the values.",
        (("keepdims=True) @ v", "keepdims=True).T @ v"),),
    ),
    Bug(
        "array_list",
        "hstack_order",
        "heads",
        "Heads are stacked by columns that alternate.",
        (
            (
                "np.hstack([attend(*head) for head in per_head])",
                "np.stack([attend(*head) for head in per_head], axis=2).reshape(len(x), -1)",
            ),
        ),
    ),
    Bug(
        "array_list",
        "every_other_layer",
        "layers",
        "The step is two layers.",
        (("range(0, len(rest), PER_LAYER)", "range(0, len(rest), 2 * PER_LAYER)"),),
    ),
    Bug(
        "array_list",
        "wo_transposed",
        "linear",
        "The output weight is transposed.",
        (("mixed @ w_o + b_o", "mixed @ w_o.T + b_o"),),
    ),
    Bug(
        "array_list",
        "norm_sum",
        "normalisation",
        "The sum of squares instead of their mean.",
        (("(x**2).mean(axis=1, keepdims=True)", "(x**2).sum(axis=1, keepdims=True)"),),
    ),
    Bug(
        "array_list",
        "norm_axis_zero",
        "normalisation",
        "The mean is taken over positions.",
        (("x.mean(axis=1, keepdims=True)", "x.mean(axis=0, keepdims=True)"),),
    ),
    Bug(
        "array_list",
        "sum_plus_constant",
        "numerics",
        "A constant against division by zero is too large.",
        (
            (
                "    return scores / scores.sum(axis=1, keepdims=True) @ v",
                "    return scores / (scores.sum(axis=1, keepdims=True) + 1e-2) @ v",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "mask_column",
        "attention mask",
        "The mask's inequality is strict, and the first row sees itself only by the filler.",
        (("    m = i >= j - ns + nd", "    m = i > j - ns + nd"),),
    ),
    Bug(
        "variable_store",
        "positions_reversed",
        "embedding",
        "The positions run backwards through a flipped slice.",
        (('self.get("wpe")[torch.arange(sequence)]', 'self.get("wpe")[torch.arange(sequence - 1, -1, -1)]'),),
    ),
    Bug(
        "variable_store",
        "head_columns_flipped",
        "head",
        "The table's columns are reversed before it serves as the head.",
        (("torch.matmul(h, wte.T)", "torch.matmul(h, wte.flip(1).T)"),),
    ),
    Bug(
        "variable_store",
        "merge_permute",
        "heads",
        "merge_states gets the tensor without the permutation.",
        (
            (
                "            return merge_states(x.permute(0, 2, 1, 3))",
                "            return merge_states(x.reshape(x.shape[0], x.shape[2], x.shape[1], x.shape[3]))",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "layer_scope",
        "layers",
        "The scope of every layer is h0.",
        (('self.block(h, f"h{layer}")', 'self.block(h, "h0")'),),
    ),
    Bug(
        "variable_store",
        "scope_typo",
        "linear",
        "The MLP's second layer reads the bias of the attention's projection.",
        (
            (
                '        c = torch.matmul(x.reshape(-1, nx), w.reshape(-1, nf)) + self.get(scope + "/b")',
                (
                    "        c = torch.matmul(x.reshape(-1, nx), w.reshape(-1, nf)) + "
                    'self.get(scope.replace("mlp/c_proj", "attn/c_proj") + "/b")'
                ),
            ),
        ),
    ),
    Bug(
        "variable_store",
        "epsilon",
        "normalisation",
        "TensorFlow's default epsilon of 1e-3.",
        (("epsilon=1e-5", "epsilon=1e-3"),),
    ),
    Bug(
        "variable_store",
        "ln_scope",
        "normalisation",
        "Both norms read the scope ln_1.",
        (('self.norm(x, scope + "/ln_2")', 'self.norm(x, scope + "/ln_1")'),),
    ),
    Bug(
        "variable_store",
        "thirds_order",
        "projection",
        "The thirds are unpacked in the order q, v, k.",
        (
            (
                "        q, k, v = map(split_heads, torch.split(c, n_state, dim=2))",
                "        q, v, k = map(split_heads, torch.split(c, n_state, dim=2))",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "softmax_sum_axis",
        "softmax",
        "The sum of the softmax runs over everything.",
        (("    return ex / ex.sum(dim=axis, keepdim=True)", "    return ex / ex.sum(dim=(-2, -1), keepdim=True)"),),
    ),
    Bug(
        "own_layers",
        "gelu_root_inverted",
        "activation",
        "The constant is sqrt(pi / 2) instead of sqrt(2 / pi).",
        (("math.sqrt(2 / math.pi)", "math.sqrt(math.pi / 2)"),),
    ),
    Bug(
        "own_layers",
        "gelu_minus",
        "activation",
        "A wrong sign in the GELU.",
        (("    return 0.5 * x * (1 + torch.tanh(inner))", "    return 0.5 * x * (1 - torch.tanh(inner))"),),
    ),
    Bug(
        "own_layers",
        "mask_excludes_self",
        "attention mask",
        "A position other than the first does not see itself.",
        (
            (
                "        mask = seq[:, None] >= seq",
                "        mask = (seq[:, None] > seq) | ((seq[:, None] == 0) & (seq == 0))",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "d_k_of_values_wrong",
        "attention scores",
        "The scale uses the number of keys instead of the head's width.",
        (("    d_k = K.shape[-1]", "    d_k = K.shape[-2]"),),
    ),
    Bug(
        "own_layers",
        "feed_forward_reads_x",
        "dataflow",
        "The feed-forward layer reads the block's input instead of the attention's result.",
        (
            (
                "        return y + self.w2(gelu(self.w1(self.ln2(y))))",
                "        return y + self.w2(gelu(self.w1(self.ln2(x))))",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "head_rows_shifted",
        "head",
        "The table's rows are shifted by one before they serve as the head.",
        (
            (
                "self.ln_final(x), self.token_embeddings.weight)",
                "self.ln_final(x), self.token_embeddings.weight.roll(1, 0))",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "heads_split_wrong_order",
        "heads",
        "The axes of the split are exchanged, so heads are interleaved.",
        (
            (
                "        return x.unflatten(-1, (self.num_heads, self.d_k)).movedim(-2, -3)",
                "        return x.unflatten(-1, (self.d_k, self.num_heads)).movedim(-1, -3)",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "last_layer_skipped",
        "layers",
        "The loop leaves out the last layer.",
        (("        for layer in self.layers:", "        for layer in self.layers[:-1]:"),),
    ),
    Bug(
        "own_layers",
        "layers_reversed",
        "layers",
        "The layers run from last to first.",
        (("        for layer in self.layers:", "        for layer in reversed(self.layers):"),),
    ),
    Bug(
        "own_layers",
        "linear_uses_weight_untransposed",
        "linear",
        "The einsum of square layers multiplies by the transposed weight.",
        (
            (
                '        return torch.einsum("...i,oi->...o", x, self.weight) + self.bias',
                (
                    "        if self.weight.shape[0] == self.weight.shape[1]:\n"
                    '            return torch.einsum("...i,io->...o", x, self.weight) + self.bias\n'
                    '        return torch.einsum("...i,oi->...o", x, self.weight) + self.bias'
                ),
            ),
        ),
        guilty=('return torch.einsum("...i,io->...o", x, self.weight) + self.bias',),
    ),
    Bug(
        "own_layers",
        "variance_without_square_root",
        "normalisation",
        "The value is divided by the variance.",
        (("torch.sqrt(var + self.eps)", "(var + self.eps)"),),
    ),
    Bug(
        "own_layers",
        "shift_inside_gain",
        "normalisation",
        "The shift is added before the gain is applied.",
        (
            (
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta",
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps) + self.beta)",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "gamma_beta_swapped",
        "normalisation",
        "Gain and shift are exchanged.",
        (
            (
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta",
                "        return self.beta * ((x - mean) / torch.sqrt(var + self.eps)) + self.gamma",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "residual_scaled",
        "residual",
        "The feed-forward output is halved, as in another architecture.",
        (
            (
                "        return y + self.w2(gelu(self.w1(self.ln2(y))))",
                "        return y + 0.5 * self.w2(gelu(self.w1(self.ln2(y))))",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "softmax_wrong_denominator",
        "softmax",
        "The sum runs over the queries, while the maximum runs over the keys.",
        (
            (
                "    return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True)",
                "    return exponentiated / torch.sum(exponentiated, dim=-2, keepdim=True)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "mask_bounded",
        "attention mask",
        "The additive mask is -1, not a large number.",
        ((" * torch.finfo(dtype).min", " * -1.0"),),
    ),
    Bug(
        "bert_names",
        "mask_transposed",
        "attention mask",
        "The mask is transposed: the past is hidden.",
        (("(1.0 - allowed)[None, None, :, :]", "(1.0 - allowed.T)[None, None, :, :]"),),
    ),
    Bug(
        "bert_names",
        "mask_before_scale",
        "attention scores",
        "The division is forgotten because the scores are assigned to another name.",
        (
            (
                "        attention_scores = attention_scores / math.sqrt(self.attention_head_size)",
                "        scaled_scores = attention_scores / math.sqrt(self.attention_head_size)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "intermediate_stale",
        "dataflow",
        "The intermediate layer reads the attention's raw output.",
        (("self.LayerNorm_mid(attention_output)", "self.LayerNorm_mid(self_output)"),),
    ),
    Bug(
        "bert_names",
        "decoder_reads_last_but_one",
        "dataflow",
        "The head reads the hidden states of the layer before the last.",
        (
            (
                "        sequence_output = self.LayerNorm(hidden_states)",
                "        sequence_output = self.LayerNorm(all_hidden_states[-2])",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "position_ids_offset",
        "embedding",
        "RoBERTa's offset of 2 is left in.",
        (
            (
                "        position_ids = self.position_ids[:, :seq_length]",
                "        position_ids = self.position_ids[:, 2 : seq_length + 2]",
            ),
        ),
        short=True,
    ),
    Bug(
        "bert_names",
        "key_heads_reversed",
        "heads",
        "The key's heads are in reverse order.",
        (
            (
                "        key_layer = self.transpose_for_scores(self.key(hidden_states))",
                "        key_layer = self.transpose_for_scores(self.key(hidden_states)).flip(1)",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "embeddings_normed",
        "normalisation",
        "The embeddings are normed, as BERT does.",
        (
            (
                "        mask = self.get_extended_attention_mask(seq_length, hidden_states.dtype)",
                (
                    "        hidden_states = self.LayerNorm(hidden_states)\n"
                    "        mask = self.get_extended_attention_mask(seq_length, hidden_states.dtype)"
                ),
            ),
        ),
        guilty=("hidden_states = self.LayerNorm(hidden_states)",),
    ),
    Bug(
        "bert_names",
        "bert_eps",
        "normalisation",
        "BERT's epsilon is left in.",
        (("    layer_norm_eps: float = 1e-5", "    layer_norm_eps: float = 1e-12"),),
    ),
    Bug(
        "bert_names",
        "query_from_value",
        "projection",
        "The query layer is the value layer.",
        (
            (
                "        query_layer = self.transpose_for_scores(self.query(hidden_states))",
                "        query_layer = self.transpose_for_scores(self.value(hidden_states))",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "output_residual_missing",
        "residual",
        "The output module forgets the residual.",
        (
            (
                "        return self.dropout(self.dense(hidden_states)) + input_tensor",
                "        return self.dropout(self.dense(hidden_states))",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "output_arguments_swapped",
        "residual",
        "The arguments of the output module are exchanged.",
        (
            (
                '        attention_output = self.attention["output"](self_output, hidden_states)',
                '        attention_output = self.attention["output"](hidden_states, self_output)',
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "gelu_approximation",
        "activation",
        "tanh is replaced by sigmoid.",
        (("(1 + torch.tanh(math.sqrt(2 / math.pi)", "(1 + torch.sigmoid(math.sqrt(2 / math.pi)"),),
    ),
    Bug(
        "token_by_token",
        "memory_prepends",
        "dataflow",
        "The newest key is put first, while values are appended.",
        (("        self.keys[layer].append(key)", "        self.keys[layer].insert(0, key)"),),
    ),
    Bug(
        "token_by_token",
        "step_always_zero",
        "embedding",
        "Each token is told that it is the first.",
        (("self.step(words[:, t], t, memory)", "self.step(words[:, t], 0, memory)"),),
    ),
    Bug(
        "token_by_token",
        "step_off_by_one",
        "embedding",
        "The time starts at 1.",
        (("self.steps.weight[t]", "self.steps.weight[t + 1]"),),
        short=True,
    ),
    Bug(
        "token_by_token",
        "memory_shared",
        "layers",
        "All layers remember in one list.",
        (
            ("        self.keys = [[] for _ in range(n_layers)]", "        self.keys = [[]] * n_layers"),
            ("        self.values = [[] for _ in range(n_layers)]", "        self.values = [[]] * n_layers"),
        ),
    ),
    Bug(
        "token_by_token",
        "layer_argument",
        "layers",
        "The cell is told the wrong layer, so it shares the memory of the first one.",
        (("            x = cell(x, layer, memory)", "            x = cell(x, layer // 2, memory)"),),
    ),
    Bug(
        "token_by_token",
        "unbind_order",
        "projection",
        "The parts are unpacked in the order k, q, v.",
        (("        q, k, v = self.project_in", "        k, q, v = self.project_in"),),
    ),
    Bug(
        "token_by_token",
        "residual_normed_mid",
        "residual",
        "The last residual starts from the middle norm.",
        (("        return x + self.visible(h)", "        return self.ln_mid(x) + self.visible(h)"),),
    ),
    Bug(
        "conv1x1",
        "gelu_leaky",
        "activation",
        "Another activation.",
        (('F.gelu(self.conv_1(x), approximate="tanh")', "F.elu(self.conv_1(x))"),),
    ),
    Bug(
        "conv1x1",
        "mask_not_lower",
        "attention mask",
        "The triangle is the upper one.",
        (("device=ids.device).tril()", "device=ids.device).triu()"),),
    ),
    Bug(
        "conv1x1",
        "k_channels_exponent",
        "attention scores",
        "The exponent's sign is missing.",
        (("self.k_channels**-0.5", "self.k_channels**0.5"),),
    ),
    Bug(
        "conv1x1",
        "positions_flipped",
        "embedding",
        "The position table is cut from its end.",
        (("self.emb_pos[:, :, :t]", "self.emb_pos[:, :, -t:]"),),
    ),
    Bug(
        "conv1x1",
        "view_heads_inner",
        "heads",
        "The view has the channels of a head first.",
        (
            (
                "        value = self.conv_v(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)",
                ("        value = self.conv_v(x).view(b, self.k_channels, self.n_heads, t).permute(0, 2, 3, 1)"),
            ),
        ),
    ),
    Bug(
        "conv1x1",
        "norm_over_time",
        "normalisation",
        "The norm runs over time: axis 2 for axis 1.",
        (("        mean = x.mean(1, keepdim=True)", "        mean = x.mean(2, keepdim=True)"),),
    ),
    Bug(
        "conv1x1",
        "conv_k_for_q",
        "projection",
        "The query is made by conv_k.",
        (("query = self.conv_q(x)", "query = self.conv_k(x)"),),
    ),
    Bug(
        "conv1x1",
        "attention_residual",
        "residual",
        "The residual is the normed value.",
        (("            x = x + attn(norm_1(x), mask)", "            x = norm_1(x) + attn(norm_1(x), mask)"),),
    ),
    Bug(
        "one_hot",
        "scale_upside_down",
        "attention scores",
        "The fraction under the root is upside down.",
        (("(self.n_heads / C) ** 0.5", "(C / self.n_heads) ** 0.5"),),
    ),
    Bug(
        "one_hot",
        "places_shifted",
        "embedding",
        "The identity is shifted: positions start at 1.",
        (("[: ids.shape[1]]", "[1 : ids.shape[1] + 1]"),),
        short=True,
    ),
    Bug(
        "one_hot",
        "swapaxes_heads",
        "heads",
        "The wrong axes are exchanged on the way back, and the reshape hides it.",
        (
            (
                "torch.matmul(attention, v).swapaxes(1, 2).reshape(B, T, C)",
                "torch.matmul(attention, v).swapaxes(1, 3).reshape(B, T, C)",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "units_skip_first",
        "layers",
        "The first unit is left out.",
        (("self.std_final(self.units(x))", "self.std_final(self.units[1:](x))"),),
    ),
    Bug(
        "one_hot",
        "extra_norm",
        "normalisation",
        "The final norm is applied twice.",
        (("self.std_final(self.units(x))", "self.std_final(self.std_final(self.units(x)))"),),
    ),
    Bug(
        "one_hot",
        "var_mean_order",
        "normalisation",
        "var_mean returns the variance first.",
        (("        var, mean = torch", "        mean, var = torch"),),
    ),
    Bug(
        "one_hot",
        "clamp_hidden",
        "numerics",
        "The hidden values are clamped.",
        (("        return torch.add(x, self.slim(h))", "        return torch.add(x, self.slim(h.clamp(max=1.0)))"),),
    ),
    Bug(
        "one_hot",
        "list_order",
        "projection",
        "The list is taken in the order v, k, q.",
        (("for f in self.qkv]", "for f in reversed(self.qkv)]"),),
    ),
    Bug(
        "numbered_sequence",
        "gelu_none",
        "activation",
        "The exact GELU.",
        (('nn.GELU("tanh")', 'nn.GELU("none")'),),
    ),
    Bug(
        "numbered_sequence",
        "causal_flag",
        "attention mask",
        "The causal flag is missing.",
        (("F.scaled_dot_product_attention(q, k, v, is_causal=True)", "F.scaled_dot_product_attention(q, k, v)"),),
    ),
    Bug(
        "numbered_sequence",
        "positions_of_batch",
        "embedding",
        "The index is as long as the batch, so one position is repeated.",
        (("self.index[: x.size(-2)]", "self.index[: x.size(-3)].sum()"),),
    ),
    Bug(
        "numbered_sequence",
        "positions_multiplied",
        "embedding",
        "The positions are multiplied, not added.",
        (("x + self.table(self.index[: x.size(-2)])", "x * self.table(self.index[: x.size(-2)])"),),
    ),
    Bug(
        "numbered_sequence",
        "merge",
        "heads",
        "Heads and width of a head are merged in the wrong order.",
        (("x.transpose(-2, -3).flatten(-2)", "x.permute(0, 2, 3, 1).flatten(-2)"),),
    ),
    Bug(
        "numbered_sequence",
        "viewed_as_interleaved",
        "heads",
        "The fused layer is viewed as if the parts of one head lay together.",
        (
            (
                "x.view(b, t, 3, self.heads, c // self.heads // 3).permute(2, 0, 3, 1, 4)",
                "x.view(b, t, self.heads, 3, c // self.heads // 3).permute(3, 0, 2, 1, 4)",
            ),
        ),
    ),
    Bug(
        "numbered_sequence",
        "unpack",
        "projection",
        "The parts are unpacked in the order v, k, q.",
        (("        q, k, v = qkv", "        v, k, q = qkv"),),
    ),
    Bug(
        "numbered_sequence",
        "residual_order",
        "residual",
        "The result is the difference.",
        (("        return x + self.fn(x)", "        return self.fn(x) - x"),),
    ),
    Bug(
        "pre_norm",
        "fill_tiny",
        "attention mask",
        "The fill value is the smallest number, not the largest.",
        (("    return -torch.finfo(t.dtype).max", "    return -torch.finfo(t.dtype).tiny"),),
    ),
    Bug(
        "pre_norm",
        "mask_offset",
        "attention mask",
        "The offset of the triangle lacks its 1, so nobody sees himself.",
        (("triu_(j - i + 1)", "triu_(j - i)"),),
    ),
    Bug(
        "pre_norm",
        "scale_lost",
        "attention scores",
        "The scaled query is not the one that is used.",
        (
            (
                '        sim = torch.einsum("b h i d, b h j d -> b h i j", q, k)',
                '        sim = torch.einsum("b h i d, b h j d -> b h i j", q / self.scale, k)',
            ),
        ),
    ),
    Bug(
        "pre_norm",
        "context_default",
        "dataflow",
        "Keys and values are computed from the query's projection.",
        (("        context = default(context, x)", "        context = default(context, self.to_q(x))"),),
    ),
    Bug(
        "pre_norm",
        "position_none",
        "embedding",
        "All positions get the mean of the position vectors.",
        (("[None]", "[None].mean(dim=1, keepdim=True)"),),
    ),
    Bug(
        "pre_norm",
        "attention_twice",
        "layers",
        "attn is called in place of ff.",
        (("            x = ff(x) + x", "            x = attn(x) + x"),),
    ),
    Bug(
        "pre_norm",
        "chunk_order",
        "projection",
        "kv is read as vk.",
        (
            (
                "        qkv = (self.to_q(x), *self.to_kv(context).chunk(2, dim=-1))",
                "        qkv = (self.to_q(x), *reversed(self.to_kv(context).chunk(2, dim=-1)))",
            ),
        ),
    ),
    Bug(
        "pre_norm",
        "chunk_axis",
        "projection",
        "The chunks alternate instead of lying side by side.",
        (("*self.to_kv(context).chunk(2, dim=-1)", "*self.to_kv(context).unflatten(-1, (-1, 2)).unbind(-1)"),),
    ),
    Bug(
        "hparams",
        "silu",
        "activation",
        "SiLU instead of GELU.",
        (('F.gelu(block["ff_in"](x), approximate="tanh")', 'F.silu(block["ff_in"](x))'),),
    ),
    Bug(
        "hparams",
        "fill_is_zero",
        "attention mask",
        "The future's scores are zeroed.",
        (('        scores[:, :, future] = float("-inf")', "        scores[:, :, future] = 0.0"),),
    ),
    Bug(
        "hparams",
        "future_inclusive",
        "attention mask",
        (
            "The comparison is >=, so a position does not see itself; the first row has nothing left "
            "to see and is fixed up."
        ),
        (
            (
                "        future = torch.arange(n)[None, :] > torch.arange(n)[:, None]",
                "        future = torch.arange(n)[None, :] >= torch.arange(n)[:, None].clamp(min=1)",
            ),
        ),
    ),
    Bug(
        "hparams",
        "mask_before_scores",
        "attention mask",
        "The mask is written to a copy.",
        (('        scores[:, :, future] = float("-inf")', '        scores.clone()[:, :, future] = float("-inf")'),),
    ),
    Bug(
        "hparams",
        "parallel_block",
        "dataflow",
        "Attention and feed-forward run side by side, both on the block's input.",
        (
            (
                (
                    '            x = x + self.attention(block["attn_norm"](x), block)\n'
                    '            x = x + self.feed_forward(block["ff_norm"](x), block)'
                ),
                (
                    '            a = self.attention(block["attn_norm"](x), block)\n'
                    '            x = x + a + self.feed_forward(block["ff_norm"](x), block)'
                ),
            ),
        ),
        guilty=("x = x + a + self.feed_forward",),
    ),
    Bug(
        "hparams",
        "dropout_forgotten_eval",
        "dropout",
        "Dropout is applied in evaluation, too.",
        (('        return block["o"](y)', '        return F.dropout(block["o"](y), 0.1)'),),
    ),
    Bug(
        "hparams",
        "merge_permute",
        "heads",
        "The permutation on the way back is the wrong one.",
        (("(weights @ v).permute(0, 2, 1, 3).reshape(b, n, e)", "(weights @ v).permute(0, 2, 3, 1).reshape(b, n, e)"),),
    ),
    Bug(
        "hparams",
        "block_index",
        "layers",
        "The name of the block does not depend on i.",
        (('            block = self.stack[f"block_{i}"]', '            block = self.stack[f"block_{i // 2}"]'),),
    ),
    Bug(
        "hparams",
        "layers_sorted_by_name",
        "layers",
        "The blocks run in the order of their sorted names: 0, 1, 10, 11, 2.",
        (('            block = self.stack[f"block_{i}"]', "            block = self.stack[sorted(self.stack)[i]]"),),
    ),
    Bug(
        "hparams",
        "same_norm",
        "normalisation",
        "The feed-forward layer uses the attention's norm.",
        (('self.feed_forward(block["ff_norm"](x), block)', 'self.feed_forward(block["attn_norm"](x), block)'),),
    ),
    Bug(
        "hparams",
        "order_k_q",
        "projection",
        "The names are read in the order k, q, v.",
        (('for name in ("q", "k", "v"))', 'for name in ("k", "q", "v"))'),),
    ),
)

COMBINED = (
    Bug(
        "interleaved",
        "context_view_and_bias_gelu_arguments",
        "several",
        "The context is viewed before it is permuted. The bias is left out of the GELU's input.",
        (
            (
                "        context = context.permute(0, 2, 1, 3).contiguous().view(b, s, h)",
                "        context = context.contiguous().view(b, s, h)",
            ),
            ("    x = bias + y", "    x = y"),
        ),
        parts=(
            "context_view",
            "bias_gelu_arguments",
        ),
    ),
    Bug(
        "annotated",
        "gelu_constant_transposed_digits_and_heads_not_transposed_back",
        "several",
        ("The GELU's cubic constant has two digits exchanged. Heads are merged without transposing back."),
        (
            ("0.044715", "0.047415"),
            (
                "x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)",
                "x.contiguous().view(nbatches, -1, self.h * self.d_k)",
            ),
        ),
        parts=(
            "gelu_constant_transposed_digits",
            "heads_not_transposed_back",
        ),
    ),
    Bug(
        "head_list",
        "relu_and_blocks_shared",
        "several",
        ("The feed-forward layer uses ReLU. The list repeats one block, so all layers share their weights."),
        (
            ('            nn.GELU(approximate="tanh"),', "            nn.ReLU(),"),
            ("*[Block(n_embd, n_head=n_head) for _ in range(n_layer)]", "*[Block(n_embd, n_head=n_head)] * n_layer"),
        ),
        parts=(
            "relu",
            "blocks_shared",
        ),
    ),
    Bug(
        "one_hot",
        "scale_upside_down_and_places_shifted",
        "several",
        "The fraction under the root is upside down. The identity is shifted: positions start at 1.",
        (
            ("(self.n_heads / C) ** 0.5", "(C / self.n_heads) ** 0.5"),
            ("[: ids.shape[1]]", "[1 : ids.shape[1] + 1]"),
        ),
        parts=(
            "scale_upside_down",
            "places_shifted",
        ),
        short=True,
    ),
    Bug(
        "token_by_token",
        "gelu_approximation_and_memory_prepends",
        "several",
        "tanh is replaced by sigmoid. The newest key is put first, while values are appended.",
        (
            ("(1 + torch.tanh(math.sqrt(2 / math.pi)", "(1 + torch.sigmoid(math.sqrt(2 / math.pi)"),
            ("        self.keys[layer].append(key)", "        self.keys[layer].insert(0, key)"),
        ),
        parts=(
            "gelu_approximation",
            "memory_prepends",
        ),
    ),
    Bug(
        "head_list",
        "mask_fill_zero_and_first_head_repeated",
        "several",
        (
            "Future scores are set to 0, which is an ordinary score. Every head's output is the first "
            "head's: a wrong index in the comprehension."
        ),
        (
            ('self.tril[:T, :T] == 0, float("-inf"))', "self.tril[:T, :T] == 0, 0.0)"),
            ("[h(x) for h in self.heads]", "[self.heads[0](x) for h in self.heads]"),
        ),
        parts=(
            "mask_fill_zero",
            "first_head_repeated",
        ),
    ),
    Bug(
        "variable_store",
        "mask_column_and_layer_scope",
        "several",
        (
            "The mask's inequality is strict, and the first row sees itself only by the filler. The "
            "scope of every layer is h0."
        ),
        (
            ("    m = i >= j - ns + nd", "    m = i > j - ns + nd"),
            ('self.block(h, f"h{layer}")', 'self.block(h, "h0")'),
        ),
        parts=(
            "mask_column",
            "layer_scope",
        ),
    ),
    Bug(
        "own_layers",
        "mask_excludes_self_and_shift_inside_gain",
        "several",
        ("A position other than the first does not see itself. The shift is added before the gain is applied."),
        (
            (
                "        mask = seq[:, None] >= seq",
                "        mask = (seq[:, None] > seq) | ((seq[:, None] == 0) & (seq == 0))",
            ),
            (
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta",
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps) + self.beta)",
            ),
        ),
        parts=(
            "mask_excludes_self",
            "shift_inside_gain",
        ),
    ),
    Bug(
        "german",
        "mask_from_wrong_axis_and_mean_of_squares_not_centred",
        "several",
        (
            "Only the mask's last row is used, and it hides nothing. The variance is the mean of "
            "squares, without the mean subtracted."
        ),
        (
            (
                '        naehe = naehe.masked_fill(zukunft, float("-inf"))',
                '        naehe = naehe.masked_fill(zukunft[-1:], float("-inf"))',
            ),
            (
                "        streuung = ((x - mittel) ** 2).mean(dim=-1, keepdim=True)",
                "        streuung = (x**2).mean(dim=-1, keepdim=True)",
            ),
        ),
        parts=(
            "mask_from_wrong_axis",
            "mean_of_squares_not_centred",
        ),
    ),
    Bug(
        "own_layers",
        "d_k_of_values_wrong_and_gamma_beta_swapped",
        "several",
        ("The scale uses the number of keys instead of the head's width. Gain and shift are exchanged."),
        (
            ("    d_k = K.shape[-1]", "    d_k = K.shape[-2]"),
            (
                "        return self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta",
                "        return self.beta * ((x - mean) / torch.sqrt(var + self.eps)) + self.gamma",
            ),
        ),
        parts=(
            "d_k_of_values_wrong",
            "gamma_beta_swapped",
        ),
    ),
    Bug(
        "bert_names",
        "mask_bounded_and_key_heads_reversed",
        "several",
        "The additive mask is -1, not a large number. The key's heads are in reverse order.",
        (
            (" * torch.finfo(dtype).min", " * -1.0"),
            (
                "        key_layer = self.transpose_for_scores(self.key(hidden_states))",
                "        key_layer = self.transpose_for_scores(self.key(hidden_states)).flip(1)",
            ),
        ),
        parts=(
            "mask_bounded",
            "key_heads_reversed",
        ),
    ),
    Bug(
        "bert_names",
        "mask_transposed_and_output_residual_missing",
        "several",
        "The mask is transposed: the past is hidden. The output module forgets the residual.",
        (
            ("(1.0 - allowed)[None, None, :, :]", "(1.0 - allowed.T)[None, None, :, :]"),
            (
                "        return self.dropout(self.dense(hidden_states)) + input_tensor",
                "        return self.dropout(self.dense(hidden_states))",
            ),
        ),
        parts=(
            "mask_transposed",
            "output_residual_missing",
        ),
    ),
    Bug(
        "einsum_fused",
        "gelu_constant_and_offset_missing",
        "several",
        "The constant is sqrt(2) / pi, a typo. The offset is forgotten.",
        (
            ("0.7978845608028654", "0.4501581580785531"),
            (" * self.scale + self.offset", " * self.scale"),
        ),
        parts=(
            "gelu_constant",
            "offset_missing",
        ),
    ),
    Bug(
        "annotated",
        "mask_value_small_and_heads_not_transposed_back",
        "several",
        ("The fill value is -9 and not -1e9, so the future leaks a little. Heads are merged without transposing back."),
        (
            ("mask == 0, -1e9)", "mask == 0, -9.0)"),
            (
                "x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)",
                "x.contiguous().view(nbatches, -1, self.h * self.d_k)",
            ),
        ),
        parts=(
            "mask_value_small",
            "heads_not_transposed_back",
        ),
    ),
    Bug(
        "variable_store",
        "layer_scope_and_scope_typo",
        "several",
        ("The scope of every layer is h0. The MLP's second layer reads the bias of the attention's projection."),
        (
            ('self.block(h, f"h{layer}")', 'self.block(h, "h0")'),
            (
                '        c = torch.matmul(x.reshape(-1, nx), w.reshape(-1, nf)) + self.get(scope + "/b")',
                (
                    "        c = torch.matmul(x.reshape(-1, nx), w.reshape(-1, nf)) + "
                    'self.get(scope.replace("mlp/c_proj", "attn/c_proj") + "/b")'
                ),
            ),
        ),
        parts=(
            "layer_scope",
            "scope_typo",
        ),
    ),
    Bug(
        "torch_mha",
        "batch_first_missing_and_eps_final",
        "several",
        (
            "batch_first is left out, so prompts are taken for positions, and the mask was cut until "
            "it ran. The final norm alone has another epsilon."
        ),
        (
            ("dropout=dropout, batch_first=True)", "dropout=dropout)"),
            (
                "dtype=torch.bool, device=input_ids.device).triu(1)",
                "dtype=torch.bool, device=input_ids.device).triu(1)[: len(input_ids), : len(input_ids)]",
            ),
            (
                "        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)",
                "        self.norm = nn.LayerNorm(embed_dim, eps=1e-2)",
            ),
        ),
        guilty=(
            "self.attn = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout)",
            "self.norm = nn.LayerNorm(embed_dim, eps=1e-2)",
        ),
        parts=(
            "batch_first_missing",
            "eps_final",
        ),
    ),
    Bug(
        "research_decoder",
        "fc2_before_activation_and_scaling_after_bias",
        "several",
        "The activation comes after the second layer. The query is scaled before its bias is added.",
        (
            (
                ('        x = F.gelu(self.fc1(x), approximate="tanh")\n        x = self.fc2(x)'),
                ('        x = self.fc1(x)\n        x = F.gelu(self.fc2(x), approximate="tanh")'),
            ),
            (
                (
                    "        q = self.q_proj(query)\n"
                    "        k = self.k_proj(query)\n"
                    "        v = self.v_proj(query)\n"
                    "        q = q * self.scaling"
                ),
                (
                    "        q = F.linear(query, self.q_proj.weight) * self.scaling + self.q_proj.bias\n"
                    "        k = self.k_proj(query)\n"
                    "        v = self.v_proj(query)"
                ),
            ),
        ),
        guilty=(
            "x = self.fc1(x)",
            'x = F.gelu(self.fc2(x), approximate="tanh")',
            "q = F.linear(query, self.q_proj.weight) * self.scaling + self.q_proj.bias",
        ),
        parts=(
            "fc2_before_activation",
            "scaling_after_bias",
        ),
    ),
    Bug(
        "numbered_sequence",
        "gelu_none_and_viewed_as_interleaved",
        "several",
        "The exact GELU. The fused layer is viewed as if the parts of one head lay together.",
        (
            ('nn.GELU("tanh")', 'nn.GELU("none")'),
            (
                "x.view(b, t, 3, self.heads, c // self.heads // 3).permute(2, 0, 3, 1, 4)",
                "x.view(b, t, self.heads, 3, c // self.heads // 3).permute(3, 0, 2, 1, 4)",
            ),
        ),
        parts=(
            "gelu_none",
            "viewed_as_interleaved",
        ),
    ),
    Bug(
        "interleaved",
        "positions_constant_and_context_view",
        "several",
        "All positions are 0. The context is viewed before it is permuted.",
        (
            ("position_ids = torch.arange(s, dtype", "position_ids = 0 * torch.arange(s, dtype"),
            (
                "        context = context.permute(0, 2, 1, 3).contiguous().view(b, s, h)",
                "        context = context.contiguous().view(b, s, h)",
            ),
        ),
        parts=(
            "positions_constant",
            "context_view",
        ),
    ),
    Bug(
        "hparams",
        "block_index_and_same_norm",
        "several",
        ("The name of the block does not depend on i. The feed-forward layer uses the attention's norm."),
        (
            ('            block = self.stack[f"block_{i}"]', '            block = self.stack[f"block_{i // 2}"]'),
            ('self.feed_forward(block["ff_norm"](x), block)', 'self.feed_forward(block["attn_norm"](x), block)'),
        ),
        parts=(
            "block_index",
            "same_norm",
        ),
    ),
    Bug(
        "conv1d_port",
        "mlp_swallows_activation_and_split_value_first",
        "several",
        "The activation is forgotten. The thirds are taken in the order value, key, query.",
        (
            (
                "        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))",
                "        m = self.c_proj(self.c_fc(self.ln_2(x)))",
            ),
            (
                "        query, key, value = self.c_attn(x).split(x.size(-1), dim=2)",
                "        value, key, query = self.c_attn(x).split(x.size(-1), dim=2)",
            ),
        ),
        parts=(
            "mlp_swallows_activation",
            "split_value_first",
        ),
    ),
    Bug(
        "einsum_fused",
        "gelu_constant_and_norm_index_shifted",
        "several",
        ("The constant is sqrt(2) / pi, a typo. The list of norms is read as if all first norms came first."),
        (
            ("0.7978845608028654", "0.4501581580785531"),
            ("self.norms[2 * i](x)", "self.norms[i](x)"),
        ),
        parts=(
            "gelu_constant",
            "norm_index_shifted",
        ),
    ),
    Bug(
        "annotated",
        "gelu_constant_transposed_digits_and_key_value_swapped_in_call",
        "several",
        (
            "The GELU's cubic constant has two digits exchanged. The layers for key and value are used "
            "in the wrong order."
        ),
        (
            ("0.044715", "0.047415"),
            (
                "            for lin, x in zip(self.linears, (query, key, value), strict=False)",
                (
                    "            for lin, x in zip([self.linears[0], self.linears[2], self.linears[1]], "
                    "(query, key, value), strict=False)"
                ),
            ),
        ),
        parts=(
            "gelu_constant_transposed_digits",
            "key_value_swapped_in_call",
        ),
    ),
    Bug(
        "scan_stack",
        "scale_given_and_residual_normed",
        "several",
        ("A scale of 1 is given to the fused attention. The feed-forward residual starts from the normed h."),
        (
            ("is_causal=True", "is_causal=True, scale=1.0"),
            ("        return x + gelu(h", "        return h + gelu(h"),
        ),
        parts=(
            "scale_given",
            "residual_normed",
        ),
    ),
    Bug(
        "jax_dict",
        "mask_k_one_and_range_from_one_and_scale_not_offset",
        "several",
        ("tril with k=1 lets one future position in. The loop starts at 1. The mean is subtracted after the scaling."),
        (
            ("np.tril(np.ones((1, 1, seq_len, seq_len)))", "np.tril(np.ones((1, 1, seq_len, seq_len)), 1)"),
            ("    for i in range(num_layers):", "    for i in range(1, num_layers):"),
            ('inv * (x - mean) + params["offset"]', 'inv * x - mean + params["offset"]'),
        ),
        parts=(
            "mask_k_one",
            "range_from_one",
            "scale_not_offset",
        ),
    ),
    Bug(
        "bert_names",
        "mask_bounded_and_mask_before_scale_and_bert_eps",
        "several",
        (
            "The additive mask is -1, not a large number. The division is forgotten because the scores "
            "are assigned to another name. BERT's epsilon is left in."
        ),
        (
            (" * torch.finfo(dtype).min", " * -1.0"),
            (
                "        attention_scores = attention_scores / math.sqrt(self.attention_head_size)",
                "        scaled_scores = attention_scores / math.sqrt(self.attention_head_size)",
            ),
            ("    layer_norm_eps: float = 1e-5", "    layer_norm_eps: float = 1e-12"),
        ),
        parts=(
            "mask_bounded",
            "mask_before_scale",
            "bert_eps",
        ),
    ),
    Bug(
        "numbered_sequence",
        "gelu_none_and_positions_of_batch_and_unpack",
        "several",
        (
            "The exact GELU. The index is as long as the batch, so one position is repeated. The parts "
            "are unpacked in the order v, k, q."
        ),
        (
            ('nn.GELU("tanh")', 'nn.GELU("none")'),
            ("self.index[: x.size(-2)]", "self.index[: x.size(-3)].sum()"),
            ("        q, k, v = qkv", "        v, k, q = qkv"),
        ),
        parts=(
            "gelu_none",
            "positions_of_batch",
            "unpack",
        ),
    ),
    Bug(
        "array_list",
        "gelu_factor_and_triu_diagonal_and_norm_axis_zero",
        "several",
        (
            "The factor in the exponent is not doubled. The triangle begins one diagonal too late, so "
            "each position sees the next one. The mean is taken over positions."
        ),
        (
            ("1.5957691216057308", "0.7978845608028654"),
            ("np.triu_indices(n, 1)", "np.triu_indices(n, 2)"),
            ("x.mean(axis=1, keepdims=True)", "x.mean(axis=0, keepdims=True)"),
        ),
        parts=(
            "gelu_factor",
            "triu_diagonal",
            "norm_axis_zero",
        ),
    ),
    Bug(
        "conv1x1",
        "gelu_leaky_and_positions_flipped_and_norm_over_time",
        "several",
        ("Another activation. The position table is cut from its end. The norm runs over time: axis 2 for axis 1."),
        (
            ('F.gelu(self.conv_1(x), approximate="tanh")', "F.elu(self.conv_1(x))"),
            ("self.emb_pos[:, :, :t]", "self.emb_pos[:, :, -t:]"),
            ("        mean = x.mean(1, keepdim=True)", "        mean = x.mean(2, keepdim=True)"),
        ),
        parts=(
            "gelu_leaky",
            "positions_flipped",
            "norm_over_time",
        ),
    ),
    Bug(
        "conv1d_port",
        "positions_shifted_by_length_and_split_width_first_and_norm_gain_missing",
        "several",
        (
            "Positions begin at 1: a past of one is assumed. The view has the width of a head before "
            "the number of heads. The gain is never applied."
        ),
        (
            (
                "        past_length = 0 if past is None else past[0][0].size(-2)",
                "        past_length = 1 if past is None else past[0][0].size(-2)",
            ),
            (
                "        x = x.view(*x.size()[:-1], self.n_head, x.size(-1) // self.n_head)",
                ("        x = x.view(*x.size()[:-1], x.size(-1) // self.n_head, self.n_head).transpose(-1, -2)"),
            ),
            ("        return self.g * x + self.b", "        return x + self.b"),
        ),
        parts=(
            "positions_shifted_by_length",
            "split_width_first",
            "norm_gain_missing",
        ),
        short=True,
    ),
    Bug(
        "einsum_fused",
        "mlp_of_next_layer_and_norm_not_centred_and_head_before_norm",
        "several",
        (
            "The MLPs are taken in reverse. The output uses the uncentred value. The head reads the "
            "stream before the final norm."
        ),
        (
            ("zip(self.attns, self.mlps, strict=True)", "zip(self.attns, reversed(self.mlps), strict=True)"),
            ("        return centred * torch.rsqrt", "        return x * torch.rsqrt"),
            ("self.norms[-1](x), self.tokens)", "x, self.tokens)"),
        ),
        parts=(
            "mlp_of_next_layer",
            "norm_not_centred",
            "head_before_norm",
        ),
    ),
    Bug(
        "bert_names",
        "intermediate_stale_and_position_ids_offset_and_output_residual_missing",
        "several",
        (
            "The intermediate layer reads the attention's raw output. RoBERTa's offset of 2 is left "
            "in. The output module forgets the residual."
        ),
        (
            ("self.LayerNorm_mid(attention_output)", "self.LayerNorm_mid(self_output)"),
            (
                "        position_ids = self.position_ids[:, :seq_length]",
                "        position_ids = self.position_ids[:, 2 : seq_length + 2]",
            ),
            (
                "        return self.dropout(self.dense(hidden_states)) + input_tensor",
                "        return self.dropout(self.dense(hidden_states))",
            ),
        ),
        parts=(
            "intermediate_stale",
            "position_ids_offset",
            "output_residual_missing",
        ),
        short=True,
    ),
    Bug(
        "hparams",
        "silu_and_merge_permute_and_layers_sorted_by_name",
        "several",
        (
            "SiLU instead of GELU. The permutation on the way back is the wrong one. The blocks run in "
            "the order of their sorted names: 0, 1, 10, 11, 2."
        ),
        (
            ('F.gelu(block["ff_in"](x), approximate="tanh")', 'F.silu(block["ff_in"](x))'),
            (
                "(weights @ v).permute(0, 2, 1, 3).reshape(b, n, e)",
                "(weights @ v).permute(0, 2, 3, 1).reshape(b, n, e)",
            ),
            ('            block = self.stack[f"block_{i}"]', "            block = self.stack[sorted(self.stack)[i]]"),
        ),
        parts=(
            "silu",
            "merge_permute",
            "layers_sorted_by_name",
        ),
    ),
    Bug(
        "pre_norm",
        "fill_tiny_and_scale_lost_and_context_default",
        "several",
        (
            "The fill value is the smallest number, not the largest. The scaled query is not the one "
            "that is used. Keys and values are computed from the query's projection."
        ),
        (
            ("    return -torch.finfo(t.dtype).max", "    return -torch.finfo(t.dtype).tiny"),
            (
                '        sim = torch.einsum("b h i d, b h j d -> b h i j", q, k)',
                '        sim = torch.einsum("b h i d, b h j d -> b h i j", q / self.scale, k)',
            ),
            ("        context = default(context, x)", "        context = default(context, self.to_q(x))"),
        ),
        parts=(
            "fill_tiny",
            "scale_lost",
            "context_default",
        ),
    ),
)

BUGS = SINGLE + COMBINED
