"""Bugs of people who know another language or framework well, to measure a diagnosis with.

They come from ports (numpy, JAX, Keras, C, Julia, other models of the family): orders in memory, meanings of axes,
broadcasting, defaults, and what is changed in place. They were written by somebody who read neither the rules of the
diagnosis nor what it says of other bugs, and the guilty lines were marked before anything was run. Whoever writes or
changes a rule does not read this file. No program stands in another set. At the end stand pairs in one file.
"""

from tests.bugs import Bug, combination

SINGLE = (
    Bug(
        "annotated",
        "merged_with_channels_before_heads",
        "heads",
        "The heads become the fastest axis when they are merged, as in a language that stores columns.",
        (
            (
                "x = x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)",
                "x = x.permute(0, 2, 3, 1).reshape(nbatches, -1, self.h * self.d_k)",
            ),
        ),
    ),
    Bug(
        "annotated",
        "sigmoid_form_of_another_model",
        "activation",
        "The activation is the sigmoid approximation that an image and text model uses.",
        (
            (
                "h = 0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * torch.pow(h, 3.0))))",
                "h = h * torch.sigmoid(1.702 * h)",
            ),
        ),
    ),
    Bug(
        "array_list",
        "heads_stacked_on_a_last_axis",
        "heads",
        "The heads are stacked behind their channels and flattened, so their channels alternate.",
        (
            (
                "mixed = np.hstack([attend(*head) for head in per_head])",
                "mixed = np.stack([attend(*head) for head in per_head], axis=-1).reshape(len(x), -1)",
            ),
        ),
    ),
    Bug(
        "array_list",
        "sorted_as_another_library_does",
        "normalisation",
        "The arrays are unpacked with shifts before gains, as a tree with sorted names lists them.",
        (("g1, b1, w_qkv, b_qkv, w_o, b_o, g2, b2,", "b1, g1, w_qkv, b_qkv, w_o, b_o, b2, g2,"),),
    ),
    Bug(
        "bert_names",
        "rebinds_the_name_of_the_stream",
        "residual",
        "The norm's result takes the name of the stream, so the first sum adds to normalised values.",
        (
            (
                '        self_output = self.attention["self"](self.LayerNorm_in(hidden_states), attention_mask)\n',
                (
                    "        hidden_states = self.LayerNorm_in(hidden_states)\n"
                    '        self_output = self.attention["self"](hidden_states, attention_mask)\n'
                ),
            ),
        ),
        guilty=("hidden_states = self.LayerNorm_in(hidden_states)",),
    ),
    Bug(
        "bert_names",
        "view_takes_heads_before_tokens",
        "heads",
        "The view asks for the shape that is wanted, and no axis is moved.",
        (
            (
                (
                    "new_shape = (*x.size()[:-1], self.num_attention_heads, self.attention_head_size)\n"
                    "        return x.view(new_shape).permute(0, 2, 1, 3)"
                ),
                (
                    "new_shape = (x.size(0), self.num_attention_heads, -1, self.attention_head_size)\n"
                    "        return x.view(new_shape)"
                ),
            ),
        ),
    ),
    Bug(
        "book",
        "statistics_over_tokens_and_channels",
        "normalisation",
        "Mean and variance are taken over everything but the batch, as a layer norm for images does.",
        (
            ("mean = x.mean(dim=-1, keepdim=True)", "mean = x.mean(dim=(1, 2), keepdim=True)"),
            (
                "var = x.var(dim=-1, keepdim=True, unbiased=False)",
                "var = x.var(dim=(1, 2), keepdim=True, unbiased=False)",
            ),
        ),
    ),
    Bug(
        "book",
        "scores_over_the_width_and_not_its_root",
        "attention scores",
        "The scores are divided by the width of a head itself, as the rule for transferred learning rates has it.",
        (("keys.transpose(2, 3) / math.sqrt(keys.shape[-1])", "keys.transpose(2, 3) / keys.shape[-1]"),),
    ),
    Bug(
        "book_fused",
        "scores_with_a_divisor_for_a_factor",
        "attention scores",
        "The argument is a factor, and what is given is the number to divide by.",
        (("dropout_p=rate, is_causal=True)", "dropout_p=rate, is_causal=True, scale=queries.shape[-1] ** 0.5)"),),
    ),
    Bug(
        "book_fused",
        "one_norm_for_two_branches",
        "residual",
        "Both branches read the first norm, side by side, as in another model of this family.",
        (
            (
                (
                    "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                    "        return x + self.drop_shortcut(self.ff(self.norm2(x)))"
                ),
                (
                    "        h = self.norm1(x)\n"
                    "        return x + self.drop_shortcut(self.att(h)) + self.drop_shortcut(self.ff(h))"
                ),
            ),
        ),
        guilty=("return x + self.drop_shortcut(self.att(h)) + self.drop_shortcut(self.ff(h))",),
    ),
    Bug(
        "conv1d_port",
        "norm_changes_its_argument",
        "normalisation",
        "The two methods with an underscore write into the residual stream.",
        (("x = (x - u) / torch.sqrt(s + self.e)", "x.sub_(u).div_(torch.sqrt(s + self.e))"),),
    ),
    Bug(
        "conv1x1",
        "time_and_heads_flattened_together",
        "heads",
        "The result is reshaped to tokens and channels while the heads still stand before the tokens.",
        (
            (
                "output = output.transpose(2, 3).contiguous().view(b, d, t)",
                "output = output.reshape(b, t, d).transpose(1, 2)",
            ),
        ),
    ),
    Bug(
        "conv1x1",
        "channels_first_by_a_reshape",
        "embedding",
        "The channels are brought forward by a reshape, which moves no numbers.",
        (
            (
                "x = self.emb(ids).transpose(1, 2) + self.emb_pos[:, :, :t]",
                "x = self.emb(ids).reshape(ids.shape[0], -1, t) + self.emb_pos[:, :, :t]",
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "values_keep_the_letter_of_the_queries",
        "attention scores",
        "The values have the letter of the queries' positions, so each token takes its own value.",
        (('"bhts,bshd->bthd"', '"bhts,bthd->bthd"'),),
    ),
    Bug(
        "einsum_fused",
        "counted_from_one",
        "layers",
        "The indices are those of a language that counts from one.",
        (
            (
                "enumerate(zip(self.attns, self.mlps, strict=True))",
                "enumerate(zip(self.attns, self.mlps, strict=True), start=1)",
            ),
            ("attn(self.norms[2 * i](x))", "attn(self.norms[2 * i - 1](x))"),
            ("mlp(self.norms[2 * i + 1](x))", "mlp(self.norms[2 * i](x))"),
        ),
        guilty=(
            "attn(self.norms[2 * i - 1](x))",
            "mlp(self.norms[2 * i](x))",
        ),
    ),
    Bug(
        "encoder_layers",
        "normalised_inside_and_outside",
        "head",
        "The encoder ends with its norm, and the norm is called once more in front of the head.",
        (("return F.linear(x, weight)", "return F.linear(self.encoder.norm(x), weight)"),),
    ),
    Bug(
        "encoder_layers",
        "epsilons_of_another_library",
        "normalisation",
        "Both epsilons are the default of the library that the code came from.",
        (
            ("layer_norm_eps=1e-5", "layer_norm_eps=1e-3"),
            ("norm=nn.LayerNorm(args.d_model, eps=1e-5)", "norm=nn.LayerNorm(args.d_model, eps=1e-3)"),
        ),
    ),
    Bug(
        "functional",
        "deviation_with_the_other_default",
        "normalisation",
        "numpy's deviation divides by the number of values, and torch's by one less.",
        (("torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)", "(x.std(-1, keepdim=True) + eps)"),),
    ),
    Bug(
        "functional",
        "each_block_reads_the_embedding",
        "layers",
        "The result has a name of its own, so each block reads the embedding and the last one wins.",
        (
            ("        x = block(x, block_params, n_head, eps)\n", "        h = block(x, block_params, n_head, eps)\n"),
            ('return layer_norm(x, **params["ln_f"], eps=eps)', 'return layer_norm(h, **params["ln_f"], eps=eps)'),
        ),
        guilty=("h = block(x, block_params, n_head, eps)",),
    ),
    Bug(
        "german",
        "sigmoid_without_the_two",
        "activation",
        "The half and the tanh became a sigmoid, whose argument should have been doubled.",
        (
            (
                "y = y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))",
                "y = y * torch.sigmoid(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))",
            ),
        ),
    ),
    Bug(
        "german",
        "sum_over_one_less",
        "normalisation",
        "The variance is that of a sample, as the author's former language computes it.",
        (
            (
                "((x - mittel) ** 2).mean(dim=-1, keepdim=True)",
                "((x - mittel) ** 2).sum(dim=-1, keepdim=True) / (x.size(-1) - 1)",
            ),
        ),
    ),
    Bug(
        "hardcoded",
        "heads_exchanged_with_channels",
        "heads",
        "The transpose is the one from images, and brings the last axis forward.",
        (("y.transpose(1, 2).reshape(n, t, 44)", "y.transpose(1, 3).reshape(n, t, 44)"),),
    ),
    Bug(
        "head_list",
        "width_of_the_model_in_the_scale",
        "attention scores",
        "The lecture's own slip: the scores are scaled by the width of the model and not of the head.",
        (
            ("T = x.shape[1]", "B, T, C = x.shape"),
            ("k.shape[-1] ** -0.5", "C**-0.5"),
        ),
        guilty=("C**-0.5",),
    ),
    Bug(
        "head_sum",
        "output_matrix_stored_the_other_way",
        "projection",
        "The output matrix is read as a linear layer stores it, with outputs first.",
        (("self.W_O[cols, :]", "self.W_O[:, cols].mT"),),
    ),
    Bug(
        "head_sum",
        "heads_read_one_another",
        "heads",
        "Each head reads the stream with what the heads before it wrote.",
        (("out = out + self.head_result(resid, head)", "out = out + self.head_result(resid + out, head)"),),
    ),
    Bug(
        "hparams",
        "last_norm_slips_into_the_loop",
        "layers",
        "The last norm is indented too far, so it runs behind each block.",
        (('        x = self.head["norm"](x)\n', '            x = self.head["norm"](x)\n'),),
    ),
    Bug(
        "interleaved",
        "bias_left_to_a_fused_sum",
        "projection",
        "The bias is left out for a fused sum that this code does not have.",
        (
            (
                "return self.dense_4h_to_h(intermediate)",
                "return nn.functional.linear(intermediate, self.dense_4h_to_h.weight)",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "reshaped_in_the_order_of_columns",
        "heads",
        "The reshape that merges the heads counts columns first.",
        (("np.reshape(attn, (batch, seq_len, d_model))", 'np.reshape(attn, (batch, seq_len, d_model), order="F")'),),
    ),
    Bug(
        "jax_dict",
        "sum_without_an_axis",
        "softmax",
        "Without an axis the sum is that of the whole array.",
        (("np.sum(unnormalized, axis=axis, keepdims=True)", "np.sum(unnormalized, keepdims=True)"),),
    ),
    Bug(
        "mingpt",
        "dictionary_run_in_its_order",
        "activation",
        "The layers run in the order of the dictionary, where the activation stands behind the second layer.",
        (
            (
                ('        mlp = self.mlp\n        return mlp["dropout"](mlp["c_proj"](mlp["act"](mlp["c_fc"](x))))'),
                "        for layer in self.mlp.values():\n            x = layer(x)\n        return x",
            ),
        ),
        guilty=(
            "for layer in self.mlp.values():",
            "            x = layer(x)",
        ),
    ),
    Bug(
        "mingpt",
        "scores_capped",
        "attention scores",
        "The scores are capped softly, as a newer model's are.",
        (
            (
                "        att = att.masked_fill(",
                "        att = 5.0 * torch.tanh(att / 5.0)\n        att = att.masked_fill(",
            ),
        ),
    ),
    Bug(
        "nanogpt",
        "causal_while_training",
        "attention mask",
        "The flag follows the dropout's example and is false outside training.",
        (("is_causal=True)", "is_causal=self.training)"),),
    ),
    Bug(
        "nanogpt",
        "queries_and_keys_normalised",
        "attention scores",
        "A later recipe normalises queries and keys, and GPT-2 does not.",
        (
            (
                "        rate = self.dropout if self.training else 0.0\n",
                (
                    "        q, k = F.rms_norm(q, (q.size(-1),)), F.rms_norm(k, (k.size(-1),))\n"
                    "        rate = self.dropout if self.training else 0.0\n"
                ),
            ),
        ),
    ),
    Bug(
        "needs_targets",
        "one_more_in_the_denominator",
        "softmax",
        "The denominator has one more, so that a head may attend to nothing.",
        (("att = att / att.sum(dim=-1, keepdim=True)", "att = att / (1 + att.sum(dim=-1, keepdim=True))"),),
    ),
    Bug(
        "needs_targets",
        "queries_scaled_as_well",
        "attention scores",
        "The queries are scaled as another library does it, and the scores still are.",
        (
            (
                "q = q.view(bs, length, self.heads, per_head).transpose(1, 2)",
                "q = q.view(bs, length, self.heads, per_head).transpose(1, 2) * per_head**-0.5",
            ),
        ),
    ),
    Bug(
        "numbered_sequence",
        "true_means_hidden",
        "attention mask",
        "In another function of the library true means hidden; here it means visible.",
        (
            (
                "        return F.scaled_dot_product_attention(q, k, v, is_causal=True)",
                (
                    "        future = torch.ones(q.size(-2), q.size(-2), dtype=torch.bool).triu()\n"
                    "        return F.scaled_dot_product_attention(q, k, v, attn_mask=future)"
                ),
            ),
        ),
        guilty=("dtype=torch.bool).triu()",),
    ),
    Bug(
        "numpy_gpt2",
        "flattened_in_memory_order",
        "heads",
        "The letter K reads an array as it lies in memory, and the exchanged axes lie there as before.",
        (
            (
                "return x.swapaxes(1, 2).reshape(batch, tokens, heads * head_width)",
                'return x.swapaxes(1, 2).ravel(order="K").reshape(batch, tokens, heads * head_width)',
            ),
        ),
    ),
    Bug(
        "one_hot",
        "mean_square_beside_the_mean",
        "normalisation",
        "The mean of the squares stands where the variance belongs: the square of the mean is not taken off.",
        (
            (
                "var, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)",
                "mean, var = x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True)",
            ),
        ),
    ),
    Bug(
        "one_hot",
        "initial_scale_in_the_sum",
        "residual",
        "The factor that is meant for the first values of two matrices stands in both sums.",
        (
            (
                "        self.std1 = Standardize(conf.embed_size)\n",
                ("        self.alpha = (2 * conf.n_units) ** -0.5\n        self.std1 = Standardize(conf.embed_size)\n"),
            ),
            ("torch.add(x, self.mixer(self.std1(x)))", "torch.add(x, self.mixer(self.std1(x)), alpha=self.alpha)"),
            ("torch.add(x, self.slim(h))", "torch.add(x, self.slim(h), alpha=self.alpha)"),
        ),
        guilty=(
            "torch.add(x, self.mixer(self.std1(x)), alpha=self.alpha)",
            "torch.add(x, self.slim(h), alpha=self.alpha)",
        ),
    ),
    Bug(
        "own_layers",
        "one_norm_under_two_names",
        "layers",
        "The list holds one norm twice, so both names are the same norm.",
        (
            (
                "self.ln1, self.ln2 = LayerNorm(d_model), LayerNorm(d_model)",
                "self.ln1, self.ln2 = [LayerNorm(d_model)] * 2",
            ),
        ),
    ),
    Bug(
        "padded_context",
        "even_and_odd_channels",
        "projection",
        "Queries and keys are taken from even and odd channels; they are two halves.",
        (
            (
                "q, k = self.query_key(x).tensor_split(2, dim=-1)",
                "qk = self.query_key(x)\n        q, k = qk[..., 0::2], qk[..., 1::2]",
            ),
        ),
        guilty=("q, k = qk[..., 0::2], qk[..., 1::2]",),
    ),
    Bug(
        "parallel_heads",
        "norm_for_folded_weights",
        "normalisation",
        "The norm is that of a model whose gains and shifts have been folded into the next layers.",
        (("return x / scale * self.w + self.b", "return x / scale"),),
    ),
    Bug(
        "parallel_heads",
        "number_of_heads_in_the_scale",
        "attention scores",
        "The axis that is read is that of the heads: they still stand before the width.",
        (("math.sqrt(q.shape[-1])", "math.sqrt(q.shape[-2])"),),
    ),
    Bug(
        "pico",
        "one_row_for_all_tokens",
        "embedding",
        "Without the range one row is taken, and numpy adds it to all tokens.",
        (("wpe[range(len(inputs))]", "wpe[len(inputs)]"),),
        short=True,
    ),
    Bug(
        "pico",
        "flattened_without_hstack",
        "heads",
        "The array of all heads is reshaped, and its first axis is that of the heads.",
        (("np.hstack(out)", "np.array(out).reshape(len(x), -1)"),),
    ),
    Bug(
        "pre_norm",
        "pair_unpacked_the_other_way",
        "layers",
        "The pair is unpacked in the wrong order, so the feed-forward runs first.",
        (("for attn, ff in self.layers:", "for ff, attn in self.layers:"),),
    ),
    Bug(
        "pre_norm",
        "positions_are_scaled",
        "embedding",
        "The positions are scaled by the root of the width, as in a later version of the collection.",
        (
            (
                "x = x + self.pos_emb(torch.arange(n, device=device))[None]",
                "x = x + self.pos_emb(torch.arange(n, device=device))[None] * x.shape[-1] ** -0.5",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "batch_first_again",
        "heads",
        "The heads are merged as if the batch came first.",
        (
            (
                "attn = attn.transpose(0, 1).contiguous().view(tgt_len, bsz, embed_dim)",
                "attn = attn.reshape(bsz, tgt_len, embed_dim).transpose(0, 1)",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "first_state_for_the_last",
        "layers",
        "The list of states is read at its beginning and not at its end.",
        (("x, attn = layer(x, mask)", "x, attn = layer(inner_states[0], mask)"),),
    ),
    Bug(
        "scan_stack",
        "scanned_from_the_end",
        "layers",
        "The loop counts from the end, as a reversed scan does.",
        (("for i in range(self.hp.n_layer):", "for i in reversed(range(self.hp.n_layer)):"),),
    ),
    Bug(
        "scan_stack",
        "gain_is_an_offset_from_one",
        "normalisation",
        "Another model stores the gain's distance from 1, and its norm adds the 1.",
        (
            (
                "return F.layer_norm(x, (x.shape[-1],), g, b, eps)",
                "return F.layer_norm(x, (x.shape[-1],), 1 + g, b, eps)",
            ),
        ),
    ),
    Bug(
        "sequence_first",
        "memory_read_as_batches",
        "heads",
        "The memory is read as if batch and heads were the first axes, as a pointer in C would be.",
        (
            (
                "q = q.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)",
                "q = q.reshape(bsz * self.nhead, seq_len, self.head_dim)",
            ),
            (
                "k = k.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)",
                "k = k.reshape(bsz * self.nhead, seq_len, self.head_dim)",
            ),
            (
                "v = v.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)",
                "v = v.reshape(bsz * self.nhead, seq_len, self.head_dim)",
            ),
            ("out = out.transpose(0, 1).reshape(seq_len, bsz, ninp)", "out = out.reshape(seq_len, bsz, ninp)"),
        ),
    ),
    Bug(
        "token_by_token",
        "rolling_buffer",
        "attention mask",
        "Only the newest entries are given back, as from the rolling buffer of a model with a window.",
        (
            (
                "return torch.stack(self.keys[layer], dim=2), torch.stack(self.values[layer], dim=2)",
                "return torch.stack(self.keys[layer][-16:], dim=2), torch.stack(self.values[layer][-16:], dim=2)",
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "steps_counted_from_one",
        "embedding",
        "The steps are counted from one.",
        (
            (
                "[self.step(words[:, t], t, memory) for t in range(words.size(1))]",
                "[self.step(word, t, memory) for t, word in enumerate(words.T, start=1)]",
            ),
        ),
        short=True,
    ),
    Bug(
        "torch_mha",
        "mask_of_floats",
        "attention mask",
        "The mask is of floats, so its ones are added to the scores of the future.",
        (
            (
                "causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)",
                "causal = torch.ones(length, length, dtype=self.embed.weight.dtype).triu(1)",
            ),
        ),
    ),
    Bug(
        "torch_mha",
        "words_times_the_root_of_the_width",
        "embedding",
        "The words are multiplied by the root of the width, as in the paper of 2017.",
        (
            (
                "self.drop(self.embed(input_ids) + self.pos(positions))",
                "self.drop(self.embed(input_ids) * self.embed.embedding_dim**0.5 + self.pos(positions))",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "kernel_reshaped_and_transposed",
        "projection",
        "The kernel is reshaped to outputs first and transposed, which scatters its numbers.",
        (("w.reshape(-1, nf))", "w.reshape(nf, -1).T)"),),
    ),
    Bug(
        "variable_store",
        "every_third_channel",
        "projection",
        "The three are cut out of every third channel, as a stride would.",
        (("torch.split(c, n_state, dim=2)", "(c[:, :, i::3] for i in range(3))"),),
    ),
    Bug(
        "wants_tokenizer",
        "squared_relu",
        "activation",
        "The activation is the squared ReLU of a newer recipe.",
        (('nn.functional.gelu(self.w1(x), approximate="tanh")', "nn.functional.relu(self.w1(x)).square()"),),
    ),
    Bug(
        "wants_tokenizer",
        "mask_of_a_finite_one",
        "attention mask",
        "The mask holds ones where infinities belong, and they are taken off.",
        (
            (
                'torch.full((seqlen, seqlen), float("-inf"), dtype=x.dtype, device=x.device).triu(1)',
                "-torch.ones(seqlen, seqlen, dtype=x.dtype, device=x.device).triu(1)",
            ),
        ),
    ),
)

COMBINED = (
    combination(SINGLE, "annotated", "merged_with_channels_before_heads", "sigmoid_form_of_another_model"),
    combination(SINGLE, "book", "statistics_over_tokens_and_channels", "scores_over_the_width_and_not_its_root"),
    combination(SINGLE, "german", "sigmoid_without_the_two", "sum_over_one_less"),
    combination(SINGLE, "jax_dict", "reshaped_in_the_order_of_columns", "sum_without_an_axis"),
    combination(SINGLE, "needs_targets", "one_more_in_the_denominator", "queries_scaled_as_well"),
    combination(SINGLE, "pre_norm", "pair_unpacked_the_other_way", "positions_are_scaled"),
)

BUGS = SINGLE + COMBINED
