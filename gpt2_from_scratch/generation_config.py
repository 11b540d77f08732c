"""Reads `generation_config.json`: how the people who published a checkpoint meant it to generate text.

`generate` follows its end-of-text ids, its padding id and its repetition penalty, and warns about other settings that
would change the text.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2_from_scratch.config import LARGEST_ID, read_json
from gpt2_from_scratch.errors import ConfigError

FILE = "generation_config.json"

# Settings of transformers 5 that change the ids it generates and are not implemented here, with the values (beside
# null) that change nothing. `max_length` and the like are missing: how much to generate is for the caller to say.
_NOT_IMPLEMENTED: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "sequence_bias": ({}, []),
    "stop_strings": ([], ""),
    "suppress_tokens": ([],),
    "watermarking_config": (),
}
# These count only where ids are drawn, which the file asks for with `do_sample`.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class GenerationConfig:
    """What a `generation_config.json` says. As in transformers, a setting that it lacks has no value.

    Args:
        eos_token_ids: the ids at which a text ends; empty: none.
        pad_token_id: fills up texts that ended earlier than others; None: the first end-of-text id does.
        repetition_penalty: above 1 makes ids less likely that the text already holds; 1 changes nothing.
        ignored: settings that change what transformers generates and that are not followed here, such as
            ``"no_repeat_ngram_size=2"``.
    """

    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    repetition_penalty: float = 1.0
    ignored: tuple[str, ...] = ()


def read_generation_config(directory: Path) -> GenerationConfig | None:
    """Reads the `generation_config.json` of a folder.

    Args:
        directory: the checkpoint's folder.

    Returns:
        What it says; None if there is no such file.

    Raises:
        ConfigError: it is not a JSON object, or a setting that is followed has a value that makes no sense.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, FILE).write_text('{"eos_token_id": [5, 9], "num_beams": 4}')
        ...     read_generation_config(Path(folder))
        GenerationConfig(eos_token_ids=(5, 9), pad_token_id=None, repetition_penalty=1.0, ignored=('num_beams=4',))
    """
    path = directory / FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {str(content)[:40]}, not a JSON object", hint="delete it to do without it")
    eos, pad, penalty = (content.get(name) for name in ("eos_token_id", "pad_token_id", "repetition_penalty"))
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    return GenerationConfig(
        eos_token_ids=tuple(_token_id(path, "eos_token_id", each) for each in ends),
        pad_token_id=None if pad is None else _token_id(path, "pad_token_id", pad),
        repetition_penalty=1.0 if penalty is None else _penalty(path, penalty),
        ignored=_ignored(content),
    )


def _token_id(path: Path, name: str, value: Any) -> int:
    if type(value) is not int or abs(value) > LARGEST_ID:  # a bool is an int in Python
        raise ConfigError(f"{path}: {name} is {repr(value)[:40]}, not a token id", hint="correct it, or delete it")
    return value


def _penalty(path: Path, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ConfigError(
            f"{path}: repetition_penalty is {repr(value)[:40]}, not a number above 0", hint="correct it, or delete it"
        )
    return float(value)


def _ignored(content: Mapping[str, Any]) -> tuple[str, ...]:
    names = [
        name
        for name, neutral in _NOT_IMPLEMENTED.items()
        if (value := content.get(name)) is not None and value not in neutral
    ]
    if content.get("do_sample"):
        names += ["do_sample", *(name for name in _SAMPLING if content.get(name) is not None)]
    return tuple(f"{name}={json.dumps(content[name])[:40]}" for name in names)
