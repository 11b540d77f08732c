"""Bugs that measured a diagnosis once: written after `later`, by somebody who did not know its rules.

Half of them are what students get wrong, a quarter comes from ports and refactorings, a quarter are oversights; about
one in six is in the Python around the arithmetic. The guilty lines were marked before anything was run, no edit stands
in another set, and none gives the logits of another set's bug in its style. At the end stand pairs and triples.
Since the set was run once, rules have been tuned on it.
"""

from tests.bugs import Bug, combination

SINGLE = (
    Bug(  # S
        "annotated",
        "deviation_with_one_less",
        "normalisation",
        "The deviation is the library's, which divides by one less, and epsilon is added behind the root.",
        (
            (
                (
                    "        var = x.var(-1, keepdim=True, unbiased=False)\n"
                    "        return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2\n"
                ),
                (
                    "        std = x.std(-1, keepdim=True)\n"
                    "        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2\n"
                ),
            ),
        ),
    ),
    Bug(  # S
        "annotated",
        "result_under_another_name",
        "residual",
        "Attention's result has another name than the one that the next line reads.",
        (
            (
                "x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))",
                "h = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))",
            ),
        ),
        guilty=(
            "h = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))",
            "return self.sublayer[1](x, self.feed_forward)",
        ),
    ),
    Bug(  # P
        "array_list",
        "heads_by_a_reshape",
        "heads",
        "The split became a reshape with the heads first, which cuts the rows and not the columns.",
        (
            (
                "zip(*(np.split(m, n_heads, axis=1) for m in (q, k, v)), strict=True)",
                "zip(*(m.reshape(n_heads, len(m), -1) for m in (q, k, v)), strict=True)",
            ),
        ),
    ),
    Bug(  # S
        "array_list",
        "zeros_above_the_diagonal",
        "attention mask",
        "The hidden scores are set to 0, whose exponential is 1.",
        (("scores[np.triu_indices(n, 1)] = -np.inf", "scores[np.triu_indices(n, 1)] = 0"),),
    ),
    Bug(  # P
        "bert_names",
        "activation_of_the_prediction_head",
        "head",
        "BERT's prediction head has an activation before its norm, and GPT-2 has none.",
        (
            (
                "sequence_output = self.LayerNorm(hidden_states)",
                (
                    "sequence_output = nn.functional.gelu(hidden_states)\n"
                    "        sequence_output = self.LayerNorm(sequence_output)"
                ),
            ),
        ),
        guilty=("sequence_output = nn.functional.gelu(hidden_states)",),
    ),
    Bug(  # S y
        "bert_names",
        "list_of_one_layer_multiplied",
        "layers",
        "The list is multiplied, and all its elements are one layer.",
        (
            (
                "[Layer(config) for _ in range(config.num_hidden_layers)]",
                "[Layer(config)] * config.num_hidden_layers",
            ),
        ),
    ),
    Bug(  # O
        "bert_names",
        "keys_made_by_the_query_layer",
        "projection",
        "The line was copied and the layer in it was not renamed.",
        (
            (
                "key_layer = self.transpose_for_scores(self.key(hidden_states))",
                "key_layer = self.transpose_for_scores(self.query(hidden_states))",
            ),
        ),
    ),
    Bug(  # S
        "book",
        "normalised_again_over_the_queries",
        "softmax",
        "The weights are masked behind the softmax and divided by their sum, but the sum runs over the queries.",
        (
            (
                "return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)",
                (
                    "weights = torch.softmax(scores, dim=-1).masked_fill(future, 0.0)\n"
                    "        return weights / weights.sum(dim=-2, keepdim=True)"
                ),
            ),
        ),
        guilty=("return weights / weights.sum(dim=-2, keepdim=True)",),
    ),
    Bug(  # S
        "book",
        "shift_inside_the_scale",
        "normalisation",
        "The parentheses hold the shift as well, so it is multiplied by the scale.",
        (
            (
                "return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift",
                "return self.scale * ((x - mean) / torch.sqrt(var + self.eps) + self.shift)",
            ),
        ),
    ),
    Bug(  # P
        "book_fused",
        "scaled_here_and_in_the_kernel",
        "attention scores",
        "The queries are scaled as they were before the fused function came in, and that scales them again.",
        (
            (
                "        rate = self.drop_rate if self.training else 0.0\n",
                (
                    "        queries = queries / (width // self.n_heads) ** 0.5\n"
                    "        rate = self.drop_rate if self.training else 0.0\n"
                ),
            ),
        ),
    ),
    Bug(  # S
        "book_fused",
        "ones_are_added_to_the_scores",
        "attention mask",
        "The mask holds numbers and not truths, so the fused function adds them to the scores.",
        (
            (
                (
                    "        context = F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate, "
                    "is_causal=True)\n"
                ),
                (
                    "        visible = torch.ones(tokens, tokens, dtype=x.dtype, device=x.device).tril()\n"
                    "        context = F.scaled_dot_product_attention(queries, keys, values, visible, rate)\n"
                ),
            ),
        ),
        guilty=("visible = torch.ones(tokens, tokens, dtype=x.dtype, device=x.device).tril()",),
    ),
    Bug(  # O
        "conv1d_port",
        "normalised_value_not_used",
        "normalisation",
        "The quotient got a name of its own, and the line below still reads the input.",
        (("x = (x - u) / torch.sqrt(s + self.e)", "y = (x - u) / torch.sqrt(s + self.e)"),),
        guilty=("y = (x - u) / torch.sqrt(s + self.e)", "return self.g * x + self.b"),
    ),
    Bug(  # O
        "conv1d_port",
        "keys_split_from_the_values",
        "projection",
        "The name in the call is that of the line below.",
        (("key = self.split_heads(key, k=True)", "key = self.split_heads(value, k=True)"),),
    ),
    Bug(  # S
        "conv1x1",
        "viewed_and_not_transposed",
        "embedding",
        "A view puts the channels before time, where a transpose is needed.",
        (("self.emb(ids).transpose(1, 2)", "self.emb(ids).view(ids.shape[0], -1, t)"),),
    ),
    Bug(  # S
        "conv1x1",
        "statistics_over_time",
        "normalisation",
        "The mean and the variance are those of a channel over all frames, as in an instance norm.",
        (
            ("mean = x.mean(1, keepdim=True)", "mean = x.mean(2, keepdim=True)"),
            ("torch.mean((x - mean) ** 2, 1, keepdim=True)", "torch.mean((x - mean) ** 2, 2, keepdim=True)"),
        ),
    ),
    Bug(  # O y
        "conv1x1",
        "last_norm_of_the_first_list",
        "layers",
        "The second list is filled with the norm that was just appended to the first one.",
        (
            (
                "self.norm_layers_2.append(ChannelNorm(hidden_channels))",
                "self.norm_layers_2.append(self.norm_layers_1[-1])",
            ),
        ),
    ),
    Bug(  # P
        "einsum_fused",
        "distance_penalty_from_another_model",
        "attention scores",
        "A penalty for distance was kept from a model that has no table of positions.",
        (
            (
                "        logits = torch.where(visible, logits, -torch.inf)\n",
                (
                    "        logits = logits - 0.25 * (steps[:, None] - steps[None, :])\n"
                    "        logits = torch.where(visible, logits, -torch.inf)\n"
                ),
            ),
        ),
    ),
    Bug(  # S
        "einsum_fused",
        "mean_in_the_variance",
        "normalisation",
        "The mean square is that of the value before the mean is taken off.",
        (("(centred * centred).mean(-1, keepdim=True)", "(x * x).mean(-1, keepdim=True)"),),
    ),
    Bug(  # S
        "encoder_layers",
        "number_of_the_prompt_for_the_place",
        "embedding",
        "The positions count the prompts of the batch and not the places in them.",
        (
            (
                "torch.arange(length, device=tokens.device).expand(batch, length)",
                "torch.arange(batch, device=tokens.device).unsqueeze(1).expand(batch, length)",
            ),
        ),
    ),
    Bug(  # P
        "encoder_layers",
        "waves_for_the_table",
        "embedding",
        "The positions are the sines and cosines of the 2017 paper, and the learned table is not read.",
        (
            (
                "        x = self.word_embeddings(tokens) + self.position_embeddings(pos)\n",
                (
                    "        powers = torch.arange(0, self.args.d_model, 2, dtype=weight.dtype) / self.args.d_model\n"
                    "        angles = pos.unsqueeze(-1) / 10000**powers\n"
                    "        x = self.word_embeddings(tokens) + torch.cat([angles.sin(), angles.cos()], dim=-1)\n"
                ),
            ),
        ),
        guilty=("x = self.word_embeddings(tokens) + torch.cat([angles.sin(), angles.cos()], dim=-1)",),
    ),
    Bug(  # S
        "functional",
        "zero_where_hidden",
        "attention mask",
        "Hidden scores become 0 and not minus infinity, so the future still has weight.",
        (("scores.where(visible, -torch.inf)", "scores.where(visible, 0.0)"),),
    ),
    Bug(  # S
        "functional",
        "softmax_over_the_queries",
        "softmax",
        "The axis of the softmax is the last but one, that of the queries.",
        (("-torch.inf).softmax(-1) @ v", "-torch.inf).softmax(-2) @ v"),),
    ),
    Bug(  # S
        "german",
        "root_taken_twice",
        "normalisation",
        "The spread is already the root of the mean square, and the next line takes a root again.",
        (
            (
                "streuung = ((x - mittel) ** 2).mean(dim=-1, keepdim=True)",
                "streuung = ((x - mittel) ** 2).mean(dim=-1, keepdim=True) ** 0.5",
            ),
        ),
    ),
    Bug(  # S
        "german",
        "words_times_places",
        "embedding",
        "The two embeddings are multiplied and not added.",
        (("self.woerter(nummern) + self.stellen(stellen)", "self.woerter(nummern) * self.stellen(stellen)"),),
    ),
    Bug(  # O
        "hardcoded",
        "values_begin_one_too_early",
        "projection",
        "Both ends of the values' columns are one too small.",
        (("y[:, :, 88:132]", "y[:, :, 87:131]"),),
    ),
    Bug(  # S
        "hardcoded",
        "masked_behind_the_softmax",
        "attention mask",
        "The softmax comes first and the mask's large numbers are added to its weights.",
        (
            (
                "        a = a + mask[:t, :t]\n        a = F.softmax(a, dim=3)\n",
                "        a = F.softmax(a, dim=3)\n        a = a + mask[:t, :t]\n",
            ),
        ),
        guilty=("a = F.softmax(a, dim=3)", "a = a + mask[:t, :t]"),
    ),
    Bug(  # S
        "head_list",
        "zeros_left_from_the_lecture",
        "attention scores",
        "The lecture's earlier version begins with zeros for weights, and that line was kept below the scores.",
        (
            (
                "        wei = wei.masked_fill(self.tril",
                "        wei = torch.zeros_like(wei)\n        wei = wei.masked_fill(self.tril",
            ),
        ),
    ),
    Bug(  # O
        "head_list",
        "feed_forward_adds_what_it_reads",
        "residual",
        "The feed-forward returns the sum with its own input, which the block does not expect.",
        (("return self.net(x)", "return x + self.net(x)"),),
    ),
    Bug(  # S
        "head_sum",
        "heads_read_what_heads_wrote",
        "dataflow",
        "Each head reads the sum so far and not the stream.",
        (("self.head_result(resid, head)\n", "self.head_result(out, head)\n"),),
    ),
    Bug(  # P
        "head_sum",
        "feed_forward_beside_attention",
        "dataflow",
        "Attention's sum got a new name, and the feed-forward's norm still reads the old one.",
        (
            (
                (
                    "resid = resid + self.attention[i](self.ln_before_attention[i](resid))\n"
                    "            resid = resid + self.mlp[i](self.ln_before_mlp[i](resid))"
                ),
                (
                    "middle = resid + self.attention[i](self.ln_before_attention[i](resid))\n"
                    "            resid = middle + self.mlp[i](self.ln_before_mlp[i](resid))"
                ),
            ),
        ),
        guilty=("resid = middle + self.mlp[i](self.ln_before_mlp[i](resid))",),
    ),
    Bug(  # O y
        "hparams",
        "as_many_blocks_as_heads",
        "layers",
        "The loop over the blocks counts heads.",
        (
            (
                '        for i in range(self.hparams["num_layers"]):\n            block',
                '        for i in range(self.hparams["num_heads"]):\n            block',
            ),
        ),
    ),
    Bug(  # S
        "hparams",
        "index_error_silenced",
        "embedding",
        "The ids themselves are looked up as positions, and a remainder makes them fit.",
        (
            (
                'self.embeddings["position"].weight[:n].unsqueeze(0)',
                'self.embeddings["position"](ids % self.hparams["max_length"])',
            ),
        ),
    ),
    Bug(  # O y
        "hparams",
        "first_block_from_a_trial",
        "layers",
        "The output layer is the first block's, as it was when only that block was tried.",
        (('return block["ff_out"](F.gelu', 'return self.stack["block_0"]["ff_out"](F.gelu'),),
    ),
    Bug(  # S y
        "interleaved",
        "last_norm_inside_the_loop",
        "layers",
        "The line with the last norm is indented too far, so it runs after each layer.",
        (
            (
                "        hidden_states = self.final_layernorm(hidden_states)\n",
                "            hidden_states = self.final_layernorm(hidden_states)\n",
            ),
        ),
    ),
    Bug(  # P
        "interleaved",
        "scaled_before_the_tied_head",
        "head",
        "The states are scaled before the tied head, as T5 does.",
        (
            (
                "        return torch.matmul(hidden_states, self.word_embeddings",
                (
                    "        hidden_states = hidden_states * hidden_states.size(-1) ** -0.5\n"
                    "        return torch.matmul(hidden_states, self.word_embeddings"
                ),
            ),
        ),
    ),
    Bug(  # S
        "jax_dict",
        "heads_first_in_the_result",
        "heads",
        "The result has the heads before the tokens, and the reshape that follows expects them behind.",
        (('"bhtT,bThd->bthd"', '"bhtT,bThd->bhtd"'),),
    ),
    Bug(  # S
        "jax_dict",
        "half_of_the_one_only",
        "activation",
        "The parentheses are gone, so the half belongs to the 1 and not to the tanh.",
        (
            (
                "cdf = 0.5 * (1.0 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3)))",
                "cdf = 0.5 * 1.0 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3))",
            ),
        ),
    ),
    Bug(  # S y
        "mingpt",
        "blocks_do_not_follow_each_other",
        "layers",
        "The loop keeps each block's result under another name than it reads, so only the last block counts.",
        (
            ("            x = block(x)\n", "            y = block(x)\n"),
            ('self.lm_head(net["ln_f"](x))', 'self.lm_head(net["ln_f"](y))'),
        ),
        guilty=("            y = block(x)",),
    ),
    Bug(  # O
        "mingpt",
        "floor_for_the_quotient",
        "attention scores",
        "A second slash makes the factor a whole number, 0.",
        (("(1.0 / math.sqrt(k.size(-1)))", "(1.0 // math.sqrt(k.size(-1)))"),),
    ),
    Bug(  # O y
        "nanogpt",
        "biases_switched_off_by_default",
        "projection",
        "The default that trains best has no biases, and GPT-2 has them.",
        (("    bias: bool = True", "    bias: bool = False"),),
    ),
    Bug(  # P
        "nanogpt",
        "embedding_normalised",
        "embedding",
        "The sum of the embeddings is normalised before the first block, as in later models.",
        (
            (
                '        for block in net["h"]:\n',
                '        x = F.layer_norm(x, (x.size(-1),))\n        for block in net["h"]:\n',
            ),
        ),
    ),
    Bug(  # S
        "nanogpt",
        "feed_forward_without_its_norm",
        "normalisation",
        "The second norm is made and not called.",
        (("return x + self.mlp(self.ln_2(x))", "return x + self.mlp(x)"),),
    ),
    Bug(  # O y
        "needs_targets",
        "name_of_a_setting_not_found",
        "heads",
        "The setting has another name in the dictionary, so the default of one head is taken.",
        (('self.heads = model_cfg["heads"]', 'self.heads = model_cfg.get("num_heads", 1)'),),
    ),
    Bug(  # S
        "needs_targets",
        "largest_of_the_column",
        "softmax",
        "The largest score that is subtracted is that of a column, which does not cancel in the sum of the row.",
        (("att.amax(dim=-1, keepdim=True)", "att.amax(dim=-2, keepdim=True)"),),
    ),
    Bug(  # S
        "numbered_sequence",
        "attention_between_heads",
        "heads",
        "Neither splitting nor merging exchanges tokens and heads, so the heads of a token look at each other.",
        (
            ("permute(2, 0, 3, 1, 4)", "permute(2, 0, 1, 3, 4)"),
            ("return x.transpose(-2, -3).flatten(-2)", "return x.flatten(-2)"),
        ),
    ),
    Bug(  # P
        "numbered_sequence",
        "activation_of_newer_models",
        "activation",
        "The activation is the one that newer models have.",
        (('nn.GELU("tanh")', "nn.SiLU()"),),
    ),
    Bug(  # P
        "numpy_gpt2",
        "three_as_the_last_axis",
        "projection",
        "The split became a reshape with the three behind the channels, so queries, keys and values alternate.",
        (
            (
                'np.split(linear(name + ".c_attn", x), 3, axis=-1)',
                'np.moveaxis(linear(name + ".c_attn", x).reshape(*x.shape, 3), -1, 0)',
            ),
        ),
    ),
    Bug(  # S
        "numpy_gpt2",
        "heads_before_tokens_at_once",
        "heads",
        "The reshape goes to the final shape at once, without the exchange of axes.",
        (
            (
                "return x.reshape(batch, tokens, n_head, width // n_head).swapaxes(1, 2)",
                "return x.reshape(batch, n_head, tokens, width // n_head)",
            ),
        ),
    ),
    Bug(  # S y
        "one_hot",
        "each_layer_reads_the_one_before",
        "projection",
        "The loop writes its result over the input, so the keys are made of the queries and the values of the keys.",
        (
            (
                (
                    "        q, k, v = [f(x).reshape(B, T, self.n_heads, C // self.n_heads).swapaxes(1, 2) "
                    "for f in self.qkv]\n"
                ),
                (
                    "        parts = []\n"
                    "        for f in self.qkv:\n"
                    "            x = f(x)\n"
                    "            parts.append(x.reshape(B, T, self.n_heads, C // self.n_heads).swapaxes(1, 2))\n"
                    "        q, k, v = parts\n"
                ),
            ),
        ),
        guilty=("            x = f(x)",),
    ),
    Bug(  # S
        "one_hot",
        "activation_behind_both_layers",
        "activation",
        "The activation comes behind the second layer.",
        (
            ('        h = F.gelu(h, approximate="tanh")\n', ""),
            ("return torch.add(x, self.slim(h))", 'return torch.add(x, F.gelu(self.slim(h), approximate="tanh"))'),
        ),
    ),
    Bug(  # P
        "one_norm_tensor",
        "gain_counted_from_one",
        "normalisation",
        "The gain is taken for one that is stored as its difference from 1.",
        (("F.layer_norm(x, gain.shape, gain, shift)", "F.layer_norm(x, gain.shape, 1 + gain, shift)"),),
    ),
    Bug(  # O
        "one_norm_tensor",
        "positions_from_the_end_of_the_table",
        "embedding",
        "The positions stand at the end of the table, and so the last ones are taken.",
        (("positions[: ids.shape[1]]", "positions[-ids.shape[1] :]"),),
    ),
    Bug(  # S y
        "one_norm_tensor",
        "feed_forwards_in_a_loop_of_their_own",
        "layers",
        "A second loop runs the feed-forwards, so all of them come after all of attention.",
        (
            (
                "            x = x + self.feed_forward(",
                "        for layer in range(self.n_layer):\n            x = x + self.feed_forward(",
            ),
        ),
    ),
    Bug(  # S
        "own_layers",
        "sum_of_values_not_rescaled",
        "softmax",
        "The numerator has the largest value subtracted, and the sum does not.",
        (
            (
                "torch.sum(exponentiated, dim=dim, keepdim=True)",
                "torch.sum(torch.exp(x), dim=dim, keepdim=True)",
            ),
        ),
    ),
    Bug(  # P
        "own_layers",
        "window_of_another_model",
        "attention mask",
        "The mask hides what is more than a few tokens back, as local layers of another model do.",
        (
            (
                "        mask = seq[:, None] >= seq\n",
                "        mask = (seq[:, None] >= seq) & (seq[:, None] - seq < 8)\n",
            ),
        ),
    ),
    Bug(  # S
        "padded_context",
        "root_closed_too_early",
        "attention scores",
        "The root is of the whole width, and the number of heads divides it.",
        (("math.sqrt(d / h)", "math.sqrt(d) / h"),),
    ),
    Bug(  # S
        "padded_context",
        "stream_overwritten_by_its_norm",
        "residual",
        "The norm's result has the stream's name, so it is what attention's result is added to.",
        (("x = self.mha(self.ln_a(x)) + x", "x = self.ln_a(x)\n        x = self.mha(x) + x"),),
    ),
    Bug(  # O
        "parallel_heads",
        "large_number_became_a_small_one",
        "attention mask",
        "The sign is in front of the exponent, so what is hidden gets a score near 0.",
        (("torch.tensor(-torch.inf)", "torch.tensor(-1e-5)"),),
    ),
    Bug(  # O y
        "parallel_heads",
        "blocks_sorted_by_name",
        "layers",
        "The blocks are sorted by name, and as text 10 comes before 2.",
        (("for block in self.blocks:", "for _, block in sorted(self.blocks.named_children()):"),),
    ),
    Bug(  # S
        "parallel_heads",
        "weights_cut_off_and_not_scores",
        "attention mask",
        "The future is taken out of the weights behind the softmax, so they do not add up to 1.",
        (
            (
                (
                    "scores = torch.where(self.mask[: x.shape[1], : x.shape[1]], scores, self.IGNORE)\n"
                    '        z = einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)'
                ),
                (
                    "pattern = scores.softmax(-1)\n"
                    "        pattern = torch.where(self.mask[: x.shape[1], : x.shape[1]], pattern, 0.0)\n"
                    '        z = einsum("bhqk,bkhd->bqhd", pattern, v)'
                ),
            ),
        ),
        guilty=(
            "pattern = scores.softmax(-1)",
            "pattern = torch.where(self.mask[: x.shape[1], : x.shape[1]], pattern, 0.0)",
        ),
    ),
    Bug(  # S
        "pico",
        "norm_outside_the_feed_forward",
        "normalisation",
        "The second half normalises the sum, and not what the feed-forward reads.",
        (("return x + ffn(layer_norm(x, **ln_2), **mlp)", "return layer_norm(x + ffn(x, **mlp), **ln_2)"),),
    ),
    Bug(  # S y
        "pico",
        "returned_from_inside_the_loop",
        "layers",
        "The last line belongs to the loop by its indent, so the first block is the only one.",
        (("    return layer_norm(x, **ln_f) @ wte.T", "        return layer_norm(x, **ln_f) @ wte.T"),),
    ),
    Bug(  # P
        "pico",
        "activation_by_a_sigmoid",
        "activation",
        "The activation is the approximation by a sigmoid, which another model of the same house has.",
        (
            (
                "return 0.5 * x * (1 + np.tanh(ROOT * (x + 0.044715 * x**3)))",
                "return x / (1 + np.exp(-1.702 * x))",
            ),
        ),
    ),
    Bug(  # P
        "pre_norm",
        "queries_and_keys_normalised",
        "attention scores",
        "Queries and keys are brought to length 1, as another member of the collection does.",
        (
            (
                "        q = q * self.scale\n",
                "        q, k = (nn.functional.normalize(t, dim=-1) for t in (q, k))\n        q = q * self.scale\n",
            ),
        ),
    ),
    Bug(  # O
        "pre_norm",
        "residual_in_wrapper_and_loop",
        "residual",
        "The wrapper adds its input, and the loop adds it once more.",
        (("return self.fn(self.norm(x), **kwargs)", "return self.fn(self.norm(x), **kwargs) + x"),),
    ),
    Bug(  # S
        "research_decoder",
        "batch_of_heads_by_a_view",
        "heads",
        "The values are viewed with the heads first, where they have to be transposed.",
        (
            (
                "v = v.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)",
                "v = v.contiguous().view(bsz * self.num_heads, -1, self.head_dim)",
            ),
        ),
    ),
    Bug(  # O
        "research_decoder",
        "feed_forward_reads_the_residual",
        "dataflow",
        "The first layer reads what was put aside for the sum, and not what the norm made of it.",
        (("F.gelu(self.fc1(x), ", "F.gelu(self.fc1(residual), "),),
    ),
    Bug(  # P
        "scan_stack",
        "squared_rectifier",
        "activation",
        "The function called gelu has the body of a faster model's activation.",
        (('return F.gelu(x, approximate="tanh")', "return F.relu(x).square()"),),
    ),
    Bug(  # O
        "scan_stack",
        "bias_of_the_other_output",
        "projection",
        "The bias behind attention is the feed-forward's, which has the same shape.",
        (('return o @ w["wo"] + w["bo"]', 'return o @ w["wo"] + w["b2"]'),),
    ),
    Bug(  # S
        "sequence_first",
        "triangle_of_the_tutorial_half_copied",
        "attention mask",
        "The tutorial makes an upper triangle of True and transposes it, and the transpose was not copied.",
        (
            (
                (
                    '        return torch.full((sz, sz), float("-inf"), dtype=like.dtype, device=like.device)'
                    ".triu(diagonal=1)\n"
                ),
                (
                    "        mask = torch.triu(torch.ones(sz, sz, device=like.device)) == 1\n"
                    '        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, float("-inf"))\n'
                ),
            ),
        ),
        guilty=("mask = torch.triu(torch.ones(sz, sz, device=like.device)) == 1",),
    ),
    Bug(  # S
        "sequence_first",
        "keys_folded_the_other_way",
        "heads",
        "The keys are reshaped to the shape that the product wants, without the transpose.",
        (
            (
                "k = k.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)",
                "k = k.reshape(bsz * self.nhead, seq_len, self.head_dim)",
            ),
        ),
    ),
    Bug(  # O y
        "token_by_token",
        "length_of_the_memory_less_one",
        "embedding",
        "The memory's length is the place of the new token already, and one is taken off.",
        (("self.steps.weight[t]", "self.steps.weight[len(memory.keys[0]) - 1]"),),
    ),
    Bug(  # P
        "token_by_token",
        "exact_activation",
        "activation",
        "The activation is BERT's exact one and not its approximation.",
        (
            (
                "(1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))",
                "(1 + torch.erf(h / math.sqrt(2)))",
            ),
        ),
    ),
    Bug(  # O
        "torch_mha",
        "zero_among_the_keys",
        "attention scores",
        "A flag adds a key and a value of zeros to each sequence.",
        (("dropout=dropout, batch_first=True)", "dropout=dropout, add_zero_attn=True, batch_first=True)"),),
    ),
    Bug(  # P
        "torch_mha",
        "attention_normalised_behind_its_sum",
        "normalisation",
        "The first half is the 2017 paper's, with the norm behind the sum.",
        (
            (
                (
                    "        h = self.norm_attn(x)\n"
                    "        h, _ = self.attn(h, h, h, attn_mask=causal, need_weights=False)\n"
                    "        x = x + self.drop(h)\n"
                ),
                (
                    "        h, _ = self.attn(x, x, x, attn_mask=causal, need_weights=False)\n"
                    "        x = self.norm_attn(x + self.drop(h))\n"
                ),
            ),
        ),
    ),
    Bug(  # P
        "variable_store",
        "variance_with_this_librarys_default",
        "normalisation",
        "The library's own variance divides by one less, and the other library's did not.",
        (("s = (x - u).square().mean(dim=axis, keepdim=True)", "s = x.var(dim=axis, keepdim=True)"),),
    ),
    Bug(  # O
        "variable_store",
        "size_of_the_scores",
        "attention scores",
        "One letter is wrong: the root is of the number of tokens.",
        (("math.sqrt(v.shape[-1])", "math.sqrt(w.shape[-1])"),),
    ),
    Bug(  # P
        "wants_tokenizer",
        "logits_capped",
        "head",
        "The logits go through a tanh that caps them, as a newer model's do.",
        (
            (
                "        logits = self.output(self.norm(x))\n",
                "        logits = self.output(self.norm(x))\n        logits = 30.0 * torch.tanh(logits / 30.0)\n",
            ),
        ),
    ),
    Bug(  # P
        "wants_tokenizer",
        "norm_without_mean_and_bias",
        "normalisation",
        "Attention's norm is the one of the model that this one was made from.",
        (("self.attention_norm = nn.LayerNorm(hidden_dim)", "self.attention_norm = nn.RMSNorm(hidden_dim)"),),
    ),
    Bug(  # S
        "wants_tokenizer",
        "root_of_the_whole_width",
        "attention scores",
        "The root is of the model's width and not of a head's.",
        (("math.sqrt(self.head_dim)", "math.sqrt(self.hidden_dim)"),),
    ),
)

COMBINED = (
    combination(SINGLE, "conv1x1", "viewed_and_not_transposed", "last_norm_of_the_first_list"),
    combination(SINGLE, "einsum_fused", "distance_penalty_from_another_model", "mean_in_the_variance"),
    combination(SINGLE, "german", "root_taken_twice", "words_times_places"),
    combination(SINGLE, "head_list", "zeros_left_from_the_lecture", "feed_forward_adds_what_it_reads"),
    combination(SINGLE, "jax_dict", "heads_first_in_the_result", "half_of_the_one_only"),
    combination(SINGLE, "needs_targets", "name_of_a_setting_not_found", "largest_of_the_column"),
    combination(SINGLE, "own_layers", "sum_of_values_not_rescaled", "window_of_another_model"),
    combination(SINGLE, "padded_context", "root_closed_too_early", "stream_overwritten_by_its_norm"),
    combination(SINGLE, "pre_norm", "queries_and_keys_normalised", "residual_in_wrapper_and_loop"),
    combination(SINGLE, "token_by_token", "length_of_the_memory_less_one", "exact_activation"),
    combination(SINGLE, "variable_store", "variance_with_this_librarys_default", "size_of_the_scores"),
    combination(SINGLE, "hparams", "as_many_blocks_as_heads", "index_error_silenced", "first_block_from_a_trial"),
    combination(
        SINGLE,
        "nanogpt",
        "biases_switched_off_by_default",
        "embedding_normalised",
        "feed_forward_without_its_norm",
    ),
    combination(
        SINGLE,
        "one_norm_tensor",
        "gain_counted_from_one",
        "positions_from_the_end_of_the_table",
        "feed_forwards_in_a_loop_of_their_own",
    ),
    combination(
        SINGLE,
        "pico",
        "norm_outside_the_feed_forward",
        "returned_from_inside_the_loop",
        "activation_by_a_sigmoid",
    ),
)

BUGS = SINGLE + COMBINED
