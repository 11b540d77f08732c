"""`GPTConfig` reads every GPT-2 `config.json`, writes one that transformers reads, and refuses what it cannot compute.

The idea: heads, activation and epsilon leave no trace in the weights, so whatever this file lets through silently is a
wrong model that loads. Each refusal is tested with its text, because the text is what helps.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2CLS, ACT2FN

from gpt2_from_scratch import layers
from gpt2_from_scratch.config import ACTIVATIONS, GPTConfig, read_json
from gpt2_from_scratch.errors import ConfigError

# Every field of `GPTConfig` at a value of its own, none at its default.
UNUSUAL = GPTConfig(
    vocab_size=211,
    n_positions=37,
    n_embd=44,
    n_layer=13,
    n_head=4,
    n_inner=89,
    activation_function="quick_gelu",
    layer_norm_epsilon=1e-3,
    scale_attn_weights=False,
    scale_attn_by_inverse_layer_idx=True,
    reorder_and_upcast_attn=True,
    tie_word_embeddings=False,
    resid_pdrop=0.17,
    embd_pdrop=0.13,
    attn_pdrop=0.19,
    initializer_range=0.03,
    bos_token_id=7,
    eos_token_id=(11, 5),
    pad_token_id=3,
    extra={"task_specific_params": {"text-generation": {"max_length": 50}}, "use_cache": False},
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# -- There and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GPTConfig(), UNUSUAL], ids=["default", "unusual"])
def test_a_configuration_survives_the_round_trip(config: GPTConfig, tmp_path: Path):
    path = write(tmp_path, json.dumps(config.to_hf()))
    again = GPTConfig.from_file(path)
    assert again == config
    assert again.extra == config.extra  # equality leaves `extra` out: it does not change the model
    assert again.to_hf() == config.to_hf()


def test_the_unusual_configuration_leaves_no_field_at_its_default():
    default = GPTConfig().to_hf()
    assert [name for name, value in UNUSUAL.to_hf().items() if default.get(name, ...) == value] == [
        "architectures",
        "model_type",
    ]


@pytest.mark.parametrize("config", [GPTConfig(), UNUSUAL], ids=["default", "unusual"])
def test_transformers_reads_what_we_write(config: GPTConfig):
    ours, theirs = config.to_hf(), GPT2Config.from_dict(config.to_hf()).to_dict()
    assert {name: theirs[name] for name in ours} == ours


@pytest.mark.parametrize("config", [GPTConfig(), UNUSUAL], ids=["default", "unusual"])
def test_we_read_what_transformers_writes(config: GPTConfig):
    theirs = GPT2Config.from_dict(config.to_hf()).to_dict()
    assert GPTConfig.from_hf(json.loads(json.dumps(theirs))) == config


def test_our_defaults_are_those_of_transformers():
    theirs = GPT2Config().to_dict()
    ours = GPTConfig().to_hf()
    for name in ("architectures", "n_ctx"):  # written for other readers; transformers knows them not
        del ours[name]
    assert {name: theirs[name] for name in ours} == ours


def test_every_field_of_transformers_is_a_field_of_ours_or_changes_no_logit():
    harmless = {  # what each of them says concerns another model class, another library, or no computation at all
        "_name_or_path", "add_cross_attention", "architectures", "chunk_size_feed_forward", "dtype", "id2label",
        "is_encoder_decoder", "label2id", "model_type", "output_attentions", "output_hidden_states", "problem_type",
        "return_dict", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
        "summary_use_proj", "transformers_version", "use_cache",
    }  # fmt: skip
    assert set(GPT2Config().to_dict()) - set(GPTConfig().to_hf()) - harmless == set()


def test_n_ctx_is_written_for_readers_that_need_it():
    assert GPTConfig(n_positions=37).to_hf()["n_ctx"] == 37


def test_a_configuration_can_be_copied_pickled_and_used_as_a_key():
    for again in (copy.deepcopy(UNUSUAL), pickle.loads(pickle.dumps(UNUSUAL))):
        assert again == UNUSUAL
        assert again.extra == UNUSUAL.extra
        assert hash(again) == hash(UNUSUAL)


def test_unknown_harmless_fields_survive():
    config = GPTConfig.from_hf({"model_type": "gpt2", "n_special": 0, "my_note": {"a": [1, None]}})
    assert config.to_hf()["n_special"] == 0
    assert config.to_hf()["my_note"] == {"a": [1, None]}
    assert config == GPTConfig()


# -- Real files ---------------------------------------------------------------------------------------------------


def test_the_official_file(shared_checkpoints: Path):
    path = shared_checkpoints / "gpt2-tokenizer" / "config.json"
    config = GPTConfig.from_file(path)
    assert config == GPTConfig.for_size("124M")
    # What the file says comes back as it stands; what it does not say takes GPT-2's defaults.
    assert json.loads(path.read_text()).items() <= config.to_hf().items()


@pytest.mark.parametrize(
    ("folder", "sizes"),
    [
        ("makemore-names-lmj9", (27, 16, 64, 4, 4, False)),
        ("makemore-turkish-vkerem0", (27, 15, 64, 4, 4, False)),
        ("mingpt-adder2-christianliu", (10, 6, 48, 3, 3, False)),
        ("sshleifer-tiny-gpt2", (50257, 1024, 2, 2, 2, True)),
    ],
)
def test_real_files_mean_what_transformers_reads_in_them(
    shared_checkpoints: Path, folder: str, sizes: tuple[int | bool, ...]
):
    path = shared_checkpoints / folder / "config.json"
    config = GPTConfig.from_file(path)
    found = (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head)
    assert (*found, config.tie_word_embeddings) == sizes
    assert config == GPTConfig.from_hf(GPT2Config.from_pretrained(path.parent).to_dict())


def test_a_near_miss_is_named(shared_checkpoints: Path):
    path = shared_checkpoints / "negative" / "near_miss_TinyPeLLM_config.json"
    with pytest.raises(
        ConfigError, match=r"near_miss.*json describes a 'tiny_pellm' model, not GPT-2\n  hint: this pack"
    ):
        GPTConfig.from_file(path)


def test_an_early_file_without_model_type_is_read():
    """DialoGPT's, as published: eight fields, from before `model_type` was invented."""
    data = {
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": 1024,
        "n_head": 16,
        "n_layer": 24,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    assert GPTConfig.from_hf(data) == GPTConfig.for_size("355M")


# -- Sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "name", "parameters", "tensors"),
    [
        ("124M", "gpt2", 124_439_808, 148),
        ("355M", "gpt2-medium", 354_823_168, 292),
        ("774M", "gpt2-large", 774_030_080, 436),
        ("1558M", "gpt2-xl", 1_557_611_200, 580),
    ],
)
def test_official_sizes(size: str, name: str, parameters: int, tensors: int):
    config = GPTConfig.for_size(size)
    assert config == GPTConfig.for_size(name)
    assert config.num_parameters == parameters
    assert len(config.tensor_shapes()) == tensors
    assert config.head_dim == 64


def test_distilgpt2_has_the_published_number_of_parameters():
    assert GPTConfig(n_layer=6).num_parameters == 81_912_576


@pytest.mark.parametrize("config", [UNUSUAL, UNUSUAL.replace(n_inner=None, tie_word_embeddings=True)])
def test_shapes_and_counts_are_those_of_transformers(config: GPTConfig):
    model = GPT2LMHeadModel(GPT2Config.from_dict(config.to_hf()))
    theirs = {name.removeprefix("transformer."): tuple(p.shape) for name, p in model.named_parameters()}
    assert list(config.tensor_shapes().items()) == list(theirs.items())  # and in the same, execution, order
    assert config.num_parameters == model.num_parameters()


def test_an_unknown_size_is_refused_with_the_list():
    with pytest.raises(ConfigError, match=r"'125M' is not an official GPT-2 size\n  hint: one of: 124M, 355M, 774M"):
        GPTConfig.for_size("125M")


def test_eos_may_be_none_one_or_several():
    assert GPTConfig(eos_token_id=None).eos_token_ids == ()
    assert GPTConfig(eos_token_id=0).eos_token_ids == (0,)
    assert GPTConfig.from_hf({"model_type": "gpt2", "eos_token_id": [3, 1]}).eos_token_ids == (3, 1)


# -- Other names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
)
def test_aliases_are_read_and_the_proper_name_is_written(alias: str, name: str):
    assert GPT2Config.attribute_map[alias] == name
    written = GPTConfig.from_hf({"model_type": "gpt2", alias: 24}).to_hf()
    assert written[name] == 24
    assert alias not in written


def test_two_names_for_one_field_must_agree():
    assert GPTConfig.from_hf({"hidden_size": 96, "n_embd": 96}).n_embd == 96
    with pytest.raises(ConfigError, match=r"config.json gives n_embd twice, as 96 and \(as 'hidden_size'\) 768"):
        GPTConfig.from_hf({"n_embd": 96, "hidden_size": 768})


# -- Refusals -----------------------------------------------------------------------------------------------------


def refusal(**fields: Any) -> str:
    """What a `config.json` that says this is told."""
    with pytest.raises(ConfigError) as caught:
        GPTConfig.from_hf({"model_type": "gpt2", **fields})
    assert caught.value.message.startswith("config.json")  # says where
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"add_cross_attention": True}, "cross-attention is not implemented", "encoder-decoder"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not implemented", "unquantised checkpoint"),
        ({"activation_function": "prelu"}, "'prelu' is not implemented: it has learned parameters", "gelu_new"),
        ({"activation_function": "xielu"}, "'xielu' is not implemented: it has learned parameters", "gelu_new"),
        ({"activation_function": "gelo"}, "activation_function 'gelo' is unknown", "one of: gelu, gelu_10, "),
        ({"activation_function": None}, "activation_function None is unknown", "one of: gelu, gelu_10, "),
        ({"activation_function": ["gelu"]}, "activation_function ['gelu'] is unknown", "one of: gelu, gelu_10, "),
        ({"n_head": 7}, "n_embd 768 is not divisible by n_head 7", "heads of 64"),
        ({"n_head": "12"}, "n_head is '12'; it must be an integer", "without quotes"),
        ({"n_layer": 2.0}, "n_layer is 2.0; it must be an integer", "or a decimal point"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or false", "JSON boolean"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'; it must be a number", "without quotes"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_refusal_names_the_field_the_value_and_the_remedy(fields: dict[str, Any], message: str, hint: str):
    first, second = refusal(**fields).split("\n  hint: ")
    assert message in first
    assert hint in second


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": -4}, "n_head is -4; it must be at least 1"),  # transformers 5.23 loads it
        ({"vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
        ({"n_inner": 0}, "n_inner is 0; it must be at least 1"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0; it must be above 0"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon is -1e-05; it must be above 0"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf; it must be finite"),
        ({"initializer_range": float("nan")}, "initializer_range is nan; it must be finite"),
        ({"attn_pdrop": 1.5}, "attn_pdrop is 1.5; it must be in [0, 1)"),
        ({"attn_pdrop": 10**400}, "attn_pdrop"),  # a JSON integer may be larger than any float
        ({"bos_token_id": 2**63}, "bos_token_id is 9223372036854775808; an id is at most 9223372036854775807"),
        ({"eos_token_id": [3, -2]}, "eos_token_id is -2; it must be at least -1"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str):
    assert message in refusal(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_embd", "768"),
        ("n_layer", 2.0),
        ("n_head", True),
        ("n_head", None),
        ("n_inner", 2.0),
        ("layer_norm_epsilon", "1e-5"),
        ("layer_norm_epsilon", True),
        ("layer_norm_epsilon", None),
        ("initializer_range", "0.02"),
        ("attn_pdrop", "0.1"),
        ("attn_pdrop", True),
        ("attn_pdrop", None),
        ("tie_word_embeddings", "false"),
        ("tie_word_embeddings", 1),
        ("scale_attn_weights", 0),
        ("scale_attn_by_inverse_layer_idx", None),
        ("bos_token_id", True),
        ("pad_token_id", 1.0),
        ("eos_token_id", "50256"),
        ("eos_token_id", 1.0),
        ("eos_token_id", [1, "2"]),
        ("activation_function", None),
        ("activation_function", ["gelu_new"]),
    ],
)
def test_wrong_types_are_refused_as_transformers_5_refuses_them(name: str, value: object):
    with pytest.raises(StrictDataclassError, match=name):
        GPT2Config(**{name: value})
    assert name in refusal(**{name: value})


def test_an_integer_is_a_number():
    """And is written as 1.0, because transformers 5.23 refuses 1 there; 4.57 and 5.0 read both."""
    epsilon = GPTConfig.from_hf({"model_type": "gpt2", "layer_norm_epsilon": 1}).layer_norm_epsilon
    assert json.dumps(epsilon) == "1.0"


@pytest.mark.parametrize("value", [[], "gpt2", 3, None])
def test_what_is_not_an_object_is_refused(value: object, tmp_path: Path):
    path = write(tmp_path, json.dumps(value))
    with pytest.raises(ConfigError, match=rf"config\.json holds a {type(value).__name__}, not a JSON object"):
        GPTConfig.from_file(path)


def test_an_object_that_describes_no_model_is_refused():
    with pytest.raises(
        ConfigError, match=r"not a GPT-2 configuration: it has neither model_type nor any size\n  hint: "
    ):
        GPTConfig.from_hf({"learning_rate": 3e-4, "layer_norm_epsilon": 1e-5})


def test_replace_checks_like_the_constructor_and_knows_its_fields():
    assert UNUSUAL.replace(n_head=11).head_dim == 4
    assert UNUSUAL.replace(n_head=11).extra == UNUSUAL.extra
    with pytest.raises(ConfigError, match="n_embd 44 is not divisible by n_head 5"):
        UNUSUAL.replace(n_head=5)
    with pytest.raises(ConfigError, match=r"GPTConfig has no field 'n_heads'\n  hint: fields: activation_function, "):
        UNUSUAL.replace(n_heads=4)


# -- The file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"n_head": 12, "n_layer": 2, "n_head": 6}', "key 'n_head' appears twice"),
        ('{"n_embd": 768, "task": {"a": 1, "a": 1}}', "key 'a' appears twice"),
        ('{"n_embd": 768, "layer_norm_epsilon": NaN}', "the value NaN is not valid JSON"),
        ('{"n_embd": 768, "attn_pdrop": -Infinity}', "the value -Infinity is not valid JSON"),
        ('{"n_embd": 768', "is not a readable JSON file"),
        ("", "is not a readable JSON file"),
        (b'\xef\xbb\xbf{"n_embd": 768}', "BOM"),  # byte-order mark: transformers does not read it either
        (b'{"n_embd": 768, "note": "\xff"}', "is not a readable JSON file"),
        ("[" * 100_000, "is not a readable JSON file"),  # deeper than Python's stack
        ('{"n_embd": 1' + "0" * 5000 + "}", "is not a readable JSON file"),  # more digits than Python converts
        (" " * 1_000_001, "the file has 1,000,001 bytes, and such a file at most 1,000,000"),
    ],
    ids=["twice", "twice-inside", "nan", "infinity", "cut", "empty", "bom", "not-utf8", "deep", "digits", "large"],
)
def test_json_is_read_strictly(tmp_path: Path, content: str | bytes, message: str):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        GPTConfig.from_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is not a readable JSON file"):
        read_json(tmp_path)  # a folder


# -- Activations --------------------------------------------------------------------------------------------------


def test_every_activation_of_transformers_without_parameters_is_implemented():
    # xielu is not built here: it asks for a CUDA package and warns.
    learned = {name for name in ACT2CLS if name == "xielu" or list(nn.Module.parameters(ACT2FN[name]))}
    assert learned == {"prelu", "xielu"}
    assert set(ACTIVATIONS) == set(layers.ACTIVATIONS) == set(ACT2CLS) - learned
