"""What a form's own program takes for granted: a model that is otherwise cannot be written in that form.

Most forms have no place for the activation, the epsilon or the scaling of attention: OpenAI's code, llm.c and llama.cpp
hold them fixed, and would compute something else from the same weights without a word.
"""

from typing import Any

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import ConfigError

# All of them round the same formula; `gelu_fast` rounds sqrt(2/pi) at the eleventh digit, below float32's resolution.
TANH_GELU = ("gelu_new", "gelu_accurate", "gelu_fast", "gelu_python_tanh", "gelu_pytorch_tanh")
_EPSILON = 1e-5
_END_OF_TEXT = 50256  # the last id of GPT-2's vocabulary; nothing is known about another vocabulary


def gpt2_config(*, vocab_size: int, **sizes: int) -> dict[str, Any]:
    """What a form says of its model, in config.json's fields: these sizes, and all that its program takes for granted.

    Example:
        >>> gpt2_config(vocab_size=50257, n_layer=12)["activation_function"]
        'gelu_new'
    """
    end = _END_OF_TEXT if vocab_size > _END_OF_TEXT else None
    fixed = {"activation_function": TANH_GELU[0], "layer_norm_epsilon": _EPSILON, "tie_word_embeddings": True}
    return fixed | {"bos_token_id": end, "eos_token_id": end, "vocab_size": vocab_size} | sizes


def check_expressible(
    config: GPTConfig, form: str, *, epsilon: bool = False, inner: bool = False, untied: bool = False
) -> None:
    """Refuses a model that the form's program would compute differently.

    Args:
        config: the model's.
        form: the form and its program, for the error.
        epsilon: the form has a place for the LayerNorm epsilon.
        inner: the form has a place for the feed-forward width.
        untied: the form has a place for a head of its own.

    Raises:
        ConfigError: lists everything the form cannot say.

    Example:
        >>> check_expressible(GPTConfig(activation_function="relu"), "llm.c")
        Traceback (most recent call last):
        gpt2_from_scratch.errors.ConfigError: llm.c cannot express this model: activation_function 'relu' (it \
computes the tanh GELU)
          hint: choose the form huggingface, which can say all of it
    """
    conflicts = []
    if config.activation_function not in TANH_GELU:
        conflicts.append(f"activation_function {config.activation_function!r} (it computes the tanh GELU)")
    if not config.scale_attn_weights:
        conflicts.append("scale_attn_weights false (it divides scores by the root of the head's width)")
    if config.scale_attn_by_inverse_layer_idx:
        conflicts.append("scale_attn_by_inverse_layer_idx true (it scales all layers alike)")
    if not epsilon and config.layer_norm_epsilon != _EPSILON:
        conflicts.append(f"layer_norm_epsilon {config.layer_norm_epsilon:g} (it uses 1e-05)")
    if not inner and config.inner_dim != 4 * config.n_embd:
        conflicts.append(f"n_inner {config.inner_dim:,} (it uses 4 * n_embd = {4 * config.n_embd:,})")
    if not untied and not config.tie_word_embeddings:
        conflicts.append("a head of its own (it uses the token embedding)")
    if conflicts:
        raise ConfigError(
            f"{form} cannot express this model: " + "; ".join(conflicts),
            hint="choose the form huggingface, which can say all of it",
        )
