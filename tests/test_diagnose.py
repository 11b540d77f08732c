"""Diagnosis: the right name for every known fault, in models that share no code with the simulator; else no name.

Default runs use a model of three layers, where a simulation takes a millisecond or two, and take every few of each long
matrix. Marked `slow`: the rest of each, the matrices of seeds, shapes and styles, and the pairs.
"""

import contextlib
import gc
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.weights import Fitted, fit
from gpt2_from_scratch.compare import THRESHOLD, gap
from gpt2_from_scratch.diagnose import Checked, Diagnosis, Laboratory, Remedy, diagnose, diagnose_in
from gpt2_from_scratch.diagnose.simulation import simulated
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import TINY, Checkpoint, load_into, open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from gpt2_from_scratch.reference import load_reference
from tests.foreign import book, nanogpt, numpy_gpt2
from tests.modules import STYLES, book_config
from tests.mutants import BEYOND, LEGITIMATE, MUTANTS, Mutant, by_turns, is_named, row_of
from tests.mutants_nanogpt import in_nanogpt
from tests.perturbed import perturbed, save
from tests.remembering import Remembering

BOOK, NANOGPT = LAYOUTS["llms_from_scratch"], LAYOUTS["nanogpt"]
ALL = (*MUTANTS, *BEYOND)


class Bench:
    """A checkpoint, and where candidates for it are examined."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.reference = Remembering(load_reference(checkpoint))
        self.tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
        self.laboratory = Laboratory(simulated(checkpoint.config, checkpoint.read), self.reference)

    def book_model(self, tensors: Mapping[str, Tensor] | None = None) -> book.GPTModel:
        """The book's model with these canonical tensors in it; default: the checkpoint's."""
        model = book.GPTModel(book_config(self.config))
        reads = write_theirs(BOOK[0], self.config, lambda name: (tensors or self.tensors)[name])
        model.load_state_dict({name: read() for name, read in reads.items()}, strict=False)
        return model.eval()

    def mutant_in_book(self, *mutants: Mutant) -> book.GPTModel:
        tensors = dict(self.tensors)
        for mutant in mutants:
            tensors = mutant.checkpoint(tensors, self.config.n_head)
        model = self.book_model(tensors)
        for mutant in mutants:
            mutant.in_book(model)
        return model

    def mutant_in_nanogpt(self, mutant: Mutant) -> nanogpt.GPT:
        """nanoGPT's model with this mutant in it, in eval mode."""
        tensors = mutant.checkpoint(dict(self.tensors), self.config.n_head)
        model: Any = STYLES["nanogpt"](self.config)
        reads = write_theirs(NANOGPT[0], self.config, lambda name: tensors[name])
        model.load_state_dict({name: read().clone() for name, read in reads.items()}, strict=False)
        return in_nanogpt(mutant, model)

    def mutant_in_numpy(self, *mutants: Mutant) -> Callable[..., Any]:
        tensors, parts = dict(self.tensors), {}
        for mutant in mutants:
            tensors = mutant.checkpoint(tensors, self.config.n_head)
            parts |= mutant.in_numpy()
        return numpy_gpt2.gpt2(tensors, self.config.n_head, **parts)

    def diagnosis(self, model: Any, layouts: Sequence[Any] = (), seconds: float = 60) -> Diagnosis:
        candidate = Candidate(model, self.config)
        with candidate.evaluating(), torch.random.fork_rng():
            torch.manual_seed(0)
            inside = self.fitted(candidate, layouts)
            # Seconds of this process, so that a busy machine gives the same answer.
            return diagnose_in(self.laboratory, candidate, Checked(inside), seconds=seconds)

    def fitted(self, candidate: Candidate, layouts: Sequence[Any]) -> Fitted | None:
        """The module under its layout; None where it is not to be looked into."""
        with contextlib.suppress(MappingError):  # a head with a bias has a parameter that GPT-2 has not
            return fit(candidate, self.config, layouts) if layouts else None
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="module")
def small(folder: Path) -> Bench:
    """Three layers."""
    return Bench(open_checkpoint(save(perturbed(n_inner=None, n_layer=3), folder / "small")))


@pytest.fixture(scope="module")
def deep(folder: Path) -> Bench:
    """Twelve layers."""
    return Bench(open_checkpoint(save(perturbed(n_inner=None), folder / "deep")))


def told(diagnosis: Diagnosis) -> str:
    return f"{diagnosis}\n{diagnosis!r}"


def by_default(default: bool, *values: Any, id: str) -> Any:
    """A case of a long matrix: of the default tier or only of the slow one."""
    return pytest.param(*values, id=id, marks=() if default else pytest.mark.slow)


# -------------------------------------------------------------------------------------------------- one fault

NUMPY = [mutant for mutant in ALL if mutant.portable and mutant.visible and mutant.name != "layers_lexicographic"]

# From outside, NaN in every logit of every prompt is no number to reproduce; see test_nan_is_located_from_inside.
NOTHING_BUT_NAN = "mask_no_self"
# Weights inside the model that are simply others have as many unknown numbers; their layout, if known, shows them.
ONLY_FROM_INSIDE = {"tensors_differ", "key_bias_dropped", NOTHING_BUT_NAN}


@pytest.mark.parametrize("mutant", by_turns(NUMPY, 0, 8))
def test_a_fault_in_a_numpy_function_is_named(mutant: Mutant, small: Bench) -> None:
    if mutant.name in ONLY_FROM_INSIDE:
        assert not small.diagnosis(small.mutant_in_numpy(mutant), seconds=2)
        return
    diagnosis = small.diagnosis(small.mutant_in_numpy(mutant))
    assert is_named(diagnosis, row_of(mutant)), told(diagnosis)


@pytest.mark.parametrize("mutant", by_turns(ALL, 1, 5))
def test_a_fault_in_a_module_is_named(mutant: Mutant, small: Bench) -> None:
    if mutant.name == "layers_lexicographic":  # no fault with three layers
        return
    diagnosis = small.diagnosis(small.mutant_in_book(mutant), BOOK)
    assert is_named(diagnosis, row_of(mutant)), told(diagnosis)
    assert all(not finding.where for finding in diagnosis.faults) or mutant.name in (
        "last_layer_skipped",
        "tensors_differ",
    )


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_the_lexicographic_order_of_layers_is_named(inside: bool, deep: Bench) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "layers_lexicographic")
    model = deep.mutant_in_book(mutant)
    diagnosis = deep.diagnosis(model, BOOK) if inside else deep.diagnosis(lambda ids: model(ids))
    assert is_named(diagnosis, row_of(mutant)), told(diagnosis)


@pytest.mark.parametrize("name", ["logits_capped", "log_softmax_output", "softmax_output"])
def test_what_bends_logits_is_found_from_outside(name: str, small: Bench) -> None:
    model = small.mutant_in_book(next(mutant for mutant in ALL if mutant.name == name))
    diagnosis = small.diagnosis(lambda ids: model(ids))
    assert is_named(diagnosis, (name, None)), told(diagnosis)


def test_nan_is_located_from_inside(small: Bench) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == NOTHING_BUT_NAN)
    assert is_named(small.diagnosis(small.mutant_in_book(mutant), BOOK), row_of(mutant))
    blind = small.diagnosis(small.mutant_in_numpy(mutant))
    assert not blind and blind.reason == "not finite"


@pytest.mark.parametrize("module", [True, False])
def test_a_head_of_its_own_is_found_from_outside(module: bool, small: Bench) -> None:
    """A callable says its logits in float32; a module is run in float64, too, and has to agree more closely."""
    model = small.mutant_in_book(next(mutant for mutant in MUTANTS if mutant.name == "lm_head_random"))
    diagnosis = small.diagnosis(model if module else lambda ids: model(ids))
    assert is_named(diagnosis, ("lm_head_not_tied", None)), told(diagnosis)


@pytest.mark.parametrize(
    "name", [by_default(False, name, id=name) for name in ("final gains changed", "head nearly tied")]
)
def test_a_head_much_like_the_embedding_is_not_called_another(name: str, small: Bench) -> None:
    model, generator = small.book_model(), torch.Generator().manual_seed(0)
    changed = model.final_norm.scale if name == "final gains changed" else model.out_head.weight
    changed.data = changed.data * (1 + 0.3 * torch.randn(changed.shape, generator=generator))
    diagnosis = small.diagnosis(lambda ids: model(ids), seconds=3)
    assert not diagnosis, told(diagnosis)


@pytest.mark.parametrize("made", ["at once, in float32", "beforehand, in float32"])
def test_sinusoids_are_recognised_however_they_are_made(made: str, small: Bench) -> None:
    """In float64 a table that was made beforehand stays as it was rounded then."""
    width, model = small.config.n_embd, small.book_model()

    def rows(at: Tensor) -> Tensor:
        angles = at[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

    table = rows(torch.arange(small.config.n_positions))
    model.pos_emb.forward = rows if made.startswith("at once") else lambda at: table[at]
    for layouts in (BOOK, ()):
        diagnosis = small.diagnosis(model, layouts)
        assert is_named(diagnosis, ("pos_sinusoidal", None)), told(diagnosis)


def test_an_option_that_is_ignored(folder: Path) -> None:
    asks = Bench(
        open_checkpoint(save(perturbed(n_inner=None, n_layer=3, scale_attn_by_inverse_layer_idx=True), folder / "asks"))
    )
    for layouts in (BOOK, ()):
        diagnosis = asks.diagnosis(asks.book_model(), layouts)
        assert is_named(diagnosis, ("inverse_layer_idx_ignored", None)), told(diagnosis)


def test_values_that_cannot_be_told_apart_are_one_group(small: Bench) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "ln_eps_1e-12")
    diagnosis = small.diagnosis(small.mutant_in_numpy(mutant))
    assert {finding.name for finding in diagnosis.faults} == {"ln_eps"} and diagnosis.alternatives
    assert "at most" in str(diagnosis), str(diagnosis)


@pytest.mark.parametrize("eps", [3e-6, 2.5e-4])
def test_a_parameter_is_fitted(eps: float, small: Bench) -> None:
    model = numpy_gpt2.gpt2(small.tensors, small.config.n_head, eps=eps)
    diagnosis = small.diagnosis(model)
    assert is_named(diagnosis, ("ln_eps", eps)), told(diagnosis)


def test_dropout_is_taken_away_to_see_what_else_there_is(small: Bench) -> None:
    dropout, erf = (next(m for m in MUTANTS if m.name == name) for name in ("dropout_on", "gelu_erf"))
    diagnosis = small.diagnosis(small.mutant_in_book(dropout, erf), BOOK)
    assert is_named(diagnosis, ("dropout_on", None), ("gelu_erf", None)), told(diagnosis)
    model = small.mutant_in_book(dropout)
    assert is_named(small.diagnosis(lambda ids: model(ids)), ("dropout_on", None))


# ------------------------------------------------------------------------------------------- where it was made

ONE_LAYER: Mapping[str, Callable[[Any], None]] = {
    "gelu_erf": lambda block: setattr(block.ff.layers, "1", nn.GELU()),
    "relu": lambda block: setattr(block.ff.layers, "1", nn.ReLU()),
    "ln_eps": lambda block: [setattr(norm, "eps", 1e-3) for norm in (block.norm1, block.norm2)],
    "mask_missing": lambda block: block.att.mask.zero_(),
    "no_scale": lambda block: setattr(block.att, "attn_scores", lambda q, k: q @ k.mT),
    "cproj_bias_dropped": lambda block: block.att.out_proj.bias.data.zero_(),
    "attn_cproj_not_T": lambda block: block.att.out_proj.weight.data.copy_(block.att.out_proj.weight.data.T.clone()),
}


@pytest.mark.parametrize(
    ("fault", "layer"),
    [
        by_default(turn % 3 == layer, fault, layer, id=f"{fault}-{layer}")
        for turn, fault in enumerate(ONE_LAYER)
        for layer in range(3)
    ],
)
def test_a_fault_in_one_layer_is_named_with_the_layer(fault: str, layer: int, small: Bench) -> None:
    model = small.book_model()
    ONE_LAYER[fault](model.trf_blocks[layer])
    diagnosis = small.diagnosis(model, BOOK)
    (finding,) = diagnosis.faults
    assert (finding.name, finding.where) == (fault, (f"h.{layer}",)), told(diagnosis)
    assert f"(h.{layer}) only" in str(diagnosis)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("fault", ["gelu_erf", "mask_missing", "attn_cproj_not_T"])
def test_the_layer_is_found_from_logits_alone(fault: str, layer: int, small: Bench) -> None:
    model = small.book_model()
    ONE_LAYER[fault](model.trf_blocks[layer])
    diagnosis = small.diagnosis(lambda ids: model(ids))
    (finding,) = diagnosis.faults
    assert (finding.name, finding.where) == (fault, (f"h.{layer}",)), told(diagnosis)


def test_different_faults_in_different_layers(deep: Bench) -> None:
    model = deep.book_model()
    ONE_LAYER["gelu_erf"](model.trf_blocks[3])
    ONE_LAYER["mask_missing"](model.trf_blocks[7])
    for block in model.trf_blocks[9:]:
        ONE_LAYER["ln_eps"](block)
    ONE_LAYER["cproj_bias_dropped"](model.trf_blocks[11])
    diagnosis = deep.diagnosis(model, BOOK)
    assert {(finding.name, finding.where) for finding in diagnosis.faults} == {
        ("gelu_erf", ("h.3",)),
        ("mask_missing", ("h.7",)),
        ("ln_eps", ("h.9", "h.10", "h.11")),
        ("cproj_bias_dropped", ("h.11",)),
    }, told(diagnosis)


# --------------------------------------------------------------------------------------------- several at once


def pairs(seed: int, count: int, size: int, pool: Sequence[Mutant]) -> Iterator[tuple[Mutant, ...]]:
    """Random sets of mutants that do not replace each other."""
    rng = random.Random(seed)
    while count:
        mutants = sorted(rng.sample(pool, size), key=ALL.index)
        slots = [mutant.part[0] if mutant.part else mutant.name for mutant in mutants]
        slots = ["order" if slot in _ORDERS else slot for slot in slots]
        if len(set(slots)) == size:
            count -= 1
            yield tuple(mutants)


# Two exchanges of query, key and value are one other exchange, which has a name of its own.
_ORDERS = {"qk_swapped", "kv_swapped", "qv_swapped", "qkv_rotated"}


def is_masked(bench: Bench, mutants: Sequence[Mutant]) -> bool:
    """Whether one of them changes nothing when the others are there."""
    ids = bench.laboratory.prompts.text.numpy()
    whole = torch.from_numpy(bench.mutant_in_numpy(*mutants)(ids))
    without = (bench.mutant_in_numpy(*(m for m in mutants if m is not mutant))(ids) for mutant in mutants)
    return any(float((torch.from_numpy(each) - whole).abs().max()) <= 8 * bench.laboratory.floor for each in without)


POOL = [m for m in MUTANTS if m in NUMPY and m.name not in ONLY_FROM_INSIDE]


@pytest.mark.parametrize(
    "mutants",
    [
        by_default(turn < 4, mutants, id="+".join(mutant.name for mutant in mutants))
        for turn, mutants in enumerate(pairs(5, 12, 2, POOL))
    ],
)
def test_two_faults_at_once(mutants: tuple[Mutant, ...], small: Bench) -> None:
    if not is_masked(small, mutants):
        diagnosis = small.diagnosis(small.mutant_in_numpy(*mutants))
        assert is_named(diagnosis, *map(row_of, mutants)), told(diagnosis)


@pytest.mark.parametrize("inside", [by_default(True, True, id="inside"), by_default(False, False, id="outside")])
def test_the_books_usual_three(inside: bool, small: Bench) -> None:
    """qkv_bias=False, nn.GELU() and an unbiased variance, in a module and in a function."""
    mutants = [next(m for m in MUTANTS if m.name == name) for name in ("qkv_bias_dropped", "gelu_erf", "ln_unbiased")]
    if inside:
        diagnosis = small.diagnosis(small.mutant_in_book(*mutants), BOOK)
    else:
        diagnosis = small.diagnosis(small.mutant_in_numpy(*mutants))
    assert is_named(diagnosis, *map(row_of, mutants)), told(diagnosis)


# ------------------------------------------------------------------------------------------------- no wrong name


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_right_code_has_no_fault(style: Any, inside: bool, small: Bench) -> None:
    model = style(small.config)
    load_into(model, small.checkpoint.located.source, style.layout)
    layouts = LAYOUTS[style.layout] if inside else ()
    diagnosis = small.diagnosis(model, layouts, seconds=5)
    assert not diagnosis and diagnosis.reason == "nothing differs", told(diagnosis)


@pytest.mark.parametrize(
    ("mutant", "inside"),
    [
        # From outside, the search goes on to its end.
        by_default(inside, mutant, inside, id=f"{mutant.name}-{where}")
        for mutant in LEGITIMATE
        for inside, where in ((True, "inside"), (False, "outside"))
    ],
)
def test_another_precision_is_no_fault(mutant: Mutant, inside: bool, small: Bench) -> None:
    diagnosis = small.diagnosis(small.mutant_in_book(mutant), BOOK if inside else (), seconds=3)
    assert not diagnosis, told(diagnosis)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_compiled_code_has_no_fault(inside: bool, small: Bench) -> None:
    compiled = torch.compile(small.book_model(), backend="eager")
    diagnosis = small.diagnosis(compiled, BOOK if inside else (), seconds=5)
    assert not diagnosis and diagnosis.reason == "nothing differs", told(diagnosis)


@pytest.mark.parametrize("inside", [by_default(False, True, id="inside"), by_default(False, False, id="outside")])
def test_rounding_like_tf32_is_no_fault(inside: bool, small: Bench) -> None:
    def rounded(layer: nn.Linear, x: Tensor) -> Tensor:
        cut = [(t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (x, layer.weight)]
        return F.linear(*cut, layer.bias)

    model = small.book_model()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = MethodType(rounded, layer)
    assert not small.diagnosis(model, BOOK if inside else (), seconds=3)


def patched(owner: type[nn.Module], method: str, wrong: Callable[..., Any]) -> Callable[[nn.Module], None]:
    def patch(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, owner):
                setattr(module, method, MethodType(wrong, module))

    return patch


def _attention(scores: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """The book's attention weights with something done to the scores, or by them."""
    return patched(book.MultiHeadAttention, "attn_weights", lambda self, s: scores(s))


def _causal(scores: Tensor, window: int = 1 << 20) -> Tensor:
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    past = torch.ones_like(scores, dtype=torch.bool).tril(-window)
    return scores.masked_fill(future | past, -math.inf)


def _rotated(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
    half = queries.shape[-1] // 2
    angle = torch.arange(queries.shape[2])[:, None] / 10000 ** (torch.arange(half) / half)

    def rotate(x: Tensor) -> Tensor:
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], dim=-1)

    return book.MultiHeadAttention.attn_scores(attention, rotate(queries), rotate(keys))


def _scores(scores: Callable[[Tensor, Tensor], Tensor]) -> Callable[[nn.Module], None]:
    return patched(book.MultiHeadAttention, "attn_scores", lambda self, q, k: scores(q, k))


def _heads(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """Something done to the heads' outputs before they are merged."""
    merge = book.MultiHeadAttention.merge_heads
    return patched(book.MultiHeadAttention, "merge_heads", lambda self, x: merge(self, change(x)))


def _block(block: Callable[..., Tensor]) -> Callable[[nn.Module], None]:
    return patched(book.TransformerBlock, "forward", lambda m, x: block(x, m.norm1, m.att, m.norm2, m.ff))


def _gelu(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    return patched(book.GELU, "forward", lambda self, x: function(x))


def _embedded(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    return patched(book.GPTModel, "embed", lambda m, ids: change(book.GPTModel.embed(m, ids)))


def _deviation(norm: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.scale * centred / centred.abs().mean(-1, keepdim=True) + norm.shift


def _favourite(model: Any, ids: Tensor) -> Tensor:
    logits = book.GPTModel.forward(model, ids).clone()
    logits[..., 7] += torch.arange(ids.shape[1])
    return logits


def _softmax1(scores: Tensor) -> Tensor:
    odds = _causal(scores).exp()
    return odds / (1 + odds.sum(-1, keepdim=True))


def _sparse(scores: Tensor) -> Tensor:
    return F.normalize(F.threshold(_causal(scores).softmax(-1), 0.1, 0.0), p=1, dim=-1)


def _weaker_shortcuts(x: Tensor, n1: Any, att: Any, n2: Any, ff: Any) -> Tensor:
    x = 0.9 * x + att(n1(x))
    return 0.9 * x + ff(n2(x))


def _weaker_attention(x: Tensor, n1: Any, att: Any, n2: Any, ff: Any) -> Tensor:
    x = x + 0.9 * att(n1(x))
    return x + ff(n2(x))


def _attention_twice(x: Tensor, n1: Any, att: Any, n2: Any, ff: Any) -> Tensor:
    x = x + att(att(n1(x)))
    return x + ff(n2(x))


def _sandwich(x: Tensor, n1: Any, att: Any, n2: Any, ff: Any) -> Tensor:
    x = x + n1(att(n1(x)))
    return x + ff(n2(x))


def _feed_forward_first(x: Tensor, n1: Any, att: Any, n2: Any, ff: Any) -> Tensor:
    x = x + ff(n2(x))
    return x + att(n1(x))


# Nothing of this is in the table: where it first shows, and how to break the book's model so.
UNKNOWN: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "rotary positions on top": ("h.0", patched(book.MultiHeadAttention, "attn_scores", _rotated)),
    "alibi": ("h.0", _attention(lambda s: _causal(s + 0.1 * torch.arange(s.shape[-1])).softmax(-1))),
    "softmax with one more": ("h.0", _attention(_softmax1)),
    "a window of three": ("h.0", _attention(lambda s: _causal(s, 3).softmax(-1))),
    "scores capped": ("h.0", _attention(lambda s: _causal(2 * torch.tanh(s / 2)).softmax(-1))),
    "sparse attention": ("h.0", _attention(_sparse)),
    "query and key normalised": ("h.0", _scores(lambda q, k: 5 * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT)),
    "first head silent": ("h.0", _heads(lambda x: x * (torch.arange(x.shape[1]) > 0)[:, None, None])),
    "heads in reverse": ("h.0", _heads(lambda x: x.flip(1))),
    "weaker shortcuts": ("h.0", _block(_weaker_shortcuts)),
    "weaker attention": ("h.0", _block(_weaker_attention)),
    "attention twice": ("h.0", _block(_attention_twice)),
    "sandwich norm": ("h.0", _block(_sandwich)),
    "feed-forward first": ("h.0", _block(_feed_forward_first)),
    "another gelu": ("h.0", _gelu(lambda x: 1.1 * F.gelu(x, approximate="tanh"))),
    "softplus": ("h.0", _gelu(F.softplus)),
    "clamped activation": ("h.0", _gelu(lambda x: F.gelu(x, approximate="tanh").clamp(max=1))),
    "norm by the mean deviation": ("h.0", patched(book.LayerNorm, "forward", _deviation)),
    "norm of the embeddings": ("embed", _embedded(lambda x: F.layer_norm(x, x.shape[-1:]))),
    "embeddings halved": ("embed", _embedded(lambda x: x / 2)),
    "tokens reversed": ("embed", patched(book.GPTModel, "embed", lambda m, ids: book.GPTModel.embed(m, ids.flip(1)))),
    "a favourite token": ("lm_head", patched(book.GPTModel, "forward", _favourite)),
}


@pytest.mark.parametrize(
    ("what", "inside"),
    [
        by_default((turn - 3 * (not inside)) % 9 == 0, what, inside, id=f"{what}-{'inside' if inside else 'outside'}")
        for turn, what in enumerate(UNKNOWN)
        for inside in (True, False)
    ],
)
def test_an_unknown_fault_gets_no_name(what: str, inside: bool, small: Bench) -> None:
    stage, breaks = UNKNOWN[what]
    model = small.book_model()
    breaks(model)
    candidate = model if inside else lambda ids: model(ids)
    diagnosis = small.diagnosis(candidate, BOOK if inside else (), seconds=1.5)
    assert not diagnosis, told(diagnosis)
    assert diagnosis.faults == () and diagnosis.reason in ("no known fault", "out of time", "not finite")
    if inside and diagnosis.reason != "out of time":
        assert stage in diagnosis.stages, told(diagnosis)


def test_small_noise_is_no_known_fault(small: Bench) -> None:
    """What lies just beyond the line must not be explained by whichever small fault comes within it."""
    generator = torch.Generator().manual_seed(1)

    def noisy(ids: Tensor) -> Tensor:
        logits = small.reference.logits(ids)
        return logits + 6 * small.laboratory.floor * (2 * torch.rand(logits.shape, generator=generator) - 1)

    said: dict[str, Tensor] = {}

    def steady(ids: Tensor) -> Tensor:
        return said.setdefault(str(ids.tolist()), noisy(ids))

    diagnosis = small.diagnosis(steady, seconds=5)
    assert not diagnosis and 4 < diagnosis.baseline < 8, told(diagnosis)


def test_what_is_random_without_dropout_is_not_diagnosed(small: Bench) -> None:
    diagnosis = small.diagnosis(lambda ids: small.reference.logits(ids) + torch.randn(1))
    assert not diagnosis and diagnosis.reason == "random"


def test_the_clock_is_obeyed_and_reported(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, breaks = UNKNOWN["alibi"]
    model = small.book_model()
    breaks(model)
    phases: list[str] = []
    candidate = Candidate(lambda ids: model(ids), small.config)
    # The time runs out in the fourth phase, however fast the machine is.
    monkeypatch.setattr("gpt2_from_scratch.diagnose.clock.time.thread_time", lambda: float(len(phases)))
    diagnosis = diagnose_in(small.laboratory, candidate, seconds=4, progress=phases.append)
    assert not diagnosis and diagnosis.reason == "out of time" and diagnosis.seconds == 4
    assert 0 < diagnosis.tried <= 1, "what was tried is said, and a search that was stopped refutes nothing"
    assert phases[2:] == ["one fault", "one fault with another parameter"]
    assert diagnosis.closest is None or diagnosis.closest.multiple < diagnosis.baseline / 2


# ----------------------------------------------------------------------------------------------------- words


def test_a_diagnosis_in_words(small: Bench) -> None:
    model = small.book_model()
    for block in model.trf_blocks:
        ONE_LAYER["gelu_erf"](block)
    diagnosis = small.diagnosis(model, BOOK)
    assert str(diagnosis) == "GELU uses erf; GPT-2 uses the tanh form"
    (finding,) = diagnosis.faults
    assert finding.remedy == Remedy("use the tanh GELU in trf_blocks.*.ff.layers.1", "nn.GELU(approximate='tanh')")
    assert str(finding.remedy) == "use the tanh GELU in trf_blocks.*.ff.layers.1: nn.GELU(approximate='tanh')"
    assert diagnosis.baseline > 100 and diagnosis.multiple < 4


def swapped_in_code(model: Any) -> Any:
    """Query and key exchanged where they are computed; every weight is right."""

    def swapped(layer: nn.Linear, x: Tensor) -> Tensor:
        query, key, value = nn.Linear.forward(layer, x).chunk(3, dim=-1)
        return torch.cat([key, query, value], dim=-1)

    for block in model.trf_blocks:
        if hasattr(block.att, "qkv"):
            block.att.qkv.forward = MethodType(swapped, block.att.qkv)
        else:
            block.att.W_query.forward, block.att.W_key.forward = block.att.W_key.forward, block.att.W_query.forward
    return model


@pytest.mark.parametrize(("style", "modules"), [("book", "W_query / "), ("book_fused", "att.qkv")])
def test_a_repair_speaks_of_the_modules_that_are_there(style: str, modules: str, small: Bench) -> None:
    """The layout that fits is named, not the first of its variants; right weights are not to be loaded again."""
    model = STYLES[style](small.config).eval()
    load_into(model, small.checkpoint.located.source, "llms_from_scratch")
    diagnosis = small.diagnosis(swapped_in_code(model), BOOK)
    assert is_named(diagnosis, ("qk_swapped", None)), told(diagnosis)
    remedy = diagnosis.faults[0].remedy.text
    assert modules in remedy and ("W_query" in remedy) is (style == "book"), remedy
    assert "are the checkpoint's: the code that uses them" in remedy and "load" not in remedy


def test_what_shows_on_one_token_is_not_called_nothing(small: Bench) -> None:
    """The prompts of the search do not hold the token that goes wrong; the prompt that failed does."""
    model, usual = small.book_model(), small.laboratory.prompts
    seen = torch.cat([usual.text.flatten(), usual.check.flatten(), usual.single.flatten()])
    odd = next(token for token in range(small.config.vocab_size) if token not in seen)

    def wrong(ids: Tensor) -> Tensor:
        return model(torch.where(ids == odd, 0, ids))

    candidate = Candidate(wrong, small.config)
    failing = torch.tensor([[3, odd, 5, 9, odd, 2]])
    with candidate.evaluating():
        assert diagnose_in(small.laboratory, candidate, seconds=2).reason == "nothing differs"
        diagnosis = diagnose_in(small.laboratory, candidate, Checked(failing=failing), seconds=2)
    assert not diagnosis and diagnosis.reason != "nothing differs" and diagnosis.baseline > 100


def test_no_tensor_stays_alive_after_a_diagnosis(small: Bench) -> None:
    model = small.mutant_in_book(next(mutant for mutant in MUTANTS if mutant.name == "lm_head_random"))
    shape = tuple(model.out_head.weight.shape)

    def alive() -> int:
        gc.collect()
        tensors = (each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter))
        return sum(tuple(tensor.shape) == shape for tensor in tensors)

    diagnosis = small.diagnosis(model, BOOK)
    assert diagnosis
    before = alive()
    for _ in range(2):
        diagnosis = small.diagnosis(model, BOOK)
    assert alive() <= before


@pytest.mark.slow
def test_on_the_trained_model_from_scratch() -> None:
    """The public function, from a checkpoint, without anything prepared."""
    checkpoint = open_checkpoint(TINY)
    model = book.GPTModel(book_config(checkpoint.config))
    load_into(model, TINY, "llms_from_scratch")
    for block in model.trf_blocks:
        ONE_LAYER["gelu_erf"](block)
    candidate = Candidate(model, checkpoint.config)
    with candidate.evaluating():
        fitted = fit(candidate, checkpoint.config, BOOK)
        diagnosis = diagnose(candidate, checkpoint, load_reference(checkpoint), Checked(inside=fitted), seconds=600)
    assert is_named(diagnosis, ("gelu_erf", None)), told(diagnosis)


# ------------------------------------------------------------------------------------------------ the matrices


SHAPES: Mapping[str, Mapping[str, int] | None] = {
    "small": {"n_layer": 3},
    "deep": {},
    "wide": {"n_embd": 768, "n_head": 12, "n_positions": 24},
    "trained": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", ["book", "book without layout", "nanogpt", "nanogpt without layout", "numpy"])
def test_single_faults_in_foreign_code(style: str, shape: str, seed: int, folder: Path) -> None:
    """Detectable is what moves the logits beyond the verdict's line, to numbers, or what a layout shows."""
    sizes = SHAPES[shape]
    if sizes is None and seed > 1:
        return  # there is one trained model
    made = TINY if sizes is None else save(perturbed(n_inner=None, seed=seed, **sizes), folder / f"{shape}{seed}")
    bench = Bench(open_checkpoint(made))
    excluded, unnamed, wrong, count = {}, [], [], 0
    for mutant in NUMPY if style == "numpy" else ALL:
        if mutant.name == "layers_lexicographic" and bench.config.n_layer < 11:
            continue
        model: Any
        if style == "numpy":
            model, layouts = bench.mutant_in_numpy(mutant), ()
        elif style.startswith("nanogpt"):
            model, layouts = bench.mutant_in_nanogpt(mutant), NANOGPT
        else:
            model, layouts = bench.mutant_in_book(mutant), BOOK
        if style.endswith("without layout"):
            layouts = ()
        logits = Candidate(model, bench.config).logits(bench.laboratory.prompts.text)
        effect = gap(logits, bench.laboratory.expected[0]) / bench.laboratory.floor
        if not layouts and (not THRESHOLD < effect < math.inf or mutant.name in ONLY_FROM_INSIDE):
            excluded[mutant.name] = effect
            continue
        diagnosis = bench.diagnosis(model, layouts, seconds=600)
        count += 1
        if not diagnosis:
            unnamed.append(f"{mutant.name}: {diagnosis}")
        elif not is_named(diagnosis, row_of(mutant)):
            wrong.append(f"{mutant.name}: {diagnosis}")
    assert set(excluded) <= ONLY_FROM_INSIDE, excluded
    assert not wrong and len(unnamed) <= 0.01 * count, f"of {count}: wrong {wrong}, unnamed {unnamed}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_pairs(seed: int, small: Bench) -> None:
    unnamed, wrong, count = [], [], 0
    for mutants in pairs(seed, 100, 2, POOL):
        if is_masked(small, mutants):
            continue
        count += 1
        diagnosis = small.diagnosis(small.mutant_in_numpy(*mutants))
        if not diagnosis:
            unnamed.append([m.name for m in mutants])
        elif not is_named(diagnosis, *map(row_of, mutants)):
            wrong.append(([m.name for m in mutants], str(diagnosis)))
    assert not wrong and len(unnamed) <= 0.03 * count, f"of {count}: wrong {wrong}, unnamed {unnamed}"
