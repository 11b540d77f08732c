"""CTranslate2's files of every version, and hostile ones. Those that CTranslate2 wrote: `tests/test_oracles.py`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2_from_scratch import GPTModel
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.errors import FormatError
from tests.forms import Arrays, ctranslate2_variables, write_ctranslate2
from tests.oracles.source import FILES, SIZES
from tests.oracles.source import weights as drawn


@pytest.fixture
def variables() -> Arrays:
    return ctranslate2_variables(drawn(), SIZES["n_head"])


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("mmap", [True, False])
def test_every_version_gives_the_same_model(version: int, mmap: bool, variables: Arrays, tmp_path: Path) -> None:
    model = GPTModel.from_pretrained(write_ctranslate2(tmp_path / "model.bin", variables, version), mmap=mmap)
    assert (model.config.n_head, model.config.activation_function) == (SIZES["n_head"], "gelu_new")
    expected = drawn()
    found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        step = np.abs(array).max() / 127 if ".mlp." in name and array.ndim == 2 else 0
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=step / 2, err_msg=name)


def test_the_epsilon_is_that_of_the_config_beside_it(variables: Arrays, tmp_path: Path) -> None:
    config = json.loads((FILES / "ctranslate2" / "config.json").read_text()) | {"layer_norm_epsilon": 1e-3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (
        GPTModel.from_pretrained(write_ctranslate2(tmp_path / "model.bin", variables)).config.layer_norm_epsilon == 1e-3
    )


def replaced(**others: np.ndarray) -> Callable[[Arrays], Arrays]:
    return lambda variables: variables | {f"decoder/{name}": array for name, array in others.items()}


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda variables: {each: array for each, array in variables.items() if each != name}


SCALE = "decoder/layer_0/ffn/linear_0/weight_scale"
OTHERS = {
    "norms behind the blocks": (replaced(pre_norm=np.array(0, np.int8)), "is no GPT-2: it sets decoder/pre_norm to 0"),
    "scaled embeddings": (replaced(scale_embeddings=np.array(1, np.int8)), "sets decoder/scale_embeddings to 1"),
    "a window": (replaced(sliding_window=np.array(512, np.int32)), "sets decoder/sliding_window to 512"),
    "an activation of no number": (replaced(activation=np.array(-1, np.int8)), "an activation -1"),
    "integers without a scale": (without(SCALE), "int8 without a scale"),
    "a scale of another length": (lambda v: v | {SCALE: v[SCALE][:3].copy()}, "int8 without a scale"),
    "a name for nothing": (without("decoder/embeddings/weight"), "another name for 'decoder/embeddings/weight'"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_gpt2_is_refused(what: str, variables: Arrays, tmp_path: Path) -> None:
    change, why = OTHERS[what]
    with pytest.raises(FormatError, match=why):
        open_container(write_ctranslate2(tmp_path / "model.bin", change(variables)))


def test_models_of_other_kinds_are_called_by_their_name(variables: Arrays, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is CTranslate2's WhisperSpec"):
        open_container(write_ctranslate2(tmp_path / "model.bin", variables, kind="WhisperSpec"))


def test_a_file_that_is_cut_or_goes_on_is_refused(variables: Arrays, tmp_path: Path) -> None:
    path = write_ctranslate2(tmp_path / "model.bin", variables)
    data = path.read_bytes()
    for changed, why in ((data[:-1], "ends too early"), (data + b"\0", "behind its content"), (data[:99], "too early")):
        path.write_bytes(changed)
        with pytest.raises(FormatError, match=why):
            open_container(path)


def test_an_empty_row_of_zeros_is_zero(tmp_path: Path, variables: Arrays) -> None:
    """CTranslate2 gives such a row the scale 1."""
    weight = variables["decoder/layer_0/ffn/linear_0/weight"].copy()
    weight[0], variables[SCALE][0] = 0, 1
    path = write_ctranslate2(tmp_path / "model.bin", variables | {"decoder/layer_0/ffn/linear_0/weight": weight})
    read = open_container(path).tensors["decoder/layer_0/ffn/linear_0/weight"].read()
    assert read.dtype == torch.float32 and not read[0].any() and bool(read[1:].any())
