"""Bugs to measure a diagnosis with, after `reserve`: written by somebody who did not know its rules.

The guilty lines were marked before anything was run, and no edit stands in another set. More than half of the edits
are of more than one token. Whoever writes or changes a rule of the diagnosis does not read this file, and nothing is
tuned on it.
"""

from tests.bugs import Bug, combination

SINGLE = (
    Bug(
        "annotated",
        "closure_reads_the_stream",
        "dataflow",
        "The inner function's argument was renamed, so its body reads the x around it, before the norm.",
        (("lambda x: self.self_attn(x, x, x, mask)", "lambda y: self.self_attn(x, x, x, mask)"),),
    ),
    Bug(
        "annotated",
        "log_probabilities_returned",
        "head",
        "The paper's generator ends in a log-softmax, and it was kept.",
        (("self.pe(positions), mask))", "self.pe(positions), mask)).log_softmax(-1)"),),
    ),
    Bug(
        "conv1d_port",
        "norms_behind_the_sums",
        "normalisation",
        "The block is that of the first GPT, whose norms stand behind the sums.",
        (
            ("self.ln_1(x), ", "x, "),
            ("x = x + a\n", "x = self.ln_1(x + a)\n"),
            ("self.ln_2(x))", "x)"),
            ("return x + m", "return self.ln_2(x + m)"),
        ),
    ),
    Bug(
        "einsum_fused",
        "norms_by_kind",
        "layers",
        "The list is read as if all norms of attention came first and those of the feed-forward behind them.",
        (("norms[2 * i](", "norms[i]("), ("[2 * i + 1](", "[len(self.attns) + i](")),
    ),
    Bug(
        "encoder_layers",
        "ones_and_zeros_are_added",
        "attention mask",
        "The mask is of ones and zeros, and torch adds a mask of floats to the scores.",
        (
            (
                "nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device, dtype=weight.dtype",
                "torch.ones(length, length, device=tokens.device, dtype=weight.dtype).tril(",
            ),
        ),
    ),
    Bug(
        "functional",
        "last_norm_of_the_last_block",
        "head",
        "The line was copied from the block, and its norm is the last block's second one.",
        (('layer_norm(x, **params["ln_f"], eps=eps)', 'layer_norm(x, **block_params["ln_2"], eps=eps)'),),
    ),
    Bug(
        "functional",
        "heads_in_the_last_axis",
        "heads",
        "The channels of the heads are taken to alternate in the fused layer's result.",
        (("(3, n_head, -1))", "(3, -1, n_head)).mT"),),
    ),
    Bug(
        "german",
        "reshaped_for_transposed",
        "heads",
        "The heads are put before the tokens by a reshape, which moves nothing.",
        (("unflatten(-1, (self.koepfe, -1)).transpose(1, 2", "reshape(x.size(0), self.koepfe, x.size(1), -1"),),
    ),
    Bug(
        "hardcoded",
        "last_rows_of_the_mask",
        "attention mask",
        "The rows of the mask are the last ones, as they would be behind a cache.",
        (("mask[:t, :t]", "mask[-t:, :t]"),),
    ),
    Bug(
        "head_list",
        "stacked_along_the_last_axis",
        "heads",
        "The heads' results are stacked behind the channels and then flattened, so their channels alternate.",
        (("cat([h(x) for h in self.heads], dim=-1", "stack([h(x) for h in self.heads], dim=-1).flatten(2"),),
    ),
    Bug(
        "head_sum",
        "threshold_taken_off",
        "feed-forward",
        "The bias is called a threshold, and so somebody subtracts it.",
        (("self.read.T + self.threshold", "self.read.T - self.threshold"),),
    ),
    Bug(
        "head_sum",
        "result_of_the_mask_dropped",
        "attention mask",
        "The call returns a masked copy, which nobody takes.",
        (("score = score.masked_fill(", "score.masked_fill("),),
    ),
    Bug(
        "head_sum",
        "values_biased_again",
        "projection",
        "The bias of the values was added where they are made, and is added to their mixture, too.",
        (("return pattern @ v @ self", "return (pattern @ v + B_V[cols]) @ self"),),
    ),
    Bug(
        "hparams",
        "softmax_before_the_mask",
        "softmax",
        "The softmax is taken one line too early, and what the mask is written into is not read any more.",
        (
            (
                '        scores[:, :, future] = float("-inf")\n        weights = scores.softmax(dim=-1)\n',
                '        weights = scores.softmax(dim=-1)\n        scores[:, :, future] = float("-inf")\n',
            ),
        ),
        guilty=("weights = scores.softmax(dim=-1)", 'scores[:, :, future] = float("-inf")'),
    ),
    Bug(
        "interleaved",
        "residuals_from_the_norms",
        "residual",
        "Both sums are with what the norm returned, an option of such code that GPT-2 does not take.",
        (("hidden_states + ", "layernorm_output + "), ("layernorm_input + ", "layernorm_output + ")),
    ),
    Bug(
        "jax_dict",
        "one_position_for_all",
        "embedding",
        "The colon is missing, so all tokens get one row: that of the first position behind them.",
        (('["pos_embs"][:seq_len]', '["pos_embs"][seq_len]'),),
        short=True,
    ),
    Bug(
        "jax_dict",
        "reshaped_before_the_exchange",
        "heads",
        "The shape has the heads before the tokens, and then the two axes are exchanged.",
        (("seq_len, num_heads, d_model // num_heads))", "num_heads, seq_len, d_model // num_heads)).swapaxes(1, 2)"),),
    ),
    Bug(
        "mingpt",
        "layers_in_the_order_of_the_dictionary",
        "activation",
        "The layers run in the order in which the dictionary has them, and there the activation stands last.",
        (('mlp["dropout"](mlp["c_proj"](mlp["act"](mlp["c_fc"](x))))', "nn.Sequential(*mlp.values())(x)"),),
        guilty=("return nn.Sequential(*mlp.values())(x)", '"act": NewGELU(),'),
    ),
    Bug(
        "nanogpt",
        "mean_stays_in",
        "normalisation",
        "The norm is that of newer models, which do not take the mean off.",
        (("F.layer_norm(x", "F.rms_norm(x"), ("self.bias, self.eps)", "self.eps) + self.bias")),
    ),
    Bug(
        "needs_targets",
        "scores_times_the_mask",
        "attention mask",
        "The scores are multiplied by the mask, so hidden ones are 0 and have a weight.",
        (('att = att.masked_fill(~mask, float("-inf"))', "att = att * mask"),),
    ),
    Bug(
        "numbered_sequence",
        "one_norm_made_before_the_loop",
        "layers",
        "The norm is made before the loop, so all layers share it.",
        (
            ("    for _ in range(depth):", "    norm = nn.LayerNorm(dim)\n    for _ in range(depth):"),
            ("nn.LayerNorm(dim),\n                nn.Linear(dim, 3", "norm,\n                nn.Linear(dim, 3"),
        ),
    ),
    Bug(
        "numpy_gpt2",
        "largest_of_the_strings",
        "layers",
        "The numbers are compared as strings, so 9 is larger than 11 and the layers behind it are left out.",
        (('max(int(name.split(".")[1]) for', 'int(max(name.split(".")[1] for'), ('"h."))', '"h.")))')),
    ),
    Bug(
        "numpy_gpt2",
        "sigmoid_for_the_tanh",
        "activation",
        "The activation is the rougher form with a sigmoid.",
        (("0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))", "x / (1 + np.exp(-1.702 * x))"),),
    ),
    Bug(
        "one_hot",
        "attention_lost_from_the_stream",
        "residual",
        "A variable was renamed in two lines of three, so the unit returns its input and the feed-forward's branch.",
        (("x = torch.add", "y = torch.add"), ("(self.std2(x", "(self.std2(y")),
        guilty=("return torch.add(x, self.slim(h))",),
    ),
    Bug(
        "one_norm_tensor",
        "positions_stand_first",
        "embedding",
        "The table is cut as if the positions stood above the words.",
        (
            (
                "words, positions = self.table.split([self.n_vocab, self.table.shape[0] - ",
                "positions, words = self.table.split([self.table.shape[0] - self.n_vocab, ",
            ),
        ),
    ),
    Bug(
        "own_layers",
        "both_sides_scaled",
        "attention scores",
        "Queries and keys are both divided by the root, so the scores are by the whole width.",
        (('->...qk", Q, K) / math.sqrt(d_k)', '->...qk", Q / math.sqrt(d_k), K / math.sqrt(d_k))'),),
    ),
    Bug(
        "padded_context",
        "queries_and_keys_alternate",
        "projection",
        "The fused layer's channels are read as if queries and keys alternated.",
        (("self.query_key(x).tensor_split(2, dim=-1)", "self.query_key(x).view(b, t, d, 2).unbind(-1)"),),
    ),
    Bug(
        "parallel_heads",
        "gain_in_the_divisor",
        "normalisation",
        "A pair of parentheses puts the gain into the divisor.",
        (("x / scale * self.w + self.b", "x / (scale * self.w) + self.b"),),
    ),
    Bug(
        "pico",
        "both_branches_from_the_input",
        "residual",
        "Attention and the feed-forward both read the block's input, as in later models.",
        (("    x = x + ", "    a = "), ("return x + ffn", "return x + a + ffn")),
    ),
    Bug(
        "pico",
        "one_star_lost",
        "attention scores",
        "One star of two is missing, so the scores are divided by the width and halved.",
        (("q.shape[-1] ** 0.5", "q.shape[-1] * 0.5"),),
    ),
    Bug(
        "pre_norm",
        "feed_forward_behind_the_loop",
        "layers",
        "The line is not indented far enough, so only the last layer's feed-forward runs.",
        (("            x = ff(x) + x", "        x = ff(x) + x"),),
    ),
    Bug(
        "research_decoder",
        "embeddings_times_the_root",
        "embedding",
        "The toolkit multiplies the embeddings by the root of their width.",
        (
            (
                "embed_tokens(prev_output_tokens)",
                "embed_tokens(prev_output_tokens) * self.embed_tokens.embedding_dim**0.5",
            ),
        ),
    ),
    Bug(
        "scan_stack",
        "heads_not_moved",
        "attention scores",
        "The heads are not moved before the tokens, so each token's heads attend to one another.",
        (("        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)\n", ""), ("transpose(1, 2).", "")),
        guilty=("qkv.unbind(dim=2)", "v, is_causal=True)"),
    ),
    Bug(
        "sequence_first",
        "stream_replaced_by_its_norm",
        "residual",
        "The norm is written back into the stream, so the second sum is with the normalised stream.",
        (
            (
                "src2 = self.linear2(self.activation(self.linear1(self.norm2(src))))",
                "src = self.norm2(src)\n        src2 = self.linear2(self.activation(self.linear1(src)))",
            ),
        ),
        guilty=("src = self.norm2(src)",),
    ),
    Bug(
        "token_by_token",
        "root_before_the_quotient",
        "attention scores",
        "A parenthesis closes too early, so the scores are divided by the heads as well, in whole numbers.",
        (("math.sqrt(size // self.heads)", "math.sqrt(size) // self.heads"),),
    ),
    Bug(
        "token_by_token",
        "layers_counted_for_tokens",
        "embedding",
        "The position is the length of the memory's outer list, which is the number of layers.",
        (("self.steps.weight[t]", "self.steps.weight[len(memory.keys)]"),),
    ),
    Bug(
        "torch_mha",
        "norm_behind_attention",
        "normalisation",
        "The norm is taken of attention's result and not of its input.",
        (
            ("        h = self.norm_attn(x)\n        h, _ = self.attn(h, h, h,", "        h, _ = self.attn(x, x, x,"),
            ("        x = x + self.drop(h)\n", "        h = self.norm_attn(h)\n        x = x + self.drop(h)\n"),
        ),
    ),
    Bug(
        "variable_store",
        "mean_not_squared",
        "normalisation",
        "The variance is written as the mean of the squares less the mean, which should be squared.",
        (("(x - u).square().mean(dim=axis, keepdim=True)", "x.square().mean(dim=axis, keepdim=True) - u"),),
    ),
    Bug(
        "variable_store",
        "distance_without_its_queries",
        "attention mask",
        "A term is missing, so the comparison is true for all keys.",
        (("i >= j - ns + nd", "i >= j - ns"),),
    ),
    Bug(
        "wants_tokenizer",
        "positions_for_each_block",
        "embedding",
        "The positions are added again before every block.",
        (("x = block(x, bias)", "x = block(x + self.pos_embeddings.weight[:seqlen], bias)"),),
    ),
)

COMBINED = (
    combination(SINGLE, "annotated", "closure_reads_the_stream", "log_probabilities_returned"),
    combination(SINGLE, "functional", "heads_in_the_last_axis", "last_norm_of_the_last_block"),
    combination(SINGLE, "head_sum", "threshold_taken_off", "result_of_the_mask_dropped", "values_biased_again"),
    combination(SINGLE, "jax_dict", "reshaped_before_the_exchange", "one_position_for_all"),
    combination(SINGLE, "numpy_gpt2", "largest_of_the_strings", "sigmoid_for_the_tanh"),
    combination(SINGLE, "pico", "both_branches_from_the_input", "one_star_lost"),
    combination(SINGLE, "token_by_token", "layers_counted_for_tokens", "root_before_the_quotient"),
    combination(SINGLE, "variable_store", "distance_without_its_queries", "mean_not_squared"),
)

BUGS = SINGLE + COMBINED
