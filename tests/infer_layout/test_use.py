"""What is built on the inferred layout: `load_into` without a layout, `gpt2 map`, and the module left as it was."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import load_into, open_checkpoint
from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.cli import main
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.infer_layout import find_layout, infer_layout
from tests.foreign import STYLES, edited

SMALL = {"n_layer": 2, "n_positions": 16}  # written into a checkpoint of its own below: the packaged one has 12 layers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.perturbed import perturbed, save

    return save(perturbed(n_inner=None, **SMALL), tmp_path_factory.mktemp("small"))


def built(name: str, checkpoint: Path) -> nn.Module:
    module: nn.Module = STYLES[name].build(STYLES[name].python(), open_checkpoint(checkpoint).config).eval()
    return module


@pytest.mark.parametrize("name", ["german", "interleaved", "sequence_first", "head_list"])
def test_weights_are_loaded_without_a_layout(name: str, checkpoint: Path) -> None:
    module, opened = built(name, checkpoint), open_checkpoint(checkpoint)
    report = load_into(module, opened)
    assert report.found is not None and "inferred" in report.found.how
    ids = torch.arange(15)[None] * 7
    expected = forward.logits(opened.config, {n: opened.read(n) for n in opened.config.tensor_shapes()}, ids)
    with torch.no_grad():
        actual = STYLES[name].logits(module.double(), ids)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def test_a_module_that_writes_into_its_ids_changes_nobody_elses(checkpoint: Path) -> None:
    def scratch(module: nn.Module, given: tuple[Tensor], logits: Tensor) -> None:
        given[0].zero_()

    module = built("german", checkpoint)
    module.register_forward_hook(scratch)
    report = load_into(module, checkpoint)
    assert report.found is not None and "inferred" in report.found.how


def test_a_module_that_fails_when_it_is_asked_again_is_told_with_its_line(checkpoint: Path) -> None:
    def failing(module: nn.Module, given: tuple[Tensor]) -> None:
        if given[0].shape[1] == 1:
            raise ValueError("one token is too few")

    module = built("german", checkpoint)
    module.register_forward_pre_hook(failing)
    with pytest.raises(MappingError, match=r"ran once and then failed: ValueError: .*too few \(test_use.py:\d+\)"):
        load_into(module, checkpoint)


def test_a_crash_in_the_usual_way_is_told_beside_what_another_way_shows(checkpoint: Path) -> None:
    def failing(module: nn.Module, given: tuple[Tensor]) -> None:
        if given[0].shape[1] > 7:
            raise ValueError("too many tokens")

    module = built("german", checkpoint)
    module.register_forward_pre_hook(failing)
    with pytest.raises(MappingError, match=r"asked in another way \(.*ids \[batch, tokens\]: ValueError: too many"):
        load_into(module, checkpoint)


def test_names_of_a_built_in_layout_are_enough(checkpoint: Path) -> None:
    report = load_into(built("book", checkpoint), checkpoint)
    assert report.found is not None and "inferred" not in report.found.how
    assert "written by the names of the built-in layout 'llms_from_scratch'" in str(report)


def test_a_module_that_is_no_gpt2_is_refused_and_left_alone(checkpoint: Path) -> None:
    module = nn.Sequential(nn.Embedding(211, 44), nn.Linear(44, 211))
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(MappingError, match="no learned position"):
        load_into(module, checkpoint)
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


class Failing(nn.Module):
    """Raises in the middle of its second pass, and draws random numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes = 0

    def forward(self, ids: Tensor) -> Tensor:
        torch.rand(3)
        self.passes += 1
        if self.passes > 1:
            raise RuntimeError("no more")
        result: Tensor = self.inner(ids)
        return result


def test_a_module_that_fails_on_the_way_is_given_back_as_it_was(checkpoint: Path) -> None:
    module = Failing(built("german", checkpoint)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    found = infer_layout(module, open_checkpoint(checkpoint).config)
    said = "NOT FOUND, because the module ran once and then failed: RuntimeError: no more (test_use.py:"
    assert str(found).startswith(said)
    assert module.training
    assert all(each.training for each in module.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# ---------------------------------------------------------------------------------------------------------- gpt2 map


def test_the_printed_table_is_accepted_as_a_layout(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["map", f"{STYLES['own_layers'].path}:TransformerLM", str(checkpoint)])
    output = capsys.readouterr()
    assert (code, output.err.splitlines()[-1]) == (0, "PROVEN")
    table = tmp_path / "table.py"
    table.write_text(output.out)
    module = built("own_layers", checkpoint)
    namespace: dict[str, object] = {}
    exec(table.read_text(), namespace)
    assert namespace["LAYOUT"] == find_layout(module, open_checkpoint(checkpoint).config).layout


def test_a_fault_is_named_and_the_layout_is_printed_nevertheless(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = STYLES["own_layers"]
    path = edited(style, [("1e-5", "1e-3")], tmp_path)
    code = main(["map", f"{path}:TransformerLM", str(checkpoint)])
    output = capsys.readouterr()
    assert code == 1
    assert output.err.splitlines()[-1] == "PROVEN, except that epsilon is 0.001 instead of 1e-05"
    assert output.out.startswith("from gpt2_from_scratch.mapping import")


def test_what_is_no_gpt2_is_not_found(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.py"
    path.write_text(
        "import torch\nclass Other(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.e = torch.nn.Embedding(211, 44)\n"
        "    def forward(self, ids):\n        print('hello')\n        return self.e(ids) @ self.e.weight.T\n"
    )
    code = main(["map", f"{path}:Other", str(checkpoint), "--json"])
    output = capsys.readouterr()
    answer = json.loads(output.out)  # what the module prints is not on stdout
    assert (code, answer["status"], answer["layout"]) == (2, "not found", None)
    assert "no learned positions [16, 44]" in " ".join(answer["because"])
    assert output.err.splitlines()[-1].startswith("NOT FOUND, because")


# ------------------------------------------------------------------------- verified by naming nothing but the object


@pytest.fixture(scope="module")
def without_biases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nanoGPT checkpoint that was trained with ``bias=False``, whose activation is the exact GELU."""
    from tests.perturbed import perturbed, save

    model = perturbed(n_inner=None, activation_function="gelu", **SMALL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    folder = tmp_path_factory.mktemp("without biases")
    convert(save(model, folder / "whole"), folder / "ckpt.pt", "nanogpt", bias=False)
    return folder / "ckpt.pt"


def verified(name: str, entry: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code = main(["verify", f"{STYLES[name].path}:{entry}", str(checkpoint)])
    output = capsys.readouterr().out
    assert code == 0, output
    inferred = "the weights were copied into its parameters by an inferred layout, proven"
    assert inferred in output or "the built-in layout" in output
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "entry", "built_with"),
    [
        ("book", "GPTModel", "emb_dim=44"),  # a dictionary
        ("mingpt", "GPT", "n_embd=44"),  # a configuration node
        ("head_list", "LanguageModel", "n_embd=44"),  # globals of the file, a module for each head
        ("encoder_layers", "CausalTransformer", "d_model=44"),  # a namespace, and torch's own layers
        ("hparams", "GPTLightningModule", "num_heads=4"),  # asked for when it runs
    ],
)
def test_a_class_is_verified_by_its_name_alone(
    name: str, entry: str, built_with: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert built_with in verified(name, entry, checkpoint, capsys)


@pytest.mark.slow
def test_a_model_without_biases_is_verified_by_its_name_alone(
    without_biases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "bias=False (the checkpoint has no biases)" in verified("nanogpt", "GPT", without_biases, capsys)


def test_what_cannot_be_built_is_asked_for_by_its_key(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", f"{STYLES['wants_tokenizer'].path}:StoryModel", str(checkpoint)]) == 2
    assert "asks for 'tokenizer', which none of GPT-2's settings" in capsys.readouterr().err


@pytest.mark.slow
def test_names_in_another_language_are_given_on_the_command_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"wortschatz": 211, "laenge": 16, "breite": 44, "koepfe": 4, "schichten": 2}
    options = [text for name, size in sizes.items() for text in ("--config", f"{name}={size}")]
    code = main(["verify", f"{STYLES['german'].path}:Sprachmodell", str(checkpoint), *options])
    assert code == 0, capsys.readouterr().out
