"""Files that say little of their model: nanoGPT's, build-nanogpt's, minGPT's, the book's, TransformerLens'.

What such a file says is used, what its tensors show is measured, what is assumed is noted, and what
nobody can know is asked for. The models are other people's styles of GPT-2 with every parameter perturbed; each is
saved as its own scripts do, and the loaded model has to give the logits that it gave itself.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2_from_scratch import CheckpointError, GPTConfig, GPTModel, load_into, open_checkpoint
from gpt2_from_scratch.checkpoint import Container, Located, StoredTensor
from gpt2_from_scratch.errors import ConfigError, FormatError, MappingError
from gpt2_from_scratch.layouts import DETECTABLE, LAYOUTS
from gpt2_from_scratch.loading import Fact, Origin
from gpt2_from_scratch.loading.configuration import infer_config
from gpt2_from_scratch.mapping import Layout, bare, embedding, sizes, write_theirs
from tests.foreign import book, book_fused, mingpt, nanogpt, parallel_heads
from tests.modules import book_config, logits
from tests.perturbed import SIZES

# 12 layers, so that the tenth sorts before the second, heads of 11, and sizes that no official model has.
CONFIG = GPTConfig(**{**SIZES, "n_inner": None}, bos_token_id=None, eos_token_id=None)
V, C, E, H, L = CONFIG.vocab_size, CONFIG.n_positions, CONFIG.n_embd, CONFIG.n_head, CONFIG.n_layer

# Float32 logits around 13 after 12 perturbed layers: 4e-5 from float64 ones. The other GELU moves them by 3e-3 to 9e-3.
NOISE = 0.4
NEAR = 2e-4
FAR = 1e-3

IDS = torch.arange(C - 1).mul(7).remainder(V)[None]
Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(7)


def perturbed(module: Module) -> Module:
    """The module in eval mode, with noise added to every parameter but a bias that must be zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name != "unembed.b_U":
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same_logits(model: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(logits(model, IDS), logits(theirs, IDS), rtol=0, atol=NEAR)


def distance(model: nn.Module, theirs: nn.Module) -> float:
    return float((logits(model, IDS) - logits(theirs, IDS)).abs().max())


def notes(model: GPTModel) -> str:
    return f"{'; '.join(model.load_report.notes)}; {', '.join(model.load_report.assumed)}"


# ----------------------------------------------------------------------------------------------------------- nanoGPT


NANOGPTS_GELU = "nanoGPT's since May 2023; in older ones, and in minGPT, it is gelu_new"
ARGUMENTS = {"n_layer": L, "n_head": H, "n_embd": E, "block_size": C, "bias": True, "vocab_size": V, "dropout": 0.1}


def nano(**settings: Any) -> nanogpt.GPT:
    config = nanogpt.GPTConfig(block_size=C, vocab_size=V, n_layer=L, n_head=H, n_embd=E, **settings)
    return perturbed(nanogpt.GPT(config, all_positions=True))


def nano_checkpoint(model: nn.Module, path: Path, prefix: str = "", **arguments: Any) -> Path:
    """What nanoGPT's train.py writes."""
    return save(
        {
            "model": {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()},
            "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
            "model_args": ARGUMENTS | arguments,
            "iter_num": 2000,
            "best_val_loss": torch.tensor(1.47),
            "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3, "compile": True},
        },
        path,
    )


def test_nanogpt_says_almost_everything(tmp_path: Path) -> None:
    theirs = nano()
    model = GPTModel.from_pretrained(nano_checkpoint(theirs, tmp_path / "ckpt.pt").parent)
    assert model.config == CONFIG.replace(activation_function="gelu", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    assert_same_logits(model, theirs)
    report = model.load_report
    assert (report.form, report.layout) == ("PyTorch zip, nanoGPT checkpoint", "nanogpt")
    assert report.notes == ("left out: best_val_loss, config, iter_num, optimizer",)  # model_args was read
    assert report.assumed == (f"activation_function gelu ({NANOGPTS_GELU})", "layer_norm_epsilon 1e-05")
    assert f"assumed, and not said by the file: {', '.join(report.assumed)}" in str(report)


def test_nanogpts_older_gelu_is_an_override(tmp_path: Path) -> None:
    old = nano(gelu="tanh")
    path = nano_checkpoint(old, tmp_path / "ckpt.pt")
    assert distance(GPTModel.from_pretrained(path), old) > FAR
    model = GPTModel.from_pretrained(path, overrides={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5})
    assert_same_logits(model, old)
    assert model.load_report is not None and model.load_report.assumed == ()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_a_wrappers_prefix_goes_where_the_file_says_whose_it_is(prefix: str, tmp_path: Path) -> None:
    theirs = nano()
    model = GPTModel.from_pretrained(nano_checkpoint(theirs, tmp_path / "ckpt.pt", prefix))
    assert_same_logits(model, theirs)
    assert "taken off every name that has them" in notes(model)


def test_a_wrappers_name_goes_from_those_names_that_have_it(tmp_path: Path) -> None:
    theirs = nano()
    path = nano_checkpoint(theirs, tmp_path / "ckpt.pt", "_orig_mod.")
    content = torch.load(path)
    content["model"]["lm_head.weight"] = content["model"].pop("_orig_mod.lm_head.weight")
    model = GPTModel.from_pretrained(save(content, path))
    assert_same_logits(model, theirs)
    assert "the wrappers' names _orig_mod. taken off every name that has them" in notes(model)


def test_a_bare_state_dict_loses_its_prefix_with_and_without_being_told(tmp_path: Path) -> None:
    theirs = nano()
    state = {f"_orig_mod.{name}": tensor for name, tensor in theirs.state_dict().items()}
    path = save(state, tmp_path / "model.pt")
    said = {"n_head": H, "activation_function": "gelu"}
    assert_same_logits(GPTModel.from_pretrained(path, strip_prefix="_orig_mod.", overrides=said), theirs)
    assert_same_logits(GPTModel.from_pretrained(path, overrides=said), theirs)


def test_nanogpt_without_biases(tmp_path: Path) -> None:
    theirs = nano(bias=False)
    model = GPTModel.from_pretrained(nano_checkpoint(theirs, tmp_path / "ckpt.pt", bias=False))
    assert_same_logits(model, theirs)
    assert len(model.load_report.zeros) == 6 * L + 1


def test_tensors_have_the_last_word_on_what_is_resized(tmp_path: Path) -> None:
    """`crop_block_size` shortens the position table and leaves model_args alone."""
    theirs = nano()
    position = theirs.transformer["wpe"]
    position.weight = nn.Parameter(position.weight[: C - 1].detach().clone())
    model = GPTModel.from_pretrained(nano_checkpoint(theirs, tmp_path / "ckpt.pt", vocab_size=V + 47))
    assert (model.config.n_positions, model.config.vocab_size) == (C - 1, V)
    assert_same_logits(model, theirs)
    assert f"block_size is {C} in the settings, and {C - 1} in the tensors: that is taken" in notes(model)
    assert f"vocab_size is {V + 47} in the settings, and {V} in the tensors: that is taken" in notes(model)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"n_layer": 6}, ConfigError, "n_layer is said to be 6, and the tensors show 12"),
        ({"n_layer": 10**9}, ConfigError, "n_layer is said to be 1000000000, and the tensors show 12"),
        ({"n_embd": 48}, ConfigError, "n_embd is said to be 48, and the tensors show 44"),
        ({"n_head": 5}, ConfigError, "n_embd 44 is not divisible by n_head 5"),
        ({"n_head": -4}, ConfigError, "n_head is -4; it must be at least 1"),
        ({"n_head": "4"}, FormatError, "n_head is a str, not a number of anything"),
        ({"n_head": True}, FormatError, "n_head is a bool, not a number of anything"),
        ({"dropout": [0.1]}, ConfigError, "it must be a number"),
    ],
)
def test_settings_that_contradict_the_tensors(
    arguments: dict[str, Any], kind: type[CheckpointError], text: str, tmp_path: Path
) -> None:
    path = nano_checkpoint(nano(), tmp_path / "ckpt.pt", **arguments)
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_configuration_beside_a_checkpoint_that_has_its_own(tmp_path: Path) -> None:
    theirs = nano()
    nano_checkpoint(theirs, tmp_path / "ckpt.pt")
    settings = CONFIG.replace(activation_function="gelu").to_hf()
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert_same_logits(GPTModel.from_pretrained(tmp_path), theirs)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"n_head": 11}))
    with pytest.raises(ConfigError, match=r"config\.json says n_head 11, and ckpt\.pt itself 4"):
        open_checkpoint(tmp_path)
    assert_same_logits(GPTModel.from_pretrained(tmp_path, overrides={"n_head": H}), theirs)


# ----------------------------------------------------------------------------------------------------- build-nanogpt


class Trap:
    """What a class of the training script must not get to do."""

    def __setstate__(self, state: Mapping[str, object]) -> None:
        raise AssertionError("the file's class was used")


def settings_class(monkeypatch: pytest.MonkeyPatch, name: str = "GPTConfig", **defaults: object) -> type:
    """The dataclass of the script that trains, `__main__`, while the file is written."""
    sizes = {"block_size": C, "vocab_size": V, "n_layer": L, "n_head": H, "n_embd": E}
    fields = [(field, type(value), value) for field, value in (sizes | defaults).items()]
    cls = dataclasses.make_dataclass(name, fields, bases=(Trap,))
    cls.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], name, cls, raising=False)
    return cls


@pytest.mark.parametrize("mmap", [True, False])
def test_build_nanogpt_says_everything_with_a_class(
    mmap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = nano(gelu="tanh")
    settings = settings_class(monkeypatch)()
    content = {"model": theirs.state_dict(), "config": settings, "step": 19072, "val_loss": 3.05}
    path = save(content, tmp_path / "model_19072.pt")
    model = GPTModel.from_pretrained(path, mmap=mmap)
    assert model.config == CONFIG
    assert_same_logits(model, theirs)
    assert model.load_report.form == "PyTorch zip, build-nanogpt checkpoint"
    assert model.load_report.notes == ("left out: step, val_loss",)


def test_a_class_of_nanogpts_says_so_by_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = nano()
    settings = settings_class(monkeypatch, bias=True, dropout=0.0)()
    path = save({"model": theirs.state_dict(), "config": settings}, tmp_path / "model.pt")
    model = GPTModel.from_pretrained(path)
    assert_same_logits(model, theirs)
    assert "activation_function gelu (nanoGPT's since May 2023" in notes(model)


def test_the_class_of_the_settings_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = nano()
    settings = settings_class(monkeypatch, "Settings")()
    path = save({"model": theirs.state_dict(), "config": settings}, tmp_path / "model.pt")
    assert open_checkpoint(path).config.n_head == settings.n_head


# ------------------------------------------------------------------------------------------ files that say nothing


def mini() -> mingpt.GPT:
    return perturbed(mingpt.GPT(mingpt.Config(vocab_size=V, block_size=C, n_layer=L, n_head=H, n_embd=E)))


def bookish(tied: bool, fused: bool = False) -> nn.Module:
    model = perturbed((book_fused if fused else book).GPTModel(book_config(CONFIG)))
    if tied:
        model.out_head.weight.data.copy_(model.tok_emb.weight)  # the same values, in memory of their own
    return model


def test_mingpt_has_a_head_of_its_own_and_the_tanh_gelu(tmp_path: Path) -> None:
    theirs = mini()
    path = save(theirs.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == (
        f"{path} does not say its n_head, and weights do not show it\n"
        "  hint: put the model's config.json beside it, or give n_head (a divisor of n_embd 44): "
        "pass overrides={'n_head': '...'}"
    )
    model = GPTModel.from_pretrained(path, overrides={"n_head": H})
    assert model.config == CONFIG.replace(tie_word_embeddings=False)
    assert_same_logits(model, theirs)
    assert "activation_function gelu_new (minGPT's and makemore's), layer_norm_epsilon 1e-05" in notes(model)
    assert len(model.load_report.ignored) == L


def test_names_that_three_programs_share_do_not_say_the_gelu(tmp_path: Path) -> None:
    theirs = nano()
    path = save(theirs.state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        ConfigError, match=r"n_head \(a divisor of n_embd 44\), activation_function \(gelu or gelu_new\)"
    ):
        open_checkpoint(path)
    with pytest.raises(ConfigError, match=r"does not say its activation_function"):
        open_checkpoint(path, overrides={"n_head": H})
    said = {"n_head": H, "activation_function": "gelu"}
    assert_same_logits(GPTModel.from_pretrained(path, overrides=said), theirs)
    for layout, activation in (("nanogpt", "gelu"), ("mingpt", "gelu_new")):
        config = open_checkpoint(path, file_layout=layout, overrides={"n_head": H}).config
        assert config.activation_function == activation


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_books_file(tied: bool, fused: bool, tmp_path: Path) -> None:
    theirs = bookish(tied, fused)
    path = save({"model_state_dict": theirs.state_dict(), "optimizer_state_dict": {}}, tmp_path / "model.pth")
    model = GPTModel.from_pretrained(path, overrides={"n_head": H})
    assert model.config == CONFIG.replace(tie_word_embeddings=tied)
    assert_same_logits(model, theirs)
    assert "activation_function gelu_new (GPT-2's)" in notes(model)


def test_hugging_faces_file_alone(perturbed_checkpoint: Path, tmp_path: Path) -> None:
    save(load_file(perturbed_checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")
    config = open_checkpoint(perturbed_checkpoint).config
    opened = open_checkpoint(tmp_path, overrides={"n_head": H})
    assert (opened.config.n_inner, opened.config.tie_word_embeddings) == (config.n_inner, True)
    shutil.copy(perturbed_checkpoint / "config.json", tmp_path)
    opened = open_checkpoint(tmp_path)
    assert opened.config == config
    assert opened.notes == ()


def stand_ins(config: GPTConfig, layout: str, head: bool) -> Container:
    """Tensors of any size that take no memory."""
    shapes = {
        name: shape
        for link in LAYOUTS[layout][0].unroll(config)
        for name, shape in zip(link.theirs, link.shapes, strict=True)
        if head or link.tied_to is None
    }
    tensors = {
        name: StoredTensor(shape, torch.float32, lambda shape=shape: torch.zeros(1).expand(shape))
        for name, shape in shapes.items()
    }
    return Container("stand-ins", (), tensors)


STACKED = Layout(
    "stacked",
    (embedding("wte", "E"), embedding("wpe", "P"), bare("h.*.mlp.c_fc", "up[*]", pattern="i o -> o i")),
)
MEASURED = [*(layout for variants in LAYOUTS.values() for layout in variants), STACKED]


@pytest.mark.parametrize("layout", MEASURED, ids=lambda layout: layout.name)
def test_sizes_are_read_off_the_tensors_of_every_layout(layout: Layout) -> None:
    config = CONFIG.replace(n_inner=89)
    shapes = {
        name: shape for link in layout.unroll(config) for name, shape in zip(link.theirs, link.shapes, strict=True)
    }
    found = dict(sizes(layout, shapes))
    heads = found.pop("n_head", None)
    assert found == {"vocab_size": V, "n_positions": C, "n_embd": E, "n_layer": L, "n_inner": 89}
    assert heads == (H if layout.name == "transformer_lens" else None)
    for link in layout.unroll(config):
        if link.canonical in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight"):
            (name,) = link.theirs
            assert sizes(layout, {each: shape for each, shape in shapes.items() if each != name}) is None
            assert sizes(layout, shapes | {name: (*shapes[name], 1)}) is None  # of another rank, no such tensor
            if shapes[name][0] == 1:  # an axis that is always 1
                assert sizes(layout, shapes | {name: (2, *shapes[name][1:])}) is None


@pytest.mark.parametrize("size", ["124M", "355M", "774M", "1558M"])
def test_the_heads_of_official_sizes_are_known(size: str, tmp_path: Path) -> None:
    container = stand_ins(GPTConfig.for_size(size), "huggingface", head=False)
    located = Located("model.pt", tmp_path / "model.pt", tmp_path)
    said = infer_config(located, container, DETECTABLE, {})
    assert said.config == GPTConfig.for_size(size)
    assert said.facts["n_head"] == Fact(said.config.n_head, Origin.ASSUMED, f"the official {size}'s")


def test_a_vocabulary_without_gpt2s_end_of_text_has_no_special_tokens(tmp_path: Path) -> None:
    located = Located("model.pt", tmp_path / "model.pt", tmp_path)
    for size, token in ((50304, 50256), (50257, 50256), (65, None)):
        container = stand_ins(CONFIG.replace(vocab_size=size, n_layer=1), "huggingface", head=False)
        config = infer_config(located, container, DETECTABLE, {"n_head": H}).config
        assert (config.bos_token_id, config.eos_token_id) == (token, token)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"n_heads": H}, "GPTConfig has no field 'n_heads'"),
        ({"n_head": H, "n_layer": 6}, "n_layer is said to be 6, and the tensors show 12"),
        ({"n_head": H, "activation_function": "gleu"}, "activation_function 'gleu' is unknown"),
        ({"n_head": "4"}, "n_head is '4'; it must be an integer"),
    ],
)
def test_overrides_are_checked(overrides: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = save(mini().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(path, overrides=overrides)
    assert text in str(caught.value)


def test_overrides_replace_what_a_configuration_says(perturbed_checkpoint: Path) -> None:
    said = open_checkpoint(perturbed_checkpoint)
    opened = open_checkpoint(perturbed_checkpoint, overrides={"n_head": 11, "activation_function": "relu"})
    assert opened.config == said.config.replace(n_head=11, activation_function="relu")
    assert (said.as_found, opened.as_found) == (True, False)
    given = open_checkpoint(perturbed_checkpoint, config=said.config, overrides={"n_head": 11})
    assert given.config.n_head == 11
    with pytest.raises(ConfigError, match="has no field 'heads'"):
        open_checkpoint(perturbed_checkpoint, overrides={"heads": 11})


# --------------------------------------------------------------------------------------------------- TransformerLens


def lens(tied: bool = False) -> parallel_heads.Transformer:
    config = parallel_heads.Config(V, C, n_layers=L, d_model=E, n_heads=H, d_head=E // H, d_mlp=89)
    model = perturbed(parallel_heads.Transformer(config))
    if tied:
        model.unembed.W_U.data.copy_(model.embed.W_E.t())
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_transformer_lens_shows_its_heads(tied: bool, tmp_path: Path) -> None:
    theirs = lens(tied)
    model = GPTModel.from_pretrained(save(theirs.state_dict(), tmp_path / "model.pt"))
    assert model.config == CONFIG.replace(n_inner=89, tie_word_embeddings=tied)
    assert_same_logits(model, theirs)
    report = model.load_report
    assert (report.layout, len(report.ignored)) == ("transformer_lens", 2 * L)
    assert "n_head" not in notes(model)


def test_weights_enter_transformer_lens(perturbed_checkpoint: Path) -> None:
    theirs = parallel_heads.Transformer(
        parallel_heads.Config(V, C, n_layers=L, d_model=E, n_heads=H, d_head=E // H, d_mlp=89)
    ).eval()
    with torch.no_grad():
        theirs.unembed.b_U.fill_(3.0)  # what was there before must not stay
    report = load_into(theirs, perturbed_checkpoint, layout="transformer_lens")
    assert report.layout == "transformer_lens"
    assert not theirs.unembed.b_U.any()
    assert_same_logits(GPTModel.from_pretrained(perturbed_checkpoint), theirs)


def test_a_bias_that_gpt2_does_not_have_must_be_zero(tmp_path: Path) -> None:
    theirs = lens()
    theirs.unembed.b_U.data[5] = -0.25
    with pytest.raises(MappingError, match=r"GPT-2 has nothing like unembed\.b_U, and it is not zero \(up to 0\.25\)"):
        open_checkpoint(save(theirs.state_dict(), tmp_path / "model.pt"))


def test_folded_layer_norms_are_named(tmp_path: Path) -> None:
    """`HookedTransformer.from_pretrained` does this by default."""
    folded = (".ln1.w", ".ln1.b", ".ln2.w", ".ln2.b", "ln_final.w", "ln_final.b")
    state = {name: tensor for name, tensor in lens().state_dict().items() if not name.endswith(folded)}
    with pytest.raises(MappingError, match=r"missing.*blocks\.\{0\.\.\.11\}\.ln1\.w[^$]*from_pretrained_no_processing"):
        open_checkpoint(save(state, tmp_path / "model.pt"))


def test_heads_that_are_tensors_contradict_an_override(tmp_path: Path) -> None:
    path = save(lens().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="n_head is said to be 2, and the tensors show 4"):
        open_checkpoint(path, overrides={"n_head": 2})


def test_modules_that_only_hold_weights_are_not_compared() -> None:
    sites = dict(LAYOUTS["transformer_lens"][0].sites(CONFIG))
    assert sites["h.3.attn"] == ("blocks.3.attn",)
    assert not {"h.3.attn.c_attn", "h.3.attn.c_proj", "h.3.mlp.c_fc", "h.3.mlp.c_proj"} & sites.keys()
    names = dict(lens().named_modules())
    assert all(name in names for theirs in sites.values() for name in theirs)


# ------------------------------------------------------------------------------------------ other heads, other models


HEADS = {
    "GPT2ForSequenceClassification": {"score.weight": (2, E)},
    "GPT2ForTokenClassification": {"classifier.weight": (5, E), "classifier.bias": (5,)},
    "GPT2ForQuestionAnswering": {"qa_outputs.weight": (2, E), "qa_outputs.bias": (2,)},
    "GPT2DoubleHeadsModel": {
        "multiple_choice_head.summary.weight": (1, E),
        "multiple_choice_head.summary.bias": (1,),
    },
}


@pytest.mark.parametrize("kind", HEADS)
def test_another_head_is_left_out_on_request(kind: str, perturbed_checkpoint: Path, tmp_path: Path) -> None:
    extra = {name: torch.ones(shape) for name, shape in HEADS[kind].items()}
    save_file(load_file(perturbed_checkpoint / "model.safetensors") | extra, tmp_path / "model.safetensors")
    shutil.copy(perturbed_checkpoint / "config.json", tmp_path)
    with pytest.raises(MappingError) as caught:
        open_checkpoint(tmp_path)
    assert f"ignore={tuple(sorted(extra))}" in str(caught.value)
    model = GPTModel.from_pretrained(tmp_path, ignore=tuple(extra))
    assert model.load_report.ignored == dict.fromkeys(extra, "left out on request")
    assert f"{len(extra)} ignored (left out on request)" in str(model.load_report)
    assert distance(model, GPTModel.from_pretrained(perturbed_checkpoint)) == 0


@pytest.mark.parametrize(
    ("ignore", "text"),
    [
        (("scor.weight",), "has no tensor 'scor.weight' to ignore"),
        (("weight",), "has no tensor 'weight' to ignore"),  # whole names
        (("transformer.h.*.ln_1.bias",), "missing (12): transformer.h.{0...11}.ln_1.bias"),
    ],
)
def test_what_is_ignored_is_there_and_no_part_of_gpt2(
    ignore: tuple[str, ...], text: str, perturbed_checkpoint: Path
) -> None:
    with pytest.raises(MappingError) as caught:
        open_checkpoint(perturbed_checkpoint, ignore=ignore)
    assert text in str(caught.value)


def test_near_misses_are_called_by_their_name(shared_checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="RMSNorm, or LayerNorm without biases"):
        open_checkpoint(shared_checkpoints / "negative" / "near_miss_rmsnorm_GPT_by_Hand_ckpt.pt")
    nanochat = {"transformer.wte.weight": torch.zeros(8, 4), "lm_head.weight": torch.zeros(8, 4)}
    nanochat |= {f"transformer.h.0.attn.c_{part}.weight": torch.zeros(4, 4) for part in ("q", "k", "v", "proj")}
    with pytest.raises(MappingError, match=r"of no known layout[^$]*nanochat's model: rotary positions"):
        open_checkpoint(save(nanochat, tmp_path / "model_000000.pt"))
    with pytest.raises(MappingError, match=r"of no known layout: a\.weight\n.*a Layout of your own"):
        open_checkpoint(save({"a.weight": torch.zeros(2, 2)}, tmp_path / "model.pt"))


# ---------------------------------------------------------------------------------------------- real files, and back


ORIGINALS = {
    "mingpt-adder2-christianliu": "mingpt_model.pt",
    "makemore-names-lmj9": "makemore_model.pt",
    "makemore-turkish-vkerem0": "makemore_model.pt",
    "sshleifer-tiny-gpt2": "pytorch_model.bin",
}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ORIGINALS)
def test_real_files_hold_what_their_safetensors_twins_hold(name: str, mmap: bool, shared_checkpoints: Path) -> None:
    twin = open_checkpoint(shared_checkpoints / name)
    original = open_checkpoint(shared_checkpoints / name / ORIGINALS[name], mmap=mmap)
    assert original.config == twin.config
    assert original.tensors.keys() == twin.tensors.keys()
    for tensor in twin.tensors:
        assert torch.equal(original.read(tensor), twin.read(tensor)), tensor


@pytest.mark.parametrize("name", ORIGINALS)
def test_real_files_alone_need_their_heads_and_give_the_published_logits(
    name: str, shared_checkpoints: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(shared_checkpoints / name / ORIGINALS[name], tmp_path))
    published = GPTConfig.from_file(shared_checkpoints / name / "config.json")
    with pytest.raises(ConfigError, match="does not say its n_head, and weights do not show it"):
        open_checkpoint(path)
    model = GPTModel.from_pretrained(path, overrides={"n_head": published.n_head}, dtype=torch.float64)
    compared = ("vocab_size", "n_positions", "n_embd", "n_layer", "inner_dim", "activation_function")
    for field in (*compared, "layer_norm_epsilon", "tie_word_embeddings"):
        assert getattr(model.config, field) == getattr(published, field), field
    for case in json.loads((shared_checkpoints / name / "expected.json").read_text())["computed"]["cases"]:
        last = logits(model, torch.tensor([case["input_ids"]]))[0, -1, :8]
        expected = torch.tensor(case["last_logits_fp64_first8"], dtype=torch.float64)
        torch.testing.assert_close(last, expected, rtol=0, atol=1e-8)  # its digits end at 1e-9


WRITTEN = [(name, n) for name in ("huggingface", "nanogpt", "mingpt", "llms_from_scratch", "transformer_lens")
           for n in range(len(LAYOUTS[name]))]  # fmt: skip


@pytest.mark.parametrize(("name", "variant"), WRITTEN)
@pytest.mark.parametrize("tied", [True, False])
def test_a_state_dict_written_through_a_layout_comes_back_bit_for_bit(
    name: str, variant: int, tied: bool, tmp_path: Path
) -> None:
    config = CONFIG.replace(tie_word_embeddings=tied)
    model = perturbed(GPTModel(config))
    weights: dict[str, Tensor] = dict(model.named_parameters())
    layout = LAYOUTS[name][variant]
    state = {
        their: read().detach().clone() for their, read in write_theirs(layout, config, weights.__getitem__).items()
    }
    path = save(state, tmp_path / "model.pt")
    opened = open_checkpoint(path, file_layout=layout, overrides={"n_head": H, "activation_function": "gelu_new"})
    assert opened.config == config
    assert opened.tensors.keys() == weights.keys()
    for each, weight in weights.items():
        assert torch.equal(opened.read(each), weight), each
