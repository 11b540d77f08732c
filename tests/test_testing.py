"""What a stranger's repository gets: an assertion that can be acted on, checkpoints that hide nothing, and a plugin
that costs nothing where nobody asks for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gpt2_from_scratch import DivergenceError, GPTModel, load_into
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.testing import assert_matches_gpt2, perturbed_checkpoint
from tests.foreign import book
from tests.modules import book_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perturbed_checkpoint(tmp_path_factory.mktemp("perturbed"))


def in_the_book(checkpoint: Path) -> book.GPTModel:
    model = book.GPTModel(book_config(open_checkpoint(checkpoint).config))
    assert load_into(model, checkpoint, "llms_from_scratch")
    return model


def test_a_right_model_matches(checkpoint: Path) -> None:
    verdict = assert_matches_gpt2(in_the_book(checkpoint), checkpoint, "llms_from_scratch")
    assert verdict.weights is not None and verdict.logits is not None and verdict.logits.tokens > 100


def test_a_wrong_one_fails_with_the_whole_report(checkpoint: Path) -> None:
    model = in_the_book(checkpoint)
    model.trf_blocks[5].ff.layers[1] = nn.GELU()
    text = r"(?s)differs from GPT-2: first divergence at .*h\.5\.mlp\.act\)\n.*weights .*its input agrees.*FAILED"
    with pytest.raises(AssertionError, match=text):
        assert_matches_gpt2(model, checkpoint, "llms_from_scratch", diagnose_seconds=0)
    assert issubclass(DivergenceError, AssertionError)


def test_every_parameter_of_the_checkpoint_is_perturbed(checkpoint: Path) -> None:
    for name, parameter in GPTModel.from_pretrained(checkpoint).named_parameters():
        assert parameter.std() > 0.1, name
        assert (parameter - parameter.round()).abs().min() > 0, name  # no 0 and no 1 is left


def test_the_checkpoint_depends_on_its_arguments_alone(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = perturbed_checkpoint(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are his"
    other = perturbed_checkpoint(tmp_path / "other", seed=1, n_layer=2)
    file = "model.safetensors"
    assert (again / file).read_bytes() == (checkpoint / file).read_bytes()
    assert open_checkpoint(other).config.n_layer == 2


STRANGER = """
from gpt2_from_scratch import GPTModel
from gpt2_from_scratch.testing import assert_matches_gpt2

def test_mine(gpt2_perturbed):
    assert_matches_gpt2(GPTModel.from_pretrained(gpt2_perturbed), gpt2_perturbed, layout="gpt2_from_scratch")

def test_tiny(gpt2_tiny, gpt2_checkpoint):
    assert str(gpt2_tiny) == gpt2_checkpoint
"""

UNRELATED = """
import sys
def test_nothing():
    assert "gpt2_from_scratch.pytest_plugin" in sys.modules
    assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""


def run_pytest(folder: Path, *tests: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One process for several files: most of its time is the import of torch and transformers."""
    for number, test in enumerate(tests):
        (folder / f"test_{number}.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpt2_from_scratch.pytest_plugin", *arguments]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "300"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


KINDS = """
import pytest
from gpt2_from_scratch import load_into, open_checkpoint
from gpt2_from_scratch.testing import assert_matches_gpt2
from tests.foreign import nanogpt

@pytest.mark.parametrize(
    "gpt2_perturbed",
    [{"bias": False, "activation_function": "gelu"}, {"tie_word_embeddings": False}, {"n_layer": 2, "n_embd": 24}],
    indirect=True,
)
def test_mine(gpt2_perturbed, request):
    asked = request.node.callspec.params["gpt2_perturbed"]
    config = open_checkpoint(gpt2_perturbed).config
    assert all(getattr(config, name) == value for name, value in asked.items() if name != "bias")
    if "bias" not in asked:
        return
    sizes = {name: getattr(config, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    model = nanogpt.GPT(nanogpt.GPTConfig(**sizes, block_size=config.n_positions, bias=False), all_positions=True)
    load_into(model, gpt2_perturbed)
    assert_matches_gpt2(model, gpt2_perturbed)
"""


def test_the_checkpoint_can_be_chosen(tmp_path: Path) -> None:
    test = "def test_it(gpt2_checkpoint):\n    assert gpt2_checkpoint == 'somebody/gpt2'"
    assert run_pytest(tmp_path, test, arguments=("--gpt2-checkpoint", "somebody/gpt2")).returncode == 0


def test_unrelated_tests_import_nothing_heavy(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, UNRELATED)
    assert done.returncode == 0, done.stdout


FAILING = """
import pytest
from torch import nn
from gpt2_from_scratch import GPTModel, verify
from gpt2_from_scratch.testing import assert_matches_gpt2, perturbed_checkpoint

OPTIONS = {"layout": "gpt2_from_scratch", "diagnose_seconds": 0, "skip": ["generation"]}

@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return perturbed_checkpoint(tmp_path_factory.mktemp("one_layer"), n_layer=1)

def wrong(checkpoint):
    model = GPTModel.from_pretrained(checkpoint)
    model.h[0].mlp.act = nn.GELU()
    return model

def test_asserted(checkpoint):
    assert_matches_gpt2(wrong(checkpoint), checkpoint, **OPTIONS)

def test_plain(checkpoint):
    assert verify(wrong(checkpoint), checkpoint, **OPTIONS)
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says in a stranger's repository."""
    folder = tmp_path_factory.mktemp("stranger")
    done = run_pytest(folder, STRANGER, KINDS, FAILING, arguments=("-rf", "--color=no"))
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_a_strangers_repository_needs_five_lines_and_other_kinds_a_few_more(stranger: str) -> None:
    assert "2 failed, 5 passed" in stranger


def test_the_cause_is_in_the_line_that_everybody_reads(stranger: str) -> None:
    out = stranger
    summary = [line for line in out.splitlines() if line.startswith("FAILED ")]
    assert len(summary) == 2 and all("first divergence at h.0.mlp.act" in line for line in summary), out
    assert "- GPTModel differs from GPT-2: first divergence" in summary[0] and "DivergenceError:" not in summary[0]
    assert "<Verdict failed: GPTModel, first divergence" in summary[1]
