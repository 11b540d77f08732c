"""Tells whether weights are OpenAI's, tensor by tensor, whatever form, names and orientation they come in.

OpenAI's own checkpoint index holds the CRC-32C of each of the 148 tensors of the 124M model. They are compared with the
checksums of a checkpoint's canonical tensors (``[in, out]``, float32), which do not depend on the file's form. Whole
files, of all sizes, are recognised by their length and SHA-256.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.binary import pieces, raw
from gpt2_from_scratch.checkpoint.programs import TANH_GELU
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import listed

# `tensors`: from the index of OpenAI's `model.ckpt`, under canonical names. `files`: from the Hub's pages, and from
# manifests in public repositories; the length of one is not known.
_OFFICIAL = Path(__file__).parent / "official.json"


@dataclass(frozen=True)
class OfficialWeights:
    """How many of the official tensors a checkpoint holds. Truthy when it holds them all; ``str()`` is one line.

    Args:
        equal: tensors that are OpenAI's, bit for bit.
        different: canonical names of those that are not.
        settings: fields of the configuration that change the logits and differ from the official model's.
    """

    equal: tuple[str, ...]
    different: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.different

    def __str__(self) -> str:
        counts = f"{len(self.equal)} of {len(self.equal) + len(self.different)} tensors"
        if not self.equal:
            return f"the size of OpenAI's 124M model, other weights: {counts} are OpenAI's"
        text = f"OpenAI's official 124M weights: {counts}"
        if self.different:
            text += f"; different: {listed(self.different)}"
        if self.settings:
            text += f"; but its configuration is not the official one: {', '.join(self.settings)}"
        return text


def identify(checkpoint: Checkpoint) -> OfficialWeights | None:
    """Compares a checkpoint's tensors with OpenAI's, by their checksums. Reads all of them.

    Args:
        checkpoint: in any form; only float32 can be equal.

    Returns:
        None where the shapes are not those of the official 124M model.

    Example:
        >>> from gpt2_from_scratch.loading import open_checkpoint
        >>> identify(open_checkpoint("tiny")) is None
        True
    """
    return compare_checksums(checkpoint.config, lambda name: crc32c(checkpoint.read(name)))


def compare_checksums(config: GPTConfig, checksum: Callable[[str], int | None]) -> OfficialWeights | None:
    """`identify`, for a caller that has the checksums.

    Args:
        config: of the checkpoint.
        checksum: canonical name -> `crc32c` of the tensor.

    Returns:
        As `identify`.
    """
    official = _table()["tensors"]
    if not is_official_size(config):
        return None
    # The official head is tied, so a stored head is compared with the embedding.
    expected = {name: official.get(name, official["wte.weight"]) for name in config.tensor_shapes()}
    found = {name: checksum(name) for name in expected}
    same = [name for name, crc in expected.items() if found[name] == int(crc, 16)]
    return OfficialWeights(
        tuple(same), tuple(name for name in expected if name not in set(same)), _other_settings(config)
    )


def is_official_size(config: GPTConfig) -> bool:
    """Whether all shapes are those of the official 124M model (a head of its own is allowed)."""
    return config.replace(tie_word_embeddings=True).tensor_shapes() == GPTConfig().tensor_shapes()


def crc32c(tensor: Tensor) -> int | None:
    """CRC-32C of a tensor's bytes in C order; None unless it is float32, for the official numbers are.

    Example:
        >>> hex(crc32c(torch.ones(3)))
        '0xc1d0bf7e'
    """
    if tensor.dtype != torch.float32:
        return None
    crc = 0
    for piece in pieces(tensor):
        crc = google_crc32c.extend(crc, raw(piece).tobytes())
    return crc


def _other_settings(config: GPTConfig) -> tuple[str, ...]:
    official = GPTConfig()
    names = ("n_head", "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
    other = [name for name in names if getattr(config, name) != getattr(official, name)]
    if config.activation_function not in TANH_GELU:
        other.append("activation_function")
    return tuple(f"{name} {getattr(config, name)}" for name in other)


# ----------------------------------------------------------------------------------------------------------- files


def identify_file(path: Path, *, checksum: bool = False) -> str | None:
    """Says whether a file is one of the official ones: by its length, and by its SHA-256 when asked.

    Args:
        path: a weights file under any name.
        checksum: read it all; without it, the answer is only what the length suggests.

    Returns:
        One line, or None: no official file is so long.

    Example:
        >>> identify_file(_OFFICIAL) is None
        True
    """
    size = path.stat().st_size
    of_size = [known for known in _table()["files"] if known["bytes"] == size]
    # The length of one official file is not known; it is looked for by its name.
    candidates = of_size or [k for k in _table()["files"] if k["bytes"] is None and checksum and k["file"] == path.name]
    if not candidates:
        return None
    names = " or ".join(f"{known['model']}'s {known['file']}" for known in candidates)
    if not checksum:
        return f"{path.name} is as long as the official file, {names}; its content was not compared"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for known in candidates:
        if known["sha256"] == digest:
            return f"{path.name} is the official file, {known['model']}'s {known['file']} (SHA-256 {digest[:12]}...)"
    return f"{path.name} is as long as the official file, {names}, and has another content" if of_size else None


@cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(_OFFICIAL.read_text())
    return table
