"""`GPTConfig`: every number that GPT-2's mathematics depends on, under the names of Hugging Face's `config.json`.

A configuration that asks for mathematics this package does not implement is refused, with the name of the field. Every
other field of the file is kept and written back. The number of heads, the activation and the epsilon cannot be seen in
the weights: with a wrong value a model loads without an error and computes something else.

Fields, defaults and aliases follow `GPT2Config` of transformers 4.x and 5.x.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt2_from_scratch.errors import ConfigError

# What `activation_function` may say: every parameter-free entry of transformers' ACT2FN, with its formula.
# `layers.ACTIVATIONS` implements exactly these names (a test compares the two).
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "gelu": "x/2 (1 + erf(x/sqrt 2))",
        "gelu_10": "gelu, clipped to [-10, 10]",
        "gelu_accurate": "tanh GELU",
        "gelu_fast": "tanh GELU with sqrt(2/pi) rounded to 0.7978845608",
        "gelu_new": "tanh GELU: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        "gelu_python": "gelu",
        "gelu_python_tanh": "tanh GELU",
        "gelu_pytorch_tanh": "tanh GELU",
        "hardswish": "x relu6(x + 3)/6",
        "laplace": "(1 + erf((x - 0.707107)/(0.282095 sqrt 2)))/2",
        "leaky_relu": "max(x, 0.01 x)",
        "linear": "x",
        "mish": "x tanh(softplus(x))",
        "quick_gelu": "x sigmoid(1.702 x)",
        "relu": "max(x, 0)",
        "relu2": "max(x, 0)^2",
        "relu6": "min(max(x, 0), 6)",
        "sigmoid": "1/(1 + exp(-x))",
        "silu": "x sigmoid(x)",
        "sqrtsoftplus": "sqrt(softplus(x))",
        "swish": "x sigmoid(x)",
        "tanh": "tanh(x)",
    }
)
# They have parameters, for which GPT-2's layouts have no row.
_LEARNED_ACTIVATIONS = ("prelu", "xielu")

# `GPT2Config.attribute_map`: other names a config.json may use for the same field.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# The official sizes: n_layer, n_embd, n_head (the paper's table 2; the head count from OpenAI's hparams.json).
_SIZES = {
    "124M": (12, 768, 12),
    "355M": (24, 1024, 16),
    "774M": (36, 1280, 20),
    "1558M": (48, 1600, 25),
}
_SIZE_NAMES = {
    "gpt2": "124M",
    "gpt2-small": "124M",
    "gpt2-medium": "355M",
    "gpt2-large": "774M",
    "gpt2-xl": "1558M",
    "1.5B": "1558M",
}

_MAX_CONFIG_BYTES = 1_000_000  # the largest real GPT-2 config.json (with label maps) is under 20 kB
_SIZE_FIELDS = ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")


@dataclass(frozen=True)
class GPTConfig:
    """The hyper-parameters of one GPT-2, named as in `config.json`. The defaults are GPT-2 124M.

    Args:
        vocab_size: number of token ids, ``V``.
        n_positions: context length ``C``: rows of the position embedding.
        n_embd: width ``E`` of the residual stream.
        n_layer: number of transformer blocks ``L``.
        n_head: attention heads ``H``; must divide `n_embd`. Not recoverable from the weights.
        n_inner: width ``F`` of the feed-forward layer; None means ``4 E``.
        activation_function: a key of `ACTIVATIONS`. GPT-2 is ``gelu_new``, the tanh form.
        layer_norm_epsilon: added to the variance, inside the root, in every LayerNorm.
        scale_attn_weights: divide attention scores by ``sqrt(E / H)``.
        scale_attn_by_inverse_layer_idx: divide them by ``layer + 1`` too (stanford-crfm models).
        reorder_and_upcast_attn: scores and softmax in float32 (a change of rounding, not of mathematics).
        tie_word_embeddings: the head's weight *is* the token embedding.
        resid_pdrop: dropout after each attention and feed-forward output projection, in training.
        embd_pdrop: dropout on the sum of the embeddings, in training.
        attn_pdrop: dropout on the attention probabilities, in training.
        initializer_range: standard deviation of freshly initialised weights.
        bos_token_id: start-of-text id, or None.
        eos_token_id: end-of-text id, a tuple of several, or None; generation stops at it.
        pad_token_id: padding id, or None.
        extra: every other field of the file, written back by `to_hf`.

    Raises:
        ConfigError: a value is of the wrong type, out of range, or asks for something not implemented.

    Example:
        >>> GPTConfig().num_parameters
        124439808
        >>> GPTConfig(tie_word_embeddings=False).num_parameters
        163037184
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        """The fields that differ from the defaults, which are GPT-2 124M's."""
        values = [(each.name, getattr(self, each.name), each.default) for each in fields(self) if each.repr]
        return f"GPTConfig({', '.join(f'{name}={value!r}' for name, value, usual in values if value != usual)})"

    def __post_init__(self) -> None:
        for name in _SIZE_FIELDS:
            _check_int(name, getattr(self, name), minimum=1)
        if self.n_inner is not None:
            _check_int("n_inner", self.n_inner, minimum=1)
        for name in ("layer_norm_epsilon", "resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range"):
            _check_float(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in _BOOL_FIELDS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; it must be true or false",
                    hint="write a JSON boolean, without quotes",
                )
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}",
                hint="GPT-2 splits the width evenly over the heads; the official models use heads of 64",
            )
        if not 0 < self.layer_norm_epsilon <= 1:  # it keeps a division from zero; the variance beside it is about 1
            raise ConfigError(f"layer_norm_epsilon is {self.layer_norm_epsilon}; it must be above 0, and at most 1")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        self._check_activation()
        self._check_token_ids()
        object.__setattr__(self, "extra", dict(self.extra))

    def _check_activation(self) -> None:
        name = self.activation_function
        if name in _LEARNED_ACTIVATIONS:
            raise ConfigError(
                f"activation_function {name!r} is not implemented: it has learned parameters, which GPT-2 does not",
                hint="only parameter-free activations are supported: " + ", ".join(ACTIVATIONS),
            )
        if name not in tuple(ACTIVATIONS):  # a JSON list is no key of a mapping
            raise ConfigError(f"activation_function {name!r} is unknown", hint="one of: " + ", ".join(ACTIVATIONS))

    def _check_token_ids(self) -> None:
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        for name in ("bos_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                _check_token_id(name, getattr(self, name))
        for token in self.eos_token_ids:
            _check_token_id("eos_token_id", token)

    @property
    def head_dim(self) -> int:
        """Width ``d = E / H`` of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner_dim(self) -> int:
        """Width ``F`` of the feed-forward layer: `n_inner`, or ``4 E``."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids at which generation stops; empty when there is none."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def num_parameters(self) -> int:
        """Number of distinct parameters; a tied head counts once."""
        e, f = self.n_embd, self.inner_dim
        block = 4 * e * e + 2 * e * f + 9 * e + f
        heads = 1 if self.tie_word_embeddings else 2
        return heads * self.vocab_size * e + self.n_positions * e + self.n_layer * block + 2 * e

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, canonically named and oriented, in execution order.

        Canonical means: Hugging Face's `GPT2Model` names without a prefix, linear weights ``[in, out]``, and
        ``lm_head.weight`` only where the head is not tied.

        Example:
            >>> GPTConfig(n_layer=1).tensor_shapes()["h.0.attn.c_attn.weight"]
            (768, 2304)
        """
        e, f = self.n_embd, self.inner_dim
        block = {
            "ln_1.weight": (e,),
            "ln_1.bias": (e,),
            "attn.c_attn.weight": (e, 3 * e),
            "attn.c_attn.bias": (3 * e,),
            "attn.c_proj.weight": (e, e),
            "attn.c_proj.bias": (e,),
            "ln_2.weight": (e,),
            "ln_2.bias": (e,),
            "mlp.c_fc.weight": (e, f),
            "mlp.c_fc.bias": (f,),
            "mlp.c_proj.weight": (f, e),
            "mlp.c_proj.bias": (e,),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.vocab_size, e),
            "wpe.weight": (self.n_positions, e),
        }
        for layer in range(self.n_layer):
            shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
        shapes |= {"ln_f.weight": (e,), "ln_f.bias": (e,)}
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, e)
        return shapes

    def replace(self, **changes: Any) -> "GPTConfig":
        """A copy with some fields changed, checked like a new one.

        Raises:
            ConfigError: there is no such field, or the changed configuration is not valid.
        """
        check_fields(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def for_size(cls, size: str) -> "GPTConfig":
        """The configuration of an official size: 124M, 355M, 774M, 1558M, or gpt2, gpt2-medium, gpt2-large, gpt2-xl.

        Raises:
            ConfigError: it is none of these.

        Example:
            >>> GPTConfig.for_size("gpt2-xl").num_parameters
            1557611200
        """
        key = _SIZE_NAMES.get(size, size)
        if key not in _SIZES:
            raise ConfigError(f"{size!r} is not an official GPT-2 size", hint="one of: " + ", ".join(_SIZES))
        n_layer, n_embd, n_head = _SIZES[key]
        return cls(n_layer=n_layer, n_embd=n_embd, n_head=n_head)

    @classmethod
    def from_hf(cls, data: Mapping[str, Any], *, where: str = "config.json") -> "GPTConfig":
        """Builds a configuration from the parsed content of a Hugging Face `config.json`.

        Args:
            data: the JSON object. Fields it leaves out take `GPT2Config`'s defaults.
            where: what to call it in an error.

        Raises:
            ConfigError: not a GPT-2 configuration, a malformed value, or something that is not implemented.

        Example:
            >>> GPTConfig.from_hf({"model_type": "gpt2", "hidden_size": 1024, "num_attention_heads": 16}).n_embd
            1024
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} holds a {type(data).__name__}, not a JSON object")
        model_type = data.get("model_type")
        if model_type not in (None, "gpt2"):
            raise ConfigError(
                f"{where} describes a {model_type!r} model, not GPT-2",
                hint="this package loads the GPT-2 architecture only (model_type 'gpt2')",
            )
        given: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in data.items():
            name = field_of(key)
            if name not in _FIELDS:
                extra[key] = value
            elif name in given and given[name] != value:
                raise ConfigError(
                    f"{where} gives {name} twice, as {given[name]!r} and (as {key!r}) {value!r}",
                    hint="remove the wrong one",
                )
            else:
                given[name] = value
        if model_type is None and not gives_a_size(data):
            raise ConfigError(
                f"{where} is not a GPT-2 configuration: it has neither model_type nor any size",
                hint="expected fields such as n_embd, n_layer, n_head, n_positions, vocab_size",
            )
        _refuse_unimplemented(extra, where)
        for derived in ("model_type", "n_ctx", "architectures"):  # written anew by `to_hf`
            extra.pop(derived, None)
        try:
            return cls(**given, extra=extra)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None

    @classmethod
    def from_file(cls, path: Path) -> "GPTConfig":
        """Reads a `config.json`. Duplicate keys, NaN and files over 1 MB are refused.

        Raises:
            ConfigError: unreadable or not a GPT-2 configuration; the message names the file.
        """
        return cls.from_hf(read_json(path), where=str(path))

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json` that transformers loads as this model; the inverse of `from_hf`.

        ``n_ctx`` is written although transformers ignores it: llama.cpp's converter and mlx-lm stop without it.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        if isinstance(self.eos_token_id, tuple):
            fields["eos_token_id"] = list(self.eos_token_id)
        derived = {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_ctx": self.n_positions,
        }
        return dict(sorted({**self.extra, **fields, **derived}.items()))


_FIELDS = frozenset(f.name for f in dataclasses.fields(GPTConfig)) - {"extra"}
_BOOL_FIELDS = tuple(f.name for f in dataclasses.fields(GPTConfig) if f.type is bool)


def gives_a_size(data: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` has a size of GPT-2's, under any of its names.

    Example:
        >>> gives_a_size({"hidden_size": 768}), gives_a_size({"batch_size": 12})
        (True, False)
    """
    return any(field_of(key) in _SIZE_FIELDS for key in data)


def field_of(key: str) -> str:
    """The field that a key of a `config.json` means: ``hidden_size`` is transformers' other name of ``n_embd``."""
    return _ALIASES.get(key, key)


def check_fields(names: Iterable[str]) -> None:
    """Refuses names that are not fields of `GPTConfig`.

    Raises:
        ConfigError: names the unknown ones, and lists the fields.
    """
    if unknown := sorted(set(names) - _FIELDS):
        raise ConfigError(
            f"GPTConfig has no field {', '.join(map(repr, unknown))}",
            hint="fields: " + ", ".join(sorted(_FIELDS)),
        )


def official_size(n_layer: int, n_embd: int) -> str | None:
    """The name of the official size with this depth and width, or None.

    Example:
        >>> official_size(24, 1024)
        '355M'
    """
    return next((name for name, size in _SIZES.items() if size[:2] == (n_layer, n_embd)), None)


def read_json(path: Path, max_bytes: int = _MAX_CONFIG_BYTES) -> Any:
    """Parses a JSON file strictly: no duplicate keys, no NaN or Infinity literals, no more than `max_bytes`.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ConfigError(
                f"the file has {size:,} bytes, and such a file at most {max_bytes:,}", hint="is it the right file?"
            )
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=no_duplicates,
            parse_constant=_no_constants,
            parse_float=_finite,
        )
        if _is_deep(content):
            raise ConfigError(f"its values are nested more than {_DEEPEST} deep")
        return content
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a readable JSON file: {error}", hint="fetch it again, or correct it"
        ) from None


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: refuses a key that appears twice, where Python would take the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)  # one pass: a file may have 100,000 keys
        raise ConfigError(f"key {twice!r} appears twice", hint="remove the wrong one")
    return result


_DEEPEST = 50  # values inside one another; a configuration has three levels, and 900 are more than Python copies


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inside = (list(each.values()) if isinstance(each, dict) else each for each in level)
        level = [part for each in inside if isinstance(each, list) for part in each]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # it could not be written back
        raise ConfigError(f"the number {text:.40} is larger than any float")
    return number


def _no_constants(name: str) -> Any:
    raise ConfigError(f"the value {name} is not valid JSON")


def _refuse_unimplemented(extra: Mapping[str, Any], where: str) -> None:
    if extra.get("add_cross_attention"):
        raise ConfigError(
            f"{where} sets add_cross_attention: cross-attention is not implemented",
            hint="this is the decoder of an encoder-decoder model; GPT-2 language models have it false",
        )
    if extra.get("quantization_config") is not None:
        raise ConfigError(
            f"{where} has a quantization_config: quantised weights are not implemented",
            hint="load the unquantised checkpoint",
        )


def _check_int(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"{name} is {value!r}; it must be an integer", hint="write it without quotes or a decimal point"
        )
    if value > _LARGEST:
        raise ConfigError(f"{name} is a number of more than {len(str(_LARGEST)) - 1} digits, which no size or id is")
    if value < minimum:
        raise ConfigError(f"{name} is {value}; it must be at least {minimum}")


LARGEST_ID = 2**63 - 1  # token ids are int64


def _check_token_id(name: str, value: object) -> None:
    _check_int(name, value, minimum=-1)  # -1: "none" in files of transformers 2 and 3
    if isinstance(value, int) and value > LARGEST_ID:
        raise ConfigError(f"{name} is {str(value)[:40]}; an id is at most {LARGEST_ID}")


_LARGEST = 10**1000  # what is larger cannot be read in an error, and from 4,300 digits on Python does not print it


def _check_float(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; it must be a number", hint="write it without quotes")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer larger than any float
        finite = False
    if not finite:
        raise ConfigError(f"{name} is {str(value)[:40]}; it must be finite")
