"""No false alarm: right code passes, whatever its style, precision, cache, compiler, size and weights.

A style is a function from a checkpoint to something that `verify` takes. All of them go through the whole
of `verify`, against one reference per checkpoint that computes each prompt once. By default on one small checkpoint;
``-m slow`` runs all styles on five seeds of perturbed weights in three sizes.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch import EXACT, FUSED, TEXTBOOK, GPTModel, load_into, verify
from gpt2_from_scratch.compare import EXACT_THRESHOLD, THRESHOLD
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layers import EXACT_EAGER, Compute
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.testing import perturbed_checkpoint
from gpt2_from_scratch.verifier import Verdict
from tests.foreign import book_cached, functional, nanogpt, numpy_gpt2
from tests.modules import STYLES, book_config
from tests.remembering import Remembering

SEEDS = range(5)
SIZES: Mapping[str, Mapping[str, int]] = {
    "44": {},
    "192": {"vocab_size": 509, "n_positions": 96, "n_embd": 192, "n_head": 6},
    "768": {"vocab_size": 97, "n_positions": 24, "n_embd": 768, "n_head": 12},
}

Build = Callable[[Path, GPTConfig], Any]


@dataclass(frozen=True)
class Style:
    """How to get a right GPT-2, and its layout where it has one."""

    build: Build
    layout: str | None = None
    precision: torch.dtype = torch.float32


def module(style: str, dtype: torch.dtype = torch.float32) -> Style:
    """A module of `tests.modules`, loaded through its layout."""

    def build(checkpoint: Path, config: GPTConfig) -> nn.Module:
        loaded = STYLES[style](config)
        assert load_into(loaded, checkpoint, STYLES[style].layout)
        return loaded.to(dtype)

    return Style(build, STYLES[style].layout, torch.float32 if dtype == torch.float64 else dtype)


def ours(compute: Compute) -> Style:
    return Style(lambda checkpoint, _: GPTModel.from_pretrained(checkpoint, compute=compute), "gpt2_from_scratch")


def function(of: Callable[[Any, Tensor], Tensor], style: Style, precision: torch.dtype = torch.float32) -> Style:
    """Asks a style's module in a way of its own: nothing but ids and logits is seen."""

    def build(checkpoint: Path, config: GPTConfig) -> Callable[[Tensor], Tensor]:
        model = style.build(checkpoint, config).eval()
        return lambda ids: of(model, ids)

    return Style(build, precision=precision)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    opened = open_checkpoint(checkpoint)
    return {name: opened.read(name) for name in opened.tensors}


def plain_functions(checkpoint: Path, config: GPTConfig) -> Any:
    flat = tensors(checkpoint)

    def pair(name: str, weight: str, bias: str) -> dict[str, Tensor]:
        return {weight: flat[f"{name}.weight"], bias: flat[f"{name}.bias"]}

    def block(h: str) -> functional.Params:
        linear = {room: {name: pair(f"{h}.{room}.{name}", "w", "b") for name in names} for room, names in ROOMS.items()}
        return {norm: pair(f"{h}.{norm}", "g", "b") for norm in ("ln_1", "ln_2")} | linear

    params = {"wte": flat["wte.weight"], "wpe": flat["wpe.weight"], "ln_f": pair("ln_f", "g", "b")}
    params["blocks"] = [block(f"h.{layer}") for layer in range(config.n_layer)]
    return lambda ids: functional.gpt2(ids, params, config.n_head)


ROOMS = {"attn": ("c_attn", "c_proj"), "mlp": ("c_fc", "c_proj")}


def in_numpy(dtype: str) -> Build:
    return lambda checkpoint, config: numpy_gpt2.gpt2(tensors(checkpoint), config.n_head, dtype=dtype)


def rounded(dtype: torch.dtype) -> Build:
    """A function in float32 whose weights went through a lower precision: no type tells."""

    def build(checkpoint: Path, config: GPTConfig) -> Any:
        weights = {name: tensor.to(dtype).float() for name, tensor in tensors(checkpoint).items()}
        return numpy_gpt2.gpt2(weights, config.n_head)

    return build


def rounded_book(checkpoint: Path, config: GPTConfig) -> nn.Module:
    return STYLE["book"].build(checkpoint, config).bfloat16().float()


def last_position(checkpoint: Path, config: GPTConfig) -> nn.Module:
    """nanoGPT as it comes: without targets, logits of the last position only."""
    model = STYLE["nanogpt"].build(checkpoint, config)
    assert isinstance(model, nanogpt.GPT)
    model.all_positions = False
    return model


def cached_book(checkpoint: Path, config: GPTConfig) -> nn.Module:
    model = book_cached.GPTModel(book_config(config))
    assert load_into(model, checkpoint, "llms_from_scratch")
    return model


def eager_transformers(checkpoint: Path, config: GPTConfig) -> nn.Module:
    model = STYLE["transformers"].build(checkpoint, config)
    model.set_attn_implementation("eager")
    return model


@cache
def compiled_for(config: GPTConfig) -> Any:
    """Compiled once per size, as that takes minutes; the weights change from seed to seed."""
    torch._dynamo.reset()
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"
    return torch.compile(STYLES["nanogpt"](config), backend=backend, dynamic=True)


def compiled(checkpoint: Path, config: GPTConfig) -> nn.Module:
    model = compiled_for(config)
    assert load_into(model._orig_mod, checkpoint, "nanogpt")
    return model  # type: ignore[no-any-return]


def in_steps(of: int) -> Callable[[GPTModel, Tensor], Tensor]:
    def run(model: GPTModel, ids: Tensor) -> Tensor:
        cache = model.new_cache(ids.shape[0])
        return torch.cat([model(step, cache=cache) for step in ids.split(of, dim=1)], dim=1)

    return run


def past_key_values(model: Any, ids: Tensor) -> Tensor:
    past, logits = None, []
    for step in ids.split(3, dim=1):
        output = model(step, past_key_values=past, use_cache=True)
        past = output.past_key_values
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


def autocast(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(ids)  # type: ignore[no-any-return]


def padded_vocabulary(model: nn.Module, ids: Tensor) -> Tensor:
    return F.pad(model(ids), (0, 13), value=-1e4)


STYLE: dict[str, Style] = {
    "ours, exact": ours(EXACT),
    "ours, eager": ours(EXACT_EAGER),
    "ours, fused": ours(FUSED),
    "ours, textbook": ours(TEXTBOOK),
    "transformers": module("transformers"),
    "transformers, eager": Style(eager_transformers, "huggingface"),
    "book": module("book"),
    "book, fused": module("book_fused"),
    "book, cached": Style(cached_book, "llms_from_scratch"),
    "nanogpt": module("nanogpt"),
    "nanogpt, last position": Style(last_position, "nanogpt"),
    "mingpt": module("mingpt"),
    "parallel heads": module("parallel_heads"),
    "torch functions": Style(plain_functions),
    "numpy": Style(in_numpy("float32")),
    "numpy, float64": Style(in_numpy("float64")),
    "ours, float64": module("ours", torch.float64),
    "book, float16": module("book", torch.float16),
    "book, bfloat16": module("book", torch.bfloat16),
    "nanogpt, bfloat16": module("nanogpt", torch.bfloat16),
    "transformers, float16": module("transformers", torch.float16),
    "ours, bfloat16": module("ours", torch.bfloat16),
    "numpy, weights from bfloat16": Style(rounded(torch.bfloat16)),
    "numpy, weights from float16": Style(rounded(torch.float16)),
    "book, weights from bfloat16": Style(rounded_book, "llms_from_scratch"),
}
STYLE |= {
    "book, autocast": function(autocast, STYLE["book"], torch.bfloat16),
    "step by step": function(in_steps(1), STYLE["ours, exact"]),
    "in chunks": function(in_steps(5), STYLE["ours, exact"]),
    "transformers, in chunks": function(past_key_values, STYLE["transformers"]),
    "padded vocabulary": function(padded_vocabulary, STYLE["book, fused"]),
}
COMPILED = Style(compiled, "nanogpt")


def judged(style: Style, checkpoint: Path, reference: Remembering, **options: Any) -> Verdict:
    """The whole of `verify`, gradients included where there are some, with a reference that remembers."""
    candidate = style.build(checkpoint, reference.config)
    return verify(candidate, checkpoint, style.layout, reference=reference, gradients=True, **options)


@cache
def small(folder: Path, size: str = "44", seed: int = 0) -> tuple[Path, Remembering]:
    path = perturbed_checkpoint(folder / f"{size}_{seed}", seed=seed, **SIZES[size])
    return path, Remembering(load_reference(open_checkpoint(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("checkpoints")
    small.cache_clear()


def assert_passed(style: Style, verdict: Verdict) -> None:
    assert verdict, verdict.report(verbose=True)
    assert verdict.summary.startswith("PASSED")
    logits = verdict.logits
    assert logits is not None and logits.dtype == style.precision
    assert logits.multiple <= THRESHOLD or logits.exact
    assert verdict.generation is not None and verdict.self_tests is not None
    assert verdict.weights is not None  # of functions, too: their arrays are found
    if style.layout is not None and style.precision == torch.float32:
        assert verdict.gradients is not None


@pytest.mark.parametrize(
    "style",
    [
        pytest.param(style, id=name, marks=() if turn % 3 == 0 else pytest.mark.slow)
        for turn, (name, style) in enumerate(STYLE.items())
    ],
)
def test_right_code_passes(style: Style, folder: Path) -> None:
    assert_passed(style, judged(style, *small(folder)))


def test_compiled_code_passes(tmp_path: Path) -> None:
    """One layer, and no code generated: tracing is what takes the time."""
    path = perturbed_checkpoint(tmp_path, n_layer=1)
    reference = Remembering(load_reference(open_checkpoint(path)))
    style = Style(lambda *given: torch.compile(STYLE["nanogpt"].build(*given), backend="eager"), "nanogpt")
    verdict = judged(style, path, reference)
    assert_passed(style, verdict)
    assert verdict.candidate == "GPT"


def test_what_is_asked_of_a_style_is_really_asked(folder: Path) -> None:
    """Each of these styles would pass if it were taken for another; the verdict says what it was taken for."""
    path, reference = small(folder)
    assert "given as targets" in judged(STYLE["nanogpt, last position"], path, reference).report()
    assert "13 columns beyond" in judged(STYLE["padded vocabulary"], path, reference).report()
    cached = judged(STYLE["book, cached"], path, reference)
    assert cached.self_tests is not None and "cache" in str(cached.self_tests)
    weights = judged(STYLE["numpy, weights from bfloat16"], path, reference)
    assert weights.logits is not None and weights.logits.weights_dtype == torch.bfloat16
    assert "with weights in bfloat16" in str(weights)


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLE.values(), ids=STYLE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", SIZES)
def test_right_code_passes_on_all_weights(style: Style, seed: int, size: str, folder: Path) -> None:
    verdict = judged(style, *small(folder, size, seed))
    assert_passed(style, verdict)
    assert verdict.logits is not None and (
        verdict.logits.exact is None or verdict.logits.exact.multiple < EXACT_THRESHOLD
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", SIZES)
def test_compiled_code_passes_on_all_weights(seed: int, size: str, folder: Path) -> None:
    assert_passed(COMPILED, judged(COMPILED, *small(folder, size, seed)))
