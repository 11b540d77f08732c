"""The line that makes somebody's GPT-2 wrong is named; right code is never accused."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import load_into, open_checkpoint, verify
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.lines import Accusation, Finding, Line, accuse, prompts_for
from gpt2_from_scratch.diagnose.lines.own_code import own_code
from gpt2_from_scratch.diagnose.lines.values import values as values_of
from gpt2_from_scratch.layers import EXACT, EXACT_EAGER, FUSED, TEXTBOOK, Compute
from gpt2_from_scratch.recorder import Frame
from gpt2_from_scratch.reports import to_annotations, to_html
from gpt2_from_scratch.reports.pictures import panels
from tests.bugs import Bug, choices, held_out, later, more_styles, reserve, strangers_a, unseen, untouched
from tests.bugs.development import COMBINED, SINGLE
from tests.foreign import STYLES
from tests.perturbed import ours, perturbed, save

# A layer is recorded as often as there are layers; lines do not depend on how many. Slow tests have twelve.
SHALLOW = {"n_inner": None, "n_layer": 3}

# One bug of each sort of rule: these run by default. All of them run with `-m slow`.
SHORT = (
    "head_list/relu",  # a module of torch's: where it was built
    "head_list/mask_fill_zero",  # a constant
    "head_list/scale_by_model_width",  # a factor
    "head_list/positions_from_one",  # a constant tensor
    "head_list/feed_forward_not_normalised",  # a missing step
    "head_list/same_norm_twice",  # a stale value
    "head_list/query_key_swapped",  # another order
)


@pytest.fixture(scope="module")
def config() -> GPTConfig:
    return GPTConfig.from_hf(perturbed(**SHALLOW).config.to_dict())


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return tensors_of(perturbed(**SHALLOW))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name.removeprefix("transformer."): each for name, each in state.items() if name != "lm_head.weight"}


@pytest.fixture(scope="module")
def shallow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(perturbed(**SHALLOW), tmp_path_factory.mktemp("shallow"))


def accused(style: str, model: object, config: GPTConfig, tensors: dict[str, Tensor]) -> Accusation:
    call = STYLES[style].logits
    return accuse(model, config, tensors, call=lambda ids: call(model, ids), seconds=600)  # type: ignore[arg-type]


# Right code with values that GPT-2 does not have, so no name is known for them. A style that comes to be known leaves.
NOT_ALL_KNOWN = {
    "token_by_token": "keys and values of the first few tokens, scores of one query at a time",
}


@pytest.mark.parametrize(
    "style",
    [style if turn % 4 == 0 else pytest.param(style, marks=pytest.mark.slow) for turn, style in enumerate(STYLES)],
)
def test_right_code_is_not_accused_and_its_operations_are_known(
    style: str, config: GPTConfig, tensors: dict[str, Tensor]
):
    if STYLES[style].fixed:
        deep = perturbed(n_inner=None)
        config, tensors = GPTConfig.from_hf(deep.config.to_dict()), tensors_of(deep)
    found = accused(style, STYLES[style].load(tensors, config), config, tensors)
    assert found.status == "nothing wrong", str(found)
    assert (found.unknown > 0) == (style in NOT_ALL_KNOWN), f"{found.unknown} operations are unknown"
    assert found.operations > 10 * config.n_layer  # torch's own layers leave fewest


@pytest.mark.parametrize("compute", [TEXTBOOK, EXACT, EXACT_EAGER, FUSED], ids=str)
def test_our_own_model_is_not_accused(compute: Compute):
    reference = perturbed(n_layer=3)
    model = ours(reference, compute)
    found = accuse(model, model.config, dict(model.named_parameters()))
    assert (found.status, found.unknown) == ("nothing wrong", 0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_is_not_accused(attention: str):
    reference = perturbed(attention=attention, n_layer=3)
    config = GPTConfig.from_hf(reference.config.to_dict())
    weights = {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items()}
    found = accuse(reference, config, weights)
    assert (found.status, found.unknown) == ("nothing wrong", 0)


@pytest.mark.parametrize("style", ["book", "mingpt"])
def test_constants_in_float32_are_not_accused(
    style: str, config: GPTConfig, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
):
    model = STYLES[style].load(tensors, config)
    rounded = torch.tensor(0.044715)  # float32, made before the recording

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x * (1.0 + torch.tanh(torch.tensor(0.7978845608) * (x + rounded * x**3)))

    for module in list(model.modules()):
        for name, child in module.named_children():
            if "GELU" in type(child).__name__:
                setattr(module, name, Rounded())
    found = accused(style, model, config, tensors)
    assert found.status == "nothing wrong", str(found)


def names_it(found: Accusation, bug: Bug) -> bool:
    first = found.findings[0].lines[0] if found.findings else None
    return first is not None and Path(first.file).stem == bug.style and first.line in bug.lines


SMALL = GPTConfig(vocab_size=31, n_positions=17, n_embd=24, n_layer=2, n_head=3)
CALLS = {  # the rules that look at more than the operation's own line: a bug, and how many findings it has
    "numpy_gpt2/ln_1_for_both": 1,  # a function that was handed in
    "functional/eps_default": 1,  # a default
    "one_norm_tensor/layer_before": 1,  # a computed index
    "wants_tokenizer/one_block_too_few": 1,  # a loop
    "one_norm_tensor/position_offset": 1,  # supposed, not explained
    "head_list/one_head_many_times": 2,  # a list that is multiplied
    "head_sum/biases_in_another_order": 1,  # an unpacking
    "mingpt/result_of_the_layers_not_used": 1,  # a result that nothing takes
    "bert_names/tiny_instead_of_min": 1,  # the numbers of a mask that is added
    "pre_norm/largest_number_without_sign": 1,  # what a function returns
    "own_layers/sum_of_everything": 1,  # a step that was taken, wrongly
    "research_decoder/logits_of_the_last_inner_state": 1,  # the right value is there, and another is taken
    "token_by_token/whole_root": 1,  # keys of some tokens only
    "annotated/closure_reads_the_outer_stream": 1,  # a closure, where the right value is an argument
    "bert_names/mask_of_padding_only": 1,  # a mask without a pattern, and what is made of it
    "conv1x1/norms_unpacked_in_another_order": 1,  # names of a loop over several lists
    "hparams/feed_forward_outside_the_loop": 1,  # a step that is taken for the last block alone
    "pre_norm/both_layers_read_the_same": 1,  # weights are right, and what they are used on is not
    "research_decoder/times_instead_of_power": 1,  # a number that an attribute holds
    "wants_tokenizer/keys_made_of_the_queries": 1,  # no name holds the right value any more
    "wants_tokenizer/block_adds_already": 1,  # a sum of two streams
    "parallel_heads/newest_position_for_all": 1,  # one row for all
    "mingpt/early_return": 1,  # a return before the last step
    "needs_targets/norms_unpacked": 1,  # an unpacking of modules
    "numpy_gpt2/eps_squared": 1,  # the default of a function around the one that uses it
    "numpy_gpt2/last_generator": 1,  # a loop over computed names
    "own_layers/heads_shadow": 1,  # an operand twice, of which one is wrong
    "padded_context/gen_order": 1,  # a generator over names in another order
    "parallel_heads/ignore_is_zero": 1,  # what a buffer holds
    "annotated/embedding_with_a_largest_norm": 1,  # an argument of a module whose weights are right
    "bert_names/sizes_of_the_heads_exchanged": 2,  # a name that holds the sizes of a view
    "functional/activation_before_both_layers": 1,  # a function that is right, called where GPT-2 does not call it
    "jax_dict/closure_reshapes_the_input": 1,  # a function that never takes what it is given
    "nanogpt/feed_forward_adds_its_input": 1,  # a sum too many, in the same place as one of GPT-2's
    "parallel_heads/mean_of_all_squares": 1,  # one number for all rows, made a line before
    "torch_mha/norm_behind_attention": 2,  # a step that is missing, and what class owns its module
    "nanogpt/mean_stays_in": 1,  # the beginning of a step, left out by the operation
    "one_norm_tensor/positions_stand_first": 1,  # parts of a parameter that are no weights
    "german/reshaped_for_transposed": 1,  # numbers that are sizes, and no axes
    "jax_dict/one_position_for_all": 1,  # an index in the place of a slice
    "numbered_sequence/one_norm_made_before_the_loop": 1,  # one object in several places
    "token_by_token/layers_counted_for_tokens": 1,  # of two operands that do not fit, the one that was not tried first
    "einsum_fused/square_of_the_mean": 1,  # a number of a norm that GPT-2 does not need; in both norms their own one
    "jax_dict/heads_before_the_positions": 1,  # letters that move the axes of the values
    "mingpt/root_times_the_first_term": 1,  # a number of GPT-2's in its own place
    "numpy_gpt2/closures_over_the_last_name": 1,  # a name that a loop binds anew
    "one_hot/each_layer_reads_the_one_before": 1,  # an argument that a loop binds anew
    "numbered_sequence/second_norm_missing": 1,  # a part of a sequence that no class builds
    "pico/heads_split_before_the_three": 3,  # names in their usual order
}
WRITTEN_HERE = (
    (
        "book/a_second_activation",  # a module in a list that is called as a whole
        "GELU(), nn.Linear(4 * emb_dim, emb_dim))",
        "GELU(), nn.Linear(4 * emb_dim, emb_dim), GELU())",
    ),
    (
        "nanogpt/heads_in_the_last_axis",  # the right number of heads in a wrong place
        "(y.view(b, t, self.n_head, -1).transpose(1, 2) for y",
        "(y.view(b, t, -1, self.n_head).permute(0, 3, 1, 2) for y",
    ),
    (
        "wants_tokenizer/last_norm_in_the_loop",  # a value that is right for it too early
        "            x = block(x, bias)\n        logits = self.output(self.norm(x))",
        "            x = self.norm(block(x, bias))\n        logits = self.output(x)",
    ),
    (
        "pre_norm/feed_forward_first",  # names that say what they are
        "            x = attn(x) + x\n            x = ff(x) + x\n",
        "            x = ff(x) + x\n            x = attn(x) + x\n",
    ),
    (
        "head_list/last_norm_twice",  # of a step that is taken twice, the second time
        "        logits = self.lm_head(x)",
        "        logits = self.lm_head(self.ln_f(x))",
    ),
    (
        "numpy_gpt2/last_norm_of_a_block",  # an argument of the function that made the inner one
        'norm("ln_f")(x)',
        'norm(h + ".ln_2")(x)',
    ),
    (
        "research_decoder/an_earlier_state",  # another part was picked
        "        x = self.layer_norm(x)\n        x = x.transpose(0, 1)",
        "        x = inner_states[-2]\n        x = self.layer_norm(x)\n        x = x.transpose(0, 1)",
    ),
    (
        "bert_names/first_state_for_all",  # a value that a loop does not renew
        "layer_module(hidden_states, mask)",
        "layer_module(all_hidden_states[0], mask)",
    ),
    (
        "hparams/two_heads",  # both sizes of an axis that is split
        'h = self.hparams["num_heads"]',
        "h = 6",
    ),
    (
        "book/scores_over_the_root_of_the_tokens",  # a size that is right, used wrongly
        "scores.masked_fill(future, -torch.inf), dim",
        "scores.masked_fill(future, -torch.inf) / math.sqrt(tokens), dim",
    ),
    (
        "book/scaled_by_the_caller_too",  # a function that is right for what it should be given
        "self.attn_scores(queries, keys)",
        "self.attn_scores(queries / math.sqrt(queries.shape[-1]), keys)",
    ),
    (
        "jax_dict/another_scale_of_the_keys",  # of two factors, the one that is not GPT-2's
        'linear(x, params[f"{name}/key"]))',
        'linear(x, params[f"{name}/key"]) * d_model**-0.5)',
    ),
    (
        "conv1x1/lists_exchanged",  # names that count upwards
        "self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2",
        "self.attn_layers, self.norm_layers_2, self.ffn_layers, self.norm_layers_1",
    ),
    (
        "einsum_fused/norm_of_the_next_layer",  # a computed index, where the right weights are never taken
        "self.norms[2 * i + 1](x)",
        "self.norms[2 * i + 2](x)",
    ),
    (
        "sequence_first/names_of_the_chunks",  # a name that is made of itself
        "q, k, v = self.in_proj(src)",
        "v, k, q = self.in_proj(src)",
    ),
    (
        "nanogpt/without_biases",  # one field that all modules are given
        "    bias: bool = True",
        "    bias: bool = False",
    ),
    (
        "conv1d_port/keys_joined_behind_a_wrong_name",  # a name that is joined to itself in a line that is not run
        "key = self.split_heads(key, k=True)",
        "key = self.split_heads(value, k=True)",
    ),
    (
        "conv1x1/ones_for_the_scores",  # a name that is given something else
        "        scores = scores.masked_fill",
        "        scores = torch.ones_like(scores)\n        scores = scores.masked_fill",
    ),
    (
        "conv1x1/one_norm_in_both_lists",  # an object that is put into a second list
        "self.norm_layers_2.append(ChannelNorm(hidden_channels))",
        "self.norm_layers_2.append(self.norm_layers_1[-1])",
    ),
    (
        "pre_norm/wrapper_adds_too",  # one line that explains two sums too many
        "return self.fn(self.norm(x), **kwargs)",
        "return x + self.fn(self.norm(x), **kwargs)",
    ),
    (
        "research_decoder/activation_reads_the_residual",  # a name that is right in another line
        "F.gelu(self.fc1(x), ",
        "F.gelu(self.fc1(residual), ",
    ),
    (
        "scan_stack/the_second_layer_again",  # an index that a call computes
        "stacked[i] for",
        "stacked[min(i, 0)] for",
    ),
)


@pytest.mark.parametrize(
    "bug",
    [
        bug
        for each in (more_styles, held_out, unseen, untouched, choices, reserve, later, strangers_a)
        for bug in each.SINGLE
        if bug.id in CALLS
    ],
    ids=lambda bug: bug.id,
)
def test_lines_away_from_the_operation_are_named(bug: Bug, tmp_path: Path):
    found = accused_when_small(bug, tmp_path)
    assert names_it(found, bug), str(found)
    assert len(found.findings) == CALLS[bug.id]


@pytest.mark.parametrize(("name", "right", "wrong"), WRITTEN_HERE, ids=[name for name, _, _ in WRITTEN_HERE])
def test_what_a_reviewer_would_look_at_is_named(name: str, right: str, wrong: str, tmp_path: Path):
    style, _, rest = name.partition("/")
    bug = Bug(style, rest, "", "", ((right, wrong),))
    found = accused_when_small(bug, tmp_path)
    assert names_it(found, bug), str(found)


def accused_when_small(bug: Bug, folder: Path) -> Accusation:
    generator = torch.Generator().manual_seed(0)
    shapes = SMALL.tensor_shapes().items()
    drawn = {name: 0.3 * torch.randn(shape, generator=generator) + ("ln_" in name) for name, shape in shapes}
    return accused(bug.style, bug.load(drawn, SMALL, folder), SMALL, drawn)


HANDED_ON = (  # bugs on the way of a value from where it was made to where it is used, and other rules
    ("mingpt", 'mlp["dropout"](mlp["c_proj"](mlp["act"](mlp["c_fc"](x))))', "x"),  # a function gives what it was given
    ("annotated", "scores.softmax(dim=-1)", "scores"),  # a line only gives another name
    ("bert_names", "context_layer = context_layer.permute", "context_layer = key_layer.permute"),  # nothing reads it
    ("one_norm_tensor", "words[ids] + positions[: ids.shape[1]]", "words[ids]"),  # nothing reads the positions
    ("padded_context", "for _ in range(n_blocks)", "for _ in range(1, n_blocks)"),  # a list of blocks begins late
    ("pre_norm", "triu_(j - i + 1)", "triu_(j + i + 1)"),  # a mask that hides nothing, with the right number
    ("german", "torch.arange(nummern.size(1),", "torch.arange(1,"),  # one row for all
    ("interleaved", "y.permute(0, 2, 1, 3) for y", "y.permute(2, 0, 1, 3) for y"),  # prompts are not first from there
    ("head_sum", "self.attention[i](", "self.attention[-1]("),  # always the same block
    ("own_layers", "** 2).sum(-1", "** 2).mean(-1"),  # the size that it is divided by is right a line before
    ("pico", "q @ k.T / q.shape[-1] ** 0.5 + mask", "mask"),  # a constant where GPT-2 has a step
    ("torch_mha", "x = x + self.drop(h)", "x = x + self.norm_ff(h)"),  # a module that is right elsewhere
    # a step whose weights nothing takes
    ("numpy_gpt2", "x = x + attn(ln_1(x))\n    return x + mlp(ln_2(x))", "return mlp(ln_2(x)) + x"),
    ("conv1x1", "value = self.conv_v(x)", "value = self.conv_o(x)"),  # queries and keys are made already
    ("annotated", "if mask is not None:\n        scores", "if mask is None:\n        scores"),  # a line that is not run
    ("encoder_layers", "self.word_embeddings(tokens) + ", ""),  # what torch's own layer is given
    ("scan_stack", "q, k, v = qkv.unbind", "q, v, k = qkv.unbind"),  # names that are only moved a line later
    ("parallel_heads", "self.embed(tokens) + self.pos_embed(tokens)", "self.embed(tokens)"),  # what a part returned
    ("one_hot", "self.wide(self.std2(x))", "self.wide(self.mixer(x))"),  # weights that the block has taken before
    ("conv1x1", "for attn, norm_1, ffn, norm_2", "for attn, ffn, norm_1, norm_2"),  # one line explains all findings
    ("numpy_gpt2", "(use.split_heads(y, n_head) for", "(use.split_heads(x, n_head) for"),  # queries and keys together
    ("jax_dict", "np.sqrt(variance + 1e-5)", "np.sqrt(1e-5)"),  # a weight times a number
)


@pytest.mark.parametrize(("style", "old", "new"), HANDED_ON, ids=[f"{style}-{new}" for style, _, new in HANDED_ON])
def test_lines_that_hand_a_wrong_value_on_are_named(style: str, old: str, new: str, tmp_path: Path):
    bug = Bug(style, "handed_on", "dataflow", "", ((old, new),))
    found = accused_when_small(bug, tmp_path)
    assert names_it(found, bug), str(found)


def test_an_accusation_says_whether_it_is_proven():
    line = Line("gpt.py", 1, 0, "x", "made here", "", "")
    finding = Finding((line,), "value", "", "")
    assert "the logits are GPT-2's" in str(Accusation("named", (finding,), proven=True))
    assert "not proven" in str(Accusation("named", (finding,)))


@pytest.mark.parametrize("bug", [bug for bug in SINGLE if bug.id in SHORT], ids=lambda bug: bug.id)
def test_the_line_of_a_bug_is_named_and_proven(bug: Bug, config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path):
    found = accused(bug.style, bug.load(tensors, config, tmp_path), config, tensors)
    assert names_it(found, bug), str(found)
    assert found.proven


def test_the_numbers_of_an_accused_line_stand_beside_those_of_gpt2(
    config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path
):
    (bug,) = [bug for bug in SINGLE if bug.id == "head_list/mask_fill_zero"]
    found = accused(bug.style, bug.load(tensors, config, tmp_path), config, tensors)
    values = found.findings[0].values
    assert values is not None and values.frame is not None and "softmax" in values.frame.text
    batch, tokens = prompts_for(config).shape
    assert values.shape == (batch, tokens, tokens) and values.part.endswith(f", 0:{tokens}, 0:{tokens}]")
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    assert (values.yours[later] > 0).all() and not values.gpt2[later].any(), "GPT-2 does not look at later tokens"
    ones = torch.ones(tokens, dtype=torch.float64)
    torch.testing.assert_close(values.yours.sum(-1), ones)
    torch.testing.assert_close(values.gpt2.sum(-1), ones)
    drawn = panels(values)
    assert not drawn.hidden and drawn.scale == 1  # the first token looks at itself alone
    assert "c0" not in {colour for colour, _ in drawn.panels[0].paths}
    assert "c0" in {colour for colour, _ in drawn.panels[1].paths}


def test_what_no_function_of_the_users_calls_is_told_without_a_line(config: GPTConfig, tensors: dict[str, Tensor]):
    class Embed(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.tok_emb, self.pos_emb = model.tok_emb, model.pos_emb

        def forward(self, ids: Tensor) -> Tensor:
            return self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))

    book = STYLES["book"].load(tensors, config)
    for eps, status in ((1e-5, "nothing wrong"), (1e-2, "between")):
        norm = nn.LayerNorm(config.n_embd, eps=eps)
        norm.load_state_dict({name: tensors[f"ln_f.{name}"] for name in ("weight", "bias")})
        found = accuse(nn.Sequential(Embed(book), *book.trf_blocks, norm, book.out_head), config, tensors)
        assert found.status == status and not found.findings
    assert "for 4 (LayerNorm), because no function of yours calls it: eps is 0.01; GPT-2 has 1e-05" in str(found)


def test_numbers_to_be_drawn_are_those_around_the_largest_difference():
    right = torch.randn(3, 40, 200, generator=torch.Generator().manual_seed(0))
    wrong = right.clone()
    wrong[2, 35, 130] += 1
    cut = values_of(None, wrong, right)
    assert cut is not None and cut.part == "[2, 32:40, 128:192]"
    torch.testing.assert_close(cut.gpt2, right[2, 32:40, 128:192].double())
    assert (cut.yours - cut.gpt2).nonzero().tolist() == [[3, 2]]
    difference = panels(cut).panels[2]
    assert {colour for colour, _ in difference.paths} == {"c0", "h9"}
    wrong[0, 1, 2] = float("nan")
    cut = values_of(None, wrong, right)
    assert cut is not None and cut.part == "[0, 0:32, 0:64]"
    assert "nan" in {colour for panel in panels(cut).panels for colour, _ in panel.paths}
    assert values_of(None, wrong, right[:1]) is None
    hiding = right.masked_fill(right > 1, float("-inf"))
    cut = values_of(None, right, hiding)
    assert cut is not None and panels(cut).hidden
    assert [("none" in {colour for colour, _ in each.paths}) for each in panels(cut).panels] == [False, True, False]
    flat = values_of(None, wrong[2, 35], right[2, 35])
    assert flat is not None and flat.part == "[128:192]" and flat.yours.shape == (1, 64)


@pytest.mark.parametrize(
    ("name", "says", "expected", "role"),
    [
        (
            "head_list/feed_forward_not_normalised",
            "the stream after attention",
            "the output of the second norm",
            "used here",
        ),
        (
            "head_list/scale_by_model_width",
            "this is 0.5 times the attention scores",
            "in GPT-2 the factor is 1",
            "made here",
        ),
    ],
)
def test_the_words_say_what_stands_there_and_what_gpt2_has(
    name: str, says: str, expected: str, role: str, config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path
):
    bug = next(bug for bug in SINGLE if bug.id == name)
    found = accused(bug.style, bug.load(tensors, config, tmp_path), config, tensors)
    line = found.lines[0]
    assert says in line.says and expected in line.expected and line.role == role, line


def test_the_lines_of_whoever_calls_the_candidate_are_never_accused(
    config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path
):
    bug = next(bug for bug in more_styles.SINGLE if bug.id == "book/highest_block_as_count")
    model = bug.load(tensors, config, tmp_path)
    for _ in range(1):  # a loop over candidates is no loop over blocks
        found = accuse(model, config, tensors, call=lambda ids: model(ids), seconds=600)
    assert found.lines
    assert {Path(line.file).stem for line in found.lines} == {"book"}


@pytest.mark.parametrize(
    "name",
    [
        "book/epsilon_scaled_by_width",  # no default, but the call that built the object with the number
        "book/one_norm_for_both",  # one object under two names
        "encoder_layers/epsilon_of_layer",  # an argument with a line of its own
        "scan_stack/shift_of_first_norm_over_lines",
    ],
)
def test_what_gave_a_value_is_accused(name: str, config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path):
    bug = next(bug for bug in more_styles.SINGLE if bug.id == name)
    found = accused(bug.style, bug.load(tensors, config, tmp_path), config, tensors)
    assert found.lines[0].line in bug.lines, str(found)
    if "epsilon" in name:
        assert found.lines[0].expected == "GPT-2 has 1e-05", found.lines[0]


def test_beside_a_fill_of_a_mask_other_differences_are_seen(
    config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path
):
    """Beside -1e30 all scores are alike, and what stood in their place was taken for rounding: nothing was wrong."""
    transposed = ('np.einsum("bthd,bThd->bhtT", q, k)', 'np.einsum("bThd,bthd->bhtT", q, k)')
    bug = Bug("jax_dict", "transposed", "attention scores", "The scores are transposed.", (transposed,))
    found = accused("jax_dict", bug.load(tensors, config, tmp_path), config, tensors)
    assert found.status == "named" and found.lines[0].line in bug.lines, str(found)


def test_a_function_behind_a_lambda_is_the_candidate():
    theirs = STYLES["pico"].python()
    inner, outer = Frame(str(theirs.__file__), "gpt2", 1, 1, 0, 0, 1), Frame(__file__, "<lambda>", 1, 1, 0, 0, 1)
    assert own_code(lambda ids: theirs.gpt2(ids)).within((inner, outer)) == (inner,)
    assert own_code(lambda ids: ids + 1).within((outer,)) == (outer,)
    assert own_code(nn.Sequential(nn.Linear(2, 2))).within((outer,)) == ()


def test_accusing_changes_nothing(config: GPTConfig, tensors: dict[str, Tensor], tmp_path: Path):
    bug = next(bug for bug in SINGLE if bug.id == "head_list/relu")
    model = bug.load(tensors, config, tmp_path).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    accused(bug.style, model, config, tensors)
    assert model.training
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_what_cannot_be_run_is_said():
    config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=1, n_head=3)
    weights = {name: torch.randn(shape) for name, shape in config.tensor_shapes().items()}

    def broken(ids: Tensor) -> Tensor:
        raise ValueError("no logits today")

    found = accuse(broken, config, weights)
    assert found.status == "could not record"
    assert "no logits today" in found.why


def test_a_module_compiled_by_jit_is_named():
    config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=1, n_head=3)
    weights = {name: torch.randn(shape) for name, shape in config.tensor_shapes().items()}
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and people have it
        traced = torch.jit.trace(nn.Linear(3, 3), torch.ones(2, 3))
    found = accuse(nn.Sequential(traced), config, weights)
    assert found.status == "could not record"
    assert "torch.jit" in found.why


def test_prompts_have_a_length_that_no_size_has():
    config = GPTConfig(vocab_size=211, n_positions=37, n_embd=13 * 4, n_layer=1, n_head=4)
    assert prompts_for(config).shape == (2, 11)


@pytest.mark.slow
def test_most_bugs_are_named_on_their_line(tmp_path: Path):
    deep = perturbed(n_inner=None)
    config, tensors = GPTConfig.from_hf(deep.config.to_dict()), tensors_of(deep)
    found = [
        (bug, accused(bug.style, bug.load(tensors, config, tmp_path / str(number)), config, tensors))
        for number, bug in enumerate((*SINGLE, *COMBINED, *more_styles.BUGS, *choices.BUGS))
    ]
    missed = [f"{bug.id}\n{each}" for bug, each in found if not names_it(each, bug)]
    assert len(missed) <= 0.15 * len(found), "\n\n".join(missed)


def edited(checkpoint: Path, old: str, new: str) -> nn.Module:
    """The book's model with something else in its code, and the right weights."""
    style = STYLES["book"]
    source = style.path.read_text()
    assert source.count(old) == 1
    file = checkpoint.parent / f"edited_{checkpoint.name}.py"  # beside it, for the lines to be read from
    file.write_text(source.replace(old, new))
    model: nn.Module = style.build(style.python(file), open_checkpoint(checkpoint).config)
    load_into(model, checkpoint, layout="llms_from_scratch")
    return model


def wrong_scale(checkpoint: Path) -> nn.Module:
    return edited(checkpoint, "keys.transpose(2, 3)", "keys.transpose(2, 3) * 1.5")


@pytest.mark.parametrize("cast", ["half()", "to(torch.bfloat16)"])
def test_a_cast_to_half_precision_is_named(shallow_checkpoint: Path, cast: str):
    model = edited(
        shallow_checkpoint, "queries @ keys.transpose(2, 3)", f"queries.{cast}.float() @ keys.transpose(2, 3)"
    )
    verdict = verify(model, shallow_checkpoint, skip=("self-tests", "generation"), diagnose_seconds=0.1)
    assert not verdict and verdict.diagnosis is not None and verdict.diagnosis.lines is not None
    (line,) = verdict.diagnosis.lines.lines
    assert cast in line.text and "half precision" in line.says and verdict.diagnosis.lines.proven


def test_where_only_rounding_differs_that_is_said(shallow_checkpoint: Path):
    model = edited(shallow_checkpoint, "queries @ keys.transpose(2, 3)", "(queries + 3e4 - 3e4) @ keys.transpose(2, 3)")
    verdict = verify(model, shallow_checkpoint, skip=("self-tests", "generation"), diagnose_seconds=0.1)
    assert not verdict and verdict.diagnosis is not None and verdict.diagnosis.lines is None
    assert verdict.diagnosis.no_line.startswith("run in float64") and verdict.diagnosis.no_line in verdict.report()


def test_no_line_is_named_while_weights_differ(shallow_checkpoint: Path):
    model = wrong_scale(shallow_checkpoint)
    right = verify(model, shallow_checkpoint, skip=("self-tests", "generation"), diagnose_seconds=0.1)
    assert right.diagnosis is not None and right.diagnosis.lines is not None
    assert "keys.transpose(2, 3) * 1.5" in right.diagnosis.lines.lines[0].text
    line = right.diagnosis.lines.lines[0]
    (annotation,) = [each for each in to_annotations(right).splitlines() if f"line={line.line}," in each]
    assert annotation.startswith("::error file=")
    assert annotation.count("in GPT-2 the factor is") == 1
    errors = [each for each in to_annotations(right).splitlines() if each.startswith("::error file=")]
    assert len(errors) == len(right.diagnosis.lines.findings)  # lines that pass a wrong value on may be right
    page = to_html(right)
    assert f'<span class="marked">{line.line:4d}  ' in page
    assert "the strongest colours begin at" in page and page.count("<figcaption>") == 3
    with torch.no_grad():
        model.get_parameter("trf_blocks.0.att.W_key.weight").mul_(1.1)
    wrong = verify(model, shallow_checkpoint, skip=("self-tests", "generation"), diagnose_seconds=0.1)
    assert not wrong and wrong.diagnosis is not None
    assert wrong.diagnosis.lines is None


def test_where_weights_are_not_compared_that_is_said(shallow_checkpoint: Path):
    model = wrong_scale(shallow_checkpoint).eval()
    skip = ("weights", "self-tests", "generation")
    verdict = verify(lambda ids: model(ids), shallow_checkpoint, skip=skip, diagnose_seconds=0.1)
    assert verdict.diagnosis is not None and verdict.diagnosis.lines is not None
    assert "weights were not compared" in verdict.report()
