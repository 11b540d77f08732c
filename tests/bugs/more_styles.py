"""Bugs to build and tune with, in the styles of which `development` has none; and pairs of them.

Each is one edit, unless it says more.
"""

from tests.bugs import Bug, Edit


def _bug(
    style: str, name: str, kind: str, why: str, *edits: Edit, guilty: tuple[str, ...] = (), short: bool = False
) -> Bug:
    return Bug(style, name, kind, why, edits, guilty, short=short)


SINGLE = (
    # -- book
    _bug(
        "book",
        "gain_before_centring",
        "normalisation",
        "The gain multiplies the input instead of the centred input.",
        ("self.scale * (x - mean) / torch.sqrt", "(self.scale * x - mean) / torch.sqrt"),
    ),
    _bug(
        "book",
        "eps_default_of_config",
        "normalisation",
        "The blocks' epsilon defaults to 1e-6.",
        ('width, eps = cfg["emb_dim"], cfg.get("eps", 1e-5)', 'width, eps = cfg["emb_dim"], cfg.get("epsilon", 1e-6)'),
    ),
    _bug(
        "book",
        "mask_after_softmax",
        "attention mask",
        "Future weights are set to zero after the softmax, without renormalising.",
        (
            "return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)",
            "return torch.softmax(scores, dim=-1).masked_fill(future, 0.0)",
        ),
    ),
    _bug(
        "book",
        "scale_twice",
        "attention scores",
        "The queries are scaled, and the scores again.",
        (
            "queries = self.split_heads(self.W_query(x))",
            "queries = self.split_heads(self.W_query(x)) / math.sqrt(self.W_query.out_features // self.n_heads)",
        ),
    ),
    _bug(
        "book",
        "mask_sliced_from_the_end",
        "attention mask",
        "The mask's last rows are used instead of its first.",
        ("self.mask[:tokens, :tokens].bool()", "self.mask[-tokens:, :tokens].bool()"),
    ),
    _bug(
        "book",
        "norm2_on_attention_input",
        "dataflow",
        "The feed-forward layer reads the norm of a stale stream.",
        (
            (
                "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                "        return x + self.drop_shortcut(self.ff(self.norm2(x)))"
            ),
            (
                "        h = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                "        return h + self.drop_shortcut(self.ff(self.norm2(x)))"
            ),
        ),
        guilty=("        return h + self.drop_shortcut(self.ff(self.norm2(x)))",),
    ),
    _bug(
        "book",
        "shortcut_doubled",
        "residual",
        "The stream is added twice.",
        (
            "return x + self.drop_shortcut(self.ff(self.norm2(x)))",
            "return x + x + self.drop_shortcut(self.ff(self.norm2(x)))",
        ),
    ),
    _bug(
        "book",
        "gelu_sqrt_of_pi_by_two",
        "activation",
        "The GELU's root has pi / 2.",
        ("math.sqrt(2 / math.pi)", "math.sqrt(math.pi / 2)"),
    ),
    _bug(
        "book",
        "no_final_norm",
        "normalisation",
        "The final norm is left out.",
        ("return self.out_head(self.final_norm(x))", "return self.out_head(x)"),
    ),
    _bug(
        "book",
        "drop_rate_as_epsilon",
        "normalisation",
        "The final norm is built with the drop rate as its epsilon; the other norms have the default.",
        ('width, eps = cfg["emb_dim"], cfg.get("eps", 1e-5)', 'width = cfg["emb_dim"]'),
        ("self.norm1 = LayerNorm(width, eps)", "self.norm1 = LayerNorm(width)"),
        ("self.norm2 = LayerNorm(width, eps)", "self.norm2 = LayerNorm(width)"),
        ('LayerNorm(cfg["emb_dim"], cfg.get("eps", 1e-5))', 'LayerNorm(cfg["emb_dim"], cfg["drop_rate"])'),
        guilty=('self.final_norm = LayerNorm(cfg["emb_dim"], cfg["drop_rate"])',),
    ),
    _bug(
        "book",
        "epsilon_scaled_by_width",
        "normalisation",
        "The second norm of a block is built with an epsilon that grows with the width.",
        ("self.norm2 = LayerNorm(width, eps)", "self.norm2 = LayerNorm(width, eps * width)"),
    ),
    _bug(
        "book",
        "one_norm_for_both",
        "normalisation",
        "The two norms of a block are one object.",
        ("self.norm2 = LayerNorm(width, eps)", "self.norm2 = self.norm1"),
    ),
    _bug(
        "book",
        "highest_block_as_count",
        "layers",
        "The index of the last block is taken for the number of blocks.",
        ('for _ in range(cfg["n_layers"])])', 'for _ in range(cfg["n_layers"] - 1)])'),
    ),
    _bug(
        "book",
        "one_block_less_by_name",
        "layers",
        "The number of blocks is the index of the last one, by a name of its own.",
        (
            '        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])',
            (
                '        last = cfg["n_layers"] - 1\n'
                "        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(last)])"
            ),
        ),
        guilty=('last = cfg["n_layers"] - 1',),
    ),
    # -- book_fused
    _bug(
        "book_fused",
        "not_causal",
        "attention mask",
        "The fused attention is not told to be causal.",
        (", dropout_p=rate, is_causal=True)", ", dropout_p=rate)"),
    ),
    _bug(
        "book_fused",
        "heads_and_width_exchanged",
        "heads",
        "The fused projection is viewed with the width of a head before the heads.",
        (
            "view(batch, tokens, 3, self.n_heads, width // self.n_heads)",
            "view(batch, tokens, 3, width // self.n_heads, self.n_heads).transpose(-1, -2)",
        ),
    ),
    _bug(
        "book_fused",
        "qkv_per_head",
        "heads",
        "The fused projection is viewed with the heads outside of q, k and v.",
        (
            "view(batch, tokens, 3, self.n_heads, width // self.n_heads)",
            "view(batch, tokens, self.n_heads, 3, width // self.n_heads).transpose(2, 3)",
        ),
    ),
    _bug(
        "book_fused",
        "erf",
        "activation",
        "torch's default GELU.",
        ('nn.GELU(approximate="tanh")', "nn.GELU()"),
    ),
    _bug(
        "book_fused",
        "norms_exchanged",
        "normalisation",
        "The two norms of a block are exchanged.",
        (
            (
                "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                "        return x + self.drop_shortcut(self.ff(self.norm2(x)))"
            ),
            (
                "        x = x + self.drop_shortcut(self.att(self.norm2(x)))\n"
                "        return x + self.drop_shortcut(self.ff(self.norm1(x)))"
            ),
        ),
    ),
    _bug(
        "book_fused",
        "embedding_scaled",
        "embedding",
        "Token embeddings are multiplied by the root of the width, as in the first transformer.",
        (
            "self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))",
            "self.drop_emb(self.tok_emb(in_idx) * self.tok_emb.embedding_dim**0.5 + self.pos_emb(positions))",
        ),
    ),
    _bug(
        "book_fused",
        "parallel_block",
        "residual",
        "Attention and feed-forward both read the block's input, as in GPT-J.",
        (
            (
                "        x = x + self.drop_shortcut(self.att(self.norm1(x)))\n"
                "        return x + self.drop_shortcut(self.ff(self.norm2(x)))"
            ),
            "        return x + self.att(self.norm1(x)) + self.ff(self.norm2(x))",
        ),
    ),
    _bug(
        "book_fused",
        "merge_without_transpose",
        "heads",
        "Heads are merged without going back to tokens first.",
        ("context.transpose(1, 2).reshape(batch, tokens, width)", "context.reshape(batch, tokens, width)"),
    ),
    # -- nanogpt
    _bug(
        "nanogpt",
        "gelu_none",
        "activation",
        "The GELU is the exact one.",
        ("nn.GELU(approximate=config.gelu)", 'nn.GELU(approximate="none")'),
    ),
    _bug(
        "nanogpt",
        "eps_default",
        "normalisation",
        "The norm's epsilon is not handed on, and is 1e-6 by default.",
        (
            "return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)",
            "return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)",
        ),
    ),
    _bug(
        "nanogpt",
        "norm_without_bias",
        "normalisation",
        "The norm's bias is not used.",
        (
            "return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)",
            "return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps)",
        ),
    ),
    _bug(
        "nanogpt",
        "order_kqv",
        "projection",
        "The thirds of the fused projection are unpacked in another order.",
        ("q, k, v = (y.view", "k, q, v = (y.view"),
    ),
    _bug(
        "nanogpt",
        "positions_descending",
        "embedding",
        "Positions count down.",
        (
            "torch.arange(idx.shape[1], device=idx.device)",
            "torch.arange(idx.shape[1] - 1, -1, -1, device=idx.device)",
        ),
    ),
    _bug(
        "nanogpt",
        "post_norm",
        "normalisation",
        "The blocks are post-norm.",
        (
            "        x = x + self.attn(self.ln_1(x))\n        return x + self.mlp(self.ln_2(x))",
            "        x = self.ln_1(x + self.attn(x))\n        return self.ln_2(x + self.mlp(x))",
        ),
    ),
    _bug(
        "nanogpt",
        "first_block_repeated",
        "layers",
        "The first block is run again and again.",
        ("            x = block(x)\n", '            x = net["h"][0](x)\n'),
    ),
    # -- mingpt
    _bug(
        "mingpt",
        "scale_by_heads",
        "attention scores",
        "Scores are scaled by the number of heads.",
        ("(1.0 / math.sqrt(k.size(-1)))", "(1.0 / math.sqrt(k.size(1)))"),
    ),
    _bug(
        "mingpt",
        "mask_inverted",
        "attention mask",
        "The mask hides what may be seen.",
        ("self.bias[:, :, :t, :t] == 0", "self.bias[:, :, :t, :t] == 1"),
    ),
    _bug(
        "mingpt",
        "mask_after_softmax",
        "attention mask",
        "The mask is applied to the weights, not to the scores.",
        (
            (
                'att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))\n'
                "        y = self.attn_dropout(att.softmax(dim=-1)) @ v"
            ),
            (
                "att = att.softmax(dim=-1)\n"
                "        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, 0.0)\n"
                "        y = self.attn_dropout(att) @ v"
            ),
        ),
    ),
    _bug(
        "mingpt",
        "gelu_power_two",
        "activation",
        "The GELU's cube is a square.",
        ("torch.pow(x, 3.0)", "torch.pow(x, 2.0)"),
    ),
    _bug(
        "mingpt",
        "activation_left_out",
        "activation",
        "No activation between the linear layers.",
        ('mlp["c_proj"](mlp["act"](mlp["c_fc"](x)))', 'mlp["c_proj"](mlp["c_fc"](x))'),
    ),
    _bug(
        "mingpt",
        "ln_f_before_blocks",
        "dataflow",
        "The final norm is applied before the blocks, not behind them.",
        (
            '        for block in net["h"]:\n            x = block(x)\n        logits = self.lm_head(net["ln_f"](x))',
            (
                '        x = net["ln_f"](x)\n        for block in net["h"]:\n            x = block(x)\n'
                "        logits = self.lm_head(x)"
            ),
        ),
    ),
    _bug(
        "mingpt",
        "softmax_over_queries",
        "softmax",
        "The softmax runs over the queries.",
        ("att.softmax(dim=-1)", "att.softmax(dim=-2)"),
    ),
    # -- parallel_heads
    _bug(
        "parallel_heads",
        "value_weights_of_keys",
        "projection",
        "Values are computed with the keys' weight.",
        ("x, self.W_V) + self.b_V", "x, self.W_K) + self.b_V"),
    ),
    _bug(
        "parallel_heads",
        "value_bias_of_keys",
        "projection",
        "Values get the keys' bias.",
        ("x, self.W_V) + self.b_V", "x, self.W_V) + self.b_K"),
    ),
    _bug(
        "parallel_heads",
        "einsum_keys_and_queries",
        "attention scores",
        "The letters of queries and keys are exchanged in the result.",
        ('einsum("bqhd,bkhd->bhqk", q, k)', 'einsum("bqhd,bkhd->bhkq", q, k)'),
    ),
    _bug(
        "parallel_heads",
        "variance_not_centred",
        "normalisation",
        "The deviation is of the input, not of the centred input.",
        ("        x = x - x.mean(-1, keepdim=True)\n", "        centred = x - x.mean(-1, keepdim=True)\n"),
        ("return x / scale * self.w + self.b", "return centred / scale * self.w + self.b"),
        guilty=("scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()",),
    ),
    _bug(
        "parallel_heads",
        "output_bias_missing",
        "projection",
        "Attention's output has no bias.",
        ('einsum("bqhd,hde->bqe", z, self.W_O) + self.b_O', 'einsum("bqhd,hde->bqe", z, self.W_O)'),
    ),
    _bug(
        "parallel_heads",
        "ignore_is_small",
        "attention mask",
        "Hidden scores are set to -1.",
        ("torch.tensor(-torch.inf)", "torch.tensor(-1.0)"),
    ),
    _bug(
        "parallel_heads",
        "positions_summed_twice",
        "embedding",
        "Positions are added twice.",
        (
            "x = self.embed(tokens) + self.pos_embed(tokens)",
            "x = self.embed(tokens) + self.pos_embed(tokens) + self.pos_embed(tokens)",
        ),
    ),
    # -- functional
    _bug(
        "functional",
        "ln_2_weights_of_ln_1",
        "normalisation",
        "The second norm gets the first norm's weights.",
        ('**params["ln_2"], eps=eps), **params["mlp"]', '**params["ln_1"], eps=eps), **params["mlp"]'),
    ),
    _bug(
        "functional",
        "eps_default",
        "normalisation",
        "The function's epsilon is 1e-8 by default.",
        ("eps: float = 1e-5) -> Tensor", "eps: float = 1e-8) -> Tensor"),
    ),
    _bug(
        "functional",
        "linear_transposed_bias",
        "linear",
        "The linear layer subtracts its bias.",
        ("return x @ w + b", "return x @ w - b"),
    ),
    _bug(
        "functional",
        "heads_before_three",
        "heads",
        "The fused projection is unflattened with the heads first.",
        ("linear(x, **c_attn).unflatten(-1, (3, n_head, -1))", "linear(x, **c_attn).unflatten(-1, (n_head, 3, -1))"),
        ("qkv.movedim(2, 0).transpose(2, 3)", "qkv.movedim(3, 0).transpose(2, 3)"),
        guilty=("(n_head, 3, -1))",),
    ),
    _bug(
        "functional",
        "mask_moved",
        "attention mask",
        "Each query sees one key too many.",
        ("device=q.device).tril()", "device=q.device).tril(1)"),
    ),
    _bug(
        "functional",
        "position_table_whole_row",
        "embedding",
        "All tokens get the position of the last one.",
        ('params["wpe"][: ids.shape[1]]', 'params["wpe"][ids.shape[1] - 1]'),
    ),
    _bug(
        "functional",
        "c_fc_used_twice",
        "linear",
        "The output projection of the feed-forward layer lacks its bias.",
        ("return linear(gelu(linear(x, **c_fc)), **c_proj)", 'return gelu(linear(x, **c_fc)) @ c_proj["w"]'),
    ),
    # -- numpy_gpt2
    _bug(
        "numpy_gpt2",
        "scale_missing",
        "attention scores",
        "Scores are not scaled.",
        ("return q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])", "return q @ k.swapaxes(-1, -2)"),
    ),
    _bug(
        "numpy_gpt2",
        "odds_not_normalised_by_row",
        "softmax",
        "Exponentials are divided by the sum of a column.",
        ("odds / odds.sum(-1, keepdims=True)", "odds / odds.sum(-2, keepdims=True)"),
    ),
    _bug(
        "numpy_gpt2",
        "tri_moved",
        "attention mask",
        "Queries do not see their own keys, except the first.",
        ("np.tri(*scores.shape[-2:], dtype=bool)", "np.tri(*scores.shape[-2:], k=1, dtype=bool)"),
    ),
    _bug(
        "numpy_gpt2",
        "ln_1_for_both",
        "normalisation",
        "The first norm's weights are used for both norms.",
        ('attention(h + ".attn"), norm(h + ".ln_2")', 'attention(h + ".attn"), norm(h + ".ln_1")'),
    ),
    _bug(
        "numpy_gpt2",
        "split_first",
        "projection",
        "Queries and values are exchanged.",
        ("q, k, v = (use.split_heads", "v, k, q = (use.split_heads"),
    ),
    _bug(
        "numpy_gpt2",
        "eps_inside_nothing",
        "normalisation",
        "Epsilon is added to the deviation.",
        ("np.sqrt(x.var(-1, keepdims=True) + eps)", "(np.sqrt(x.var(-1, keepdims=True)) + eps)"),
    ),
    # -- encoder_layers
    _bug(
        "encoder_layers",
        "post_norm",
        "normalisation",
        "torch's layer is post-norm by default.",
        ("            norm_first=True,\n", ""),
        guilty=("layer = nn.TransformerEncoderLayer(",),
    ),
    _bug(
        "encoder_layers",
        "relu",
        "activation",
        "torch's layer has a ReLU by default.",
        ('            activation=partial(F.gelu, approximate="tanh"),\n', ""),
        guilty=("layer = nn.TransformerEncoderLayer(",),
    ),
    _bug(
        "encoder_layers",
        "mask_not_given",
        "attention mask",
        "The mask is not handed to the encoder.",
        ("x = self.encoder(x, mask=mask)", "x = self.encoder(x)"),
    ),
    _bug(
        "encoder_layers",
        "eps",
        "normalisation",
        "The final norm's epsilon is 1e-6.",
        ("norm=nn.LayerNorm(args.d_model, eps=1e-5)", "norm=nn.LayerNorm(args.d_model, eps=1e-6)"),
    ),
    _bug(
        "encoder_layers",
        "post_norm_given",
        "normalisation",
        "Torch's layer is told to be post-norm.",
        ("norm_first=True,", "norm_first=False,"),
    ),
    _bug(
        "encoder_layers",
        "epsilon_of_layer",
        "normalisation",
        "The layer's epsilon is 1e-6.",
        ("layer_norm_eps=1e-5,", "layer_norm_eps=1e-6,"),
    ),
    _bug(
        "encoder_layers",
        "one_layer_less",
        "layers",
        "The encoder has one layer less.",
        ("num_layers=args.num_layers,", "num_layers=args.num_layers - 1,"),
    ),
    # -- sequence_first
    _bug(
        "sequence_first",
        "mask_missing_diagonal",
        "attention mask",
        "The mask begins two above the diagonal.",
        ("triu(diagonal=1)", "triu(diagonal=2)"),
    ),
    _bug(
        "sequence_first",
        "scale_and_mask_alpha",
        "attention scores",
        "Scores are scaled twice, once in the product.",
        (
            "torch.baddbmm(src_mask, q, k.transpose(1, 2))",
            "torch.baddbmm(src_mask, q, k.transpose(1, 2), alpha=self.head_dim**-0.5)",
        ),
    ),
    _bug(
        "sequence_first",
        "positions_along_batch",
        "embedding",
        "Positions are added along the batch.",
        ("self.pos_encoder(positions).unsqueeze(1)", "self.pos_encoder(positions)[: src.size(1)]"),
    ),
    _bug(
        "sequence_first",
        "no_second_residual",
        "residual",
        "The feed-forward layer's shortcut is missing.",
        ("src = src + self.dropout2(src2)", "src = self.dropout2(src2)"),
    ),
    _bug(
        "sequence_first",
        "merge_wrong",
        "heads",
        "Heads are merged without moving the tokens to the front.",
        ("out.transpose(0, 1).reshape(seq_len, bsz, ninp)", "out.reshape(seq_len, bsz, ninp)"),
    ),
    _bug(
        "sequence_first",
        "norm_of_attention_output",
        "dataflow",
        "The feed-forward layer reads attention's output instead of the stream.",
        ("self.linear1(self.norm2(src))", "self.linear1(self.norm2(src2))"),
    ),
    # -- needs_targets
    _bug(
        "needs_targets",
        "values_first",
        "projection",
        "The halves of keys and values are exchanged.",
        ("k, v = torch.chunk(self.to_kv(x), 2, dim=-1)", "v, k = torch.chunk(self.to_kv(x), 2, dim=-1)"),
    ),
    _bug(
        "needs_targets",
        "sum_over_heads",
        "softmax",
        "Exponentials are divided by their sum over the heads.",
        ("att = att / att.sum(dim=-1, keepdim=True)", "att = att / att.sum(dim=1, keepdim=True)"),
    ),
    _bug(
        "needs_targets",
        "scale_by_width",
        "attention scores",
        "Scores are scaled by the model's width.",
        ("math.sqrt(per_head)", "math.sqrt(dim)"),
    ),
    _bug(
        "needs_targets",
        "mask_not_turned",
        "attention mask",
        "The mask is not negated.",
        ("att.masked_fill(~mask,", "att.masked_fill(mask,"),
    ),
    _bug(
        "needs_targets",
        "queries_from_stream",
        "projection",
        "Keys and values are made of queries.",
        (
            "        k, v = torch.chunk(self.to_kv(x), 2, dim=-1)\n        q = self.to_q(x)\n",
            "        q = self.to_q(x)\n        k, v = torch.chunk(self.to_kv(q), 2, dim=-1)\n",
        ),
    ),
    # -- padded_context
    _bug(
        "padded_context",
        "padded_left",
        "embedding",
        "Prompts are padded on the left.",
        ("F.pad(ids, (0, self.max_len - length))", "F.pad(ids, (self.max_len - length, 0))"),
    ),
    _bug(
        "padded_context",
        "scale_forgotten",
        "attention scores",
        "Scores are scaled by d instead of the root.",
        ("/ math.sqrt(d / h)", "/ (d / h)"),
    ),
    _bug(
        "padded_context",
        "norm_before_contract",
        "residual",
        "The feed-forward layer's shortcut starts behind the norm.",
        (
            'return self.contract(F.gelu(self.expand(self.ln_b(x)), approximate="tanh")) + x',
            'y = self.ln_b(x)\n        return self.contract(F.gelu(self.expand(y), approximate="tanh")) + y',
        ),
    ),
    _bug(
        "padded_context",
        "mask_triu_zero",
        "attention mask",
        "Queries do not see their own keys.",
        ('float("-inf")).triu(1)', "-1e9).triu(0)"),
    ),
    # -- head_sum
    _bug(
        "head_sum",
        "wrong_columns",
        "heads",
        "Values are taken from the keys' columns of the next head.",
        ("v = resid @ W_V[:, cols] + B_V[cols]", "v = resid @ W_V[:, cols] + B_K[cols]"),
    ),
    _bug(
        "head_sum",
        "bias_for_each_head",
        "projection",
        "The output's bias is added once for each head.",
        ("out = out + self.head_result(resid, head)", "out = out + self.head_result(resid, head) + self.B_O"),
    ),
    _bug(
        "head_sum",
        "score_transposed",
        "attention scores",
        "Keys by queries.",
        ("score = q @ k.mT / np.sqrt(self.d_head)", "score = k @ q.mT / np.sqrt(self.d_head)"),
    ),
    _bug(
        "head_sum",
        "mlp_norm_of_attention",
        "normalisation",
        "The feed-forward layer uses the norm before attention.",
        ("self.mlp[i](self.ln_before_mlp[i](resid))", "self.mlp[i](self.ln_before_attention[i](resid))"),
    ),
    _bug(
        "head_sum",
        "last_head_missing",
        "heads",
        "The last head is left out.",
        ("for head in range(self.n_heads):", "for head in range(self.n_heads - 1):"),
    ),
    # -- one_norm_tensor
    _bug(
        "one_norm_tensor",
        "shift_and_gain",
        "normalisation",
        "Gain and shift are unpacked in the wrong order.",
        ("gain, shift = gain_and_shift", "shift, gain = gain_and_shift"),
    ),
    _bug(
        "one_norm_tensor",
        "first_norm_twice",
        "normalisation",
        "The second norm uses the first one's weights.",
        (
            "self.feed_forward(self.norm(x, self.norms[layer, 1]), layer)",
            "self.feed_forward(self.norm(x, self.norms[layer, 0]), layer)",
        ),
    ),
    _bug(
        "one_norm_tensor",
        "layer_before",
        "layers",
        "Each layer's feed-forward layer is that of the layer before.",
        ("up, down = self.mlp[layer]", "up, down = self.mlp[layer - 1]"),
    ),
    _bug(
        "one_norm_tensor",
        "unbind_order",
        "projection",
        "Keys and values are exchanged.",
        ("q, k, v = y.transpose(1, 2).unbind(-1)", "q, v, k = y.transpose(1, 2).unbind(-1)"),
    ),
    _bug(
        "one_norm_tensor",
        "position_offset",
        "embedding",
        "The table of positions begins one row too late.",
        ("positions[: ids.shape[1]]", "positions[1 : ids.shape[1] + 1]"),
        short=True,
    ),
    # -- wants_tokenizer
    _bug(
        "wants_tokenizer",
        "bias_positive",
        "attention mask",
        "The mask's bias is subtracted.",
        ("scores = scores + bias", "scores = scores - bias.clamp(min=-1e9)"),
    ),
    _bug(
        "wants_tokenizer",
        "residual_of_normed",
        "residual",
        "The attention's shortcut starts behind the norm.",
        (
            "h = x + self.attention(self.attention_norm(x), bias)",
            "x = self.attention_norm(x)\n        h = x + self.attention(x, bias)",
        ),
    ),
    _bug(
        "wants_tokenizer",
        "stale_stream",
        "dataflow",
        "The feed-forward layer's output is added to the block's input.",
        ("return h + self.feed_forward(self.ffn_norm(h))", "return x + self.feed_forward(self.ffn_norm(h))"),
    ),
    _bug(
        "wants_tokenizer",
        "softmax_twice",
        "softmax",
        "The softmax is taken twice.",
        (
            "scores = nn.functional.softmax(scores, dim=-1)",
            "scores = nn.functional.softmax(nn.functional.softmax(scores, dim=-1), dim=-1)",
        ),
    ),
    _bug(
        "wants_tokenizer",
        "one_block_too_few",
        "layers",
        "The last block is skipped.",
        ("for block in self.blocks:", "for block in self.blocks[:-1]:"),
    ),
    _bug(
        "wants_tokenizer",
        "output_before_norm",
        "head",
        "The head reads the stream without the final norm.",
        ("logits = self.output(self.norm(x))", "logits = self.output(x)"),
    ),
    # -- hparams
    _bug(
        "hparams",
        "one_block_less_in_forward",
        "layers",
        "The run over the blocks leaves out the last one.",
        (
            '        for i in range(self.hparams["num_layers"]):\n            block =',
            '        for i in range(self.hparams["num_layers"] - 1):\n            block =',
        ),
        guilty=('for i in range(self.hparams["num_layers"] - 1):',),
    ),
    # -- scan_stack
    _bug(
        "scan_stack",
        "shift_of_first_norm_over_lines",
        "normalisation",
        "The second norm has the first one's shift, in a call of several lines.",
        (
            'h = layer_norm(x, w["ln2_g"], w["ln2_b"])',
            'h = layer_norm(\n            x,\n            w["ln2_g"],\n            w["ln1_b"],\n        )',
        ),
        guilty=('            w["ln1_b"],',),
    ),
    # -- a second look at several styles
    _bug(
        "book",
        "variance_of_tokens",
        "normalisation",
        "The variance is taken over the tokens.",
        ("var = x.var(dim=-1,", "var = x.var(dim=1,"),
    ),
    _bug(
        "book",
        "eps_in_numerator",
        "normalisation",
        "Epsilon is added to the centred input.",
        (
            "self.scale * (x - mean) / torch.sqrt(var + self.eps)",
            "self.scale * (x - mean + self.eps) / torch.sqrt(var)",
        ),
    ),
    _bug(
        "book",
        "heads_not_split",
        "heads",
        "Heads are split without moving them in front of the tokens.",
        (
            "x.view(batch, tokens, self.n_heads, width // self.n_heads).transpose(1, 2)",
            "x.view(batch, self.n_heads, tokens, width // self.n_heads)",
        ),
    ),
    _bug(
        "book",
        "shift_twice",
        "normalisation",
        "The shift is added twice.",
        ("torch.sqrt(var + self.eps) + self.shift", "torch.sqrt(var + self.eps) + self.shift + self.shift"),
    ),
    _bug(
        "nanogpt",
        "c_proj_before_gelu",
        "linear",
        "The activation comes behind the second linear layer.",
        ("self.c_proj(self.gelu(self.c_fc(x)))", "self.gelu(self.c_proj(self.c_fc(x)))"),
    ),
    _bug(
        "nanogpt",
        "scale_argument",
        "attention scores",
        "The fused attention is given a scale of its own.",
        ("dropout_p=rate, is_causal=True)", "dropout_p=rate, is_causal=True, scale=1.0 / self.n_head)"),
    ),
    _bug(
        "nanogpt",
        "residual_from_norm",
        "residual",
        "The feed-forward layer's shortcut starts behind the norm.",
        ("return x + self.mlp(self.ln_2(x))", "return self.ln_2(x) + self.mlp(self.ln_2(x))"),
    ),
    _bug(
        "functional",
        "attention_keys_for_values",
        "projection",
        "Keys are averaged instead of values.",
        ("return linear(attention(q, k, v)", "return linear(attention(q, k, k)"),
    ),
    _bug(
        "functional",
        "gelu_tanh_to_sigmoid",
        "activation",
        "The sigmoid approximation of the GELU.",
        (
            "return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))",
            "return x * torch.sigmoid(1.702 * x)",
        ),
    ),
    _bug(
        "functional",
        "blocks_reversed",
        "layers",
        "The blocks run in reverse.",
        ('for block_params in params["blocks"]:', 'for block_params in reversed(params["blocks"]):'),
    ),
    _bug(
        "numpy_gpt2",
        "mlp_without_first_bias",
        "linear",
        "The linear layers inside blocks have no bias.",
        ('return x @ w[name + ".weight"] + w[name + ".bias"]', 'return x @ w[name + ".weight"]'),
    ),
    _bug(
        "numpy_gpt2",
        "positions_not_sliced_from_zero",
        "embedding",
        "The positions are the last ones.",
        ('w["wpe.weight"][: ids.shape[1]]', 'w["wpe.weight"][-ids.shape[1] :]'),
    ),
    _bug(
        "numpy_gpt2",
        "softmax_without_exp",
        "softmax",
        "Odds are squares instead of exponentials.",
        (
            "odds = np.exp(scores - scores.max(-1, keepdims=True))",
            "odds = np.where(np.isinf(scores), 0.0, scores) ** 2",
        ),
    ),
    _bug(
        "sequence_first",
        "norm_of_first_for_second",
        "normalisation",
        "The first norm is used twice.",
        ("self.linear1(self.norm2(src))", "self.linear1(self.norm1(src))"),
    ),
    _bug(
        "sequence_first",
        "heads_view_wrong",
        "heads",
        "Values are viewed with the width of a head outside.",
        (
            "v = v.reshape(seq_len, bsz * self.nhead, self.head_dim).transpose(0, 1)",
            "v = v.reshape(seq_len, self.head_dim, bsz * self.nhead).permute(2, 0, 1)",
        ),
    ),
    _bug(
        "needs_targets",
        "no_final_norm",
        "normalisation",
        "The final norm is left out.",
        ("logits = self.norm_out(x) @ self.token_emb.weight.t()", "logits = x @ self.token_emb.weight.t()"),
    ),
    _bug(
        "needs_targets",
        "max_not_subtracted_from_masked",
        "softmax",
        "Exponentials are of the base two.",
        ("        att = att.exp()\n", "        att = torch.exp2(att)\n"),
    ),
    _bug(
        "one_norm_tensor",
        "norms_swapped_index",
        "normalisation",
        "Norms are indexed with the axes exchanged.",
        ("self.norm(x, self.norms[layer, 0])", "self.norm(x, self.norms[0, 0])"),
    ),
    _bug(
        "one_norm_tensor",
        "view_three_first",
        "heads",
        "The alternating parts are viewed as thirds.",
        (
            "view(batch, length, self.n_head, self.d_head, 3)",
            "view(batch, length, 3, self.n_head, self.d_head).permute(0, 1, 3, 4, 2)",
        ),
    ),
    _bug(
        "wants_tokenizer",
        "values_from_wk",
        "projection",
        "Values are made by the layer of the keys.",
        ("xv = self.wv(x).view", "xv = self.wk(x).view"),
    ),
    _bug(
        "wants_tokenizer",
        "scale_on_output",
        "attention scores",
        "The weights are scaled instead of the scores.",
        (
            "scores = torch.matmul(xq, xk.transpose(2, 3)) / math.sqrt(self.head_dim)",
            "scores = torch.matmul(xq, xk.transpose(2, 3))",
        ),
        (
            "output = torch.matmul(scores, xv).transpose(1, 2)",
            "output = torch.matmul(scores / math.sqrt(self.head_dim), xv).transpose(1, 2)",
        ),
        guilty=(
            "scores = torch.matmul(xq, xk.transpose(2, 3))",
            "output = torch.matmul(scores / math.sqrt(self.head_dim), xv).transpose(1, 2)",
        ),
    ),
    _bug(
        "head_sum",
        "offset_missing",
        "linear",
        "The feed-forward layer's last bias is missing.",
        ("return post @ self.write + self.offset", "return post @ self.write"),
    ),
    _bug(
        "parallel_heads",
        "bias_before_sum",
        "projection",
        "The output's bias is added before the activation's norm.",
        ("return x / scale * self.w + self.b", "return (x + self.b) / scale * self.w"),
    ),
    _bug(
        "mingpt",
        "wpe_of_ids",
        "embedding",
        "Positions are looked up in the token table.",
        ('net["wte"](idx) + net["wpe"](torch', 'net["wte"](idx) + net["wte"](torch'),
    ),
)


def _both(style: str, one: str, other: str) -> Bug:
    found = {bug.name: bug for bug in SINGLE if bug.style == style}
    first, second = found[one], found[other]
    why = f"{first.why} {second.why}"
    guilty = (*first.guilty, *second.guilty) if first.guilty and second.guilty else ()
    return Bug(style, f"{one}_and_{other}", "several", why, (*first.edits, *second.edits), guilty, (one, other))


COMBINED = (
    _both("book", "gelu_sqrt_of_pi_by_two", "no_final_norm"),
    _both("book", "mask_after_softmax", "scale_twice"),
    _both("book_fused", "erf", "parallel_block"),
    _both("book_fused", "not_causal", "merge_without_transpose"),
    _both("nanogpt", "order_kqv", "norm_without_bias"),
    _both("nanogpt", "gelu_none", "positions_descending"),
    _both("mingpt", "scale_by_heads", "gelu_power_two"),
    _both("mingpt", "softmax_over_queries", "activation_left_out"),
    _both("parallel_heads", "value_bias_of_keys", "output_bias_missing"),
    _both("functional", "mask_moved", "linear_transposed_bias"),
    _both("functional", "eps_default", "position_table_whole_row"),
    _both("numpy_gpt2", "scale_missing", "eps_inside_nothing"),
    _both("sequence_first", "mask_missing_diagonal", "no_second_residual"),
    _both("needs_targets", "values_first", "scale_by_width"),
    _both("one_norm_tensor", "unbind_order", "first_norm_twice"),
    _both("wants_tokenizer", "stale_stream", "output_before_norm"),
)

BUGS = SINGLE + COMBINED
