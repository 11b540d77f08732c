"""Bugs to measure a diagnosis with, written by somebody who read neither its rules nor the other sets.

There is at least one bug in each style, and no edit stands in another set. When it was first run, the exact line was
accused for 75 % of the single bugs, and a wrong line for 13 %; since then rules have been tuned on it. At the end stand
pairs and triples of them in one file.
"""

from tests.bugs import Bug, combination

SINGLE = (
    Bug(
        "annotated",
        "sum_of_squares_without_mean",
        "normalisation",
        "The author computes the variance as the mean of squares and forgets to take the mean off.",
        (("var = x.var(-1, keepdim=True, unbiased=False)", "var = x.pow(2).mean(-1, keepdim=True)"),),
    ),
    Bug(
        "annotated",
        "width_of_a_head_from_axis_one",
        "attention scores",
        "After the heads have been moved to axis 1, the width of a head is still read there.",
        (("d_k = query.size(-1)", "d_k = query.size(1)"),),
    ),
    Bug(
        "annotated",
        "linears_from_the_second_on",
        "projection",
        "The slice leaves the first layer out, so queries, keys and values each come from the layer of the next.",
        (
            (
                "zip(self.linears, (query, key, value), strict=False)",
                "zip(self.linears[1:], (query, key, value), strict=False)",
            ),
        ),
    ),
    Bug(
        "array_list",
        "norm_works_in_place",
        "dataflow",
        "The norm changes the array of its caller, so the residual stream itself is normalised.",
        (
            ("x = x - x.mean(axis=1, keepdims=True)", "x -= x.mean(axis=1, keepdims=True)"),
            (
                "return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * g + b",
                "x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)\n    return x * g + b",
            ),
        ),
        guilty=(
            "    x -= x.mean(axis=1, keepdims=True)",
            "    x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)",
        ),
    ),
    Bug(
        "array_list",
        "rows_of_scores_left_unnormalised",
        "softmax",
        "The sum of the softmax runs over all scores of the head instead of over each row.",
        (
            (
                "return scores / scores.sum(axis=1, keepdims=True) @ v",
                "return scores / scores.sum(keepdims=True) @ v",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "tiny_instead_of_min",
        "attention mask",
        "The mask takes finfo's `tiny` for the most negative number, so it hides nothing.",
        (("* torch.finfo(dtype).min", "* torch.finfo(dtype).tiny"),),
    ),
    Bug(
        "bert_names",
        "head_axis_moved_to_the_end",
        "heads",
        "The heads are merged with the axis of the head behind that of its width.",
        (
            (
                "context_layer = context_layer.permute(0, 2, 1, 3).contiguous()",
                "context_layer = context_layer.permute(0, 2, 3, 1).contiguous()",
            ),
        ),
    ),
    Bug(
        "bert_names",
        "residual_counted_twice",
        "residual",
        "The output module adds its input already, and the caller adds it once more.",
        (
            (
                "return self.output(intermediate, attention_output)",
                "return attention_output + self.output(intermediate, attention_output)",
            ),
        ),
    ),
    Bug(
        "book",
        "root_of_two_over_pi",
        "activation",
        "The root is of 2 alone and is then divided by pi.",
        (("torch.tanh(math.sqrt(2 / math.pi) *", "torch.tanh(math.sqrt(2) / math.pi *"),),
    ),
    Bug(
        "book",
        "weights_on_the_keys",
        "dataflow",
        "The values are computed and not used: the attention weights mix the keys.",
        (("self.merge_heads(weights @ values)", "self.merge_heads(weights @ keys)"),),
    ),
    Bug(
        "book_fused",
        "causal_in_training_only",
        "attention mask",
        "The causal mask is tied to training mode, like the dropout beside it.",
        (("dropout_p=rate, is_causal=True)", "dropout_p=rate, is_causal=self.training)"),),
    ),
    Bug(
        "conv1d_port",
        "mask_of_a_tiny_constant",
        "attention mask",
        "A minus sign too many: the constant of the mask is 1e-10 instead of 1e10.",
        (("w = w * m - 1e10 * (1 - m)", "w = w * m - 1e-10 * (1 - m)"),),
    ),
    Bug(
        "conv1d_port",
        "width_read_from_transposed_keys",
        "attention scores",
        "The width of a head is read from the keys, whose last axis is time.",
        (("w = w / math.sqrt(v.size(-1))", "w = w / math.sqrt(k.size(-1))"),),
    ),
    Bug(
        "conv1x1",
        "mean_over_time",
        "normalisation",
        "The mean is taken over the last axis, which here is time and not channels.",
        (("mean = x.mean(1, keepdim=True)", "mean = x.mean(-1, keepdim=True)"),),
    ),
    Bug(
        "conv1x1",
        "keys_with_channels_before_heads",
        "heads",
        "The view of the keys, and of nothing else, puts the channels of a head before the heads.",
        (
            (
                "key = self.conv_k(x).view(b, self.n_heads, self.k_channels, t).transpose(2, 3)",
                "key = self.conv_k(x).view(b, self.k_channels, self.n_heads, t).permute(0, 2, 3, 1)",
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "a_zero_lost_in_the_constant",
        "activation",
        "The constant of the cube has lost a zero.",
        (("(1 + 0.044715 * h * h)", "(1 + 0.44715 * h * h)"),),
    ),
    Bug(
        "einsum_fused",
        "norms_in_two_halves",
        "layers",
        "The author takes the first half of the norms for attention's and the second for the feed-forwards'.",
        (
            ("x = x + attn(self.norms[2 * i](x))", "x = x + attn(self.norms[i](x))"),
            ("x = x + mlp(self.norms[2 * i + 1](x))", "x = x + mlp(self.norms[len(self.mlps) + i](x))"),
        ),
    ),
    Bug(
        "encoder_layers",
        "scaled_as_in_the_tutorial",
        "embedding",
        "Word embeddings are multiplied by the root of the width, as in the first transformer.",
        (
            (
                "x = self.word_embeddings(tokens) + self.position_embeddings(pos)",
                "x = self.word_embeddings(tokens) * self.args.d_model**0.5 + self.position_embeddings(pos)",
            ),
        ),
    ),
    Bug(
        "functional",
        "scaled_by_the_number_of_tokens",
        "attention scores",
        "The root is of the number of keys and not of the width of a head.",
        (("scores = q @ k.mT / math.sqrt(q.shape[-1])", "scores = q @ k.mT / math.sqrt(k.shape[-2])"),),
    ),
    Bug(
        "german",
        "scaled_scores_not_used",
        "dataflow",
        "The scaled scores get a name of their own, and the mask goes over the unscaled ones.",
        (
            (
                "naehe = naehe / math.sqrt(schluessel.size(-1))",
                "skaliert = naehe / math.sqrt(schluessel.size(-1))",
            ),
        ),
        guilty=(
            "skaliert = naehe / math.sqrt(schluessel.size(-1))",
            'naehe = naehe.masked_fill(zukunft, float("-inf"))',
        ),
    ),
    Bug(
        "german",
        "cube_of_the_constant_too",
        "activation",
        "The power is taken of the product, so the constant is cubed as well.",
        (("(y + 0.044715 * y**3)", "(y + (0.044715 * y) ** 3)"),),
    ),
    Bug(
        "hardcoded",
        "values_split_without_moving_heads",
        "heads",
        "The values are reshaped to heads first, and nothing moves the heads there.",
        (
            (
                "v = y[:, :, 88:132].reshape(n, t, 4, 11).transpose(1, 2)",
                "v = y[:, :, 88:132].reshape(n, 4, t, 11)",
            ),
        ),
    ),
    Bug(
        "hardcoded",
        "layers_counted_from_one",
        "layers",
        "The loop over the layers begins at 1, so the first layer never runs.",
        (("for i in range(12):\n            x = getattr", "for i in range(1, 12):\n            x = getattr"),),
    ),
    Bug(
        "head_list",
        "one_head_many_times",
        "heads",
        "The list is multiplied, so all heads are the same module.",
        (
            (
                "nn.ModuleList([Head(head_size) for _ in range(num_heads)])",
                "nn.ModuleList([Head(head_size)] * num_heads)",
            ),
        ),
    ),
    Bug(
        "head_list",
        "norm_overwrites_the_stream",
        "residual",
        "The norm's result takes the name of the residual stream, and so it is what the feed-forward adds to.",
        (("x = x + self.ffwd(self.ln2(x))", "x = self.ln2(x)\n        x = x + self.ffwd(x)"),),
    ),
    Bug(
        "head_sum",
        "biases_in_another_order",
        "projection",
        "The biases are unpacked as query, value, key, and the matrices as query, key, value.",
        (("B_Q, B_K, B_V = self.B_QKV.split(d_resid)", "B_Q, B_V, B_K = self.B_QKV.split(d_resid)"),),
    ),
    Bug(
        "head_sum",
        "slice_taken_to_include_its_end",
        "heads",
        "The author takes the end of a slice to belong to it, so each head loses its last channel.",
        (
            (
                "cols = slice(head * self.d_head, (head + 1) * self.d_head)",
                "cols = slice(head * self.d_head, (head + 1) * self.d_head - 1)",
            ),
        ),
    ),
    Bug(
        "hparams",
        "width_before_number_of_heads",
        "heads",
        "The view puts the width of a head before the heads, so a head gets every fourth channel.",
        (
            (
                ".view(b, n, h, e // h).permute(0, 2, 1, 3)",
                ".view(b, n, e // h, h).permute(0, 3, 1, 2)",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "fused_layer_read_as_three_blocks",
        "projection",
        "The fused layer is read as all queries, then all keys, then all values.",
        (
            (
                "mixed_x_layer.view(b, s, self.num_heads, 3 * self.hidden_size_per_head)",
                "mixed_x_layer.view(b, s, 3, self.num_heads, self.hidden_size_per_head)",
            ),
            ("mixed_x_layer.split(self.hidden_size_per_head, dim=-1)", "mixed_x_layer.unbind(2)"),
        ),
    ),
    Bug(
        "interleaved",
        "mask_with_the_opposite_meaning",
        "attention mask",
        "The comparison makes a mask of what may be seen, and it is used as one of what may not.",
        (
            (
                "torch.tril(torch.ones((1, 1, s, s), device=tokens.device)) < 0.5",
                "torch.tril(torch.ones((1, 1, s, s), device=tokens.device)) > 0.5",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "norm_of_the_norm",
        "dataflow",
        "The second norm reads the result of the first one and not the stream.",
        (
            (
                'h_norm = layer_norm(h, params[f"transformer/h{i}_ln_2"])',
                'h_norm = layer_norm(h_norm, params[f"transformer/h{i}_ln_2"])',
            ),
        ),
    ),
    Bug(
        "mingpt",
        "result_of_the_layers_not_used",
        "layers",
        "Each layer reads the embeddings, and what it returns is not used.",
        (("x = block(x)", "h = block(x)"),),
    ),
    Bug(
        "nanogpt",
        "stream_kept_in_bfloat16",
        "numerics",
        "The block hands its residual stream on in bfloat16 precision.",
        (("return x + self.mlp(self.ln_2(x))", "return (x + self.mlp(self.ln_2(x))).bfloat16().to(x.dtype)"),),
    ),
    Bug(
        "needs_targets",
        "exponents_summed_over_queries",
        "softmax",
        "The exponentials are divided by their sum over queries.",
        (("att = att / att.sum(dim=-1, keepdim=True)", "att = att / att.sum(dim=-2, keepdim=True)"),),
    ),
    Bug(
        "needs_targets",
        "positions_count_from_one",
        "embedding",
        "The first token gets the second row of the position table.",
        (("torch.arange(0, length, device=inputs.device)", "torch.arange(1, length + 1, device=inputs.device)"),),
        short=True,
    ),
    Bug(
        "numbered_sequence",
        "factor_taken_for_a_divisor",
        "attention scores",
        "The fused attention multiplies by its scale, and the author gives it the number to divide by.",
        (("(q, k, v, is_causal=True)", "(q, k, v, is_causal=True, scale=q.size(-1) ** 0.5)"),),
    ),
    Bug(
        "numpy_gpt2",
        "gain_before_centring",
        "normalisation",
        "A parenthesis is in the wrong place: the gain multiplies the input and not what is left after centring.",
        (("return gain * (x - x.mean(-1, keepdims=True)) /", "return (gain * x - x.mean(-1, keepdims=True)) /"),),
    ),
    Bug(
        "one_hot",
        "sign_of_the_mask",
        "attention mask",
        "The mask's term has the opposite sign, so a token sees the future and not the past.",
        (("(lower - 1.0) * 1e9", "(1.0 - lower) * 1e9"),),
    ),
    Bug(
        "one_norm_tensor",
        "root_forgotten_in_the_scale",
        "attention scores",
        "The author gives the scale himself and forgets the root.",
        (
            (
                "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
                "F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / self.d_head)",
            ),
        ),
    ),
    Bug(
        "one_norm_tensor",
        "last_word_as_first_position",
        "embedding",
        "The positions begin one row too early in the common table, at the last word.",
        (
            (
                "words, positions = self.table.split([self.n_vocab, self.table.shape[0] - self.n_vocab])",
                "words, positions = self.table[: self.n_vocab], self.table[self.n_vocab - 1 :]",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "sum_of_everything",
        "softmax",
        "The sum of the softmax has lost its axis.",
        (
            (
                "return exponentiated / torch.sum(exponentiated, dim=dim, keepdim=True)",
                "return exponentiated / torch.sum(exponentiated)",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "two_names_for_one_norm",
        "layers",
        "One norm is made and gets two names.",
        (
            (
                "self.ln1, self.ln2 = LayerNorm(d_model), LayerNorm(d_model)",
                "self.ln1 = self.ln2 = LayerNorm(d_model)",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "divided_by_the_number_of_tokens",
        "normalisation",
        "The sums of the norm are divided by the length of the wrong axis.",
        (("d = x.shape[-1]", "d = x.shape[-2]"),),
    ),
    Bug(
        "padded_context",
        "stream_added_inside_attention",
        "residual",
        "The parenthesis closes too late: the stream is added to what attention reads and not to its result.",
        (("x = self.mha(self.ln_a(x)) + x", "x = self.mha(self.ln_a(x) + x)"),),
    ),
    Bug(
        "parallel_heads",
        "output_bias_before_the_sum",
        "projection",
        "The output bias is added to each head's result before the heads are summed.",
        (
            (
                'return einsum("bqhd,hde->bqe", z, self.W_O) + self.b_O',
                'return (einsum("bqhd,hde->bqhe", z, self.W_O) + self.b_O).sum(2)',
            ),
        ),
    ),
    Bug(
        "parallel_heads",
        "spread_of_a_sample",
        "normalisation",
        "The standard deviation is that of a sample, with one degree of freedom less.",
        (
            (
                "scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()",
                "scale = x.std(-1, keepdim=True) + self.eps",
            ),
        ),
    ),
    Bug(
        "pico",
        "mask_in_the_divisor",
        "attention mask",
        "A parenthesis is in the wrong place: the mask is added to the divisor of the scores.",
        (("softmax(q @ k.T / q.shape[-1] ** 0.5 + mask)", "softmax(q @ k.T / (q.shape[-1] ** 0.5 + mask))"),),
    ),
    Bug(
        "pico",
        "standard_deviation_named_variance",
        "normalisation",
        "What is called the variance is the standard deviation, and its root is taken.",
        (("variance = np.var(x, axis=-1, keepdims=True)", "variance = np.std(x, axis=-1, keepdims=True)"),),
    ),
    Bug(
        "pre_norm",
        "largest_number_without_sign",
        "attention mask",
        "The function that fills hidden scores returns the largest number without its minus sign.",
        (("return -torch.finfo(t.dtype).max", "return torch.finfo(t.dtype).max"),),
    ),
    Bug(
        "research_decoder",
        "keys_viewed_with_heads_first",
        "heads",
        "The view of the keys has the heads first, so positions are cut across instead of being moved.",
        (
            (
                "k = k.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)",
                "k = k.contiguous().view(bsz * self.num_heads, -1, self.head_dim)",
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "buffer_hides_the_past",
        "attention mask",
        "The function that makes the mask fills the triangle below the diagonal.",
        (
            (
                'torch.triu(torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), 1)',
                'torch.tril(torch.full((dim, dim), float("-inf"), dtype=tensor.dtype), -1)',
            ),
        ),
    ),
    Bug(
        "research_decoder",
        "logits_of_the_last_inner_state",
        "head",
        "The logits are made of the last inner state, which the final norm has not seen.",
        (
            (
                "x = F.linear(x, self.embed_tokens.weight)",
                'x = F.linear(extra["inner_states"][-1].transpose(0, 1), self.embed_tokens.weight)',
            ),
        ),
    ),
    Bug(
        "scan_stack",
        "gain_and_shift_exchanged",
        "normalisation",
        "The arguments of the second norm stand in the wrong order.",
        (('layer_norm(x, w["ln2_g"], w["ln2_b"])', 'layer_norm(x, w["ln2_b"], w["ln2_g"])'),),
    ),
    Bug(
        "sequence_first",
        "merged_as_if_batch_came_first",
        "heads",
        "The heads are merged as if the batch were the first axis.",
        (
            (
                "out = out.transpose(0, 1).reshape(seq_len, bsz, ninp)",
                "out = out.reshape(bsz, seq_len, ninp).transpose(0, 1)",
            ),
        ),
    ),
    Bug(
        "token_by_token",
        "whole_root",
        "attention scores",
        "The divisor of the scores is a whole number: the root is rounded down.",
        (("/ math.sqrt(size // self.heads)", "/ math.isqrt(size // self.heads)"),),
    ),
    Bug(
        "torch_mha",
        "mask_of_ones_is_added",
        "attention mask",
        "The mask has the dtype of the weights, so its ones are added to the scores instead of hiding them.",
        (
            (
                "causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device)",
                "causal = torch.ones(length, length, dtype=self.embed.weight.dtype, device=input_ids.device)",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "only_the_mean_divided",
        "normalisation",
        "Without parentheses only the mean is divided by the standard deviation.",
        (("x = (x - u) * torch.rsqrt(s + epsilon)", "x = x - u * torch.rsqrt(s + epsilon)"),),
    ),
    Bug(
        "variable_store",
        "last_norm_in_the_loop",
        "normalisation",
        "The last norm is indented too far and runs after every layer.",
        (('        h = self.norm(h, "ln_f")', '            h = self.norm(h, "ln_f")'),),
    ),
    Bug(
        "variable_store",
        "rows_and_columns_of_the_mask",
        "attention mask",
        "The new axis stands at the keys and not at the queries, so the mask is transposed.",
        (
            ("i = torch.arange(nd)[:, None]", "i = torch.arange(nd)"),
            ("j = torch.arange(ns)\n", "j = torch.arange(ns)[:, None]\n"),
        ),
    ),
    Bug(
        "wants_tokenizer",
        "probabilities_in_half_precision",
        "numerics",
        "The softmax is computed in half precision.",
        (
            (
                "scores = nn.functional.softmax(scores, dim=-1)",
                "scores = nn.functional.softmax(scores.half(), dim=-1).to(xv.dtype)",
            ),
        ),
    ),
)

COMBINED = (
    combination(SINGLE, "bert_names", "tiny_instead_of_min", "head_axis_moved_to_the_end"),
    combination(SINGLE, "book", "root_of_two_over_pi", "weights_on_the_keys"),
    combination(SINGLE, "conv1d_port", "mask_of_a_tiny_constant", "width_read_from_transposed_keys"),
    combination(SINGLE, "conv1x1", "mean_over_time", "keys_with_channels_before_heads"),
    combination(SINGLE, "einsum_fused", "a_zero_lost_in_the_constant", "norms_in_two_halves"),
    combination(SINGLE, "hardcoded", "values_split_without_moving_heads", "layers_counted_from_one"),
    combination(SINGLE, "head_list", "one_head_many_times", "norm_overwrites_the_stream"),
    combination(SINGLE, "head_sum", "biases_in_another_order", "slice_taken_to_include_its_end"),
    combination(SINGLE, "interleaved", "fused_layer_read_as_three_blocks", "mask_with_the_opposite_meaning"),
    combination(SINGLE, "needs_targets", "exponents_summed_over_queries", "positions_count_from_one"),
    combination(SINGLE, "one_norm_tensor", "root_forgotten_in_the_scale", "last_word_as_first_position"),
    combination(SINGLE, "own_layers", "sum_of_everything", "divided_by_the_number_of_tokens"),
    combination(SINGLE, "parallel_heads", "output_bias_before_the_sum", "spread_of_a_sample"),
    combination(SINGLE, "pico", "mask_in_the_divisor", "standard_deviation_named_variance"),
    combination(SINGLE, "variable_store", "rows_and_columns_of_the_mask", "last_norm_in_the_loop"),
    combination(
        SINGLE,
        "annotated",
        "sum_of_squares_without_mean",
        "width_of_a_head_from_axis_one",
        "linears_from_the_second_on",
    ),
    combination(SINGLE, "bert_names", "tiny_instead_of_min", "head_axis_moved_to_the_end", "residual_counted_twice"),
    combination(SINGLE, "own_layers", "sum_of_everything", "divided_by_the_number_of_tokens", "two_names_for_one_norm"),
    combination(
        SINGLE,
        "research_decoder",
        "keys_viewed_with_heads_first",
        "buffer_hides_the_past",
        "logits_of_the_last_inner_state",
    ),
    combination(
        SINGLE,
        "variable_store",
        "rows_and_columns_of_the_mask",
        "only_the_mean_divided",
        "last_norm_in_the_loop",
    ),
)

BUGS = SINGLE + COMBINED
