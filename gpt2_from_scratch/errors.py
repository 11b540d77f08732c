"""The errors a user can meet: one sentence that says what, where and how much, and a hint that says what to do.

Everything that is wrong with a *file* is a `CheckpointError`; everything that is wrong with a *candidate* (the
user's model under test) is a `CandidateError`; a verdict of "these are not the same numbers" is a `DivergenceError`.
The command line prints ``str(error)`` and nothing else, so the text is the product.
"""


class _Hinted(Exception):
    """Keeps message and hint apart, and joins them in ``str()``."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class CheckpointError(_Hinted, ValueError):
    """A checkpoint cannot be used. Nothing has been loaded, nothing has been written.

    Args:
        message: what is wrong, where, and by how much.
        hint: what to do next; printed on a line of its own.

    Example:
        >>> print(CheckpointError("model.safetensors is empty (0 bytes)", hint="download it again"))
        model.safetensors is empty (0 bytes)
          hint: download it again
    """


class ConfigError(CheckpointError):
    """A configuration is malformed, contradicts the weights, or asks for mathematics this model does not have."""


class FormatError(CheckpointError):
    """The bytes on disk are not what they claim to be: damaged, truncated, hostile, or of another kind."""


class MappingError(CheckpointError):
    """The tensors do not fit the layout: missing, unexpected, misshapen, or claimed twice."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, damaged, or not GPT-2's byte-level BPE."""


class CandidateError(_Hinted, ValueError):
    """The model under test cannot be checked: it crashed, or its output is not logits ``[B, T, V]``."""


class DivergenceError(_Hinted, AssertionError):
    """The model under test was checked, and its numbers are not GPT-2's."""
