"""Bugs to measure a diagnosis with, written after its rules, by somebody who has read none of them.

They are spread over all styles, and no edit stands in another set. At the end stand pairs and triples of them in one
file. Since the first measurement rules have been tuned on them, too: they say nothing about bugs of strangers any more.
"""

from functools import partial

from tests.bugs import Bug, combination

SINGLE = (
    Bug(
        "book",
        "head_count_after_head_width",
        "heads",
        "The view has the width of a head where the number of heads belongs, so there are 11 heads of width 4.",
        (
            (
                "x.view(batch, tokens, self.n_heads, width // self.n_heads)",
                "x.view(batch, tokens, width // self.n_heads, self.n_heads)",
            ),
        ),
    ),
    Bug(
        "book",
        "scores_called_backwards",
        "attention scores",
        "The method for the scores is called with keys and queries exchanged.",
        (("self.attn_scores(queries, keys)))", "self.attn_scores(keys, queries)))"),),
    ),
    Bug(
        "book",
        "eps_is_the_drop_rate",
        "normalisation",
        "The final norm gets the dropout rate as its epsilon.",
        (
            (
                'self.final_norm = LayerNorm(cfg["emb_dim"], cfg.get("eps", 1e-5))',
                'self.final_norm = LayerNorm(cfg["emb_dim"], cfg["drop_rate"])',
            ),
        ),
    ),
    Bug(
        "book",
        "merge_turns_the_last_axes",
        "heads",
        "Tokens are exchanged with the width of a head instead of with the heads before the merge.",
        (("return x.transpose(1, 2).reshape(", "return x.transpose(2, 3).reshape("),),
    ),
    Bug(
        "book",
        "one_key_head_for_all",
        "heads",
        "Keys of the first head serve every head, as in multi-query attention.",
        (("keys = self.split_heads(self.W_key(x))", "keys = self.split_heads(self.W_key(x))[:, :1]"),),
    ),
    Bug(
        "book_fused",
        "mask_in_the_sense_of_another_function",
        "attention mask",
        "True means hidden in torch's MultiheadAttention, and seen in the fused function.",
        (
            (
                "dropout_p=rate, is_causal=True)",
                "dropout_p=rate, attn_mask=torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1))",
            ),
        ),
    ),
    Bug(
        "book_fused",
        "merged_with_time_first",
        "heads",
        "The context is put time first and then reshaped as if the batch came first.",
        (
            (
                "self.proj(context.transpose(1, 2).reshape(batch, tokens, width))",
                "self.proj(context.permute(2, 0, 1, 3).reshape(batch, tokens, width))",
            ),
        ),
    ),
    Bug(
        "book_fused",
        "rate_without_mode",
        "dropout",
        "The fused attention gets the dropout rate in evaluation, too.",
        (("        rate = self.drop_rate if self.training else 0.0", "        rate = self.drop_rate"),),
    ),
    Bug(
        "book_fused",
        "one_norm_under_two_names",
        "normalisation",
        "Both norms of a block are one object.",
        (("        self.norm2 = nn.LayerNorm(width, eps=eps)", "        self.norm2 = self.norm1"),),
    ),
    Bug(
        "nanogpt",
        "final_norm_without_bias",
        "normalisation",
        "The final norm is built without its bias.",
        (
            (
                '"ln_f": LayerNorm(config.n_embd, config.bias, config.eps)',
                '"ln_f": LayerNorm(config.n_embd, False, config.eps)',
            ),
        ),
    ),
    Bug(
        "nanogpt",
        "second_layer_without_bias",
        "linear",
        "The MLP's second layer is built without its bias.",
        (
            (
                "self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)",
                "self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)",
            ),
        ),
    ),
    Bug(
        "nanogpt",
        "squared_relu",
        "activation",
        "The activation is the square of a ReLU, as in a later model of the same author.",
        (("self.c_proj(self.gelu(self.c_fc(x)))", "self.c_proj(F.relu(self.c_fc(x)).square())"),),
    ),
    Bug(
        "nanogpt",
        "final_norm_with_targets_only",
        "normalisation",
        "The final norm was indented into the branch for training.",
        (
            (
                '        x = net["ln_f"](x)\n        if targets is not None:\n',
                '        if targets is not None:\n            x = net["ln_f"](x)\n',
            ),
        ),
        guilty=('x = net["ln_f"](x)', "return self.lm_head(x if self.all_positions else x[:, [-1]]), None"),
    ),
    Bug(
        "mingpt",
        "gelu_bracket_dropped",
        "activation",
        "The factor of the GELU's argument does not reach the cubic term.",
        (
            (
                "math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))",
                "math.sqrt(2.0 / math.pi) * x + 0.044715 * torch.pow(x, 3.0)",
            ),
        ),
    ),
    Bug(
        "mingpt",
        "root_cut_to_an_integer",
        "attention scores",
        "The root of the head's width is cut to an integer.",
        (("(1.0 / math.sqrt(k.size(-1)))", "(1.0 / int(math.sqrt(k.size(-1))))"),),
    ),
    Bug(
        "mingpt",
        "mask_result_dropped",
        "attention mask",
        "masked_fill returns a new tensor, and nobody keeps it.",
        (("        att = att.masked_fill(", "        att.masked_fill("),),
    ),
    Bug(
        "mingpt",
        "mask_rows_from_the_end",
        "attention mask",
        "The mask's rows are cut from its end, as if there were cached tokens.",
        (("self.bias[:, :, :t, :t]", "self.bias[:, :, -t:, :t]"),),
    ),
    Bug(
        "mingpt",
        "initialisation_factor_in_forward",
        "residual",
        "The factor that GPT-2 applies once, to the initial weights, is applied to the MLP's output.",
        (
            (
                "return x + self.feed_forward(self.ln_2(x))",
                "return x + self.feed_forward(self.ln_2(x)) / math.sqrt(2 * 12)",
            ),
        ),
    ),
    Bug(
        "parallel_heads",
        "gain_stored_as_a_difference",
        "normalisation",
        "The norm multiplies by one plus the gain, as Gemma does.",
        (("return x / scale * self.w + self.b", "return x / scale * (1.0 + self.w) + self.b"),),
    ),
    Bug(
        "parallel_heads",
        "centred_value_unused",
        "normalisation",
        "The centred value has a name that nobody reads, so the mean stays in.",
        (("        x = x - x.mean(-1, keepdim=True)", "        centred = x - x.mean(-1, keepdim=True)"),),
        guilty=(
            "centred = x - x.mean(-1, keepdim=True)",
            "scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()",
            "return x / scale * self.w + self.b",
        ),
    ),
    Bug(
        "parallel_heads",
        "inner_bias_after_activation",
        "activation",
        "The first bias of the MLP is added after the activation.",
        (("self.act(x @ self.W_in + self.b_in) @ self.W_out", "(self.act(x @ self.W_in) + self.b_in) @ self.W_out"),),
    ),
    Bug(
        "parallel_heads",
        "position_index_without_colon",
        "embedding",
        "The colon of the slice is missing, so every position gets the row after the last.",
        (("self.W_pos[: tokens.shape[1]]", "self.W_pos[tokens.shape[1]]"),),
        short=True,
    ),
    Bug(
        "parallel_heads",
        "window_of_another_model",
        "attention mask",
        "Positions see the last ten tokens only, as in a model with a sliding window.",
        (("cfg.n_ctx, dtype=torch.bool).tril())", "cfg.n_ctx, dtype=torch.bool).tril().triu(-9))"),),
    ),
    Bug(
        "functional",
        "root_of_axis_one",
        "attention scores",
        "Axis 1 of the queries is the heads, not the width of a head.",
        (("k.mT / math.sqrt(q.shape[-1])", "k.mT / math.sqrt(q.shape[1])"),),
    ),
    Bug(
        "functional",
        "attention_called_with_value_second",
        "projection",
        "Key and value are exchanged in the call of the helper.",
        (("linear(attention(q, k, v)", "linear(attention(q, v, k)"),),
    ),
    Bug(
        "functional",
        "variance_of_everything",
        "normalisation",
        "The variance lacks its axis, so it is one number for all prompts and positions.",
        (("centred.square().mean(-1, keepdim=True)", "centred.square().mean()"),),
    ),
    Bug(
        "functional",
        "gelu_without_its_input",
        "activation",
        "The GELU returns the probability and does not multiply by x.",
        (("return 0.5 * x * (1 + torch.tanh(", "return 0.5 * (1 + torch.tanh("),),
    ),
    Bug(
        "numpy_gpt2",
        "root_of_standard_deviation",
        "normalisation",
        "The standard deviation stands where the variance belongs, so a root is taken twice.",
        (("np.sqrt(x.var(-1, keepdims=True) + eps)", "np.sqrt(x.std(-1, keepdims=True) + eps)"),),
    ),
    Bug(
        "numpy_gpt2",
        "highest_number_as_count",
        "layers",
        "The number of layers is taken to be the highest layer's number, which is one less.",
        (("n_layer = 1 + max(", "n_layer = max("),),
    ),
    Bug(
        "numpy_gpt2",
        "lambda_bound_late",
        "layers",
        "Each lambda reads the loop's variable when it is called, so all of them run the last layer.",
        (
            (
                (
                    '        for h in (f"h.{i}" for i in range(n_layer)):\n'
                    '            x = use.block(x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + ".ln_2"), '
                    'mlp(h + ".mlp"))\n'
                ),
                (
                    "        layers = [\n"
                    "            lambda x: use.block("
                    'x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + ".ln_2"), mlp(h + ".mlp"))\n'
                    '            for h in (f"h.{i}" for i in range(n_layer))\n'
                    "        ]\n"
                    "        for layer in layers:\n"
                    "            x = layer(x)\n"
                ),
            ),
        ),
        guilty=(
            "layers = [",
            'lambda x: use.block(x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + ".ln_2"), mlp(h + ".mlp"))',
            'for h in (f"h.{i}" for i in range(n_layer))',
        ),
    ),
    Bug(
        "numpy_gpt2",
        "weights_through_half_precision",
        "numerics",
        "The weights pass through half precision when they are read.",
        (("np.asarray(value, dtype)", "np.asarray(value, np.float16).astype(dtype)"),),
    ),
    Bug(
        "encoder_layers",
        "activation_by_name",
        "activation",
        "The name gelu means the exact form.",
        (('activation=partial(F.gelu, approximate="tanh")', 'activation="gelu"'),),
    ),
    Bug(
        "encoder_layers",
        "normed_once_more",
        "normalisation",
        "The stream is normed again before the head, although the encoder ends in a norm.",
        (("return F.linear(x, weight)", "return F.linear(F.layer_norm(x, x.shape[-1:]), weight)"),),
    ),
    Bug(
        "encoder_layers",
        "positions_by_cumulative_sum",
        "embedding",
        "Positions are a cumulative sum of ones, which begins at 1.",
        (
            (
                "pos = torch.arange(length, device=tokens.device).expand(batch, length)",
                "pos = torch.ones_like(tokens).cumsum(dim=1)",
            ),
        ),
        short=True,
    ),
    Bug(
        "encoder_layers",
        "encoder_without_norm",
        "normalisation",
        "The encoder is built without its final norm.",
        (("            norm=nn.LayerNorm(args.d_model, eps=1e-5),\n", "            norm=None,\n"),),
    ),
    Bug(
        "encoder_layers",
        "head_not_tied",
        "head",
        "The head is a layer of its own that nobody ties to the token table.",
        (
            (
                "        layer = nn.TransformerEncoderLayer(",
                (
                    "        self.head = nn.Linear(args.d_model, args.vocab, bias=False)\n"
                    "        layer = nn.TransformerEncoderLayer("
                ),
            ),
            ("return F.linear(x, weight)", "return self.head(x)"),
        ),
    ),
    Bug(
        "sequence_first",
        "softmax_over_axis_one",
        "softmax",
        "With the heads folded into the batch, axis 1 is the queries.",
        (("torch.softmax(attn, dim=-1)", "torch.softmax(attn, dim=1)"),),
    ),
    Bug(
        "sequence_first",
        "only_the_queries_scaled",
        "attention scores",
        "The fourth root is meant for queries and keys alike, and the keys are not scaled.",
        (("q = q * self.head_dim**-0.5", "q = q * self.head_dim**-0.25"),),
        guilty=("q = q * self.head_dim**-0.25", "k = k.reshape(seq_len, bsz * self.nhead, self.head_dim)"),
    ),
    Bug(
        "sequence_first",
        "residual_from_the_branch",
        "residual",
        "The feed-forward output is added to itself and not to the residual stream: one character too many.",
        (("src = src + self.dropout2(src2)", "src = src2 + self.dropout2(src2)"),),
    ),
    Bug(
        "sequence_first",
        "thirds_taken_by_column",
        "projection",
        "Every third column is a query, although the fused layer holds all queries first.",
        (("self.in_proj(src).chunk(3, dim=-1)", "self.in_proj(src).unflatten(-1, (-1, 3)).unbind(-1)"),),
    ),
    Bug(
        "sequence_first",
        "first_norm_without_parameters",
        "normalisation",
        "The attention's norm is built without gain and shift.",
        (("self.norm1 = nn.LayerNorm(ninp)", "self.norm1 = nn.LayerNorm(ninp, elementwise_affine=False)"),),
    ),
    Bug(
        "hardcoded",
        "query_columns_off_by_one",
        "projection",
        "The query's columns begin and end one too early.",
        (("q = y[:, :, 44:88]", "q = y[:, :, 43:87]"),),
    ),
    Bug(
        "hardcoded",
        "power_typed_as_product",
        "attention scores",
        "One star is missing: half the head's width instead of its root.",
        (("/ (11**0.5)", "/ (11 * 0.5)"),),
    ),
    Bug(
        "hardcoded",
        "diagonal_masked",
        "attention mask",
        "The mask begins on the diagonal, so no position sees itself.",
        (("-10000.0), diagonal=1)", "-10000.0), diagonal=0)"),),
    ),
    Bug(
        "hardcoded",
        "mlp_reads_merged_heads",
        "dataflow",
        "The MLP reads y, which still holds the merged heads, and not x.",
        (("self.f1(self.n2(x))", "self.f1(self.n2(y))"),),
    ),
    Bug(
        "needs_targets",
        "embedding_sum_scaled",
        "embedding",
        "The sum of both embeddings is multiplied by the root of the width.",
        (
            (
                "x = self.token_emb(inputs) + self.pos_emb(position)",
                "x = (self.token_emb(inputs) + self.pos_emb(position)) * math.sqrt(self.pos_emb.embedding_dim)",
            ),
        ),
    ),
    Bug(
        "needs_targets",
        "inputs_shifted_right",
        "dataflow",
        "The ids are shifted by one position, as the decoder of a translation model does.",
        (
            (
                "        _, length = inputs.shape\n",
                ("        _, length = inputs.shape\n        inputs = nn.functional.pad(inputs[:, :-1], (1, 0))\n"),
            ),
        ),
    ),
    Bug(
        "needs_targets",
        "shared_mask_negated_in_place",
        "attention mask",
        "Each layer negates the mask that all of them share, so every second layer hides what it should show.",
        (("att.masked_fill(~mask,", "att.masked_fill(mask.logical_not_(),"),),
    ),
    Bug(
        "needs_targets",
        "norm_built_without_bias",
        "normalisation",
        "The MLP's norm is built without its bias.",
        (('"before_mlp": nn.LayerNorm(dim)}', '"before_mlp": nn.LayerNorm(dim, bias=False)}'),),
    ),
    Bug(
        "padded_context",
        "answer_cut_from_the_end",
        "dataflow",
        "The answer is cut from the end, where the padding is.",
        (("self.ln_out(x[:, :length])", "self.ln_out(x[:, -length:])"),),
    ),
    Bug(
        "padded_context",
        "relative_bias_left_in",
        "attention scores",
        "The bias of the earlier experiment is still added to the scores.",
        (
            (
                "F.softmax(logits + self.causal, dim=-1)",
                "F.softmax(logits + self.rel_bias[:, None] + self.causal, dim=-1)",
            ),
        ),
    ),
    Bug(
        "padded_context",
        "root_before_division",
        "attention scores",
        "A bracket closes too early: the root of the width is divided by the number of heads.",
        (("math.sqrt(d / h)", "(math.sqrt(d) / h)"),),
    ),
    Bug(
        "padded_context",
        "halves_exchanged",
        "projection",
        "The halves of the fused layer are taken as key and query.",
        (("q, k = self.query_key(x)", "k, q = self.query_key(x)"),),
    ),
    Bug(
        "padded_context",
        "heads_first_in_the_einsum",
        "heads",
        "The einsum leaves the heads before the positions, and the reshape mixes both.",
        (('"bhij,bhjd->bihd"', '"bhij,bhjd->bhid"'),),
        guilty=('torch.einsum("bhij,bhjd->bhid", attn, v)', "self.mix(z.reshape(b, t, d))"),
    ),
    Bug(
        "head_sum",
        "columns_overlap",
        "heads",
        "The slice begins at the head's number and not at its first column.",
        (
            (
                "cols = slice(head * self.d_head, (head + 1) * self.d_head)",
                "cols = slice(head, head + self.d_head)",
            ),
        ),
    ),
    Bug(
        "head_sum",
        "output_columns_for_rows",
        "linear",
        "A head writes through columns of the output matrix, transposed, instead of through its rows.",
        (("self.W_O[cols, :]", "self.W_O[:, cols].T"),),
    ),
    Bug(
        "head_sum",
        "stream_added_inside_and_outside",
        "residual",
        "The attention adds the residual stream, and so does its caller.",
        (("out = self.B_O.expand_as(resid)", "out = resid + self.B_O"),),
        guilty=("out = resid + self.B_O", "resid = resid + self.attention[i](self.ln_before_attention[i](resid))"),
    ),
    Bug(
        "head_sum",
        "pattern_turned",
        "softmax",
        "The pattern is transposed before it meets the values.",
        (("return pattern @ v @", "return pattern.mT @ v @"),),
    ),
    Bug(
        "head_sum",
        "norm_of_the_layer_before",
        "layers",
        "The MLP reads the norm of the layer before, and in the first layer that of the last.",
        (("self.ln_before_mlp[i](resid)", "self.ln_before_mlp[i - 1](resid)"),),
    ),
    Bug(
        "one_norm_tensor",
        "parts_before_head_width",
        "heads",
        "The fused layer is viewed as if the parts of a head were blocks, although they alternate.",
        (
            (".view(batch, length, self.n_head, self.d_head, 3)", ".view(batch, length, self.n_head, 3, self.d_head)"),
            ("y.transpose(1, 2).unbind(-1)", "y.transpose(1, 2).unbind(-2)"),
        ),
    ),
    Bug(
        "one_norm_tensor",
        "positions_from_the_words",
        "embedding",
        "Positions are read from the top of the table, where the words are.",
        (("words[ids] + positions[: ids.shape[1]]", "words[ids] + self.table[: ids.shape[1]]"),),
    ),
    Bug(
        "one_norm_tensor",
        "norm_axes_exchanged",
        "normalisation",
        "The second and third axis of the norms are exchanged, so the attention gets two gains.",
        (("self.norms[layer, 0]", "self.norms[layer, :, 0]"),),
    ),
    Bug(
        "one_norm_tensor",
        "norm_over_two_axes",
        "normalisation",
        "The norm runs over positions and width together.",
        (("F.layer_norm(x, gain.shape, gain, shift)", "F.layer_norm(x, x.shape[1:]) * gain + shift"),),
    ),
    Bug(
        "one_norm_tensor",
        "last_norm_is_a_layers",
        "normalisation",
        "The stream ends in the last layer's second norm and not in the final one.",
        (("self.norm(x, self.last_norm)", "self.norm(x, self.norms[-1, 1])"),),
    ),
    Bug(
        "wants_tokenizer",
        "slow_branch_not_turned_back",
        "heads",
        "The branch without the fast attention leaves the heads before the positions.",
        (
            (
                "            output = torch.matmul(scores, xv).transpose(1, 2)",
                "            output = torch.matmul(scores, xv)",
            ),
        ),
        guilty=("output = torch.matmul(scores, xv)", "self.wo(output.reshape(bsz, seqlen, self.hidden_dim))"),
    ),
    Bug(
        "wants_tokenizer",
        "output_projection_not_called",
        "projection",
        "The attention returns the merged heads, and its output layer is never called.",
        (
            (
                "return self.wo(output.reshape(bsz, seqlen, self.hidden_dim))",
                "return output.reshape(bsz, seqlen, self.hidden_dim)",
            ),
        ),
    ),
    Bug(
        "wants_tokenizer",
        "quick_gelu",
        "activation",
        "The quick form of the GELU is used, as in CLIP.",
        (
            (
                'self.w2(nn.functional.gelu(self.w1(x), approximate="tanh"))',
                "self.w2(self.w1(x) * torch.sigmoid(1.702 * self.w1(x)))",
            ),
        ),
    ),
    Bug(
        "wants_tokenizer",
        "epsilon_of_another_family",
        "normalisation",
        "The attention's norm has the epsilon of Llama.",
        (
            (
                "self.attention_norm = nn.LayerNorm(hidden_dim)",
                "self.attention_norm = nn.LayerNorm(hidden_dim, eps=1e-6)",
            ),
        ),
    ),
    Bug(
        "head_list",
        "heads_stacked_last",
        "heads",
        "Heads are stacked along a last axis, so their features alternate after the flattening.",
        (
            (
                "torch.cat([h(x) for h in self.heads], dim=-1)",
                "torch.stack([h(x) for h in self.heads], dim=-1).flatten(-2)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "subsequent_mask_means_the_future",
        "attention mask",
        "The helper returns true for the future, and its caller takes it for what may be seen.",
        (("return future == 0", "return future == 1"),),
    ),
    Bug(
        "torch_mha",
        "mask_made_a_number",
        "attention mask",
        "A mask of numbers is added to the scores, so the future gets a 1 instead of being hidden.",
        (("attn_mask=causal,", "attn_mask=causal.to(x.dtype),"),),
    ),
    Bug(
        "einsum_fused",
        "second_norm_two_further",
        "layers",
        "The index of the second norm is one too high: it is the next layer's first.",
        (("self.norms[2 * i + 1](x)", "self.norms[2 * i + 2](x)"),),
    ),
    Bug(
        "scan_stack",
        "layers_indexed_from_the_end",
        "layers",
        "A minus before the index: after the first layer come the last, the last but one, and so on.",
        (("{name: stacked[i] for", "{name: stacked[-i] for"),),
    ),
    Bug(
        "interleaved",
        "embedding_sum_in_half",
        "numerics",
        "The sum of the embeddings is stored in half precision.",
        (
            (
                "hidden_states = self.word_embeddings(tokens) + self.position_embeddings(position_ids)",
                (
                    "hidden_states = (self.word_embeddings(tokens) + self.position_embeddings(position_ids))"
                    ".half().to(self.word_embeddings.weight.dtype)"
                ),
            ),
        ),
    ),
    Bug(
        "conv1d_port",
        "second_norm_of_the_attention",
        "dataflow",
        "The MLP reads the attention's output alone and not the residual stream.",
        (("self.c_fc(self.ln_2(x))", "self.c_fc(self.ln_2(a))"),),
    ),
    Bug(
        "german",
        "exact_gelu_by_hand",
        "activation",
        "The GELU is written with the error function.",
        (
            (
                "y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))",
                "y / 2 * (1 + torch.erf(y / math.sqrt(2)))",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "final_norm_in_the_loop",
        "normalisation",
        "The final norm is indented into the loop over the layers.",
        (
            (
                "            inner_states.append(x)\n        x = self.layer_norm(x)",
                "            inner_states.append(x)\n            x = self.layer_norm(x)",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "root_then_floor",
        "attention scores",
        "The root is taken of the whole width, and then floor-divided by the number of heads.",
        (("np.sqrt(d_model // num_heads)", "(np.sqrt(d_model) // num_heads)"),),
    ),
    Bug(
        "array_list",
        "columns_of_heads_strided",
        "heads",
        "A head gets every fourth column instead of eleven that lie together.",
        (
            (
                "zip(*(np.split(m, n_heads, axis=1) for m in (q, k, v)), strict=True)",
                "zip(*([m[:, i::n_heads] for i in range(n_heads)] for m in (q, k, v)), strict=True)",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "constant_inside_the_cube",
        "activation",
        "The GELU's cubic constant is cubed, too.",
        (("0.044715 * torch.pow(x, 3)", "torch.pow(0.044715 * x, 3)"),),
    ),
    Bug(
        "own_layers",
        "mean_divides_by_length",
        "normalisation",
        "The sums over the width are divided by the number of positions.",
        (("        d = x.shape[-1]\n", "        d = x.shape[1]\n"),),
    ),
    Bug(
        "bert_names",
        "attention_reads_the_stream",
        "normalisation",
        "The attention reads its input without the norm, as in BERT.",
        (
            (
                'self.attention["self"](self.LayerNorm_in(hidden_states), attention_mask)',
                'self.attention["self"](hidden_states, attention_mask)',
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "scale_by_tokens_so_far",
        "attention scores",
        "Axis 2 of the remembered keys is the tokens so far, not the width of a head.",
        (
            (
                "scores = (keys @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(size // self.heads)",
                "scores = (keys @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(keys.size(2))",
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "memory_called_backwards",
        "projection",
        "Key and value are exchanged in the call that remembers them.",
        (("memory.append(layer, k, v)", "memory.append(layer, v, k)"),),
    ),
    Bug(
        "conv1x1",
        "value_viewed_with_time_first",
        "heads",
        "The value is viewed with time before channels, although the channels come first in memory.",
        (
            (
                "value = self.conv_v(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)",
                "value = self.conv_v(x).view(b, self.n_heads, t, self.k_channels)",
            ),
        ),
    ),
    Bug(
        "conv1x1",
        "norm_in_place",
        "dataflow",
        "The norm works in place, so the residual stream itself is standardised.",
        (
            (
                "        x = (x - mean) * torch.rsqrt(variance + self.eps)",
                "        x = x.sub_(mean).mul_(torch.rsqrt(variance + self.eps))",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "activation_result_dropped",
        "activation",
        "The activation's result is not kept.",
        (('        h = F.gelu(h, approximate="tanh")', '        F.gelu(h, approximate="tanh")'),),
    ),
    Bug(
        "numbered_sequence",
        "triangle_of_ones_added",
        "attention mask",
        "The triangle is given as numbers, which the fused attention adds to the scores.",
        (
            (
                "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
                "F.scaled_dot_product_attention(q, k, v, attn_mask=q.new_ones(q.size(-2), k.size(-2)).tril())",
            ),
        ),
    ),
    Bug(
        "pre_norm",
        "context_not_normed",
        "normalisation",
        "The context is handed through the norm's wrapper as it is, so keys and values are made of the raw stream.",
        (("x = attn(x) + x", "x = attn(x, context=x) + x"),),
    ),
    Bug(
        "hparams",
        "soft_cap_of_another_family",
        "head",
        "The logits pass through a soft cap, as in Gemma.",
        (('return self.head["out"](x)', 'return 30.0 * torch.tanh(self.head["out"](x) / 30.0)'),),
    ),
)


together = partial(combination, SINGLE)

COMBINED = (
    together("book", "scores_called_backwards", "eps_is_the_drop_rate"),
    together("book_fused", "merged_with_time_first", "one_norm_under_two_names"),
    together("nanogpt", "second_layer_without_bias", "squared_relu"),
    together("mingpt", "gelu_bracket_dropped", "mask_rows_from_the_end"),
    together("mingpt", "mask_result_dropped", "initialisation_factor_in_forward"),
    together("parallel_heads", "gain_stored_as_a_difference", "inner_bias_after_activation"),
    together("functional", "root_of_axis_one", "gelu_without_its_input"),
    together("numpy_gpt2", "root_of_standard_deviation", "highest_number_as_count"),
    together("encoder_layers", "positions_by_cumulative_sum", "normed_once_more"),
    together("sequence_first", "softmax_over_axis_one", "residual_from_the_branch"),
    together("hardcoded", "query_columns_off_by_one", "diagonal_masked"),
    together("hardcoded", "power_typed_as_product", "mlp_reads_merged_heads"),
    together("needs_targets", "embedding_sum_scaled", "inputs_shifted_right"),
    together("padded_context", "root_before_division", "halves_exchanged"),
    together("head_sum", "pattern_turned", "norm_of_the_layer_before"),
    together("one_norm_tensor", "positions_from_the_words", "norm_over_two_axes"),
    together("wants_tokenizer", "output_projection_not_called", "quick_gelu"),
    together("wants_tokenizer", "quick_gelu", "epsilon_of_another_family"),
    together("conv1x1", "value_viewed_with_time_first", "norm_in_place"),
    together("token_by_token", "scale_by_tokens_so_far", "memory_called_backwards"),
    together("book", "head_count_after_head_width", "one_key_head_for_all", "eps_is_the_drop_rate"),
    together(
        "book_fused", "mask_in_the_sense_of_another_function", "merged_with_time_first", "one_norm_under_two_names"
    ),
    together("nanogpt", "squared_relu", "second_layer_without_bias", "final_norm_without_bias"),
    together("mingpt", "root_cut_to_an_integer", "mask_rows_from_the_end", "initialisation_factor_in_forward"),
    together(
        "parallel_heads", "position_index_without_colon", "window_of_another_model", "inner_bias_after_activation"
    ),
    together("functional", "root_of_axis_one", "attention_called_with_value_second", "variance_of_everything"),
    together("numpy_gpt2", "weights_through_half_precision", "root_of_standard_deviation", "highest_number_as_count"),
    together("encoder_layers", "activation_by_name", "positions_by_cumulative_sum", "encoder_without_norm"),
    together("sequence_first", "thirds_taken_by_column", "softmax_over_axis_one", "first_norm_without_parameters"),
    together("head_sum", "columns_overlap", "output_columns_for_rows", "norm_of_the_layer_before"),
)

BUGS = SINGLE + COMBINED
