"""Plain functions over arrays: read, proven, filled and verified by naming nothing but the function."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2_from_scratch import load_into, open_checkpoint
from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.arrays import arrays_of
from gpt2_from_scratch.building import Loaded, load_object
from gpt2_from_scratch.cli import main
from gpt2_from_scratch.errors import CandidateError, MappingError
from gpt2_from_scratch.infer_layout import Status, infer_layout
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import write_theirs
from tests.foreign import STYLES, Style

FUNCTIONS = {name: style for name, style in STYLES.items() if style.functions}
PICO = STYLES["pico"].path.read_text()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.perturbed import perturbed, save

    return save(perturbed(n_inner=None, n_layer=2, n_positions=16), tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> Checkpoint:
    return open_checkpoint(checkpoint)


def closed_over(style: Style, opened: Checkpoint) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """The style's function over arrays of random numbers."""
    model = style.build(style.python(), opened.config)
    shapes = opened.config.tensor_shapes().items()
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes}
    arrays = {name: value.clone().numpy() for name, value in style.arrange(tensors, opened.config).items()}
    return lambda ids: model(arrays, ids.numpy() if isinstance(ids, torch.Tensor) else ids), arrays


@pytest.mark.parametrize("style", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_proven_and_read_as_their_author_meant_them(style: Style, opened: Checkpoint) -> None:
    function, arrays = closed_over(style, opened)
    before = {name: array.copy() for name, array in arrays.items()}
    found = infer_layout(function, opened.config)
    assert found.status is Status.PROVEN, (found, found.evidence)
    assert found.layout is not None
    for name, array in arrays.items():
        assert np.array_equal(array, before[name]), f"{name} was changed"
    tensors = {name: opened.read(name) for name in opened.config.tensor_shapes()}
    expected = style.arrange(tensors, opened.config)
    module = arrays_of(function)
    assert module is not None
    names = dict(module.named_parameters())
    written = write_theirs(found.layout, opened.config, opened.read, wanted=names.__contains__)
    for name, read in written.items():
        assert torch.equal(read(), expected[name]), name
    assert len(written) == len(expected)


def same_logits(function: Callable[[Any], Any], opened: Checkpoint) -> bool:
    ids = torch.arange(15)[None] * 7
    expected = forward.logits(opened.config, {n: opened.read(n) for n in opened.config.tensor_shapes()}, ids)
    actual = torch.as_tensor(function(ids[0].numpy()))
    return bool((actual - expected[0]).abs().max() < 1e-4 * expected.abs().max())


def test_weights_are_loaded_into_the_arrays_of_a_function(opened: Checkpoint) -> None:
    python = STYLES["pico"].python()
    shapes = opened.config.tensor_shapes().items()
    arrays = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, shape in shapes}

    def logits(ids: Any) -> Any:
        norm = functools.partial(python.layer_norm)
        x = arrays["wte.weight"][ids] + arrays["wpe.weight"][: len(ids)]
        for layer in range(opened.config.n_layer):
            h = {name.removeprefix(f"h.{layer}."): array for name, array in arrays.items()}
            a, b = norm(x, h["ln_1.weight"], h["ln_1.bias"]), ("weight", "bias")
            c_attn, c_proj = ({"w": h[f"attn.{n}.weight"], "b": h[f"attn.{n}.bias"]} for n in ("c_attn", "c_proj"))
            x = x + python.mha(a, c_attn, c_proj, opened.config.n_head)
            c_fc, c_proj = ({"w": h[f"mlp.{n}.weight"], "b": h[f"mlp.{n}.bias"]} for n in ("c_fc", "c_proj"))
            x = x + python.ffn(norm(x, *(h[f"ln_2.{end}"] for end in b)), c_fc, c_proj)
        return norm(x, arrays["ln_f.weight"], arrays["ln_f.bias"]) @ arrays["wte.weight"].T

    report = load_into(logits, opened)
    assert report.found is not None and report.found.how == "the names of the built-in layout 'gpt2_from_scratch'"
    assert same_logits(logits, opened)


def test_a_function_without_arrays_is_told_what_to_do(opened: Checkpoint) -> None:
    with pytest.raises(MappingError, match=r"gpt2 has no arrays to load into[^$]*functools.partial\(gpt2"):
        load_into(STYLES["pico"].python().gpt2, opened)


# -- what a function takes beside the ids -------------------------------------------------------------------------

RANDOM = """
def init_params(n_vocab, n_ctx, n_embd, n_layer):
    rng = np.random.default_rng(0)
    new = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    linear = lambda i, o: {"w": new(i, o), "b": new(o)}
    norm = lambda: {"g": new(n_embd), "b": new(n_embd)}
    block = lambda: {
        "ln_1": norm(), "ln_2": norm(),
        "attn": {"c_attn": linear(n_embd, 3 * n_embd), "c_proj": linear(n_embd, n_embd)},
        "mlp": {"c_fc": linear(n_embd, 4 * n_embd), "c_proj": linear(4 * n_embd, n_embd)},
    }
    return {"wte": new(n_vocab, n_embd), "wpe": new(n_ctx, n_embd), "tower": [block() for _ in range(n_layer)],
            "ln_f": norm()}

def forward(theta, tokens, *, n_head):
    return gpt2(tokens, theta["wte"], theta["wpe"], theta["tower"], theta["ln_f"], n_head)
"""
FORMS = {
    "OpenAI's names, each an argument": ("gpt2", "", "numpy arrays by OpenAI's names", True),
    "what a function of the file makes": ("forward", RANDOM, "what init_params() makes", True),
    "a global of the argument's name": (
        "forward",
        RANDOM + "\ntheta = init_params(211, 16, 44, 2)\n",
        "its theta is the global of that name",
        False,
    ),
}


def loaded(folder: Path, more: str, name: str, opened: Checkpoint) -> Loaded:
    file = folder / "their_functions.py"
    file.write_text(PICO + more)
    return load_object(f"{file}:{name}", opened.config)


@pytest.mark.parametrize("form", FORMS)
def test_a_function_gets_what_it_takes_beside_the_ids(form: str, tmp_path: Path, opened: Checkpoint) -> None:
    name, more, note, made = FORMS[form]
    found = loaded(tmp_path, more, name, opened)
    assert note in " ".join(found.notes)
    assert found.built is made
    assert "n_head" in [setting.name for setting in found.settings]
    load_into(found.object, opened)
    assert same_logits(found.object, opened)


def test_a_mask_in_float64_turns_scores_into_float64_and_is_followed(tmp_path: Path, opened: Checkpoint) -> None:
    (tmp_path / "f.py").write_text(PICO.replace("np.tri(x.shape[0], dtype=x.dtype)", "np.tri(x.shape[0])"))
    function = load_object(f"{tmp_path / 'f.py'}:gpt2", opened.config).object
    assert function(np.arange(3)).dtype == np.float64
    assert infer_layout(function, opened.config).status is Status.PROVEN


def test_torch_functions_get_torch_arrays(opened: Checkpoint) -> None:
    found = load_object(f"{STYLES['functional'].path}:gpt2", opened.config)
    assert "torch arrays by OpenAI's names" in " ".join(found.notes)
    assert load_into(found.object, opened)


def test_arrays_that_nobody_has_are_asked_for(opened: Checkpoint) -> None:
    style = STYLES["array_list"]
    with pytest.raises(
        CandidateError, match=r"takes 'parameters', and no arrays[^$]*def logits\(ids\): return predict"
    ):
        load_object(f"{style.path}:predict", opened.config)


def test_a_setting_that_nobody_knows_can_be_given(tmp_path: Path, opened: Checkpoint) -> None:
    (tmp_path / "f.py").write_text(PICO.replace("n_head", "koepfe"))
    found = load_object(f"{tmp_path / 'f.py'}:gpt2", opened.config, settings={"koepfe": 4})
    assert load_into(found.object, opened)


# -- on the command line --------------------------------------------------------------------------------------------


def test_a_set_of_functions_is_verified_by_its_name_alone(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["verify", f"{STYLES['pico'].path}:gpt2", str(checkpoint)])
    output = capsys.readouterr().out
    assert code == 0, output
    assert "28 of 28 tensors equal" in output
    assert "by an inferred layout, proven" in output


def test_arrays_with_weights_in_them_are_checked_as_they_are(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody loads the weights by himself, and exchanges two of them."""
    file = tmp_path / "loads.py"
    file.write_text(
        PICO
        + RANDOM
        + f"""
from gpt2_from_scratch import load_into
theta = init_params(211, 16, 44, 2)
load_into(lambda ids: forward(theta, ids, n_head=4), {str(checkpoint)!r})
theta["tower"][1]["ln_1"], theta["tower"][1]["ln_2"] = theta["tower"][1]["ln_2"], theta["tower"][1]["ln_1"]

def logits(ids):
    return forward(theta, ids, n_head=4)
"""
    )
    code = main(["verify", f"{file}:logits", str(checkpoint), "--no-diagnose"])
    output = capsys.readouterr().out
    assert code == 1, output
    assert "its arrays (theta in the globals of its file) were checked as they are" in output
    assert "FAILED" in output


def test_arrays_that_nobody_understands_are_checked_as_they_are(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bag.py"
    file.write_text("import torch\nTABLE = torch.randn(211, 211)\ndef logits(ids):\n    return TABLE[ids]\n")
    code = main(["verify", f"{file}:logits", str(checkpoint), "--no-diagnose"])
    output = capsys.readouterr().out
    assert code == 1, output
    assert "its arrays (TABLE in the globals of its file) were checked as they are: no layout of logits" in output


def test_functions_are_mapped(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["map", f"{STYLES['pico'].path}:gpt2", str(checkpoint)])
    output = capsys.readouterr()
    assert (code, output.err.splitlines()[-1]) == (0, "PROVEN")
    assert 'conv1d("h.*.attn.c_attn", "blocks.*.attn.c_attn", weight="w", bias="b")' in output.out
