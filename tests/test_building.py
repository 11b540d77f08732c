"""Constructors of other people are called with the checkpoint's sizes, in their own words."""

from pathlib import Path

import pytest

from gpt2_from_scratch.building import WORDS, load_object, settings_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError
from tests import perturbed
from tests.foreign import STYLES

# Pairwise different sizes, so that no two settings can be taken for each other.
CONFIG = GPTConfig(vocab_size=211, n_positions=67, n_embd=60, n_layer=3, n_head=5, n_inner=180, resid_pdrop=0.25)

# Each file builds a `GPT` that keeps what it was given: (vocabulary, context, width, layers, heads).
SIZES = (211, 67, 60, 3, 5)
KEEP = "self.sizes = (v, c, e, n, h)"

VOCABULARIES = {
    "keyword arguments": f"""
class GPT:
    def __init__(self, vocab_size, d_model=768, n_layers=12, num_heads=12, max_seq_len=1024, dropout=0.1):
        v, c, e, n, h = vocab_size, max_seq_len, d_model, n_layers, num_heads
        {KEEP}
""",
    "a dictionary": f"""
class GPT:
    def __init__(self, cfg):
        v, c, e, n, h = (cfg[k] for k in ("vocab_size", "context_length", "emb_dim", "n_layers", "n_heads"))
        assert cfg["drop_rate"] == 0.25 and cfg["qkv_bias"] is True and cfg.get("flash", 7) == 7
        {KEEP}
""",
    "a dataclass by annotation": f"""
from dataclasses import dataclass

@dataclass
class ModelArgs:
    vocab_size: int = 50257
    block_size: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    flash: bool = False

class GPT:
    def __init__(self, args: ModelArgs):
        assert isinstance(args, ModelArgs)
        v, c, e, n, h = args.vocab_size, args.block_size, args.n_embd, args.n_layer, args.n_head
        {KEEP}
""",
    "a dataclass by default": f"""
from dataclasses import dataclass

@dataclass
class Config:
    vocab: int = 50257
    ctx_len: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12

class GPT:
    def __init__(self, config=Config()):
        v, c, e, n, h = config.vocab, config.ctx_len, config.width, config.depth, config.heads
        {KEEP}
""",
    "a configuration class with keyword arguments": f"""
class GPTConfig:
    embd_pdrop = 0.1
    def __init__(self, vocab_size, block_size, **kwargs):
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_layer, self.n_head, self.n_embd = kwargs["n_layer"], kwargs["n_head"], kwargs.pop("n_embd")

class GPT:
    def __init__(self, config: GPTConfig):
        v, c, e, n, h = config.vocab_size, config.block_size, config.n_embd, config.n_layer, config.n_head
        assert isinstance(config, GPTConfig)
        {KEEP}
""",
    "minGPT's default configuration": f"""
class CfgNode:
    def __init__(self, **kwargs):
        self.__dict__.update(kwargs)

class GPT:
    @staticmethod
    def get_default_config():
        return CfgNode(model_type="gpt", n_layer=None, n_head=None, n_embd=None, vocab_size=None, block_size=None)

    def __init__(self, config):
        assert (config.model_type is None) and config.n_layer is not None
        v, c, e, n, h = config.vocab_size, config.block_size, config.n_embd, config.n_layer, config.n_head
        {KEEP}
""",
    "an argparse namespace": f"""
import argparse

class GPT:
    def __init__(self, args: argparse.Namespace):
        v, c, e, n, h = args.vocab_size, args.seq_length, args.hidden_size, args.num_layers, args.num_attention_heads
        {KEEP}
""",
    "module globals": f"""
block_size = 8
n_embd, n_head = 32, 2
n_layer: int = 1
vocab_size = 65
head_size = n_embd // n_head

class GPT:
    def __init__(self):
        v, c, e, n, h = vocab_size, block_size, n_embd, n_layer, n_head
        assert head_size == 12
        {KEEP}
""",
    "a namespace without annotation, kept and written into": f"""
class GPT:
    def __init__(self, hp):
        hp.head_dim = hp.d_model // hp.n_heads
        assert "n_ctx" in hp and not hasattr(hp, "rotary")
        v, c, e, n, h = hp.vocab_size, hp.n_ctx, hp.d_model, hp.n_layers, hp.n_heads
        assert hp.head_dim == 12 and hp["n_ctx"] == c
        {KEEP}
""",
    "camel case, and a hidden width that is not the model's": f"""
class GPT:
    def __init__(self, vocabSize, maxLen, embedDim, hidden_dim, numLayers, numHeads, *, eps=1.0):
        v, c, e, n, h = vocabSize, maxLen, embedDim, numLayers, numHeads
        assert hidden_dim == 180 and eps == 1e-5
        {KEEP}
""",
    "a hidden width that is the model's": f"""
class GPT:
    def __init__(self, vocab_size, context, hidden_dim, layers, heads):
        v, c, e, n, h = vocab_size, context, hidden_dim, layers, heads
        {KEEP}
""",
    "this package's own configuration": f"""
import beside

class GPT:
    def __init__(self, config):
        v, c, e, n, h = config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head
        assert config.replace(n_layer=1).n_embd == 60
        {KEEP}
""",
    "a function that builds, and prints": f"""
class Net:
    def __init__(self, v, c, e, n, h):
        {KEEP}

def GPT(n_vocab, n_ctx, n_embd, n_layer, n_head):
    print("building")
    return Net(n_vocab, n_ctx, n_embd, n_layer, n_head)
""",
}


# Some settings are asked for when the model runs.
LATE = {
    "an attribute of keyword arguments": """
class GPT:
    def __init__(self, **hparams):
        self.hparams, self.width = hparams, hparams["d_model"]
        self.kept = hparams

    def __call__(self):
        return self.width, self.kept["num_heads"]
""",
    "an object made of keyword arguments": """
from types import SimpleNamespace

class GPT:
    def __init__(self, **hparams):
        self.hp = SimpleNamespace(**hparams)

    def __call__(self):
        return self.hp.d_model, self.hp.num_heads
""",
    "the object itself": """
class GPT:
    def __init__(self, **hparams):
        self.__dict__.update(hparams)

    def __call__(self):
        return self.d_model, self.num_heads
""",
    "a settings object": """
class GPT:
    def __init__(self, cfg):
        self.cfg = cfg

    def __call__(self):
        return self.cfg["d_model"], self.cfg.num_heads
""",
}


def write(folder: Path, text: str, name: str = "their_gpt.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize("style", VOCABULARIES)
def test_a_constructor_is_called_in_its_own_words(style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path, "", "beside.py")  # a file may import its neighbours
    file = write(tmp_path, VOCABULARIES[style])
    loaded = load_object(f"{file}:GPT()", CONFIG)
    assert loaded.object.sizes == SIZES
    assert loaded.built
    told = {str(setting.value) for setting in loaded.settings}
    assert {"211", "67", "60", "3", "5"} <= told  # everything that was set is reported
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("style", LATE)
def test_settings_that_are_read_late_are_given(style: str, tmp_path: Path):
    assert load_object(f"{write(tmp_path, LATE[style])}:GPT", CONFIG).object() == (60, 5)


def test_a_late_question_names_the_key_and_can_be_answered(tmp_path: Path):
    text = "class GPT:\n    def __init__(self, cfg): self.cfg = cfg\n"
    file = write(tmp_path, text + "    def __call__(self): return self.cfg['rotary_pct']\n")
    with pytest.raises(KeyError, match="give it with --config rotary_pct="):
        load_object(f"{file}:GPT", CONFIG).object()
    assert load_object(f"{file}:GPT", CONFIG, settings={"rotary_pct": 0.5}).object() == 0.5


def test_a_class_is_built_like_a_call(tmp_path: Path):
    file = write(tmp_path, VOCABULARIES["a dictionary"])
    assert load_object(f"{file}:GPT", CONFIG).object.sizes == SIZES


def test_an_object_is_used_as_it_is(tmp_path: Path):
    loaded = load_object(f"{write(tmp_path, 'def logits(ids): return ids')}:logits", CONFIG)
    assert (loaded.object("ids"), loaded.built, loaded.settings) == ("ids", False, ())


def test_what_is_not_known_is_asked_for_and_can_be_said(tmp_path: Path):
    file = write(tmp_path, "class GPT:\n    def __init__(self, cfg): self.got = cfg['n_embd'], cfg['rotary_pct']\n")
    with pytest.raises(CandidateError, match=r"'rotary_pct'.*none of GPT-2's settings[^$]*--config rotary_pct="):
        load_object(f"{file}:GPT", CONFIG)
    loaded = load_object(f"{file}:GPT", CONFIG, settings={"rotary_pct": 0.5})
    assert loaded.object.got == (60, 0.5)
    assert any("set by you" in str(setting) for setting in loaded.settings)


def test_several_unknown_arguments_are_asked_for_at_once(tmp_path: Path):
    file = write(tmp_path, "class GPT:\n    def __init__(self, n_embd, tokenizer, rope): pass\n")
    with pytest.raises(CandidateError, match="'tokenizer', 'rope'"):
        load_object(f"{file}:GPT", CONFIG)


def test_a_setting_that_nobody_asked_for_is_refused(tmp_path: Path):
    file = write(tmp_path, VOCABULARIES["a dictionary"])
    with pytest.raises(CandidateError, match="never asked for 'emb_dims'"):
        load_object(f"{file}:GPT", CONFIG, settings={"emb_dims": 3})


def test_a_default_in_the_same_file_is_taken_and_named(tmp_path: Path):
    text = "CFG = {'emb_dim': 1, 'rope': 3}\n"
    text += "class GPT:\n    def __init__(self, cfg): self.got = cfg['emb_dim'], cfg['rope']\n"
    loaded = load_object(f"{write(tmp_path, text)}:GPT", CONFIG)
    assert loaded.object.got == (60, 3)
    assert "rope=3 (from CFG in the same file)" in map(str, loaded.settings)


def test_biases_are_the_checkpoints(tmp_path: Path):
    file = write(tmp_path, "class GPT:\n    def __init__(self, bias): self.bias = bias\n")
    assert load_object(f"{file}:GPT", CONFIG, biases=False).object.bias is False


CRASHES_IN_A_DATACLASS = """from dataclasses import dataclass
@dataclass
class C:
    x: int
    def __post_init__(self): 1 / self.x
def GPT():
    return C(0)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_there_at_all\n", "imports 'not_there_at_all', which is not installed"),
        ("x = 1\nraise RuntimeError('no')\n", r'RuntimeError: no\n +File ".*their_gpt.py", line 2\b'),
        ("def f(:\n", r'SyntaxError: .*\n +File ".*their_gpt.py", line 1\b'),
        ("class GPT:\n    def __init__(self):\n        self.x = missing\n", r'NameError: .*\n +File ".*py", line 3\b'),
        ("class GPT:\n    def __init__(self, cfg):\n        {}['vocab']\n", r'KeyError: [^$]+File ".*py", line 3\b'),
        (
            "from gpt2_from_scratch import GPTConfig\nGPTConfig(n_head=5)\n",
            r'cannot be imported: n_embd .*\n +File ".*their_gpt.py", line 2\b',
        ),
        (
            CRASHES_IN_A_DATACLASS,
            r'ZeroDivisionError: [^$]*line 7, in GPT\n[^\n]*\n  File ".*their_gpt.py", line 5, in __post_init__',
        ),
    ],
)
def test_the_users_own_line_is_named(text: str, message: str, tmp_path: Path):
    with pytest.raises(CandidateError, match=message):
        load_object(f"{write(tmp_path, text)}:GPT()", CONFIG)


def test_a_file_in_a_package_may_import_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "their_package_of_models"
    package.mkdir()
    write(package, "", "__init__.py")
    write(package, "class Block: pass\n", "block.py")
    file = write(package, "from .block import Block\ndef build(): return Block()\n", "gpt.py")
    assert type(load_object(f"{file}:build()").object).__name__ == "Block"
    monkeypatch.chdir(tmp_path)
    assert type(load_object("their_package_of_models.gpt:build()").object).__name__ == "Block"


@pytest.mark.parametrize(
    ("spec", "message"),
    [("gpt.py", "is not FILE.py:OBJECT"), ("missing.py:GPT", "does not exist"), ("{file}:GTP", "it has GPT")],
)
def test_what_is_not_there_is_named(spec: str, message: str, tmp_path: Path):
    file = write(tmp_path, VOCABULARIES["a dictionary"])
    with pytest.raises(CandidateError, match=message):
        load_object(spec.format(file=file), CONFIG)


def test_no_word_stands_for_two_settings():
    words = [word for words in WORDS.values() for word in words.split()]
    assert len(words) == len(set(words))
    assert WORDS.keys() == settings_of(CONFIG, True).keys()


# Words that are not in the table are asked for by their own names: another language, another field, a tokenizer.
ASKED = {
    "german": "'wortschatz', 'laenge', 'breite', 'koepfe', 'schichten'",
    "research_decoder": "'args', 'dictionary'",
    "token_by_token": "'n_steps'",
    "conv1x1": "'n_frames'",
    "wants_tokenizer": "'tokenizer'",
}
MODULES = [name for name, style in STYLES.items() if not style.functions and name not in ASKED]


@pytest.mark.parametrize("name", MODULES)
def test_the_model_of_every_style_is_built_by_its_class_alone(name: str):
    style = STYLES[name]
    config = GPTConfig(vocab_size=211, n_positions=67, n_embd=60, n_layer=3, n_head=5)
    if style.fixed:
        config = GPTConfig(**perturbed.SIZES | {"n_inner": None})
    right = style.build(style.python(), config)
    model = load_object(f"{style.path}:{style.entry}()", config).object
    shapes, expected = ({name: each.shape for name, each in net.named_parameters()} for net in (model, right))
    assert shapes == expected


@pytest.mark.parametrize("name", ASKED)
def test_unknown_names_are_asked_for(name: str):
    style = STYLES[name]
    with pytest.raises(CandidateError, match=ASKED[name]):
        load_object(f"{style.path}:{style.entry}()", CONFIG)


def test_names_in_another_language_can_be_given():
    settings = {"wortschatz": 211, "laenge": 67, "breite": 60, "koepfe": 5, "schichten": 3}
    assert load_object(f"{STYLES['german'].path}:Sprachmodell", CONFIG, settings=settings).built


def test_the_same_object_is_built_again_from_another_source(tmp_path: Path):
    file = write(tmp_path, VOCABULARIES["module globals"])
    loaded = load_object(f"{file}:GPT()", CONFIG)
    assert loaded.file == file
    assert loaded.again is not None
    edited = file.read_text().replace("= (v, c, e, n, h)", "= (h, n, e, c, v)")
    assert loaded.again(edited, CONFIG).sizes == SIZES[::-1]
    assert loaded.again(edited, CONFIG.replace(n_layer=2)).sizes == (5, 2, 60, 67, 211)


def test_letters_alone_are_no_words(tmp_path: Path) -> None:
    """``V`` and ``L`` are sizes beside a word such as ``d_model``. By themselves nobody knows what they are."""
    file = tmp_path / "letters.py"
    file.write_text("class GPT:\n    def __init__(self, V, L): self.sizes = (V, L)\n")
    with pytest.raises(CandidateError, match="asks for 'V', 'L'"):
        load_object(f"{file}:GPT", CONFIG)
    file.write_text("class GPT:\n    def __init__(self, V, L, d_model): self.sizes = (V, L, d_model)\n")
    assert load_object(f"{file}:GPT", CONFIG).object.sizes == (211, 3, 60)
