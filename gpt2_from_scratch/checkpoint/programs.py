"""Settings each program hard-codes (activation, epsilon, ...): models with other settings cannot be written for it.

Most forms have no place for the activation, the epsilon or the scaling of attention. OpenAI's code, llm.c and llama.cpp
have them in their source. They would load the weights of a model with other settings and compute something else.
"""

from dataclasses import dataclass
from typing import Any

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import ConfigError

# All of them round the same formula; `gelu_fast` rounds sqrt(2/pi) at the eleventh digit, below float32's resolution.
TANH_GELU = ("gelu_new", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh")
_EPSILON = 1e-5
_END_OF_TEXT = 50256  # the last id of GPT-2's vocabulary; nothing is known about another vocabulary


def gpt2_config(*, vocab_size: int, **sizes: int) -> dict[str, Any]:
    """A configuration in config.json's fields: these sizes, and everything else as OpenAI's own code has it.

    Example:
        >>> gpt2_config(vocab_size=50257, n_layer=12)["activation_function"]
        'gelu_new'
    """
    end = _END_OF_TEXT if vocab_size > _END_OF_TEXT else None
    hard_coded = {"activation_function": TANH_GELU[0], "layer_norm_epsilon": _EPSILON, "tie_word_embeddings": True}
    return hard_coded | {"bos_token_id": end, "eos_token_id": end, "vocab_size": vocab_size} | sizes


@dataclass(frozen=True)
class Program:
    """A program that computes GPT-2, and which of a model's settings it can be told.

    Args:
        name: for errors.
        activations: those it computes; by default the tanh GELU only.
        epsilon: whether it takes the LayerNorm epsilon from the file.
        inner: whether it takes the feed-forward width from the file.
        untied: whether it can have a head of its own.
    """

    name: str
    activations: tuple[str, ...] = TANH_GELU
    epsilon: bool = False
    inner: bool = False
    untied: bool = False

    def check(self, config: GPTConfig) -> None:
        """Refuses a model that the program would compute differently.

        Args:
            config: the model's.

        Raises:
            ConfigError: lists everything the program cannot be told.

        Example:
            >>> Program("llm.c").check(GPTConfig(activation_function="relu"))
            Traceback (most recent call last):
            gpt2_from_scratch.errors.ConfigError: llm.c cannot express this model: activation_function 'relu' (it \
computes the tanh GELU)
              hint: choose the form huggingface, which can say all of it
        """
        conflicts = []
        if config.activation_function not in self.activations:
            conflicts.append(f"activation_function {config.activation_function!r} (it computes the tanh GELU)")
        if not config.scale_attn_weights:
            conflicts.append("scale_attn_weights false (it divides scores by the root of the head's width)")
        if config.scale_attn_by_inverse_layer_idx:
            conflicts.append("scale_attn_by_inverse_layer_idx true (it scales all layers alike)")
        if not self.epsilon and config.layer_norm_epsilon != _EPSILON:
            conflicts.append(f"layer_norm_epsilon {config.layer_norm_epsilon:g} (it uses 1e-05)")
        if not self.inner and config.inner_dim != 4 * config.n_embd:
            conflicts.append(f"n_inner {config.inner_dim:,} (it uses 4 * n_embd = {4 * config.n_embd:,})")
        if not self.untied and not config.tie_word_embeddings:
            conflicts.append("a head of its own (it uses the token embedding)")
        if not conflicts:
            return
        message = f"{self.name} cannot express this model: " + "; ".join(conflicts)
        if len(conflicts) > 1 or config.activation_function != "gelu":
            raise ConfigError(message, hint="choose the form huggingface, which can say all of it")
        raise ConfigError(
            message,
            hint="choose the form huggingface, which can say all of it; or take the tanh GELU, another function, "
            "with which the logits are slightly others",
            options={"overrides": {"activation_function": TANH_GELU[0]}},
        )
