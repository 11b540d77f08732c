"""Bugs to measure a diagnosis with: mistakes of students who follow a book or a course, and of people who refactor.

They were written by somebody who read neither the diagnosis's rules nor what it says of other bugs. The guilty lines
were marked before anything was run. Since the set was run once, rules have been tuned on it. At the end stand pairs of
them in one file.
"""

from tests.bugs import Bug, combination

SINGLE = (
    Bug(
        "annotated",
        "renamed_in_two_of_three",
        "dataflow",
        "The argument of the lambda was renamed, and the third use means the x around it, before the norm.",
        (("lambda x: self.self_attn(x, x, x, mask)", "lambda y: self.self_attn(y, y, x, mask)"),),
    ),
    Bug(
        "annotated",
        "query_projected_twice",
        "projection",
        "The fourth layer is found by its number, and the number is that of the third one.",
        (("return self.linears[-1](x)", "return self.linears[2](x)"),),
    ),
    Bug(
        "array_list",
        "unfused_with_the_bias_of_the_keys",
        "projection",
        "The fused product was taken apart into three lines, and the copy for the values kept the bias of the keys.",
        (
            (
                "    q, k, v = np.split(norm(x, g1, b1) @ w_qkv + b_qkv, 3, axis=1)\n",
                (
                    "    h = norm(x, g1, b1)\n"
                    "    w_q, w_k, w_v = np.split(w_qkv, 3, axis=1)\n"
                    "    b_q, b_k, b_v = np.split(b_qkv, 3)\n"
                    "    q = h @ w_q + b_q\n"
                    "    k = h @ w_k + b_k\n"
                    "    v = h @ w_v + b_k\n"
                ),
            ),
        ),
        guilty=("v = h @ w_v + b_k",),
    ),
    Bug(
        "bert_names",
        "last_norm_behind_the_embeddings",
        "normalisation",
        "As in BERT, the model's own norm is taken of the embeddings and not behind the last layer.",
        (
            (
                "hidden_states = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)",
                (
                    "hidden_states = self.LayerNorm(self.word_embeddings(input_ids) + "
                    "self.position_embeddings(position_ids))"
                ),
            ),
            ("sequence_output = self.LayerNorm(hidden_states)", "sequence_output = hidden_states"),
        ),
    ),
    Bug(
        "bert_names",
        "head_reads_the_collected_states",
        "head",
        "The head takes the last of the collected states, to which the last norm was never applied.",
        (("self.decoder(sequence_output)", "self.decoder(all_hidden_states[-1])"),),
    ),
    Bug(
        "book",
        "weights_renormalised_over_dim_2",
        "softmax",
        "The weights are masked behind the softmax and normalised again, over dim 2, which is the queries.",
        (
            (
                "        return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)\n",
                (
                    "        weights = torch.softmax(scores, dim=-1).masked_fill(future, 0.0)\n"
                    "        return weights / weights.sum(dim=2, keepdim=True)\n"
                ),
            ),
        ),
        guilty=("return weights / weights.sum(dim=2, keepdim=True)",),
    ),
    Bug(
        "book",
        "shortcut_not_set_again",
        "residual",
        "The shortcut is set before attention and not again before the feed-forward, so the second sum takes the "
        "block's input.",
        (
            (
                (
                    "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                    "        return x + self.drop_shortcut(self.ff(self.norm2(x)))\n"
                ),
                (
                    "        shortcut = x\n"
                    "        x = self.drop_shortcut(self.att(self.norm1(x)))\n"
                    "        x = x + shortcut\n"
                    "        x = self.drop_shortcut(self.ff(self.norm2(x)))\n"
                    "        return x + shortcut\n"
                ),
            ),
        ),
        guilty=("return x + shortcut",),
    ),
    Bug(
        "book_fused",
        "three_parts_inside_each_head",
        "heads",
        "The fused layer is cut into heads first and each head into three, but its outputs are three times all heads.",
        (
            (
                "self.qkv(x).view(batch, tokens, 3, self.n_heads, width // self.n_heads)",
                "self.qkv(x).view(batch, tokens, self.n_heads, 3 * (width // self.n_heads))",
            ),
            ("qkv.permute(2, 0, 3, 1, 4)  # each", "qkv.transpose(1, 2).chunk(3, dim=-1)  # each"),
        ),
    ),
    Bug(
        "book_fused",
        "scale_of_the_whole_width",
        "attention scores",
        "The scale is handed over and made of the width before the heads were split.",
        (
            (
                (
                    "        context = F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate, "
                    "is_causal=True)\n"
                ),
                (
                    "        scale = width**-0.5\n"
                    "        context = F.scaled_dot_product_attention(queries, keys, values, None, rate, True, "
                    "scale=scale)\n"
                ),
            ),
        ),
        guilty=("scale = width**-0.5",),
    ),
    Bug(
        "conv1d_port",
        "projection_extracted_with_its_residual",
        "residual",
        "The feed-forward became a method that returns the sum, and the caller adds the stream again.",
        (
            (
                (
                    "    def forward(self, x, layer_past=None):\n        a, present = self.attn(self.ln_1(x), "
                    "layer_past)\n"
                ),
                (
                    "    def mlp(self, x):\n"
                    "        return x + self.c_proj(gelu(self.c_fc(self.ln_2(x))))\n\n"
                    "    def forward(self, x, layer_past=None):\n"
                    "        a, present = self.attn(self.ln_1(x), layer_past)\n"
                ),
            ),
            ("        m = self.c_proj(gelu(self.c_fc(self.ln_2(x))))\n", "        m = self.mlp(x)\n"),
        ),
        guilty=("return x + self.c_proj(gelu(self.c_fc(self.ln_2(x))))", "return x + m, present"),
    ),
    Bug(
        "conv1d_port",
        "last_norm_inside_the_loop",
        "normalisation",
        "The line with the last norm is indented too far, so it runs behind each block.",
        (
            (
                "        hidden_states = self.ln_f(hidden_states)\n",
                "            hidden_states = self.ln_f(hidden_states)\n",
            ),
        ),
    ),
    Bug(
        "conv1x1",
        "statistics_over_the_frames",
        "normalisation",
        "Mean and variance are those of a channel over time, as an instance norm takes them.",
        (
            ("mean = x.mean(1, keepdim=True)", "mean = x.mean(2, keepdim=True)"),
            ("torch.mean((x - mean) ** 2, 1, keepdim=True)", "torch.mean((x - mean) ** 2, 2, keepdim=True)"),
        ),
    ),
    Bug(
        "conv1x1",
        "channels_before_their_heads",
        "heads",
        "The merge puts the channels of a head before the heads, so that the channels of all heads alternate.",
        (
            (
                "output.transpose(2, 3).contiguous().view(b, d, t)",
                "output.permute(0, 3, 1, 2).contiguous().view(b, d, t)",
            ),
        ),
    ),
    Bug(
        "einsum_fused",
        "square_of_the_mean",
        "normalisation",
        "The mean of the squares became the square of the mean, when the product was written as a power.",
        (("(centred * centred).mean(-1, keepdim=True)", "x.mean(-1, keepdim=True) ** 2"),),
    ),
    Bug(
        "einsum_fused",
        "norm_of_the_loop_variable",
        "normalisation",
        "The last norm is found by the loop's variable, which still has the number of the last layer.",
        (("self.norms[-1](x), self.tokens", "self.norms[2 * i + 1](x), self.tokens"),),
    ),
    Bug(
        "encoder_layers",
        "mask_of_ones_is_added",
        "attention mask",
        "A mask of ones above the diagonal is added to the scores, because a mask of floats is added and "
        "hides nothing.",
        (
            (
                "nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device, dtype=weight.dtype)",
                "torch.triu(torch.ones(length, length, device=tokens.device, dtype=weight.dtype), diagonal=1)",
            ),
        ),
    ),
    Bug(
        "encoder_layers",
        "position_of_the_sequence_in_the_batch",
        "embedding",
        "The positions count the sequences of the batch and not the tokens of a sequence.",
        (
            (
                "torch.arange(length, device=tokens.device).expand(batch, length)",
                "torch.arange(batch, device=tokens.device).unsqueeze(1).expand(batch, length)",
            ),
        ),
    ),
    Bug(
        "functional",
        "second_norm_reads_the_first",
        "dataflow",
        "The first norm got a name of its own, and the second norm was changed with it.",
        (
            (
                (
                    '    x = x + multi_head_attention(layer_norm(x, **params["ln_1"], eps=eps), **params["attn"], '
                    "n_head=n_head)\n"
                    '    return x + feed_forward(layer_norm(x, **params["ln_2"], eps=eps), **params["mlp"])\n'
                ),
                (
                    '    h = layer_norm(x, **params["ln_1"], eps=eps)\n'
                    '    x = x + multi_head_attention(h, **params["attn"], n_head=n_head)\n'
                    '    return x + feed_forward(layer_norm(h, **params["ln_2"], eps=eps), **params["mlp"])\n'
                ),
            ),
        ),
        guilty=('return x + feed_forward(layer_norm(h, **params["ln_2"], eps=eps), **params["mlp"])',),
    ),
    Bug(
        "german",
        "mean_square_for_the_variance",
        "normalisation",
        "The variance was to be computed in one pass, and the square of the mean was never taken off.",
        (("((x - mittel) ** 2).mean(dim=-1, keepdim=True)", "x.square().mean(dim=-1, keepdim=True)"),),
    ),
    Bug(
        "german",
        "each_layer_reads_the_embeddings",
        "layers",
        "The loop's result was renamed and its argument was not, so only the last layer counts.",
        (
            ("            x = schicht(x)\n", "            h = schicht(x)\n"),
            ("return self.kopf(self.norm_ende(x))", "return self.kopf(self.norm_ende(h))"),
        ),
        guilty=("h = schicht(x)",),
    ),
    Bug(
        "hardcoded",
        "layer_made_before_the_loop",
        "layers",
        "The layer is made once before the loop, and all twelve names are names of it.",
        (
            (
                '        for i in range(12):\n            setattr(self, f"layer{i}", Layer())\n',
                '        layer = Layer()\n        for i in range(12):\n            setattr(self, f"layer{i}", layer)\n',
            ),
        ),
        guilty=("layer = Layer()", 'setattr(self, f"layer{i}", layer)'),
    ),
    Bug(
        "hardcoded",
        "values_with_the_head_behind",
        "heads",
        "In one of three lines the sizes of the heads and of their channels are exchanged.",
        (
            (
                "y[:, :, 88:132].reshape(n, t, 4, 11).transpose(1, 2)",
                "y[:, :, 88:132].reshape(n, t, 11, 4).permute(0, 3, 1, 2)",
            ),
        ),
    ),
    Bug(
        "head_list",
        "average_of_the_lecture",
        "softmax",
        "The lecture's first version stays: rows of the lower triangle divided by their sum, and the scores unused.",
        (
            (
                (
                    '        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))\n'
                    "        wei = F.softmax(wei, dim=-1)\n"
                ),
                (
                    "        wei = torch.ones_like(wei) * self.tril[:T, :T]\n"
                    "        wei = wei / wei.sum(dim=-1, keepdim=True)\n"
                ),
            ),
        ),
        guilty=("wei = torch.ones_like(wei) * self.tril[:T, :T]", "wei = wei / wei.sum(dim=-1, keepdim=True)"),
    ),
    Bug(
        "head_sum",
        "each_head_reads_the_sum_so_far",
        "dataflow",
        "What the loop sums up became the argument as well, so each head reads what those before it wrote.",
        (
            (
                "            out = out + self.head_result(resid, head)\n",
                "            resid = resid + self.head_result(resid, head)\n            out = resid\n",
            ),
        ),
    ),
    Bug(
        "hparams",
        "extracted_sublayer_overwrites_the_stream",
        "residual",
        "The function that both sublayers share names the norm's result x, and adds it in place of the stream.",
        (
            (
                "    def forward(self, batch):\n",
                (
                    "    def sublayer(self, x, norm, function, block):\n"
                    "        x = block[norm](x)\n"
                    "        return x + function(x, block)\n\n"
                    "    def forward(self, batch):\n"
                ),
            ),
            (
                (
                    '            x = x + self.attention(block["attn_norm"](x), block)\n'
                    '            x = x + self.feed_forward(block["ff_norm"](x), block)\n'
                ),
                (
                    '            x = self.sublayer(x, "attn_norm", self.attention, block)\n'
                    '            x = self.sublayer(x, "ff_norm", self.feed_forward, block)\n'
                ),
            ),
        ),
        guilty=("x = block[norm](x)", "return x + function(x, block)"),
    ),
    Bug(
        "hparams",
        "names_of_blocks_sorted",
        "layers",
        "The blocks come in the order of their sorted names, in which block_10 stands before block_2.",
        (
            (
                '        for i in range(self.hparams["num_layers"]):\n            block = self.stack[f"block_{i}"]\n',
                "        for name in sorted(self.stack):\n            block = self.stack[name]\n",
            ),
        ),
        guilty=("for name in sorted(self.stack):",),
    ),
    Bug(
        "interleaved",
        "fused_layer_cut_as_in_other_files",
        "projection",
        "The fused layer is cut into all queries, all keys, all values; here those of one head lie together.",
        (
            (
                "mixed_x_layer.view(b, s, self.num_heads, 3 * self.hidden_size_per_head)",
                "mixed_x_layer.view(b, s, 3 * self.num_heads, self.hidden_size_per_head)",
            ),
            (
                "mixed_x_layer.split(self.hidden_size_per_head, dim=-1)",
                "mixed_x_layer.split(self.num_heads, dim=2)",
            ),
        ),
    ),
    Bug(
        "interleaved",
        "second_bias_twice",
        "feed-forward",
        "When the bias of the first layer was fused with the GELU, the second layer's was added by hand, too.",
        (
            (
                "return self.dense_4h_to_h(intermediate)",
                "return self.dense_4h_to_h(intermediate) + self.dense_4h_to_h.bias",
            ),
        ),
    ),
    Bug(
        "jax_dict",
        "mean_folded_without_the_deviation",
        "normalisation",
        "The norm became one scale and one shift, and in the shift the mean is not divided by the deviation.",
        (
            (
                '    return inv * (x - mean) + params["offset"]\n',
                '    shift = params["offset"] - params["scale"] * mean\n    return inv * x + shift\n',
            ),
        ),
        guilty=('shift = params["offset"] - params["scale"] * mean',),
    ),
    Bug(
        "jax_dict",
        "heads_before_the_positions",
        "heads",
        "The letters of the result were copied from the scores, so the heads stand before the positions.",
        (("bhtT,bThd->bthd", "bhtT,bThd->bhtd"),),
    ),
    Bug(
        "mingpt",
        "last_norm_thrown_away",
        "head",
        "The norm was given a line of its own, and nothing takes what it returns.",
        (
            (
                '        logits = self.lm_head(net["ln_f"](x))\n',
                '        net["ln_f"](x)\n        logits = self.lm_head(x)\n',
            ),
        ),
        guilty=('net["ln_f"](x)',),
    ),
    Bug(
        "mingpt",
        "root_times_the_first_term",
        "activation",
        "The parentheses went when the line was split, so the root multiplies the first of two terms.",
        (
            (
                "        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))\n",
                "        cube = 0.044715 * torch.pow(x, 3.0)\n        inner = math.sqrt(2.0 / math.pi) * x + cube\n",
            ),
        ),
        guilty=("inner = math.sqrt(2.0 / math.pi) * x + cube",),
    ),
    Bug(
        "nanogpt",
        "spelled_out_with_the_root_of_the_heads",
        "attention scores",
        "The fused attention was spelled out, and the scores are divided by the root of the number of heads.",
        (
            (
                "        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)\n",
                (
                    "        att = q @ k.transpose(-2, -1) / self.n_head**0.5\n"
                    "        future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)\n"
                    '        att = att.masked_fill(future, float("-inf")).softmax(dim=-1)\n'
                    "        y = F.dropout(att, rate) @ v\n"
                ),
            ),
        ),
        guilty=("att = q @ k.transpose(-2, -1) / self.n_head**0.5",),
    ),
    Bug(
        "nanogpt",
        "norm_over_the_tokens_too",
        "normalisation",
        "The shape that is normalised is all but the batch, so the statistics are those of the whole sequence.",
        (
            (
                "F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)",
                "F.layer_norm(x, x.shape[1:], eps=self.eps) * self.weight + self.bias",
            ),
        ),
    ),
    Bug(
        "needs_targets",
        "hidden_behind_the_division",
        "attention mask",
        "The mask moved behind the division, so the hidden weights have a share in the sum.",
        (
            ('        att = att.masked_fill(~mask, float("-inf"))\n', ""),
            (
                "        att = att / att.sum(dim=-1, keepdim=True)\n",
                "        att = att / att.sum(dim=-1, keepdim=True)\n        att = att.masked_fill(~mask, 0.0)\n",
            ),
        ),
        guilty=("att = att.masked_fill(~mask, 0.0)",),
    ),
    Bug(
        "needs_targets",
        "residual_around_the_layer",
        "residual",
        "The loop adds what the layer returns to the stream, and the layer had done so.",
        (("            x = layer(x, mask)\n", "            x = x + layer(x, mask)\n"),),
    ),
    Bug(
        "numbered_sequence",
        "causal_in_training_alone",
        "attention mask",
        "The mask depends on the mode, as dropout does, so that nothing is hidden in eval mode.",
        (("is_causal=True", "is_causal=self.training"),),
    ),
    Bug(
        "numbered_sequence",
        "channels_of_the_heads_alternate",
        "heads",
        "The merge puts the heads behind their channels before it flattens the two.",
        (("x.transpose(-2, -3).flatten(-2)", "x.movedim(-3, -1).flatten(-2)"),),
    ),
    Bug(
        "numpy_gpt2",
        "closures_over_the_last_name",
        "layers",
        "The layers are made ahead as functions in a loop, and when they run, all of them find the last layer's name.",
        (
            (
                "    def logits(ids: Array) -> Array:\n",
                (
                    "    layers = []\n"
                    "    for i in range(n_layer):\n"
                    '        h = f"h.{i}"\n\n'
                    "        def layer(x: Array) -> Array:\n"
                    '            return use.block(x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + '
                    '".ln_2"), mlp(h '
                    '+ ".mlp"))\n\n'
                    "        layers.append(layer)\n\n"
                    "    def logits(ids: Array) -> Array:\n"
                ),
            ),
            (
                (
                    '        for h in (f"h.{i}" for i in range(n_layer)):\n'
                    '            x = use.block(x, norm(h + ".ln_1"), attention(h + ".attn"), norm(h + '
                    '".ln_2"), mlp(h + '
                    '".mlp"))\n'
                ),
                "        for layer in layers:\n            x = layer(x)\n",
            ),
        ),
        guilty=("def layer(x: Array) -> Array:", "return use.block("),
    ),
    Bug(
        "one_hot",
        "each_layer_reads_the_one_before",
        "dataflow",
        "The comprehension became a loop that overwrites x, so keys are made of queries and values of keys.",
        (
            (
                (
                    "        q, k, v = [f(x).reshape(B, T, self.n_heads, C // self.n_heads).swapaxes(1, 2) for f in "
                    "self.qkv]\n"
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
        guilty=("x = f(x)",),
    ),
    Bug(
        "one_norm_tensor",
        "flattened_and_counted_by_one",
        "layers",
        "The norms of all layers were laid in one row, two for each layer, and the index goes on by one for "
        "each layer.",
        (
            (
                "        for layer in range(self.n_layer):\n            x = x +",
                (
                    "        norms = self.norms.flatten(0, 1)\n        for layer in range(self.n_layer):\n     "
                    "       x "
                    "= x +"
                ),
            ),
            ("self.norm(x, self.norms[layer, 0])", "self.norm(x, norms[layer])"),
            ("self.norm(x, self.norms[layer, 1])", "self.norm(x, norms[layer + 1])"),
        ),
        guilty=("self.attention(self.norm(x, norms[layer]), layer)", "self.norm(x, norms[layer + 1]), layer)"),
    ),
    Bug(
        "one_norm_tensor",
        "positions_without_their_offset",
        "embedding",
        "The table is no longer split, and the positions are looked for at its beginning, where the words are.",
        (("x = words[ids] + positions[: ids.shape[1]]", "x = self.table[ids] + self.table[: ids.shape[1]]"),),
    ),
    Bug(
        "own_layers",
        "sum_over_everything",
        "softmax",
        "The student's softmax divides by the sum of the whole tensor.",
        (("torch.sum(exponentiated, dim=dim, keepdim=True)", "exponentiated.sum()"),),
    ),
    Bug(
        "own_layers",
        "projections_listed_alphabetically",
        "projection",
        "Three calls became one comprehension over a list in alphabetical order.",
        (
            (
                "Q, K, V = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))",
                "Q, K, V = [self.heads(proj(x)) for proj in (self.k_proj, self.q_proj, self.v_proj)]",
            ),
        ),
    ),
    Bug(
        "padded_context",
        "queries_and_keys_split_inside_the_heads",
        "heads",
        "The layer for queries and keys is cut into heads first, and each head's piece into two.",
        (
            (
                (
                    "        q, k = self.query_key(x).tensor_split(2, dim=-1)\n"
                    "        v = self.value(x)\n"
                    "        q, k, v = (z.view(b, t, h, d // h).permute(0, 2, 1, 3) for z in (q, k, v))\n"
                ),
                (
                    "        qk = self.query_key(x).view(b, t, h, -1).permute(0, 2, 1, 3)\n"
                    "        q, k = qk.tensor_split(2, dim=-1)\n"
                    "        v = self.value(x).view(b, t, h, -1).permute(0, 2, 1, 3)\n"
                ),
            ),
        ),
        guilty=("qk = self.query_key(x).view(b, t, h, -1).permute(0, 2, 1, 3)", "q, k = qk.tensor_split(2, dim=-1)"),
    ),
    Bug(
        "parallel_heads",
        "extracted_with_the_bias_of_the_queries",
        "projection",
        "Three lines became one inner function, and it takes the bias of the queries whatever it is given.",
        (
            (
                (
                    '        q = einsum("bqe,hed->bqhd", x, self.W_Q) + self.b_Q\n'
                    '        k = einsum("bke,hed->bkhd", x, self.W_K) + self.b_K\n'
                    '        v = einsum("bke,hed->bkhd", x, self.W_V) + self.b_V\n'
                ),
                (
                    "        def project(w: Tensor, b: Tensor) -> Tensor:\n"
                    '            return einsum("bte,hed->bthd", x, w) + self.b_Q\n\n'
                    "        q, k, v = project(self.W_Q, self.b_Q), project(self.W_K, self.b_K), project(self.W_V, "
                    "self.b_V)\n"
                ),
            ),
        ),
        guilty=('return einsum("bte,hed->bthd", x, w) + self.b_Q',),
    ),
    Bug(
        "parallel_heads",
        "scale_before_centring",
        "normalisation",
        "Two lines changed places, so the scale is that of the values from which the mean has not been taken.",
        (
            (
                (
                    "        x = x - x.mean(-1, keepdim=True)\n"
                    "        scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()\n"
                ),
                (
                    "        scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()\n"
                    "        x = x - x.mean(-1, keepdim=True)\n"
                ),
            ),
        ),
        guilty=("scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()", "x = x - x.mean(-1, keepdim=True)"),
    ),
    Bug(
        "pico",
        "heads_split_before_the_three",
        "heads",
        "Each head's piece of the fused output is split in three, and not each third into heads.",
        (
            (
                "[np.split(part, n_head, axis=-1) for part in np.split(x, 3, axis=-1)]",
                "[np.split(part, 3, axis=-1) for part in np.split(x, n_head, axis=-1)]",
            ),
            ("for q, k, v in zip(*heads, strict=True)]", "for q, k, v in heads]"),
        ),
        guilty=("heads = [np.split(part, 3, axis=-1) for part in np.split(x, n_head, axis=-1)]",),
    ),
    Bug(
        "pico",
        "second_sum_with_the_old_name",
        "residual",
        "Attention's sum was renamed, and the last line still adds to the block's input.",
        (
            (
                (
                    "    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)\n"
                    "    return x + ffn(layer_norm(x, **ln_2), **mlp)\n"
                ),
                (
                    "    y = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)\n"
                    "    return x + ffn(layer_norm(y, **ln_2), **mlp)\n"
                ),
            ),
        ),
        guilty=("return x + ffn(layer_norm(y, **ln_2), **mlp)",),
    ),
    Bug(
        "pre_norm",
        "sum_inside_the_call",
        "residual",
        "Two lines became one, and the sum behind the call is with the block's input.",
        (("            x = attn(x) + x\n            x = ff(x) + x\n", "            x = ff(attn(x) + x) + x\n"),),
    ),
    Bug(
        "research_decoder",
        "residual_kept_behind_the_norm",
        "residual",
        "The second residual is kept one line too late, when the norm has been taken.",
        (
            (
                "        residual = x\n        if self.normalize_before:\n            x = self.final_layer_norm(x)\n",
                "        if self.normalize_before:\n            x = self.final_layer_norm(x)\n        residual = x\n",
            ),
        ),
        guilty=("x = self.final_layer_norm(x)\n        residual = x",),
    ),
    Bug(
        "scan_stack",
        "branch_left_out_of_the_last_sum",
        "residual",
        "The sum with attention's branch moved into the norm's argument, and the last line adds to the input.",
        (
            (
                (
                    '        x = x + self.attention(layer_norm(x, w["ln1_g"], w["ln1_b"]), w)\n'
                    '        h = layer_norm(x, w["ln2_g"], w["ln2_b"])\n'
                ),
                (
                    '        a = self.attention(layer_norm(x, w["ln1_g"], w["ln1_b"]), w)\n'
                    '        h = layer_norm(x + a, w["ln2_g"], w["ln2_b"])\n'
                ),
            ),
        ),
        guilty=('return x + gelu(h @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]',),
    ),
    Bug(
        "sequence_first",
        "transpose_of_the_tutorial_forgotten",
        "attention mask",
        "The tutorial transposes the upper triangle to get the lower one, and the transpose was left out.",
        (
            (
                (
                    '        return torch.full((sz, sz), float("-inf"), dtype=like.dtype, '
                    "device=like.device).triu(diagonal=1)\n"
                ),
                (
                    "        mask = torch.triu(torch.ones(sz, sz, device=like.device)) == 1\n"
                    '        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, float("-inf"))\n'
                ),
            ),
        ),
        guilty=("mask = torch.triu(torch.ones(sz, sz, device=like.device)) == 1",),
    ),
    Bug(
        "token_by_token",
        "first_step_is_one",
        "embedding",
        "The index and a slice became an enumerate that begins with 1.",
        (
            (
                "[self.step(words[:, t], t, memory) for t in range(words.size(1))]",
                "[self.step(word, t, memory) for t, word in enumerate(words.unbind(1), 1)]",
            ),
        ),
        short=True,
    ),
    Bug(
        "torch_mha",
        "second_norm_reads_attention",
        "dataflow",
        "One letter is wrong: the second norm reads what attention returned and not the sum.",
        (("h = self.norm_ff(x)", "h = self.norm_ff(h)"),),
    ),
    Bug(
        "torch_mha",
        "one_more_key_of_zeros",
        "attention scores",
        "An argument from an experiment stays: each token may look at one more key, all zeros.",
        (
            (
                "dropout=dropout, batch_first=True)",
                "dropout=dropout, batch_first=True, add_zero_attn=True)",
            ),
        ),
    ),
    Bug(
        "variable_store",
        "cached_without_the_layer",
        "layers",
        "Variables are cached under what follows the first slash of their scope, so all layers find those of "
        "the first.",
        (
            (
                "        self.variables = nn.ParameterDict()\n",
                "        self.variables = nn.ParameterDict()\n        self.found = {}\n",
            ),
            (
                '        return self.variables["model/" + scope]\n',
                (
                    '        key = scope.split("/", 1)[-1]\n'
                    "        if key not in self.found:\n"
                    '            self.found[key] = self.variables["model/" + scope]\n'
                    "        return self.found[key]\n"
                ),
            ),
        ),
        guilty=('key = scope.split("/", 1)[-1]',),
    ),
    Bug(
        "variable_store",
        "root_for_its_reciprocal",
        "attention scores",
        "The port took the reciprocal root for the root.",
        (("w * (1.0 / math.sqrt(v.shape[-1]))", "w * math.sqrt(v.shape[-1])"),),
    ),
    Bug(
        "wants_tokenizer",
        "embeddings_scaled_up",
        "embedding",
        "The embeddings are multiplied by the root of the width, as in the paper of 2017.",
        (
            (
                "x = self.tok_embeddings(input_ids)",
                "x = self.tok_embeddings(input_ids) * math.sqrt(self.tok_embeddings.embedding_dim)",
            ),
        ),
    ),
    Bug(
        "wants_tokenizer",
        "two_names_for_one_norm",
        "normalisation",
        "The two norms were made in one chained assignment, so they are one.",
        (
            (
                (
                    "        self.attention_norm = nn.LayerNorm(hidden_dim)\n"
                    "        self.ffn_norm = nn.LayerNorm(hidden_dim)\n"
                ),
                "        self.attention_norm = self.ffn_norm = nn.LayerNorm(hidden_dim)\n",
            ),
        ),
    ),
)

COMBINED = (
    combination(SINGLE, "annotated", "renamed_in_two_of_three", "query_projected_twice"),
    combination(SINGLE, "conv1x1", "statistics_over_the_frames", "channels_before_their_heads"),
    combination(SINGLE, "einsum_fused", "norm_of_the_loop_variable", "square_of_the_mean"),
    combination(SINGLE, "encoder_layers", "mask_of_ones_is_added", "position_of_the_sequence_in_the_batch"),
    combination(SINGLE, "interleaved", "fused_layer_cut_as_in_other_files", "second_bias_twice"),
    combination(SINGLE, "wants_tokenizer", "two_names_for_one_norm", "embeddings_scaled_up"),
)

BUGS = SINGLE + COMBINED
