"""Every field of the configuration has a source, and what nobody said is called assumed."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import GPTModel, open_checkpoint, verify
from gpt2_from_scratch.errors import ConfigError
from gpt2_from_scratch.loading import Origin
from gpt2_from_scratch.mapping import Layout

MINGPT = {
    "system": {"seed": 3407, "work_dir": "./out/adder"},
    "data": {"ndigit": 2},
    "model": {"model_type": "gpt-nano", "n_layer": None, "n_head": None, "n_embd": None, "vocab_size": None},
    "trainer": {"device": "auto", "learning_rate": 0.0005},
}


@pytest.fixture
def adder(shared_checkpoints: Path, tmp_path: Path) -> Path:
    """A trained minGPT as it writes itself: model.pt, and a config.json that is none of GPT-2's."""
    shutil.copy(shared_checkpoints / "mingpt-adder2-christianliu" / "mingpt_model.pt", tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps(MINGPT))
    return tmp_path


def test_mingpts_own_config_is_read(adder: Path) -> None:
    checkpoint = open_checkpoint(adder)
    config = checkpoint.config
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (3, 3, 48, 10)
    assert config.activation_function == "gelu_new" and not config.tie_word_embeddings
    assert checkpoint.facts["n_head"].origin is Origin.CONFIG_JSON
    assert checkpoint.facts["vocab_size"].origin is Origin.TENSORS
    assert checkpoint.assumed == ()


def test_the_adder_adds(adder: Path) -> None:
    """85 + 50 = 135: digits in, the sum's digits out, least significant first."""
    model = GPTModel.from_pretrained(adder)
    ids = [8, 5, 5, 0]
    for _ in range(3):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert ids[4:] == [5, 3, 1]


def test_another_programs_config_never_outranks_the_user(adder: Path) -> None:
    (adder / "config.json").write_text(json.dumps({"system": {}, "data": {}, "optimizer": {}}))
    with pytest.raises(ConfigError, match="does not say its n_head"):
        open_checkpoint(adder)
    checkpoint = open_checkpoint(adder, overrides={"n_head": 3})
    assert checkpoint.facts["n_head"].origin is Origin.USER
    assert checkpoint.notes[0] == (
        "config.json beside the weights was not used, as it is no GPT-2's: it says system, data, optimizer"
    )
    mine = open_checkpoint(adder, overrides={"n_head": 6})
    assert (mine.config.n_head, mine.facts["n_head"].origin) == (6, Origin.USER)


def test_of_a_config_json_everything_is_said(perturbed_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(perturbed_checkpoint, overrides={"layer_norm_epsilon": 1e-6})
    assert {fact.origin for name, fact in checkpoint.facts.items() if name != "layer_norm_epsilon"} == {
        Origin.CONFIG_JSON
    }
    assert checkpoint.facts["layer_norm_epsilon"].origin is Origin.USER
    assert checkpoint.assumed == ()


def _rewritten(checkpoint: Path, folder: Path, change: dict[str, object], dropped: tuple[str, ...] = ()) -> Path:
    """A copy of a checkpoint with another config.json."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    content = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if k not in dropped}))
    return folder


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"activation_function": "NewGELU"}, {"activation_function": "gelu"}),
        ({"n_layer": "12"}, {"n_layer": 12}),
        ({"hidden_size": 7}, {"n_embd": 44}),
        ({"tie_word_embeddings": None}, {"tie_word_embeddings": True}),
        ({"layer_norm_epsilon": 0}, {"layer_norm_epsilon": 1e-6}),
    ],
)
def test_what_the_user_sets_is_not_read_in_the_file(
    perturbed_checkpoint: Path, tmp_path: Path, wrong: dict[str, object], right: dict[str, object]
) -> None:
    folder = _rewritten(perturbed_checkpoint, tmp_path, wrong)
    with pytest.raises(ConfigError):
        open_checkpoint(folder)
    ((name, value),) = right.items()
    assert getattr(open_checkpoint(folder, overrides=right).config, name) == value


def test_what_a_config_json_leaves_out_is_assumed(perturbed_checkpoint: Path, tmp_path: Path) -> None:
    folder = _rewritten(perturbed_checkpoint, tmp_path, {}, ("n_head", "activation_function"))
    with pytest.raises(ConfigError, match="not divisible by n_head 12"):  # GPT2Config's default
        open_checkpoint(folder)
    checkpoint = open_checkpoint(folder, overrides={"n_head": 4})
    assert checkpoint.assumed == ("activation_function gelu_new (config.json leaves it out)",)


def test_a_config_json_without_a_size_leaves_sizes_to_the_tensors(perturbed_checkpoint: Path, tmp_path: Path) -> None:
    folder = _rewritten(perturbed_checkpoint, tmp_path, {})
    (folder / "config.json").write_text('{"model_type": "gpt2", "activation_function": "relu"}')
    with pytest.raises(ConfigError, match="does not say its n_head"):
        open_checkpoint(folder)
    right, opened = open_checkpoint(perturbed_checkpoint).config, open_checkpoint(folder, overrides={"n_head": 4})
    assert (opened.config.n_layer, opened.config.n_embd) == (right.n_layer, right.n_embd)
    assert opened.config.activation_function == "relu"
    assert opened.facts["activation_function"].origin is Origin.CONFIG_JSON


@pytest.fixture
def by_hand(shared_checkpoints: Path) -> tuple[Path, Layout]:
    folder = shared_checkpoints / "gpt-by-hand-sqtian"
    return folder / "ckpt.pt", runpy.run_path(str(folder / "byhand_layout.py"))["LAYOUT"]


def test_gains_named_gamma_are_layer_norms_where_a_layout_says_so(by_hand: tuple[Path, Layout]) -> None:
    path, layout = by_hand
    checkpoint = open_checkpoint(path, file_layout=layout, overrides={"n_head": 2, "activation_function": "gelu"})
    assert verify(GPTModel.from_pretrained(checkpoint), checkpoint, layout="gpt2_from_scratch")


def test_what_a_layout_of_ones_own_leaves_open_is_assumed_by_name(by_hand: tuple[Path, Layout]) -> None:
    path, layout = by_hand
    checkpoint = open_checkpoint(path, file_layout=layout, overrides={"n_head": 2})
    assert "activation_function gelu_new (GPT-2's)" in checkpoint.assumed
    report = GPTModel.from_pretrained(checkpoint).load_report
    assert "assumed, and not said by the file: " in str(report) and "activation_function gelu_new" in str(report)


def test_a_contradiction_names_the_speaker(adder: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_layer is said to be 5, and the tensors show 3\n.*you have set it"):
        open_checkpoint(adder, overrides={"n_layer": 5})
    (adder / "config.json").write_text(json.dumps(MINGPT | {"model": {"model_type": "gpt-mini"}}))
    with pytest.raises(ConfigError, match=r"the tensors show \d+\n.*config.json says so"):
        open_checkpoint(adder)
